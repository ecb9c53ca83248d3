"""GRPO's relatives against numbers worked by hand, and that no split changes any of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cameleer.algorithms.functional import whiten
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.normalize import Normalize
from cameleer.batch import Batch, Output

VARIANTS = {
    "dapo": GRPO(clip_eps_high=0.28, beta=0.0),
    "dual clip": GRPO(dual_clip=1.5),
    "gspo": GRPO(ratio="sequence"),
    "cispo": GRPO(surrogate="cispo", beta=0.0),
    "rloo": GRPO(baseline="leave_one_out", scale_by_std=False),
    "reinforce++": GRPO(baseline="none", whiten_advantages=True),
    "importance": GRPO(importance_cap=1.2),
}


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def batch_of(rewards: list[float], *, group_size: int = 4, lengths: list[int] | None = None):
    """Completions without prompts, all of whose tokens were sampled."""
    lengths = lengths or [1] * len(rewards)
    return Batch(
        tokens_N=torch.zeros(sum(lengths), dtype=torch.long),
        lengths_B=torch.tensor(lengths),
        mask_N=torch.ones(sum(lengths), dtype=torch.bool),
        group_B=torch.arange(len(rewards)) // group_size,
        rewards_B=vector(*rewards),
        scored_B=torch.ones(len(rewards), dtype=torch.bool),
    )


def compared(algorithm: GRPO, batch: Batch) -> list[float]:
    advantages_N = algorithm.advantages(batch).advantages_N
    assert advantages_N is not None
    return advantages_N.tolist()


def loss_and_gradient(
    algorithm: GRPO, ratios: list[float], advantage: float, *, lengths: list[int] | None = None
) -> tuple[list[float], list[float]]:
    """Of tokens that the old policy gave a log-probability of -1 each."""
    num_tokens = len(ratios)
    old_N = -torch.ones(num_tokens, dtype=torch.float64)
    batch = batch_of([0.0] * len(lengths or ratios), lengths=lengths)
    batch = replace(batch, old_logprobs_N=old_N, advantages_N=advantage * torch.ones_like(old_N))
    leaf = (old_N + vector(*ratios).log()).requires_grad_()
    loss = algorithm.loss(batch, Output(leaf))
    loss.values.sum().backward()
    assert leaf.grad is not None
    return loss.values.tolist(), leaf.grad.tolist()


def test_clip_higher_lets_a_good_token_rise_further_and_a_bad_one_fall_no_further():
    algorithm = GRPO(clip_eps=0.2, clip_eps_high=0.28, beta=0.0)
    # Advantage 1: 1.25 lies within the upper bound of 1.28, 1.5 beyond it.
    loss, gradient = loss_and_gradient(algorithm, [1.25, 1.5], 1.0)
    assert loss == pytest.approx([-1.25, -1.28]) and gradient == pytest.approx([-1.25, 0])
    # Advantage -1: 0.75 lies beyond the lower bound of 0.8.
    loss, gradient = loss_and_gradient(algorithm, [0.75, 0.85], -1.0)
    assert loss == pytest.approx([0.8, 0.85]) and gradient == pytest.approx([0, 0.85])


def test_dual_clip_bounds_what_a_bad_token_that_became_likely_can_weigh():
    once, twice = GRPO(beta=0.0), GRPO(beta=0.0, dual_clip=3.0)
    assert loss_and_gradient(once, [5.0, 2.0], -1.0) == (
        pytest.approx([5, 2]),
        pytest.approx([5, 2]),
    )
    assert loss_and_gradient(twice, [5.0, 2.0], -1.0) == (
        pytest.approx([3, 2]),
        pytest.approx([0, 2]),
    )
    # Where the advantage is positive there is nothing to add.
    assert loss_and_gradient(twice, [5.0, 1.1], 1.0) == loss_and_gradient(once, [5.0, 1.1], 1.0)


def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens():
    # sqrt(1.44 * 1) = 1.2; each of two equal losses moves by half the ratio with each token.
    algorithm = GRPO(ratio="sequence", clip_eps=0.3, beta=0.0)
    loss, gradient = loss_and_gradient(algorithm, [1.44, 1.0, 0.9], 1.0, lengths=[2, 1])
    assert loss == pytest.approx([-1.2, -1.2, -0.9])
    assert gradient == pytest.approx([-1.2, -1.2, -0.9])


def test_a_clipped_sequence_has_no_gradient_at_all():
    # The second token lies within the bounds, its sequence does not.
    algorithm = GRPO(ratio="sequence", clip_eps=0.1, beta=0.0)
    loss, gradient = loss_and_gradient(algorithm, [1.44, 1.0], 1.0, lengths=[2])
    assert loss == pytest.approx([-1.1, -1.1]) and gradient == [0, 0]


def test_a_sequences_ratio_leaves_out_tokens_that_were_not_sampled():
    batch = batch_of([0.0], lengths=[3])
    batch = replace(
        batch,
        mask_N=torch.tensor([False, True, True]),
        old_logprobs_N=vector(0, 0, 0),
        advantages_N=vector(0, 1, 1),
    )
    algorithm = GRPO(ratio="sequence", clip_eps=1.0, beta=0.0)
    loss = algorithm.loss(batch, Output(vector(9.0, 1.44, 1.0).log()))
    assert loss.values.tolist() == pytest.approx([0, -1.2, -1.2])


def test_cispo_gives_every_token_a_gradient_and_cuts_its_weight():
    # Advantage 2, upper end 1.2: weights 1.2 and 0.5, which no lower end holds up.
    algorithm = GRPO(surrogate="cispo", beta=0.0)
    loss, gradient = loss_and_gradient(algorithm, [1.5, 0.5], 2.0)
    logprobs_N = vector(1.5, 0.5).log() - 1
    assert loss == pytest.approx((-vector(1.2, 0.5) * 2 * logprobs_N).tolist())
    assert gradient == pytest.approx([-2.4, -1.0])


def test_cispo_and_clipping_have_the_same_gradient_within_the_bounds():
    _, cispo = loss_and_gradient(GRPO(surrogate="cispo", beta=0.0), [1.1, 0.9], 1.0)
    _, clip = loss_and_gradient(GRPO(beta=0.0), [1.1, 0.9], 1.0)
    assert cispo == pytest.approx(clip)


def test_leave_one_out_by_hand():
    # 1 against the mean of 0, 0, 0; 0 against that of 1, 0, 0.
    algorithm = GRPO(baseline="leave_one_out", scale_by_std=False)
    assert compared(algorithm, batch_of([1, 0, 0, 0])) == pytest.approx([1, *[-1 / 3] * 3])


def test_leave_one_out_leaves_out_who_has_no_verdict():
    # Of three, the last is not scored: 5 against 1 and 1 against 5.
    batch = batch_of([5, 1, 9], group_size=3)
    batch = replace(batch, scored_B=torch.tensor([True, True, False]))
    algorithm = GRPO(baseline="leave_one_out", scale_by_std=False)
    assert compared(algorithm, batch) == pytest.approx([4, -4, 0])
    alone = replace(batch, scored_B=torch.tensor([True, False, False]))
    assert compared(algorithm, alone) == [0, 0, 0]


def test_without_a_baseline_the_advantage_is_the_reward():
    batch = replace(batch_of([1, 0, 7]), scored_B=torch.tensor([True, True, False]))
    assert compared(GRPO(baseline="none"), batch) == [1, 0, 0]


def test_whitening_by_hand():
    # Mean 1/4, variance (9/16 + 3/16) / 3 = 1/4: 0.75 / 0.5, and -0.25 / 0.5.
    algorithm = GRPO(baseline="none", whiten_advantages=True)
    expected = [1.5, -0.5, -0.5, -0.5]
    assert compared(algorithm, batch_of([1, 0, 0, 0])) == pytest.approx(expected, abs=1e-6)


def test_whitening_counts_learned_tokens_and_no_others():
    # Tokens 1, 0, 0, 0 as above: of the zeros' answer three are sampled, and the 9 has no verdict.
    batch = batch_of([1, 0, 9], lengths=[1, 4, 2])
    batch = replace(
        batch,
        mask_N=torch.tensor([1, 0, 1, 1, 1, 1, 1], dtype=torch.bool),
        scored_B=torch.tensor([True, True, False]),
    )
    found = compared(GRPO(baseline="none", whiten_advantages=True), batch)
    assert found == pytest.approx([1.5, 0, -0.5, -0.5, -0.5, 0, 0], abs=1e-6)


def test_whitening_survives_one_token_and_equal_ones():
    assert whiten(vector(3, 5), torch.tensor([True, False])).tolist() == [0, 0]
    assert whiten(vector(3, 3), torch.tensor([True, True])).tolist() == [0, 0]


def test_the_importance_weight_is_cut_and_weighs_the_policy_loss_alone():
    # p_old / p_sampler is 3 and 0.5, cut at 2. The policy is the old one, hence ratio 1, and lies
    # 0.3 nats below the reference.
    old_N = vector(-1, -1)
    batch = replace(
        batch_of([0.0, 0.0]),
        advantages_N=vector(1, 1),
        sampler_logprobs_N=old_N - vector(3, 0.5).log(),
        reference_logprobs_N=old_N + 0.3,
    )
    leaf = old_N.clone().requires_grad_()
    loss = GRPO(importance_cap=2.0, beta=0.0).loss(batch, Output(leaf))
    assert loss.values.tolist() == pytest.approx([-2, -0.5])
    assert loss.metrics_N["policy/importance_weight"].tolist() == pytest.approx([2, 0.5])
    loss.values.sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == pytest.approx([-2, -0.5])
    with_kl = GRPO(importance_cap=2.0, beta=1.0).loss(batch, Output(leaf))
    torch.testing.assert_close(with_kl.values - loss.values, with_kl.metrics_N["policy/kl"])


def test_equal_groups_that_are_dropped_are_in_no_denominator():
    # Of two groups the second has no contrast: 1 / 2 learned tokens instead of 1 / 4.
    batch = batch_of([1, 0, 1, 1], group_size=2)
    kept, dropped = (GRPO(drop_equal_groups=d).advantages(batch) for d in (False, True))
    assert torch.equal(kept.advantages_N, dropped.advantages_N)  # type: ignore[arg-type]
    token = Normalize.parse("token")
    assert token.weights(kept).tolist() == [0.25, 0.25, 0.25, 0.25]
    assert token.weights(dropped).tolist() == [0.5, 0.5, 0, 0]


def test_truncated_completions_count_for_their_siblings_and_are_not_learned_from():
    batch = batch_of([1, 0, 1, 1], group_size=2)
    batch = replace(batch, truncated_B=torch.tensor([True, False, False, False]))
    algorithm = GRPO(drop_truncated=True, scale_by_std=False)
    assert compared(algorithm, batch) == [0.5, -0.5, 0, 0]
    weights_N = Normalize.parse("sequence").weights(algorithm.advantages(batch))
    assert weights_N.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    both = replace(algorithm, drop_equal_groups=True).advantages(batch)
    assert both.learned_N.tolist() == [False, True, False, False]


def test_what_is_left_out_is_in_no_whitening():
    # The group of 7s is dropped: 1 and 0 have mean 1/2 and variance 1/2.
    batch = batch_of([1, 0, 7, 7], group_size=2)
    algorithm = GRPO(baseline="none", whiten_advantages=True, drop_equal_groups=True)
    expected = [0.5**0.5, -(0.5**0.5), 0, 0]
    assert compared(algorithm, batch) == pytest.approx(expected, abs=1e-6)


def random_batch(seed: int) -> tuple[Batch, Output]:
    """Groups of ragged completions with gaps in the mask, some without a verdict."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, 7, (12,), generator=generator)
    num_tokens = int(lengths_B.sum())
    mask_N = torch.rand(num_tokens, generator=generator) < 0.7
    logprobs = -torch.rand(4, num_tokens, generator=generator, dtype=torch.float64) * mask_N
    batch = Batch(
        tokens_N=torch.zeros(num_tokens, dtype=torch.long),
        lengths_B=lengths_B,
        mask_N=mask_N,
        group_B=torch.arange(12) // 4,
        rewards_B=torch.rand(12, generator=generator, dtype=torch.float64),
        scored_B=torch.rand(12, generator=generator) < 0.8,
        old_logprobs_N=logprobs[0],
        reference_logprobs_N=logprobs[1],
        sampler_logprobs_N=logprobs[2],
    )
    return batch, Output(logprobs[3].clone().requires_grad_())


@given(name=st.sampled_from(sorted(VARIANTS)), seed=st.integers(0, 300), cut=st.integers(0, 12))
def test_no_split_changes_loss_or_gradient(name: str, seed: int, cut: int):
    algorithm = VARIANTS[name]
    batch, output = random_batch(seed)
    batch = algorithm.advantages(batch)
    batch = replace(batch, weights_N=Normalize.parse("token").weights(batch))

    def total(part: Batch, logprobs_N: torch.Tensor) -> torch.Tensor:
        assert part.weights_N is not None
        return (algorithm.loss(part, Output(logprobs_N)).values * part.weights_N).sum()

    leaf = output.logprobs_N
    whole = total(batch, leaf)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    parts = sum(total(batch.select(r), leaf[batch.places(r)]) for r in (order[:cut], order[cut:]))
    assert isinstance(parts, torch.Tensor)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(whole, leaf)
    torch.testing.assert_close(torch.autograd.grad(parts, leaf)[0], gradient, atol=1e-12, rtol=0)
    assert float(gradient[~batch.learned_N].abs().sum()) == 0


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_single_update_needs_no_old_policy(name: str):
    batch, output = random_batch(1)
    batch = replace(VARIANTS[name].advantages(batch), old_logprobs_N=output.logprobs_N.detach())
    with_old = VARIANTS[name].loss(batch, output)
    without = VARIANTS[name].loss(replace(batch, old_logprobs_N=None), output)
    assert torch.equal(with_old.values, without.values)
    for found in with_old, without:
        assert float(found.metrics_N["policy/clip_fraction"].sum()) == 0
