"""Rows of the known formats, made into prompts with checks and conversations to imitate."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np

from cameleer.data.chat import conversation_tokens, prompt_tokens
from cameleer.data.sources import Row, Source, read_rows
from cameleer.errors import DataError, ModelError
from cameleer.types import Check, Conversation, Message, Prompt


@dataclass(frozen=True)
class Prompts:
    """The prompts of a recipe, and what became of those that are not among them."""

    prompts: tuple[Prompt, ...]
    too_long: int
    """Dropped: longer than the limit of prompt tokens."""


@dataclass(frozen=True)
class Example:
    """A conversation as token ids, with the tokens to train."""

    tokens: tuple[int, ...]
    mask: tuple[bool, ...]
    source: str


@dataclass(frozen=True)
class Examples:
    """What a recipe without rollouts learns from, and what became of the other rows."""

    items: list[tuple[Example, ...]]
    """One sequence each, or two: the chosen and the rejected of a pair."""
    truncated: int = 0
    """Items of which a sequence was longer than the limit, and was cut."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows left out, by reason."""

    @property
    def sequences(self) -> list[Example]:
        return [example for item in self.items for example in item]


def load_prompts(
    sources: Sequence[Source],
    tokenizer: Any,
    *,
    max_tokens: int,
    origins: dict[str, str] | None = None,
) -> Prompts:
    """Read, check and render the prompts of all sources.

    Args:
        max_tokens: Longer prompts are dropped and counted.
        origins: Filled with ``prompt id: file:line``, for errors found later.
    """
    kept: list[Prompt] = []
    too_long = 0
    for number, source in enumerate(sources):
        for index, row in enumerate(read_rows(source)):
            messages, checks, name = _question(row, source)
            with naming(row):
                tokens = prompt_tokens(tokenizer, messages)
            if len(tokens) > max_tokens:
                too_long += 1
                continue
            # The number keeps two sources of the same name apart.
            prompt_id = f"{name}/{number}:{index}" if len(sources) > 1 else f"{name}:{index}"
            kept.append(Prompt(prompt_id, name, messages, tokens, checks))
            if origins is not None:
                origins[prompt_id] = row.origin
    if not kept:
        raise DataError(
            f"No prompt is left: all {too_long} have more than {max_tokens} tokens. Raise "
            "rollout.max_prompt_tokens, or set few_shot=False on the sources."
        )
    return Prompts(tuple(kept), too_long)


def load_examples(sources: Sequence[Source], tokenizer: Any, *, max_tokens: int) -> Examples:
    """Read and render the conversations of all sources; longer ones are cut at `max_tokens`.

    Conversations of which nothing is left to train are dropped and counted, as in Tulu 3's filter.
    """
    items: list[tuple[Example, ...]] = []
    truncated = without_answer = 0
    for source in sources:
        for row in read_rows(source):
            conversation = _conversation(row, source)
            with naming(row):
                tokens, mask = conversation_tokens(tokenizer, conversation.messages)
            truncated += len(tokens) > max_tokens
            tokens, mask = tokens[:max_tokens], mask[:max_tokens]
            if any(mask):
                items.append((Example(tokens, mask, conversation.source),))
            else:
                without_answer += 1
    if not items:
        raise DataError("No conversation has an assistant turn to train within the length limit.")
    dropped = {"nothing to train within the length limit": without_answer} if without_answer else {}
    return Examples(items, truncated, dropped)


def order(count: int, seed: int, start: int, length: int) -> list[int]:
    """Which of `count` rows stand at places `start` to `start + length` of an endless shuffle.

    Each pass through the rows has a permutation of its own; nothing is dropped at its end. A pure
    function, so the place is all that a resume has to know.
    """
    rows = []
    for place in range(start, start + length):
        epoch, within = divmod(place, count)
        rows.append(int(_permutation(count, seed, epoch)[within]))
    return rows


def check_truths(
    prompts: Sequence[Prompt], verifiers: dict[str, Any], origins: dict[str, str]
) -> None:
    """Raises DataError where a prompt names an unknown verifier or a truth cannot be read."""
    unknown = Counter(
        name for prompt in prompts for name in {c.verifier for c in prompt.checks} - set(verifiers)
    )
    for name, count in unknown.most_common(1):
        raise DataError(
            f"{count:,} of {len(prompts):,} prompts name the verifier '{name}', which the recipe "
            f"does not have (it has {', '.join(sorted(verifiers)) or 'none'}). Add it to "
            "`verifiers`, or drop these rows."
        )
    unreadable = []
    for prompt in prompts:
        for check in prompt.checks:
            problem = verifiers[check.verifier].validate(check.truth)
            if problem:
                unreadable.append((prompt, check, problem))
    if unreadable:
        prompt, check, problem = unreadable[0]
        raise DataError(
            f"{len(unreadable):,} of {len(prompts):,} ground truths cannot be read. The first is "
            f"{origins.get(prompt.id, prompt.id)}, {check.verifier}: {str(check.truth)[:80]!r} "
            f"({problem}). Nothing could ever be right there; mend or drop these rows."
        )


@functools.cache
def few_shot_prefix(format: str) -> str:
    """Worked examples before the question, in the layout of the published RLVR prompts.

    One user turn of ``Question: …`` and ``Answer:…`` with no blank after the colon, as
    allenai/open-instruct's create_ground_truth_data.py wrote it; MATH without Minerva's closing
    sentence.
    """
    file, question, answer = {
        "gsm8k": ("gsm8k_8.json", "question", "answer"),
        "math": ("minerva_math_4.json", "problem", "solution"),
    }[format]
    text = resources.files("cameleer.data").joinpath("fewshot", file).read_text(encoding="utf-8")
    parts = []
    for example in json.loads(text):
        worked = example[answer].split("\nFinal Answer:")[0].strip()
        parts.append(f"Question: {example[question].strip()}\nAnswer:{worked}\n\n")
    return "".join(parts)


@contextlib.contextmanager
def naming(row: Row) -> Iterator[None]:
    """What the chat template refuses is told with the row it stands in."""
    try:
        yield
    except ModelError as error:
        raise DataError(f"{row.origin}: {error}") from error


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def _question(row: Row, source: Source) -> tuple[tuple[Message, ...], tuple[Check, ...], str]:
    fields = row.fields
    if source.format in ("chat", "preference"):
        raise DataError(
            f"{row.origin}: rows of format '{source.format}' have no ground truth to reward."
        )
    if source.format == "rlvr":
        verifier = str(fields["dataset"]).lower()
        messages = messages_in(fields["messages"], row)
        if len(messages) > 1 and messages[-1]["role"] == "assistant":
            # The reference's rule: a worked answer at the end is not part of the prompt.
            messages = messages[:-1]
        if messages[-1]["role"] == "assistant":
            raise DataError(
                f"{row.origin}: the prompt ends with an assistant's turn, not a question."
            )
        return messages, (Check(verifier, fields["ground_truth"]),), source.name or verifier
    text = str(fields["question" if source.format == "gsm8k" else "problem"]).strip()
    if source.few_shot:
        text = f"{few_shot_prefix(source.format)}Question: {text}"
    truth = _truth(row, source)
    check = Check(source.format, truth)
    return ({"role": "user", "content": text},), (check,), source.name or source.format


def _truth(row: Row, source: Source) -> str:
    fields = row.fields
    if source.format == "gsm8k":
        _, mark, final = str(fields["answer"]).rpartition("####")
        if not mark:
            raise DataError(
                f"{row.origin}: the answer has no '#### ' line, which holds GSM8K's final number."
            )
        return final.strip().replace(",", "")
    if fields.get("answer") is not None:
        return str(fields["answer"])
    boxed = last_boxed(str(fields["solution"]))
    if boxed is None:
        raise DataError(
            f"{row.origin}: the solution has no \\boxed{{…}}, which holds MATH's answer."
        )
    return boxed


def last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{…}``, ``\fbox{…}`` or ``\boxed …`` of a solution."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if not rest.startswith("{"):
        return re.split(r"[\s$]", rest, maxsplit=1)[0] or None
    depth = 0
    for index, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:index]
    return None


def _conversation(row: Row, source: Source) -> Conversation:
    fields = row.fields
    if source.format == "preference":
        raise DataError(
            f"{row.origin}: rows of format 'preference' are pairs, and {source.path} is to be "
            "imitated. Compare them with algorithm DPO, or name another source."
        )
    if source.format in ("rlvr", "chat"):
        messages = messages_in(fields["messages"], row)
        if messages[0]["role"] == "assistant":
            raise DataError(
                f"{row.origin}: the conversation begins with an assistant's turn, which answers "
                "nothing. Drop that turn."
            )
        return Conversation(messages, source.name or source.format, row.origin)
    messages, _, name = _question(row, source)
    worked = fields.get("answer" if source.format == "gsm8k" else "solution")
    if worked is None:
        raise DataError(f"{row.origin}: the row has no worked solution to imitate.")
    # GSM8K marks calculator steps like <<48/2=24>>, which no reader should see.
    text = re.sub(r"<<[^>]*>>", "", str(worked)) if source.format == "gsm8k" else str(worked)
    return Conversation((*messages, {"role": "assistant", "content": text}), name, row.origin)


def messages_in(value: Any, row: Row, column: str = "messages") -> tuple[Message, ...]:
    """The turns of a column. Raises DataError for what is none."""
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{row.origin}: `{column}` has to be a list of turns, and is {value!r:.60}."
        )
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
            raise DataError(
                f"{row.origin}: a message needs a role of system, user or assistant: {turn!r:.80}."
            )
        if not isinstance(turn.get("content"), str):
            raise DataError(f"{row.origin}: a message needs text as its content: {turn!r:.80}.")
    return tuple({"role": t["role"], "content": t["content"]} for t in value)
