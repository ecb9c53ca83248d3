"""The table of scores, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fakes import held_out
from made_runs import made, made_evaluation, stage

from cameleer.report.scores import Table, score_table
from cameleer.report.stages import Stage, read_tree


def stages(tmp_path: Path, *accuracies: tuple[float, float]) -> list[Stage]:
    """SFT, GRPO, …: each with its accuracy before and after two steps."""
    found = []
    for number, (before, after) in enumerate(accuracies):
        name = f"stage{number}"
        recipe = stage(name, "grpo", "x", tmp_path, num_steps=2, heldout=held_out(400))
        lines = [
            {"step": 0, "heldout/accuracy": before, "heldout/num_prompts": 400},
            {"step": 2, "heldout/accuracy": after, "heldout/num_prompts": 400},
        ]
        found.append(read_tree(made(tmp_path / name, lines, recipe=recipe)).stages[0])
    return found


def values(table: Table) -> list[list[float | None]]:
    return [[s and s.value for s in row.scores] for row in table.rows]


def test_stages_share_a_row_that_begins_before_the_first(tmp_path: Path):
    table = score_table(stages(tmp_path, (0.0, 0.25), (0.25, 0.5)))
    assert table.columns == ("start", "stage0", "stage1")
    assert values(table) == [[0.0, 0.25, 0.5]]
    # Wilson for 100 of 400: centre (0.25 + 3.8415 / 800) / 1.0096 = 0.25238, half 0.04232.
    assert table.rows[0].scores[1] and table.rows[0].scores[1].span == "21.0 to 29.5"


def test_other_questions_are_another_row(tmp_path: Path):
    one, other = stages(tmp_path, (0.0, 0.25), (0.25, 0.5))
    other.recipe["heldout"]["temperature"] = 1.0  # type: ignore[index]
    assert values(score_table([one, other])) == [[0.0, 0.25, None], [None, None, 0.5]]


def test_other_verifiers_are_another_row(tmp_path: Path):
    one, other = stages(tmp_path, (0.0, 0.25), (0.25, 0.5))
    other.recipe["verifiers"]["gsm8k"]["class"] = "cameleer.verifiers.gsm8k:GSM8K"  # type: ignore[index]
    assert values(score_table([one, other])) == [[0.0, 0.25, None], [None, None, 0.5]]


def test_an_unfinished_stage_says_which_step_it_is_scored_at(tmp_path: Path):
    (one,) = stages(tmp_path, (0.0, 0.25))
    one.recipe["num_steps"] = 8  # type: ignore[index]
    assert score_table([one]).columns == ("start", "stage0, step 2")


def test_a_step_that_was_asked_for_is_scored_or_left_open(tmp_path: Path):
    (one,) = stages(tmp_path, (0.125, 0.25))
    assert values(score_table([one], steps={"stage0": 0})) == [[0.125, 0.125]]
    assert values(score_table([one], steps={"stage0": 1})) == [[0.125, None]]


def test_benchmarks_have_an_average_where_all_were_answered(tmp_path: Path):
    (one,) = stages(tmp_path, (0.0, 0.5))
    made_evaluation(one.directory, 0, gsm8k=0.25)
    made_evaluation(one.directory, 2, gsm8k=0.5, math=0.25)
    table = score_table([one])
    assert [row.label.split(" ")[0] for row in table.rows] == ["held", "gsm8k", "math", "average"]
    assert values(table)[1:] == [[0.25, 0.5], [None, 0.25], [None, 0.375]]
    average = table.rows[-1].scores[1]
    # Errors of 0.04 each: sqrt(2 * 0.04^2) / 2.
    assert average and average.error == pytest.approx(0.04 / math.sqrt(2))


def test_a_smoke_run_is_no_score(tmp_path: Path):
    (one,) = stages(tmp_path, (0.0, 0.5))
    made_evaluation(one.directory, 2, profile="smoke", gsm8k=0.5)
    assert len(score_table([one]).rows) == 1


def test_answers_without_a_verdict_are_told(tmp_path: Path):
    (one,) = stages(tmp_path, (0.0, 0.5))
    one.metrics[-1]["heldout/undecided"] = 3
    (note,) = score_table([one]).notes
    assert note.startswith("stage0: 3 held-out answers reached no verdict")
