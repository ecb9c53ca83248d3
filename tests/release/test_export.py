"""A release is the checkpoint, whole, or it is not there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import Says, grpo, ppo, sft, tiny_llama
from made_runs import made, made_checkpoint, made_ladder, nudge
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cameleer.cli import main
from cameleer.data.sources import Source
from cameleer.distributed.launch import run as launch
from cameleer.errors import RunError
from cameleer.log import quiet_libraries
from cameleer.recipe import Eval, Floor, HeldOut, Model, Output, RewardTerm, Rollout
from cameleer.recipe_files import to_json
from cameleer.release import export
from cameleer.release.export import release
from cameleer.release.record import RECORD


def left(directory: Path) -> list[str]:
    """All files below, hidden ones too."""
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


def test_a_real_run_s_release_has_all_that_transformers_needs(released: Path, real_ladder: Path):
    assert {p.name for p in released.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "generation_config.json", "recipe.json", RECORD,
        "curve_sft.png", "curve_grpo.png",
    }  # fmt: skip
    checkpoint = real_ladder / "grpo/checkpoints/step_4/model"
    ours, theirs = (load_file(d / "model.safetensors") for d in (released, checkpoint))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert json.loads((released / "generation_config.json").read_text()) == {
        "eos_token_id": 1, "pad_token_id": 0, "do_sample": True, "temperature": 1.0
    }  # fmt: skip
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(released)
        tokenizer = AutoTokenizer.from_pretrained(released)
    messages = [{"role": "user", "content": "Ida has 20 pens"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]


def test_the_record_says_what_was_compared(released: Path):
    record = json.loads((released / RECORD).read_text())
    assert record["stage"] == "grpo" and record["step"] == 4
    verified = record["verified"]
    assert verified["against"] == "the checkpoint" and verified["num_prompts"] == 4
    assert 0 <= verified["difference"] < 1e-4
    assert verified["num_sampled"] > 0


def test_a_release_says_nothing_of_the_machine(released: Path, real_ladder: Path):
    recipe = json.loads((released / "recipe.json").read_text())
    assert [stage["name"] for stage in recipe["stages"]] == ["sft", "grpo"]
    assert recipe["stages"][0]["model"]["source"] == "llama"
    for name in ("recipe.json", "README.md", RECORD):
        assert str(real_ladder.parent) not in (released / name).read_text()
        assert str(Path(__file__).parent.parent) not in (released / name).read_text()


def test_only_paths_of_a_recipe_are_cut(tmp_path: Path):
    recipe = ppo(
        Path("/home/me/llama"),
        Path("/home/me/runs"),
        name="/x",
        data=(Source(path="/home/me/a.jsonl", name="/name", split="~split", license="/terms"),),
        heldout=HeldOut(sources=(Source(path="~/b.jsonl"),)),
        rollout=Rollout(
            num_prompts=1, group_size=1, max_tokens=8, stop=("/END", "//", "~", "/a/b"),
            engine="/home/me/mine.py:Engine",
        ),
        verifiers={"says": Says("/right"), "list": Says("/home/me/list.txt")},
        reward_model=RewardTerm(source="/home/me/scorer"),
        value_model=Model(source="/home/me/value/", license="/terms"),
        evals=Eval(
            benchmarks=("/home/me/mine.py:Words", "gsm8k"), data="/home/me/sets",
            keep_best="/home/me/mine.py:Words", floors=(Floor(benchmark="/home/me/mine.py:Words"),),
        ),
    )  # fmt: skip
    cut = export._without_paths(to_json(recipe))
    assert cut["rollout"]["stop"] == ["/END", "//", "~", "/a/b"]
    assert cut["name"] == "/x" and cut["verifiers"]["says"]["word"] == "/right"
    assert cut["verifiers"]["list"]["word"] == "list.txt"
    (source,) = cut["data"]
    assert [source[key] for key in ("path", "name", "split", "license")] == [
        "a.jsonl", "/name", "~split", "/terms"
    ]  # fmt: skip
    assert cut["heldout"]["sources"][0]["path"] == "b.jsonl"
    models = ("model", "reward_model", "value_model")
    assert [cut[each]["source"] for each in models] == ["llama", "scorer", "value"]
    assert cut["value_model"]["license"] == "/terms"
    assert cut["rollout"]["engine"] == "mine.py:Engine" and cut["output"]["directory"] == "runs"
    assert cut["verifiers"]["says"]["class"] == "fakes.py:Says"
    evals = cut["evals"]
    assert evals["benchmarks"] == ["mine.py:Words", "gsm8k"] and evals["data"] == "sets"
    assert evals["keep_best"] == evals["floors"][0]["benchmark"] == "mine.py:Words"


def test_a_relative_directory_for_runs_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/lad").mkdir(parents=True)
    cut = export._without_paths(to_json(sft(Path("a/b"), Path("runs/lad"))))
    assert cut["output"]["directory"] == "runs/lad"


def test_a_released_recipe_runs_once_what_its_card_names_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    short: dict[str, Any] = {"num_steps": 1, "output": Output(directory="runs")}
    (first,) = launch(sft(tiny_llama(tmp_path / "llama"), tmp_path, name="first", **short))
    start = first / "checkpoints/step_1/model"
    (second,) = launch(sft(start, tmp_path, name="second", **short))
    card = (release(second)[0] / "README.md").read_text()
    assert "- `first-step_1`, `checkpoints/step_1/model` of the run `first`\n" in card
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(second / "release/recipe.json", elsewhere)
    shutil.copytree(start, elsewhere / "first-step_1")
    monkeypatch.chdir(elsewhere)
    assert main(["run", "recipe.json", "--name", "again"]) == 0
    weights = "checkpoints/step_1/model/model.safetensors"
    again = elsewhere / "runs/again" / weights
    assert again.read_bytes() == (tmp_path / second / weights).read_bytes()


def test_a_stage_and_a_step_can_be_named(run: Path):
    directory, _ = release(run, step=2)
    assert directory == run / "release"
    ours = load_file(directory / "model.safetensors")
    assert torch.equal(
        ours["model.norm.weight"],
        load_file(run / "checkpoints/step_2/model/model.safetensors")["model.norm.weight"],
    )
    assert json.loads((directory / RECORD).read_text())["step"] == 2


def test_a_stage_without_rollouts_names_no_temperature(real_ladder: Path, tmp_path: Path):
    directory, _ = release(real_ladder, stage="sft", output=tmp_path / "sft")
    found = json.loads((directory / "generation_config.json").read_text())
    assert found == {"eos_token_id": 1, "pad_token_id": 0}


def test_a_stage_s_release_lies_with_the_stage(tmp_path: Path):
    stages = (sft(Path("a/b"), tmp_path), grpo(Path("stage:sft"), tmp_path))
    root = made_ladder(tmp_path / "both", *stages)
    for stage in stages:
        made(root / stage.name, recipe=stage)
        made_checkpoint(root / stage.name, 4, tiny_llama)
    assert release(root, stage="sft")[0] == root / "sft/release"
    assert release(root)[0] == root / "release"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"stage": "sfd"}, "is one run, no ladder; there is no 'sfd'"),
        ({"step": 3}, "has no checkpoint of step 3; it has 2, 4."),
    ],
)
def test_what_is_not_there_is_named(run: Path, how: dict[str, object], said: str):
    with pytest.raises(RunError) as error:
        release(run, **how)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_a_stage_of_a_ladder_that_does_not_exist_is_named(real_ladder: Path, tmp_path: Path):
    with pytest.raises(
        RunError, match=r"stages sft, grpo; there is no 'grop'\. Did you mean 'grpo'"
    ):
        release(real_ladder, stage="grop", output=tmp_path / "out")


def test_a_damaged_checkpoint_is_not_released(run: Path):
    nudge(run / "checkpoints/step_4/model", 1.0)
    with pytest.raises(RunError, match="step_4 is damaged"):
        release(run, step=4)
    directory, _ = release(run)
    assert json.loads((directory / RECORD).read_text())["step"] == 2


def test_a_release_takes_the_place_of_its_earlier_self_only(run: Path):
    directory, _ = release(run, step=2)
    before = (directory / "model.safetensors").read_bytes()
    release(run, step=4)
    assert (directory / "model.safetensors").read_bytes() != before
    assert not [p for p in run.iterdir() if p.name.startswith(".release")]

    (directory / "mine.txt").write_text("My own file.")
    with pytest.raises(RunError, match=r"was changed since it was released \(mine\.txt\)"):
        release(run)
    (directory / "mine.txt").unlink()
    (directory / "README.md").write_text("My own words.")
    with pytest.raises(RunError, match=r"was changed since it was released \(README\.md\)"):
        release(run)
    assert (directory / "README.md").read_text() == "My own words."


def test_what_is_no_release_is_not_overwritten(run: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="exists and is no release of Cameleer's"):
        release(run, output=tmp_path / "mine")
    assert left(tmp_path / "mine") == ["thesis.txt"]


def test_the_release_of_another_run_is_not_overwritten(run: Path, tmp_path: Path):
    release(run, output=tmp_path / "out")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "run": "another"}))
    with pytest.raises(RunError, match="is the release of another run"):
        release(run, output=tmp_path / "out")


def test_a_failure_leaves_nothing_and_keeps_the_earlier_release(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    directory, _ = release(run, step=2)
    before = {p: p.read_bytes() for p in directory.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "card", full)
    with pytest.raises(RunError, match=r"Cannot write to .*release: No space left on device"):
        release(run, step=4)
    assert {p: p.read_bytes() for p in directory.iterdir()} == before
    assert not [p for p in run.iterdir() if p.name.startswith(".")]


def test_the_earlier_release_comes_back_where_the_new_one_cannot_take_its_place(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    directory, _ = release(run, step=2)
    rename = os.rename

    def once(source: Path, target: Path) -> None:
        if source.suffix == ".partial":
            raise OSError(30, "Read-only file system")
        rename(source, target)

    monkeypatch.setattr(os, "rename", once)
    with pytest.raises(RunError, match="Read-only file system"):
        release(run, step=4)
    assert json.loads((directory / RECORD).read_text())["step"] == 2
    assert not [p for p in run.iterdir() if p.name.startswith(".")]


def test_weights_that_are_not_the_checkpoint_s_are_not_released(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = export._generation

    def broken(chosen: export.Chosen) -> dict[str, object]:
        (partial,) = run.glob(".release.*")
        nudge(partial, 0.5)
        return whole(chosen)

    monkeypatch.setattr(export, "_generation", broken)
    with pytest.raises(RunError, match=r"down_proj.* differs"):
        release(run)
    assert not (run / "release").exists() and not list(run.glob(".release*"))
