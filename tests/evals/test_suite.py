"""Names and files become benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cameleer.errors import RecipeError
from cameleer.evals.suite import SUITE, benchmarks

OWN = """
import dataclasses
from cameleer.evals.gsm8k import BENCHMARK as GSM8K
SHORT = dataclasses.replace(GSM8K, name="short", max_tokens=64)
SHORTER = dataclasses.replace(GSM8K, name="shorter", max_tokens=32)
SAME = dataclasses.replace(GSM8K, max_tokens=32)
nothing = 3
"""


AVERAGES = {
    "gsm8k": {"exact_match": "instances", "correct": "instances"},
    "math": dict.fromkeys(("flex", "strict", "math_verify", "correct"), "subjects"),
    "math500": dict.fromkeys(("flex", "strict", "math_verify", "correct"), "instances"),
    "ifeval": {
        "prompt_level_loose_acc": "instances",
        "inst_level_loose_acc": "parts",
        "prompt_level_strict_acc": "instances",
        "inst_level_strict_acc": "parts",
    },
}


@pytest.mark.parametrize("name", AVERAGES)
def test_columns_are_averaged_as_published_and_the_published_one_is_first(name: str):
    found = {metric.name: metric.average for metric in SUITE[name].metrics}
    assert list(found.items()) == list(AVERAGES[name].items())
    assert {m.name for m in SUITE[name].metrics if m.whole} == {
        metric for metric in found if metric.startswith("prompt_level")
    }


@pytest.mark.parametrize("name", SUITE)
def test_answers_are_decoded_as_for_tulu31(name: str):
    decoding = (SUITE[name].max_tokens, SUITE[name].temperature, SUITE[name].samples)
    assert decoding == (4096, 0.0, 1)
    stop = ("Question:", "</s>", "<|im_end|>") if name == "gsm8k" else ()
    assert SUITE[name].stop == stop


def test_questions_are_those_of_the_hubs_test_splits_in_the_order_of_the_files():
    places = {
        name: [(source.path, source.subset, source.split) for source in SUITE[name].sources]
        for name in SUITE
    }
    assert places["gsm8k"] == [("openai/gsm8k", "main", "test")]
    assert places["math500"] == [("HuggingFaceH4/MATH-500", None, "test")]
    assert places["ifeval"] == [("google/IFEval", None, "train")]
    subsets = [subset for _, subset, _ in places["math"]]
    assert len(subsets) == 7 and subsets == sorted(map(str, subsets))
    assert {(path, split) for path, _, split in places["math"]} == {
        ("EleutherAI/hendrycks_math", "test")
    }


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("gsm8k", "2,000 - 5 = 1,995. So the answer is -1,995.", "1995"),
        ("gsm8k", "none", "none"),
        ("math", r"\boxed{6} Final Answer: The final answer is $5$. I hope it is", "6"),
        ("math", r"\boxed{6} Final Answer: The final answer is 5. I hope it is correct.", "5 or 6"),
        ("math500", r"\boxed{5} Final Answer: The final answer is 5. I hope it is correct.", "5"),
        ("ifeval", " as\nit is ", " as\nit is "),
    ],
)
def test_people_are_shown_the_answer_that_the_first_column_judges(name: str, text: str, shown: str):
    assert SUITE[name].extract(text) == shown


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    file = tmp_path / "my_tasks.py"
    file.write_text(OWN, encoding="utf-8")
    return file


def test_names_become_benchmarks_in_their_order():
    assert [each.name for each in benchmarks("ifeval, gsm8k,")] == ["ifeval", "gsm8k"]
    assert list(SUITE) == ["gsm8k", "math", "math500", "ifeval"]
    assert all(SUITE[name].name == name for name in SUITE)


def test_a_file_of_ones_own_is_read_once(own: Path):
    short, gsm8k, shorter = benchmarks(f"{own}:SHORT,gsm8k,{own}:SHORTER")
    assert (short.max_tokens, gsm8k.max_tokens, shorter.max_tokens) == (64, 4096, 32)
    assert benchmarks(f"{own}:SHORT")[0] is short


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (
            "gsm8",
            r"no benchmark 'gsm8'\. Did you mean 'gsm8k'\? There are gsm8k, math, math500, if",
        ),
        ("mmlu", r"no benchmark 'mmlu'.*your own are named file\.py:NAME"),
        (" ,", "No benchmark is named"),
        ("gsm8k,math,gsm8k", "two benchmarks named 'gsm8k'"),
        ("absent.py:TASK", r"absent\.py is not a Python file"),
        ("absent.py", r"absent\.py names no benchmark: write file\.py:NAME"),
        ("absent.py:", r"absent\.py: names no benchmark"),
    ],
)
def test_what_names_no_benchmark_is_refused(names: str, complaint: str):
    with pytest.raises(RecipeError, match=complaint):
        benchmarks(names)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "SHOT",
            r"no Benchmark named 'SHOT'\. Did you mean 'SHORT'\? It has GSM8K, SHORT, SHORTER",
        ),
        ("nothing", "no Benchmark named 'nothing'"),
    ],
)
def test_a_file_without_that_benchmark_is_refused(own: Path, name: str, complaint: str):
    with pytest.raises(RecipeError, match=complaint):
        benchmarks(f"{own}:{name}")


def test_one_name_for_two_benchmarks_is_refused(own: Path):
    with pytest.raises(RecipeError, match="two benchmarks named 'gsm8k', whose results would be"):
        benchmarks(f"gsm8k,{own}:SAME")


def test_a_file_named_like_a_module_does_not_replace_it(own: Path):
    file = own.with_name("json.py")
    file.write_text(OWN, encoding="utf-8")
    with pytest.raises(
        RecipeError, match=r"json\.py has the name of a module that is in use, json"
    ):
        benchmarks(f"{file}:SHORT")
    assert "loads" in vars(sys.modules["json"])


def test_the_list_of_benchmarks_needs_no_torch_and_no_sympy():
    code = (
        "import sys; from cameleer.evals.suite import SUITE; "
        "print(sorted({'torch', 'sympy', 'math_verify', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
