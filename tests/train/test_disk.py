"""A disk that is full, read-only, damaged or shared: a clear error, and nothing lost."""

from __future__ import annotations

import contextlib
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import grpo, sft
from test_resume import assert_equal_to_the_bit, same_metrics

from cameleer.algorithms.grpo import GRPO
from cameleer.distributed.launch import run
from cameleer.errors import RunError
from cameleer.files import locked, read_json, write_json
from cameleer.recipe import Rollout
from cameleer.train import checkpoint
from cameleer.train.recorder import Recorder


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """The kernel refuses to write files beyond this size, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def full_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, place: int, step: int) -> None:
    """From now on the disk is full while `owner.name` is called for this step."""
    original: Callable[..., Any] = getattr(owner, name)

    def limited(*arguments: Any, **options: Any) -> Any:
        room = 10 if arguments[place] == step else 1 << 40
        with largest_file(room):
            return original(*arguments, **options)

    monkeypatch.setattr(owner, name, limited)


def test_a_full_disk_during_a_save_costs_that_save_and_nothing_else(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (whole,) = run(grpo(model, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        full_at(patch, checkpoint, "write", 1, 2)
        (directory,) = run(grpo(model, tmp_path))
    out = " ".join(capsys.readouterr().out.split())
    assert "The checkpoint of step 2 could not be written" in out and "resume from step 0" in out
    assert [p.name for p in (directory / "checkpoints").iterdir()] == ["step_4"]
    assert same_metrics(directory) == same_metrics(whole)
    assert_equal_to_the_bit(whole / "checkpoints/step_4", directory / "checkpoints/step_4")


def test_without_the_last_checkpoint_a_run_is_not_called_done(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        full_at(patch, checkpoint, "write", 1, 4)
        with pytest.raises(RunError, match=r"last checkpoint of .* could not be written"):
            run(sft(model, tmp_path))
    assert [p.name for p in (tmp_path / "sft/checkpoints").iterdir()] == ["step_2"]
    (directory,) = run(sft(model, tmp_path), resume=True)
    (whole,) = run(sft(model, tmp_path / "whole"))
    assert_equal_to_the_bit(whole / "checkpoints/step_4", directory / "checkpoints/step_4")


@pytest.mark.parametrize("method", ["log", "rollouts", "samples"])
def test_a_disk_too_full_for_a_line_stops_the_run_where_it_can_go_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    step = 4 if method == "samples" else 3
    with monkeypatch.context() as patch:
        full_at(patch, Recorder, method, 1, step)
        with pytest.raises(RunError, match=r"Cannot write to .*grpo: File too large\. Free space"):
            run(grpo(model, tmp_path))
    (directory,) = run(grpo(model, tmp_path), resume=True)
    (whole,) = run(grpo(model, tmp_path / "whole"))
    assert same_metrics(directory) == same_metrics(whole)
    assert_equal_to_the_bit(whole / "checkpoints/step_4", directory / "checkpoints/step_4")


def test_where_nothing_can_be_written_the_run_says_so(model: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/runs/sft cannot be written: .*Not a directory"):
        run(sft(model, tmp_path / "file" / "runs"))


def test_two_runs_do_not_share_a_directory(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path, num_steps=2))
    with locked(directory), pytest.raises(RunError, match="Another process is writing to"):
        run(sft(model, tmp_path), resume=True)
    run(sft(model, tmp_path), resume=True)


def test_a_directory_that_came_up_while_loading_is_left_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from cameleer.train import run as module

    def another_was_first() -> dict[str, Any]:
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft/recipe.json").write_text("theirs")
        return {}

    monkeypatch.setattr(module, "environment", another_was_first)
    with pytest.raises(RunError, match="was made by another process just now"):
        run(sft(model, tmp_path))
    assert (tmp_path / "sft/recipe.json").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["sft"]


def test_a_checkpoint_of_another_run_is_refused(model: Path, tmp_path: Path):
    (other,) = run(sft(model, tmp_path / "other", seed=2))
    (directory,) = run(sft(model, tmp_path, num_steps=2))
    shutil.copytree(other / "checkpoints/step_4", directory / "checkpoints/step_4")
    with pytest.raises(RunError, match=r"step_4 is a checkpoint of another run"):
        run(sft(model, tmp_path), resume=True)
    assert (directory / "checkpoints/step_4").exists(), "what is not ours is not deleted"


def test_a_flipped_bit_in_a_checkpoint_is_found_and_an_older_one_taken(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (directory,) = run(grpo(model, tmp_path))
    shutil.copytree(directory / "checkpoints/step_4", tmp_path / "kept")
    optimizer = directory / "checkpoints/step_4/optimizer.safetensors"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    run(grpo(model, tmp_path), resume=True)
    out = " ".join(capsys.readouterr().out.split())
    assert "step_4 is damaged and passed over: optimizer.safetensors has changed" in out
    assert "resuming grpo after step 2" in out
    assert_equal_to_the_bit(directory / "checkpoints/step_4", tmp_path / "kept")


def test_another_number_of_processes_is_refused(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path, num_steps=2))
    manifest = read_json(directory / "manifest.json")
    write_json(directory / "manifest.json", {**manifest, "world_size": 2})
    with pytest.raises(RunError, match="started on 2 processes, and is to go on with 1"):
        run(sft(model, tmp_path), resume=True)


def test_another_version_of_a_library_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (directory,) = run(sft(model, tmp_path, num_steps=2))
    manifest = read_json(directory / "manifest.json")
    manifest["packages"]["torch"] = "1.0"
    write_json(directory / "manifest.json", manifest)
    run(sft(model, tmp_path), resume=True)
    assert "and was 1.0 when the run started" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("staleness", "refills"), [(1, 0), (2, 0), (1, 3)])
def test_groups_collected_ahead_go_on_as_they_were(
    model: Path, tmp_path: Path, staleness: int, refills: int
):
    algorithm = GRPO(beta=0.05, drop_equal_groups=bool(refills))
    recipe = grpo(model, tmp_path / "whole", num_steps=5, algorithm=algorithm)
    rollout = Rollout(
        num_prompts=4, group_size=4, max_tokens=8, max_staleness=staleness, max_refills=refills
    )
    recipe = replace(recipe, rollout=rollout)
    (whole,) = run(recipe)
    output = replace(recipe.output, directory=str(tmp_path / "parts"))
    recipe = replace(recipe, output=output)

    class Stopped(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        log = Recorder.log

        def stop(self: Recorder, step: int, metrics: Any) -> None:
            log(self, step, metrics)
            if step == 3:
                raise Stopped

        patch.setattr(Recorder, "log", stop)
        with pytest.raises(Stopped):
            run(recipe)
    ahead = sorted(p.name for p in (tmp_path / "parts/grpo/checkpoints/step_2/ahead").iterdir())
    assert ahead == [f"step_00000{step}.parquet" for step in range(3, 3 + staleness)]
    (parts,) = run(recipe, resume=True)
    assert_equal_to_the_bit(whole / "checkpoints/step_5", parts / "checkpoints/step_5")
    assert same_metrics(whole) == same_metrics(parts)
