"""Two small groups, and every metric of them by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import completion, group, one_prompt

from cameleer.recipe import Reward
from cameleer.train.collect import assemble
from cameleer.train.metrics import engine_metrics, rollout_metrics
from cameleer.types import Completion, Group, Score

RIGHT, WRONG = Score(1.0), Score(0.0)
NONE = Score(0.0, "undecided", "over the limit")


def metrics_of(*groups: Group, reward: Reward | None = None) -> dict[str, float]:
    return rollout_metrics(groups, assemble(groups, reward or Reward()))


def test_rewards_and_rates_by_hand():
    found = metrics_of(
        # Rewards 10, 0 and, cut off by length, 0 for a right answer.
        group(
            0, [(completion(2), RIGHT), (completion(3), WRONG), (completion(7, "length"), RIGHT)]
        ),
        # Rewards 10, none and 5.
        group(
            1,
            [(completion(1), RIGHT), (completion(4), NONE), (completion(1), Score(0.5))],
            source="maths",
        ),
    )
    # 10 + 0 + 0 + 10 + 5 over five; 3 of 5 fully right, whatever the ending.
    assert found["reward/mean"] == pytest.approx(5.0)
    assert found["verifiable_rate"] == pytest.approx(0.6)
    assert found["reward/mean/arithmetic"] == pytest.approx(10 / 3)
    assert found["verifiable_rate/arithmetic"] == pytest.approx(2 / 3)
    assert found["reward/mean/maths"] == pytest.approx(7.5)
    assert found["verifiable_rate/maths"] == pytest.approx(0.5)
    # (25 + 25 + 25 + 25 + 0) / 5 = 20
    assert found["reward/std"] == pytest.approx(20**0.5)
    # 2 + 3 + 7 + 1 + 4 + 1 tokens of six.
    assert (found["length/mean"], found["length/max"]) == (3.0, 7)
    assert found["length/prompt_mean"] == 3.0
    assert found["finish/eos"] == pytest.approx(5 / 6)
    assert found["finish/length"] == pytest.approx(1 / 6)
    assert found["finish/stop"] == 0
    assert (found["status/scored"], found["status/undecided"], found["status/invalid"]) == (5, 1, 0)
    assert found["groups/zero_variance"] == 0


def test_groups_without_contrast_are_told_apart():
    found = metrics_of(
        group(0, [(completion(1), RIGHT), (completion(1), RIGHT)]),
        group(1, [(completion(1), WRONG), (completion(1), WRONG)]),
        group(2, [(completion(1), WRONG), (completion(1), RIGHT)]),
        group(3, [(completion(1), Score(0.5)), (completion(1), Score(0.5))]),
        # One verdict is no contrast, and says which way.
        group(4, [(completion(1), RIGHT), (completion(1), NONE)]),
        group(5, [(completion(1), NONE), (completion(1), NONE)]),
        # Equal rewards since the right one was cut off: neither all right nor all wrong.
        group(6, [(completion(1), WRONG), (completion(1, "length"), RIGHT)]),
        group(7, [(completion(1), WRONG), (completion(1), RIGHT)]),
    )
    assert found["groups/zero_variance"] == 6 / 8
    assert found["groups/all_right"] == 2 / 8
    assert found["groups/all_wrong"] == 1 / 8


def unchecked(number: int, *completions: Completion) -> Group:
    return Group(one_prompt(number, "chat", checks=0), completions, ((),) * len(completions))


def test_answers_to_a_prompt_without_checks_are_neither_right_nor_wrong():
    chat = unchecked(0, completion(1), completion(1))
    found = metrics_of(chat)
    assert "verifiable_rate" not in found and "verifiable_rate/chat" not in found
    assert found["reward/mean"] == found["reward/mean/chat"] == 0.0
    assert found["groups/zero_variance"] == 1.0
    assert found["groups/all_right"] == found["groups/all_wrong"] == 0.0
    # Beside others it does not count: one of four is right, one group of three all wrong.
    found = metrics_of(
        chat,
        group(1, [(completion(1), RIGHT), (completion(1), WRONG)]),
        group(2, [(completion(1), WRONG), (completion(1), WRONG)]),
    )
    assert found["verifiable_rate"] == found["verifiable_rate/arithmetic"] == 1 / 4
    assert "verifiable_rate/chat" not in found and found["reward/mean/chat"] == 0.0
    assert (found["groups/all_right"], found["groups/all_wrong"]) == (0, 1 / 3)


def test_a_source_without_verdicts_has_no_reward():
    found = metrics_of(
        group(0, [(completion(1), RIGHT)]), group(1, [(completion(1), NONE)], source="maths")
    )
    assert found["reward/mean"] == 10.0
    assert "reward/mean/maths" not in found and "verifiable_rate/maths" not in found


def test_the_engines_gap_counts_sampled_tokens_only():
    batch = assemble([group(0, [(completion(2), RIGHT), (completion(2), WRONG)])], Reward())
    # Three prompt tokens, then two at -0.5 under the sampler, of each completion.
    old_N = torch.tensor([9.0, 9.0, 9.0, -0.5, -0.7, 9.0, 9.0, 9.0, -0.4, -0.5])
    batch = replace(batch, old_logprobs_N=old_N)
    found = engine_metrics(batch)
    assert found["engine/logprob_difference_mean"] == pytest.approx(0.3 / 4)
    assert found["engine/logprob_difference_max"] == pytest.approx(0.2)
    # Log-ratios 0, -0.2, 0.1, 0. k3: 0, exp(-0.2) - 1 + 0.2 = 0.01873, exp(0.1) - 1.1 = 0.00517.
    assert found["engine/kl"] == pytest.approx((0.018731 + 0.005171) / 4, abs=1e-6)
    # (1 + 0.81873 + 1.10517 + 1) / 4, and with exp(0.2) = 1.22140 for the second.
    assert found["engine/ratio"] == pytest.approx(0.980975, abs=1e-5)
    assert found["engine/probability_error"] == pytest.approx(1.081643, abs=1e-5)
    assert engine_metrics(batch, version=0) == found
    assert engine_metrics(batch, version=1) == {}
