"""Imitation from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import ARITHMETIC, dpo, held_out, sft

from cameleer.data.prompts import Example
from cameleer.distributed.launch import run
from cameleer.errors import CameleerError
from cameleer.recipe import Model, Optim, Rollout, Runtime
from cameleer.report.curve import read_metrics, series
from cameleer.train.packing import pack


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_falls(model: Path, tmp_path: Path, dtype: str):
    recipe = sft(
        model, tmp_path, model=Model(source=str(model), dtype=dtype), num_steps=20, batch_size=16
    )
    (directory,) = run(recipe)
    losses = [line["loss"] for line in read_metrics(directory)]
    # Random weights guess among 83 words: log 83 = 4.42 nats.
    assert losses[0] == pytest.approx(4.42, abs=0.2)
    assert sum(losses[-3:]) / 3 < 2.5


def test_the_loss_is_the_mean_over_trained_tokens_and_so_is_the_nll(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path))
    for line in read_metrics(directory):
        assert line["loss"] == pytest.approx(line["sft/nll"], rel=1e-5)


def test_the_learning_rate_rises_and_stays(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path, optim=Optim(learning_rate=1e-2, warmup_steps=2)))
    rates = [line["optim/learning_rate"] for line in read_metrics(directory)]
    assert rates == [0.005, 0.01, 0.01, 0.01]


def test_held_out_questions_are_answered_before_and_after(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path, heldout=held_out()))
    answered = [r["step"] for r in read_metrics(directory) if "heldout/accuracy" in r]
    assert answered == [0, 4]


def test_the_same_questions_are_answered_every_few_steps(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path, heldout=held_out()))
    lines = (directory / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert [s["step"] for s in samples] == [2, 2, 4, 4]
    assert samples[0]["prompt"] == samples[2]["prompt"] != samples[1]["prompt"]
    assert samples[0]["prompt"].endswith("in the end ?")


def test_examples_lie_end_to_end_with_their_masks():
    batch = pack(
        [
            (Example((7, 8, 9), (False, True, True), "a"),),
            (Example((5, 6), (False, True), "a"),),
        ]
    )
    assert batch.tokens_N.tolist() == [7, 8, 9, 5, 6]
    assert batch.lengths_B.tolist() == [3, 2]
    assert batch.mask_N.tolist() == [False, True, True, False, True]
    assert batch.pair_B is None and batch.chosen_B is None


def test_the_two_of_a_pair_lie_side_by_side_the_chosen_first():
    one, other = Example((7, 8), (False, True), "a"), Example((7, 9, 9), (False, True, True), "a")
    batch = pack([(one, other), (other, one)])
    assert batch.lengths_B.tolist() == [2, 3, 3, 2]
    assert batch.pair_B is not None and batch.pair_B.tolist() == [0, 0, 1, 1]
    assert batch.chosen_B is not None and batch.chosen_B.tolist() == [True, False, True, False]


def test_dpo_prefers_the_chosen_answers_more_and_more(model: Path, tmp_path: Path):
    (directory,) = run(dpo(model, tmp_path, num_steps=8))
    _, margins = series(read_metrics(directory), "rewards/margins")
    _, losses = series(read_metrics(directory), "loss")
    # Before the first update policy and reference are one: -log sigmoid(0) = log 2.
    assert margins[0] == 0 and losses[0] == pytest.approx(0.6931, abs=1e-4)
    assert margins[-1] > 0.5 and losses[-1] < 0.5


def test_micro_batches_do_not_change_a_dpo_step_and_part_no_pair(model: Path, tmp_path: Path):
    found = []
    for size in (8192, 40):
        recipe = dpo(
            model, tmp_path / str(size), runtime=Runtime(num_threads=1, micro_batch_tokens=size)
        )
        (directory,) = run(recipe)
        found.append(series(read_metrics(directory), "loss")[1])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (dpo, {"data": (ARITHMETIC,)}, "Name a source of format 'preference'"),
        (sft, {"data": (dpo(Path(), Path()).data)}, "are pairs, and"),
        (dpo, {"rollout": Rollout(num_prompts=2, group_size=2, max_tokens=4)}, "learns from pairs"),
    ],
)
def test_data_that_an_objective_cannot_learn_from_is_refused(
    model: Path, tmp_path: Path, kind: Any, change: dict[str, Any], message: str
):
    with pytest.raises(CameleerError, match=message):
        run(kind(model, tmp_path, **change))
