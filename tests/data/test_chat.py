"""Rendering conversations, and which of their tokens the assistant would have sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cameleer.data.chat import TULU, conversation_tokens, prompt_tokens, with_template
from cameleer.errors import ModelError
from cameleer.models.load import load_tokenizer
from cameleer.types import Message

PUBLISHED = r"{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"  # noqa: E501
"""The chat template of allenai/Llama-3.1-Tulu-3-8B, as published."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Ends each turn with a newline behind its end-of-sequence token."""

TALK: tuple[Message, ...] = (
    {"role": "system", "content": "a"},
    {"role": "user", "content": "b c"},
    {"role": "assistant", "content": "d e"},
    {"role": "user", "content": "f"},
    {"role": "assistant", "content": "g"},
)


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return load_tokenizer(str(tiny))


@pytest.fixture
def lettered() -> Any:
    """A tokenizer of one token a character, newlines too."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    inner = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token=" "))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def trained(tokenizer: Any, messages: tuple[Message, ...]) -> list[str]:
    """The runs of trained tokens, read."""
    tokens, mask = conversation_tokens(tokenizer, messages)
    assert len(tokens) == len(mask)
    runs: list[list[int]] = []
    for i, token in enumerate(tokens):
        if mask[i]:
            if i == 0 or not mask[i - 1]:
                runs.append([])
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


def test_the_template_of_tulu_is_the_published_one():
    # Jinja reads \n in a string as a newline, so the source may hold either.
    assert TULU.replace("\n", r"\n") == PUBLISHED


def test_a_rendering_of_tulu_by_hand(lettered: Any):
    with_template(lettered, "tulu", "here")
    assert lettered.apply_chat_template(list(TALK), tokenize=False) == (
        "<|system|>\na\n<|user|>\nb c\n<|assistant|>\nd e<eos>\n<|user|>\nf\n<|assistant|>\ng<eos>"
    )
    assert lettered.decode(prompt_tokens(lettered, TALK[:2])) == (
        "<|system|>\na\n<|user|>\nb c\n<|assistant|>\n"
    )


def test_a_rendering_begins_without_a_token_that_the_template_does_not_write(lettered: Any):
    lettered.bos_token = "~"
    with_template(lettered, "tulu", "here")
    assert lettered.decode(prompt_tokens(lettered, TALK[:1])[:10]) == "<|system|>"


def test_tulus_rule_by_hand(tokenizer: Any):
    with_template(tokenizer, "tulu", "tiny")
    tokens, mask = conversation_tokens(tokenizer, TALK)
    words = tokenizer.convert_ids_to_tokens(tokens)
    # Each assistant's words and its end of sequence; no header, no other turn.
    marked = " ".join(f"{word}*" if on else word for word, on in zip(words, mask, strict=True))
    assert marked == (
        "<|system|> a <|user|> b c <|assistant|> d* e* <eos>* <|user|> f <|assistant|> g* <eos>*"
    )


def test_the_newline_behind_an_end_of_sequence_is_not_trained(lettered: Any):
    with_template(lettered, "tulu", "here")
    assert trained(lettered, TALK) == ["d e<eos>", "g<eos>"]
    lettered.chat_template = CHATML
    assert trained(lettered, TALK) == ["d e<eos>", "g<eos>"]


def test_a_conversation_that_ends_with_a_question_trains_the_answers_before_it(lettered: Any):
    lettered.chat_template = CHATML
    assert trained(lettered, TALK[:4]) == ["d e<eos>"]


def test_an_empty_answer_trains_its_end(lettered: Any):
    with_template(lettered, "tulu", "here")
    talk: tuple[Message, ...] = (TALK[1], {"role": "assistant", "content": ""})
    assert trained(lettered, talk) == ["<eos>"]


def test_a_prompt_and_its_completion_are_the_conversation(lettered: Any):
    with_template(lettered, "tulu", "here")
    prompt = prompt_tokens(lettered, TALK[:4])
    tokens, mask = conversation_tokens(lettered, TALK)
    assert tokens[: len(prompt)] == prompt and all(mask[len(prompt) :])


def test_a_template_that_drops_what_was_thought_before_is_refused(lettered: Any):
    # As templates of reasoning models do: only the last answer is rendered whole.
    lettered.chat_template = CHATML.replace(
        "{{ m['content'] }}",
        "{{ m['content'] if loop.last or m['role'] == 'user' else m['content'][2:] }}",
    )
    with pytest.raises(ModelError, match=r"differently once more follows \(turn 3, 'd e'\)"):
        conversation_tokens(lettered, TALK)


def test_an_answer_that_only_looks_different_as_the_last_is_read_back(lettered: Any):
    # As Qwen3's: the last answer has marks of reasoning, even of none, and the others do not.
    lettered.chat_template = CHATML.replace(
        "{{ m['content'] }}",
        "{% if loop.last and m['role'] == 'assistant' %}[thought]{% endif %}{{ m['content'] }}",
    )
    assert trained(lettered, TALK) == ["d e<eos>", "[thought]g<eos>"]


def test_an_answer_without_its_end_is_never_trained_through_the_next_question(lettered: Any):
    # Earlier answers lose their end-of-sequence token, so the next one is the question's.
    lettered.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "{% if loop.last or m['role'] == 'user' %}<eos>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(ModelError, match=r"differently once more follows \(turn 2, 'd e'\)"):
        conversation_tokens(lettered, TALK[1:])


def test_a_system_prompt_that_the_template_adds_is_not_trained(lettered: Any):
    lettered.chat_template = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<eos>\n{% endif %}"
        + CHATML
    )
    assert trained(lettered, TALK[1:]) == trained(lettered, TALK) == ["d e<eos>", "g<eos>"]
    tokens, _ = conversation_tokens(lettered, TALK[1:])
    assert lettered.decode(tokens).startswith("<|im_start|>system\nBe kind.<eos>")


def test_a_system_prompt_that_depends_on_the_answer_is_refused(lettered: Any):
    lettered.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(ModelError, match="renders the beginning of a conversation differently"):
        conversation_tokens(lettered, TALK)


@pytest.fixture
def joining(lettered: Any) -> Any:
    """The same, with a token of its own for two newlines, as most vocabularies have."""
    from tokenizers import AddedToken

    lettered.add_tokens([AddedToken("\n\n", normalized=False)])
    return lettered


@pytest.mark.parametrize("template", [CHATML, TULU])
def test_a_token_that_joins_header_and_answer_is_not_trained(joining: Any, template: str):
    joining.chat_template = template
    talk: tuple[Message, ...] = (TALK[1], {"role": "assistant", "content": "\nd"}, *TALK[3:])
    ids = joining.apply_chat_template(list(talk), return_dict=False)
    tokens, _ = conversation_tokens(joining, talk)
    assert list(tokens) == ids and joining.convert_tokens_to_ids("\n\n") in ids
    assert trained(joining, talk) == ["d<eos>", "g<eos>"]
    # Without a joined token the newline is the answer's own.
    talk = (TALK[1], {"role": "assistant", "content": "\n\nd"})
    assert trained(joining, talk) == ["\nd<eos>"]


def test_a_header_whose_last_blank_would_take_a_word_of_the_answer_is_refused(lettered: Any):
    from tokenizers import AddedToken

    lettered.add_tokens([AddedToken(" d", normalized=False)])
    lettered.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert trained(lettered, TALK[3:]) == ["g<eos>"], "where it joins with nothing all is well"
    with pytest.raises(ModelError, match=r"ends in ' ', which the tokenizer joins .* ' d'"):
        conversation_tokens(lettered, TALK)


@pytest.mark.parametrize("template", ["tulu", "tokenizer"])
@pytest.mark.parametrize("answer", ["d e", "\nd e", "\n\nd e", "  d e", "\td e\n", "é 中 d e"])
def test_a_real_tokenizer_trains_the_answer_and_its_end(answer: str, template: Any):
    found = Path.home() / ".cache" / "cameleer" / "SmolLM2-135M-Instruct"
    if not found.is_dir():
        pytest.skip(f"no converted model at {found}")
    real = with_template(load_tokenizer(str(found)), template, "SmolLM2")
    talk: tuple[Message, ...] = (*TALK[:2], {"role": "assistant", "content": answer}, *TALK[3:])
    tokens, _ = conversation_tokens(real, talk)
    assert list(tokens) == real.apply_chat_template(list(talk), return_dict=False)
    first, second = trained(real, talk)
    assert first.endswith(answer.strip() + answer[len(answer.rstrip()) :] + real.eos_token)
    assert (answer + real.eos_token).endswith(first) and second == "g" + real.eos_token


def test_a_template_whose_header_depends_on_the_answer_is_refused(lettered: Any):
    lettered.chat_template = CHATML.replace("<|im_start|>assistant", "<|im_start|>bot")
    with pytest.raises(ModelError, match="renders the beginning of a conversation differently"):
        conversation_tokens(lettered, TALK)


def test_what_a_template_refuses_is_told_with_its_reason(lettered: Any):
    lettered.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelError, match="refuses messages of system, user: roles must alternate"):
        prompt_tokens(lettered, TALK[:2])


def test_the_recipes_template_is_set_so_that_an_export_carries_it(tokenizer: Any):
    own = tokenizer.chat_template = CHATML.replace("<|im_start|>", "")
    assert with_template(tokenizer, "tokenizer", "tiny").chat_template == own
    assert with_template(tokenizer, "tulu", "tiny").chat_template == TULU


def test_a_tokenizer_without_a_template_is_refused_unless_it_is_given_tulus(tokenizer: Any):
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="tokenizer of tiny has no chat template"):
        with_template(tokenizer, "tokenizer", "tiny")
    with_template(tokenizer, "tulu", "tiny")


def test_a_template_that_ends_turns_with_another_token_is_refused(tokenizer: Any):
    # As base models have it: the template writes <|im_end|>, the tokenizer's end is another.
    tokenizer.chat_template = CHATML.replace("<eos>", "<|im_end|>")
    with pytest.raises(ModelError, match="without the end-of-sequence token of its tokenizer, '<e"):
        with_template(tokenizer, "tokenizer", "tiny")


def test_a_template_that_leaves_the_header_to_the_policy_is_refused(lettered: Any):
    lettered.chat_template = CHATML.partition("{% if add_generation_prompt")[0]
    with pytest.raises(ModelError) as error:
        with_template(lettered, "tokenizer", "models/headless")
    assert str(error.value).startswith(
        "The chat template of models/headless begins an assistant's turn with "
        "'<|im_start|>assistant', and does not write it for add_generation_prompt"
    )


def test_a_template_without_headers_needs_no_generation_prompt(lettered: Any):
    lettered.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
        "{% else %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    )
    with_template(lettered, "tokenizer", "models/inst")
    assert trained(lettered, TALK[1:]) == ["d e<eos>", "g<eos>"]


def test_an_end_of_sequence_at_the_beginning_ends_no_turn(lettered: Any):
    lettered.chat_template = "<eos>" + CHATML.replace("<eos>", "")
    with pytest.raises(ModelError, match="ends an assistant's turn without the end-of-sequence"):
        with_template(lettered, "tokenizer", "models/bos")


def test_a_later_turn_without_its_header_is_refused(lettered: Any):
    lettered.chat_template = CHATML.replace(
        "<|im_start|>{{ m['role'] }}\n",
        "{% if loop.index < 4 %}<|im_start|>{{ m['role'] }}\n{% endif %}",
    )
    with pytest.raises(ModelError, match=r"renders the beginning .* differently once more follows"):
        conversation_tokens(lettered, TALK)


def test_an_end_of_sequence_that_is_also_the_padding_is_trained(lettered: Any):
    lettered.pad_token = lettered.eos_token
    assert lettered.pad_token_id == lettered.eos_token_id
    lettered.chat_template = CHATML
    assert trained(lettered, TALK) == ["d e<eos>", "g<eos>"]


def test_an_answer_that_holds_the_end_of_sequence_token_is_refused(tokenizer: Any):
    asked: tuple[Message, ...] = (
        {"role": "user", "content": "b <eos> c"},
        {"role": "assistant", "content": "d <eos> e"},
    )
    with pytest.raises(ModelError, match=r"turn 2 goes on after the end-of-sequence token, <eos>"):
        conversation_tokens(tokenizer, asked)
    # A question may: what it becomes is no answer.
    tokens, mask = conversation_tokens(tokenizer, (asked[0], {"role": "assistant", "content": "d"}))
    assert tokenizer.decode([t for t, m in zip(tokens, mask, strict=True) if m]) == "d <eos>"
    # Nor does it matter at an answer's end, where some data sets bring it along.
    answer: Message = {"role": "assistant", "content": "d <eos> "}
    tokens, mask = conversation_tokens(tokenizer, (asked[0], answer))
    assert tokenizer.decode([t for t, m in zip(tokens, mask, strict=True) if m]) == "d <eos>"
