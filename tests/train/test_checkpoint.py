"""Checkpoints are complete or absent, and anyone's transformers can load them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes import grpo, sft
from transformers import AutoModelForCausalLM, AutoTokenizer

from cameleer.distributed.launch import run
from cameleer.errors import RunError
from cameleer.recipe import Model, Output
from cameleer.train import checkpoint


def write(root: Path, step: int, *, keep_last: int = 0) -> Path:
    return checkpoint.write(
        root,
        step,
        {"version": 2 * step},
        lambda directory: (directory / "weights").write_text(f"weights of {step}") and None,
        keep_last=keep_last,
    )


def test_the_newest_is_found_by_number_not_by_name(tmp_path: Path):
    for step in (2, 10, 9):
        write(tmp_path, step)
    path, state = checkpoint.latest(tmp_path)
    assert path.name == "step_10"
    assert (state["step"], state["version"]) == (10, 20)


def test_older_ones_are_deleted(tmp_path: Path):
    for step in (9, 10, 11):
        write(tmp_path, step, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_10", "step_11"]


def test_nought_keeps_all(tmp_path: Path):
    for step in range(1, 6):
        write(tmp_path, step)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_crash_while_saving_leaves_no_checkpoint(tmp_path: Path):
    write(tmp_path, 1)

    def full_disk(directory: Path) -> None:
        (directory / "weights").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        checkpoint.write(tmp_path, 2, {}, full_disk, keep_last=1)
    assert checkpoint.latest(tmp_path)[0].name == "step_1"
    # The next attempt is not disturbed by what is left of the first.
    write(tmp_path, 2)
    assert checkpoint.latest(tmp_path)[0].name == "step_2"


def test_a_damaged_checkpoint_is_replaced_by_a_whole_one(tmp_path: Path):
    (write(tmp_path, 1) / "weights").write_text("short")
    with pytest.raises(RunError, match=r"holds no complete checkpoint to resume from\."):
        checkpoint.latest(tmp_path)
    write(tmp_path, 1)
    assert checkpoint.latest(tmp_path)[0].name == "step_1"


def test_a_damaged_newer_checkpoint_does_not_displace_whole_ones(tmp_path: Path):
    write(tmp_path, 2)
    (write(tmp_path, 8) / "weights").unlink()
    checkpoint.cut(tmp_path, 2, keep_last=0)
    write(tmp_path, 3, keep_last=1)
    assert checkpoint.latest(tmp_path)[0].name == "step_3"


def test_directories_that_somebody_else_made_are_left_alone(tmp_path: Path):
    (tmp_path / "step_1_backup").mkdir()
    write(tmp_path, 1, keep_last=1)
    write(tmp_path, 2, keep_last=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_1_backup", "step_2"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_loads_the_export_as_it_was_trained(model: Path, tmp_path: Path, dtype: str):
    (directory,) = run(grpo(model, tmp_path, model=Model(source=str(model), dtype=dtype)))
    export = directory / "checkpoints/step_4/model"
    trained = AutoModelForCausalLM.from_pretrained(export)
    start = AutoModelForCausalLM.from_pretrained(model)
    assert trained.dtype == getattr(torch, dtype)
    assert not torch.equal(trained.lm_head.weight.float(), start.lm_head.weight)
    tokenizer = AutoTokenizer.from_pretrained(export)
    question = [{"role": "user", "content": "How many apples does Ali have ?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = trained.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] <= inputs["input_ids"].shape[1] + 3
    assert trained.config.eos_token_id == tokenizer.eos_token_id


def test_the_recipes_template_is_exported(model: Path, tmp_path: Path):
    recipe = sft(model, tmp_path, model=Model(source=str(model), chat_template="tulu"), num_steps=1)
    (directory,) = run(recipe)
    tokenizer = AutoTokenizer.from_pretrained(directory / "checkpoints/step_1/model")
    assert "<|assistant|>" in tokenizer.chat_template


def test_a_run_keeps_the_last_few(model: Path, tmp_path: Path):
    output = Output(directory=str(tmp_path), save_every=1, keep_last=2, sample_every=0)
    (directory,) = run(sft(model, tmp_path, output=output))
    assert sorted(p.name for p in (directory / "checkpoints").iterdir()) == ["step_3", "step_4"]


def test_the_last_step_is_saved_however_rarely_others_are(model: Path, tmp_path: Path):
    output = Output(directory=str(tmp_path), save_every=100, sample_every=0)
    (directory,) = run(sft(model, tmp_path, output=output))
    assert [p.name for p in (directory / "checkpoints").iterdir()] == ["step_4"]
