"""The loop of SFT, DPO and reward models: items in a fixed order, one optimizer step a batch."""

from __future__ import annotations

from dataclasses import replace

from cameleer.algorithms.normalize import Normalize, sequence_weights
from cameleer.data.prompts import order
from cameleer.train.collect import Clock
from cameleer.train.learner import Sums
from cameleer.train.packing import pack
from cameleer.train.run import Run
from cameleer.train.session import Session


def train_offline(run: Run) -> None:
    """Train on examples until the recipe's last step."""
    for step in run.steps():
        clock = Clock()
        metrics, num_tokens = execute(run, step, clock)
        times = clock.metrics()
        throughput = {"throughput/tokens_per_s": num_tokens / times["time/step"]}
        run.end_step(step, {**metrics, **times, **throughput})


def execute(session: Session, step: int, clock: Clock) -> tuple[dict[str, float], int]:
    """A step's update. Returns its metrics, without times, and its number of tokens."""
    recipe, sums = session.recipe, Sums()
    rows = order(
        len(session.examples), recipe.seed, (step - 1) * recipe.batch_size, recipe.batch_size
    )
    batch = pack([session.examples[i] for i in rows])
    for name in recipe.algorithm.needs:
        with clock.phase("score"):
            batch = session.learner.score(name, batch)
    normalize = Normalize.parse(recipe.normalize)
    batch = replace(
        batch,
        weights_N=normalize.weights(batch, seed=recipe.seed * 1_000_003 + step),
        weights_B=sequence_weights(batch),
    )
    with clock.phase("update"):
        session.update(step, batch, sums)
    session.publish()
    num_tokens = len(batch.tokens_N)
    return {**sums.means(), "length/mean": num_tokens / batch.num_sequences}, num_tokens
