"""DPO, IPO and SimPO against numbers worked by hand, and what must hold for any pair."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cameleer.algorithms import Algorithm
from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.normalize import sequence_weights
from cameleer.algorithms.ppo import PPO
from cameleer.algorithms.reward_model import RewardModel
from cameleer.algorithms.sft import SFT
from cameleer.batch import Batch, Loss, Output

VARIANTS = ("sigmoid", "ipo", "simpo")


def one_pair() -> tuple[Batch, Output]:
    """The rejected answer comes first. Log-probabilities add up to -3 (chosen) and -3 (rejected).

    Chosen: a prompt token, then -1.0 and -2.0, under the reference -1.5 and -2.5.
    Rejected: a prompt token, then -3.0, under the reference -2.8.
    """
    batch = Batch(
        tokens_N=torch.zeros(5, dtype=torch.long),
        lengths_B=torch.tensor([2, 3]),
        mask_N=torch.tensor([0, 1, 0, 1, 1], dtype=torch.bool),
        reference_logprobs_N=torch.tensor([0, -2.8, 0, -1.5, -2.5], dtype=torch.float64),
        pair_B=torch.tensor([0, 0]),
        chosen_B=torch.tensor([False, True]),
    )
    logprobs_N = torch.tensor([0, -3.0, 0, -1.0, -2.0], dtype=torch.float64, requires_grad=True)
    return batch, Output(logprobs_N)


def many_pairs(num_pairs: int, seed: int = 0) -> tuple[Batch, Output]:
    """Pairs of ragged answers in any order, some tokens inside an answer not learned from."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, 7, (2 * num_pairs,), generator=generator)
    num_tokens = int(lengths_B.sum())
    mask_N = torch.rand(num_tokens, generator=generator) < 0.7
    order = torch.randperm(2 * num_pairs, generator=generator)
    logprobs = -torch.rand(2, num_tokens, generator=generator, dtype=torch.float64) * mask_N
    batch = Batch(
        tokens_N=torch.zeros(num_tokens, dtype=torch.long),
        lengths_B=lengths_B,
        mask_N=mask_N,
        reference_logprobs_N=logprobs[0],
        pair_B=torch.arange(num_pairs).repeat(2)[order],
        chosen_B=(torch.arange(2 * num_pairs) < num_pairs)[order],
    )
    return batch, Output(logprobs[1].clone().requires_grad_())


def values(algorithm: DPO) -> list[float]:
    return algorithm.loss(*one_pair()).values.tolist()


def test_the_default_by_hand():
    # Means: chosen -1.5 over -2.0, moved by 0.5; rejected -3.0 over -2.8, moved by -0.2; d = 0.7.
    assert values(DPO()) == pytest.approx([0.0, math.log(1 + math.exp(-5 * 0.7))])


def test_sums_by_hand():
    # Sums: chosen -3 over -4, moved by 1; rejected by -0.2; d = 1.2.
    expected = [0.0, math.log(1 + math.exp(-0.1 * 1.2))]
    assert values(DPO(beta=0.1, length_normalized=False)) == pytest.approx(expected)


def test_label_smoothing_by_hand():
    # d = 0.7 as above; a tenth of the loss is that of the pair the other way round.
    right, wrong = math.log(1 + math.exp(-3.5)), math.log(1 + math.exp(3.5))
    assert values(DPO(label_smoothing=0.1)) == pytest.approx([0.0, 0.9 * right + 0.1 * wrong])


def test_ipo_by_hand():
    # beta 5 asks for d = 0.1: of means d is 0.7, of sums 1.2.
    assert values(DPO(variant="ipo")) == pytest.approx([0.0, 0.6**2])
    assert values(DPO(variant="ipo", length_normalized=False)) == pytest.approx([0.0, 1.1**2])


def test_simpo_by_hand():
    # No reference: -1.5 against -3.0, times beta 2, less gamma 0.6: 2.4.
    expected = [0.0, math.log(1 + math.exp(-2.4))]
    assert values(DPO(variant="simpo", beta=2.0, gamma=0.6)) == pytest.approx(expected)


def test_simpo_reads_no_reference_and_asks_for_none():
    batch, output = one_pair()
    without = DPO(variant="simpo").loss(replace(batch, reference_logprobs_N=None), output)
    assert torch.equal(without.values, DPO(variant="simpo").loss(batch, output).values)
    assert DPO(variant="simpo").needs == ()
    assert DPO().needs == DPO(variant="ipo").needs == ("reference",)


def test_metrics_stand_at_the_chosen_answer():
    # Rewards are beta times 0.5 and -0.2.
    loss = DPO().loss(*one_pair())
    found = {name: values_B.tolist() for name, values_B in loss.metrics_B.items()}
    assert found == {
        "rewards/chosen": pytest.approx([0, 2.5]),
        "rewards/rejected": pytest.approx([0, -1.0]),
        "rewards/margins": pytest.approx([0, 3.5]),
        "rewards/accuracies": [0, 1],
        "logps/chosen": pytest.approx([0, -1.5]),
        "logps/rejected": pytest.approx([0, -3.0]),
    }
    assert not any(values_B.requires_grad for values_B in loss.metrics_B.values())


def test_a_policy_that_is_the_reference_has_the_loss_of_a_coin_and_no_accuracy():
    batch, _ = one_pair()
    assert batch.reference_logprobs_N is not None
    loss = DPO().loss(batch, Output(batch.reference_logprobs_N))
    assert loss.values.tolist() == pytest.approx([0, math.log(2)])
    assert loss.metrics_B["rewards/accuracies"].tolist() == [0, 0]


@pytest.mark.parametrize("variant", ["sigmoid", "simpo"])
def test_the_gradient_raises_the_chosen_answer_and_lowers_the_rejected_one(variant: str):
    batch, output = one_pair()
    DPO(variant=variant).loss(batch, output).values.sum().backward()  # type: ignore[arg-type]
    assert output.logprobs_N.grad is not None
    rejected, chosen = output.logprobs_N.grad[1], output.logprobs_N.grad[3:]
    assert rejected > 0 and (chosen < 0).all()
    # The chosen answer is a mean of two tokens: each of them is pushed half as hard.
    torch.testing.assert_close(chosen, -rejected.expand(2) / 2)


def test_an_answer_without_tokens_to_learn_from_is_neither_nan_nor_in_the_gradient():
    batch, output = one_pair()
    batch = replace(batch, mask_N=torch.tensor([0, 0, 0, 1, 1], dtype=torch.bool))
    loss = DPO().loss(batch, output)
    # The chosen answer alone moved, by 0.5.
    assert loss.values.tolist() == pytest.approx([0, math.log(1 + math.exp(-2.5))])
    loss.values.sum().backward()
    assert output.logprobs_N.grad is not None and output.logprobs_N.grad[1] == 0


@given(
    num_pairs=st.integers(1, 6),
    seed=st.integers(0, 1000),
    variant=st.sampled_from(VARIANTS),
    normalized=st.booleans(),
    cut=st.integers(0, 6),
)
def test_no_split_between_pairs_changes_the_loss(
    num_pairs: int, seed: int, variant: str, normalized: bool, cut: int
):
    batch, output = many_pairs(num_pairs, seed)
    batch = replace(batch, weights_B=sequence_weights(batch))
    algorithm = DPO(variant=variant, length_normalized=normalized)  # type: ignore[arg-type]

    def total(loss: Loss, weights_B: torch.Tensor | None) -> float:
        assert weights_B is not None and loss.per == "pair"
        return float((loss.values.detach() * weights_B).sum())

    whole = total(algorithm.loss(batch, output), batch.weights_B)
    chosen, rejected = batch.pairs
    parts = 0.0
    for pairs in (torch.arange(num_pairs)[:cut], torch.arange(num_pairs)[cut:]):
        rows = torch.cat([rejected[pairs], chosen[pairs]])
        part = batch.select(rows)
        logprobs_N = output.logprobs_N[batch.places(rows)]
        parts += total(algorithm.loss(part, Output(logprobs_N)), part.weights_B)
    assert parts == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("kind", [SFT, DPO, GRPO, PPO, RewardModel])
def test_every_objective_is_an_algorithm(kind: type):
    assert isinstance(kind(), Algorithm)
    assert not isinstance(object(), Algorithm)
