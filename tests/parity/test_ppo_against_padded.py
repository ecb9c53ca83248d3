"""PPO against the padded layout of the code that trained Tulu 3, written here from its formulas.

TRL 1.16 has no PPO. In the padded layout a completion of n tokens, end of sequence included, fills
slots 0 to n - 1 of its row, and its reward is paid in slot n, which has a value of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from cameleer.algorithms.normalize import Normalize
from cameleer.algorithms.ppo import PPO
from cameleer.batch import Batch, Output

PROMPTS, COMPLETIONS = (3, 1, 5, 2), (4, 7, 1, 9)
REWARDS = (10.0, 0.0, 10.0, -10.0)
SLOTS = max(COMPLETIONS) + 1


@dataclass
class Numbers:
    """What both layouts are given, a tensor a completion."""

    old: list[torch.Tensor]
    reference: list[torch.Tensor]
    values: list[torch.Tensor]
    new: list[torch.Tensor]
    new_values: list[torch.Tensor]


def numbers() -> Numbers:
    generator = torch.Generator().manual_seed(0)

    def draw(scale: float) -> list[torch.Tensor]:
        return [
            scale * torch.rand(n, generator=generator, dtype=torch.float64) for n in COMPLETIONS
        ]

    return Numbers(draw(-1), draw(-1), draw(5), draw(-1), draw(5))


def rows(parts: list[torch.Tensor], behind: float = 0.0) -> torch.Tensor:
    """Completions from the first slot on, with a number in the slot behind each, then zeros."""
    found = torch.zeros(len(parts), SLOTS, dtype=torch.float64)
    for row, part in zip(found, parts, strict=True):
        row[: len(part)], row[len(part)] = part, behind
    return found


def padded_estimates(
    given: Numbers, algorithm: PPO, behind: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitened advantages and returns, [B, SLOTS].

    Args:
        behind: The value model's V in the slot after each completion.
    """
    length = torch.tensor(COMPLETIONS)[:, None]
    slot = torch.arange(SLOTS)[None, :]
    sampled, valued = slot < length, slot <= length
    values = torch.where(slot == length, behind[:, None], rows(given.values)) * valued
    rewards = -algorithm.beta * (rows(given.old) - rows(given.reference)) * sampled
    rewards = rewards + torch.where(slot == length, torch.tensor(REWARDS)[:, None], 0.0)
    later = torch.zeros(len(COMPLETIONS), dtype=torch.float64)
    columns = []
    for t in reversed(range(SLOTS)):
        next_value = values[:, t + 1] if t + 1 < SLOTS else torch.zeros_like(later)
        error = rewards[:, t] + algorithm.gamma * next_value - values[:, t]
        later = error + algorithm.gamma * algorithm.lam * later
        columns.append(later)
    advantages = torch.stack(columns[::-1], dim=1)
    returns = advantages + values
    counted = advantages[sampled]
    whitened = (advantages - counted.mean()) * torch.rsqrt(counted.var() + 1e-8)
    return whitened * sampled, returns * sampled


def packed(parts: list[torch.Tensor]) -> torch.Tensor:
    zeros = [torch.zeros(n, dtype=parts[0].dtype) for n in PROMPTS]
    return torch.cat([x for pair in zip(zeros, parts, strict=True) for x in pair])


def our_batch(given: Numbers, algorithm: PPO) -> Batch:
    lengths = [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    batch = Batch(
        tokens_N=torch.zeros(sum(lengths), dtype=torch.long),
        lengths_B=torch.tensor(lengths),
        mask_N=packed([torch.ones(n, dtype=torch.bool) for n in COMPLETIONS]),
        rewards_B=torch.tensor(REWARDS, dtype=torch.float64),
        scored_B=torch.ones(len(REWARDS), dtype=torch.bool),
        old_logprobs_N=packed(given.old),
        reference_logprobs_N=packed(given.reference),
        values_N=packed(given.values),
    )
    return algorithm.advantages(batch)


def completions_of(row_N: torch.Tensor | None, batch: Batch) -> torch.Tensor:
    assert row_N is not None
    return rows(list(row_N[batch.mask_N].split(COMPLETIONS)))


@pytest.mark.parametrize(
    ("lam", "behind"),
    [(0.95, REWARDS), (1.0, REWARDS), (1.0, (3.0, 1.0, 4.0, 1.0))],
    ids=["the slot is worth the reward", "lam is 1", "lam is 1, whatever the slot is worth"],
)
def test_estimates_are_those_of_the_padded_layout(lam: float, behind: tuple[float, ...]):
    given, algorithm = numbers(), PPO(lam=lam)
    batch = our_batch(given, algorithm)
    slot_values = torch.tensor(behind, dtype=torch.float64)
    advantages, returns = padded_estimates(given, algorithm, slot_values)
    torch.testing.assert_close(completions_of(batch.advantages_N, batch), advantages)
    torch.testing.assert_close(completions_of(batch.returns_N, batch), returns)


def test_a_slot_that_is_worth_something_else_is_where_the_layouts_differ():
    # With V = 0 there, the last token's advantage is lam times the reward on top, not the reward.
    given = numbers()
    algorithm = PPO(whiten_advantages=False)
    ours = completions_of(our_batch(given, algorithm).returns_N, our_batch(given, algorithm))
    nothing = torch.zeros(len(REWARDS), dtype=torch.float64)
    _, returns = padded_estimates(given, algorithm, nothing)
    last = torch.arange(len(REWARDS)), torch.tensor(COMPLETIONS) - 1
    expected = (1 - algorithm.lam) * torch.tensor(REWARDS, dtype=torch.float64)
    torch.testing.assert_close((ours - returns)[last], expected)


def test_both_losses_and_gradients_are_those_of_the_padded_layout():
    given, algorithm = numbers(), PPO()
    batch = our_batch(given, algorithm)
    new_N = packed(given.new).requires_grad_()
    values_N = packed(given.new_values).requires_grad_()
    output = Output(new_N, values_N=values_N)
    weights_N = Normalize.parse("token").weights(batch)
    policy = (algorithm.loss(batch, output).values * weights_N).sum()
    value = (algorithm.value_loss(batch, output).values * weights_N).sum()
    (policy + value).backward()

    advantages, returns = padded_estimates(given, algorithm, torch.tensor(REWARDS).double())
    sampled = rows([torch.ones_like(x) for x in given.old]).bool()
    new, values = (rows(x).requires_grad_() for x in (given.new, given.new_values))
    ratio = (new - rows(given.old)).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)
    old_values = rows(given.values)
    near = torch.minimum(torch.maximum(values, old_values - 0.2), old_values + 0.2)
    errors = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    their_policy = torch.maximum(unclipped, clipped)[sampled].mean()
    their_value = 0.1 * 0.5 * errors[sampled].mean()
    (their_policy + their_value).backward()

    # Weights are float32: 1e-6 is ten of their roundings.
    close = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(policy.detach(), their_policy.detach(), **close)
    torch.testing.assert_close(value.detach(), their_value.detach(), **close)
    torch.testing.assert_close(completions_of(new_N.grad, batch), new.grad, **close)
    torch.testing.assert_close(completions_of(values_N.grad, batch), values.grad, **close)
    # Both kinds of clipping are met.
    assert 0.1 < float((unclipped != clipped)[sampled].double().mean()) < 0.9
    assert 0.1 < float((near != values)[sampled].double().mean()) < 1
