"""The plain records that flow through a run. No torch here: worker processes import this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

DType = Literal["float32", "bfloat16"]
"""What a policy computes in."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages to imitate: supervised fine-tuning trains the assistant's turns."""

    messages: tuple[Message, ...]
    source: str
    """Name of the data source, the key of per-source metrics."""
    origin: str
    """Where the row stands, ``file:line``, for errors."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations of which the first is preferred."""

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    source: str
    origin: str


@dataclass(frozen=True, slots=True)
class Check:
    """What to hold a completion against: a verifier's name and what it needs to know."""

    verifier: str
    truth: Any
    """The ground truth, in the form that verifier reads."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question with its checks. It is rendered once and is token ids from then on."""

    id: str
    """Unique in a run and stable between runs: ``source:row``. Sampling noise is keyed by it."""
    source: str
    messages: tuple[Message, ...]
    tokens: tuple[int, ...]
    checks: tuple[Check, ...]


FinishReason = Literal["eos", "stop", "length"]
"""Why a completion ended: its end-of-sequence token, a stop string, or the token limit."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy sampled for a prompt."""

    tokens: tuple[int, ...]
    """Sampled ids, the end-of-sequence token included when there is one."""
    text: str
    """The tokens decoded, without special tokens."""
    logprobs: tuple[float, ...]
    """log p of each token under the sampler, in nats, at the sampling temperature."""
    finish_reason: FinishReason
    version: int
    """Optimizer steps behind the weights that sampled it."""


Status = Literal["scored", "undecided", "invalid"]


@dataclass(frozen=True, slots=True)
class Score:
    """A verdict. Only a `scored` one says anything about the completion."""

    value: float
    """In [0, 1]; 1 is right. Meaningless unless the status is `scored`."""
    status: Status = "scored"
    """`undecided`: no verdict was reached (timeout, crash). `invalid`: the truth is unusable."""
    reason: str = ""
    """What the verifier saw, for people: the answer it extracted, or why there is no verdict."""


@dataclass(frozen=True, slots=True)
class Group:
    """The completions sampled for one prompt, siblings of each other."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    scores: tuple[tuple[Score, ...], ...]
    """For each completion, one score for each of the prompt's checks."""
