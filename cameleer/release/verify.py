"""That a directory, loaded by plain transformers, is the model that was trained.

The side under test uses transformers alone. The other computes as the learner and the engine do:
packed rows, attention of ours, slots. Both run in float32 on the CPU, one after the other, so that
one copy of the weights is in memory at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cameleer.data import chat
from cameleer.errors import RunError
from cameleer.files import read_json
from cameleer.log import quiet_libraries
from cameleer.models import attention
from cameleer.models.load import load_model, load_tokenizer, without_dropout
from cameleer.models.logprobs import scaled_logits
from cameleer.report.stages import Stage
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.train import rollouts
from cameleer.types import Message

LIMIT = 1e-4
"""How far logits or scores of up to 10 may be apart, and the gap of two that rounding may swap.

Rounding grows with what is rounded: beyond 10 the limit is 1e-5 of the largest. SmolLM2-135M's
logits go up to 40, and with transformers' eager attention they are 1.3e-4 apart in float32 and
float64.
"""
_PLAIN = {"dtype": torch.float32, "attn_implementation": "sdpa", "use_safetensors": True}
_NUM_PROMPTS = 4
_PROMPT_TOKENS = 256
"""Of a longer prompt the end is taken: logits of a whole vocabulary are large."""
_NEW_TOKENS = 32
_QUESTIONS = (
    "What is 2 + 2?",
    "Name three colours, and say what you think of each of them.",
    "Ida has 20 pens , gives away 3 , finds 1 and loses 3 . How many pens does she have ?",
    "Why?",
)
"""Asked where a run has no prompts of its own: equal logits need no particular words."""


@dataclass(frozen=True)
class Verified:
    """What was compared, and how far it was apart."""

    against: str
    """What the directory was held against, for people."""
    num_prompts: int
    num_tokens: int
    difference: float
    """The largest of all logits, or scores of a reward model."""
    limit: float
    """What it had to be below; see `LIMIT`."""
    num_sampled: int = 0
    """Greedy tokens that were equal."""
    num_near_ties: int = 0
    """Samples that were compared up to a near-tie only."""

    def __str__(self) -> str:
        what = "logits" if self.num_sampled else "scores"
        text = (
            f"{what} within {self.difference:.1e} of {self.against} on {self.num_prompts} prompts, "
            f"{self.num_tokens:,} tokens (float32, limit {self.limit:.0e})"
        )
        if not self.num_sampled:
            return text
        ties = f", {self.num_near_ties} up to a near-tie" if self.num_near_ties else ""
        return f"{text}; {self.num_sampled:,} greedy tokens equal{ties}"


def verify_checkpoint(directory: Path, model: Path, stage: Stage | None) -> Verified:
    """Hold an exported directory against a checkpoint's model.

    Args:
        model: The checkpoint's ``model`` directory, or the export itself.
        stage: The run, whose prompts are used.

    Raises RunError where they are not the same model.
    """
    is_same = directory.resolve() == model.resolve()
    against = "its own weights in Cameleer's engine" if is_same else "the checkpoint"
    if not is_same:
        _compare_weights(directory, model)
    with quiet_libraries(), torch.no_grad():
        names = read_json(directory / "config.json").get("architectures") or [""]
        if str(names[0]).endswith("ForSequenceClassification"):
            return _verify_scores(directory, model, against)
        return _verify_policy(directory, model, against, stage)


def _compare_weights(directory: Path, model: Path) -> None:
    """Raises RunError for a tensor whose bits differ: a few prompts would miss a small change."""
    ours, theirs = (_tensors(each) for each in (model, directory))
    if ours.keys() != theirs.keys():
        name = min(ours.keys() ^ theirs.keys())
        raise RunError(
            f"{directory} and the checkpoint do not hold the same tensors: {name} is in one only. "
            "Release it anew from its run."
        )
    for name, path in ours.items():
        with safe_open(path, "pt") as one, safe_open(theirs[name], "pt") as other:
            if not _same_bits(one.get_tensor(name), other.get_tensor(name)):
                raise RunError(
                    f"{directory} does not hold the weights of the checkpoint: {name} differs. Do "
                    "not use it; release it anew from its run."
                )


def _tensors(directory: Path) -> dict[str, Path]:
    """The file of each tensor. Raises RunError where one cannot be read."""
    found: dict[str, Path] = {}
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"Cannot read the weights {path}: {error}. Release anew.") from error
    return found


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    # NaN is not equal to itself, and its bits are.
    return torch.equal(*(each.reshape(-1).view(torch.uint8) for each in (one, other)))


def _verify_policy(directory: Path, model: Path, against: str, stage: Stage | None) -> Verified:
    prompts = _prompts(directory, model, stage)
    ours = load_model(str(model), "float32", "cpu")
    window = getattr(ours.config, "max_position_embeddings", None) or 1 << 30
    room = min(_NEW_TOKENS, window - max(map(len, prompts)))
    expected = _packed_logits(ours, prompts)
    engine = TorchEngine(ours, load_tokenizer(str(model)), num_slots=len(prompts))
    requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
    sampling = Sampling(max_tokens=room, temperature=0.0)
    sampled = [list(c.tokens) for c in engine.generate(requests, sampling, seed=0, step=0)]
    del engine, ours

    plain = _load_plain("AutoModelForCausalLM", directory, **_PLAIN)
    found = [plain(torch.tensor([prompt])).logits[0] for prompt in prompts]
    difference, limit = _largest(expected, found), _limit(expected)
    if not difference <= limit:
        raise RunError(
            f"{directory} is not the model of {against}: loaded by transformers, its logits are up "
            f"to {difference:.2g} apart (limit {limit:.0e}, float32). Do not use it. Look at the "
            "version of transformers, and whether another program wrote into the directory."
        )
    num_equal = num_ties = 0
    for prompt, tokens in zip(prompts, sampled, strict=True):
        equal, is_tie = _same_sample(plain, directory, prompt, tokens, room, limit)
        num_equal += equal
        num_ties += is_tie
    num_tokens = sum(map(len, prompts))
    return Verified(against, len(prompts), num_tokens, difference, limit, num_equal, num_ties)


def _verify_scores(directory: Path, model: Path, against: str) -> Verified:
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(str(model))
    chats = [
        chat.conversation_tokens(tokenizer, _conversation(question))[0] for question in _QUESTIONS
    ]
    ours = AutoModelForSequenceClassification.from_pretrained(
        str(model), dtype=torch.float32, attn_implementation=attention.NAME
    ).eval()
    without_dropout(ours)
    ends = torch.tensor([*itertools.accumulate(map(len, chats))]) - 1
    expected = ours.score(_packed(ours, chats)[ends]).squeeze(1)
    del ours

    plain = _load_plain("AutoModelForSequenceClassification", directory, **_PLAIN)
    alone = torch.stack([plain(torch.tensor([tokens])).logits[0, 0] for tokens in chats])
    difference, limit = _largest([expected], [alone]), _limit([expected])
    pad = plain.config.pad_token_id
    if pad is not None:
        # In a batch transformers looks for the last token that is no padding.
        longest = max(map(len, chats))
        rows = torch.tensor([[*tokens, *[pad] * (longest - len(tokens))] for tokens in chats])
        real = torch.tensor([[i < len(tokens) for i in range(longest)] for tokens in chats])
        together = plain(rows, attention_mask=real.long()).logits[:, 0]
        difference = _largest([expected, expected], [alone, together])
    if not difference <= limit:
        raise RunError(
            f"{directory} is not the reward model of {against}: loaded by transformers, its scores "
            f"are up to {difference:.2g} apart (limit {limit:.0e}, float32). If its pad token is "
            "its end-of-sequence token, transformers reads the score before it: train with a pad "
            "token of its own."
        )
    return Verified(against, len(chats), sum(map(len, chats)), difference, limit)


def _prompts(directory: Path, model: Path, stage: Stage | None) -> list[tuple[int, ...]]:
    """A few of the run's, as token ids. Raises RunError where the two templates differ."""
    ours, plain = load_tokenizer(str(model)), _load_plain("AutoTokenizer", directory)
    questions = list(dict.fromkeys(line["prompt"] for line in stage.samples)) if stage else []
    rendered = []
    for question in (questions or _QUESTIONS)[:_NUM_PROMPTS]:
        asked = _conversation(question)[:1]
        tokens = chat.prompt_tokens(ours, asked)
        theirs = plain.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        if list(tokens) != list(theirs):
            raise RunError(
                f"{directory} renders the question {question[:60]!r} to other tokens than the "
                "checkpoint's tokenizer does. Do not use it: look at its tokenizer files."
            )
        rendered.append(tokens)
    found = list(_sampled_prompts(stage)) or rendered
    return [prompt[-_PROMPT_TOKENS:] for prompt in found]


def _sampled_prompts(stage: Stage | None) -> Iterator[tuple[int, ...]]:
    """The shortest of the newest step's."""
    paths = sorted((stage.directory / "rollouts").glob("step_*.parquet")) if stage else []
    if paths:
        rows = rollouts.read_rows(paths[-1])
        asked = {tuple(row["prompt_tokens"]) for row in rows}
        yield from sorted(asked, key=lambda tokens: (len(tokens), tokens))[:_NUM_PROMPTS]


def _conversation(question: str) -> list[Message]:
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "I do not know."},
    ]


def _packed(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Hidden states of all rows as one, as the learner has them."""
    lengths = [len(row) for row in rows]
    tokens_N = torch.tensor([token for row in rows for token in row])
    layout = attention.Packed(lengths)
    return attention.packed_hidden(model, tokens_N, attention.positions(lengths), layout)


def _packed_logits(model: Any, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    hidden_ND = _packed(model, prompts)
    logits = scaled_logits(hidden_ND, model.get_output_embeddings(), 1.0)
    return list(logits.split([len(prompt) for prompt in prompts]))


def _load_plain(kind: str, directory: Path, **options: Any) -> Any:
    """What a user of the directory gets. Raises RunError where transformers cannot load it."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(str(directory), **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        why = str(error).strip().split("\n")[0]
        raise RunError(
            f"transformers cannot load {directory} by {kind}: {why}. Release it anew from its run."
        ) from error


def _largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """NaN where anything is no number, or the vocabularies differ."""
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("nan")
    # max() of Python would drop a NaN.
    apart = [(a - b).abs().max() for a, b in zip(ours, theirs, strict=True)]
    return float(torch.stack(apart).max())


def _limit(values: Sequence[Tensor]) -> float:
    largest = max(float(each.abs().max()) for each in values)
    return LIMIT * max(1.0, largest / 10)


def _same_sample(
    plain: Any,
    directory: Path,
    prompt: Sequence[int],
    tokens: Sequence[int],
    room: int,
    limit: float,
) -> tuple[int, bool]:
    """How many greedy tokens agree, and whether a near-tie ended the comparison.

    Raises RunError where the engine and transformers' generate part for another reason.
    """
    row = torch.tensor([list(prompt)])
    found = plain.generate(
        row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=room
    )[0, len(prompt) :].tolist()
    if found == list(tokens):
        return len(found), False
    pairs = zip(found, tokens, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(tokens)))
    logits = plain(torch.tensor([[*prompt, *tokens[:place]]])).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    if place < min(len(found), len(tokens)) and first - second < limit:
        return place, True
    raise RunError(
        f"{directory} answers otherwise than Cameleer's engine from token {place + 1} on, though "
        f"greedily: {found[place : place + 4]} and {list(tokens[place : place + 4])}. Do not use "
        "it: look at eos_token_id in its generation_config.json, and at its weights."
    )
