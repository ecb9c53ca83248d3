"""The recipe of docs/runs/smollm2_135m_h100.md."""

from __future__ import annotations

from cameleer.recipes import smollm2_135m_sft_grpo


def test_no_question_is_in_both_halves_and_none_is_left_out():
    ladder = smollm2_135m_sft_grpo()
    ladder.validate()
    (one,), (other,) = (stage.data for stage in ladder.stages)
    assert one.skip_rows == 0 and one.count == other.skip_rows == 3_736
    assert other.count is None and one.take == "first"


def test_the_test_questions_are_held_out_alone():
    for stage in smollm2_135m_sft_grpo().stages:
        assert stage.heldout is not None
        assert [source.split for source in stage.heldout.sources] == ["test"]
        assert [source.split for source in stage.data] == ["train"]
