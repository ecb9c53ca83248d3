"""The Bradley-Terry loss against numbers worked by hand, and what must hold for any scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cameleer.algorithms.reward_model import RewardModel
from cameleer.batch import Batch, Loss, Output


def pairs_of(scores: list[float]) -> tuple[Batch, Output]:
    """Rejected and chosen in turn: scores are those of one pair after the other."""
    num_pairs = len(scores) // 2
    batch = Batch(
        tokens_N=torch.zeros(len(scores), dtype=torch.long),
        lengths_B=torch.ones(len(scores), dtype=torch.long),
        mask_N=torch.zeros(len(scores), dtype=torch.bool),
        pair_B=torch.arange(num_pairs).repeat_interleave(2),
        chosen_B=torch.tensor([False, True] * num_pairs),
    )
    scores_B = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    return batch, Output(torch.zeros(len(scores)), scores_B=scores_B)


def loss_of(algorithm: RewardModel, scores: list[float]) -> tuple[Loss, list[float]]:
    batch, output = pairs_of(scores)
    loss = algorithm.loss(batch, output)
    loss.values.sum().backward()
    assert output.scores_B is not None and output.scores_B.grad is not None
    return loss, output.scores_B.grad.tolist()


def test_the_loss_by_hand():
    # Differences 2 and -1: log(1 + e^-2), log(1 + e). A score's gradient is sigmoid(-difference).
    loss, gradient = loss_of(RewardModel(), [1.0, 3.0, 0.5, -0.5])
    assert loss.per == "pair"
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.e)
    assert loss.values.tolist() == pytest.approx([0, right, 0, wrong])
    pushes = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1))
    assert gradient == pytest.approx([pushes[0], -pushes[0], pushes[1], -pushes[1]])


def test_a_margin_is_asked_for_on_top():
    loss, _ = loss_of(RewardModel(margin=2.0), [1.0, 3.0])
    assert loss.values.tolist() == pytest.approx([0, math.log(2)])


def test_centering_by_hand():
    # 0.01 * (1 + 3)^2 on top; with equal scores nothing else has a gradient but the pair's own.
    plain, _ = loss_of(RewardModel(), [1.0, 3.0])
    centered, gradient = loss_of(RewardModel(center=0.01), [1.0, 3.0])
    assert (centered.values - plain.values).tolist() == pytest.approx([0, 0.16])
    assert sum(gradient) == pytest.approx(2 * 0.02 * 4)


def test_metrics_by_hand():
    loss, _ = loss_of(RewardModel(), [1.0, 3.0, 0.5, -0.5, 2.0, 2.0])
    found = {name: values_B.tolist() for name, values_B in loss.metrics_B.items()}
    assert found == {
        "rewards/chosen": [0, 3, 0, -0.5, 0, 2],
        "rewards/rejected": [0, 1, 0, 0.5, 0, 2],
        "rewards/margins": [0, 2, 0, -1, 0, 0],
        "rewards/accuracies": [0, 1, 0, 0, 0, 0],
    }


@given(
    scores=st.lists(st.floats(-30, 30), min_size=2, max_size=8).filter(lambda x: len(x) % 2 == 0),
    shift=st.floats(-30, 30),
)
def test_only_differences_count(scores: list[float], shift: float):
    loss, gradient = loss_of(RewardModel(), scores)
    moved, _ = loss_of(RewardModel(), [score + shift for score in scores])
    torch.testing.assert_close(moved.values, loss.values, atol=1e-9, rtol=0)
    assert sum(gradient) == pytest.approx(0, abs=1e-12)


def test_a_large_margin_overflows_nothing():
    loss, gradient = loss_of(RewardModel(), [1e4, -1e4])
    assert loss.values.tolist() == [0, 2e4] and gradient == [1, -1]
