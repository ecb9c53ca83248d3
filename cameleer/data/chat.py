"""Chat templates: messages to token ids, once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from cameleer.errors import ModelError
from cameleer.types import Message

ChatTemplate = Literal["tulu", "tokenizer"]

# Source: the chat template of allenai/Llama-3.1-Tulu-3-8B, which puts no BOS before it.
TULU = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\\n'  + message['content'] + eos_token + '\\n' }}"
    "{% else %}{{ '<|assistant|>\\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)


def with_template(tokenizer: Any, template: ChatTemplate, source: str) -> Any:
    """The tokenizer with the recipe's template set, so that an export carries it."""
    if template == "tulu":
        tokenizer.chat_template = TULU
    elif not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {source} has no chat template, so prompts cannot be rendered. Set "
            "model.chat_template to 'tulu', or use a model that was trained on chats."
        )
    turns: tuple[Message, ...] = (
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!"},
    )
    _check_generation_prompt(tokenizer, turns, source)
    question = _render(tokenizer, turns[:1], add_generation_prompt=True)
    answered = _render(tokenizer, turns, add_generation_prompt=False)
    # Some tokenizers begin with their EOS too, as BOS.
    if tokenizer.eos_token_id not in answered[len(question) :]:
        raise ModelError(
            f"The chat template of {source} ends an assistant's turn without the end-of-sequence "
            f"token of its tokenizer, {tokenizer.eos_token!r}, so no answer would ever end. Save "
            "the tokenizer with the token that ends a turn as its eos_token, or set "
            "model.chat_template to 'tulu'."
        )
    return tokenizer


def reads_the_clock(tokenizer: Any) -> bool:
    """Whether the chat template writes a date, so that the same messages become other tokens."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", ""))


def prompt_tokens(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    """The ids that the policy continues: messages, then the header of the assistant's turn."""
    return tuple(_render(tokenizer, messages, add_generation_prompt=True))


def rendered(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text that the policy continues: messages, then the header of the assistant's turn."""
    with _naming_roles(messages):
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
    return text


def conversation_tokens(
    tokenizer: Any, messages: Sequence[Message]
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The ids of a conversation and which of them to train: what the assistant would sample.

    That is each assistant turn after its header, up to and with its end-of-sequence token; Tulu
    3's rule. A token that joins the header's last characters with blanks of the answer's, such as
    two newlines, is not trained: nobody could sample it after the header.

    Raises ModelError where such a token holds more of the answer than blanks, where an answer
    goes on after an end-of-sequence token in its text, and where the
    template renders a conversation's beginning differently once it goes on: any mask would be a
    guess. It is none where the header is the same and all of the answer
    stands between it and the next end-of-sequence token, as with templates that put marks of
    reasoning into the last turn only.
    """
    ids = _render(tokenizer, messages, add_generation_prompt=False)
    mask = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        eos: str | None = getattr(tokenizer, "eos_token", None)
        if eos and message["content"].partition(eos)[2].replace(eos, "").strip():
            raise ModelError(
                f"The answer in turn {turn + 1} goes on after the end-of-sequence token, {eos}, "
                "where nobody could sample. Take it out of the text, or set "
                "Source(bad_rows='skip')."
            )
        before = _render(tokenizer, messages[:turn], add_generation_prompt=True)
        last = turn == len(messages) - 1
        through = (
            ids if last else _render(tokenizer, messages[: turn + 1], add_generation_prompt=False)
        )
        start = _length_in(ids, before, tokenizer)
        end = None if start is None else _end(ids, start, through, message, tokenizer)
        if start is None or end is None:
            raise ModelError(
                "This chat template renders the beginning of a conversation differently once "
                f"more follows (turn {turn + 1}, {message['content'][:60]!r}), so the trained "
                "tokens cannot be told apart. Use chat_template='tulu', or split such "
                "conversations into single turns."
            )
        mask[start:end] = [True] * (end - start)
    return tuple(ids), tuple(mask)


def _length_in(ids: Sequence[int], before: Sequence[int], tokenizer: Any) -> int | None:
    """How many of a conversation's ids hold the text of its beginning.

    The beginning's own number, or where the last of its text is joined with what follows, the
    number with that token. None: the conversation begins with another text.

    Raises ModelError where that token holds words that follow: an answer would lose them.
    """
    same = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), None)
    if same is None:
        return len(before) if len(ids) >= len(before) else None
    joined, rest = tokenizer.decode([ids[same]]), tokenizer.decode(before[same:])
    if not rest or joined == rest or not joined.startswith(rest):
        return None
    if joined.removeprefix(rest).strip():
        raise ModelError(
            f"This chat template's header of an assistant's turn ends in {rest!r}, which the "
            f"tokenizer joins with an answer's first characters to one token, {joined!r}: trained "
            "or not, nobody could sample it after the header. Take the blank out of the template, "
            "or use chat_template='tulu'."
        )
    return same + 1


def _end(
    ids: Sequence[int], start: int, through: Sequence[int], message: Message, tokenizer: Any
) -> int | None:
    """Where a turn that starts at a place ends. None: that cannot be told.

    Args:
        through: The conversation up to this turn, rendered without what follows.
    """
    ends = tokenizer.eos_token_id in ids[start:]
    # ChatML writes a newline after the end of a turn, which nobody samples.
    end = ids.index(tokenizer.eos_token_id, start) + 1 if ends else len(ids)
    if ids[: len(through)] == through:
        return min(end, len(through))
    text = tokenizer.decode(ids[start : end - 1])
    return end if ends and text.strip() == message["content"].strip() else None


def _check_generation_prompt(tokenizer: Any, turns: Sequence[Message], source: str) -> None:
    """Raises ModelError where the policy itself would have to write the assistant's header."""
    question, opened, whole = (
        tokenizer.apply_chat_template(list(some), tokenize=False, add_generation_prompt=prompt)
        for some, prompt in ((turns[:1], False), (turns[:1], True), (turns, False))
    )
    # In some formats nothing stands between a question and its answer, and none is needed.
    header, _, _ = whole.removeprefix(opened).partition(turns[1]["content"])
    if opened == question and header.strip():
        raise ModelError(
            f"The chat template of {source} begins an assistant's turn with {header.strip()!r}, "
            "and does not write it for add_generation_prompt: the policy would have to sample it. "
            "Mend the template, or set model.chat_template to 'tulu'."
        )


def _render(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[int]:
    with _naming_roles(messages):
        ids: list[int] = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, return_dict=False
        )
    return ids


@contextlib.contextmanager
def _naming_roles(messages: Sequence[Message]) -> Iterator[None]:
    """What a template refuses is told with the roles it was given."""
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"The chat template refuses messages of {roles}: {error}. Use chat_template='tulu', "
            "which takes any, or drop such rows."
        ) from error
