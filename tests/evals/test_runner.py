"""From a model and benchmarks to results: nothing is asked twice, every number has its origin."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fakes import Breaks, Even, Says
from small_evals import CHATTY, SEVEN, SUMS, Scripted, write_sums

from cameleer.data.sources import Row
from cameleer.errors import DataError, ModelError, RecipeError, RunError
from cameleer.evals import runner, store
from cameleer.evals.base import Benchmark, Instance, Metric
from cameleer.evals.model import Answer, Model, Question
from cameleer.evals.runner import chosen, evaluate, rescore
from cameleer.evals.store import read_rows
from cameleer.files import locked
from cameleer.types import Score


@dataclass(frozen=True)
class Counts:
    """A value of its own for each truth, and what `validate` says of it."""

    problem: str | None = None
    status: Any = "scored"
    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        return Score(min(1.0, float(truth)), self.status, "as told")

    def validate(self, truth: Any) -> str | None:
        return self.problem


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_sums(tmp_path / "data")


def results_of(directory: Path) -> bytes:
    return (directory / "results.json").read_bytes()


def primary(results: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(results["benchmarks"]["sums"]["metrics"].values()))
    return found


def test_a_scripted_model_is_a_model():
    assert isinstance(Scripted(), Model)


def test_results_say_what_was_asked_and_how_well_it_was_answered(data: Path, tmp_path: Path):
    model = Scripted()
    results = evaluate(model, [SUMS], tmp_path / "out", data=data)
    # 3 and 7 of the eight say 7. Binary values get Wilson's interval: 2 of 8.
    score = primary(results)
    assert score["value"] == 0.25 and score["undecided"] == 0
    assert (score["low"], score["high"]) == pytest.approx((0.0715, 0.5907), abs=1e-4)
    assert score["standard_error"] == pytest.approx(math.sqrt(0.25 * 0.75 / 7))
    found = results["benchmarks"]["sums"]
    assert (found["num_instances"], found["num_available"], found["mean_tokens"]) == (8, 8, 3)
    assert results["model"] == {"name": "scripted", "kind": "scripted", "weights": "w"}
    assert json.loads(results_of(tmp_path / "out")) == results
    rows = read_rows(tmp_path / "out", "sums")
    assert [row["instance"] for row in rows] == [f"sums:{n}" for n in range(8)]
    assert rows[3]["prompt"] == "Ida has 3 pens and buys 3 more ."
    assert (rows[3]["output"], rows[3]["extraction"], rows[3]["truth"]) == ("it is 7", "7", '"6"')
    assert [row["scores"][0]["value"] for row in rows] == [0, 0, 0, 1, 0, 0, 0, 1]


# Going on


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError])
@pytest.mark.parametrize("benchmark", [SUMS, CHATTY])
def test_who_died_on_the_way_is_asked_only_for_the_rest(
    benchmark: Benchmark, error: type[BaseException], data: Path, tmp_path: Path
):
    whole, dying, rest = Scripted(), Scripted(dies_after=5, error=error), Scripted()
    evaluate(whole, [benchmark], tmp_path / "whole", data=data)
    with pytest.raises(error):
        evaluate(dying, [benchmark], tmp_path / "out", data=data)
    assert not (tmp_path / "out/results.json").exists()
    evaluate(rest, [benchmark], tmp_path / "out", data=data)
    assert len(dying.asked) == 5
    assert sorted(dying.asked + rest.asked) == sorted(whole.asked)
    assert results_of(tmp_path / "out") == results_of(tmp_path / "whole")
    assert read_rows(tmp_path / "out", "sums") == read_rows(tmp_path / "whole", "sums")


def test_log_likelihoods_are_not_asked_for_twice(tmp_path: Path):
    data = write_sums(tmp_path / "data", choices=lambda n: [" 3", " 12"] if n % 2 else [])
    dying, rest = Scripted(dies_after=6), Scripted()
    with pytest.raises(KeyboardInterrupt):
        evaluate(dying, [SUMS], tmp_path / "out", data=data)
    evaluate(rest, [SUMS], tmp_path / "out", data=data)
    assert sorted(dying.asked + rest.asked) == [(f"sums:{n}", 0) for n in range(8)]
    outputs = [row["output"] for row in read_rows(tmp_path / "out", "sums")]
    assert outputs[:4] == ["it is 0", "[-2.0, -3.0]", "it is 2", "[-2.0, -3.0]"]


@pytest.mark.parametrize(
    "left", [b'{"bench', b'{"benchmark": "sums", "instance": "sums:0"}', b"\0"]
)
def test_half_a_line_is_asked_for_again(left: bytes, data: Path, tmp_path: Path):
    dying, rest = Scripted(dies_after=5), Scripted()
    with pytest.raises(KeyboardInterrupt):
        evaluate(dying, [SUMS], tmp_path / "out", data=data)
    with (tmp_path / "out/answers.jsonl").open("ab") as file:
        file.write(left)
    evaluate(rest, [SUMS], tmp_path / "out", data=data)
    assert len(rest.asked) == 3
    evaluate(Scripted(), [SUMS], tmp_path / "whole", data=data)
    assert results_of(tmp_path / "out") == results_of(tmp_path / "whole")


def test_a_finished_evaluation_is_only_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = evaluate(Scripted(), [SUMS], tmp_path / "out", data=data)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}

    def nobody_may(*_: Any) -> Any:
        raise AssertionError("nothing is left to do")

    # A directory that cannot be written has no lock to take.
    monkeypatch.setattr(runner, "locked", nobody_may)
    model = Scripted(dies_after=0)
    assert evaluate(model, [SUMS], tmp_path / "out", data=data) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_who_waited_for_another_s_results_does_not_answer_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    takes = runner.locked

    def another_finishes_first(directory: Path) -> Any:
        monkeypatch.setattr(runner, "locked", takes)
        evaluate(Scripted(), [SUMS], directory, data=data)
        return takes(directory)

    monkeypatch.setattr(runner, "locked", another_finishes_first)
    assert primary(evaluate(Scripted(dies_after=0), [SUMS], tmp_path / "out", data=data))


def test_two_processes_do_not_answer_at_once(data: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(Scripted(dies_after=5), [SUMS], tmp_path / "out", data=data)
    with (tmp_path / "out/answers.jsonl").open("ab") as file:
        file.write(b'{"the other one is in the middle of a line')
    before = (tmp_path / "out/answers.jsonl").read_bytes()
    with locked(tmp_path / "out"), pytest.raises(RunError, match="Another process is writing"):
        evaluate(Scripted(), [SUMS], tmp_path / "out", data=data)
    assert (tmp_path / "out/answers.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "benchmark", "options", "difference"),
    [
        (Scripted(weights="v"), SUMS, {}, r"its model\.weights is 'w', and here it is 'v'"),
        (Scripted(), replace(SUMS, max_tokens=9), {}, r"sums\.decoding\.max_tokens is 6, .* 9\."),
        (Scripted(), CHATTY, {}, r"sums\.decoding\.temperature is 0\.0, .* 1\.0"),
        (Scripted(), replace(SUMS, stop=("?",)), {}, r"decoding\.stop is \[\], .* \['\?'\]"),
        (Scripted(), replace(SUMS, version=2), {}, r"sums\.version is 1, and here it is 2"),
        (Scripted(), replace(SUMS, name="more"), {}, r"asked\.more is None, and here it is \{"),
        (Scripted(), SUMS, {"seed": 3}, "its seed is 0, and here it is 3"),
        (Scripted(), SUMS, {"profile": "smoke"}, "its profile is 'full', and here it is 'smoke'"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_evaluation_is_told_from_this_one(
    model: Scripted,
    benchmark: Benchmark,
    options: dict[str, Any],
    difference: str,
    is_finished: bool,
    data: Path,
    tmp_path: Path,
):
    first = Scripted(dies_after=None if is_finished else 5)
    try:
        evaluate(first, [SUMS], tmp_path / "out", data=data)
    except KeyboardInterrupt:
        assert not is_finished
    with pytest.raises(RunError, match=f"holds another evaluation: .*{difference}"):
        evaluate(model, [benchmark], tmp_path / "out", data=data, **options)
    assert model.asked == []


@pytest.mark.parametrize(
    ("columns", "difference"),
    [
        ({"question": lambda n: f"{n} + 3 = ?"}, "asked.sums.prompts is"),
        ({"answer": lambda n: "7"}, "asked.sums.data_hash is"),
        ({"subject": lambda n: "pens"}, "asked.sums.data_hash is"),
        ({"choices": lambda n: [" 1", " 2"]}, "asked.sums.prompts is"),
    ],
)
def test_other_data_is_another_evaluation(
    columns: dict[str, Callable[[int], Any]], difference: str, data: Path, tmp_path: Path
):
    evaluate(Scripted(), [SUMS], tmp_path / "out", data=data)
    with pytest.raises(RunError, match=difference):
        evaluate(Scripted(), [SUMS], tmp_path / "out", data=write_sums(data, **columns))


# What is refused before anything is asked


def nothing_is_asked(
    error: type[Exception], complaint: str, benchmark: Benchmark, data: Path, **options: Any
) -> None:
    model = Scripted(context=options.pop("context", None))
    with pytest.raises(error, match=complaint):
        evaluate(model, [benchmark], data.parent / "out", data=data, **options)
    assert model.asked == [] and not (data.parent / "out").exists()


def test_a_truth_that_cannot_be_read_is_found_before_anything_is_asked(data: Path):
    unreadable = Metric(name="counts", verifier=Counts("it is odd"), about="")
    both = replace(SUMS, metrics=(SEVEN, unreadable))
    nothing_is_asked(DataError, r"sums:0: counts cannot read the truth \(it is odd\)", both, data)


def test_a_truth_that_only_scoring_finds_unreadable_is_an_error(data: Path, tmp_path: Path):
    late = replace(
        SUMS, metrics=(Metric(name="late", verifier=Counts(status="invalid"), about=""),)
    )
    with pytest.raises(DataError, match=r"sums:0: late cannot read the truth \(as told\)"):
        evaluate(Scripted(), [late], tmp_path / "out", data=data)
    # The answers are kept: with the mended verifier nothing is asked again.
    mended = replace(late, metrics=(Metric(name="late", verifier=Says("7"), about=""),))
    model = Scripted()
    assert primary(evaluate(model, [mended], tmp_path / "out", data=data))["value"] == 0.25
    assert model.asked == []


def test_a_verifier_that_no_process_can_be_given_is_found_first(data: Path):
    @dataclass(frozen=True)
    class Local(Counts):
        isolated: ClassVar[bool] = True

    local = replace(SUMS, metrics=(Metric(name="local", verifier=Local(), about=""),))
    nothing_is_asked(RecipeError, "Verifiers must be picklable", local, data)


def test_a_context_shorter_than_a_prompt_is_found_before_anything_is_asked(data: Path):
    complaint = r"made for 9 tokens, and the prompt of sums:0 has 9: nothing is left"
    nothing_is_asked(ModelError, complaint, SUMS, data, context=9)


def test_a_row_without_a_column_is_named(data: Path):
    with (data / "sums.jsonl").open("a") as file:
        file.write('{"question": "1 + 1 = ?", "solution": "2"}\n')
    complaint = r"sums\.jsonl:9: the row has no answer, which sums needs \(it has question, solu"
    nothing_is_asked(DataError, complaint, SUMS, data)


def test_a_file_that_is_absent_is_named(data: Path):
    (data / "sums.jsonl").rename(data / "other.jsonl")
    nothing_is_asked(DataError, r"sums\.jsonl does not exist: sums reads sums\.jsonl", SUMS, data)


def test_instances_of_one_id_are_refused(data: Path):
    def twice(rows: Sequence[Row]) -> list[Instance]:
        return [*SUMS.instances(rows), *SUMS.instances(rows)[:2]]

    nothing_is_asked(DataError, "gives 2 instances one id", replace(SUMS, instances=twice), data)


# How much is asked


@pytest.mark.parametrize("context", [10, 14, 15, 16, None])
def test_an_answer_gets_what_the_context_leaves(context: int | None, data: Path, tmp_path: Path):
    model = Scripted(context=context)
    evaluate(model, [SUMS], tmp_path / "out", data=data)
    # Each prompt has 9 words, and the benchmark allows 6.
    assert set(model.limits) == {min(6, (context or 99) - 9)}


def test_profiles_ask_the_same_of_every_model():
    assert chosen(1319, "full") == list(range(1319))
    assert len(chosen(1319, "dev")) == 200 and len(chosen(1319, "smoke")) == 8
    assert set(chosen(1319, "smoke")) < set(chosen(1319, "dev"))
    assert chosen(1319, "dev") == sorted(chosen(1319, "dev"))
    # Stored results depend on which: these are the first of GSM8K.
    assert chosen(1319, "dev")[:5] == [2, 3, 19, 22, 27]
    assert chosen(150, "dev") == list(range(150)) and chosen(3, "smoke") == [0, 1, 2]


@pytest.mark.parametrize(("profile", "count"), [("smoke", 8), ("dev", 200), ("full", 230)])
def test_a_profile_asks_its_part(profile: Any, count: int, tmp_path: Path):
    data, model, other = write_sums(tmp_path / "data", 230), Scripted(), Scripted(weights="v")
    results = evaluate(model, [SUMS], tmp_path / "one", data=data, profile=profile)
    evaluate(other, [SUMS], tmp_path / "two", data=data, profile=profile)
    found = results["benchmarks"]["sums"]
    assert (found["num_instances"], found["num_available"]) == (count, 230)
    assert len(model.asked) == count and model.asked == other.asked


@pytest.mark.parametrize(("allowed", "limit"), [(6, 6), (4096, 64)])
def test_smoke_shortens_answers_and_never_lengthens_them(
    allowed: int, limit: int, data: Path, tmp_path: Path
):
    model = Scripted()
    benchmark = replace(SUMS, max_tokens=allowed)
    evaluate(model, [benchmark], tmp_path / "out", data=data, profile="smoke")
    assert set(model.limits) == {limit}


def test_a_benchmark_of_choices_needs_no_room_for_answers(tmp_path: Path):
    data = write_sums(tmp_path / "data", choices=lambda n: [" 3", " 12"])
    results = evaluate(Scripted(), [replace(SUMS, max_tokens=0)], tmp_path / "out", data=data)
    assert results["benchmarks"]["sums"]["mean_tokens"] == 0


# What is counted, and how


def averaged(data: Path, tmp_path: Path, **metric: Any) -> float:
    """The score of truths that are their own values."""
    benchmark = replace(SUMS, metrics=(Metric(name="m", verifier=Counts(), about="", **metric),))
    value: float = primary(evaluate(Scripted(), [benchmark], tmp_path / "out", data=data))["value"]
    return value


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        # 0, 0.5, 1, 1: their mean.
        ({}, 0.625),
        # Subject a has 0, 0.5 and 1, b has 1 alone: (0.5 + 1) / 2.
        ({"average": "subjects"}, 0.75),
        # Weights 1, 2, 3, 4: (0 + 1 + 3 + 4) / 10.
        ({"average": "parts"}, 0.8),
        # 0, 0, 1, 1.
        ({"whole": True}, 0.5),
        ({"whole": True, "average": "parts"}, 0.7),
    ],
)
def test_instances_are_averaged_as_the_metric_says(
    metric: dict[str, Any], value: float, tmp_path: Path
):
    data = write_sums(
        tmp_path / "data",
        4,
        answer=lambda n: [0, 0.5, 1, 1][n],
        subject=lambda n: "aaab"[n],
        num_parts=lambda n: n + 1,
    )
    assert averaged(data, tmp_path, **metric) == pytest.approx(value)


def test_several_samples_count_once_and_any_of_them_may_be_right(tmp_path: Path):
    right = {("sums:0", 0), ("sums:0", 1), ("sums:1", 3)}

    def say(question: Question) -> Answer:
        is_right = (question.instance.id, question.sample) in right
        return Answer("7" if is_right else "8", 1, "eos")

    data, benchmark = write_sums(tmp_path / "data", 2), replace(CHATTY, samples=4)
    score = primary(evaluate(Scripted(say), [benchmark], tmp_path / "out", data=data))
    # 2 of 4 and 1 of 4. pass@2: 1 - C(2,2)/C(4,2) = 5/6, and 1 - C(3,2)/C(4,2) = 1/2.
    assert (score["value"], score["num_instances"]) == (0.375, 2)
    assert score["pass_at"] == pytest.approx({"1": 0.375, "2": (5 / 6 + 1 / 2) / 2, "4": 1.0})


def test_an_answer_without_a_verdict_is_wrong_and_counted(data: Path, tmp_path: Path):
    # It breaks on an odd number of words: on "it is N", not on "it is # N".
    def say(question: Question) -> Answer:
        return Answer("it is # 7" if question.instance.id < "sums:2" else "it is 7", 3, "eos")

    benchmark = replace(SUMS, metrics=(Metric(name="m", verifier=Breaks(), about=""),))
    score = primary(evaluate(Scripted(say), [benchmark], tmp_path / "out", data=data))
    assert (score["value"], score["undecided"]) == (0.25, 6)
    row = read_rows(tmp_path / "out", "sums")[5]
    assert row["scores"][0]["status"] == "undecided" and row["scores"][0]["value"] == 0
    assert "ZeroDivisionError" in row["scores"][0]["reason"]


def test_the_value_of_an_undecided_verdict_means_nothing(data: Path, tmp_path: Path):
    # Truths from 3 on: each verdict has the value 1, and none was reached.
    undecided = Metric(name="m", verifier=Counts(status="undecided"), about="")
    benchmark = replace(SUMS, metrics=(undecided,))
    score = primary(evaluate(Scripted(), [benchmark], tmp_path / "out", data=data))
    assert (score["value"], score["undecided"]) == (0, 8)
    rows = read_rows(tmp_path / "out", "sums")
    assert {row["scores"][0]["value"] for row in rows} == {0}


def test_empty_and_endless_answers_are_counted(data: Path, tmp_path: Path):
    answers = [Answer("", 1, "eos"), Answer(" \n", 2, "stop"), Answer("7 7 7", 6, "length")]
    model = Scripted(lambda q: answers[min(2, int(q.instance.id[5:]))])
    found = evaluate(model, [SUMS], tmp_path / "out", data=data)["benchmarks"]["sums"]
    assert (found["empty"], found["truncated"]) == (2, 6)
    assert found["mean_tokens"] == (1 + 2 + 6 * 6) / 8


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("\ud83d is 7", "\N{REPLACEMENT CHARACTER} is 7"),
        ("\ud83d\ude00 7", "\N{GRINNING FACE} 7"),
        ("\ufeff7 \0 \u2028 é", "\ufeff7 \0 \u2028 é"),
    ],
)
def test_texts_that_no_file_could_hold_are_kept_as_near_as_can_be(
    said: str, kept: str, data: Path, tmp_path: Path
):
    model = Scripted(lambda _: Answer(said, 3, "eos"), dies_after=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, [SUMS], tmp_path / "out", data=data)
    evaluate(Scripted(lambda _: Answer(said, 3, "eos")), [SUMS], tmp_path / "out", data=data)
    assert {row["output"] for row in read_rows(tmp_path / "out", "sums")} == {kept}


def test_half_a_character_in_the_data_or_a_reason_loses_no_answer(tmp_path: Path):
    @dataclass(frozen=True)
    class Quotes(Counts):
        def score(self, text: str, truth: Any) -> Score:
            return Score(1.0, reason=truth)

    data = write_sums(tmp_path / "data", question=lambda n: "\ud83d ?", answer=lambda n: "\ud83d")
    quotes = Metric(name="quotes", verifier=Quotes(), about="")
    benchmark = replace(SUMS, metrics=(quotes,), extract=lambda _: "\ud83d")
    assert primary(evaluate(Scripted(), [benchmark], tmp_path / "out", data=data))["value"] == 1
    row = read_rows(tmp_path / "out", "sums")[0]
    half = "\N{REPLACEMENT CHARACTER}"
    assert (row["prompt"], row["truth"], row["extraction"]) == (f"{half} ?", f'"{half}"', half)
    assert row["scores"][0]["reason"] == half


def test_what_is_on_the_disk_when_it_is_full_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    appends, left = store.append_lines, [5]

    def fills(path: Path, records: Any) -> None:
        if left[0] == 0:
            raise OSError(28, os.strerror(28))
        left[0] -= 1
        appends(path, records)

    with monkeypatch.context() as patch:
        patch.setattr(store, "append_lines", fills)
        with pytest.raises(
            RunError, match=r"Cannot write to .*out: No space left on device\. Free"
        ):
            evaluate(Scripted(), [SUMS], tmp_path / "out", data=data)
    with monkeypatch.context() as patch:
        patch.setattr(store.pq, "write_table", lambda *_, **__: fills(tmp_path, None))
        with pytest.raises(RunError, match=r"an evaluation by the same command"):
            evaluate(Scripted(), [SUMS], tmp_path / "out", data=data)
    model = Scripted(dies_after=0)
    assert primary(evaluate(model, [SUMS], tmp_path / "out", data=data))["value"] == 0.25


def test_where_nothing_can_be_written_the_error_says_so(data: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot write to .*file/out: File exists\."):
        evaluate(Scripted(), [SUMS], tmp_path / "file/out", data=data)
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="mine exists and holds no evaluation"):
        evaluate(Scripted(), [SUMS], tmp_path / "mine", data=data)


# Scoring again


@pytest.mark.parametrize("benchmark", [SUMS, CHATTY, replace(CHATTY, samples=3)])
def test_scoring_again_by_the_same_rules_changes_nothing(
    benchmark: Benchmark, data: Path, tmp_path: Path
):
    first = evaluate(Scripted(), [benchmark], tmp_path / "out", data=data)
    rows = read_rows(tmp_path / "out", "sums")
    # The command's --samples is not the benchmark's own: every answer stays.
    assert rescore(tmp_path / "out", {"sums": SUMS}) == first
    assert read_rows(tmp_path / "out", "sums") == rows
    assert evaluate(Scripted(dies_after=0), [benchmark], tmp_path / "out", data=data) == first


def test_choices_and_parts_survive_scoring_again(tmp_path: Path):
    data = write_sums(
        tmp_path / "data",
        choices=lambda n: [" 7", " 12"],
        subject=lambda n: "ab"[n % 2],
        num_parts=lambda n: n + 1,
    )
    metrics = tuple(replace(SEVEN, name=a, average=a) for a in ("instances", "subjects", "parts"))
    benchmark = replace(SUMS, metrics=metrics)
    first = evaluate(Scripted(), [benchmark], tmp_path / "out", data=data)
    rows = read_rows(tmp_path / "out", "sums")
    assert rescore(tmp_path / "out", {"sums": benchmark}) == first
    assert read_rows(tmp_path / "out", "sums") == rows


def test_scoring_again_takes_the_rules_of_now(data: Path, tmp_path: Path):
    first = evaluate(Scripted(), [SUMS], tmp_path / "out", data=data)
    metrics = (Metric(name="even", verifier=Even(), about=""), replace(SEVEN, verifier=Says("is")))
    changed = replace(SUMS, version=2, metrics=metrics, max_tokens=99, extract=lambda _: "new")
    found = rescore(tmp_path / "out", {"sums": changed})
    summary = found["benchmarks"]["sums"]
    assert {name: m["value"] for name, m in summary["metrics"].items()} == {"even": 0, "seven": 1}
    assert (summary["version"], summary["scored_by"]) == (1, 2)
    assert summary["decoding"] == first["benchmarks"]["sums"]["decoding"]
    assert json.loads(results_of(tmp_path / "out")) == found
    assert read_rows(tmp_path / "out", "sums")[0]["extraction"] == "new"


def test_what_cannot_be_scored_again_is_left_as_it_is(data: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(Scripted(dies_after=5), [SUMS], tmp_path / "out", data=data)
    with pytest.raises(RunError, match=r"has no results\.json: an evaluation was not finished"):
        rescore(tmp_path / "out", {"sums": SUMS})
    evaluate(Scripted(), [SUMS], tmp_path / "out", data=data)
    before = results_of(tmp_path / "out")
    with pytest.raises(RecipeError, match="has answers to sums, which is not among the benchmarks"):
        rescore(tmp_path / "out", {"gsm8k": SUMS})
    with locked(tmp_path / "out"), pytest.raises(RunError, match="Another process"):
        rescore(tmp_path / "out", {"sums": SUMS})
    (tmp_path / "out/sums.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"Cannot read the answers .*sums\.parquet"):
        rescore(tmp_path / "out", {"sums": SUMS})
    assert results_of(tmp_path / "out") == before
