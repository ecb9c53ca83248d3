"""A release whose files are not those that were released is found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import nudge

from cameleer.cli import main
from cameleer.errors import RunError
from cameleer.release import record
from cameleer.release.record import RECORD, read_record, verify_files


def set_in(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_untouched_release_has_all_its_files(copy: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["release", "verify", str(copy)]) == 0
    files, logits = capsys.readouterr().out.splitlines()
    # Weights, config, 3 of the tokenizer, generation config, recipe, card and 2 curves.
    assert files == "verified: 10 files are as they were released"
    assert logits.startswith("verified: logits within ")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "recipe.json",
        "model.safetensors",
    ],
)
def test_a_changed_or_absent_file_is_named(copy: Path, name: str):
    path = copy / name
    last = path.read_bytes()[-1]
    # Of the same size, so that the checksum alone tells.
    path.write_bytes(path.read_bytes()[:-1] + bytes([last ^ 1]))
    with pytest.raises(RunError, match=rf"not what was released.*: {name} was changed\. Do not"):
        verify_files(copy)
    path.unlink()
    with pytest.raises(RunError, match=rf"not what was released.*: {name} is absent\. Do not"):
        verify_files(copy)


@pytest.mark.parametrize("with_run", [True, False])
def test_the_command_names_every_file_that_differs(
    copy: Path, real_ladder: Path, with_run: bool, capsys: pytest.CaptureFixture[str]
):
    set_in(copy / "generation_config.json", temperature=0.1, top_k=1)
    set_in(copy / "tokenizer.json", added_tokens=[])
    nudge(copy, 0.3)
    (copy / "recipe.json").unlink()
    (copy / "README.md").unlink()
    against = ["--against", str(real_ladder)] if with_run else []
    assert main(["release", "verify", str(copy), *against]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "README.md is absent, recipe.json is absent, generation_config.json was changed, "
        "model.safetensors was changed, tokenizer.json was changed. Do not use it"
    ) in said
    assert "verified:" not in said


def test_an_edited_card_is_a_note(copy: Path, capsys: pytest.CaptureFixture[str]):
    (copy / "README.md").write_text("My own words.")
    (copy / "LICENSE").write_text("MIT")
    (copy / ".git").mkdir()
    (copy / ".git/config").write_text("")
    (copy / ".gitattributes").write_text("")
    assert main(["release", "verify", str(copy)]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "note: README.md was edited since the release",
        "note: LICENSE is not part of the release",
        "verified: 9 files are as they were released",
    ]


def test_a_disk_that_cannot_be_read_is_an_error(copy: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(record, "checksum", broken)
    with pytest.raises(RunError, match=r"Cannot read the files of .*copy: Input/output error\."):
        verify_files(copy)


WHOLE = {"format": 1, "run": "feedbeef", "stage": "grpo", "step": 4, "files": {"a": [1, 2]}}


def test_a_whole_record_is_read(tmp_path: Path):
    (tmp_path / RECORD).write_text(json.dumps(WHOLE))
    assert read_record(tmp_path).files == {"a": [1, 2]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"format": 1, "run"',
        json.dumps({**WHOLE, "format": 2}),
        json.dumps({**WHOLE, "step": "4"}),
        json.dumps({**WHOLE, "files": {}}),
        json.dumps({**WHOLE, "files": ["a"]}),
        *(json.dumps({k: v for k, v in WHOLE.items() if k != key}) for key in WHOLE),
    ],
)
def test_a_damaged_record_is_said_to_be_damaged(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / RECORD).write_text(text)
    assert main(["release", "verify", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "Cannot read" in said and "Release anew from the run, or fetch" in said


def test_what_is_no_release_cannot_be_verified(tmp_path: Path):
    with pytest.raises(RunError, match=rf"holds no {RECORD}"):
        read_record(tmp_path)
