"""A release is the checkpoint, whole, or it is not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import grpo, sft, tiny_llama
from made_runs import made, made_checkpoint, made_ladder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cameleer.cli import main
from cameleer.distributed.launch import run as launch
from cameleer.errors import RunError
from cameleer.log import quiet_libraries
from cameleer.models.load import load_tokenizer
from cameleer.recipe import Output
from cameleer.release import export, verify
from cameleer.release.export import RECORD, release
from cameleer.release.origin import origin
from cameleer.release.verify import verify_checkpoint


@pytest.fixture(scope="module")
def released(real_ladder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, _ = release(real_ladder, output=tmp_path_factory.mktemp("out") / "release")
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two checkpoints, made without training."""
    directory = made(
        tmp_path / "runs" / "run", [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.5}]
    )
    for step in (2, 4):
        made_checkpoint(directory, step, lambda path, seed=step: tiny_llama(path, seed=seed))
    return directory


def left(directory: Path) -> list[str]:
    """All files below, hidden ones too."""
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


def nudge(directory: Path, by: float) -> None:
    """Add a number to one weight."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    next(tensor for name, tensor in tensors.items() if "down_proj" in name)[0, 0] += by
    save_file(tensors, path, metadata={"format": "pt"})


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


# Verifying


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "copy"))


def test_a_release_is_verified_against_the_run_that_is_named(
    copy: Path, real_ladder: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["release", "verify", str(copy), "--against", str(real_ladder)]) == 0
    assert " of the checkpoint on 4 prompts" in capsys.readouterr().out
    assert main(["release", "verify", str(copy), "--against", str(real_ladder / "grpo")]) == 0
    assert main(["release", "verify", str(copy), "--against", str(real_ladder / "sft")]) == 1
    assert "is not where" in capsys.readouterr().out


def test_a_release_far_from_its_run_is_held_against_its_own_weights(
    copy: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["release", "verify", str(copy)]) == 0
    assert "of its own weights in Cameleer's engine" in capsys.readouterr().out


def test_a_run_of_the_same_name_is_not_the_one_it_came_from(run: Path):
    directory, _ = release(run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "run": "another"}))
    with pytest.raises(RunError, match="that was run feedbeef, stage run"):
        origin(directory, run)


def test_a_release_in_its_run_is_held_against_the_checkpoint(run: Path):
    directory, _ = release(run)
    model, stage = origin(directory, None)
    assert model == run / "checkpoints/step_4/model" and stage is not None


@pytest.mark.parametrize("by", [1e-6, float("nan")])
def test_a_changed_weight_is_found(copy: Path, real_ladder: Path, by: float):
    nudge(copy, by)
    with pytest.raises(RunError, match=r"the weights of the checkpoint: .*down_proj.* differs"):
        verify_checkpoint(copy, *origin(copy, real_ladder))


def test_a_missing_tensor_is_found(copy: Path, real_ladder: Path):
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"model\.norm\.weight is in one only"):
        verify_checkpoint(copy, *origin(copy, real_ladder))


@pytest.mark.parametrize("value", [1e-2, 1e9])
def test_a_config_that_computes_otherwise_is_found(copy: Path, real_ladder: Path, value: float):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": value}))
    with pytest.raises(RunError, match=r"its logits are up to .* apart \(limit 1e-04, float32\)"):
        verify_checkpoint(copy, *origin(copy, real_ladder))


def test_another_template_is_found(copy: Path, real_ladder: Path):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template.replace("<|user|>", "<|system|>"))
    with pytest.raises(RunError, match=r"renders the question .* to other tokens"):
        verify_checkpoint(copy, *origin(copy, real_ladder))


@pytest.fixture
def babbling(real_ladder: Path, tmp_path: Path) -> Path:
    """The release of a policy that has more to say than its end-of-sequence token."""
    return release(real_ladder, stage="sft", output=tmp_path / "sft")[0]


def test_another_end_of_answers_is_found(babbling: Path, real_ladder: Path):
    model, stage = origin(babbling, real_ladder)
    said = load_tokenizer(str(model)).convert_tokens_to_ids("=")
    generation = {"eos_token_id": said, "pad_token_id": 0}
    (babbling / "generation_config.json").write_text(json.dumps(generation))
    with pytest.raises(RunError, match="answers otherwise than Cameleer's engine from token 2 on"):
        verify_checkpoint(babbling, model, stage)


def test_a_near_tie_ends_a_comparison_and_is_counted(
    babbling: Path, real_ladder: Path, monkeypatch: pytest.MonkeyPatch
):
    model, stage = origin(babbling, real_ladder)
    generation = {"eos_token_id": 1, "pad_token_id": 0, "repetition_penalty": 50.0}
    (babbling / "generation_config.json").write_text(json.dumps(generation))
    with pytest.raises(RunError, match="answers otherwise"):
        verify_checkpoint(babbling, model, stage)
    # Above every gap of two logits, any difference of samples is a tie.
    monkeypatch.setattr(verify, "LIMIT", 1e3)
    found = verify_checkpoint(babbling, model, stage)
    assert found.num_near_ties == 2, "one for each of the run's questions"
    assert "2 up to a near-tie" in str(found)


def test_weights_that_cannot_be_read_are_an_error(copy: Path, real_ladder: Path):
    (copy / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(RunError, match=r"Cannot read the weights .*model\.safetensors"):
        verify_checkpoint(copy, *origin(copy, real_ladder))


def test_what_is_no_release_cannot_be_verified(tmp_path: Path):
    with pytest.raises(RunError, match=rf"holds no {RECORD}"):
        origin(tmp_path, None)


# Reward models


@pytest.fixture
def reward_run(tmp_path: Path) -> Iterator[Path]:
    def save(path: Path) -> None:
        tiny_llama(path)
        with quiet_libraries():
            model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
            torch.manual_seed(0)
            torch.nn.init.normal_(model.score.weight)
            model.save_pretrained(path)

    recipe = replace(sft(Path("a/b"), tmp_path), name="rm")
    directory = made(tmp_path / "rm", [{"step": 4, "loss": 0.5}], recipe=recipe)
    made_checkpoint(directory, 4, save)
    yield directory


def test_a_reward_model_gives_the_same_scores_alone_and_in_a_padded_batch(reward_run: Path):
    directory, verified = release(reward_run)
    assert verified.num_sampled == 0 and verified.difference < 1e-4
    assert str(verified).startswith("scores within ")
    assert not (directory / "generation_config.json").exists()
    readme = (directory / "README.md").read_text()
    assert 'pipeline_tag: "text-classification"' in readme
    assert "AutoModelForSequenceClassification.from_pretrained" in readme


def test_a_changed_reward_model_is_found(reward_run: Path):
    directory, _ = release(reward_run)
    nudge(directory, 0.5)
    model, stage = origin(directory, None)
    with pytest.raises(RunError, match=r"down_proj.* differs"):
        verify_checkpoint(directory, model, stage)
    shutil.copyfile(model / "model.safetensors", directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.01}))
    with pytest.raises(RunError, match="is not the reward model of the checkpoint"):
        verify_checkpoint(directory, model, stage)


def test_scores_that_only_a_batch_gets_wrong_are_found(reward_run: Path):
    model = reward_run / "checkpoints/step_4/model"
    whole = verify._load_plain

    class Misled:
        def __init__(self, plain: Any) -> None:
            self._plain, self.config = plain, plain.config

        def __call__(self, rows: torch.Tensor, **options: Any) -> Any:
            return self._plain(rows + (len(rows) > 1), **options)

    def load(kind: str, directory: Path, **options: Any) -> Any:
        return Misled(whole(kind, directory, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_load_plain", load)
        with pytest.raises(RunError, match="is not the reward model"):
            verify_checkpoint(model, model, None)


def test_a_pad_token_that_is_the_end_of_answers_is_found(reward_run: Path):
    model = reward_run / "checkpoints/step_4/model"
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "pad_token_id": 1}))
    with pytest.raises(RunError, match="If its pad token is its end-of-sequence token"):
        verify_checkpoint(model, model, None)
