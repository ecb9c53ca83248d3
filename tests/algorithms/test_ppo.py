"""PPO against numbers worked by hand, slow loops, and what must hold for any batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cameleer.algorithms import ActorCritic, Algorithm
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.normalize import Normalize
from cameleer.algorithms.ppo import PPO, discounted_sums
from cameleer.batch import Batch, Output


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def one_answer() -> Batch:
    """A prompt token and three sampled ones, 1, 0 and -1 nats above the reference; it earns 2."""
    return Batch(
        tokens_N=torch.zeros(4, dtype=torch.long),
        lengths_B=torch.tensor([4]),
        mask_N=torch.tensor([False, True, True, True]),
        rewards_B=vector(2),
        scored_B=torch.tensor([True]),
        old_logprobs_N=vector(0, -1, -2, -3),
        reference_logprobs_N=vector(0, -2, -2, -2),
        values_N=vector(0, 0.5, 1.0, 1.5),
    )


def random_batch(seed: int, num_sequences: int = 6) -> Batch:
    """Ragged completions with gaps in the mask, some without a verdict or a sampled token."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, 9, (num_sequences,), generator=generator)
    num_tokens = int(lengths_B.sum())
    mask_N = torch.rand(num_tokens, generator=generator) < 0.6
    numbers = torch.randn(3, num_tokens, generator=generator, dtype=torch.float64) * mask_N
    return Batch(
        tokens_N=torch.zeros(num_tokens, dtype=torch.long),
        lengths_B=lengths_B,
        mask_N=mask_N,
        rewards_B=torch.randn(num_sequences, generator=generator, dtype=torch.float64),
        scored_B=torch.rand(num_sequences, generator=generator) < 0.8,
        old_logprobs_N=numbers[0],
        reference_logprobs_N=numbers[1],
        values_N=numbers[2],
    )


def slow_estimates(algorithm: PPO, batch: Batch) -> tuple[list[float], list[float]]:
    """Advantages before whitening, and returns: a loop from the last token of each sequence."""
    assert batch.rewards_B is not None and batch.scored_B is not None
    assert batch.values_N is not None and batch.old_logprobs_N is not None
    assert batch.reference_logprobs_N is not None
    advantages, returns = [0.0] * len(batch.tokens_N), [0.0] * len(batch.tokens_N)
    end = 0
    for b, length in enumerate(batch.lengths_B.tolist()):
        begin, end = end, end + length
        earned, next_value, later = float(batch.rewards_B[b]), 0.0, 0.0
        for i in reversed(range(begin, end)):
            if not batch.mask_N[i] or not batch.scored_B[b]:
                continue
            kl = float(batch.old_logprobs_N[i] - batch.reference_logprobs_N[i])
            value = float(batch.values_N[i])
            error = earned - algorithm.beta * kl + algorithm.gamma * next_value - value
            later = error + algorithm.gamma * algorithm.lam * later
            advantages[i], returns[i] = later, later + value
            earned, next_value = 0.0, value
    return advantages, returns


def estimates(algorithm: PPO, batch: Batch) -> tuple[list[float], list[float]]:
    found = algorithm.advantages(batch)
    assert found.advantages_N is not None and found.returns_N is not None
    return found.advantages_N.tolist(), found.returns_N.tolist()


def test_advantages_and_returns_by_hand():
    # Rewards -0.1, 0 and 0.1 + 2; errors -0.1 + 1 - 0.5 = 0.4, 0 + 1.5 - 1 = 0.5, 2.1 - 1.5 = 0.6.
    # With lam 0.5: 0.6, 0.5 + 0.3 = 0.8, 0.4 + 0.4 = 0.8.
    algorithm = PPO(beta=0.1, lam=0.5, whiten_advantages=False)
    advantages, returns = estimates(algorithm, one_answer())
    assert advantages == pytest.approx([0, 0.8, 0.8, 0.6])
    assert returns == pytest.approx([0, 1.3, 1.8, 2.1])


def test_whitening_moves_advantages_and_not_returns():
    # 0.8, 0.8, 0.6 have mean 11/15 and variance 1/75: 1/15 over 0.11547, and -2/15.
    advantages, returns = estimates(PPO(beta=0.1, lam=0.5), one_answer())
    assert advantages == pytest.approx([0, 0.57735, 0.57735, -1.1547], abs=1e-5)
    assert returns == pytest.approx([0, 1.3, 1.8, 2.1])


@given(
    seed=st.integers(0, 500),
    gamma=st.sampled_from([1.0, 0.9]),
    lam=st.sampled_from([1.0, 0.95, 0.5, 0.0]),
    beta=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_estimates_are_those_of_a_slow_loop(seed: int, gamma: float, lam: float, beta: float):
    algorithm = PPO(beta=beta, gamma=gamma, lam=lam, whiten_advantages=False)
    batch = random_batch(seed)
    for ours, slow in zip(
        estimates(algorithm, batch), slow_estimates(algorithm, batch), strict=True
    ):
        assert ours == pytest.approx(slow, abs=1e-12)


@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    discount=st.sampled_from([1.0, 0.95, 0.0]),
)
def test_discounted_sums_are_those_of_a_slow_loop(lengths: list[int], discount: float):
    generator = torch.Generator().manual_seed(sum(lengths))
    values_M = torch.randn(sum(lengths), generator=generator, dtype=torch.float64)
    expected = []
    for piece in values_M.split(lengths):
        total, sums = 0.0, []
        for value in reversed(piece.tolist()):
            total = value + discount * total
            sums.append(total)
        expected += reversed(sums)
    sequence_M = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    found = discounted_sums(values_M, sequence_M, discount)
    assert found.tolist() == pytest.approx(expected, abs=1e-11)


@given(seed=st.integers(0, 200))
def test_with_gamma_and_lam_1_returns_are_the_rewards_to_come_whatever_the_values(seed: int):
    algorithm = PPO(lam=1.0)
    batch = random_batch(seed)
    assert batch.values_N is not None
    _, returns = estimates(algorithm, batch)
    _, others = estimates(algorithm, replace(batch, values_N=batch.values_N * -3))
    assert returns == pytest.approx(others, abs=1e-12)


@given(seed=st.integers(0, 200))
def test_a_sequences_estimates_do_not_depend_on_its_batch(seed: int):
    algorithm, batch = PPO(whiten_advantages=False), random_batch(seed)
    advantages, returns = estimates(algorithm, batch)
    alone = [estimates(algorithm, batch.select(torch.tensor([b]))) for b in range(6)]
    assert advantages == pytest.approx([x for a, _ in alone for x in a], abs=1e-12)
    assert returns == pytest.approx([x for _, r in alone for x in r], abs=1e-12)


def test_a_completion_without_a_verdict_is_in_no_estimate_and_no_whitening():
    batch = random_batch(1, num_sequences=3)
    batch = replace(batch, scored_B=torch.tensor([True, True, False]))
    assert batch.values_N is not None and batch.rewards_B is not None
    first = int(batch.lengths_B[:2].sum())
    values_N, rewards_B = batch.values_N.clone(), batch.rewards_B.clone()
    values_N[first:], rewards_B[2] = torch.nan, torch.nan
    advantages, returns = estimates(PPO(), replace(batch, values_N=values_N, rewards_B=rewards_B))
    alone = estimates(PPO(), batch.select(torch.tensor([0, 1])))
    assert advantages[:first] == pytest.approx(alone[0])
    assert returns[:first] == pytest.approx(alone[1])
    assert not any(advantages[first:]) and not any(returns[first:])


def test_nothing_learned_from_gives_no_estimates():
    batch = replace(one_answer(), scored_B=torch.tensor([False]))
    assert estimates(PPO(), batch) == ([0, 0, 0, 0], [0, 0, 0, 0])


def test_the_policy_loss_is_grpos_without_its_kl():
    batch = replace(one_answer(), advantages_N=vector(0, 1, -1, 2))
    leaf = vector(0, -0.7, -2.5, -3.1).requires_grad_()
    ours, theirs = PPO().loss(batch, Output(leaf)), GRPO(beta=0.0).loss(batch, Output(leaf))
    assert torch.equal(ours.values, theirs.values) and ours.per == "token"
    # The first ratio, e^0.3, is clipped at 1.2.
    assert ours.values.tolist()[1] == pytest.approx(-1.2)
    ours.values.sum().backward()
    assert leaf.grad is not None and leaf.grad[1] == 0 and leaf.grad[3] != 0
    assert ours.metrics_N["policy/kl"].tolist() == pytest.approx([0, 1.3, -0.5, -1.1])


def test_a_single_update_needs_no_old_policy_for_its_loss():
    batch = replace(one_answer(), advantages_N=vector(0, 1, -1, 2), old_logprobs_N=None)
    loss = PPO().loss(batch, Output(vector(0, -0.7, -2.5, -3.1)))
    assert loss.values.tolist() == [0, -1, 1, -2]


def value_loss(algorithm: PPO, values: list[float]) -> tuple[list[float], list[float]]:
    """Of two tokens valued 1.0 before whose return is 2.0."""
    batch = Batch(
        tokens_N=torch.zeros(2, dtype=torch.long),
        lengths_B=torch.tensor([2]),
        mask_N=torch.tensor([True, True]),
        values_N=vector(1, 1),
        returns_N=vector(2, 2),
    )
    leaf = vector(*values).requires_grad_()
    loss = algorithm.value_loss(batch, Output(torch.zeros(2), values_N=leaf))
    loss.values.sum().backward()
    assert loss.per == "token" and leaf.grad is not None
    return loss.values.tolist(), leaf.grad.tolist()


def test_the_value_loss_by_hand():
    # 1.1 lies near: (1.1 - 2)^2 / 2 = 0.405, gradient -0.9. 1.5 is held at 1.2: 0.64 / 2, none.
    loss, gradient = value_loss(PPO(value_coef=1.0), [1.1, 1.5])
    assert loss == pytest.approx([0.405, 0.32]) and gradient == pytest.approx([-0.9, 0])
    # 0.5 went the wrong way: its own error is the larger one.
    loss, gradient = value_loss(PPO(value_coef=1.0), [0.5, 1.0])
    assert loss == pytest.approx([1.125, 0.5]) and gradient == pytest.approx([-1.5, -1])


def test_values_may_move_freely_and_their_loss_is_weighed():
    loss, gradient = value_loss(PPO(value_clip=None), [1.5, 2.0])
    assert loss == pytest.approx([0.0125, 0]) and gradient == pytest.approx([-0.05, 0])


@given(seed=st.integers(0, 200), cut=st.integers(0, 6))
def test_no_split_changes_either_loss(seed: int, cut: int):
    algorithm = PPO()
    batch = algorithm.advantages(random_batch(seed))
    batch = replace(batch, weights_N=Normalize.parse("token").weights(batch))
    generator = torch.Generator().manual_seed(seed)
    shape = 2, len(batch.tokens_N)
    new_N, values_N = torch.randn(shape, generator=generator, dtype=torch.float64) * batch.mask_N

    def totals(part: Batch, logprobs_N: torch.Tensor, values_N: torch.Tensor) -> list[float]:
        assert part.weights_N is not None
        output = Output(logprobs_N, values_N=values_N)
        losses = algorithm.loss(part, output), algorithm.value_loss(part, output)
        return [float((loss.values * part.weights_N).sum()) for loss in losses]

    whole = totals(batch, new_N, values_N)
    order = torch.randperm(6, generator=generator)
    halves = [
        totals(batch.select(rows), new_N[batch.places(rows)], values_N[batch.places(rows)])
        for rows in (order[:cut], order[cut:])
    ]
    assert [sum(part) for part in zip(*halves, strict=True)] == pytest.approx(whole, abs=1e-9)


def test_it_needs_a_value_model_and_a_reference_only_for_its_penalty():
    assert PPO().needs == ("old", "reference", "value")
    assert PPO(beta=0.0).needs == ("old", "value")
    assert isinstance(PPO(), ActorCritic) and isinstance(PPO(), Algorithm)
    assert not isinstance(GRPO(), ActorCritic)
