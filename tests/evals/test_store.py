"""What an evaluation leaves behind can be read again, or says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cameleer.errors import RunError
from cameleer.evals.base import Instance
from cameleer.evals.model import Answer
from cameleer.evals.store import Row, Store, encodable, read_rows, sha, write_rows
from cameleer.types import Score

CONFIG = {"format": 1, "model": {"name": "m", "template": "begin " * 50 + "end"}, "seed": 0}


def test_answers_come_back_as_they_were_given(tmp_path: Path):
    store = Store(tmp_path / "out", CONFIG)
    given = {("a:0", 0): Answer("1\n\u2028é\x85", 4, "eos"), ("a:0", 1): Answer("", 1, "length")}
    for (instance, sample), answer in given.items():
        store.add("a", instance, sample, answer)
    store.add("b", "a:0", 0, Answer("other", 1, "stop"))
    again = Store(tmp_path / "out", CONFIG)
    assert again.answers(["a", "b", "c"]) == {
        "a": given,
        "b": {("a:0", 0): Answer("other", 1, "stop")},
        "c": {},
    }
    assert not again.is_finished


def test_opening_an_evaluation_leaves_its_answers_alone(tmp_path: Path):
    Store(tmp_path / "out", CONFIG).add("a", "a:0", 0, Answer("1", 1, "eos"))
    with (tmp_path / "out/answers.jsonl").open("a") as file:
        file.write('{"another process writes')
    before = (tmp_path / "out/answers.jsonl").read_bytes()
    store = Store(tmp_path / "out", CONFIG)
    assert (tmp_path / "out/answers.jsonl").read_bytes() == before
    assert store.answers(["a"]) == {"a": {("a:0", 0): Answer("1", 1, "eos")}}
    store.add("a", "a:1", 0, Answer("2", 1, "eos"))
    assert list(store.answers(["a"])["a"]) == [("a:0", 0), ("a:1", 0)]


def test_a_line_damaged_in_the_middle_is_named(tmp_path: Path):
    store = Store(tmp_path / "out", CONFIG)
    (tmp_path / "out/answers.jsonl").write_text('{"bench\n{"benchmark": "a"}\n')
    with pytest.raises(RunError, match=r"answers\.jsonl:1 is not valid JSON"):
        store.answers(["a"])


def test_a_difference_far_into_a_text_is_shown(tmp_path: Path):
    Store(tmp_path / "out", CONFIG)
    other = {**CONFIG, "model": {"name": "m", "template": "begin " * 50 + "other"}}
    with pytest.raises(RunError) as error:
        Store(tmp_path / "out", other)
    assert "model.template is '" in str(error.value)
    assert "begin end', and here it is '" in str(error.value) and "begin other'." in str(
        error.value
    )
    with pytest.raises(RunError, match="its seed is 0, and here it is None"):
        Store(tmp_path / "out", {key: CONFIG[key] for key in ("format", "model")})


def test_the_same_weights_at_another_place_go_on_with_the_same_evaluation(tmp_path: Path):
    model = {"name": "m", "weights": "ab"}
    Store(tmp_path / "out", {**CONFIG, "model": model}).add("a", "a:0", 0, Answer("1", 1, "eos"))
    moved = Store(tmp_path / "out", {**CONFIG, "model": {**model, "name": "elsewhere/m"}})
    assert moved.answers(["a"])["a"]
    with pytest.raises(RunError, match=r"model\.weights is 'ab', and here it is 'cd'"):
        Store(tmp_path / "out", {**CONFIG, "model": {**model, "weights": "cd"}})


def test_a_damaged_configuration_is_named(tmp_path: Path):
    Store(tmp_path / "out", CONFIG)
    (tmp_path / "out/config.json").write_text('{"format"')
    with pytest.raises(RunError, match=r"Cannot read .*config\.json"):
        Store(tmp_path / "out", CONFIG)


def test_results_are_written_last_and_answers_go(tmp_path: Path):
    store = Store(tmp_path / "out", CONFIG)
    store.add("a", "a:0", 0, Answer("1", 1, "eos"))
    store.finish({"benchmarks": {}})
    assert store.is_finished and Store(tmp_path / "out", CONFIG).is_finished
    assert json.loads((tmp_path / "out/results.json").read_text()) == {"benchmarks": {}}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "results.json",
    ]


def test_rows_hold_all_that_scoring_saw(tmp_path: Path):
    truth = {"answer": "é", "rules": [1, 2]}
    instance = Instance("a:0", "1 + 1 =", truth, subject="sums", num_parts=2)
    scores = {"right": Score(1.0, reason="2"), "kept": Score(0.0, "undecided", "no time")}
    write_rows(
        tmp_path, "a", [Row(instance, 3, "1 + 1 =", Answer("it is 2", 4, "stop"), "2", scores)]
    )
    (row,) = read_rows(tmp_path, "a")
    assert json.loads(row.pop("truth")) == truth
    assert row == {
        "instance": "a:0",
        "sample": 3,
        "subject": "sums",
        "num_parts": 2,
        "prompt": "1 + 1 =",
        "prompt_sha": sha("1 + 1 ="),
        "output": "it is 2",
        "extraction": "2",
        "num_tokens": 4,
        "finish_reason": "stop",
        "scores": [
            {"metric": "right", "value": 1.0, "status": "scored", "reason": "2"},
            {"metric": "kept", "value": 0.0, "status": "undecided", "reason": "no time"},
        ],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain é \N{GRINNING FACE}", "plain é \N{GRINNING FACE}"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
        ("a\ud83d", "a\N{REPLACEMENT CHARACTER}"),
        ("\ude00\ud83d", "\N{REPLACEMENT CHARACTER}" * 2),
        ("\ufeffa", "\ufeffa"),
        ("", ""),
    ],
)
def test_halves_of_characters_are_joined_or_replaced(text: str, kept: str):
    assert encodable(text) == kept
    kept.encode()
