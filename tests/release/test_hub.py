"""Pushing, to something that stands where the hub's client would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_llama
from made_runs import made, made_checkpoint

from cameleer.cli import main
from cameleer.errors import RunError
from cameleer.release import hub
from cameleer.release.hub import push

TOKEN = "hf_notarealtoken"


class LocalHub:
    """Keeps what it is told; fails where it is asked to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self._error = error

    def create_repo(self, repo: str, **options: Any) -> None:
        self.calls.append(("create_repo", {"repo": repo, **options}))

    def create_branch(self, repo: str, **options: Any) -> None:
        self.calls.append(("create_branch", {"repo": repo, **options}))

    def upload_folder(self, *, folder_path: str, **options: Any) -> None:
        if self._error is not None:
            raise self._error
        self.calls.append(("upload_folder", options))
        self.files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("card")
    return tmp_path


def test_a_release_goes_to_a_branch_of_a_private_repository(folder: Path):
    api = LocalHub()
    url = push(folder, "me/model", token=TOKEN, revision="run-7", api=api)
    assert url == "https://huggingface.co/me/model/tree/run-7"
    assert [name for name, _ in api.calls] == ["create_repo", "create_branch", "upload_folder"]
    created, branch, upload = (options for _, options in api.calls)
    assert created["private"] is True and created["exist_ok"] is True
    assert branch["branch"] == upload["revision"] == "run-7"
    assert api.files == {"README.md": b"card"}


def test_without_a_revision_it_goes_to_main(folder: Path):
    api = LocalHub()
    assert push(folder, "me/model", token=TOKEN, api=api) == "https://huggingface.co/me/model"
    assert [name for name, _ in api.calls] == ["create_repo", "upload_folder"]
    assert api.calls[-1][1]["revision"] is None


def test_what_the_hub_says_is_told_without_the_token(folder: Path):
    api = LocalHub(OSError(f"403 for Bearer {TOKEN} at me/model"))
    with pytest.raises(RunError) as error:
        push(folder, "me/model", token=TOKEN, api=api)
    assert "could not be pushed to me/model: 403 for Bearer (token)" in str(error.value)
    assert TOKEN not in str(error.value) and error.value.__suppress_context__


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = made(tmp_path / "run", [{"step": 4, "loss": 0.5}])
    made_checkpoint(directory, 4, tiny_llama)
    return directory


def test_without_a_token_nothing_is_begun(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["release", str(run), "--push", "me/model"]) == 1
    assert "--push needs a Hugging Face token, and none is set here" in capsys.readouterr().out
    assert not (run / "release").exists()


def test_the_command_releases_then_pushes(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    api = LocalHub()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: api)
    arguments = ["release", str(run), "--push", "me/model", "--revision", "v1"]
    assert main(arguments) == 0
    verified, released, pushed = capsys.readouterr().out.splitlines()
    assert verified.startswith("verified: logits within ")
    assert released == f"release: {run / 'release'}"
    assert pushed == "pushed: https://huggingface.co/me/model/tree/v1"
    assert {"README.md", "model.safetensors", "release.json"} <= api.files.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--revision", "v1"], "--revision names a branch on the hub"),
        (["--against", "x"], "--against belongs to `release verify DIR`"),
        (["other"], "release takes one directory"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    run: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["release", str(run), *arguments]) == 1
    assert said in capsys.readouterr().out


def test_verify_takes_no_options_of_a_release(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["release", "verify", str(run), "--step", "4"]) == 1
    assert "release verify does not take --step" in capsys.readouterr().out


def test_the_client_is_given_the_token_and_nothing_else_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "huggingface_hub.HfApi", lambda **options: given.update(options) or LocalHub()
    )
    hub.push(folder, "me/model", token=TOKEN)
    assert given["token"] == TOKEN and given["library_name"] == "cameleer"
