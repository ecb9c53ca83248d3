"""Results are compared pair by pair where they can be, and refused where they cannot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cameleer.errors import RunError
from cameleer.evals.stats import estimate
from cameleer.report.compare import Row, compare, compare_columns, read_column

SCORE = pa.struct(
    {"metric": pa.string(), "value": pa.float64(), "status": pa.string(), "reason": pa.string()}
)
SCHEMA = pa.schema(
    {
        "instance": pa.string(),
        "sample": pa.int32(),
        "subject": pa.string(),
        "num_parts": pa.int32(),
        "prompt": pa.string(),
        "prompt_sha": pa.string(),
        "output": pa.string(),
        "extraction": pa.string(),
        "num_tokens": pa.int32(),
        "finish_reason": pa.string(),
        "truth": pa.string(),
        "scores": pa.list_(SCORE),
    }
)

BEFORE = [1, 0, 0, 0, 1, 1, 1, 0, 0, 0]
AFTER = [0, 1, 1, 1, 1, 1, 1, 0, 0, 0]


def written(
    directory: Path,
    scores: Mapping[str, Sequence[Any]],
    *,
    benchmark: str = "gsm8k",
    average: str = "instances",
    first: int = 0,
    subjects: Sequence[str] | None = None,
    parts: Sequence[int] | None = None,
    prompts: str = "",
    truths: str = "",
    profile: str = "full",
    **changes: Any,
) -> str:
    """A directory as `cameleer eval` writes it: a metric's scores by instance, or by sample of it.

    None is an undecided score.
    """
    directory.mkdir(parents=True, exist_ok=True)
    by_sample = {
        name: [v if isinstance(v, list) else [v] for v in values] for name, values in scores.items()
    }
    any_metric = next(iter(by_sample.values()))
    num_instances, samples = len(any_metric), len(any_metric[0])
    rows = []
    for i in range(num_instances):
        for sample in range(samples):
            verdicts = [(name, values[i][sample]) for name, values in by_sample.items()]
            rows.append(
                {
                    "instance": f"{benchmark}:{first + i}",
                    "sample": sample,
                    "subject": subjects[i] if subjects else "",
                    "num_parts": parts[i] if parts else 1,
                    "prompt": f"{i}",
                    "prompt_sha": f"{prompts}{first + i}",
                    "output": "so",
                    "extraction": "so",
                    "num_tokens": 1,
                    "finish_reason": "stop",
                    "truth": json.dumps(f"{truths}{first + i}"),
                    "scores": [
                        {
                            "metric": name,
                            "value": 1.0 if value is None else float(value),  # Not to be read.
                            "status": "undecided" if value is None else "scored",
                            "reason": "",
                        }
                        for name, value in verdicts
                    ],
                }
            )
    # Rows may stand in any order.
    pq.write_table(pa.Table.from_pylist(rows[::-1], SCHEMA), directory / f"{benchmark}.parquet")
    metrics = {}
    for name, values in by_sample.items():
        means = [float(np.mean([v or 0.0 for v in each])) for each in values]
        found = estimate(
            means,
            parts if average == "parts" else None,
            subjects if average == "subjects" else None,
        )
        metrics[name] = {
            "value": found.value,
            "standard_error": found.standard_error,
            "low": 0.0,
            "high": 1.0,
            "average": average,
            "whole": False,
            "undecided": sum(v is None for each in values for v in each),
        }
    path = directory / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"benchmarks": {}}
    results |= {
        "format": 1,
        "model": {"name": "tiny"},
        "profile": profile,
        "config_hash": "0",
        "packages": {},
    }
    results["benchmarks"][benchmark] = {
        "version": 1,
        "num_instances": num_instances,
        "num_available": num_instances,
        "samples": samples,
        "decoding": {"max_tokens": 64, "temperature": 0.0, "stop": [], "samples": samples},
        "data_hash": "0",
        "metrics": metrics,
        "truncated": 0,
        "mean_tokens": 1.0,
        **changes,
    }
    path.write_text(json.dumps(results))
    return str(directory)


def rows_of(*references: str, common: bool = False) -> list[Row]:
    return compare_columns([read_column(reference) for reference in references], common)


def test_a_paired_difference_by_hand(tmp_path: Path):
    # 1 broken, 3 mended, 6 as before: 0.2 with SE 0.2 (see tests/evals/test_stats.py), and
    # McNemar's 2 * (1 + 4) / 16. Unpaired, the error would be 0.23.
    one = written(tmp_path / "one", {"right": BEFORE})
    other = written(tmp_path / "other", {"right": AFTER})
    (row,) = rows_of(one, other)
    assert (row.benchmark, row.metric) == ("gsm8k", "right")
    assert [score.value for score in row.scores if score] == pytest.approx([0.4, 0.6])
    nothing, found = row.differences
    assert nothing is None and found is not None and found.is_paired
    assert found.difference == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.2)
    assert found.p_value == pytest.approx(0.625)
    assert found.verdict == "no gain"


def test_the_printed_page_says_what_it_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = written(tmp_path / "one", {"right": [1] * 60 + [0] * 40, "strict": [0] * 100})
    other = written(tmp_path / "other", {"right": [1] * 70 + [0] * 30, "strict": [0] * 100})
    assert compare([one, other]) == 0
    words = " ".join(capsys.readouterr().out.split())
    # SE of 0.6 and 0.7 of 100: sqrt(0.24 / 99), sqrt(0.21 / 99). Of 0.1: sqrt(0.09 / 99) = 0.0302,
    # and 2.80 of these are 8.4 points.
    assert "│ gsm8k right │ 60.0 ± 4.9 │ 70.0 ± 4.6 │ +10.0 ± 3.0 gain │" in words
    assert "in 4 of 5 cases is 8.4 points to other (paired, 100 instances)" in words
    compare([other, one])
    assert "-10.0 ± 3.0 loss" in capsys.readouterr().out
    compare([one, one])
    out = capsys.readouterr().out
    assert "+0.0 ± 0.0 no gain" in out and "unknown, since no instance differs" in out


def test_a_published_column_is_compared_by_its_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ours = written(tmp_path / "ours", {"flex": [1] * 95 + [0] * 5, "strict": [1] * 90 + [0] * 10})
    assert compare(["tulu31_8b_published", ours]) == 0
    out = capsys.readouterr().out
    # 0.95 - 0.90, SE^2 = 0.0475 / 99 + 0.09 / 1319: 2.3 points.
    assert "gsm8k flex" in out and "+5.0 ± 2.3 gain" in out and "90.0 ± 0.8" in out
    # Only the primary metric is published.
    assert "strict" not in out
    assert "(not paired, 100 instances)" in out
    assert "tulu31_8b_published: https://huggingface.co/allenai/Llama-3.1-Tulu-3.1-8B" in out


def test_published_columns_stand_beside_each_other():
    rows = {row.benchmark: row for row in rows_of("tulu3_8b_published", "tulu31_8b_published")}
    # 90.0 - 87.6 with sqrt(0.09 / 1319 + 0.1086 / 1319) = 0.01227: under two of them.
    found = rows["gsm8k"].differences[1]
    assert found is not None
    assert found.difference == pytest.approx(0.024)
    assert found.standard_error == pytest.approx(0.01227, abs=5e-6)
    assert found.verdict == "no gain"
    # Two rules of extraction, and two rows without a standard error.
    assert not rows.keys() & {"bbh", "bbh_v0", "alpaca_eval", "safety"}


def test_samples_are_averaged_first_and_undecided_ones_count_as_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one = written(tmp_path / "one", {"right": [[1, 1], [1, None], [0, 0], [1, 0]]})
    other = written(tmp_path / "other", {"right": [[1, 1], [1, 1], [0, 1], [1, 0]]})
    (row,) = rows_of(one, other)
    # Means 1, 1/2, 0, 1/2 and 1, 1, 1/2, 1/2: differences 0, 1/2, 1/2, 0. s^2 = 1/12, SE^2 = 1/48.
    assert row.scores[0] == estimate([1, 0.5, 0, 0.5])
    found = row.differences[1]
    assert found is not None and found.num_instances == 4
    assert found.standard_error == pytest.approx(math.sqrt(1 / 48))
    compare([one, other])
    assert "one, gsm8k: 1 answers undecided, which count as wrong" in capsys.readouterr().out


def test_subjects_and_parts_weigh_as_the_benchmark_says(tmp_path: Path):
    by_subject: dict[str, Any] = {
        "benchmark": "math",
        "average": "subjects",
        "subjects": list("aaaabb"),
    }
    by_parts: dict[str, Any] = {"benchmark": "ifeval", "average": "parts", "parts": [1, 2, 3]}
    for name, subject_scores, part_scores in (
        ("one", [0, 0, 0, 0, 0, 1], [1, 0.5, 0]),
        ("other", [1, 1, 0, 0, 1, 1], [1, 1, 0]),
    ):
        written(tmp_path / name, {"right": subject_scores}, **by_subject)
        written(tmp_path / name, {"right": part_scores}, **by_parts)
    of_subjects, of_parts = rows_of(str(tmp_path / "one"), str(tmp_path / "other"))
    found = of_subjects.differences[1]
    # a: 1, 1, 0, 0: mean 1/2, s^2 / 4 = 1/12. b: 1, 0: mean 1/2, s^2 / 2 = 1/4.
    assert found is not None and found.difference == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(math.sqrt((1 / 12 + 1 / 4) / 4))
    found = of_parts.differences[1]
    # Only the second prompt, 2 of 6 parts, gains a half.
    assert found is not None and found.difference == pytest.approx(1 / 6)


def test_other_instances_are_compared_on_request_only(tmp_path: Path):
    one = written(tmp_path / "one", {"right": BEFORE})
    other = written(tmp_path / "other", {"right": AFTER[4:]}, first=4)
    with pytest.raises(RunError, match=r"10 instances in .*one, 6 in .*other, and 6 are in both"):
        rows_of(one, other)
    (row,) = rows_of(one, other, common=True)
    assert row.scores[0] == estimate(BEFORE[4:])
    assert row.differences[1] is not None and row.differences[1].num_instances == 6
    apart = written(tmp_path / "apart", {"right": AFTER}, first=100)
    with pytest.raises(RunError, match="share no instance of gsm8k"):
        rows_of(one, apart, common=True)


def test_three_columns_are_compared_on_what_all_share(tmp_path: Path):
    one = written(tmp_path / "one", {"right": BEFORE})
    other = written(tmp_path / "other", {"right": AFTER[:8]})
    third = written(tmp_path / "third", {"right": AFTER[4:]}, first=4)
    (row,) = rows_of(one, other, third, common=True)
    assert [score.num_instances for score in row.scores if score] == [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 1 in .*one, and 2 in .*other"),
        (
            {"decoding": {"max_tokens": 32, "temperature": 0.0, "stop": [], "samples": 1}},
            "max_tokens is 64 in .*one, and 32 in .*other",
        ),
        ({"average": "parts"}, "the average of right is instances in .*, and parts in"),
        ({"prompts": "new"}, "do not ask the same of gsm8k:0: prompt_sha is 0 and new0"),
        ({"truths": "new"}, 'do not ask the same of gsm8k:0: truth is "0" and "new0"'),
        ({"profile": "smoke"}, "other is a smoke run, .* no score"),
        ({"benchmark": "math"}, "one has gsm8k, and no other column has any of these"),
        ({"num_instances": 11}, r"other/gsm8k.parquet has 10 instances, .* says 11"),
        ({"samples": 2}, r"has the samples \[0\] of gsm8k:9, and not 0 to 1"),
    ],
)
def test_results_made_in_two_ways_are_refused(tmp_path: Path, change: Any, message: str):
    one = written(tmp_path / "one", {"right": BEFORE})
    other = written(tmp_path / "other", {"right": AFTER}, **change)
    with pytest.raises(RunError, match=message):
        rows_of(one, other)


def test_answers_of_another_run_are_refused(tmp_path: Path):
    one = written(tmp_path / "one", {"right": BEFORE})
    other = written(tmp_path / "other", {"right": AFTER})
    (tmp_path / "one" / "gsm8k.parquet").replace(tmp_path / "other" / "gsm8k.parquet")
    with pytest.raises(RunError, match=r"gives 0.4000 for right, and results.json .* says 0.6000"):
        read_column(other)
    with pytest.raises(RunError, match=r"Cannot read the answers .*one/gsm8k.parquet"):
        read_column(one)


def test_what_is_no_result_is_named(tmp_path: Path):
    with pytest.raises(RunError, match=r"tulu3_published has no .* Did you mean 'tulu3_8b_publ"):
        read_column("tulu3_published")
    path = tmp_path / "results.json"
    path.write_text("{")
    with pytest.raises(RunError, match=r"Cannot read .*results.json"):
        read_column(str(tmp_path))
    path.write_text('{"format": 2}')
    with pytest.raises(RunError, match="has format 2, and this version of Cameleer reads 1"):
        read_column(str(tmp_path))
    with pytest.raises(RunError, match="nothing to be compared with"):
        compare(["tulu31_8b_published"])


def test_a_benchmark_that_the_first_column_lacks_is_left_out(tmp_path: Path):
    one = written(tmp_path / "one", {"right": BEFORE})
    other = written(tmp_path / "other", {"right": AFTER})
    written(tmp_path / "other", {"right": AFTER}, benchmark="math")
    third = written(tmp_path / "third", {"right": AFTER}, benchmark="math")
    (row,) = rows_of(one, other, third)
    assert row.benchmark == "gsm8k" and row.scores[2] is None and row.differences[2] is None


def test_a_part_of_a_benchmark_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ours = written(tmp_path / "ours", {"right": BEFORE}, profile="dev", num_available=1319)
    compare([ours, "tulu31_8b_published"])
    assert "ours, gsm8k: 10 of 1,319 instances" in capsys.readouterr().out
