"""Whether the engine samples from the policy that the learner trains.

Every ratio of the objective stands on that. At the start of a run the engine answers a few of its
prompts, the canary, and the learner scores the answers: in float32 they agree within 1e-4 nats on
every token, and in bfloat16 their mean gap is at most 1.2 times the learner's own, between
transformers' cached decoding and its full forward on the same tokens. Else nothing is trained. In
later steps a gap that leaves this range is a warning. `cameleer.train.diagnosis` names the cause.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from cameleer.batch import Batch
from cameleer.data.chat import TULU
from cameleer.errors import TrainingError
from cameleer.models import attention
from cameleer.models.attention import Packed, packed_hidden, positions
from cameleer.models.logprobs import forward_logprobs, scaled_logits
from cameleer.rollout.engine import Request, RolloutEngine, Sampling
from cameleer.train import ranks
from cameleer.train.diagnosis import Cause, Evidence, diagnose
from cameleer.train.metrics import engine_metrics
from cameleer.train.torch_learner import TorchLearner, dtype_name
from cameleer.types import Completion, Group, Prompt

FLOAT32_LIMIT = 1e-4
"""Nats that the gap of no token of the canary may reach in float32."""
STEP_LIMIT = 1e-3
"""The same in a step, whose many tokens hold rare ones, which round more."""
FLOOR_FACTOR = 1.2
"""What the mean gap may be of the learner's own, in bfloat16."""

_NUM_PROMPTS = 4
_MAX_TOKENS = 32
_ENOUGH = {"float32": 1, "bfloat16": 512}
"""Tokens of a canary. A ratio of two means of rounding noise needs many to be told from 1."""
_MAX_SIBLINGS = 64
_LONGEST = 256
"""Tokens of a step's completion that are looked at for the cause of a drift."""


@dataclass(frozen=True)
class Answers:
    """Completions, and the prompts as the learner knows them, in pairs."""

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]

    @property
    def lengths(self) -> list[int]:
        return [len(c.tokens) for c in self.completions]

    @property
    def sampler_M(self) -> Tensor:
        return torch.tensor([x for c in self.completions for x in c.logprobs])

    def batch(self, prompts: Sequence[tuple[int, ...]] | None = None) -> Batch:
        """The sequences with the completions masked in, after these prompts or their own."""
        before = prompts or [p.tokens for p in self.prompts]
        pairs = list(zip(before, (c.tokens for c in self.completions), strict=True))
        return Batch(
            tokens_N=torch.tensor([t for p, c in pairs for t in (*p, *c)]),
            lengths_B=torch.tensor([len(p) + len(c) for p, c in pairs]),
            mask_N=torch.tensor([m for p, c in pairs for m in [False] * len(p) + [True] * len(c)]),
        )


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far engine and learner are apart on sampled tokens, in nats, and what is allowed."""

    dtype: str
    num_tokens: int
    mean: float
    max: float
    floor_mean: float | None = None
    """The learner's own gap between decoding and forward; None in float32, which needs none."""
    floor_max: float | None = None
    limit: float = FLOAT32_LIMIT
    """What no token's gap may reach in float32."""

    @property
    def holds(self) -> bool:
        if self.max < self.limit:
            return True
        return self.floor_mean is not None and self.mean <= FLOOR_FACTOR * self.floor_mean

    def append(self, path: Path, step: int) -> None:
        """Add a line of JSON to a run's file: one for each time it started."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **asdict(self)}) + "\n")

    def __str__(self) -> str:
        if self.floor_mean is None:
            return (
                f"max {self.max:.1e} nats on {self.num_tokens} sampled tokens in {self.dtype} "
                f"(limit {self.limit:.0e})"
            )
        return (
            f"mean {self.mean:.1e} nats on {self.num_tokens} sampled tokens in {self.dtype} "
            f"(limit {FLOOR_FACTOR} times the learner's own {self.floor_mean:.1e})"
        )


class Parity:
    """Compares engine and learner at the start of a run, and watches them while it goes on."""

    def __init__(
        self,
        learner: TorchLearner,
        temperature: float,
        say: Callable[[str], None],
        *,
        on_policy: bool = True,
    ) -> None:
        """
        Args:
            say: Shows a warning to the user.
            on_policy: Completions have to come from the newest weights. Else only those that do
                are compared.
        """
        self._on_policy = on_policy
        self._learner = learner
        self._temperature = temperature
        self._say = say
        self._dtype = dtype_name(learner.model)
        self._floor: float | None = None
        self._drifting = False

    def start(
        self, engine: RolloutEngine, prompts: Sequence[Prompt], *, max_tokens: int, seed: int
    ) -> Gap:
        """Compare them on a canary. Raises TrainingError with the likely cause if they disagree."""
        sampling = Sampling(
            # No sequence may be longer than those of the run.
            max_tokens=min(max_tokens, _MAX_TOKENS),
            temperature=self._temperature,
        )
        answers = canary(engine, prompts, sampling, seed=seed, enough=_ENOUGH[self._dtype])
        gap = self._measure(answers)
        if not gap.holds:
            cause = self._diagnose(answers)
            raise TrainingError(
                f"Engine and learner do not sample from the same policy: their log-probabilities "
                f"differ by {gap}. Likely cause: {cause.name}: {cause.hint} Nothing was trained."
            )
        if self._floor is None:
            self._floor = gap.floor_mean
        return gap

    def state(self) -> dict[str, Any]:
        """What `step` goes by besides its arguments, in JSON."""
        return {"floor": self._floor, "drifting": self._drifting}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as where `state` was taken, whatever `start` finds with the weights of now."""
        self._floor, self._drifting = state["floor"], state["drifting"]

    def step(
        self, step: int, groups: Sequence[Group], batch: Batch, version: int
    ) -> dict[str, float]:
        """The metrics of a step that was scored by the learner of a version; warns of a drift.

        A warning comes once, and again after the gap has been in range. A step of one update is
        scored by that update, so that its cause is then looked for with the weights after it.
        """
        metrics = engine_metrics(batch, None if self._on_policy else version)
        if not metrics:
            return {}
        gap = Gap(
            dtype=self._dtype,
            num_tokens=int(batch.mask_N.sum()),
            mean=metrics["engine/logprob_difference_mean"],
            max=metrics["engine/logprob_difference_max"],
            floor_mean=self._floor,
            limit=STEP_LIMIT,
        )
        assert batch.version_N is not None, "the loop assembles completions with their versions"
        stale = self._on_policy and bool((batch.version_N[batch.mask_N] != version).any())
        drifting = stale or not gap.holds
        if drifting and not self._drifting:
            answers = _some(groups, None if self._on_policy else version)
            if self._floor is not None:
                # The floor moves with the policy, so it is measured anew before anything is said.
                gap = self._measure(answers)
                self._floor = gap.floor_mean
                drifting = stale or not gap.holds
            if drifting:
                cause = self._diagnose(answers)
                self._say(
                    f"Step {step}: engine and learner drift apart, by {gap}. Likely cause: "
                    f"{cause.name}: {cause.hint}"
                )
        self._drifting = drifting
        return {**metrics, "engine/drift": float(drifting)}

    def _measure(self, answers: Answers) -> Gap:
        batch = answers.batch()
        scored = self._learner.score("old", batch).old_logprobs_N
        assert scored is not None
        gap_M = (answers.sampler_M - scored[batch.mask_N]).abs()
        gap = Gap(
            dtype=self._dtype,
            num_tokens=len(gap_M),
            mean=float(gap_M.mean()),
            max=float(gap_M.max()),
        )
        if self._dtype == "float32":
            return gap
        floor_M = own_gap(self._learner.model, answers, self._temperature)
        # All ranks have to come to the same verdict.
        mean, highest = ranks.gather((float(floor_M.mean()), float(floor_M.max())))[0]
        return replace(gap, floor_mean=mean, floor_max=highest)

    @torch.no_grad()
    def _diagnose(self, answers: Answers) -> Cause:
        """What the learner's own numbers say about the cause; nothing is asked of the engine."""
        learner, temperature, batch = self._learner, self._temperature, answers.batch()
        device = next(learner.model.parameters()).device

        def logprobs(model: nn.Module, batch: Batch) -> Tensor:
            found = forward_logprobs(model, batch.to(device), temperature).logprobs_N.cpu()
            return found[batch.mask_N]

        def rounding() -> float:
            if self._dtype == "bfloat16":
                return self._floor or float(own_gap(learner.model, answers, temperature).mean())
            with torch.autocast(device.type, torch.bfloat16):
                return float((logprobs(learner.model, batch) - learner_M).abs().mean())

        def from_reference() -> Tensor:
            with learner.reference() as reference:
                return logprobs(reference, batch)

        learner_M = logprobs(learner.model, batch)
        return diagnose(
            Evidence(
                sampler_M=answers.sampler_M,
                learner_M=learner_M,
                tokens_M=batch.tokens_N[batch.mask_N],
                lengths=answers.lengths,
                logits_MV=_logits(learner.model, batch.to(device)).cpu(),
                temperature=temperature,
                versions=frozenset(c.version for c in answers.completions),
                version=learner.version,
                prompts=[
                    (name, functools.partial(logprobs, learner.model, answers.batch(rendered)))
                    for name, rendered in renderings(learner.tokenizer, answers.prompts)
                ],
                reference=from_reference if learner.has_reference else None,
                rounding=rounding,
            )
        )


def canary(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    enough: int,
) -> Answers:
    """What the engine says to a few of the prompts. Every rank asks its own, and has all answers.

    Args:
        enough: Tokens to go on sampling for, siblings of the same prompts; some models say little.
    """
    # Short ones of all over the data: long few-shot prompts would take a CPU minutes.
    chosen = sorted(prompts[:: max(1, len(prompts) // 32)], key=lambda p: len(p.tokens))
    chosen = chosen[: max(_NUM_PROMPTS, ranks.world_size())]
    chosen = chosen * -(-ranks.world_size() // len(chosen))
    asked: list[Prompt] = []
    said: list[Completion] = []
    siblings, missing = 0, enough
    while missing > 0 and siblings < _MAX_SIBLINGS:
        more = range(siblings, siblings + 1 + missing // (len(chosen) * sampling.max_tokens))
        mine = [p for p in chosen[ranks.rank() :: ranks.world_size()] for _ in more]
        samples = [*more] * (len(mine) // len(more))
        requests = [Request(p.id, p.tokens, s) for p, s in zip(mine, samples, strict=True)]
        found = engine.generate(requests, sampling, seed=seed, step=0)
        for pairs in ranks.gather(list(zip(mine, found, strict=True))):
            asked += [prompt for prompt, _ in pairs]
            said += [completion for _, completion in pairs]
        siblings, missing = more.stop, enough - sum(len(c.tokens) for c in said)
    return Answers(tuple(asked), tuple(said))


def renderings(
    tokenizer: Any, prompts: Sequence[Prompt]
) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """Prompts as engines have been seen to render them, by what was done to them."""

    def render(prompt: Prompt, **how: Any) -> tuple[int, ...]:
        ids = tokenizer.apply_chat_template(list(prompt.messages), return_dict=False, **how)
        return tuple(ids)

    def header(prompt: Prompt) -> tuple[int, ...]:
        bare = render(prompt, add_generation_prompt=False)
        return prompt.tokens[len(bare) :] if prompt.tokens[: len(bare)] == bare else ()

    bos = tokenizer.bos_token_id
    ways: dict[str, Callable[[Prompt], tuple[int, ...]]] = {
        "without its generation prompt": lambda p: render(p, add_generation_prompt=False),
        "with its generation prompt twice": lambda p: (*p.tokens, *header(p)),
        "with a BOS token before it": lambda p: (*(() if bos is None else (bos,)), *p.tokens),
        "without its first token": lambda p: p.tokens[1:],
        "in Tulu's chat template": lambda p: render(
            p, add_generation_prompt=True, chat_template=TULU
        ),
        "without a chat template": lambda p: tuple(
            tokenizer.encode("\n".join(m["content"] for m in p.messages))
        ),
    }
    for name, way in ways.items():
        rendered = [way(prompt) for prompt in prompts]
        if all(rendered) and rendered != [p.tokens for p in prompts]:
            yield name, rendered


@torch.no_grad()
def own_gap(model: nn.Module, answers: Answers, temperature: float) -> Tensor:
    """The learner's decode-against-forward gap: what rounding alone does to these tokens. Shape M.

    Both sides are transformers' own, with its SDPA attention and cache, so that no fault of our
    engine is in it.
    """
    device = next(model.parameters()).device
    prompts, lengths = [p.tokens for p in answers.prompts], answers.lengths
    width, rows = max(map(len, prompts)), len(prompts)
    # Prompts end and completions begin in the same column: [ … prompt | completion … ].
    tokens = torch.zeros(rows, width + max(lengths), dtype=torch.long)
    seen = torch.zeros_like(tokens)
    for row, (prompt, completion) in enumerate(zip(prompts, answers.completions, strict=True)):
        tokens[row, width - len(prompt) : width] = torch.tensor(prompt)
        tokens[row, width : width + lengths[row]] = torch.tensor(completion.tokens)
        seen[row, width - len(prompt) :] = 1
    tokens, seen = tokens.to(device), seen.to(device)
    places = (seen.cumsum(1) - 1).clamp(min=0)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    head = model.get_output_embeddings()  # type: ignore[operator]
    body: Any = model.base_model

    def logprobs(hidden: Tensor, column: int) -> Tensor:
        """Of the tokens in a column, from what stands before them."""
        found = scaled_logits(hidden, head, temperature).log_softmax(-1)
        return found.gather(1, tokens[:, column, None]).squeeze(1)

    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    try:
        whole = body(
            input_ids=tokens, attention_mask=seen, position_ids=places, use_cache=False
        ).last_hidden_state
        cache, begin, gaps = DynamicCache(), 0, []
        for end in range(width, tokens.shape[1]):
            hidden = body(
                input_ids=tokens[:, begin:end],
                attention_mask=seen[:, :end],
                position_ids=places[:, begin:end],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            gaps.append((logprobs(hidden, end) - logprobs(whole[:, end - 1], end)).abs())
            begin = end
    finally:
        model.set_attn_implementation(attention.NAME)  # type: ignore[operator]
    return torch.stack(gaps, 1).cpu()[real]


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """Of the masked tokens, at temperature 1, float32. Shape [M, V]: for a handful of tokens."""
    lengths, device = batch.lengths_B.tolist(), batch.tokens_N.device
    hidden_ND = packed_hidden(
        model, batch.tokens_N, positions(lengths, device), Packed(lengths, device)
    )
    head = model.get_output_embeddings()  # type: ignore[operator]
    return scaled_logits(hidden_ND[batch.mask_N.nonzero().squeeze(1) - 1], head, 1.0)


def _some(groups: Sequence[Group], version: int | None) -> Answers:
    """Some of a step's completions (of a version), or their beginnings where they are long."""
    pairs: list[tuple[Prompt, Completion]] = []
    num_tokens = 0
    for group in groups:
        for completion in group.completions:
            if version in (None, completion.version) and num_tokens < _ENOUGH["bfloat16"]:
                start = slice(0, _LONGEST)
                tokens, logprobs = completion.tokens[start], completion.logprobs[start]
                pairs.append((group.prompt, replace(completion, tokens=tokens, logprobs=logprobs)))
                num_tokens += len(tokens)
    return Answers(tuple(p for p, _ in pairs), tuple(c for _, c in pairs))
