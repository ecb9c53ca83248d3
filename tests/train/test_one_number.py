"""Reward models and PPO from end to end: that they learn, hand over, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import Says, completion, dpo, group, grpo, ppo, reward_model, sft, tiny_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cameleer.algorithms.ppo import PPO
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.errors import DataError, ModelError, RecipeError, RunError
from cameleer.recipe import (
    Eval,
    HeldOut,
    Model,
    Optim,
    Recipe,
    Reward,
    RewardTerm,
    Rollout,
)
from cameleer.report.curve import read_metrics
from cameleer.train.collect import assemble
from cameleer.train.model_reward import ModelReward
from cameleer.train.session import Session
from cameleer.types import Score

PAIRS = Source(path="fakes:preferences", format="preference", count=64, take="first")
UNSEEN = HeldOut(sources=(replace(PAIRS, split="test"),), num_prompts=32)


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained a reward model for worked answers."""
    root = tmp_path_factory.mktemp("reward")
    (directory,) = run(reward_model(model, root, heldout=UNSEEN, num_steps=12))
    return directory


@pytest.fixture(scope="module")
def judge(trained: Path) -> Path:
    return trained / "checkpoints" / "step_12" / "model"


def test_a_reward_model_learns_to_rank_pairs_it_has_not_seen(trained: Path):
    before, *steps = read_metrics(trained)
    assert before["heldout/num_pairs"] == 32
    assert steps[-1]["heldout/accuracy"] > 0.9 > before["heldout/accuracy"]
    assert steps[-1]["loss"] < 0.3 and steps[-1]["rewards/accuracies"] == 1.0


def test_the_checkpoint_is_a_sequence_classifier_of_transformers(trained: Path, judge: Path):
    plain = AutoModelForSequenceClassification.from_pretrained(judge)
    tokenizer = AutoTokenizer.from_pretrained(judge)
    assert plain.config.num_labels == 1 and tokenizer.pad_token_id != tokenizer.eos_token_id
    with Session(reward_model(judge, trained.parent)) as session:
        pair = session.examples[0]
        texts = [torch.tensor([example.tokens]) for example in pair]
        with torch.no_grad():
            theirs = [float(plain(tokens).logits) for tokens in texts]
        from cameleer.train.packing import pack

        ours = session.learner.rewards(pack([pair]))
    assert ours.tolist() == pytest.approx(theirs, abs=1e-4)


def test_held_out_pairs_that_are_trained_on_are_refused(model: Path, tmp_path: Path):
    with pytest.raises(DataError, match="32 of 32 held-out questions are also in the training"):
        run(reward_model(model, tmp_path, heldout=replace(UNSEEN, sources=(PAIRS,))))


def test_ppo_raises_the_reward_from_a_reward_models_value(model: Path, judge: Path, tmp_path: Path):
    recipe = ppo(
        model,
        tmp_path,
        verifiers={"gsm8k": Says("apples")},
        reward=Reward(without_eos=None),
        algorithm=PPO(beta=0.0, value_clip=None),
        value_model=Model(source=str(judge)),
        rollout=Rollout(num_prompts=64, group_size=2, max_tokens=8),
        num_steps=15,
    )
    (directory,) = run(recipe)
    steps = read_metrics(directory)
    rewards = [line["reward/mean"] for line in steps]
    assert rewards[0] < 3.0
    assert sum(rewards[-3:]) / 3 > 7.0
    # What the value model expects has come near to what is paid.
    assert abs(steps[-1]["value/mean"] - steps[-1]["reward/mean"]) < 4.0
    assert steps[-1]["optim/value_learning_rate"] == 2e-2


def test_a_value_model_moves_by_its_own_loss_alone(model: Path, tmp_path: Path):
    # Without a reward's contrast to the values the policy would move as well: its rate is nothing.
    recipe = ppo(model, tmp_path, optim=Optim(learning_rate=1e-12), num_steps=2)
    (directory,) = run(recipe)
    last = directory / "checkpoints" / "step_2"
    old = load_file(Path(recipe.model.source) / "model.safetensors")
    policy, value = (load_file(last / n / "model.safetensors") for n in ("model", "value_model"))
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(policy[name], old[name], atol=1e-9, rtol=0)
    assert float((value[name] - old[name]).abs().max()) > 1e-3


def test_the_value_model_may_be_of_another_size(model: Path, tmp_path: Path):
    from cameleer.data.datasets.arithmetic import vocabulary
    from cameleer.models.tiny import save_tiny_llama

    wide = save_tiny_llama(
        tmp_path / "wide", vocabulary(), hidden_size=64, num_layers=1, max_tokens=128
    )
    (directory,) = run(ppo(model, tmp_path, value_model=Model(source=str(wide)), num_steps=1))
    weights = load_file(directory / "checkpoints/step_1/value_model/model.safetensors")
    assert weights["score.weight"].shape == (1, 64)


def test_a_reward_term_is_added_where_the_answer_ended(model: Path, judge: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, reward_model=RewardTerm(source=str(judge), weight=0.5))
    groups = [group(0, [(completion(3), Score(1.0)), (completion(4, "length"), Score(1.0))])]
    with Session(recipe) as session:
        term = session.reward_model
        assert isinstance(term, ModelReward)
        batch = assemble(groups, recipe.reward)
        with_model, metrics = term.add(batch, groups, without_eos=0.0)
        both, _ = term.add(batch, groups, without_eos=None)
    assert batch.rewards_B is not None and batch.rewards_B.tolist() == [10.0, 0.0]
    added, added_to_both = with_model.rewards_B - batch.rewards_B, both.rewards_B - batch.rewards_B
    assert added[0] != 0 and added[1] == 0 and added_to_both[1] != 0
    assert float(added_to_both.sum()) / 2 == pytest.approx(0.5 * metrics["reward/model"], rel=1e-5)


def test_a_run_with_a_reward_term_resumes_only_with_the_same_reward_model(
    model: Path, judge: Path, tmp_path: Path
):
    import shutil

    mine = Path(shutil.copytree(judge, tmp_path / "judge"))
    recipe = grpo(model, tmp_path, reward_model=RewardTerm(source=str(mine)), num_steps=2)
    (directory,) = run(recipe)
    assert "reward/model" in read_metrics(directory)[-1]
    weights = load_file(mine / "model.safetensors")
    weights["score.weight"] += 1
    save_file(weights, mine / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="is not the reward model that this run started from"):
        run(replace(recipe, num_steps=4), resume=True)


def test_a_language_model_is_refused_as_a_reward_term(model: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="is no reward model"):
        run(grpo(model, tmp_path, reward_model=RewardTerm(source=str(model))))


def refused(recipe: Recipe) -> str:
    with pytest.raises(RecipeError) as error:
        run(recipe)
    return str(error.value)


def test_recipes_whose_models_do_not_fit_are_refused(model: Path, tmp_path: Path):
    source = Model(source=str(model))
    assert "PPO needs a value model" in refused(
        ppo(model, tmp_path, value_model=None, value_optim=None)
    )
    assert "GRPO has no use for" in refused(grpo(model, tmp_path, value_model=source))
    evals = Eval(benchmarks=("gsm8k",))
    assert "answers no benchmark" in refused(reward_model(model, tmp_path, evals=evals))
    optim = Optim(learning_rate=1.0)
    assert "`value_optim` and no `value_model`" in refused(grpo(model, tmp_path, value_optim=optim))
    term = RewardTerm(source=str(model))
    assert "no `rollout` to reward" in refused(dpo(model, tmp_path, reward_model=term))


def test_a_value_model_of_another_tokenizer_is_refused(model: Path, tmp_path: Path):
    from cameleer.models.tiny import save_tiny_llama

    other = save_tiny_llama(tmp_path / "other", ["one", "two"], hidden_size=32, num_layers=1)
    with pytest.raises(ModelError, match="has another vocabulary"):
        run(ppo(model, tmp_path, value_model=Model(source=str(other))))


def test_a_base_model_without_padding_trains_and_resumes_with_rows_for_it(tmp_path: Path):
    source = tiny_llama(tmp_path / "base")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (source / file).read_text().replace("<pad>", "<zero>")
        (source / file).write_text(text.replace('"pad_token": "<zero>",', ""))
    recipe = sft(source, tmp_path, num_steps=2)
    (directory,) = run(recipe)
    run(replace(recipe, num_steps=4), resume=True)
    tokenizer = AutoTokenizer.from_pretrained(directory / "checkpoints/step_4/model")
    weights = load_file(directory / "checkpoints/step_4/model/model.safetensors")
    assert tokenizer.pad_token_id == 79
    assert weights["model.embed_tokens.weight"].shape == (80, 32)
