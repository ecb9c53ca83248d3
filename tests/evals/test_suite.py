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
