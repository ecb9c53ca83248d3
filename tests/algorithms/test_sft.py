"""Supervised fine-tuning is the negative log-likelihood, and its gradient is one a token."""

from __future__ import annotations

import torch

from cameleer.algorithms.sft import SFT
from cameleer.batch import Batch, Output


def test_the_loss_of_a_token_is_its_negative_log_probability():
    batch = Batch(
        tokens_N=torch.zeros(3, dtype=torch.long),
        lengths_B=torch.tensor([3]),
        mask_N=torch.tensor([False, True, True]),
    )
    logprobs_N = torch.tensor([0.0, -0.5, -2.0], dtype=torch.float64, requires_grad=True)
    loss = SFT().loss(batch, Output(logprobs_N))
    assert loss.values.tolist() == [0.0, 0.5, 2.0]
    loss.values.sum().backward()
    assert logprobs_N.grad is not None and logprobs_N.grad.tolist() == [-1.0, -1.0, -1.0]


def test_it_asks_for_no_scores_and_is_a_value():
    assert SFT().needs == () and len({SFT(), SFT()}) == 1
