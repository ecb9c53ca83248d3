"""Rows that cannot be used end a run by name, or are left out and counted by reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.test_prompts import Bytes, Picky, assistant, rlvr, source, user

from cameleer.data.preference import load_pairs
from cameleer.data.prompts import load_examples, load_prompts
from cameleer.data.sources import Source
from cameleer.errors import DataError

SYSTEM = {"role": "system", "content": "Be brief."}
NO_PAIRING = "no verifier for each ground truth"
GOOD = [user("Hi"), assistant("Yo")]

TALKS: list[tuple[Any, str]] = [
    ({"text": "Hi"}, "no messages"),
    ({"messages": None}, "no messages"),
    ({"messages": []}, "no turns"),
    ({"messages": "Hi"}, "no turns"),
    ({"messages": {"role": "user", "content": "Hi"}}, "no turns"),
    ({"messages": ["Hi"]}, "an unknown role"),
    ({"messages": [{"role": "gpt", "content": "Hi"}]}, "an unknown role"),
    ({"messages": [{"role": ["user"], "content": "Hi"}]}, "an unknown role"),
    ({"messages": [{"from": "user", "value": "Hi"}]}, "an unknown role"),
    ({"messages": [{"role": "user", "content": ["Hi"]}]}, "content that is no text"),
    ({"messages": [{"role": "user"}]}, "content that is no text"),
    ({"messages": [user("Hi"), assistant("")]}, "an empty turn"),
    ({"messages": [user(" \n"), assistant("Yo")]}, "an empty turn"),
    ({"messages": [{**SYSTEM, "content": ""}, *GOOD]}, "an empty turn"),
    ({"messages": [SYSTEM, SYSTEM, *GOOD]}, "two system turns"),
    ({"messages": [*GOOD, SYSTEM, *GOOD]}, "a system turn that is not the first"),
    ({"messages": [assistant("Yo"), user("Hi")]}, "an assistant's turn first"),
    ({"messages": [SYSTEM, assistant("Yo")]}, "an assistant's turn first"),
    ({"messages": [user("Hi\ud800"), assistant("Yo")]}, "half a character"),
    ("{broken", "not valid JSON"),
    ("[" * 100_000, "not valid JSON"),
    ('{"messages": ' + "9" * 5_000 + "}", "not valid JSON"),
    ("[1, 2]", "not a JSON object"),
    (b'{"messages": "caf\xe9"}', "not UTF-8 text"),
]


def file_of(tmp_path: Path, *rows: Any, **fields: Any) -> Source:
    """Lines that are objects, text or bytes."""
    lines = [
        r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode()
        for r in rows
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return Source(path=str(path), **{"format": "chat", **fields})


@pytest.mark.parametrize(("row", "reason"), TALKS, ids=[str(i) for i in range(len(TALKS))])
def test_a_bad_conversation_is_an_error_or_counted(row: Any, reason: str, tmp_path: Path):
    rows = ({"messages": GOOD}, row, {"messages": GOOD})
    with pytest.raises(DataError) as raised:
        load_examples([file_of(tmp_path, *rows)], Bytes(), max_tokens=100)
    assert str(raised.value).startswith(f"{tmp_path}/rows.jsonl:2: ")
    found = load_examples([file_of(tmp_path, *rows, bad_rows="skip")], Bytes(), max_tokens=100)
    (tally,) = found.sources
    assert tally.dropped == {reason: 1}
    assert (tally.rows, tally.taken, tally.kept, len(found.items)) == (3, 3, 2, 2)


def test_bad_rows_are_counted_as_often_as_they_are_taken(tmp_path: Path):
    rows = file_of(tmp_path, {"messages": GOOD}, "{broken", bad_rows="skip", share=3.0)
    (tally,) = load_examples([rows], Bytes(), max_tokens=100).sources
    assert (tally.rows, tally.taken, tally.kept, tally.dropped) == (2, 6, 3, {"not valid JSON": 3})


def test_nothing_but_bad_rows_is_an_error_with_their_reasons(tmp_path: Path):
    rows = file_of(tmp_path, "{broken", {"messages": []}, bad_rows="skip")
    said = r"\(1 dropped: not valid JSON; 1 dropped: no turns\)"
    with pytest.raises(DataError, match=said):
        load_examples([rows], Bytes(), max_tokens=100)


@pytest.mark.parametrize(
    ("row", "fields", "reason"),
    [
        (rlvr(user("")), {}, "an empty turn"),
        (rlvr(SYSTEM), {}, "a prompt without a question at its end"),
        (rlvr(user("?"), truth=None), {}, "no ground_truth"),
        ({**rlvr(user("?")), "dataset": ["gsm8k", "math"]}, {}, NO_PAIRING),
        ({**rlvr(user("?"), truth=["2"]), "dataset": ["gsm8k", "math"]}, {}, NO_PAIRING),
        ({**rlvr(user("?"), truth=["2"]), "dataset": [7]}, {}, NO_PAIRING),
        ({**rlvr(user("?"), truth=[]), "dataset": []}, {}, NO_PAIRING),
        (rlvr(user("?"), dataset=7), {}, NO_PAIRING),
        ({"question": " ", "answer": "#### 1"}, {"format": "gsm8k"}, "an empty turn"),
        ({"question": "?", "answer": "1"}, {"format": "gsm8k"}, "an answer without '####'"),
        ({"problem": "?", "solution": "1"}, {"format": "math"}, "a solution without \\boxed"),
    ],
)
def test_a_bad_prompt_is_an_error_or_counted(
    row: dict[str, Any], fields: dict[str, Any], reason: str, tmp_path: Path
):
    good = {**rlvr(user("?")), "question": "?", "answer": "#### 1", "problem": "?"}
    rows = (good, row)
    with pytest.raises(DataError, match=r"rows0\.jsonl:2: "):
        load_prompts([source(tmp_path, *rows, **fields)], Bytes(), max_tokens=100)
    skipping = source(tmp_path, *rows, bad_rows="skip", **fields)
    found = load_prompts([skipping], Bytes(), max_tokens=100)
    assert len(found.prompts) == 1 and found.sources[0].dropped == {reason: 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "chosen": "yes", "rejected": ""}, "an empty turn"),
        ({"prompt": "", "chosen": "yes", "rejected": "no"}, "an empty turn"),
        ({"chosen": "yes", "rejected": "no"}, "no prompt"),
        ({"prompt": "Hi", "chosen": "yes"}, "no rejected"),
        ({"prompt": "Hi", "chosen": "yes", "rejected": GOOD}, "chosen and rejected of two kinds"),
        ({"chosen": GOOD, "rejected": GOOD[:1]}, "no question, or no answer"),
        ({"chosen": GOOD, "rejected": [SYSTEM, SYSTEM, *GOOD]}, "two system turns"),
        ({"prompt": "Hi", "chosen": "no", "rejected": "no"}, "chosen equals rejected"),
    ],
)
def test_a_bad_pair_is_counted(row: dict[str, Any], reason: str, tmp_path: Path):
    good = {"prompt": "Hi", "chosen": "yes", "rejected": "no"}
    rows = source(tmp_path, good, row, format="preference", bad_rows="skip")
    found = load_pairs([rows], Bytes(), max_tokens=100)
    assert len(found.items) == 1 and found.sources[0].dropped == {reason: 1}


def test_a_worked_solution_without_words_is_an_empty_turn(tmp_path: Path):
    good = {"problem": "?", "solution": "\\boxed{4}"}
    rows = source(tmp_path, good, {**good, "solution": " ", "answer": "4"}, format="math")
    with pytest.raises(DataError, match=r"jsonl:2: turn 2, of the assistant, is empty"):
        load_examples([rows], Bytes(), max_tokens=100)


def test_a_row_that_the_template_refuses_is_counted(tmp_path: Path):
    rows = file_of(tmp_path, {"messages": GOOD}, {"messages": [SYSTEM, *GOOD]}, bad_rows="skip")
    (tally,) = load_examples([rows], Picky(), max_tokens=100).sources
    assert tally.dropped == {"not to be rendered with this chat template": 1}


def test_a_row_of_another_use_is_an_error_however_bad_rows_are_taken(tmp_path: Path):
    pairs = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    rows = source(tmp_path, pairs, format="preference", bad_rows="skip")
    with pytest.raises(DataError, match="are pairs, and"):
        load_examples([rows], Bytes(), max_tokens=100)


def test_a_truth_that_no_file_could_hold_is_named(tmp_path: Path):
    found = Source(path=f"{__name__}:with_a_set")
    with pytest.raises(DataError, match=r"with_a_set:1: the ground truth cannot be kept: .*set"):
        load_prompts([found], Bytes(), max_tokens=100)


def with_a_set(split: str) -> Any:
    yield rlvr(user("?"), truth={1, 2})
