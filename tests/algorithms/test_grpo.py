"""GRPO against numbers worked by hand, and the properties that must hold for any batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cameleer.algorithms.grpo import GRPO
from cameleer.batch import Batch, Output


def batch_of(rewards: list[float], *, group_size: int = 2, length: int = 3) -> Batch:
    num_tokens = len(rewards) * length
    generator = torch.Generator().manual_seed(0)
    logprobs_N = -torch.rand(num_tokens, generator=generator, dtype=torch.float64)
    return Batch(
        tokens_N=torch.zeros(num_tokens, dtype=torch.long),
        lengths_B=torch.full((len(rewards),), length),
        mask_N=torch.ones(num_tokens, dtype=torch.bool),
        group_B=torch.arange(len(rewards)) // group_size,
        rewards_B=torch.tensor(rewards, dtype=torch.float64),
        scored_B=torch.ones(len(rewards), dtype=torch.bool),
        old_logprobs_N=logprobs_N,
        reference_logprobs_N=logprobs_N,
    )


def two_tokens_with_ratios(first: float, second: float) -> tuple[Batch, torch.Tensor]:
    """Two one-token completions of advantage 1, and the log-probabilities with these ratios."""
    batch = batch_of([0.0, 0.0], length=1)
    ratios_N = torch.tensor([first, second], dtype=torch.float64)
    batch = replace(batch, advantages_N=torch.ones_like(ratios_N))
    assert batch.old_logprobs_N is not None
    return batch, (batch.old_logprobs_N + ratios_N.log()).requires_grad_()


def test_advantages_by_hand():
    # Group 1: mean 1/2, Bessel-corrected std sqrt(1/3), 0.5 / 0.57735 = 0.8660. Group 2: equal.
    batch = batch_of([1, 1, 0, 0, 1, 1, 1, 1], group_size=4, length=1)
    expected_N = torch.tensor([0.8660, 0.8660, -0.8660, -0.8660, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(GRPO().advantages(batch).advantages_N, expected_N, atol=1e-4, rtol=0)


def test_each_completion_carries_its_own_advantage_on_all_its_sampled_tokens():
    batch = replace(batch_of([1.0, 0.0]), lengths_B=torch.tensor([4, 2]))
    batch = replace(batch, mask_N=torch.tensor([0, 0, 1, 1, 0, 1], dtype=torch.bool))
    # Two rewards 1 and 0: mean 0.5, std 0.7071, so +-0.7071 where the mask is on.
    expected_N = torch.tensor([0, 0, 0.7071, 0.7071, 0, -0.7071], dtype=torch.float64)
    torch.testing.assert_close(GRPO().advantages(batch).advantages_N, expected_N, atol=1e-4, rtol=0)


def test_loss_by_hand_when_one_token_is_clipped():
    batch, logprobs_N = two_tokens_with_ratios(1.5, 0.9)
    loss = GRPO(clip_eps=0.2, beta=0.0).loss(batch, Output(logprobs_N))
    expected_N = torch.tensor([-1.2, -0.9], dtype=torch.float64)
    torch.testing.assert_close(loss.values.detach(), expected_N)
    assert loss.metrics_N["policy/clip_fraction"].tolist() == [1.0, 0.0]


def test_a_clipped_token_has_no_gradient():
    batch, logprobs_N = two_tokens_with_ratios(1.5, 0.9)
    GRPO(clip_eps=0.2, beta=0.0).loss(batch, Output(logprobs_N)).values.sum().backward()
    torch.testing.assert_close(logprobs_N.grad, torch.tensor([0.0, -0.9], dtype=torch.float64))


def test_kl_with_itself_is_zero_and_with_any_other_is_positive():
    batch = GRPO().advantages(batch_of([1.0, 0.0]))
    assert batch.reference_logprobs_N is not None
    same = GRPO().loss(batch, Output(batch.reference_logprobs_N))
    other = GRPO().loss(batch, Output(batch.reference_logprobs_N - 0.3))
    assert same.metrics_N["policy/kl"].abs().max() == 0.0
    expected_N = torch.full((6,), torch.e**0.3 - 1 - 0.3, dtype=torch.float64)
    torch.testing.assert_close(other.metrics_N["policy/kl"], expected_N)


def test_beta_weighs_the_kl_in_the_loss():
    batch = GRPO().advantages(batch_of([1.0, 0.0]))
    assert batch.reference_logprobs_N is not None
    output = Output(batch.reference_logprobs_N - 0.3)
    without, with_kl = GRPO(beta=0.0).loss(batch, output), GRPO(beta=0.05).loss(batch, output)
    torch.testing.assert_close(
        with_kl.values - without.values, 0.05 * with_kl.metrics_N["policy/kl"]
    )


@pytest.mark.parametrize(
    ("right", "advantage_of_right", "advantage_of_wrong"),
    [(1, 3.7500, -0.2500), (2, 2.5617, -0.3660), (4, 1.6771, -0.5590), (8, 0.9682, -0.9682)],
)
def test_advantages_are_those_of_the_published_run(
    right: int, advantage_of_right: float, advantage_of_wrong: float
):
    # The closed forms for groups of 16 with rewards 10 and 0; the factor 10 cancels.
    batch = batch_of([10.0] * right + [0.0] * (16 - right), group_size=16, length=1)
    advantages_N = GRPO().advantages(batch).advantages_N
    assert advantages_N is not None
    expected = [advantage_of_right] * right + [advantage_of_wrong] * (16 - right)
    torch.testing.assert_close(
        advantages_N, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_equal_rewards_teach_nothing_even_where_their_mean_rounds():
    # 0.1 cannot be written in binary: the mean of 16 of them is off by a rounding, and the floor of
    # the standard deviation would turn that rounding into an advantage.
    batch = batch_of([0.1] * 16, group_size=16, length=1)
    assert batch.rewards_B is not None
    batch = replace(batch, rewards_B=batch.rewards_B.float())
    advantages_N = GRPO().advantages(batch).advantages_N
    assert advantages_N is not None and advantages_N.abs().max() == 0


def test_groups_may_differ_in_size_and_lie_in_any_order():
    # Group 0: rewards 1, 0, 0 with mean 1/3 and std 0.57735; group 1: 0, 1.
    batch = batch_of([1, 0, 0, 1, 0], group_size=5, length=1)
    batch = replace(batch, group_B=torch.tensor([0, 1, 0, 1, 0]))
    expected = torch.tensor([1.1547, -0.7071, -0.5774, 0.7071, -0.5774], dtype=torch.float64)
    torch.testing.assert_close(GRPO().advantages(batch).advantages_N, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [-3.0, 10.0])
def test_a_constant_added_to_every_reward_changes_nothing(shift: float):
    plain = GRPO().advantages(batch_of([1, 0, 0, 1])).advantages_N
    moved = GRPO().advantages(batch_of([1 + shift, shift, shift, 1 + shift])).advantages_N
    torch.testing.assert_close(plain, moved)


def test_a_completion_without_a_verdict_moves_nobody_and_learns_nothing():
    three = GRPO().advantages(batch_of([1, 0, 0], group_size=3)).advantages_N
    batch = batch_of([1, 0, 0, 7], group_size=4)
    batch = replace(batch, scored_B=torch.tensor([1, 1, 1, 0], dtype=torch.bool))
    four = GRPO().advantages(batch).advantages_N
    torch.testing.assert_close(four[:9], three)
    assert four[9:].abs().max() == 0


def test_a_group_without_a_verdict_has_no_advantage_and_spoils_no_other():
    batch = batch_of([1.0, 0.0, 1.0, 0.0])
    batch = replace(batch, scored_B=torch.tensor([False, False, True, True]))
    advantages_N = GRPO().advantages(batch).advantages_N
    alone_N = GRPO().advantages(batch_of([1.0, 0.0])).advantages_N
    assert advantages_N is not None and advantages_N[:6].abs().max() == 0
    torch.testing.assert_close(advantages_N[6:], alone_N)


def test_a_group_with_one_verdict_has_no_advantage():
    batch = batch_of([1.0, 0.0])
    batch = replace(batch, scored_B=torch.tensor([True, False]))
    assert GRPO().advantages(batch).advantages_N.abs().max() == 0


def test_it_asks_for_the_reference_only_where_the_kl_has_a_weight():
    assert GRPO().needs == ("old", "reference")
    assert GRPO(beta=0.0).needs == ("old",)
    assert len({GRPO(), GRPO()}) == 1  # A value, which can be compared and never changes.


def test_its_settings_go_by_name():
    with pytest.raises(TypeError, match="positional"):
        GRPO(0.2)  # type: ignore[misc]
