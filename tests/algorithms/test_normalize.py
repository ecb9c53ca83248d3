"""The weights of `normalize` by hand, and that no split changes the objective."""

from __future__ import annotations

import pytest
import torch

from cameleer.algorithms.normalize import Normalize
from cameleer.batch import Batch


def batch_of(sampled: list[int], *, prompt: int = 2, scored: list[bool] | None = None) -> Batch:
    """Completions of so many sampled tokens, each behind a prompt."""
    lengths = [prompt + n for n in sampled]
    return Batch(
        tokens_N=torch.zeros(sum(lengths), dtype=torch.long),
        lengths_B=torch.tensor(lengths),
        mask_N=torch.cat([torch.arange(n) >= prompt for n in lengths]),
        scored_B=torch.tensor(scored or [True] * len(sampled)),
    )


def weight_of_each(rule: str, batch: Batch, seed: int = 0) -> list[float]:
    """The weight that a completion's first sampled token has, one number a completion."""
    weights_N = Normalize.parse(rule).weights(batch, seed=seed)
    assert float(weights_N[~batch.mask_N].abs().max()) == 0
    starts = batch.lengths_B.cumsum(0) - batch.lengths_B + 2
    return [float(weights_N[start]) for start in starts]


def test_token_counts_every_token_of_the_minibatch_the_same():
    # 1 + 3 + 4 = 8 sampled tokens.
    assert weight_of_each("token", batch_of([1, 3, 4])) == pytest.approx([1 / 8] * 3)


def test_sequence_counts_every_completion_the_same():
    expected = [1 / 3, 1 / 9, 1 / 12]
    assert weight_of_each("sequence", batch_of([1, 3, 4])) == pytest.approx(expected)


def test_constant_divides_by_completions_and_the_given_length():
    assert weight_of_each("constant(10)", batch_of([1, 3, 4])) == pytest.approx([1 / 30] * 3)


def test_sum_divides_by_completions_alone():
    assert weight_of_each("sum", batch_of([1, 3, 4])) == pytest.approx([1 / 3] * 3)


def test_micro_batch_is_the_mean_of_token_means_over_pairs():
    # Of four completions two pairs are drawn. Each pair has weight 1/2, shared by its tokens.
    sampled = [1, 3, 4, 6]
    weights = weight_of_each("micro_batch(2)", batch_of(sampled))
    pairs = {frozenset(i for i in range(4) if weights[i] == w) for w in weights}
    assert sorted(len(pair) for pair in pairs) == [2, 2]
    for pair in pairs:
        tokens = sum(sampled[i] for i in pair)
        assert weights[min(pair)] == pytest.approx(1 / (2 * tokens))


def test_micro_batch_keeps_a_smaller_last_lot():
    batch = batch_of([2, 2, 2])
    weights_N = Normalize.parse("micro_batch(2)").weights(batch)
    # Two lots of weight 1/2 each, one of 4 tokens and one of 2.
    assert sorted(weights_N[batch.mask_N].tolist()) == pytest.approx([1 / 8] * 4 + [1 / 4] * 2)


def test_the_pairs_are_drawn_by_the_seed():
    batch = batch_of([1, 2, 3, 4, 5, 6])
    first, again = (weight_of_each("micro_batch(2)", batch, seed=3) for _ in range(2))
    other = weight_of_each("micro_batch(2)", batch, seed=4)
    assert first == again != other


@pytest.mark.parametrize("rule", ["token", "sequence", "micro_batch(2)"])
def test_means_have_weights_that_sum_to_one(rule: str):
    weights_N = Normalize.parse(rule).weights(batch_of([1, 3, 4, 7, 2]))
    assert float(weights_N.sum()) == pytest.approx(1)


@pytest.mark.parametrize("rule", ["token", "sequence", "constant(10)", "sum", "micro_batch(2)"])
def test_a_completion_without_a_verdict_is_in_no_denominator(rule: str):
    decided = weight_of_each(rule, batch_of([1, 3, 4, 2]))
    with_one_more = batch_of([1, 3, 4, 2, 9], scored=[True, True, True, True, False])
    assert weight_of_each(rule, with_one_more) == pytest.approx([*decided, 0.0])


@pytest.mark.parametrize("rule", ["token", "sequence", "sum", "micro_batch(2)"])
def test_nothing_to_learn_from_gives_no_weight(rule: str):
    weights_N = Normalize.parse(rule).weights(batch_of([1, 2], scored=[False, False]))
    assert float(weights_N.abs().max()) == 0


@pytest.mark.parametrize(
    "rule", ["tokens", "constant", "constant(0)", "micro_batch", "token(2)", ""]
)
def test_an_unknown_rule_is_refused_with_the_rules_there_are(rule: str):
    with pytest.raises(ValueError, match="token, sequence, sum, constant"):
        Normalize.parse(rule)


def test_a_rule_is_a_value():
    assert len({Normalize.parse("token"), Normalize.parse(" token ")}) == 1
    assert Normalize.parse("micro_batch(2)") == Normalize("micro_batch", 2)
