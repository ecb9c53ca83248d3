"""Rows from files, hubs and functions; and what is said where they cannot be read."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import on_the_hub, read_rows

from cameleer.data.sources import Row, Source, is_local, open_source
from cameleer.errors import DataError

ROW = {"messages": [{"role": "user", "content": "1 + 1?"}], "ground_truth": "2", "dataset": "gsm8k"}


def written(path: Path, *lines: str | dict[str, Any]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def error_of(path: Path | str, **fields: Any) -> str:
    with pytest.raises(DataError) as raised:
        read_rows(Source(path=str(path), **fields))
    return str(raised.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_every_kind_of_file_gives_the_same_rows_with_their_lines(name: str, tmp_path: Path):
    path, rows = tmp_path / name, [{**ROW, "ground_truth": str(i)} for i in range(3)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        written(path, *rows)
    found = read_rows(Source(path=str(path)))
    assert [row.fields for row in found] == rows
    assert [row.origin for row in found] == [f"{path}:{i}" for i in (1, 2, 3)]


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path):
    path = written(tmp_path / "rows.jsonl", ROW, "", "   ", ROW)
    assert [row.origin for row in read_rows(Source(path=str(path)))] == [f"{path}:1", f"{path}:4"]


def test_the_first_so_many_rows_are_read_and_no_further(tmp_path: Path):
    path = written(tmp_path / "rows.jsonl", ROW, ROW, "{broken")
    assert len(read_rows(Source(path=str(path), count=2, take="first"))) == 2
    assert "rows.jsonl:3" in error_of(path, count=3, take="first")


def test_skipped_rows_are_those_that_another_stage_takes(tmp_path: Path):
    rows = [{**ROW, "n": n} for n in range(5)]
    path = str(written(tmp_path / "rows.jsonl", *rows))
    first, second = (
        [row.fields["n"] for row in read_rows(Source(path=path, **part))]
        for part in ({"count": 2, "take": "first"}, {"skip_rows": 2})
    )
    assert (first, second) == ([0, 1], [2, 3, 4])
    both = read_rows(Source(path=path, skip_rows=1, count=2, take="first"))
    assert [row.origin.rpartition(":")[2] for row in both] == ["2", "3"]
    assert "rows.jsonl has no rows after the first 5." in error_of(Path(path), skip_rows=5)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_line_that_is_not_json_is_named_with_its_column(name: str, tmp_path: Path):
    path = written(tmp_path / name, ROW, '{"messages": [}')
    message = error_of(path)
    assert message.startswith(f"{path}:2: not valid JSON")
    assert "column 15" in message and "mend or delete" in message


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"question": "caf\xe9"}\n')
    assert error_of(path).startswith(f"{path}:2: not UTF-8")


@pytest.mark.parametrize(("line", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("3", "int")])
def test_json_that_is_not_an_object_is_named(line: str, kind: str, tmp_path: Path):
    path = written(tmp_path / "rows.jsonl", ROW, line)
    assert error_of(path) == f"{path}:2: a {kind} where a JSON object is expected."


@pytest.mark.parametrize(
    ("format", "row", "missing"),
    [
        ("rlvr", {"messages": [], "dataset": "gsm8k"}, "ground_truth"),
        ("rlvr", {**ROW, "ground_truth": None}, "ground_truth"),
        ("gsm8k", {"question": "1 + 1?"}, "answer"),
        ("math", {"problem": "1 + 1?", "level": 1}, "solution or answer"),
        ("chat", {"conversations": []}, "messages"),
    ],
)
def test_a_missing_column_is_named_with_those_there_are(
    format: Any, row: dict[str, Any], missing: str, tmp_path: Path
):
    good = {**ROW, "question": "?", "answer": "#### 1", "problem": "?"}
    path = written(tmp_path / "rows.jsonl", good, row)
    message = error_of(path, format=format)
    assert message.startswith(f"{path}:2: the row has no {missing}, which format '{format}' needs")
    present = ", ".join(sorted(name for name, value in row.items() if value is not None))
    assert f"(it has {present})" in message


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_without_rows_is_refused(name: str, tmp_path: Path):
    assert error_of(written(tmp_path / name)) == (
        f"{tmp_path / name} has no rows. Training needs at least one."
    )


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path: Path):
    written(tmp_path / "train.jsonl", ROW)
    message = error_of(tmp_path / "trian.jsonl")
    assert message.startswith(f"{tmp_path / 'trian.jsonl'} does not exist. Did you mean 'train.")


def test_a_missing_file_in_a_missing_directory_is_refused(tmp_path: Path):
    assert "does not exist. Paths are taken from" in error_of(tmp_path / "no" / "train.parquet")


def test_the_home_directory_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "rows.jsonl", ROW)
    assert len(read_rows(Source(path="~/rows.jsonl"))) == 1


def test_parquet_that_is_none_is_refused(tmp_path: Path):
    path = written(tmp_path / "rows.parquet", ROW)
    assert error_of(path).startswith(f"{path} is not a readable parquet file: ")


def test_parquet_whose_pages_are_damaged_is_refused(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": "x" * 5000}]), path)
    content = bytearray(path.read_bytes())
    # Behind the magic bytes lies the first page; the footer, which is read first, stays whole.
    content[4:60] = bytes(56)
    path.write_bytes(content)
    assert error_of(path).startswith(f"{path} is not a readable parquet file: ")


@pytest.mark.parametrize("damage", ["plain", "cut", "flipped"])
def test_gzip_that_is_damaged_is_refused(damage: str, tmp_path: Path):
    path = written(tmp_path / "rows.jsonl.gz", *[{**ROW, "id": i * i} for i in range(500)])
    content = path.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes(b ^ 255 for b in content[half : half + 40])
    path.write_bytes({"plain": b'{"a": 1}\n', "cut": content[:half], "flipped": flipped}[damage])
    # What a flipped byte decompresses to may be found wrong as text before the file ends.
    assert re.search(r"not a whole gzip file|not valid JSON|not UTF-8", error_of(path))


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path: Path):
    message = error_of(written(tmp_path / "rows.jsonl", ROW), format="gms8k")
    assert "unknown format 'gms8k'. Did you mean 'gsm8k'?" in message


def test_worked_examples_before_prompts_that_are_whole_are_refused(tmp_path: Path):
    message = error_of(written(tmp_path / "rows.jsonl", ROW), few_shot=True)
    assert "asks for few_shot with format 'rlvr'" in message


def test_a_hub_that_cannot_be_reached_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Both packages read the variable when they are imported, which another test may have done.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    message = error_of("nobody/has-this-data-set", split="test")
    assert time.monotonic() - began < 5
    assert message.startswith("nobody/has-this-data-set[test] could not be loaded: ")
    assert "Check the name, split and network, or give a local .jsonl or .parquet" in message


def test_a_data_set_of_the_hub_has_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commit = "0123456789abcdef" * 2 + "01234567"
    on_the_hub(monkeypatch, tmp_path, "nobody/rows", commit, [ROW, {**ROW, "dataset": "math"}])
    opened = open_source(Source(path="nobody/rows"))
    assert (opened.num_rows, opened.commit, opened.sha256) == (2, commit, "")
    # As many times as it is asked.
    for _ in range(2):
        entries = list(opened.entries())
        assert entries[1] == Row({**ROW, "dataset": "math"}, "nobody/rows[train]:2")


def test_what_the_hub_does_not_name_by_a_commit_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    on_the_hub(monkeypatch, tmp_path, "nobody/rows", "not a commit", [ROW])
    assert open_source(Source(path="nobody/rows")).commit == ""


def some_rows(split: str) -> Iterator[dict[str, Any]]:
    yield {**ROW, "ground_truth": split}
    yield {**ROW, "ground_truth": "2"}


def bad_rows(split: str) -> Iterator[Any]:
    yield "not a row"


def test_a_function_is_called_with_the_split():
    rows = read_rows(Source(path=f"{__name__}:some_rows", split="test"))
    assert [row.fields["ground_truth"] for row in rows] == ["test", "2"]
    assert rows[1].origin == f"{__name__}:some_rows:2"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module:rows", "No module named 'no_such_module'"),
        (f"{__name__}:no_such_function", "no_such_function"),
    ],
)
def test_a_function_that_cannot_be_imported_is_refused(path: str, said: str):
    message = error_of(path)
    assert message.startswith(f"The data source {path} cannot be imported:") and said in message
    assert "has to be module:function" in message


def test_a_function_that_yields_no_rows_of_columns_is_refused():
    assert error_of(f"{__name__}:bad_rows") == (
        f"{__name__}:bad_rows:1: a str where a dict is expected."
    )


def test_only_hub_ids_need_a_network(tmp_path: Path):
    assert is_local(str(tmp_path)) and is_local("no/such.jsonl") and is_local("module:function")
    assert not is_local("openai/gsm8k")


def test_the_rows_beside_the_repository_can_be_read(shared_data: Path):
    rows = read_rows(Source(path=str(shared_data / "rlvr" / "schema_sample.jsonl")))
    assert len(rows) == 45
    gsm8k = read_rows(Source(path=str(shared_data / "gsm8k" / "train.jsonl.gz"), format="gsm8k"))
    assert len(gsm8k) == 7473
