"""Lines and pictures: gaps, thinning, colours and bounds."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import made

from cameleer.report.panels import plots_of
from cameleer.report.plots import MAX_POINTS, Line, Plot, _binned, colour_of, draw, series
from cameleer.report.stages import read_tree


def line(values: list[float], **more: object) -> Line:
    return Line("x", np.arange(1.0, len(values) + 1), np.array(values), **more)  # type: ignore[arg-type]


def path_of(svg: str, colour: str) -> list[str]:
    """The drawing commands of the line in a colour."""
    found = re.findall(r'<path d="([^"]*)"[^>]*stroke: ' + re.escape(colour), svg)
    return [command for path in found for command in re.findall(r"[ML]", path)]


def test_a_step_without_a_metric_that_most_have_is_a_gap():
    metrics = [{"step": i, "time/step": 1.0, "loss": 1.0} for i in range(1, 6)]
    del metrics[2]["loss"]
    found = series(metrics, "loss", "loss")
    assert found is not None
    assert found.steps.tolist() == [1, 2, 3, 4, 5]
    assert np.isnan(found.values).tolist() == [False, False, True, False, False]


def test_a_metric_that_few_steps_have_is_joined_up():
    metrics = [{"step": i, "time/step": 1.0} for i in range(0, 6)]
    metrics[0]["heldout"], metrics[5]["heldout"] = 0.25, 0.5
    found = series(metrics, "heldout", "held out")
    assert found is not None
    assert found.steps.tolist() == [0, 5] and found.values.tolist() == [0.25, 0.5]


def test_what_is_no_finite_number_is_a_gap_and_counted():
    metrics = [{"step": i, "loss": value} for i, value in enumerate((1.0, math.inf, math.nan), 1)]
    found = series(metrics, "loss", "loss")
    assert found is not None and found.num_missing == 2
    assert found.values[0] == 1.0 and np.isnan(found.values[1:]).all()


def test_a_number_between_two_gaps_has_a_mark_of_its_own():
    # Too many points for a mark each, and a line of one point cannot be seen.
    lonely = [1.0] * 20 + [math.nan, 2.0, math.nan] + [1.0] * 20
    assert draw(Plot("a", "A", (line(lonely),))).svg.count("<use") == 1 + number_of_ticks(lonely)


def number_of_ticks(values: list[float]) -> int:
    """Marks of the axis, which a line without a lonely number has too."""
    whole = [1.0 if math.isnan(value) else value for value in values]
    return draw(Plot("a", "A", (line(whole),))).svg.count("<use")


def test_a_gap_is_not_drawn_over():
    svg = draw(Plot("a", "A", (line([1, 2, math.nan, 2, 1]),))).svg
    assert path_of(svg, colour_of(0)[0]) == ["M", "L", "M", "L"]


def test_thinning_keeps_the_mean_and_the_ends():
    # 2 x 500 points: pairs 0 and 1, so every mean is 0.5, from 0 to 1.
    thin = _binned(line([0.0, 1.0] * MAX_POINTS), 2)
    assert thin.low is not None and thin.high is not None
    assert set(thin.values) == {0.5} and set(thin.low) == {0.0} and set(thin.high) == {1.0}
    assert thin.steps[0] == 1.5 and len(thin.steps) == MAX_POINTS


def test_thinning_leaves_out_what_is_no_number_and_keeps_whole_gaps():
    values = [1.0, math.nan, math.nan, math.nan] + [2.0] * (2 * MAX_POINTS - 4)
    thin = _binned(line(values), 2)
    assert thin.values[0] == 1.0 and math.isnan(thin.values[1]) and thin.values[2] == 2.0


@pytest.mark.parametrize(("count", "steps_a_point"), [(MAX_POINTS, 1), (MAX_POINTS + 1, 2)])
def test_what_fits_is_drawn_whole(count: int, steps_a_point: int):
    found = draw(Plot("a", "A", (line([0.0] * count),)))
    assert found.steps_a_point == steps_a_point


def test_colours_are_those_of_the_style_sheet():
    svg = draw(Plot("a", "A", (line([1, 2]), line([2, 1])))).svg
    assert "var(--series-0)" in svg and "var(--series-1)" in svg and "var(--ink-soft)" in svg
    # White and black of matplotlib itself would be wrong by night or by day.
    assert not re.search(r"(?:stroke|fill): #(?!none)", svg)


def test_the_description_has_the_numbers():
    svg = draw(Plot("a", "Loss", (line([4, 1, math.nan, 2]),))).svg
    assert '<title id="a-title">Loss by step</title>' in svg
    assert "x: 4 at 1, 2 at 4, least 1, most 4." in svg


@pytest.mark.parametrize("values", [[1.0], [math.nan], [math.nan, math.nan], [5.0, 5.0], [0.0]])
@pytest.mark.parametrize("how", [{}, {"is_share": True}, {"is_stacked": True}, {"is_log": True}])
def test_odd_values_are_drawn_without_a_warning(values: list[float], how: dict[str, bool]):
    svg = draw(Plot("a", "A", (line(values), line(values)), **how)).svg  # type: ignore[arg-type]
    assert svg.startswith("<svg") and svg.endswith("</svg>")


def test_a_logarithmic_axis_has_plain_numbers():
    svg = draw(Plot("a", "A", (line([1e-6, 1e-3]),), is_log=True)).svg
    assert ">1e-05<" in svg and "mathdefault" not in svg


def test_more_lines_than_colours_are_told_apart_by_dashes():
    assert len({colour_of(i) for i in range(24)}) == 24


def test_held_out_accuracy_has_its_interval(tmp_path: Path):
    lines = [{"step": i, "heldout/accuracy": 0.25, "heldout/num_prompts": 400} for i in (0, 2)]
    (stage,) = read_tree(made(tmp_path / "run", lines)).stages
    ((plot, _),) = plots_of(stage)
    assert plot.lines[0].low is not None and plot.lines[0].high is not None
    # Wilson for 100 of 400, as in test_scores.
    assert plot.lines[0].low == pytest.approx([0.2101, 0.2101], abs=1e-4)
    assert plot.lines[0].high == pytest.approx([0.2947, 0.2947], abs=1e-4)


def test_phases_and_the_rest_make_up_the_step(tmp_path: Path):
    metrics = {"time/rollout": 1.0, "time/update": 2.0, "time/extra": 0.5, "time/step": 4.0}
    (stage,) = read_tree(made(tmp_path / "run", [{"step": 1, **metrics}])).stages
    (plot, keys), *_ = plots_of(stage)
    assert {line.label: line.values.tolist() for line in plot.lines} == {
        "rollout": [1.0], "update": [2.0], "extra": [0.5], "other": [0.5]
    }  # fmt: skip
    assert keys[-1] == "time/step"
