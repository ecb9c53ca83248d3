"""What a run leaves behind can be read, and run, again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from fakes import ARITHMETIC, grpo
from safetensors.torch import load_file

from cameleer.batch import Batch
from cameleer.cli import main
from cameleer.distributed.launch import run
from cameleer.errors import RunError, TrainingError
from cameleer.files import read_json
from cameleer.recipe import Source
from cameleer.recipe_files import load
from cameleer.report.curve import read_metrics
from cameleer.train.recorder import Recorder
from cameleer.verifiers.gsm8k import GSM8K


def recorder_with(tmp_path: Path, metrics: str) -> Recorder:
    recorder = Recorder(tmp_path, {"name": "x"}, ())
    recorder.metrics_path.write_text(metrics)
    return recorder


def test_a_recipe_that_was_stored_is_the_recipe_that_ran(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, verifiers={"gsm8k": GSM8K()})
    (directory,) = run(recipe)
    assert load(str(directory / "recipe.json")) == recipe


def test_a_stored_recipe_runs_again_with_the_same_outcome(model: Path, tmp_path: Path):
    (directory,) = run(grpo(model, tmp_path, verifiers={"gsm8k": GSM8K()}))
    assert main(["run", str(directory / "recipe.json"), "--name", "again"]) == 0
    once, again = read_metrics(directory), read_metrics(tmp_path / "again")
    assert [line["loss"] for line in once] == [line["loss"] for line in again]
    weights = "checkpoints/step_4/model/model.safetensors"
    assert (directory / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()


def test_the_manifest_says_from_what_the_run_was_made(model: Path, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "How many ?", "answer": "#### 7"}\n')
    data = (ARITHMETIC, Source(path=str(rows), format="gsm8k"))
    (directory,) = run(grpo(model, tmp_path, data=data, num_steps=1))
    manifest = read_json(directory / "manifest.json")
    assert manifest["packages"]["torch"] == torch.__version__
    assert (manifest["seed"], manifest["num_threads"], manifest["world_size"]) == (1, 1, 1)
    assert manifest["prompts"] == 65
    assert manifest["data"][0]["path"] == ARITHMETIC.path
    counted = {name: manifest["data"][1][name] for name in ("rows", "taken", "kept", "tokens")}
    # "<|user|> How many ? <|assistant|>" is five tokens.
    assert counted == {"rows": 1, "taken": 1, "kept": 1, "tokens": 5}
    assert manifest["data"][1]["sha256"] == hashlib.sha256(rows.read_bytes()).hexdigest()
    assert len(manifest["weights"]["policy"]) == 64
    assert manifest["weights"]["policy"] == manifest["weights"]["reference"]


def test_no_secret_or_host_name_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_dromedary")
    monkeypatch.setenv("WANDB_API_KEY", "dromedary")
    (directory,) = run(grpo(model, tmp_path, num_steps=1))
    for path in directory.rglob("*.json*"):
        assert "dromedary" not in path.read_text(encoding="utf-8")


def test_metrics_beyond_a_checkpoint_are_cut(tmp_path: Path):
    recorder = recorder_with(tmp_path, "".join(f'{{"step": {step}}}\n' for step in (0, 2, 3, 2)))
    recorder.cut(2)
    assert [line["step"] for line in recorder.read_metrics()] == [0, 2, 2]


def test_a_torn_last_line_is_not_a_line(tmp_path: Path):
    recorder = recorder_with(tmp_path, '{"step": 1}\n{"step": 2, "los')
    recorder.cut(2)
    recorder.log(2, {"loss": 1.0})
    lines = recorder.metrics_path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1}, {"step": 2, "loss": 1.0}]


def test_a_line_torn_in_the_middle_is_an_error(tmp_path: Path):
    recorder = recorder_with(tmp_path, '{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl:2 is not valid JSON"):
        recorder.cut(3)


def test_rollouts_beyond_a_checkpoint_are_cut(tmp_path: Path):
    recorder = recorder_with(tmp_path, "")
    names = ("step_000002.parquet", "step_000010.parquet", "step_000002.partial")
    for name in names:
        (tmp_path / "rollouts" / name).touch()
    recorder.cut(2)
    assert [p.name for p in (tmp_path / "rollouts").iterdir()] == ["step_000002.parquet"]


def test_a_dumped_batch_reads_back_as_it_was(tmp_path: Path):
    batch = Batch(
        tokens_N=torch.tensor([1, 2, 3]),
        lengths_B=torch.tensor([2, 1]),
        mask_N=torch.tensor([False, True, False]),
        old_logprobs_N=torch.tensor([0.0, -0.5, 0.0]),
    )
    path = recorder_with(tmp_path, "").dump(7, batch, TrainingError("the loss is nan"))
    found = Batch(**load_file(path))
    why = {"step": 7, "error": "TrainingError", "message": "the loss is nan"}
    assert read_json(path.with_suffix(".json")) == why
    for field in dataclasses.fields(batch):
        ours, theirs = getattr(batch, field.name), getattr(found, field.name)
        assert theirs is None if ours is None else torch.equal(ours, theirs)
