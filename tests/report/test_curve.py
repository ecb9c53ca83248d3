"""The picture and the table that a run ends with."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from cameleer.report.curve import (
    draw_curve,
    heldout_line,
    ladder_table,
    read_metrics,
    series,
    summary_table,
)


def directory_with(path: Path, *records: dict[str, Any]) -> Path:
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def online(tmp_path: Path) -> Path:
    common = {"policy/entropy": 2.0, "policy/clip_fraction": 0.0, "optim/grad_norm": 0.5}
    return directory_with(
        tmp_path,
        {"step": 0, "heldout/accuracy": 0.125, "heldout/num_prompts": 8},
        {"step": 1, "verifiable_rate": 0.25, "verifiable_rate/gsm8k": 0.25, "loss": 1.0,
         "reward/mean": 2.5, "length/mean": 30.0, "policy/kl": 0.0, **common},
        {"step": 2, "verifiable_rate": 0.5, "verifiable_rate/gsm8k": 0.5, "loss": 0.5,
         "reward/mean": 5.0, "length/mean": 20.0, "policy/kl": 0.1, **common,
         "heldout/accuracy": 0.625, "heldout/num_prompts": 8},
    )  # fmt: skip


def titles(svg: Path) -> list[str]:
    """Texts of a picture: matplotlib leaves each as a comment above its outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(svg, parser).getroot()
    assert root.tag.endswith("svg")
    return [(e.text or "").strip() for e in root.iter() if e.tag is ElementTree.Comment]


def test_reinforcement_learning_has_its_panels_and_no_loss(online: Path):
    found = titles(draw_curve(online))
    for panel in ("Correct", "Reward", "Tokens a completion", "Entropy, nats", "Clip fraction",
                  "KL to the reference, nats", "Gradient norm"):  # fmt: skip
        assert panel in found
    assert "Loss" not in found
    assert "training prompts" in found and "held out" in found


def test_a_run_without_verifiers_has_no_panel_of_right_answers_and_no_loss(tmp_path: Path):
    lines = ({"step": i, "reward/mean": i / 2, "loss": 0.1} for i in (1, 2))
    directory = directory_with(tmp_path, *lines)
    found = titles(draw_curve(directory))
    assert "Reward" in found and not {"Correct", "Loss"} & set(found)


def test_imitation_has_a_loss(tmp_path: Path):
    records = [{"step": step, "loss": 4.0 / step, "optim/grad_norm": 1.0} for step in (1, 2, 3)]
    found = titles(draw_curve(directory_with(tmp_path, *records)))
    assert "Loss" in found and "Reward" not in found


def test_a_series_skips_steps_without_the_metric(online: Path):
    assert series(read_metrics(online), "heldout/accuracy") == ([0, 2], [0.125, 0.625])
    assert series(read_metrics(online), "no/such") == ([], [])


def test_the_table_has_first_and_last_values(online: Path):
    console = Console(width=120, record=True, file=io.StringIO())
    with console.file:
        console.print(summary_table(online))
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    found = {name.strip(): (first.strip(), last.strip()) for name, first, last in rows}
    assert found["held-out accuracy"] == ("0.125", "0.625")
    assert found["reward"] == ("2.50", "5.00")
    assert found["tokens a completion"] == ("30.0", "20.0")
    assert found["correct, gsm8k"] == ("0.250", "0.500")
    assert "seconds a step" not in found


def test_the_last_line_of_a_run(online: Path):
    assert heldout_line(online) == "held-out accuracy: 0.12 -> 0.62 (8 problems)"


def test_a_run_that_held_nothing_out_has_no_such_line(tmp_path: Path):
    assert heldout_line(directory_with(tmp_path, {"step": 1, "loss": 1.0})) is None


def test_benchmarks_have_a_panel_and_a_row_with_their_primary_metric(tmp_path: Path):
    scores = ({"eval/gsm8k/exact_match": x, "eval/gsm8k/correct": 0.5} for x in (0.25, 0.75))
    found = directory_with(
        tmp_path, *({"step": s, **x} for s, x in zip((0, 4), scores, strict=True))
    )
    assert {"Benchmarks", "gsm8k/exact_match"} <= set(titles(draw_curve(found)))
    out = io.StringIO()
    Console(file=out, width=100).print(summary_table(found))
    (row,) = [line for line in out.getvalue().splitlines() if "gsm8k" in line]
    assert "gsm8k/exact_match" in row and "0.250" in row and "0.750" in row


def test_a_ladder_ends_with_the_accuracy_of_each_stage(tmp_path: Path):
    for name, count, before, after in (("sft", "prompts", 0.0, 0.25), ("rm", "pairs", 0.5, 0.75)):
        (tmp_path / name).mkdir()
        directory_with(
            tmp_path / name,
            {"step": 0, "heldout/accuracy": before, f"heldout/num_{count}": 100},
            {"step": 1, "loss": 1.0},
            {"step": 2, "heldout/accuracy": after, f"heldout/num_{count}": 100},
        )
    text = io.StringIO()
    Console(file=text, width=100).print(ladder_table([tmp_path / "sft", tmp_path / "rm"]))
    # Wilson's interval of 25 of 100 is 0.175 to 0.343, by its formula.
    assert "0.000 │ 0.250 │ 0.175 to 0.343" in text.getvalue()
    assert "rm (pairs ranked)" in text.getvalue()
    assert heldout_line(tmp_path / "rm") == "held-out accuracy: 0.50 -> 0.75 (100 pairs)"
