"""Why an engine's log-probabilities are not the learner's: known faults, tried one by one.

A fault is named when the learner, made to repeat it, comes out at the engine's numbers. What no
fault explains is rounding where it has the size of rounding, and other weights where it has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Name = Literal[
    "one-token shift", "temperature", "truncation", "template", "stale weights", "precision"
]

_EXPLAINED = 0.2
"""An explanation has to leave at most so much of the mean gap."""
_ROUNDING = 4.0
"""Unexplained gaps of up to so many times what bfloat16 does are put down to rounding."""
_TEMPERATURES = torch.logspace(-1, 1, 41, dtype=torch.float64).tolist()
_MASSES = [*(i / 100 for i in range(5, 100)), 0.995, 0.999]
_LARGEST_K = 1000


class Cause(NamedTuple):
    """What most likely keeps engine and learner apart, and what to look at."""

    name: Name
    hint: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the causes are told apart by. M tokens of all completions, end to end."""

    sampler_M: Tensor
    """The engine's log-probabilities, float32 as all of these."""
    learner_M: Tensor
    tokens_M: Tensor
    lengths: Sequence[int]
    """Tokens of each completion; they sum to M."""
    logits_MV: Tensor
    """The learner's at temperature 1, for each token."""
    temperature: float
    """The learner's."""
    versions: frozenset[int]
    """Optimizer steps behind the weights that the engine says it sampled with."""
    version: int
    """The learner's."""
    prompts: Sequence[tuple[str, Callable[[], Tensor]]]
    """Other renderings of the prompts, and the learner's log-probabilities after them."""
    reference: Callable[[], Tensor] | None
    """The log-probabilities of the weights that the run started from, where they are at hand."""
    rounding: Callable[[], float]
    """Mean gap, in nats, that bfloat16 makes on these tokens."""


class _Explanation(NamedTuple):
    cause: Cause
    residual: float
    """Mean gap that is left once the learner repeats the fault, in nats."""


def diagnose(evidence: Evidence) -> Cause:
    """The likeliest cause of the gap between `sampler_M` and `learner_M`."""
    stale = sorted(evidence.versions - {evidence.version})
    if stale:
        return Cause(
            "stale weights",
            f"the engine sampled with the weights after {stale[0]} updates, and the learner has "
            f"made {evidence.version}. Look at what publishes weights to the engine.",
        )
    gap = _gap(evidence.sampler_M, evidence.learner_M)
    best = min(_explanations(evidence), key=lambda found: found.residual)
    if best.residual <= _EXPLAINED * gap:
        return best.cause
    if gap <= _ROUNDING * evidence.rounding():
        return Cause(
            "precision",
            "the gap has the size of bfloat16's rounding and no pattern. The engine computes in "
            "less precision than the learner, or its weights are some small updates old.",
        )
    return Cause(
        "stale weights",
        "neither a shift, nor a temperature, nor top-p, nor another rendering of the prompt "
        "explains it, so the engine's weights are most likely not the learner's. Look at what "
        "publishes weights to the engine.",
    )


def _explanations(evidence: Evidence) -> Iterator[_Explanation]:
    yield _shift(evidence)
    yield _temperature(evidence)
    yield _truncation(evidence)
    sampler_M = evidence.sampler_M
    for rendering, logprobs in evidence.prompts:
        yield _Explanation(
            Cause(
                "template",
                f"the engine's numbers are those after the prompt {rendering}. Give it token ids, "
                "and let it render nothing.",
            ),
            _gap(sampler_M, logprobs()),
        )
    if evidence.reference is not None:
        yield _Explanation(
            Cause(
                "stale weights",
                "the engine's numbers are those of the weights that the run started from. Look at "
                "what publishes weights to the engine.",
            ),
            _gap(sampler_M, evidence.reference()),
        )


def _shift(evidence: Evidence) -> _Explanation:
    """The engine's number belongs to the token before or after."""
    found = []
    for by, where in ((1, "after"), (-1, "before")):
        pairs = []
        for sampler, learner in zip(
            evidence.sampler_M.split(list(evidence.lengths)),
            evidence.learner_M.split(list(evidence.lengths)),
            strict=True,
        ):
            ours, theirs = (sampler, learner) if by > 0 else (learner, sampler)
            pairs.append((ours[:-1] - theirs[1:]).abs())
        left = torch.cat(pairs)
        cause = Cause(
            "one-token shift",
            f"the engine's log-probability of a token is the learner's of the token {where} it. "
            "Look at how the engine's log-probabilities are cut from its answer.",
        )
        found.append(_Explanation(cause, float(left.mean()) if len(left) else torch.inf))
    return min(found, key=lambda explanation: explanation.residual)


def _temperature(evidence: Evidence) -> _Explanation:
    """The engine divides its logits by something else."""

    def residual(temperature: float) -> float:
        logits = evidence.logits_MV / temperature
        chosen = logits.gather(1, evidence.tokens_M[:, None]).squeeze(1)
        return _gap(evidence.sampler_M, chosen - logits.logsumexp(-1))

    best = min(_TEMPERATURES, key=residual)
    # Golden section between the neighbours of the best of the grid.
    low, high = best / 1.1221, best * 1.1221
    for _ in range(16):
        inner, outer = high - (high - low) * 0.618, low + (high - low) * 0.618
        if residual(inner) < residual(outer):
            high = outer
        else:
            low = inner
    fitted = min((low + high) / 2, 1.0, key=residual)
    hint = (
        f"the engine's log-probabilities are those at temperature {fitted:.3g}, and the learner's "
        f"at {evidence.temperature:.3g}. Let the engine report them after the division by the "
        "temperature."
    )
    return _Explanation(Cause("temperature", hint), residual(fitted))


def _truncation(evidence: Evidence) -> _Explanation:
    """The engine keeps the likeliest tokens only, and reports log p minus log of the mass kept."""
    ordered_MV = (
        (evidence.logits_MV / evidence.temperature).softmax(-1).sort(-1, descending=True).values
    )
    kept_MV = ordered_MV.cumsum(-1)
    last = kept_MV.shape[1] - 1

    def residual(count_M: Tensor) -> float:
        mass_M = kept_MV.gather(1, (count_M - 1).clamp(0, last)[:, None]).squeeze(1)
        return _gap(evidence.sampler_M, evidence.learner_M - mass_M.log())

    def few(label: str, value: float, count_M: Tensor) -> tuple[float, str]:
        return residual(count_M), f"{label} {value:g}"

    ones_M = torch.ones_like(evidence.tokens_M)
    peak_M1 = ordered_MV[:, :1]
    tried = [few("top-k", k, ones_M * k) for k in range(1, min(_LARGEST_K, last) + 1)]
    tried += [few("top-p", p, (kept_MV < p).sum(-1) + 1) for p in _MASSES]
    tried += [few("min-p", p, (ordered_MV >= p * peak_M1).sum(-1)) for p in _MASSES]
    left, what = min(tried)
    hint = (
        f"the engine samples from part of the distribution, as {what} would: its probabilities "
        "are the learner's over the mass it keeps, and every ratio would be off by that. Set it "
        "to sample from all tokens."
    )
    return _Explanation(Cause("truncation", hint), left)


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())
