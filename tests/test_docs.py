"""The pages lead where they say."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import small_benchmark
from fakes import Explodes, grpo, ppo, tiny_llama

from cameleer.distributed.launch import run
from cameleer.errors import TrainingError
from cameleer.recipe import Eval, Output, Rollout
from cameleer.report.curve import draw_curve
from cameleer.report.html import write_report

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


def test_the_example_of_how_it_works_is_worked_rightly():
    found = doctest.testfile(str(ROOT / "docs" / "how-it-works.md"), module_relative=False)
    assert found.failed == 0 and found.attempted > 30


def test_how_it_works_names_all_that_a_run_leaves(tmp_path: Path):
    recipe = grpo(
        tiny_llama(tmp_path / "model"),
        tmp_path,
        algorithm=Explodes(),
        num_minibatches=1,
        rollout=Rollout(num_prompts=2, group_size=2, max_tokens=4, max_staleness=1),
        evals=Eval(benchmarks=(f"{small_benchmark.__file__}:BENCHMARK",), profile="smoke"),
        output=Output(directory=str(tmp_path), save_every=1, sample_every=1),
    )
    Explodes.fuse["left"] = 2
    with pytest.raises(TrainingError):
        run(recipe)
    draw_curve(recipe.directory)
    write_report(recipe.directory)
    left = {path.name for path in recipe.directory.iterdir()}
    (with_value,) = run(ppo(tmp_path / "model", tmp_path, num_steps=1, heldout=None))
    for checkpoint in (recipe.directory / "checkpoints/step_2", with_value / "checkpoints/step_1"):
        left |= {path.name for path in checkpoint.iterdir()}
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    tree = page.partition("```\nruns/NAME/")[2].partition("```")[0]
    named = {line.split()[0].split("/")[0] for line in tree.splitlines() if line.strip()}
    assert left - {".lock"} == named
