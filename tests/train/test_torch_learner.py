"""The learner's gradients do not know how the minibatch was split."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.normalize import Normalize
from cameleer.batch import Batch
from cameleer.models.load import load_model, load_tokenizer
from cameleer.train.learner import Learner, Sums
from cameleer.train.optimizer import MasterAdamW
from cameleer.train.torch_learner import TorchLearner, Trained

LENGTHS = (9, 4, 17, 6, 12, 5, 8, 30)


def learner(model: Path, micro_batch_tokens: int) -> TorchLearner:
    policy = load_model(str(model), "float32", "cpu")
    optimizer = MasterAdamW(
        policy, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, warmup_steps=0
    )
    return TorchLearner(
        Trained(policy, optimizer, max_grad_norm=1.0),
        load_tokenizer(str(model)),
        GRPO(beta=0.1),
        temperature=1.0,
        micro_batch_tokens=micro_batch_tokens,
        load_reference=lambda: load_model(str(model), "float32", "cpu"),
    )


def minibatch(rule: str) -> Batch:
    """Eight sequences in two groups, one without verdict, under an old policy that differs."""
    generator = torch.Generator().manual_seed(0)
    num_tokens = sum(LENGTHS)
    mask_N = torch.cat([torch.arange(n) >= 3 for n in LENGTHS])
    batch = Batch(
        tokens_N=torch.randint(6, 60, (num_tokens,), generator=generator),
        lengths_B=torch.tensor(LENGTHS),
        mask_N=mask_N,
        group_B=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        rewards_B=torch.tensor([10.0, 0, 0, 10, 0, 0, 10, 0]),
        scored_B=torch.tensor([1, 1, 1, 1, 1, 0, 1, 1], dtype=torch.bool),
        old_logprobs_N=-4.4 + 0.3 * torch.randn(num_tokens, generator=generator),
        reference_logprobs_N=-4.4 + 0.3 * torch.randn(num_tokens, generator=generator),
    )
    batch = GRPO().advantages(batch)
    return replace(batch, weights_N=Normalize.parse(rule).weights(batch, seed=5))


def gradients(model: Path, rule: str, micro_batch_tokens: int) -> tuple[list[Tensor], Sums]:
    subject = learner(model, micro_batch_tokens)
    sums, _ = subject.forward_backward(minibatch(rule))
    return [p.grad for p in subject.model.parameters() if p.grad is not None], sums


@pytest.mark.parametrize("rule", ["token", "sequence", "constant(32)", "sum", "micro_batch(2)"])
def test_a_split_into_micro_batches_changes_neither_gradient_nor_metric(model: Path, rule: str):
    whole, sums = gradients(model, rule, 8192)
    # One sequence at a time, a few together, and a split in the middle of every group.
    for micro_batch_tokens in (1, 20, 47):
        parts, their_sums = gradients(model, rule, micro_batch_tokens)
        for ours, theirs in zip(whole, parts, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        assert sums.means() == pytest.approx(their_sums.means(), rel=1e-5)
    assert max(float(g.abs().max()) for g in whole) > 1e-3


def test_a_completion_without_verdict_has_no_gradient(model: Path):
    batch = minibatch("token")
    without = batch.select(torch.tensor([0, 1, 2, 3, 4, 6, 7]))
    subject, other = learner(model, 8192), learner(model, 8192)
    subject.forward_backward(batch)
    other.forward_backward(without)
    for ours, theirs in zip(subject.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["old", "reference"])
def test_scores_stand_where_their_tokens_do_however_they_are_split(model: Path, name: str):
    batch = minibatch("token")
    field = f"{name}_logprobs_N"
    whole = getattr(learner(model, 8192).score(name, batch), field)
    parts = getattr(learner(model, 20).score(name, batch), field)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    assert (whole[batch.mask_N] < 0).all() and (whole[~batch.mask_N] == 0).all()


def test_the_reference_stays_while_the_policy_moves(model: Path):
    subject, batch = learner(model, 8192), minibatch("token")
    before = subject.score("reference", batch).reference_logprobs_N
    subject.forward_backward(batch)
    subject.step()
    assert before is not None
    assert torch.equal(before, subject.score("reference", batch).reference_logprobs_N)
    assert not torch.equal(before, subject.score("old", batch).old_logprobs_N)


def test_the_learner_is_what_the_loops_ask_for(model: Path):
    assert isinstance(learner(model, 1), Learner)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_updates_nothing(model: Path, bad: float):
    subject, batch = learner(model, 64), minibatch("token")
    subject.forward_backward(batch)
    subject.step()
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    assert batch.weights_N is not None
    subject.forward_backward(replace(batch, weights_N=batch.weights_N * bad))
    metrics = subject.step()
    assert not math.isfinite(metrics["optim/grad_norm"]) and subject.version == 1
    after = subject.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in subject.model.parameters())
