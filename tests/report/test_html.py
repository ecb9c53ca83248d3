"""The page over a run: whole, inert, offline and the same every time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fakes import grpo, held_out
from made_runs import made, made_evaluation, made_ladder, stage

from cameleer.cli import main
from cameleer.errors import RunError
from cameleer.recipe_files import to_json
from cameleer.report.html import page, write_report
from cameleer.report.stages import read_tree

DATE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
NASTY = (
    "</script></style></svg><img src=x onerror=alert(1)><script>alert(2)</script>'\"&$\\frac{1}$"
)
VOID = {"meta", "br", "img", "hr", "link"}


class Parsed(HTMLParser):
    """Elements with their attributes, texts, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.plots: list[str] = []
        """Titles of the plots, as who cannot see them hears them."""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.texts.append(data)
        if self._open[-2:] == ["svg", "title"]:
            self.plots.append(data.removesuffix(" by step"))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def shown(directory: Path) -> Parsed:
    return Parsed(page(read_tree(directory), DATE))


def steps(count: int, **more: float) -> list[dict[str, Any]]:
    return [
        {"step": i, "loss": 1 / i, "time/update": 0.5, "time/step": 0.75, **more}
        for i in range(1, count + 1)
    ]


def test_a_ladder_that_was_run_is_one_page_over_all_its_stages(real_ladder: Path, tmp_path: Path):
    written = write_report(real_ladder, tmp_path / "page.html", written=DATE)
    parsed = Parsed(written.read_text(encoding="utf-8"))
    assert "A ladder of 2 stages: sft → grpo." in parsed.text
    assert parsed.text.count("finished, 4 steps") == 2
    assert "held out: arithmetic (8, greedy, GSM8K)" in parsed.text
    for panel in ("Right answers", "Loss", "Reward", "Entropy", "KL to the reference",
                  "Clip fraction", "Gradient norm", "Learning rate", "Seconds a step",
                  "Cut off at the limit of tokens", "Tokens a completion or example"):  # fmt: skip
        assert panel in parsed.plots
    assert "Written 2026-01-02 03:04 UTC" in parsed.text
    assert "<|user|>" in parsed.text, "prompts are decoded by the checkpoint's tokenizer"
    assert "mean of rewards over completions without an undecided check" in parsed.text


def test_the_same_run_gives_the_same_bytes(real_ladder: Path):
    one, other = (page(read_tree(real_ladder), DATE) for _ in range(2))
    assert one == other


def test_nothing_is_fetched_and_no_script_runs(real_ladder: Path):
    text = page(read_tree(real_ladder), DATE)
    parsed = Parsed(text)
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "img", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value and value.startswith("#"), f"{tag} {name}={value}"
    assert not re.search(r"url\((?!#)|@import|https?:", text)
    policy = next(each for each in parsed.all("meta") if "http-equiv" in each)
    assert str(policy["content"]).startswith("default-src 'none'")


def test_ids_are_unique_and_every_reference_finds_one(real_ladder: Path):
    text = page(read_tree(real_ladder), DATE)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) and len(ids) > 100
    wanted = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)
    assert {a or b for a, b in wanted} <= set(ids)
    for labels in re.findall(r'aria-labelledby="([^"]*)"', text):
        assert set(labels.split()) <= set(ids)


def test_what_a_model_says_is_shown_and_inert(tmp_path: Path):
    recipe = to_json(grpo(Path(NASTY), tmp_path, heldout=held_out()))
    recipe["data"][0]["name"] = NASTY
    recipe["heldout"]["sources"][0]["name"] = NASTY
    directory = made(
        tmp_path / "nasty",
        [{**line, f"reward/mean/{NASTY}": 1.0, "reward/mean/b": 2.0, f"value/{NASTY}": 1.0,
          "heldout/accuracy": 0.5, "heldout/num_prompts": 8} for line in steps(3)],
        recipe=recipe,
        manifest={"commit": NASTY, NASTY: NASTY, "examples_dropped": {NASTY: 2}},
        rollouts={3: [{"text": NASTY, "prompt_id": NASTY, "score": {"reason": NASTY}}]},
        samples=[{"step": 1, "prompt": NASTY, "answer": NASTY}],
    )  # fmt: skip
    parsed = shown(directory)
    assert not parsed.all("img") and not parsed.all("script")
    assert not any(name.startswith("on") for _, a in parsed.elements for name in a)
    assert parsed.text.count(NASTY) >= 12, "in the answers, reasons, legends, tables and warnings"


def test_half_a_character_does_not_break_the_page(tmp_path: Path):
    samples = [{"step": 1, "prompt": "a\ud83d", "answer": "\udc00b"}]
    directory = made(tmp_path / "run", steps(1), samples=samples)
    assert write_report(directory).read_text(encoding="utf-8").count("a?") == 1


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ([], "No step was finished, so there are no curves."),
        (steps(1), "unfinished, 1 of 4 steps"),
        (steps(4), "finished, 4 steps"),
    ],
)
def test_a_run_of_any_length_has_a_page(tmp_path: Path, metrics: list[dict[str, Any]], said: str):
    parsed = shown(made(tmp_path / "run", metrics))
    assert said in parsed.text
    assert len(parsed.all("svg")) == (2 if metrics else 0), "loss and time, where there are any"


def test_a_run_killed_before_its_first_step_and_in_the_middle_of_a_line(tmp_path: Path):
    directory = made(tmp_path / "run", steps(2))
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert "unfinished, 2 of 4 steps" in shown(directory).text
    (directory / "manifest.json").unlink()
    assert "unfinished, 2 of 4 steps" in shown(directory).text


def test_a_crash_is_told_with_its_reason(tmp_path: Path):
    directory = made(tmp_path / "run", steps(2))
    (directory / "dumps").mkdir()
    why = {"step": 3, "error": "TrainingError", "message": "Step 3: the loss is nan."}
    (directory / "dumps/step_000003.json").write_text(json.dumps(why))
    text = shown(directory).text
    assert "Step 3 failed: Step 3: the loss is nan." in text
    assert "2 of 4 steps are done, and it has no checkpoint to resume from." in text


def test_only_plots_of_what_was_measured(tmp_path: Path):
    assert shown(made(tmp_path / "run", steps(3))).plots == ["Loss", "Seconds a step"]


def test_pairs_and_a_value_model_have_their_plots(tmp_path: Path):
    more = {
        "rewards/accuracies": 0.5,
        "rewards/margins": 0.1,
        "value/loss": 1.0,
        "logps/chosen": -9.0,
    }
    found = shown(made(tmp_path / "run", steps(3, **more))).plots
    assert {"Pairs ranked rightly", "Margin between chosen and rejected", "Value model",
            "Log-probability of the pairs"} <= set(found)  # fmt: skip


def test_sources_have_lines_of_their_own_where_there_are_several(tmp_path: Path):
    one = steps(2, **{"verifiable_rate": 0.5, "verifiable_rate/gsm8k": 0.5})
    assert "Right answers by source" not in shown(made(tmp_path / "one", one)).plots
    two = [{**line, "verifiable_rate/math": 0.25} for line in one]
    assert "Right answers by source" in shown(made(tmp_path / "two", two)).plots


def test_a_long_run_is_thinned_and_says_so(tmp_path: Path):
    directory = made(tmp_path / "run", steps(10_000))
    written = write_report(directory, written=DATE)
    assert (
        "Each point is the mean of 20 recorded steps; the band runs from" in shown(directory).text
    )
    assert written.stat().st_size < 400_000


def test_bands_say_what_they_are(tmp_path: Path):
    lines = [{**line, "verifiable_rate": 0.5} for line in steps(1_000)]
    lines[-1] |= {"heldout/accuracy": 0.5, "heldout/num_prompts": 8}
    text = shown(made(tmp_path / "run", lines)).text
    assert "runs from the least of them to the most. Bars or bands of held out: 95 %" in text


def test_completions_of_each_kind_are_shown_with_scores_and_reasons(tmp_path: Path):
    rows = [
        {"text": "I am right"},
        {"text": "I am wrong", "score": {"value": 0.0, "reason": "stated: 8", "truth": "7"},
         "reward": 0.0},
        {"text": "I am cut", "finish_reason": "length", "score": {"value": 0.0}},
        {"text": "I am lost", "score": {"value": 0.0, "status": "undecided", "reason": "10 s"},
         "reward": None},
        {"text": "I come second", "sample": 1},
    ]  # fmt: skip
    parsed = shown(made(tmp_path / "run", steps(2), rollouts={2: rows}))
    kinds = [str(a["class"]) for a in parsed.all("span") if "kind" in str(a.get("class"))]
    assert kinds == ["kind right", "kind wrong", "kind truncated", "kind undecided"]
    assert "gsm8k: 0 (undecided), 10 s" in parsed.text and "stated: 8 (truth: 7)" in parsed.text
    assert "I come second" not in parsed.text, "it answers the prompt that is there already"
    assert "(3 tokens; no tokenizer of the run is at hand)" in parsed.text


def test_a_completion_that_a_reward_model_alone_rated_is_neither_right_nor_wrong(tmp_path: Path):
    rated = {"text": "I am liked", "score": None}
    metrics = steps(2, **{"reward/mean": 1.5, "reward/model": 1.5})
    parsed = shown(made(tmp_path / "run", metrics, rollouts={2: [rated]}))
    kinds = [str(a["class"]) for a in parsed.all("span") if "kind" in str(a.get("class"))]
    assert kinds == ["kind rated"] and "None that was right or wrong or" in parsed.text
    assert "Reward" in parsed.plots and "Right answers" not in parsed.plots


def test_benchmarks_are_shown_where_nothing_says_how_many_answers_are_right(tmp_path: Path):
    directory = made(tmp_path / "run", steps(2, **{"reward/mean": 1.5, "eval/a/exact": 0.5}))
    for step in (1, 2):
        made_evaluation(directory, step, a=0.5)
    assert shown(directory).plots[:2] == ["Benchmarks", "Reward"]


def test_a_step_of_undecided_answers_only_leaves_a_gap(tmp_path: Path):
    metrics = steps(5, **{"reward/mean": 5.0, "status/undecided": 0})
    del metrics[2]["reward/mean"]
    metrics[2]["status/undecided"] = 16
    undecided = {"score": {"status": "undecided", "value": 0.0}, "reward": None, "advantage": None}
    parsed = shown(made(tmp_path / "run", metrics, rollouts={3: [undecided]}))
    assert "Checks without a verdict" in parsed.plots
    assert "status/undecided left its healthy range (0) in step 3." in parsed.text
    assert "None that was right or wrong or truncated in the steps looked at." in parsed.text


def test_numbers_that_are_none_are_gaps_and_counted(tmp_path: Path):
    metrics = steps(5)
    metrics[1]["loss"], metrics[3]["loss"] = float("nan"), float("inf")
    assert (
        "Values that are no finite number, shown as gaps: 2."
        in shown(made(tmp_path / "r", metrics)).text
    )


def test_damaged_rollouts_are_named_and_the_rest_is_there(tmp_path: Path):
    directory = made(tmp_path / "run", steps(2), rollouts={1: [{"text": "I am right"}], 2: [{}]})
    (directory / "rollouts/step_000002.parquet").write_bytes(b"no parquet")
    text = shown(directory).text
    assert "Cannot read the rollouts" in text and "I am right" in text


def test_stages_that_have_not_begun_or_made_data_are_told(tmp_path: Path):
    root = tmp_path / "ladder"
    first = stage("sft", "sft", "owner/base", tmp_path)
    last = replace(grpo(Path("stage:sft"), tmp_path), name="grpo")
    data = {"class": "cameleer.recipe:Curate", "name": "pairs"}
    made_ladder(root, first, data, last)
    made(root / "sft", steps(4), recipe=first)
    made(root / "pairs", recipe=data)
    (root / "pairs/pairs.jsonl").write_text("{}\n" * 3)
    text = shown(root).text
    assert "This stage has not begun." in text and "not begun –" not in text
    assert "pairs.jsonl : 3 rows." in text


def test_the_scores_of_all_stages_are_side_by_side(tmp_path: Path):
    root = tmp_path / "ladder"
    first = stage("sft", "sft", "owner/base", tmp_path, num_steps=2)
    last = stage("grpo", "grpo", "stage:sft", tmp_path, num_steps=2)
    made_ladder(root, first, last)
    for each in (first, last):
        made(root / each.name, [{"step": 0, "eval/gsm8k/exact": 0.1}, *steps(2)], recipe=each)
    made_evaluation(root / "sft", 0, gsm8k=0.1)
    made_evaluation(root / "sft", 2, gsm8k=0.2)
    made_evaluation(root / "grpo", 2, gsm8k=0.5)
    text = shown(root).text
    assert "start sft grpo" in text
    assert "gsm8k (100 of 200) exact 10.0 2.0 to 18.0 20.0 12.0 to 28.0 50.0 42.0 to 58.0" in text


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    directory = made(tmp_path / "run", steps(2))
    assert main(["report", "html", str(directory), "--output", str(tmp_path / "x.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'x.html'}\n"
    assert not (directory / "report.html").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "x.html"]


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match=r"neither a run nor a ladder: it has no recipe\.json"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path):
    directory = made(tmp_path / "run", steps(1))
    with pytest.raises(RunError, match="Cannot write to"):
        write_report(directory, tmp_path / "absent" / "report.html")
