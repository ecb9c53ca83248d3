"""Reinforcement learning from end to end: that it learns, and what it refuses to learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from fakes import Breaks, Explodes, Says, completion, group, grpo, held_out, one_prompt
from safetensors.torch import load_file

from cameleer.algorithms.grpo import GRPO
from cameleer.batch import Batch
from cameleer.distributed.launch import run
from cameleer.errors import TrainingError
from cameleer.recipe import Optim, Reward, Rollout
from cameleer.report.curve import read_metrics
from cameleer.train import rollouts
from cameleer.train.collect import assemble
from cameleer.train.inputs import read_inputs
from cameleer.train.online import (
    minibatches,
    other_prompts,
    step_prompts,
    train_online,
    without_left_out,
)
from cameleer.train.run import Run
from cameleer.train.torch_learner import TorchLearner
from cameleer.types import Check, Group, Score


def test_half_a_character_in_a_ground_truth_is_written_as_it_is_escaped(tmp_path: Path):
    prompt = replace(one_prompt(1), checks=(Check("gsm8k", "\ud800"), Check("gsm8k", ["\ud800"])))
    scored = Group(prompt, (completion(3),), ((Score(1.0), Score(1.0)),))
    rollouts.write(tmp_path / "step.parquet", 1, [scored])
    (row,) = rollouts.read_rows(tmp_path / "step.parquet")
    assert [s["truth"] for s in row["scores"]] == ["\\ud800", '["\\ud800"]']


def test_a_few_steps_raise_the_reward(model: Path, tmp_path: Path):
    # 1 of 83 words in 8 draws: right in about a tenth of the first answers.
    recipe = grpo(
        model,
        tmp_path,
        verifiers={"gsm8k": Says("apples")},
        reward=Reward(without_eos=None),
        algorithm=GRPO(beta=0.0),
        optim=Optim(learning_rate=1e-2),
        rollout=Rollout(num_prompts=8, group_size=16, max_tokens=8),
        num_steps=15,
    )
    (directory,) = run(recipe)
    rewards = [line["reward/mean"] for line in read_metrics(directory)]
    assert rewards[0] < 3.0
    assert sum(rewards[-3:]) / 3 > 7.0


def test_every_step_leaves_the_metrics_that_a_run_is_judged_by(model: Path, tmp_path: Path):
    (directory,) = run(grpo(model, tmp_path, heldout=held_out()))
    before, *steps = read_metrics(directory)
    assert before["step"] == 0 and before["heldout/num_prompts"] == 8
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {key for key in steps[1] if key != "step"} == {
        "reward/mean",
        "reward/mean/arithmetic",
        "reward/std",
        "verifiable_rate",
        "verifiable_rate/arithmetic",
        "groups/zero_variance",
        "groups/all_right",
        "groups/all_wrong",
        "length/mean",
        "length/max",
        "length/prompt_mean",
        "finish/eos",
        "finish/stop",
        "finish/length",
        "status/scored",
        "status/undecided",
        "status/invalid",
        "loss",
        "policy/entropy",
        "policy/kl",
        "policy/ratio",
        "policy/clip_fraction",
        "engine/logprob_difference_mean",
        "engine/logprob_difference_max",
        "engine/kl",
        "engine/ratio",
        "engine/probability_error",
        "engine/drift",
        "optim/grad_norm",
        "optim/learning_rate",
        "time/rollout",
        "time/verify",
        "time/score",
        "time/update",
        "time/step",
        "throughput/tokens_per_s",
        "throughput/sampled_tokens_per_s",
    }
    assert "heldout/accuracy" in steps[-1]


def test_the_engine_agrees_with_the_learner(model: Path, tmp_path: Path):
    (directory,) = run(grpo(model, tmp_path))
    assert max(m["engine/logprob_difference_max"] for m in read_metrics(directory)) < 1e-4


def test_rollouts_are_a_row_a_completion_with_all_that_was_learnt_from(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path)
    (directory,) = run(recipe)
    prompts = {prompt.id: prompt for prompt in read_inputs(recipe).prompts.prompts}
    table = pq.read_table(directory / "rollouts" / "step_000003.parquet")
    assert table.schema == rollouts.SCHEMA
    rows = table.to_pylist()
    assert len(rows) == 4 * 4
    for row in rows:
        assert row["step"] == 3
        # Two updates a step, and two steps before this one.
        assert row["version"] == 4
        assert len(row["tokens"]) == len(row["logprobs"]) <= 8
        assert all(logprob < 0 for logprob in row["logprobs"])
        (score,) = row["scores"]
        words = len(row["text"].split())
        assert score == {
            "verifier": "gsm8k",
            "truth": prompts[row["prompt_id"]].checks[0].truth,
            "value": float(words % 2 == 0),
            "status": "scored",
            "reason": f"{words} words",
        }
        ended = row["finish_reason"] == "eos"
        assert row["reward"] == (10.0 * score["value"] if ended else 0.0)
    assert {row["sample"] for row in rows} == {0, 1, 2, 3}
    assert len({row["prompt_id"] for row in rows}) == 4
    for prompt in {row["prompt_id"] for row in rows}:
        siblings = [row for row in rows if row["prompt_id"] == prompt]
        assert sum(row["advantage"] for row in siblings) == pytest.approx(0, abs=1e-5)


def test_the_advantage_of_a_row_is_that_of_its_last_token(tmp_path: Path):
    groups = [group(0, [(completion(n), Score(1.0)) for n in (2, 3)])]
    batch = assemble(groups, Reward())
    places_N = torch.arange(batch.tokens_N.numel(), dtype=torch.float32)
    path = tmp_path / "step.parquet"
    rollouts.write(path, 1, groups, replace(batch, advantages_N=places_N))
    first, second = (row["advantage"] for row in rollouts.read_rows(path))
    assert (first, second) == (batch.lengths_B[0] - 1, places_N[-1])


def test_undecided_completions_are_counted_and_have_no_reward(model: Path, tmp_path: Path):
    (directory,) = run(grpo(model, tmp_path, verifiers={"gsm8k": Breaks()}, num_steps=1))
    (line,) = read_metrics(directory)
    rows = pq.read_table(directory / "rollouts" / "step_000001.parquet").to_pylist()
    undecided = [row for row in rows if len(row["text"].split()) % 2]
    decided = [row for row in rows if row not in undecided]
    assert undecided and decided
    assert line["status/undecided"] == len(undecided)
    assert line["status/scored"] == len(decided)
    assert all(row["reward"] is None and row["advantage"] == 0 for row in undecided)
    assert all("ZeroDivisionError" in row["scores"][0]["reason"] for row in undecided)
    assert all(row["reward"] is not None for row in decided)


def test_a_step_without_any_verdict_ends_the_run_with_the_reason(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, verifiers={"gsm8k": Breaks(always=True)})
    with pytest.raises(TrainingError, match=r"Step 1: none of 16 completions .* as asked"):
        run(recipe)


def test_a_loss_that_is_no_number_is_not_learnt_from(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, algorithm=Explodes())
    Explodes.fuse["left"] = 1
    with Run(recipe, resume=False) as started:
        taken: list[dict[str, torch.Tensor]] = []
        update = started.learner.step

        def step_and_keep() -> dict[str, float]:
            metrics = update()
            taken.append({k: v.clone() for k, v in started.learner.model.state_dict().items()})
            return metrics

        started.learner.step = step_and_keep  # type: ignore[method-assign]
        with pytest.raises(TrainingError, match="Step 1: the loss is nan, so no update was made"):
            train_online(started)
        # The first minibatch was learnt from, the second was not.
        assert len(taken) == 1 and started.learner.version == 1
        for name, tensor in started.learner.model.state_dict().items():
            assert torch.equal(tensor, taken[0][name])


def test_the_batch_of_a_bad_loss_is_kept_and_the_run_can_go_on(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, algorithm=Explodes())
    # Two updates a step: the fifth is the first of step 3, after the checkpoint of step 2.
    Explodes.fuse["left"] = 4
    with pytest.raises(TrainingError) as error:
        run(recipe)
    dump = tmp_path / "grpo" / "dumps" / "step_000003.safetensors"
    assert str(dump) in str(error.value)
    kept = load_file(dump)
    assert {"tokens_N", "lengths_B", "mask_N", "rewards_B", "advantages_N"} <= kept.keys()
    assert len(kept["tokens_N"]) == kept["lengths_B"].sum()
    Explodes.fuse["left"] = 100
    run(recipe, resume=True)
    assert [line["step"] for line in read_metrics(tmp_path / "grpo")] == [1, 2, 3, 4]


def test_every_completion_is_in_one_minibatch_and_siblings_stay_together():
    answers = [(completion(n), Score(float(n == 2))) for n in (1, 2, 3)]
    batch = assemble([group(i, answers) for i in range(5)], Reward())
    parts = list(minibatches(batch, 2, "group", seed=3))
    groups = [sorted(set(part.group_B.tolist())) for part in parts]
    assert sorted(groups[0] + groups[1]) == [0, 1, 2, 3, 4]
    assert [part.num_sequences for part in parts] == [9, 6]


def test_the_published_split_permutes_completions_whatever_their_group():
    answers = [(completion(n), Score(float(n == 2))) for n in (1, 2, 3)]
    batch = assemble([group(i, answers) for i in range(4)], Reward())
    parts = list(minibatches(batch, 2, "sequence", seed=0))
    assert [part.num_sequences for part in parts] == [6, 6]
    shares = [torch.bincount(part.group_B, minlength=4).tolist() for part in parts]
    assert [sum(share) for share in zip(*shares, strict=True)] == [3, 3, 3, 3]
    assert any(count not in (0, 3) for count in shares[0])


def test_a_pass_through_the_prompts_repeats_none_and_the_next_has_another_order():
    prompts = tuple(one_prompt(i) for i in range(6))
    ids = [p.id for step in (1, 2, 3, 4) for p in step_prompts(prompts, 3, seed=1, step=step)]
    assert sorted(ids[:6]) == sorted(ids[6:]) == [p.id for p in prompts]
    assert ids[:6] != ids[6:]
    assert [p.id for p in step_prompts(prompts, 3, seed=1, step=2)] == ids[3:6]


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_groups_are_sampled_so_many_steps_before_their_update(
    model: Path, tmp_path: Path, staleness: int
):
    recipe = grpo(model, tmp_path, num_steps=5, num_minibatches=2)
    assert recipe.rollout is not None
    recipe = replace(recipe, rollout=replace(recipe.rollout, max_staleness=staleness))
    (directory,) = run(recipe)
    found = [
        set(pq.read_table(rollouts.path_of(directory, step))["version"].to_pylist())
        for step in range(1, 6)
    ]
    # Two updates a step: step 4 is sampled after the updates of step 3 - staleness.
    assert found == [{2 * max(0, step - 1 - staleness)} for step in range(1, 6)]


def test_a_step_of_one_update_scores_nothing_and_comes_to_the_same(model: Path, tmp_path: Path):
    asked: list[str] = []

    class Counted(TorchLearner):
        def score(self, name: str, batch: Batch) -> Batch:
            asked.append(name)
            return super().score(name, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cameleer.train.session.TorchLearner", Counted)
        one = grpo(model, tmp_path, algorithm=GRPO(beta=0.0), num_minibatches=1, num_steps=2)
        (directory,) = run(one)
    # The gate before the first step compares engine and learner once.
    assert asked == ["old"]
    line = next(m for m in read_metrics(directory) if m["step"] == 2)
    # The ratio of a policy to itself.
    assert line["policy/ratio"] == 1.0 and line["policy/clip_fraction"] == 0.0
    assert line["engine/logprob_difference_max"] < 1e-4


REFILLED = {"algorithm": GRPO(beta=0.05, drop_equal_groups=True), "num_minibatches": 2}
"""With two siblings, half of the groups of `Even` have no contrast."""


def refilled(group_size: int = 2, **changes: int) -> Rollout:
    return Rollout(num_prompts=4, group_size=group_size, max_tokens=8, **changes)


def test_groups_without_contrast_are_sampled_anew_until_there_are_enough(
    model: Path, tmp_path: Path
):
    recipe = grpo(model, tmp_path, reward=Reward(without_eos=None), **REFILLED)
    (directory,) = run(replace(recipe, rollout=refilled(max_refills=20)))
    lines = read_metrics(directory)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        rows = pq.read_table(rollouts.path_of(directory, line["step"])).to_pylist()
        advantages: dict[str, list[float]] = {}
        for row in rows:
            advantages.setdefault(row["prompt_id"], []).append(row["advantage"])
        assert all(len(of_prompt) == 2 for of_prompt in advantages.values()), "none asked twice"
        # Those in whose stead others came are still written down.
        assert line["groups/refilled"] == len(advantages) - 4
        assert sum(any(each) for each in advantages.values()) == 4
        assert line["groups/zero_variance"] == 1 - 4 / len(advantages)
    assert max(line["groups/refilled"] for line in lines) > 0


def test_refills_end_where_no_group_has_contrast(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, verifiers={"gsm8k": Says("nobody")}, num_steps=1, **REFILLED)
    (directory,) = run(replace(recipe, rollout=refilled(max_refills=2)))
    (line,) = read_metrics(directory)
    assert line["groups/refilled"] == 2 * 4 and line["groups/zero_variance"] == 1
    assert line["loss"] == 0
    few = (replace(recipe.data[0], count=5),)
    recipe = replace(recipe, data=few, output=replace(recipe.output, directory=str(tmp_path / "b")))
    (directory,) = run(replace(recipe, rollout=refilled(max_refills=9)))
    (line,) = read_metrics(directory)
    assert line["groups/refilled"] == 1, "a step asks no prompt twice"


def test_the_prompts_of_refills_are_all_others_in_an_order_of_the_step():
    prompts = tuple(one_prompt(i) for i in range(30))
    found = {
        step: [p.id for p in other_prompts(prompts, prompts[3:7], seed=1, step=step)]
        for step in (1, 2)
    }
    others = sorted(p.id for p in (*prompts[:3], *prompts[7:]))
    assert sorted(found[1]) == sorted(found[2]) == others
    assert found[1] != found[2]
    assert found[1] == [p.id for p in other_prompts(prompts, prompts[3:7], seed=1, step=1)]


def test_what_is_left_out_is_not_computed_and_groups_stay_together():
    equal = [(completion(n), Score(1.0)) for n in (1, 2)]
    unlike = [(completion(n), Score(float(n == 2))) for n in (1, 2)]
    groups = [group(0, equal), group(1, unlike), group(2, equal), group(3, unlike)]
    algorithm = GRPO(beta=0.0, drop_equal_groups=True)
    batch = algorithm.advantages(assemble(groups, Reward()))
    kept = without_left_out(batch)
    assert kept.group_B is not None and kept.group_B.tolist() == [0, 0, 1, 1]
    assert torch.equal(kept.tokens_N, batch.select(torch.tensor([2, 3, 6, 7])).tokens_N)
    # A minibatch of nothing would be an update by momentum alone.
    assert [part.num_sequences for part in minibatches(kept, 3, "group", seed=0)] == [2, 2]
    nothing = algorithm.advantages(assemble([group(0, equal)], Reward()))
    assert without_left_out(nothing) is nothing
