"""Preference rows in all their forms become two sequences, or say why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data.test_prompts import Bytes, assistant, source, user

from cameleer.data.preference import load_pairs
from cameleer.data.prompts import Examples, load_examples, load_prompts
from cameleer.errors import DataError


def pairs_of(tmp_path: Path, *rows: dict[str, Any], max_tokens: int = 1000) -> Examples:
    rows_ = source(tmp_path, *rows, format="preference")
    return load_pairs([rows_], Bytes(), max_tokens=max_tokens)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [user("Hi"), assistant("yes")], "rejected": [user("Hi"), assistant("no")]},
        {"prompt": "Hi", "chosen": "yes", "rejected": "no"},
        {"prompt": [user("Hi")], "chosen": "yes", "rejected": "no"},
        {"prompt": [user("Hi")], "chosen": [assistant("yes")], "rejected": [assistant("no")]},
        # As in ultrafeedback: the prompt stands beside whole conversations, and adds nothing.
        {
            "prompt": "Hi",
            "chosen": [user("Hi"), assistant("yes")],
            "rejected": [user("Hi"), assistant("no")],
        },
    ],
)
def test_every_form_of_a_row_gives_the_same_pair(tmp_path: Path, row: dict[str, Any]):
    ((chosen, rejected),) = pairs_of(tmp_path, row).items
    assert bytes(chosen.tokens) == b"u:Hi\na:yes\0" and bytes(rejected.tokens) == b"u:Hi\na:no\0"
    assert bytes(t for t, m in zip(chosen.tokens, chosen.mask, strict=True) if m) == b"yes\0"


def test_all_of_the_assistants_turns_are_compared(tmp_path: Path):
    begun = [user("a"), assistant("b"), user("c")]
    row = {"chosen": [*begun, assistant("d")], "rejected": [*begun, assistant("e")]}
    ((chosen, _),) = pairs_of(tmp_path, row).items
    assert bytes(t for t, m in zip(chosen.tokens, chosen.mask, strict=True) if m) == b"b\0d\0"


def test_conversations_may_part_before_their_last_answers(tmp_path: Path):
    one = [user("a"), assistant("b"), user("c"), assistant("d")]
    row = {"chosen": one, "rejected": [user("a"), assistant("B")]}
    assert len(pairs_of(tmp_path, row).items) == 1


@pytest.mark.parametrize(
    "prompt", ["Sum up: long", " Sum up: long text\n", "u: Sum up: long text\na: …", [user("Sum")]]
)
def test_a_prompt_beside_conversations_may_be_written_otherwise(tmp_path: Path, prompt: Any):
    asked = user("Sum up: long text")
    row = {"chosen": [asked, assistant("a")], "rejected": [asked, assistant("b")]}
    assert len(pairs_of(tmp_path, {"prompt": prompt, **row}).items) == 1


def test_what_prefers_nothing_is_left_out_and_counted(tmp_path: Path):
    rows = [
        {"prompt": "Hi", "chosen": "yes", "rejected": "no"},
        {"prompt": "Hi", "chosen": "yes", "rejected": "yes"},
        {"prompt": "x" * 50, "chosen": "yes", "rejected": "no"},
        {"prompt": "Hi", "chosen": "yes, and so on", "rejected": "yes, and no"},
    ]
    found = pairs_of(tmp_path, *rows, max_tokens=12)
    (tally,) = found.sources
    assert len(found.items) == tally.kept == 1 and tally.truncated == 0
    assert tally.dropped == {
        "chosen equals rejected": 1,
        "nothing to train within the length limit": 1,
        "equal within the length limit": 1,
    }


def test_a_pair_of_which_one_is_cut_counts_as_cut(tmp_path: Path):
    row = {"prompt": "Hi", "chosen": "yes, and so on", "rejected": "no"}
    (tally,) = pairs_of(tmp_path, row, max_tokens=12).sources
    # "u:Hi" and "a:no" are ten tokens with their ends.
    assert (tally.kept, tally.truncated, tally.tokens) == (1, 1, 12 + 10)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "yes", "rejected": "no"}, "there is no `prompt` that they answer"),
        (
            {"prompt": "Hi", "chosen": "yes", "rejected": [assistant("no")]},
            "`chosen` is a str and `rejected` a list",
        ),
        ({"chosen": [user("Hi")], "rejected": [user("Hi")]}, "end with the assistant's answer"),
        (
            {"chosen": [assistant("a")], "rejected": [assistant("b")]},
            "`chosen` has to begin with a question",
        ),
        ({"chosen": [{"role": "bot", "content": "a"}], "rejected": []}, "a role of system, user"),
        ({"chosen": [user("Hi"), assistant("a")], "rejected": []}, "`rejected` has to be a list"),
        ({"chosen": [user("Hi"), assistant("a")]}, "has no rejected, which format 'preference'"),
        (
            {"chosen": [user("Ali?"), assistant("3")], "rejected": [user("Bo?"), assistant("9")]},
            "answer different questions: they differ from turn 1 on",
        ),
        (
            {
                "chosen": [user("Hi"), assistant("a")],
                "rejected": [user("Hi"), assistant("a"), user("So?"), assistant("b")],
            },
            "they differ from turn 3 on, which is not an answer in both",
        ),
        (
            {
                "prompt": "Bye",
                "chosen": [user("Hi"), assistant("a")],
                "rejected": [user("Hi"), assistant("b")],
            },
            "`prompt` is 'Bye', which neither `chosen` nor `rejected` answers",
        ),
        (
            {
                "prompt": [user("Hi"), assistant("a"), user("Bye")],
                "chosen": [user("Hi"), assistant("a")],
                "rejected": [user("Hi"), assistant("b")],
            },
            "`prompt` is 'Bye'",
        ),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "No preference pair is left"),
    ],
)
def test_rows_that_are_no_pairs_are_refused_by_name(
    tmp_path: Path, row: dict[str, Any], message: str
):
    with pytest.raises(DataError, match=message):
        pairs_of(tmp_path, row)


def test_pairs_are_neither_imitated_nor_rewarded(tmp_path: Path):
    rows = source(tmp_path, {"prompt": "Hi", "chosen": "a", "rejected": "b"}, format="preference")
    with pytest.raises(DataError, match=r"are pairs, and .* is to be imitated"):
        load_examples([rows], Bytes(), max_tokens=100)
    with pytest.raises(DataError, match="no ground truth to reward"):
        load_prompts([rows], Bytes(), max_tokens=100)
