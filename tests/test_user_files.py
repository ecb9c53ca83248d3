"""A user's own file means the same wherever it is named."""

from __future__ import annotations

import functools
import json
import operator
import pickle
import re
import sys
from pathlib import Path

import pytest
from fakes import grpo, held_out, read_rows

from cameleer.data.sources import Source
from cameleer.errors import CameleerError, DataError, RecipeError
from cameleer.evals.suite import benchmarks
from cameleer.recipe import Eval, Ladder, Model, RewardTerm
from cameleer.recipe_files import load, to_json
from cameleer.train.inputs import resolve
from cameleer.user_files import call, find, import_file
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.isolate import VerifierPool

VERIFIER = """
from dataclasses import dataclass
from beside_me import LIMIT
from cameleer.types import Score

@dataclass(frozen=True)
class Short:
    def score(self, text, truth):
        return Score(float(len(text) < LIMIT))

    def validate(self, truth):
        return None
"""


pytestmark = pytest.mark.usefixtures("own_directory")


def written(text: str, name: str = "mine.py") -> Path:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_imported_once_however_its_path_is_written(tmp_path: Path):
    written("import random\nNUMBER = random.random()\n")
    found = import_file(Path("mine.py"))
    assert import_file(tmp_path / "mine.py") is found
    assert import_file(Path("../") / tmp_path.name / "mine.py") is found
    assert find("mine:NUMBER") == find("mine.py:NUMBER") == found.NUMBER
    import_file(written("", "beside.py"))
    assert sys.path.count(str(tmp_path)) == 1


def test_worker_processes_find_the_classes_of_a_file_and_what_lies_beside_it():
    written(VERIFIER, "below/mine.py")
    written("LIMIT = 3\n", "below/beside_me.py")
    verifier = find("below/mine.py:Short")()
    assert pickle.loads(pickle.dumps(verifier)) == verifier
    with VerifierPool({"short": verifier}, num_workers=1) as pool:
        scores = pool.score_all([("short", "ab", ""), ("short", "abc", "")])
    assert [(s.value, s.status) for s in scores] == [(1.0, "scored"), (0.0, "scored")]


READERS = {
    "recipe": load,
    "benchmark": benchmarks,
    "model": resolve,
    "data": lambda reference: read_rows(Source(path=reference)),
}
"""Everywhere that a file may be named."""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A = 1\ndef mine(*_:\n", r"mine\.py:2: '\(' was never closed\."),
        ("import beside\n", r"beside\.py:1: ModuleNotFoundError: No module named 'absent'\."),
        ("A = 1\nB = C\n", r"mine\.py:2: NameError: name 'C' is not defined\."),
        ("from fakes import Says\n\nSays('a').score()", r"mine\.py:3: TypeError: .*score\(\)"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_line(
    reader: str, text: str, said: str, tmp_path: Path
):
    written(text)
    written("import absent\n", "beside.py")
    with pytest.raises(CameleerError, match=re.escape(f"{tmp_path}/") + said):
        READERS[reader]("mine.py:mine")
    assert "mine" not in sys.modules, "half a module must not be found by the next import"


@pytest.mark.parametrize("reader", ["recipe", "model", "data"])
def test_a_mistake_in_the_function_is_told_with_its_line(reader: str, tmp_path: Path):
    written("def mine(*_):\n    return {}['a']\n")
    with pytest.raises(CameleerError, match=r"mine\.py:2: KeyError: 'a'\."):
        READERS[reader]("mine.py:mine")


def test_the_errors_of_an_installed_function_rise_as_they_are():
    with pytest.raises(json.JSONDecodeError):
        call("json:loads", "{")


def test_a_row_that_cannot_be_made_is_told_with_its_line():
    written("def rows(split):\n    yield {'messages': []}\n    yield {'messages': split / 2}\n")
    with pytest.raises(DataError, match=r"mine\.py:3: TypeError: unsupported operand"):
        read_rows(Source(path="mine.py:rows", format="chat"))


def test_rows_come_from_a_file_with_their_places():
    written("def rows(split):\n    yield {'messages': [split]}\n")
    (row,) = read_rows(Source(path="mine.py:rows", format="chat", split="test"))
    assert (row.fields, row.origin) == ({"messages": ["test"]}, "mine.py:rows:1")


def test_a_model_comes_from_a_function_of_a_file():
    written("def mine():\n    return 'some/directory'\n")
    assert resolve("mine.py:mine") == "some/directory"


def test_a_name_that_is_not_there_comes_with_the_nearest():
    written("def rows(split):\n    yield {}\n")
    with pytest.raises(DataError, match=r"mine\.py has no 'row'\. Did you mean 'rows'\? It has to"):
        read_rows(Source(path="mine.py:row"))


@pytest.mark.parametrize("reference", ["absent.py:rows", "below:rows", "os.py.path:rows", ":rows"])
def test_what_cannot_be_imported_is_refused(reference: str):
    with pytest.raises(RecipeError):
        find(reference)


def test_a_file_that_is_named_like_a_module_is_refused():
    written("A = 1\n", "json.py")
    written("A = 1\n", "below/mine.py")
    written("A = 2\n")
    assert find("mine.py:A") == 2
    for reference in ("json.py:A", "below/mine.py:A"):
        with pytest.raises(RecipeError, match="has the name of a module that is in use"):
            find(reference)


NAMING = (
    "evals.benchmarks.0",
    "stages.0.rollout.engine",
    "stages.0.evals.benchmarks.0",
    "stages.0.data.0.path",
    "stages.0.heldout.sources.0.path",
    "stages.0.model.source",
    "stages.0.value_model.source",
    "stages.0.reward_model.source",
)
"""The fields of a ladder that may name code."""


@pytest.mark.parametrize("field", NAMING)
@pytest.mark.parametrize("reference", ["cameleer.evil.py:NAME", "os:getcwd", "stage:os:getcwd"])
def test_a_recipe_json_imports_from_cameleer_only(field: str, reference: str, tmp_path: Path):
    written("raise SystemExit('imported')\n", "cameleer.evil.py")
    stage = grpo(
        tmp_path,
        tmp_path,
        heldout=held_out(),
        verifiers={"gsm8k": GSM8K()},
        evals=Eval(),
        value_model=Model(source="stage:rm"),
        reward_model=RewardTerm(source="stage:rm"),
    )
    value = json.loads(json.dumps(to_json(Ladder(name="a", stages=(stage,), evals=Eval()))))
    Path("recipe.json").write_text(json.dumps(value))
    assert isinstance(load("recipe.json"), Ladder)
    *before, last = (int(name) if name.isdigit() else name for name in field.split("."))
    functools.reduce(operator.getitem, before, value)[last] = reference
    Path("recipe.json").write_text(json.dumps(value))
    with pytest.raises(RecipeError, match=r"names \S+\. A recipe\.json imports from cameleer only"):
        load("recipe.json")
