"""The loop of reinforcement learning: collect, compare, update, publish."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from cameleer.algorithms.normalize import Normalize
from cameleer.batch import Batch
from cameleer.data.prompts import order
from cameleer.errors import TrainingError
from cameleer.train.collect import Clock, assemble, collect, has_contrast
from cameleer.train.learner import Sums
from cameleer.train.metrics import rollout_metrics
from cameleer.train.run import Run
from cameleer.train.session import Session
from cameleer.types import Group, Prompt


def train_online(run: Run) -> None:
    """Train from rollouts until the recipe's last step."""
    recipe, rollout = run.recipe, run.recipe.rollout
    assert rollout is not None
    for step in run.steps():
        clock = Clock()
        for wanted in range(step, min(step + rollout.max_staleness, recipe.num_steps) + 1):
            if wanted not in run.ahead:
                run.ahead[wanted] = collect_step(run, wanted, clock)
        groups = run.ahead.pop(step)
        metrics = execute(run, step, groups, clock)
        times = clock.metrics()
        num_tokens = sum(
            len(g.prompt.tokens) + len(c.tokens) for g in groups for c in g.completions
        )
        metrics |= {**times, "throughput/tokens_per_s": num_tokens / times["time/step"]}
        if "time/rollout" in times:
            sampled = sum(len(c.tokens) for g in groups for c in g.completions)
            metrics["throughput/sampled_tokens_per_s"] = sampled / times["time/rollout"]
        run.end_step(step, metrics)


def collect_step(session: Session, step: int, clock: Clock) -> list[Group]:
    """Sample and score the groups of a step with the policy of now.

    Groups without contrast stay among them, and those sampled in their stead come after.
    """
    recipe, rollout = session.recipe, session.recipe.rollout
    assert rollout is not None

    def groups_of(prompts: list[Prompt]) -> list[Group]:
        return collect(
            session.engine,
            session.pool,
            prompts,
            session.sampling,
            group_size=rollout.group_size,
            seed=recipe.seed,
            step=step,
            clock=clock,
        )

    asked = step_prompts(session.prompts, rollout.num_prompts, recipe.seed, step)
    groups = groups_of(asked)
    others = other_prompts(session.prompts, asked, recipe.seed, step)
    for _ in range(rollout.max_refills):
        useful = sum(has_contrast(group, recipe.reward) for group in groups)
        more = list(itertools.islice(others, rollout.num_prompts - useful))
        if not more:
            break
        groups += groups_of(more)
    return groups


def execute(session: Session, step: int, groups: Sequence[Group], clock: Clock) -> dict[str, float]:
    """All that a step makes of its groups. Returns its metrics, without times.

    Raises TrainingError where no completion reached a verdict, or an update failed.
    """
    recipe, algorithm = session.recipe, session.recipe.algorithm
    batch, sums, version = assemble(groups, recipe.reward), Sums(), session.learner.version
    assert batch.scored_B is not None
    if not batch.scored_B.any():
        verdicts = [s for g in groups for several in g.scores for s in several]
        reason = next(s.reason for s in verdicts if s.status != "scored")
        raise TrainingError(
            f"Step {step}: none of {batch.num_sequences} completions reached a verdict (the "
            f"first: {reason}). Mend the verifier, then go on with --resume."
        )
    from_model: dict[str, float] = {}
    if session.reward_model is not None:
        without_eos = recipe.reward.without_eos
        batch, from_model = session.reward_model.add(batch, groups, without_eos)
    # The only update of a step starts from the policy that "old" would be. An actor-critic's
    # advantages read it nevertheless.
    needs_old = recipe.num_minibatches * recipe.num_epochs > 1 or "value" in algorithm.needs
    with clock.phase("score"):
        for name in algorithm.needs:
            if name != "old" or needs_old:
                batch = session.learner.score(name, batch)
        if needs_old:
            engine = session.compare_engine(step, groups, batch, version)
    batch = algorithm.advantages(batch)
    session.keep_rollouts(step, groups, batch)
    learned = without_left_out(batch)
    normalize = Normalize.parse(recipe.normalize)
    with clock.phase("update"):
        for epoch in range(recipe.num_epochs):
            seed = _seed(recipe.seed, step, epoch)
            parts = minibatches(learned, recipe.num_minibatches, recipe.split, seed)
            for part, minibatch in enumerate(parts):
                weights_N = normalize.weights(minibatch, seed=seed + part)
                logprobs_N = session.update(step, replace(minibatch, weights_N=weights_N), sums)
    if not needs_old:
        learned = replace(learned, old_logprobs_N=logprobs_N)
        engine = session.compare_engine(step, groups, learned, version)
    session.publish()
    found = {**rollout_metrics(groups, batch), **from_model, **sums.means(), **engine}
    if recipe.rollout and recipe.rollout.max_refills:
        found["groups/refilled"] = len(groups) - recipe.rollout.num_prompts
    return found


def step_prompts(prompts: tuple[Prompt, ...], count: int, seed: int, step: int) -> list[Prompt]:
    """The prompts of a step (the first is 1), a function of seed and step alone."""
    return [prompts[i] for i in order(len(prompts), seed, (step - 1) * count, count)]


def other_prompts(
    prompts: tuple[Prompt, ...], asked: Sequence[Prompt], seed: int, step: int
) -> Iterator[Prompt]:
    """All prompts that a step has not asked, in an order of the step's own."""
    known = {prompt.id for prompt in asked}
    for i in order(len(prompts), _seed(seed, step, epoch=0), 0, len(prompts)):
        if prompts[i].id not in known:
            yield prompts[i]


def without_left_out(batch: Batch) -> Batch:
    """Without what the algorithm leaves out, unless that is everything: nobody computes it."""
    if batch.left_out_B is None or batch.left_out_B.all():
        return batch
    kept = batch.select((~batch.left_out_B).nonzero().squeeze(1))
    assert kept.group_B is not None
    return replace(kept, group_B=kept.group_B.unique(return_inverse=True)[1])


def minibatches(batch: Batch, count: int, split: str, seed: int) -> Iterator[Batch]:
    """The batch in `count` parts of like size, or as many as it can give, drawn by the seed.

    Args:
        split: "group" keeps siblings together; "sequence" permutes all sequences, as the published
            Tulu 3.1 run did.
    """
    if count == 1:
        yield batch
        return
    generator = torch.Generator().manual_seed(seed)
    if split == "sequence":
        order_B = torch.randperm(batch.num_sequences, generator=generator)
        for rows in order_B.tensor_split(count):
            if len(rows):
                yield batch.select(rows)
        return
    assert batch.group_B is not None
    order_P = torch.randperm(int(batch.group_B.max()) + 1, generator=generator)
    for members in order_P.tensor_split(count):
        if len(members):
            yield batch.select(torch.isin(batch.group_B, members).nonzero().squeeze(1))


def _seed(seed: int, step: int, epoch: int) -> int:
    """Distinct for every pass; minibatches within one add their number."""
    return ((seed * 1_000_003 + step) * 1_009 + epoch * 97) % (1 << 63)
