"""The packed batch: one row of tokens, taken apart and put together."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cameleer.batch import Batch


def example() -> Batch:
    """Three sequences of 2, 3 and 1 tokens in two groups; every field is filled in."""
    return Batch(
        tokens_N=torch.tensor([10, 11, 20, 21, 22, 30]),
        lengths_B=torch.tensor([2, 3, 1]),
        mask_N=torch.tensor([0, 1, 0, 1, 1, 0], dtype=torch.bool),
        group_B=torch.tensor([0, 0, 1]),
        rewards_B=torch.tensor([1.0, 2.0, 4.0]),
        scored_B=torch.tensor([True, False, True]),
        truncated_B=torch.tensor([False, True, True]),
        left_out_B=torch.tensor([False, False, True]),
        sampler_logprobs_N=torch.tensor([0, -0.1, 0, -0.2, -0.3, 0]),
        version_N=torch.tensor([0, 7, 0, 8, 8, 0]),
        old_logprobs_N=torch.tensor([0, -1.1, 0, -1.2, -1.3, 0]),
        reference_logprobs_N=torch.tensor([0, -2.1, 0, -2.2, -2.3, 0]),
        advantages_N=torch.tensor([0, 0.5, 0, -0.5, -0.5, 0]),
        values_N=torch.tensor([0, 3.1, 0, 3.2, 3.3, 0]),
        returns_N=torch.tensor([0, 4.1, 0, 4.2, 4.3, 0]),
        pair_B=torch.tensor([1, 0, 0]),
        chosen_B=torch.tensor([True, False, True]),
        weights_N=torch.tensor([0, 0.25, 0, 0.5, 0.5, 0]),
        weights_B=torch.tensor([0.5, 0, 0.5]),
    )


def test_the_example_fills_in_every_field():
    assert all(getattr(example(), field.name) is not None for field in fields(Batch))


def test_one_number_a_sequence_is_repeated_on_its_tokens():
    values_B = torch.tensor([5.0, 6.0, 7.0])
    assert example().per_token(values_B).tolist() == [5, 5, 6, 6, 6, 7]


def test_the_tokens_of_each_sequence_add_up():
    values_N = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert example().per_sequence(values_N).tolist() == [3, 12, 6]


def test_the_scored_siblings_of_each_group_add_up():
    # The second sequence, of group 0, has no verdict: its 2 is not in the sum.
    assert example().group_sum(torch.tensor([1.0, 2.0, 4.0])).tolist() == [1, 4]


def test_a_completion_without_a_verdict_or_left_out_is_not_learned_from():
    assert example().learned_N.tolist() == [False, True, False, False, False, False]
    every = replace(example(), scored_B=None, left_out_B=None)
    assert every.learned_N.tolist() == example().mask_N.tolist()
    first_out = replace(every, left_out_B=torch.tensor([True, False, False]))
    assert first_out.learned_N.tolist() == [False, False, False, True, True, False]


def test_a_selection_takes_whole_sequences_in_the_order_asked_for():
    part = example().select(torch.tensor([2, 0]))
    assert part.tokens_N.tolist() == [30, 10, 11]
    assert part.lengths_B.tolist() == [1, 2]
    assert part.mask_N.tolist() == [False, False, True]
    # Groups keep their numbers, so that a minibatch names the groups of its step.
    assert part.group_B.tolist() == [1, 0]
    assert part.rewards_B.tolist() == [4, 1]
    assert part.version_N.tolist() == [0, 0, 7]


def test_a_selection_takes_every_field_along():
    batch, part = example(), example().select(torch.tensor([1, 1]))
    for field in fields(Batch):
        whole, taken = getattr(batch, field.name), getattr(part, field.name)
        once = whole[2:5] if field.name.endswith("_N") else whole[1:2]
        assert taken.tolist() == 2 * once.tolist(), field.name


def test_absent_fields_stay_absent():
    part = replace(example(), advantages_N=None, rewards_B=None).select(torch.tensor([0]))
    assert part.advantages_N is None and part.rewards_B is None


def test_nothing_selected_is_an_empty_batch():
    part = example().select(torch.tensor([], dtype=torch.long))
    assert part.num_sequences == 0 and part.tokens_N.tolist() == []


@given(st.data())
def test_any_selection_equals_cutting_the_row_into_pieces(data: st.DataObject):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    tokens_N = torch.arange(sum(lengths))
    batch = Batch(tokens_N=tokens_N, lengths_B=torch.tensor(lengths), mask_N=tokens_N % 2 == 0)
    part = batch.select(torch.tensor(rows, dtype=torch.long))
    pieces = tokens_N.split(lengths)
    expected = [token for row in rows for token in pieces[row].tolist()]
    assert part.tokens_N.tolist() == expected
    assert part.mask_N.tolist() == [token % 2 == 0 for token in expected]
    assert part.num_sequences == len(rows)


def test_a_batch_moves_with_every_field():
    moved = example().to("meta")
    assert all(getattr(moved, field.name).device.type == "meta" for field in fields(Batch))


def test_a_batch_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        example().tokens_N = torch.tensor([1])  # type: ignore[misc]


def test_pairs_are_the_chosen_and_the_rejected_of_each():
    batch = replace(
        example().select(torch.tensor([0, 1, 2, 0])),
        pair_B=torch.tensor([1, 0, 0, 1]),
        chosen_B=torch.tensor([False, False, True, True]),
    )
    chosen, rejected = batch.pairs
    assert chosen.tolist() == [2, 3] and rejected.tolist() == [1, 0]
