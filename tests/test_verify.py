"""``cameleer verify``: errors on a table, and a file of completions scored."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cameleer.cli import main
from cameleer.verifiers.cases import CASES, Case
from cameleer.verify import verify_table

NO_COMMAS = json.dumps({"func_name": "validate_no_commas"})
ROWS: list[dict[str, Any]] = [
    {"completion": "#### 18.0", "ground_truth": "18", "dataset": "gsm8k"},
    {"response": "#### 19", "answer": "9 * 2 = 18\n#### 18", "dataset": "gsm8k"},
    {"text": r"\boxed{\frac{2}{4}}", "truth": "0.5", "dataset": "MATH"},
    {"output": "No comma here.", "ground_truth": NO_COMMAS, "dataset": "ifeval"},
    {"completion": "#### 18", "ground_truth": "eighteen", "dataset": "gsm8k"},
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def cells(output: str) -> list[list[str]]:
    """The rows of the printed table, without its heading."""
    lines = [line.split("│")[1:-1] for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_is_scored_and_counted_by_verifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    file, output = written(tmp_path / name, ROWS), tmp_path / "new" / "scores.jsonl"
    assert main(["verify", str(file), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert cells(printed) == [
        ["gsm8k", "3", "1", "1", "0", "1", "0.5000 of 2 scored"],
        ["math", "1", "1", "0", "0", "0", "1.0000 of 1 scored"],
        ["ifeval", "1", "1", "0", "0", "0", "1.0000 of 1 scored"],
    ]
    assert f"invalid, the first is {file}:5: ground truth 'eighteen'" in printed
    verdicts = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(v["row"], v["verifier"], v["value"], v["status"]) for v in verdicts] == [
        (f"{file}:1", "gsm8k", 1.0, "scored"),
        (f"{file}:2", "gsm8k", 0.0, "scored"),
        (f"{file}:3", "math", 1.0, "scored"),
        (f"{file}:4", "ifeval", 1.0, "scored"),
        (f"{file}:5", "gsm8k", 0.0, "invalid"),
    ]
    assert all(verdict["reason"] for verdict in verdicts)


def test_published_rules_score_a_parquet_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = pa.Table.from_pylist([{"text": "#### 18.0", "answer": "18"}] * 3)
    pq.write_table(table, tmp_path / "rows.parquet")
    arguments = ["verify", str(tmp_path / "rows.parquet"), "--verifier", "gsm8k"]
    assert main([*arguments, "--compat", "tulu3"]) == 0
    assert cells(capsys.readouterr().out)[0][2] == "0"
    assert main(arguments) == 0
    assert cells(capsys.readouterr().out)[0][2] == "3"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "5", "answer": "5"}, "2: the row has no column dataset. Name one of gsm8k"),
        (
            {"completion": "5", "answer": "5", "dataset": "maths"},
            "2: the row names the verifier 'maths' in dataset. Did you mean 'math'?",
        ),
        ({"answer": "5", "dataset": "math"}, "2: the row has none of the columns completion, resp"),
        ({"text": "5", "dataset": "math"}, "2: the row has none of the columns ground_truth, answ"),
        ({"text": "5", "scores": [], "dataset": "math"}, "not the ground truths"),
        ({"text": ["5"], "answer": "5", "dataset": "math"}, "2: the completion is of type list"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], message: str
):
    file = written(tmp_path / "rows.jsonl", [ROWS[0], row])
    assert main(["verify", str(file)]) == 1
    assert message in capsys.readouterr().out


def test_a_missing_an_empty_and_a_broken_file_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = written(tmp_path / "rows.jsonl", [])
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    for path, message in (
        (tmp_path / "row.jsonl", "row.jsonl does not exist. Did you mean 'rows.jsonl'?"),
        (tmp_path, "is a directory"),
        (file, "has no rows"),
        (broken, "broken.jsonl:1: not valid JSON"),
    ):
        assert main(["verify", str(path)]) == 1
        assert message in capsys.readouterr().out


def test_the_completions_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = written(tmp_path / "rows.jsonl", ROWS)
    assert main(["verify", str(file), "--output", str(file)]) == 1
    assert "would overwrite" in capsys.readouterr().out and len(file.read_text()) > 100


def test_options_of_a_file_need_a_file(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["verify", "--compat", "tulu3"])
    assert "together with a file" in capsys.readouterr().err


def test_the_table_shows_who_errs_where(capsys: pytest.CaptureFixture[str]):
    def about(text: str) -> Case:
        return next(case for case in CASES if case.text == text)

    cases = [about(text) for text in ("#### 18.0", r"\boxed{2+3}", "So it is.")]
    assert verify_table(cases) == 0
    printed = capsys.readouterr().out
    assert cells(printed) == [
        ["gsm8k", "ours", "1", "0", "0", "0", "0"],
        ["gsm8k", "tulu3", "1", "0", "0", "1", "0"],
        ["math", "ours", "1", "1", "0", "0", "0"],
        ["math", "tulu3", "1", "1", "1", "0", "0"],
        ["ifeval", "ours", "1", "0", "0", "0", "0"],
        ["ifeval", "tulu3", "1", "0", "0", "0", "0"],
    ]
    assert "tulu3 math, false accepts: '\\boxed{2+3}' for '5' (work that is not" in printed


def test_a_false_verdict_of_ours_is_listed_and_fails(capsys: pytest.CaptureFixture[str]):
    cases = [
        Case("gsm8k", "#### 18", "18", False, "not so"),
        Case("gsm8k", "#### 18", "19", True, "not so"),
        Case("gsm8k", "#### 18", "eighteen", True, "no truth"),
    ]
    assert verify_table(cases) == 1
    printed = capsys.readouterr().out
    assert cells(printed)[0] == ["gsm8k", "ours", "3", "1", "1", "1", "1"]
    assert "ours gsm8k, undecided: '#### 18' for 'eighteen' (no truth)" in printed


def test_without_antlr_the_published_rules_for_mathematics_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("cameleer.verifiers.tulu3._antlr", lambda: "4.9.3")
    assert verify_table([case for case in CASES if case.verifier == "math"][:3]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "not compared: Math(compat='tulu3') reads LaTeX with sympy" in out and "4.9.3" in out
    assert out.count("│ math │") == 1
