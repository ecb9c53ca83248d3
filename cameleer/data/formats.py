"""Rows of the known formats, made into turns and ground truths. What is none is a `RowError`."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

from cameleer.data.sources import Row, Source
from cameleer.errors import DataError, ModelError, RowError
from cameleer.types import Check, Message

_ROLES = ("system", "user", "assistant")
_MEND = "Mend or drop the row, or set Source(bad_rows='skip')."


def question(row: Row, source: Source) -> tuple[tuple[Message, ...], tuple[Check, ...], str]:
    """What a row asks, what answers are held against, and the name of its source.

    Answers to rows of format `chat` are held against nothing: a reward model alone can rate them.
    """
    fields = row.fields
    if source.format == "preference":
        raise DataError(
            f"{row.origin}: rows of format 'preference' have no ground truth to reward."
        )
    if source.format in ("rlvr", "chat"):
        messages = turns_in(messages_in(fields["messages"], row), row)
        if len(messages) > 1 and messages[-1]["role"] == "assistant":
            # The reference's rule: a worked answer at the end is not part of the prompt.
            messages = messages[:-1]
        if messages[-1]["role"] != "user":
            raise RowError(
                f"{row.origin}: the prompt ends with a turn of the {messages[-1]['role']}, not a "
                "question.",
                "a prompt without a question at its end",
            )
        if source.format == "chat":
            return messages, (), source.name or source.format
        checks = _checks(fields["dataset"], fields["ground_truth"], row)
        return messages, checks, source.name or "+".join(check.verifier for check in checks)
    text = str(fields["question" if source.format == "gsm8k" else "problem"]).strip()
    asked = turns_in(messages_in([{"role": "user", "content": text}], row), row)
    if source.few_shot:
        text = f"{few_shot_prefix(source.format)}Question: {text}"
        asked = ({"role": "user", "content": text},)
    check = Check(source.format, _truth(row, source))
    return asked, (check,), source.name or source.format


def _checks(verifiers: Any, truths: Any, row: Row) -> tuple[Check, ...]:
    """One check, or several where both columns are lists, as in open-instruct's later data sets."""
    names, each = verifiers, truths
    if not isinstance(verifiers, list | tuple):
        names, each = [verifiers], [truths]
    fit = isinstance(each, list | tuple) and len(each) == len(names) > 0
    if not (fit and all(isinstance(name, str) for name in names)):
        raise RowError(
            f"{row.origin}: `dataset` has to be a verifier's name, or a list of names with as many "
            f"ground truths, and is {verifiers!r:.60} beside {truths!r:.60}. {_MEND}",
            "no verifier for each ground truth",
        )
    return tuple(Check(name.lower(), truth) for name, truth in zip(names, each, strict=True))


def _truth(row: Row, source: Source) -> str:
    fields = row.fields
    if source.format == "gsm8k":
        _, mark, final = str(fields["answer"]).rpartition("####")
        if not mark:
            raise RowError(
                f"{row.origin}: the answer has no '#### ' line, which holds GSM8K's final number.",
                "an answer without '####'",
            )
        return final.strip().replace(",", "")
    if fields.get("answer") is not None:
        return str(fields["answer"])
    boxed = last_boxed(str(fields["solution"]))
    if boxed is None:
        raise RowError(
            f"{row.origin}: the solution has no \\boxed{{…}}, which holds MATH's answer.",
            "a solution without \\boxed",
        )
    return boxed


def conversation(row: Row, source: Source) -> tuple[tuple[Message, ...], str]:
    """The turns to imitate, and the name of their source."""
    fields = row.fields
    if source.format == "preference":
        raise DataError(
            f"{row.origin}: rows of format 'preference' are pairs, and {source.path} is to be "
            "imitated. Compare them with algorithm DPO, or name another source."
        )
    if source.format in ("rlvr", "chat"):
        messages = turns_in(messages_in(fields["messages"], row), row)
        return messages, source.name or source.format
    asked, _, name = question(row, source)
    worked = fields.get("answer" if source.format == "gsm8k" else "solution")
    if worked is None:
        raise RowError(
            f"{row.origin}: the row has no worked solution to imitate.", "no worked solution"
        )
    # GSM8K marks calculator steps like <<48/2=24>>, which no reader should see.
    text = re.sub(r"<<[^>]*>>", "", str(worked)) if source.format == "gsm8k" else str(worked)
    answer = messages_in([{"role": "assistant", "content": text}], row)
    return turns_in((*asked, *answer), row), name


def messages_in(value: Any, row: Row, column: str = "messages") -> tuple[Message, ...]:
    """The turns of a column. Raises RowError for what is none."""
    if not isinstance(value, list) or not value:
        raise RowError(
            f"{row.origin}: `{column}` has to be a list of turns, and is {value!r:.60}. {_MEND}",
            "no turns",
        )
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in _ROLES:
            raise RowError(
                f"{row.origin}: a message needs a role of system, user or assistant: {turn!r:.80}. "
                f"{_MEND}",
                "an unknown role",
            )
        text = turn.get("content")
        if not isinstance(text, str):
            raise RowError(
                f"{row.origin}: a message needs text as its content: {turn!r:.80}. {_MEND}",
                "content that is no text",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                f"{row.origin}: a message holds half a character, as no text does: "
                f"{ascii(turn)[:80]}. Write the source with the right encoding.",
                "half a character",
            ) from error
    return tuple({"role": t["role"], "content": t["content"]} for t in value)


def turns_in(messages: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
    """The same turns. Raises RowError where they are no conversation.

    That has at most one system turn, which is first, a question before any answer, and no turn
    without text: an empty answer would teach to say nothing.
    """
    roles = [message["role"] for message in messages]
    empty = [i for i, message in enumerate(messages) if not message["content"].strip()]
    if roles.count("system") > 1:
        problem, reason = "it has two system turns. Join them", "two system turns"
    elif "system" in roles[1:]:
        problem = f"turn {roles.index('system') + 1} is the system's. Put it first"
        reason = "a system turn that is not the first"
    elif [role for role in roles if role != "system"][:1] == ["assistant"]:
        problem = "the conversation begins with an assistant's turn, which answers nothing. Drop it"
        reason = "an assistant's turn first"
    elif empty:
        problem = f"turn {empty[0] + 1}, of the {roles[empty[0]]}, is empty. Drop or mend the row"
        reason = "an empty turn"
    else:
        return messages
    raise RowError(f"{row.origin}: {problem}, or set Source(bad_rows='skip').", reason)


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
        reason = "not to be rendered with this chat template"
        raise RowError(f"{row.origin}: {error}", reason) from error


def json_of(value: Any, row: Row) -> str:
    """Raises RowError where a row holds what is neither text, number, list nor object."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(
            f"{row.origin}: the ground truth cannot be kept: {error}. Give it as text, a number, "
            "a list or an object.",
            "a ground truth that is no JSON",
        ) from error


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
