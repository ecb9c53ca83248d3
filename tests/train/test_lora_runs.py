"""Runs with LoRA: one copy of the weights, a reference that is the start, whole models saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from fakes import ARITHMETIC, dpo, grpo, ppo, reward_model, sft
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from cameleer.algorithms.sft import SFT
from cameleer.batch import Batch
from cameleer.distributed.launch import run
from cameleer.errors import ModelError, RecipeError, RunError
from cameleer.log import quiet_libraries
from cameleer.models.export import foreign_names
from cameleer.models.heads import load_scorer
from cameleer.models.load import load_model, weights_hash
from cameleer.models.logprobs import forward_logprobs
from cameleer.overrides import override
from cameleer.recipe import Curate, Ladder, LoRA, Model, Recipe, RewardTerm, Rollout
from cameleer.recipe_files import load, to_json
from cameleer.report.curve import read_metrics
from cameleer.train.check import check
from cameleer.train.parity import Parity
from cameleer.train.replay import replay
from cameleer.train.run import Run
from cameleer.train.session import Session
from cameleer.verifiers.gsm8k import GSM8K

ADAPTER = LoRA(rank=4)


def with_lora(kind: Callable[..., Recipe], model: Path, root: Path, **changes: Any) -> Recipe:
    start = Model(source=str(model), lora=ADAPTER)
    if kind is ppo:
        changes = {"value_model": start, **changes}
    return kind(model, root, **{"model": start, **changes})


def batch() -> Batch:
    return Batch(
        tokens_N=torch.arange(6, 30),
        lengths_B=torch.tensor([10, 14]),
        mask_N=(torch.arange(24) != 0) & (torch.arange(24) != 10),
    )


def number_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def loaded(source: Path) -> Any:
    with quiet_libraries():
        return load_model(str(source), "float32", "cpu")


@pytest.mark.parametrize("kind", [dpo, grpo, ppo])
def test_the_reference_is_the_start_and_no_second_model(model: Path, tmp_path: Path, kind: Any):
    start = loaded(model)
    expected = forward_logprobs(start, batch(), 1.0).logprobs_N.detach()
    recipe = with_lora(kind, model, tmp_path)
    (directory,) = run(recipe)
    with Session(recipe) as session:
        session.restore(directory / "checkpoints/step_4")
        learner = session.learner
        found = learner.score("reference", batch()).reference_logprobs_N
        assert torch.equal(found, expected)
        assert not torch.allclose(learner.score("old", batch()).old_logprobs_N, expected, atol=0.01)
        assert learner._reference is None
        with learner.reference() as reference:
            assert reference is learner.model and number_of(reference) == number_of(start)
        hashes = {weights_hash(start)}
        assert {learner.identity()["policy"], learner.identity()["reference"]} == hashes
    weights = json.loads((directory / "manifest.json").read_text())["weights"]
    assert {weights["policy"], weights["reference"]} == hashes


def test_without_a_need_for_it_there_is_no_reference(model: Path, tmp_path: Path):
    with Session(with_lora(sft, model, tmp_path)) as session:
        assert not session.learner.has_reference
        assert session.identity()["weights"]["reference"] is None


@pytest.mark.parametrize("kind", [sft, dpo, reward_model, ppo, grpo])
def test_a_checkpoint_holds_the_whole_model_and_the_adapter_and_its_moments(
    model: Path, tmp_path: Path, kind: Any
):
    recipe = with_lora(kind, model, tmp_path)
    (directory,) = run(recipe)
    saved = directory / "checkpoints/step_4"
    for prefix in ("", "value_") if kind is ppo else ("",):
        assert foreign_names(saved / f"{prefix}model", str(model)) == []
        state = load_file(saved / f"{prefix}optimizer.safetensors")
        assert all("lora_" in name or name.endswith("score.weight") for name in state)
        assert len(state) == 3 * (2 * 2 * 7 + ("score.weight" in str(state.keys())))
        scores = kind is reward_model or prefix == "value_"
        with quiet_libraries():
            load_it = load_scorer if scores else load_model
            whole = load_it(str(saved / f"{prefix}model"), "float32", "cpu")
        with Session(recipe) as session:
            session.restore(saved)
            live: Any = session.learner.value if prefix else session.learner.model
        tokens, kinds = batch(), {"": whole, "live": live}
        if not scores:
            one, two = (forward_logprobs(m, tokens, 1.0).logprobs_N for m in kinds.values())
            torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
        else:
            assert torch.equal(whole.score.weight, live.score.weight)


def test_peft_makes_the_saved_model_from_the_start_and_the_adapter(model: Path, tmp_path: Path):
    (directory,) = run(with_lora(grpo, model, tmp_path))
    saved = directory / "checkpoints/step_4"
    with quiet_libraries():
        base = AutoModelForCausalLM.from_pretrained(model)
        theirs: Any = peft.PeftModel.from_pretrained(base, saved / "adapter").merge_and_unload()
    ours = load_file(saved / "model/model.safetensors")
    start = loaded(model).state_dict()
    assert not torch.equal(
        ours["model.layers.0.mlp.up_proj.weight"], start["model.layers.0.mlp.up_proj.weight"]
    )
    for name, tensor in theirs.state_dict().items():
        if name in ours:
            torch.testing.assert_close(tensor, ours[name], atol=1e-6, rtol=0)


def test_saving_changes_nothing_of_the_run(model: Path, tmp_path: Path):
    recipe = with_lora(grpo, model, tmp_path / "often")
    often = replace(recipe, output=replace(recipe.output, save_every=1))
    seldom = with_lora(grpo, model, tmp_path / "seldom")
    seldom = replace(seldom, output=replace(seldom.output, save_every=4))
    metrics = [
        [line["loss"] for line in read_metrics(run(each)[0]) if "loss" in line]
        for each in (often, seldom)
    ]
    assert metrics[0] == metrics[1]


def test_the_trained_policy_can_never_become_the_reference(model: Path, tmp_path: Path):
    start = tmp_path / "start"
    loaded(model).save_pretrained(start)
    for path in model.iterdir():
        if not (start / path.name).exists():
            (start / path.name).write_bytes(path.read_bytes())
    (directory,) = run(with_lora(grpo, start, tmp_path, num_steps=2))
    merged = directory / "checkpoints/step_2/model/model.safetensors"
    (start / "model.safetensors").write_bytes(merged.read_bytes())
    with pytest.raises(RunError, match="is not the policy that this run started from"):
        run(with_lora(grpo, start, tmp_path), resume=True)


@pytest.mark.parametrize("change", [{"rank": 8}, {"alpha": 1.0}, {"rslora": True}])
def test_another_adapter_is_another_run(model: Path, tmp_path: Path, change: dict[str, Any]):
    recipe = with_lora(grpo, model, tmp_path)
    run(replace(recipe, num_steps=1))
    other = replace(recipe, model=replace(recipe.model, lora=replace(ADAPTER, **change)))
    with pytest.raises(RunError, match=f"was started with model.lora.{next(iter(change))}="):
        run(other, resume=True)
    with Session(recipe) as one, Session(other) as two:
        assert one.identity()["run"] != two.identity()["run"]


def test_the_engine_agrees_with_the_learner_after_training_too(model: Path, tmp_path: Path):
    recipe = with_lora(grpo, model, tmp_path)
    (directory,) = run(recipe)
    with Run(replace(recipe, num_steps=5), resume=True) as resumed:
        # The parity check at its start was through the trained adapter.
        lines = (directory / "parity.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == 4 and json.loads(lines[-1])["max"] < 1e-4
        parity = Parity(resumed.learner, 1.0, pytest.fail, on_policy=True)
        gap = parity.start(resumed.engine, resumed.prompts, max_tokens=8, seed=1)
        assert gap.max < 1e-4


def test_later_stages_start_from_merged_models(model: Path, tmp_path: Path):
    policy, rater = (Model(source=f"stage:{name}", lora=ADAPTER) for name in ("sft", "rater"))
    stages = (
        with_lora(sft, model, tmp_path),
        reward_model(model, tmp_path, name="rater", model=policy),
        ppo(
            model,
            tmp_path,
            model=policy,
            value_model=rater,
            reward_model=RewardTerm(source="stage:rater"),
        ),
    )
    first, second, third = run(Ladder(name="all", stages=stages))
    weights = json.loads((third / "manifest.json").read_text())["weights"]
    policy_hash = weights_hash(loaded(first / "checkpoints/step_4/model"))
    with quiet_libraries():
        rater_of = load_scorer(str(second / "checkpoints/step_4/model"), "float32", "cpu")
    rater_hash = weights_hash(rater_of)
    assert weights == {
        "policy": policy_hash,
        "reference": policy_hash,
        "value model": rater_hash,
        "reward model": rater_hash,
    }


def test_a_stage_that_trains_nothing_has_no_adapter():
    stage = Curate(
        name="pairs",
        model=Model(source="model", lora=ADAPTER),
        data=(ARITHMETIC,),
        rollout=Rollout(num_prompts=2, group_size=2, max_tokens=8),
        verifiers={"gsm8k": GSM8K()},
    )
    with pytest.raises(RecipeError, match="trains nothing"):
        stage.validate()


@pytest.mark.parametrize("kind", [sft, ppo, grpo])
def test_a_step_comes_out_again(model: Path, tmp_path: Path, kind: Any):
    recipe = with_lora(kind, model, tmp_path)
    (directory,) = run(recipe)
    assert all(finding.same for finding in replay(directory, 4, recipe))


def test_the_first_metrics_are_those_without_lora(model: Path, tmp_path: Path):
    changes = {"num_minibatches": 1, "num_steps": 1}
    full, lora = (
        read_metrics(run(each)[0])[0]
        for each in (
            grpo(model, tmp_path / "full", **changes),
            with_lora(grpo, model, tmp_path / "lora", **changes),
        )
    )
    for name in ("loss", "policy/kl", "policy/entropy", "reward/mean"):
        assert full[name] == lora[name], name
    assert lora["optim/grad_norm"] != full["optim/grad_norm"] > 0


def test_it_is_an_option_of_the_command_and_a_field_of_recipe_json(tmp_path: Path):
    recipe = with_lora(sft, Path("model"), tmp_path)
    arguments = ["--model.lora.rank", "8", "--model.lora.targets", "q_proj", "v_proj"]
    found = override(recipe, arguments, prog="cameleer run x")
    assert found.model.lora == LoRA(rank=8, targets=("q_proj", "v_proj"))
    again = override(found, ["--model.lora.targets", "all-linear"], prog="cameleer run x")
    assert again.model.lora == LoRA(rank=8)
    (tmp_path / "recipe.json").write_text(json.dumps(to_json(found)))
    assert load(str(tmp_path / "recipe.json")) == found


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoRA(rank=0), "model.lora.rank is 0; it has to be 1 or more"),
        (LoRA(alpha=0.0), "model.lora.alpha is 0.0, which scales the updates"),
        (LoRA(alpha=float("inf")), "model.lora.alpha is inf, which scales"),
        (LoRA(targets=()), "model.lora.targets is (). Set it to 'all-linear', or to"),
        (LoRA(targets="q_proj"), "model.lora.targets is 'q_proj', and has to be 'all-linear' or"),  # type: ignore[arg-type]
    ],
)
def test_what_no_model_could_do_is_refused_by_the_recipe(lora: LoRA, message: str):
    start = Model(source="model", lora=lora)
    with pytest.raises(RecipeError) as error:
        grpo(Path("model"), Path("runs"), model=start).validate()
    assert message in str(error.value)
    with pytest.raises(RecipeError) as error:
        ppo(Path("model"), Path("runs"), value_model=start).validate()
    assert f"value_{message}" in str(error.value)


def test_a_target_that_is_not_there_is_told_by_check_and_refused_before_weights_are_loaded(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    lora = LoRA(targets=("q_porj",))
    recipe = grpo(model, tmp_path, model=Model(source=str(model), lora=lora))
    assert check(recipe) == 1
    assert "Did you mean 'q_proj'?" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("cameleer.train.session.load_model", pytest.fail)
    with pytest.raises(ModelError, match="names 'q_porj', and no linear layer"):
        run(recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_how_much_is_trained(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = with_lora(sft, model, tmp_path, algorithm=SFT(), num_steps=1)
    run(recipe)
    assert "M of them trained) in float32" in " ".join(capsys.readouterr().out.split())


def test_the_state_of_adamw_is_the_adapters(model: Path, tmp_path: Path):
    with Session(with_lora(ppo, model, tmp_path)) as session:
        learner = session.learner
        trained = [
            sum(p.numel() for p in each.parameters() if p.requires_grad)
            for each in (learner.model, learner.value)
        ]
        assert learner.missing_state_bytes() == 8 * sum(trained)
        assert trained[0] < trained[1] < number_of(learner.model) / 2


def test_the_file_of_an_adapter_names_its_format(model: Path, tmp_path: Path):
    (directory,) = run(with_lora(sft, model, tmp_path))
    stored = directory / "checkpoints/step_4/adapter/adapter_model.safetensors"
    with safe_open(stored, "pt") as file:
        assert file.metadata() == {"format": "pt"}
