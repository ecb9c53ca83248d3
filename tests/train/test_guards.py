"""What is refused or told at the start, and what several steps show."""

from __future__ import annotations

import json
import math
import os
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import ARITHMETIC, grpo, held_out, ppo, reward_model, sft, tiny_llama
from safetensors.torch import load_file, save_file

from cameleer.data.prompts import load_prompts
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.errors import CameleerError, DataError, RecipeError, RunError
from cameleer.models.export import foreign_names, verify_export
from cameleer.models.load import load_config, load_model, load_tokenizer
from cameleer.recipe import (
    HeldOut,
    LoRA,
    Model,
    Optim,
    Output,
    Reward,
    RewardTerm,
    Rollout,
    Runtime,
)
from cameleer.train import guards
from cameleer.train.check import check
from cameleer.train.guards import checkpoint_bytes, count_parameters, notices, refuse_full_disk
from cameleer.train.inputs import checkpoint_size
from cameleer.train.watch import Watch


@pytest.mark.parametrize("kind", [grpo, sft])
def test_held_out_questions_that_are_trained_on_are_counted_and_refused(
    model: Path, tmp_path: Path, kind: Any
):
    same = HeldOut(sources=(replace(ARITHMETIC, count=5),), num_prompts=4)
    with pytest.raises(DataError, match=r"^4 of 4 held-out questions are also in the training"):
        run(kind(model, tmp_path, heldout=same))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [grpo, sft])
def test_held_out_questions_of_another_split_are_fine(model: Path, tmp_path: Path, kind: Any):
    run(kind(model, tmp_path, heldout=held_out(4), num_steps=1))


def test_a_directory_below_a_file_cannot_be_written(model: Path, tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError) as error:
        run(grpo(model, tmp_path / "runs"))
    assert f"{tmp_path}/runs is not a directory" in str(error.value)
    assert str(error.value).endswith("Set output.directory to one that is.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(model: Path, tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="is not writable"):
        run(grpo(model, tmp_path / "runs"))
    tmp_path.chmod(0o700)


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(guards.shutil, "disk_usage", lambda _: usage(10 * size, 9 * size, size))


def test_checkpoints_that_do_not_fit_are_refused_with_the_numbers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # 12 bytes a parameter; 40 steps saved every 2 keep two and write a third: 3 * 12 MB.
    recipe = grpo(model, tmp_path, num_steps=40)
    size = checkpoint_bytes(recipe.model, 10**6, 10**6)
    assert size == 12 * 10**6
    free(monkeypatch, 36 * 10**6)
    refuse_full_disk(recipe, size)
    free(monkeypatch, 36 * 10**6 - 1)
    with pytest.raises(RunError, match=r"needs 36\.0 MB for 3 checkpoints of 12\.0 MB .* 36\.0 MB"):
        refuse_full_disk(recipe, size)
    # A resumed run has its others already.
    refuse_full_disk(recipe, size, resume=True)
    # All 20 are kept; and one that saves but once needs room for one.
    with pytest.raises(RunError, match="for 20 checkpoints"):
        refuse_full_disk(replace(recipe, output=Output(save_every=2, keep_last=0)), size)
    refuse_full_disk(replace(recipe, output=Output(save_every=40)), size)


def test_a_full_disk_is_told_by_check_and_refused_by_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    free(monkeypatch, 1000)
    with pytest.raises(RunError, match=r"are free\. Free some, set output\.directory"):
        run(grpo(model, tmp_path))
    assert not (tmp_path / "grpo").exists()
    assert check(grpo(model, tmp_path)) == 1


def test_parameters_are_counted_without_weights(model: Path):
    loaded = load_model(str(model), "float32", "cpu")
    size = sum(p.numel() for p in loaded.parameters())
    # The tied head counts once.
    config = load_config(str(model))
    assert count_parameters(Model(source=str(model)), config) == (size, size)


@pytest.mark.parametrize("lora", [None, LoRA(rank=8)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [grpo, ppo, reward_model])
def test_the_size_of_a_checkpoint_is_that_of_its_files(
    model: Path, tmp_path: Path, kind: Any, dtype: Any, lora: LoRA | None
):
    start = Model(source=str(model), dtype=dtype, lora=lora)
    changes = {"value_model": start} if kind is ppo else {}
    recipe = kind(model, tmp_path, num_steps=2, model=start, **changes)
    (directory,) = run(recipe)
    files = [*(directory / "checkpoints/step_2").rglob("*.safetensors")]
    expected = checkpoint_size(recipe)
    # Headers, AdamW's counters, and rows for `<pad>` besides.
    assert expected <= sum(f.stat().st_size for f in files) < expected * 1.2


def test_a_sequence_longer_than_a_micro_batch_and_too_many_threads_are_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = grpo(model, tmp_path, runtime=Runtime(micro_batch_tokens=20, num_threads=10_000))
    said = list(notices(recipe, longest=36, tokenizer=None))
    assert said[0].startswith("The longest possible sequence has 36 tokens, more than runtime.")
    assert said[1].startswith("runtime.num_threads is 10000, and there are ")
    recipe = grpo(model, tmp_path, runtime=Runtime(num_threads=1))
    assert list(notices(recipe, longest=36, tokenizer=None)) == []
    run(grpo(model, tmp_path, num_steps=1, runtime=Runtime(micro_batch_tokens=20)))
    assert "warning The longest possible sequence has" in capsys.readouterr().out


def test_answers_that_end_at_a_stop_string_for_nothing_are_told(model: Path, tmp_path: Path):
    rollout = Rollout(num_prompts=4, group_size=4, max_tokens=8, stop=("####",))
    recipe = grpo(model, tmp_path, rollout=rollout)
    (said,) = notices(recipe, longest=36, tokenizer=None)
    assert "gets reward.without_eos=0 whatever its score. Set that to None" in said
    rewarded = replace(recipe, reward=Reward(without_eos=None))
    assert not list(notices(rewarded, longest=36, tokenizer=None))


def test_a_template_that_writes_todays_date_is_told_and_kept_for_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = load_tokenizer(str(tiny_llama(tmp_path / "model")))
    recipe = grpo(tmp_path, tmp_path)
    assert not list(notices(recipe, longest=36, tokenizer=tokenizer))
    tokenizer.chat_template += "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    (said,) = notices(recipe, longest=36, tokenizer=tokenizer)
    assert "writes today's date" in said
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "How many ?", "answer": "#### 2"}) + "\n")
    many = Source(path=str(rows), format="gsm8k", share=1.0)
    rows.write_text(rows.read_text() * 1_000)
    for day, kept in (("2026-01-01", 1), ("2026-01-01", 1), ("2026-01-02", 2)):
        monkeypatch.setattr("time.strftime", lambda _, day=day: day)
        load_prompts([many], tokenizer, max_tokens=100, cache=tmp_path / "cache")
        assert len(list((tmp_path / "cache").glob("*.arrow"))) == kept


def test_a_cut_answer_that_a_reward_model_may_rate_above_ended_ones_is_told(
    model: Path, tmp_path: Path
):
    recipe = grpo(model, tmp_path, verifiers={}, reward_model=RewardTerm(source="rm"))
    assert [n[:42] for n in notices(recipe, longest=36, tokenizer=None)] == [
        "A cut answer gets reward.without_eos=0, an"
    ]
    assert not list(
        notices(replace(recipe, reward=Reward(without_eos=None)), longest=36, tokenizer=None)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": Optim(learning_rate=math.nan)}, "optim.learning_rate is not a number (NaN)."),
        ({"optim": Optim(learning_rate=math.inf)}, "optim.learning_rate is inf; it has to be"),
        (
            {"optim": Optim(learning_rate=1.0, betas=(0.9, math.nan))},
            "optim.betas.1 is not a number (NaN).",
        ),
        ({"runtime": Runtime(micro_batch_tokens=0)}, "runtime.micro_batch_tokens is 0; it has to"),
        ({"heldout": HeldOut(sources=(), temperature=-1.0)}, "heldout.temperature is -1.0;"),
    ],
)
def test_numbers_that_cannot_work_are_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    with pytest.raises(RecipeError) as error:
        grpo(model, tmp_path, **changes).validate()
    assert message in str(error.value)


# Exports


def test_an_export_that_does_not_load_back_is_refused(model: Path, tmp_path: Path):
    here = load_model(str(model), "float32", "cpu")
    here.save_pretrained(tmp_path)
    verify_export(here, tmp_path, "float32")
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    stored[name][0, 0] += 1e-3
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=f"{name} comes back with other numbers"):
        verify_export(here, tmp_path, "float32")
    del stored[name]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CameleerError, match=f"lacks 1 of the model's weights, {name}"):
        verify_export(here, tmp_path, "float32")


def test_names_that_the_source_does_not_have_are_found(model: Path, tmp_path: Path):
    stored = load_file(model / "model.safetensors")
    stored["model.layers.0.mlp.experts.up"] = torch.zeros(1)
    save_file(stored, tmp_path / "model.safetensors")
    assert foreign_names(tmp_path, str(model)) == ["model.layers.0.mlp.experts.up"]
    assert foreign_names(model, str(model)) == []
    assert foreign_names(tmp_path, "somebody/on-the-hub") == []


def test_the_first_save_of_a_run_is_verified(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def spoil(*_: object) -> None:
        raise RunError("spoilt")

    monkeypatch.setattr("cameleer.train.torch_learner.verify_export", spoil)
    with pytest.raises(RunError, match="spoilt"):
        run(grpo(model, tmp_path))
    assert not [*(tmp_path / "grpo/checkpoints").glob("step_*")], "nothing half right is kept"


# What several steps show

FINE = {"finish/length": 0.2, "groups/zero_variance": 0.5, "groups/all_wrong": 0.5,
        "groups/all_right": 0.0}  # fmt: skip
CUT_OFF = {**FINE, "finish/length": 1.0, "groups/zero_variance": 1.0, "groups/all_wrong": 1.0}
ALL_WRONG = {**FINE, "groups/zero_variance": 1.0, "groups/all_wrong": 0.8, "groups/all_right": 0.2}


def warnings_of(steps: list[dict[str, float]], root: Path, **changes: Any) -> list[tuple[int, str]]:
    watch = Watch(grpo(root, root, **changes))
    return [(i, text) for i, step in enumerate(steps, 1) for text in watch.step(i, step)]


def test_a_run_that_is_cut_off_throughout_is_told_once_and_why(tmp_path: Path):
    ((step, text),) = warnings_of([CUT_OFF] * 6, tmp_path)
    assert step == 3
    assert text.startswith(
        "Step 3: every completion of the last 3 steps was cut off at rollout.max_tokens=8, where "
        "its reward is 0. Raise rollout.max_tokens, or start from a policy that ends its answers"
    )


def test_groups_without_contrast_are_told_after_five_steps(tmp_path: Path):
    ((step, text),) = warnings_of([FINE, *[ALL_WRONG] * 7], tmp_path)
    assert step == 6
    assert "in no group of the last 5 steps did siblings differ in reward (80% all wrong" in text
    ((_, text),) = warnings_of([ALL_WRONG] * 5, tmp_path, verifiers={})
    assert "differ in reward, so nothing is learnt from them" in text


def test_a_warning_comes_again_after_all_was_well(tmp_path: Path):
    found = warnings_of([*[CUT_OFF] * 4, FINE, *[CUT_OFF] * 3], tmp_path)
    assert [step for step, _ in found] == [3, 8]


def test_steps_with_contrast_and_imitation_give_no_warning(tmp_path: Path):
    assert warnings_of([FINE] * 8, tmp_path) == []
    assert Watch(sft(tmp_path, tmp_path)).step(1, {"loss": 1.0}) == []


def test_a_run_warns_of_what_the_watch_finds(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    # One token of 83 words: hardly ever the EOS.
    rollout = Rollout(num_prompts=2, group_size=2, max_tokens=1)
    run(grpo(model, tmp_path, rollout=rollout, num_steps=4, num_minibatches=1))
    assert "warning Step 3: every completion of the last 3 steps" in capsys.readouterr().out
