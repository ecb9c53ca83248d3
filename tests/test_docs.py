"""The pages lead where they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cameleer.evals.base import load
from cameleer.evals.suite import benchmarks

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page: Path):
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{link} is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_that_are_named_exist(page: Path):
    for script in re.findall(r"benchmarks/\w+\.py", page.read_text(encoding="utf-8")):
        assert (ROOT / script).exists(), f"{script} is not there"


def test_the_benchmark_of_the_page_on_evaluation_is_one(tmp_path: Path):
    page = (ROOT / "docs" / "evals.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_task\.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "my_task.py").write_text(code, encoding="utf-8")
    (tmp_path / "my_task.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    (benchmark,) = benchmarks(f"{tmp_path / 'my_task.py'}:BENCHMARK")
    (instance,) = load(benchmark, tmp_path)
    assert benchmark.primary.verifier.score("It is 2.", instance.truth).value == 1
