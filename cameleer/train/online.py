"""The loop of reinforcement learning: collect, compare, update, publish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from cameleer.algorithms.normalize import Normalize
from cameleer.batch import Batch
from cameleer.data.prompts import order
from cameleer.errors import TrainingError
from cameleer.rollout.engine import Sampling
from cameleer.train.collect import Clock, assemble, collect
from cameleer.train.learner import Sums
from cameleer.train.metrics import rollout_metrics
from cameleer.train.run import Run
from cameleer.types import Prompt


def train_online(run: Run) -> None:
    """Train from rollouts until the recipe's last step."""
    recipe, rollout, algorithm = run.recipe, run.recipe.rollout, run.recipe.algorithm
    assert rollout is not None
    normalize = Normalize.parse(recipe.normalize)
    sampling = Sampling(
        max_tokens=rollout.max_tokens, temperature=rollout.temperature, stop=rollout.stop
    )
    for step in run.steps():
        clock, sums = Clock(), Sums()
        groups = collect(
            run.engine,
            run.pool,
            step_prompts(run.prompts, rollout.num_prompts, recipe.seed, step),
            sampling,
            group_size=rollout.group_size,
            seed=recipe.seed,
            step=step,
            clock=clock,
        )
        batch = assemble(groups, recipe.reward)
        assert batch.scored_B is not None
        if not batch.scored_B.any():
            verdicts = [s for g in groups for several in g.scores for s in several]
            reason = next(s.reason for s in verdicts if s.status != "scored")
            raise TrainingError(
                f"Step {step}: none of {batch.num_sequences} completions reached a verdict (the "
                f"first: {reason}). Mend the verifier, then go on with --resume."
            )
        with clock.phase("score"):
            for name in algorithm.needs:
                batch = run.learner.score(name, batch)
            engine_metrics = run.parity.step(step, groups, batch)
        batch = algorithm.advantages(batch)
        with clock.phase("update"):
            for epoch in range(recipe.num_epochs):
                seed = _seed(recipe.seed, step, epoch)
                for part, minibatch in enumerate(
                    minibatches(batch, recipe.num_minibatches, recipe.split, seed)
                ):
                    weights_N = normalize.weights(minibatch, seed=seed + part)
                    run.update(step, replace(minibatch, weights_N=weights_N), sums)
        run.engine.load(version=run.learner.version)

        sampled = int(batch.mask_N.sum())
        times = clock.metrics()
        metrics = {
            **rollout_metrics(groups, batch),
            **sums.means(),
            **engine_metrics,
            **times,
            "throughput/tokens_per_s": len(batch.tokens_N) / times["time/step"],
            "throughput/sampled_tokens_per_s": sampled / times["time/rollout"],
        }
        run.end_step(step, metrics, groups, batch)


def step_prompts(prompts: tuple[Prompt, ...], count: int, seed: int, step: int) -> list[Prompt]:
    """The prompts of a step (the first is 1), a function of seed and step alone."""
    return [prompts[i] for i in order(len(prompts), seed, (step - 1) * count, count)]


def minibatches(batch: Batch, count: int, split: str, seed: int) -> Iterator[Batch]:
    """The batch in `count` parts of like size, drawn by the seed.

    Args:
        split: "group" keeps siblings together; "sequence" permutes all sequences, as the published
            Tulu 3.1 run did.
    """
    generator = torch.Generator().manual_seed(seed)
    if split == "sequence":
        order_B = torch.randperm(batch.num_sequences, generator=generator)
        for rows in order_B.tensor_split(count):
            yield batch.select(rows)
        return
    assert batch.group_B is not None
    order_P = torch.randperm(int(batch.group_B.max()) + 1, generator=generator)
    for members in order_P.tensor_split(count):
        yield batch.select(torch.isin(batch.group_B, members).nonzero().squeeze(1))


def _seed(seed: int, step: int, epoch: int) -> int:
    """Distinct for every pass; minibatches within one add their number."""
    return (seed * 1_000_003 + step) * 1_009 + epoch * 97
