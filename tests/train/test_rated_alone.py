"""Answers that a reward model rates where no verifier does, in every stage that rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import ARITHMETIC, CHAT, curate, grpo, held_out, ppo, reward_model, sft
from transformers import AutoModelForSequenceClassification

from cameleer.cli import main
from cameleer.curate.stage import curate_stage
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.errors import DataError, RecipeError
from cameleer.files import read_json, read_lines
from cameleer.recipe import Curate, HeldOut, Ladder, Model, Recipe, Reward, RewardTerm, Rollout
from cameleer.report.curve import read_metrics
from cameleer.train import rollouts
from cameleer.train.check import check

WHATEVER_ENDS = Reward(without_eos=None)


@pytest.fixture(scope="module")
def term(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RewardTerm:
    (directory,) = run(reward_model(model, tmp_path_factory.mktemp("judge"), num_steps=12))
    return RewardTerm(source=str(directory / "checkpoints/step_12/model"), weight=0.5)


def score(term: RewardTerm, row: dict[str, Any]) -> float:
    """As transformers scores a completion behind its prompt."""
    model = AutoModelForSequenceClassification.from_pretrained(term.source)
    with torch.no_grad():
        return float(model(torch.tensor([row["prompt_tokens"] + row["tokens"]])).logits)


@pytest.mark.parametrize("kind", [grpo, ppo])
@pytest.mark.parametrize("source", [CHAT, ARITHMETIC], ids=["chat", "gsm8k"])
def test_a_run_learns_from_a_reward_model_alone(
    kind: Any, source: Source, model: Path, term: RewardTerm, tmp_path: Path
):
    rollout = Rollout(num_prompts=16, group_size=4, max_tokens=8)
    recipe: Recipe = kind(
        model, tmp_path, data=(source,), verifiers={}, reward_model=term, reward=WHATEVER_ENDS,
        rollout=rollout, num_steps=12,
    )  # fmt: skip
    assert check(recipe) == 0
    (directory,) = run(recipe)
    steps = read_metrics(directory)
    for line in steps:
        assert line["reward/mean"] == pytest.approx(0.5 * line["reward/model"], abs=1e-5)
        assert not any(key.startswith("verifiable_rate") for key in line)
        assert line["groups/all_right"] == line["groups/all_wrong"] == line["status/scored"] == 0
    means = [line["reward/mean"] for line in steps]
    # A standard deviation of the first 64 rewards is eight standard errors of their mean.
    assert sum(means[-3:]) / 3 > means[0] + steps[0]["reward/std"]
    row = rollouts.read_rows(rollouts.path_of(directory, 12))[0]
    assert row["scores"] == [] and row["reward"] == pytest.approx(0.5 * score(term, row), abs=1e-4)


def test_a_mixture_adds_verdicts_where_there_are_checks(
    model: Path, term: RewardTerm, tmp_path: Path
):
    recipe = grpo(
        model, tmp_path, data=(CHAT, ARITHMETIC), reward_model=term, reward=WHATEVER_ENDS,
        rollout=Rollout(num_prompts=16, group_size=4, max_tokens=8), num_steps=1,
        heldout=held_out(),
    )  # fmt: skip
    (directory,) = run(recipe)
    before, line = read_metrics(directory)
    assert before["heldout/num_prompts"] == 8
    assert "verifiable_rate/chat" not in line and "reward/mean/chat" in line
    assert line["verifiable_rate"] == line["verifiable_rate/arithmetic"]
    rows = rollouts.read_rows(rollouts.path_of(directory, 1))
    kinds = {row["source"]: row for row in rows}
    assert kinds.keys() == {"chat", "arithmetic"}
    for row in kinds.values():
        verdict = sum(10 * each["value"] for each in row["scores"])
        assert len(row["scores"]) == (row["source"] == "arithmetic")
        assert row["reward"] == pytest.approx(verdict + 0.5 * score(term, row), abs=1e-4)


def rated_stage(model: Path, root: Path, term: RewardTerm, **changes: Any) -> Curate:
    rollout = Rollout(num_prompts=12, group_size=8, max_tokens=60)
    return curate(
        root,
        model=Model(source=str(model)),
        **{"verifiers": {}, "reward_model": term, "rollout": rollout, **changes},
    )


@pytest.mark.parametrize("source", [CHAT, ARITHMETIC], ids=["chat", "gsm8k"])
def test_a_stage_of_answers_sorts_them_by_a_reward_model_alone(
    source: Source,
    model: Path,
    term: RewardTerm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    stage = rated_stage(model, tmp_path, term, data=(source,))
    assert check(Ladder(name="ladder", stages=(stage,))) == 0
    directory = curate_stage(stage)
    ended: dict[str, dict[str, float]] = {}
    for row in rollouts.read_rows(rollouts.path_of(directory, 1)):
        if row["finish_reason"] == "eos" and row["text"]:
            ended.setdefault(row["prompt_id"], {})[row["text"]] = 0.5 * score(term, row)
    best = {name: max(found, key=found.__getitem__) for name, found in ended.items()}
    right = list(read_lines(directory / "right.jsonl"))
    assert {row["id"]: row["messages"][-1]["content"] for row in right} == best
    pairs = list(read_lines(directory / "pairs.jsonl"))
    assert {row["id"] for row in pairs} == {name for name, texts in ended.items() if len(texts) > 1}
    for row in pairs:
        found = ended[row["id"]]
        assert row["chosen"][0]["content"] == best[row["id"]]
        assert row["rewards"] == pytest.approx([max(found.values()), min(found.values())], abs=1e-4)
    assert f"and {len(right)} best-rated answers ->" in capsys.readouterr().out
    assert read_json(directory / "manifest.json")["counts"]["right"] == len(right) > 4


def test_a_stage_of_answers_may_mix_questions_with_and_without_truths(
    model: Path, term: RewardTerm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    few = tuple(replace(source, count=6) for source in (CHAT, ARITHMETIC))
    changes: dict[str, Any] = {"data": few, "verifiers": curate(tmp_path).verifiers}
    directory = curate_stage(rated_stage(model, tmp_path, term, **changes))
    by_source = [row["id"].partition("/")[0] for row in read_lines(directory / "right.jsonl")]
    right, rated = by_source.count("arithmetic"), by_source.count("chat")
    assert f"and {right} right and {rated} best-rated answers" in capsys.readouterr().out
    assert right and rated


def test_the_command_makes_pairs_of_conversations(
    model: Path, term: RewardTerm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "pairs.jsonl"
    asked = ["data", "pairs", str(model), "fakes:conversations", "--format", "chat"]
    options = ["--output", str(output), "--count", "4", "--max-tokens", "60", "--threads", "1"]
    assert main([*asked, *options]) == 1
    assert "have no ground truth to reward" in " ".join(capsys.readouterr().out.split())
    assert main([*asked, *options, "--reward-model", term.source]) == 0
    # No verdict is among them: those are whole numbers.
    assert any(reward % 1 for row in read_lines(output) for reward in row["rewards"])


def test_the_command_leaves_verifiers_out_where_that_is_asked(
    model: Path, term: RewardTerm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = ["data", "pairs", str(model), "fakes:named_otherwise", "--format", "rlvr"]
    asked += ["--output", str(tmp_path / "pairs.jsonl"), "--max-tokens", "60", "--threads", "1"]
    asked += ["--reward-model", term.source]
    assert main(asked) == 1
    assert "name the verifier 'other'" in " ".join(capsys.readouterr().out.split())
    assert main([*asked, "--no-verifiers"]) == 0
    assert "1 pairs and 1 best-rated answers" in capsys.readouterr().out


def test_what_nothing_could_rate_is_refused(model: Path, term: RewardTerm, tmp_path: Path):
    for recipe in (
        grpo(model, tmp_path, verifiers={}),
        ppo(model, tmp_path, verifiers={}),
        curate(tmp_path, model=Model(source=str(model)), verifiers={}),
    ):
        with pytest.raises(RecipeError, match="has neither `verifiers` nor a `reward_model`"):
            recipe.validate()
    for recipe in (
        grpo(model, tmp_path, data=(CHAT,)),
        curate(tmp_path, model=Model(source=str(model)), data=(ARITHMETIC, CHAT)),
    ):
        with pytest.raises(RecipeError, match="format 'chat', which have no ground truth"):
            recipe.validate()
    sft(model, tmp_path, data=(CHAT,)).validate()
    other = Source(path="fakes:named_otherwise")
    with pytest.raises(DataError, match="name the verifier 'other', which the recipe does not"):
        run(grpo(model, tmp_path, data=(other,), reward_model=term))


def test_held_out_questions_need_a_truth_and_a_verifier(
    model: Path, term: RewardTerm, tmp_path: Path
):
    unseen = HeldOut(sources=(replace(CHAT, split="test"), *held_out().sources), num_prompts=70)
    # All 64 of the first source, and 6 of the other's, which have a check.
    said = (
        r"64 of 70 held-out questions have no check, the first at fakes:conversations:1: held-out"
    )
    with pytest.raises(DataError, match=said):
        run(grpo(model, tmp_path, reward_model=term, heldout=unseen))
    for recipe in (
        grpo(model, tmp_path, verifiers={}, reward_model=term, heldout=held_out()),
        sft(model, tmp_path, verifiers={}, heldout=held_out()),
    ):
        with pytest.raises(DataError, match="8 of 8 held-out questions have no check"):
            run(recipe)
