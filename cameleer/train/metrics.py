"""What a step is judged by, from its groups and its batch. Docs: docs/metrics.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from cameleer.batch import Batch
from cameleer.types import Group


def rollout_metrics(groups: Sequence[Group], batch: Batch) -> dict[str, float]:
    """Rewards, verdicts, lengths and endings, in all and by source."""
    assert batch.rewards_B is not None and batch.scored_B is not None
    rewards, scored = batch.rewards_B.tolist(), batch.scored_B.tolist()
    completions = [c for group in groups for c in group.completions]
    scores = [s for group in groups for s in group.scores]
    sources = [group.prompt.source for group in groups for _ in group.completions]
    lengths = [len(c.tokens) for c in completions]

    found: dict[str, float] = {}
    by_source: dict[str, list[tuple[float, bool | None]]] = defaultdict(list)
    for reward, several, source, valid in zip(rewards, scores, sources, scored, strict=True):
        if valid:
            # Without checks there is nothing to be right about.
            right = all(s.value >= 1 for s in several) if several else None
            by_source[source].append((reward, right))
    everything = [pair for pairs in by_source.values() for pair in pairs]
    for name, pairs in {"": everything, **by_source}.items():
        suffix = f"/{name}" if name else ""
        if pairs:
            found[f"reward/mean{suffix}"] = _mean(reward for reward, _ in pairs)
        if checked := [right for _, right in pairs if right is not None]:
            found[f"verifiable_rate{suffix}"] = _mean(checked)
    found["reward/std"] = _std([reward for reward, _ in everything])

    found |= _group_metrics(groups, rewards, scored)
    if batch.values_N is not None and batch.returns_N is not None:
        values, returns = (x[batch.learned_N].double() for x in (batch.values_N, batch.returns_N))
        if len(returns) > 1 and float(returns.var()) > 0:
            left = (returns - values).var() / returns.var()
            found["value/explained_variance"] = float(1 - left)
    found["length/mean"], found["length/max"] = _mean(lengths), max(lengths)
    found["length/prompt_mean"] = _mean(len(group.prompt.tokens) for group in groups)
    for reason in ("eos", "stop", "length"):
        found[f"finish/{reason}"] = _mean(c.finish_reason == reason for c in completions)
    verdicts = [s for several in scores for s in several]
    for status in ("scored", "undecided", "invalid"):
        found[f"status/{status}"] = sum(s.status == status for s in verdicts)
    return found


def engine_metrics(batch: Batch, version: int | None = None) -> dict[str, float]:
    """How far the engine's log-probabilities are from the learner's, on the sampled tokens.

    Args:
        version: Only tokens that the weights of this version sampled are compared; None compares
            all. Of older weights the policies differ, and nothing need be wrong. Where no tokens
            are left there are no metrics.
    """
    if batch.old_logprobs_N is None or batch.sampler_logprobs_N is None:
        return {}
    mask_N = batch.mask_N
    if version is not None and batch.version_N is not None:
        mask_N = mask_N & (batch.version_N == version)
    if not mask_N.any():
        return {}
    log_ratio = (batch.old_logprobs_N - batch.sampler_logprobs_N)[mask_N].double()
    gap = log_ratio.abs()
    return {
        "engine/logprob_difference_mean": float(gap.mean()),
        "engine/logprob_difference_max": float(gap.max()),
        # k3 of http://joschu.net/blog/kl-approx.html, of tokens that the engine sampled.
        "engine/kl": float((log_ratio.expm1() - log_ratio).mean()),
        "engine/ratio": float(log_ratio.exp().mean()),
        "engine/probability_error": float(gap.exp().mean()),
    }


def _group_metrics(
    groups: Sequence[Group], rewards: Sequence[float], scored: Sequence[bool]
) -> dict[str, float]:
    """Share of groups that teach nothing, since all siblings have the same reward."""
    if all(len(group.completions) == 1 for group in groups):
        return {}
    same = right = wrong = start = 0
    for group in groups:
        members = range(start, start + len(group.completions))
        start = members.stop
        values = [rewards[i] for i in members if scored[i]]
        if len(set(values)) > 1:
            continue
        same += 1
        if values and group.prompt.checks:
            verdicts = [group.scores[i - members.start] for i in members if scored[i]]
            right += all(s.value >= 1 for several in verdicts for s in several)
            wrong += all(s.value == 0 for several in verdicts for s in several)
    return {
        "groups/zero_variance": same / len(groups),
        "groups/all_right": right / len(groups),
        "groups/all_wrong": wrong / len(groups),
    }


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _std(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    mean = _mean(values)
    return float(_mean((v - mean) ** 2 for v in values) ** 0.5)
