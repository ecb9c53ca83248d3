"""What transformers makes of a release is what was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import sft, tiny_llama
from made_runs import made, made_checkpoint, nudge
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from cameleer.cli import main
from cameleer.errors import RunError
from cameleer.log import quiet_libraries
from cameleer.models.load import load_tokenizer
from cameleer.release import verify
from cameleer.release.export import release
from cameleer.release.origin import origin
from cameleer.release.verify import verify_checkpoint


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
