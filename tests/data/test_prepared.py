"""Prepared rows are read again where nothing that shapes them changed, and only there."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from data.test_prompts import assistant, user

from cameleer.data import prepared
from cameleer.data.chat import TULU, with_template
from cameleer.data.preference import load_pairs
from cameleer.data.prompts import Examples, Prompts, load_examples, load_prompts
from cameleer.data.sources import Source
from cameleer.errors import DataError
from cameleer.models.load import load_tokenizer

LETTERS = "abcdefgh"


@pytest.fixture(autouse=True)
def _small_sources_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_SMALL", 0)


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return load_tokenizer(str(tiny))


@pytest.fixture
def rows(tmp_path: Path) -> Source:
    """Rows that are conversations, questions, GSM8K's and pairs at once."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(letter)) + "\n" for letter in LETTERS))
    return Source(path=str(path), format="chat")


def row(letter: str) -> dict[str, Any]:
    return {
        "messages": [user(letter), assistant("one two")],
        "ground_truth": {"is": [letter, 1.5, None, "é\ud800"]},
        "dataset": "gsm8k",
        "question": letter,
        "answer": "one #### 1",
        "chosen": [user(letter), assistant("one")],
        "rejected": [user(letter), assistant("two")],
    }


@pytest.fixture
def examples(tmp_path: Path, rows: Source, tokenizer: Any) -> Callable[..., Examples]:
    """Loads them with the cache."""

    def load(sources: Sequence[Source] = (rows,), **changes: Any) -> Examples:
        options = {"max_tokens": 100, "cache": tmp_path / "cache", **changes}
        return load_examples(sources, tokenizer, **options)

    return load


def entries(tmp_path: Path) -> set[str]:
    assert not list((tmp_path / "cache").glob("*.partial"))
    names = {path.stem for path in (tmp_path / "cache").glob("*.json")}
    assert names == {path.stem for path in (tmp_path / "cache").glob("*.arrow")}
    return names


@pytest.fixture
def no_making(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, a row that is rendered fails the test."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("rows were rendered again")

    return lambda: monkeypatch.setattr(prepared, "_make", fail)


def test_what_is_read_is_what_was_made(
    tmp_path: Path, rows: Source, tokenizer: Any, no_making: Callable[[], None]
):
    loads: list[tuple[Any, Source]] = [
        (load_examples, rows),
        (load_pairs, dataclasses.replace(rows, format="preference", share=2.5)),
        (load_prompts, dataclasses.replace(rows, format="rlvr", count=3)),
    ]
    cache = tmp_path / "cache"

    def everything(cache: Path | None) -> list[Any]:
        found: list[Examples | Prompts] = [
            load([source, source], tokenizer, max_tokens=100, cache=cache) for load, source in loads
        ]
        return [(list(f.items), f.sources) if isinstance(f, Examples) else f for f in found]

    plain, made = everything(None), everything(cache)
    assert len(entries(tmp_path)) == 6, "of each load, two places"
    no_making()
    assert everything(cache) == made == plain
    prompts = plain[2]
    assert prompts.prompts[0].checks[0].truth == row(LETTERS[0])["ground_truth"]
    assert prompts.places[prompts.prompts[0].id] == (0, f"{rows.path}:1")


CHANGES: dict[str, Any] = {
    "format": "rlvr",
    "name": "other",
    "split": "test",
    "subset": "main",
    "revision": "0" * 40,
    "skip_rows": 1,
    "share": 0.5,
    "count": 3,
    "take": "first",
    "bad_rows": "skip",
    "license": "mit",
}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Source)])
def test_another_value_of_any_field_of_a_source_is_another_entry(
    field: str, tmp_path: Path, rows: Source, examples: Callable[..., Examples]
):
    if field == "path":
        other = shutil.copy(rows.path, tmp_path / "copy.jsonl")
        changes: dict[str, Any] = {"path": str(other)}
    elif field == "few_shot":
        rows = dataclasses.replace(rows, format="gsm8k")
        changes = {"few_shot": True}
    else:
        changes = {field: CHANGES[field]}
    examples((rows,), max_tokens=10_000)
    examples((dataclasses.replace(rows, **changes),), max_tokens=10_000)
    assert len(entries(tmp_path)) == 2


def changed_bytes(rows: Source, tokenizer: Any, monkeypatch: Any) -> dict[str, Any]:
    path = Path(rows.path)
    before = path.stat()
    path.write_text(path.read_text().replace("two", "six"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    return {}


def another_special_token(rows: Source, tokenizer: Any, monkeypatch: Any) -> dict[str, Any]:
    tokenizer.add_special_tokens({"additional_special_tokens": ["three"]})
    return {}


def another_word(rows: Source, tokenizer: Any, monkeypatch: Any) -> dict[str, Any]:
    tokenizer.add_tokens(["one two"])
    return {}


def another_end(rows: Source, tokenizer: Any, monkeypatch: Any) -> dict[str, Any]:
    tokenizer.eos_token = "three"
    return {}


def another_template(rows: Source, tokenizer: Any, monkeypatch: Any) -> dict[str, Any]:
    tokenizer.chat_template = TULU.replace("<|user|>", "one")
    return {}


def another_library(rows: Source, tokenizer: Any, monkeypatch: Any) -> dict[str, Any]:
    version = prepared.metadata.version
    prepared._software.cache_clear()
    monkeypatch.setattr(
        prepared.metadata,
        "version",
        lambda name: "0.0" if name == "tokenizers" else version(name),
    )
    return {}


def other_code(rows: Source, tokenizer: Any, monkeypatch: Any) -> dict[str, Any]:
    here = Path(prepared.__file__).parent
    copy = Path(rows.path).parent / "code"
    shutil.copytree(here, copy)
    changed = copy / "fewshot" / "gsm8k_8.json"
    changed.write_text(changed.read_text().replace("15 trees", "16 trees"))
    prepared._software.cache_clear()
    monkeypatch.setattr(prepared, "__file__", str(copy / "prepared.py"))
    return {}


@pytest.mark.parametrize(
    "change",
    [
        changed_bytes,
        another_special_token,
        another_word,
        another_end,
        another_template,
        another_library,
        other_code,
        lambda *_: {"max_tokens": 99},
        lambda *_: {"seed": 2},
    ],
)
def test_a_change_of_whatever_shapes_the_rows_is_another_entry(
    change: Callable[..., dict[str, Any]],
    tmp_path: Path,
    rows: Source,
    tokenizer: Any,
    examples: Callable[..., Examples],
    monkeypatch: pytest.MonkeyPatch,
):
    examples()
    try:
        examples(**change(rows, tokenizer, monkeypatch))
    finally:
        monkeypatch.undo()
        prepared._software.cache_clear()
    assert len(entries(tmp_path)) == 2


def test_prompts_and_examples_of_the_same_rows_are_two_entries(
    tmp_path: Path, rows: Source, tokenizer: Any
):
    asked = dataclasses.replace(rows, format="rlvr")
    for load in (load_examples, load_prompts):
        found: Any = load([asked], tokenizer, max_tokens=100, cache=tmp_path / "cache")
        assert found
    assert len(entries(tmp_path)) == 2


def test_a_tokenizer_that_was_only_used_is_the_same(
    tmp_path: Path, tokenizer: Any, examples: Callable[..., Examples]
):
    examples()
    with_template(tokenizer, "tokenizer", "tiny")
    tokenizer.decode(tokenizer("one two")["input_ids"])
    examples()
    assert len(entries(tmp_path)) == 1


def a_function(split: str) -> Iterator[dict[str, Any]]:
    yield row("a")


def test_rows_of_a_function_are_made_at_each_start(
    tmp_path: Path, examples: Callable[..., Examples]
):
    examples((Source(path=f"{__name__}:a_function", format="chat"),))
    assert not (tmp_path / "cache").exists()


def test_many_rows_are_announced_where_they_are_made(
    tmp_path: Path,
    examples: Callable[..., Examples],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(prepared, "_MANY", len(LETTERS))
    examples()
    assert f"preparing {len(LETTERS)} rows of {tmp_path}/rows.jsonl" in capsys.readouterr().out
    examples()
    assert not capsys.readouterr().out


def test_few_rows_are_not_kept(
    tmp_path: Path, examples: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prepared, "_SMALL", len(LETTERS) + 1)
    examples()
    assert not (tmp_path / "cache").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["arrow", "json"])
@pytest.mark.parametrize(
    "damage",
    [cut, flip, Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_text("7")],
)
def test_a_damaged_entry_is_made_anew(
    damage: Callable[[Path], None],
    suffix: str,
    tmp_path: Path,
    examples: Callable[..., Examples],
    no_making: Callable[[], None],
):
    before = examples()
    (name,) = entries(tmp_path)
    path = tmp_path / "cache" / f"{name}.{suffix}"
    # What is being read stays as it was: the file is replaced, not written over.
    items, content = list(before.items), path.read_bytes()
    path.rename(path.with_suffix(".aside"))
    path.write_bytes(content)
    damage(path)
    after = examples()
    assert (list(after.items), after.sources) == (items, before.sources)
    assert path.read_bytes() == content and list(before.items) == items
    no_making()
    examples()


def test_what_a_killed_process_left_is_no_entry_and_goes_after_a_day(
    tmp_path: Path, examples: Callable[..., Examples]
):
    (tmp_path / "cache").mkdir()
    old, new = (tmp_path / "cache" / f"{age}.partial" for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"ARROW1")
    os.utime(old, (time.time() - 90_000,) * 2)
    examples()
    assert new.exists() and not old.exists()


def test_an_error_leaves_no_entry(tmp_path: Path, rows: Source, examples: Callable[..., Examples]):
    with Path(rows.path).open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:9: not valid JSON"):
        examples()
    assert entries(tmp_path) == set()


def test_a_cache_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, examples: Callable[..., Examples], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "cache").write_text("a file, not a directory")
    assert len(examples().items) == len(LETTERS)
    told = capsys.readouterr().out
    assert f"cannot be kept in {tmp_path / 'cache'}: " in told and "made anew at each start" in told


def test_a_disk_that_fills_up_costs_nothing_else(
    tmp_path: Path, examples: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared.os, "replace", full)
    assert len(examples().items) == len(LETTERS)
    assert list((tmp_path / "cache").iterdir()) == []


def test_rows_on_the_disk_stay_there_until_they_are_asked_for(
    tmp_path: Path, rows: Source, examples: Callable[..., Examples]
):
    long = {"messages": [user("a"), assistant("one " * 3_000)]}
    Path(rows.path).write_text((json.dumps(long) + "\n") * 100)
    examples(max_tokens=10_000)
    before = pa.total_allocated_bytes()
    found = examples(max_tokens=10_000)
    held = pa.total_allocated_bytes() - before
    (name,) = entries(tmp_path)
    size = (tmp_path / "cache" / f"{name}.arrow").stat().st_size
    assert size > 1_000_000 and held < size / 20
    # "<|user|> a <|assistant|>" and the answer with its end.
    assert len(found.items[99][0].tokens) == 3_004


def test_items_are_found_by_number_from_both_ends(
    rows: Source, tokenizer: Any, examples: Callable[..., Examples]
):
    pairs = dataclasses.replace(rows, format="preference")
    found = load_pairs([pairs, pairs], tokenizer, max_tokens=100).items
    assert len(found) == 16
    assert found[-1] == found[15] == list(found)[15]
    assert found[7] == found[-1] and found[6] != found[7]
    assert found[14:] == [found[14], found[15]]
    for beyond in (16, -17):
        with pytest.raises(IndexError):
            found[beyond]
    chosen, rejected = found[0]
    assert chosen.tokens != rejected.tokens and chosen.source == "preference"
    assert type(chosen.tokens[0]) is int and type(chosen.mask[0]) is bool


def test_two_processes_may_make_the_same_entry(tmp_path: Path, rows: Source, tiny: Path):
    code = (
        "import sys; from pathlib import Path; from cameleer.data import prepared; "
        "from cameleer.data.prompts import load_examples; "
        "from cameleer.data.sources import Source; "
        "from cameleer.models.load import load_tokenizer; prepared._SMALL = 0; "
        f"tokenizer = load_tokenizer({str(tiny)!r}); sys.stdin.read(1); "
        f"found = [load_examples([Source(path={rows.path!r}, format='chat', share=200.0)], "
        f"tokenizer, max_tokens=100 + i, cache=Path({str(tmp_path / 'cache')!r})) "
        "for i in range(5)]; print(hash(tuple(x for f in found for x in f.items)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    said = [process.stdin for process in both]
    time.sleep(0.1)
    for stdin in said:
        assert stdin is not None
        stdin.write("x")
        stdin.flush()
    one, other = (process.communicate()[0] for process in both)
    assert one == other and one.strip()
    assert len(entries(tmp_path)) == 5
