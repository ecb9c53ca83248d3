"""The table of metrics is complete, is the page, and decides what the console marks."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import dpo, grpo, held_out, ppo, reward_model, sft
from rich.text import Text

from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.report.curve import read_metrics
from cameleer.train.console import step_line
from cameleer.train.metric_docs import METRICS, Metric, find, out_of_range, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"

HEALTHY = {
    "verifiable_rate": 0.5,
    "policy/entropy": 1.2,
    "policy/clip_fraction": 0.01,
    "groups/zero_variance": 0.4,
    "engine/kl": 1e-6,
    "optim/grad_norm": 0.3,
    "time/step": 2.0,
}


def plain(metrics: dict[str, float]) -> str:
    return Text.from_markup(step_line(3, 10, metrics)).plain


def test_the_page_is_what_the_table_makes():
    remedy = "write it with: python -m cameleer.train.metric_docs > docs/metrics.md"
    assert PAGE.read_text(encoding="utf-8") == page(), remedy


@pytest.mark.parametrize("kind", [grpo, sft, dpo, reward_model, ppo])
def test_every_key_that_a_run_writes_is_documented(model: Path, tmp_path: Path, kind: object):
    assert callable(kind)
    heldout = held_out()
    if kind is reward_model:
        pairs = Source(path="fakes:preferences", format="preference", split="test")
        heldout = replace(heldout, sources=(pairs,))
    (directory,) = run(kind(model, tmp_path, heldout=heldout, num_steps=2))
    keys = {key for line in read_metrics(directory) for key in line} - {"step"}
    assert {key for key in keys if find(key) is None} == set()


def test_every_key_stands_once_and_says_what_to_do_beyond_its_range():
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    for metric in METRICS:
        assert metric.formula and metric.unit and metric.advice, metric.key


def test_no_chapter_of_the_page_is_begun_twice():
    chapters = re.findall("^## .*", page(), re.MULTILINE)
    assert len(chapters) == len(set(chapters)) > 5


@pytest.mark.parametrize(
    ("value", "healthy"), [(0.9, True), (1.1, True), (0.89, False), (1.11, False)]
)
def test_both_ends_belong_to_the_range(value: float, healthy: bool):
    assert (
        Metric(key="k", formula="f", unit="u", advice="a", low=0.9, high=1.1).healthy(value)
        == healthy
    )


def test_a_number_that_is_none_is_never_healthy():
    assert out_of_range({"loss": math.nan, "reward/mean/gsm8k": math.nan}) == [
        "reward/mean/gsm8k",
        "loss",
    ]


def test_a_source_s_key_is_found_by_its_beginning():
    assert find("reward/mean/gsm8k").key == "reward/mean/*"  # type: ignore[union-attr]
    assert find("reward/mean").key == "reward/mean"  # type: ignore[union-attr]
    assert find("reward/median") is None


def test_a_healthy_step_has_no_marks():
    assert "!" not in plain(HEALTHY)


def test_the_console_marks_what_it_shows_and_names_what_it_does_not():
    line = plain({**HEALTHY, "policy/entropy": 0.004, "groups/zero_variance": 1.0, "engine/kl": 0.2,
                  "status/undecided": 2})  # fmt: skip
    assert "entropy 0.004!" in line and "clip 0.010  " in line
    assert line.endswith("undecided 2  groups/zero_variance 1!  engine/kl 0.2!")


def test_a_step_that_no_verifier_read_is_told_by_its_reward():
    assert plain({"loss": 0.1, "reward/mean": 1.25}) == "step  3/10  reward 1.25"
    assert plain({"loss": 0.1}) == "step  3/10  loss 0.1000"


def test_the_mark_is_seen_without_colours():
    assert plain({"policy/kl": 0.7}) == "step  3/10  kl 0.7000!"
