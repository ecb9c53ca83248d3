"""Preference pairs: two answers to the same question, of which one is preferred."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cameleer.data.chat import conversation_tokens
from cameleer.data.formats import messages_in, naming, turns_in
from cameleer.data.prepared import Rendered, prepare
from cameleer.data.prompts import NOTHING_LEFT, Examples, examples_of
from cameleer.data.sources import Row, Source
from cameleer.errors import DataError, RowError
from cameleer.types import Message, Preference


def load_pairs(
    sources: Sequence[Source],
    tokenizer: Any,
    *,
    max_tokens: int,
    seed: int = 0,
    cache: Path | None = None,
) -> Examples:
    """Read and render the pairs of all sources: each item is the chosen and the rejected sequence.

    All assistant's turns are compared, those of a shared beginning too, as in Tulu 3. Both
    sequences are cut at `max_tokens`. Left out and counted are pairs of equal conversations, which
    prefer nothing, and those of which the cut leaves nothing to train in one of the two. `seed` and
    `cache` are those of `load_prompts`.

    Raises DataError for rows that are no pairs, and where no pair is left.
    """
    for source in sources:
        if source.format != "preference":
            raise DataError(
                f"{source.path} has the format '{source.format}', and pairs are to be compared. "
                "Name a source of format 'preference', whose rows have `chosen` and `rejected`."
            )

    def render(row: Row, source: Source) -> Rendered | str:
        pair = _preference(row, source)
        if pair.chosen == pair.rejected:
            return "chosen equals rejected"
        with naming(row):
            both = [conversation_tokens(tokenizer, x) for x in (pair.chosen, pair.rejected)]
        chosen, rejected = ((tokens[:max_tokens], mask[:max_tokens]) for tokens, mask in both)
        if not (any(chosen[1]) and any(rejected[1])):
            return NOTHING_LEFT
        if chosen[0] == rejected[0]:
            return "equal within the length limit"
        truncated = any(len(tokens) > max_tokens for tokens, _ in both)
        return Rendered((chosen, rejected), pair.source, truncated)

    found = prepare(
        sources, render, kind="pairs",
        tokenizer=tokenizer, max_tokens=max_tokens, seed=seed, cache=cache,
    )  # fmt: skip
    return examples_of(found, 2, "No preference pair is left")


def _preference(row: Row, source: Source) -> Preference:
    """`chosen` and `rejected` are conversations, or answers to a `prompt` of turns or text.

    Conversations have to be the same up to an answer, and may go on differently behind it: of
    HH-RLHF's harmless-base test rows 5 of 2,312 do.
    """
    prompt = row.fields.get("prompt")
    chosen, rejected = row.fields["chosen"], row.fields["rejected"]
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError(
            f"{row.origin}: `chosen` is a {type(chosen).__name__} and `rejected` a "
            f"{type(rejected).__name__}. Both have to be lists of turns, or both texts.",
            "chosen and rejected of two kinds",
        )
    if isinstance(chosen, str):
        if prompt is None:
            raise RowError(
                f"{row.origin}: `chosen` and `rejected` are texts, and there is no `prompt` that "
                "they answer. Add it, as a text or a list of turns.",
                "no prompt",
            )
        chosen, rejected = ([{"role": "assistant", "content": x}] for x in (chosen, rejected))
    one = messages_in(chosen, row, "chosen")
    other = messages_in(rejected, row, "rejected")
    # Some sets repeat the prompt beside whole conversations.
    if prompt is not None and one[0]["role"] == other[0]["role"] == "assistant":
        question: tuple[Message, ...] = ({"role": "user", "content": str(prompt)},)
        before = question if isinstance(prompt, str) else messages_in(prompt, row, "prompt")
        one, other = (*before, *one), (*before, *other)
    for name, messages in (("chosen", one), ("rejected", other)):
        if messages[-1]["role"] != "assistant" or messages[0]["role"] == "assistant":
            raise RowError(
                f"{row.origin}: `{name}` has to begin with a question and end with the "
                f"assistant's answer; its turns are {', '.join(m['role'] for m in messages)}.",
                "no question, or no answer",
            )
        turns_in(messages, row)
    _refuse_two_questions(one, other, row)
    _refuse_other_prompt(prompt, one, other, row)
    return Preference(one, other, source.name or source.format, row.origin)


def _refuse_two_questions(one: Sequence[Message], other: Sequence[Message], row: Row) -> None:
    """Raises RowError where the first turn that differs is no answer of both."""
    for number, turns in enumerate(itertools.zip_longest(one, other), start=1):
        if turns[0] == turns[1]:
            continue
        if all(turn is not None and turn["role"] == "assistant" for turn in turns):
            return
        raise RowError(
            f"{row.origin}: `chosen` and `rejected` answer different questions: they differ from "
            f"turn {number} on, which is not an answer in both. Mend the row, or set "
            "Source(bad_rows='skip').",
            "two different questions",
        )


def _refuse_other_prompt(
    prompt: Any, one: Sequence[Message], other: Sequence[Message], row: Row
) -> None:
    """Raises RowError where a `prompt` beside conversations has a question that they have not."""
    if prompt is None:
        return
    turns = () if isinstance(prompt, str) else messages_in(prompt, row, "prompt")
    texts = [prompt] if isinstance(prompt, str) else _questions(turns)
    asked = {*_questions(one), *_questions(other)}
    for text in texts:
        # Some sets write a whole dialogue into it, or leave a part of the question out.
        if not any(text.strip() in question or question.strip() in text for question in asked):
            raise RowError(
                f"{row.origin}: `prompt` is {text!r:.60}, which neither `chosen` nor `rejected` "
                "answers. Mend the row, or drop the column `prompt`.",
                "a prompt that is not answered",
            )


def _questions(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]
