"""Rows of the known formats made into prompts, conversations and an order to take them in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cameleer.data.formats import few_shot_prefix, last_boxed
from cameleer.data.mixture import Tally
from cameleer.data.prompts import Prompts, check_truths, load_examples, load_prompts, order
from cameleer.data.sources import Source
from cameleer.errors import DataError, ModelError
from cameleer.types import Check, Prompt


class Bytes:
    """A tokenizer of one token a byte, whose template is the words and their roles."""

    eos_token_id = 0

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool, return_dict: bool
    ) -> list[int]:
        assert not return_dict
        turns = "".join(
            f"{m['role'][0]}:{m['content']}" + ("\0" if m["role"] == "assistant" else "\n")
            for m in messages
        )
        return list((turns + ("a:" if add_generation_prompt else "")).encode())


def source(tmp_path: Path, *rows: dict[str, Any], **fields: Any) -> Source:
    path = tmp_path / f"rows{len(list(tmp_path.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path=str(path), **fields)


def prompts_of(*sources: Source, max_tokens: int = 10_000, **options: Any) -> tuple[Prompt, ...]:
    return load_prompts(sources, Bytes(), max_tokens=max_tokens, **options).prompts


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def rlvr(*messages: dict[str, str], truth: Any = "2", dataset: str = "gsm8k") -> dict[str, Any]:
    return {"messages": list(messages), "ground_truth": truth, "dataset": dataset}


GSM8K = {"question": "How many? ", "answer": "He has <<2*500=1000>>1,000.\n#### 1,000"}
MATH = {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$."}


def test_a_row_of_rlvr_by_hand(tmp_path: Path):
    (prompt,) = prompts_of(source(tmp_path, rlvr(user("1 + 1?"), dataset="MATH")))
    assert prompt.id == "math:0" and prompt.source == "math"
    assert prompt.messages == (user("1 + 1?"),)
    assert bytes(prompt.tokens) == b"u:1 + 1?\na:"
    assert prompt.checks == (Check("math", "2"),)


def test_a_row_of_rlvr_may_have_several_verifiers_with_a_truth_each(tmp_path: Path):
    row = {**rlvr(user("?")), "dataset": ["gsm8k", "IFEval"], "ground_truth": ["2", "{}"]}
    (prompt,) = prompts_of(source(tmp_path, row))
    assert prompt.checks == (Check("gsm8k", "2"), Check("ifeval", "{}"))
    assert prompt.source == "gsm8k+ifeval"


def test_a_trailing_answer_is_no_part_of_an_rlvr_prompt(tmp_path: Path):
    row = rlvr(user("1 + 1?"), assistant("2"), user("And 2 + 2?"), assistant("4"))
    (prompt,) = prompts_of(source(tmp_path, row))
    assert bytes(prompt.tokens) == b"u:1 + 1?\na:2\0u:And 2 + 2?\na:"


@pytest.mark.parametrize(
    ("turns", "role"),
    [
        ((user("?"), assistant("3"), assistant("4")), "assistant"),
        (({"role": "system", "content": "Be brief."}, assistant("4")), "assistant"),
        (({"role": "system", "content": "Be brief."},), "system"),
    ],
)
def test_a_prompt_that_asks_nothing_is_refused(turns: Any, role: str, tmp_path: Path):
    rows = source(tmp_path, rlvr(user("?")), rlvr(*turns))
    said = rf"jsonl:2: the prompt ends with a turn of the {role}|begins with an assistant's turn"
    with pytest.raises(DataError, match=said):
        prompts_of(rows)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("text", "`messages` has to be a list of turns"),
        ([], "`messages` has to be a list of turns"),
        (["text"], "a role of system, user or assistant"),
        ([{"role": "tool", "content": "x"}], "a role of system, user or assistant"),
        ([{"role": "user", "content": None}], "text as its content"),
        ([{"role": "user"}], "text as its content"),
    ],
)
def test_messages_that_are_none_are_named_with_their_line(messages: Any, said: str, tmp_path: Path):
    row = {"messages": messages, "ground_truth": "2", "dataset": "gsm8k"}
    rows = source(tmp_path, rlvr(user("?")), row)
    with pytest.raises(DataError, match=said) as raised:
        prompts_of(rows)
    assert str(raised.value).startswith(f"{rows.path}:2: ")


def test_a_row_of_gsm8k_by_hand(tmp_path: Path):
    (prompt,) = prompts_of(source(tmp_path, GSM8K, format="gsm8k"))
    assert prompt.id == "gsm8k:0" and prompt.messages == (user("How many?"),)
    # Commas of the final number are left out, as in the published rows.
    assert prompt.checks == (Check("gsm8k", "1000"),)


def test_an_answer_of_gsm8k_without_its_final_line_is_refused(tmp_path: Path):
    rows = source(tmp_path, GSM8K, {"question": "?", "answer": "It is 3."}, format="gsm8k")
    with pytest.raises(DataError, match=r"jsonl:2: the answer has no '#### ' line"):
        prompts_of(rows)


def test_the_truth_of_math_is_its_answer_or_the_last_box_of_its_solution(tmp_path: Path):
    rows = (MATH, {**MATH, "answer": "3"}, {"problem": "?", "answer": 4})
    prompts = prompts_of(source(tmp_path, *rows, format="math"))
    assert [prompt.checks for prompt in prompts] == [(Check("math", t),) for t in "234"]


def test_a_solution_of_math_without_a_box_is_refused(tmp_path: Path):
    rows = source(tmp_path, MATH, {"problem": "?", "solution": "Two."}, format="math")
    with pytest.raises(DataError, match=r"jsonl:2: the solution has no \\boxed"):
        prompts_of(rows)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so $\boxed{2}$", "2"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5$ is it", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1", None),
        ("nothing", None),
    ],
)
def test_the_last_box(text: str, inside: str | None):
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("format", "row", "examples", "beginning", "ending"),
    [
        (
            "gsm8k",
            GSM8K,
            8,
            "Question: There are 15 trees in the grove. Grove workers will plant trees in the grove"
            " today. After they are done, there will be 21 trees. How many trees did the grove"
            " workers plant today?\nAnswer:There are 15 trees originally. Then there were 21 trees"
            " after some more were planted. So there must have been 21 - 15 = 6. So the answer is"
            " 6.\n\nQuestion: If there are 3 cars",
            "Question: How many?",
        ),
        (
            "math",
            MATH,
            4,
            "Question: Find the domain of the expression  $\\frac{\\sqrt{x-2}}{\\sqrt{5-x}}$.}\n"
            "Answer:The expressions inside each square root must be non-negative. Therefore,",
            "Question: What is $1+1$?",
        ),
    ],
)
def test_the_published_examples_stand_before_the_question(
    format: Any, row: dict[str, Any], examples: int, beginning: str, ending: str, tmp_path: Path
):
    (prompt,) = prompts_of(source(tmp_path, row, format=format, few_shot=True))
    text = prompt.messages[0]["content"]
    blocks = text.split("\n\nQuestion: ")
    assert text.startswith(beginning) and text.endswith("\n\n" + ending)
    assert text.removesuffix(ending) == few_shot_prefix(format)
    assert len(blocks) == examples + 1
    assert all(block.count("\nAnswer:") == 1 for block in blocks[:-1])
    assert "\nAnswer:" not in blocks[-1]
    assert "Final Answer:" not in text and "\nAnswer: " not in text


def test_the_worked_examples_are_those_beside_the_repository(shared_data: Path):
    given = json.loads((shared_data / "fewshot" / "gsm8k_8.json").read_text())
    assert [row["question"] in few_shot_prefix("gsm8k") for row in given] == [True] * 8


def test_too_long_prompts_are_dropped_and_counted(tmp_path: Path):
    # "u:" + text + "\na:" makes 5 bytes and the text's.
    rows = source(tmp_path, *(rlvr(user("x" * length)) for length in (1, 5, 6, 5, 50)))
    found = load_prompts([rows], Bytes(), max_tokens=10)
    assert [prompt.id for prompt in found.prompts] == ["gsm8k:0", "gsm8k:1", "gsm8k:3"]
    assert found.too_long == 2


def test_nothing_left_is_refused(tmp_path: Path):
    rows = source(tmp_path, rlvr(user("x")), rlvr(user("y")))
    with pytest.raises(DataError, match=r"2 dropped: longer than the limit of prompt tokens"):
        prompts_of(rows, max_tokens=3)


def test_prompts_of_two_sources_of_one_name_have_ids_of_their_own(tmp_path: Path):
    sources = [source(tmp_path, rlvr(user(q)), rlvr(user(q + q))) for q in "xy"]
    found = load_prompts(sources, Bytes(), max_tokens=100)
    assert [p.id for p in found.prompts] == ["gsm8k/0:0", "gsm8k/0:1", "gsm8k/1:0", "gsm8k/1:1"]
    assert found.places["gsm8k/1:1"] == (1, f"{sources[1].path}:2")


def test_the_name_of_a_source_is_that_of_its_prompts(tmp_path: Path):
    (prompt,) = prompts_of(source(tmp_path, GSM8K, format="gsm8k", name="grade-school"))
    assert (prompt.source, prompt.id) == ("grade-school", "grade-school:0")


def test_a_conversation_asks_what_stands_before_its_last_answer_and_has_no_check(tmp_path: Path):
    turns = [user("1 + 1?"), assistant("2"), user("And 2 + 2?")]
    rows = source(
        tmp_path, {"messages": turns}, {"messages": [*turns, assistant("4")]}, format="chat"
    )
    one, other = prompts_of(rows)
    assert bytes(one.tokens) == b"u:1 + 1?\na:2\0u:And 2 + 2?\na:" == bytes(other.tokens)
    assert one.checks == other.checks == () and (one.source, other.id) == ("chat", "chat:1")


def test_a_conversation_without_a_question_at_its_end_is_refused(tmp_path: Path):
    turns = [user("?"), assistant("3"), assistant("4")]
    with pytest.raises(DataError, match="jsonl:1: the prompt ends with a turn of the assistant"):
        prompts_of(source(tmp_path, {"messages": turns}, format="chat"))


def test_without_any_verifier_no_prompt_keeps_its_checks():
    assert [p.checks for p in checked(many(2, "gsm8k", "two"), {}).prompts] == [(), ()]


class Picky(Bytes):
    """Knows no system's turn, as many templates."""

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        if messages[0]["role"] == "system":
            raise ModelError("The chat template refuses messages of system.")
        return super().apply_chat_template(messages, **options)


def test_what_a_template_refuses_is_named_with_its_line(tmp_path: Path):
    system = {"role": "system", "content": "Be brief."}
    rows = source(tmp_path, rlvr(user("?"), assistant("!")), rlvr(system, user("?")))
    with pytest.raises(DataError, match=r"jsonl:2: The chat template refuses"):
        load_prompts([rows], Picky(), max_tokens=100)
    with pytest.raises(DataError, match=r"jsonl:2: The chat template refuses"):
        load_examples(
            [
                source(
                    tmp_path,
                    rlvr(user("?"), assistant("!")),
                    rlvr(system, user("?"), assistant("!")),
                )
            ],
            Picky(),
            max_tokens=100,
        )


def test_examples_of_each_format_train_the_answer(tmp_path: Path):
    sources = [
        source(tmp_path, {"messages": [user("Hi"), assistant("Yo")]}, format="chat"),
        source(tmp_path, GSM8K, format="gsm8k"),
        source(tmp_path, MATH, format="math"),
    ]
    trained = [
        bytes(t for t, m in zip(e.tokens, e.mask, strict=True) if m).decode()
        for e in load_examples(sources, Bytes(), max_tokens=1000).sequences
    ]
    # Calculator marks like <<2*500=1000>> are for no reader.
    assert trained == ["Yo\0", "He has 1,000.\n#### 1,000\0", "It is $\\boxed{2}$.\0"]


def test_examples_are_cut_and_those_with_nothing_left_to_train_dropped(tmp_path: Path):
    rows = [{"messages": [user("x" * n), assistant("yes")]} for n in (1, 50)]
    found = load_examples([source(tmp_path, *rows, format="chat")], Bytes(), max_tokens=8)
    (example,) = found.sequences
    (tally,) = found.sources
    assert tally.truncated == 1 and tally.kept == 1
    assert tally.dropped == {"nothing to train within the length limit": 1}
    assert bytes(example.tokens) == b"u:x\na:ye"
    assert example.mask == (False,) * 6 + (True,) * 2


def test_no_example_left_is_refused(tmp_path: Path):
    rows = source(tmp_path, {"messages": [user("x" * 50), assistant("yes")]}, format="chat")
    with pytest.raises(DataError, match="No conversation has an assistant turn"):
        load_examples([rows], Bytes(), max_tokens=8)


def test_a_conversation_that_begins_with_an_answer_is_refused(tmp_path: Path):
    rows = source(tmp_path, {"messages": [assistant("Hello"), user("Hi")]}, format="chat")
    with pytest.raises(DataError, match=r"jsonl:1: the conversation begins with an assistant"):
        load_examples([rows], Bytes(), max_tokens=100)


def test_an_answer_of_math_alone_cannot_be_imitated(tmp_path: Path):
    rows = source(tmp_path, {"problem": "?", "answer": "4"}, format="math")
    with pytest.raises(DataError, match=r"jsonl:1: the row has no worked solution"):
        load_examples([rows], Bytes(), max_tokens=100)


@dataclass(frozen=True)
class Digits:
    """A verifier whose truths are digits."""

    def validate(self, truth: Any) -> str | None:
        return None if str(truth).isdigit() else "not a number"


def many(count: int, verifier: str, truth: str = "2") -> list[Prompt]:
    checks = (Check(verifier, truth),)
    return [Prompt(f"{verifier}:{truth}:{i}", "s", (), (1,), checks) for i in range(count)]


def checked(prompts: list[Prompt], verifiers: dict[str, Any], **fields: Any) -> Prompts:
    """All of one source."""
    places = {prompt.id: (0, f"rows.jsonl:{i}") for i, prompt in enumerate(prompts, start=1)}
    tally = Tally(kept=len(prompts), tokens=len(prompts))
    found = Prompts(tuple(prompts), (tally,), places)
    return check_truths(found, verifiers, [Source(path="rows.jsonl", **fields)])


def test_an_unknown_verifier_is_counted():
    prompts = many(29_909, "gsm8k") + many(37, "math_500")
    with pytest.raises(DataError) as raised:
        checked(prompts, {"math": Digits(), "gsm8k": Digits()})
    assert str(raised.value).startswith(
        "37 of 29,946 prompts name the verifier 'math_500', which the recipe does not have (it has "
        "gsm8k, math). Add it to `verifiers`"
    )


def test_a_prompt_that_names_an_unknown_verifier_twice_is_counted_once():
    twice = Prompt("p", "s", (), (1,), (Check("other", "1"), Check("other", "2")))
    with pytest.raises(DataError, match=r"^1 of 3 prompts name"):
        checked([twice, *many(2, "gsm8k")], {"gsm8k": Digits()})


def test_a_truth_that_cannot_be_read_is_named_with_its_line():
    prompts = [*many(5, "gsm8k"), Prompt("bad", "s", (), (1,), (Check("gsm8k", "two"),))]
    with pytest.raises(DataError) as raised:
        checked(prompts, {"gsm8k": Digits()})
    assert str(raised.value).startswith(
        "1 of 6 ground truths cannot be read. The first is rows.jsonl:6, gsm8k: 'two' (not a "
        "number)."
    )


def test_truths_that_can_be_read_pass():
    assert len(checked(many(5, "gsm8k"), {"gsm8k": Digits()}).prompts) == 5


def test_truths_that_cannot_be_read_are_skipped_and_counted_where_that_is_asked():
    prompts = many(5, "gsm8k") + many(2, "gsm8k", "two")
    found = checked(prompts, {"gsm8k": Digits()}, bad_rows="skip")
    (tally,) = found.sources
    assert found.prompts == tuple(prompts[:5]) and (tally.kept, tally.tokens) == (5, 5)
    assert tally.dropped == {"a ground truth that gsm8k cannot read": 2}
    with pytest.raises(DataError, match="2 of 2 ground truths cannot be read"):
        checked(prompts[5:], {"gsm8k": Digits()}, bad_rows="skip")


@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    start=st.integers(0, 100),
    length=st.integers(0, 100),
)
def test_the_order_from_any_place_is_a_part_of_one_endless_order(
    count: int, seed: int, start: int, length: int
):
    endless = order(count, seed, 0, start + length)
    assert order(count, seed, start, length) == endless[start:]
    for epoch in range((start + length) // count):
        rows = endless[epoch * count : (epoch + 1) * count]
        assert sorted(rows) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = order(50, 1, 0, 50), order(50, 1, 50, 50)
    assert first != second != order(50, 2, 0, 50) != first
    assert first != list(range(50))


def test_the_order_is_the_same_next_year():
    # Pinned: another order would make resumed runs other runs. numpy keeps Philox's stream.
    assert order(8, 1, 0, 10) == [0, 5, 4, 1, 2, 6, 3, 7, 2, 3]
