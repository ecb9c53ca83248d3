"""Recipes by name, from files, and from what a run stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import grpo, held_out, sft

from cameleer.errors import RecipeError
from cameleer.recipe import Ladder, Recipe
from cameleer.recipe_files import load, named_recipes, to_json
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.ifeval import IFEval


def stored(path: Path, recipe: Recipe | Ladder | dict[str, Any]) -> str:
    """Writes a recipe.json."""
    value = recipe if isinstance(recipe, dict) else to_json(recipe)
    path.write_text(json.dumps(value))
    return str(path)


def with_verifiers(root: Path) -> Recipe:
    verifiers = {"gsm8k": GSM8K(), "ifeval": IFEval()}
    return grpo(root / "model", root, verifiers=verifiers, heldout=held_out())


def test_what_is_stored_is_what_is_read(tmp_path: Path):
    recipe = with_verifiers(tmp_path)
    assert load(stored(tmp_path / "recipe.json", recipe)) == recipe
    gsm8k = {"gsm8k": GSM8K()}
    stages = (sft(tmp_path, tmp_path, verifiers=gsm8k), recipe)
    ladder = Ladder(name="both", stages=stages, seed=3)
    assert load(stored(tmp_path / "recipe.json", ladder)) == ladder


@pytest.mark.parametrize("name", named_recipes())
def test_the_recipes_that_come_with_cameleer_can_be_stored_and_work(name: str, tmp_path: Path):
    recipe = load(name)
    recipe.validate()
    assert load(stored(tmp_path / "recipe.json", recipe)) == recipe


@pytest.mark.parametrize("name", ["os:system", "antigravity", "./evil.py:Says"])
def test_a_class_from_elsewhere_is_not_imported(tmp_path: Path, name: str):
    value = to_json(with_verifiers(tmp_path))
    value["verifiers"]["gsm8k"] = {"class": name, "command": "touch pwned"}
    with pytest.raises(RecipeError, match=rf"names the class {name}\. A recipe\.json imports"):
        load(stored(tmp_path / "recipe.json", value))


@pytest.mark.parametrize("field", ["model", "data"])
def test_a_function_from_elsewhere_is_not_called(tmp_path: Path, field: str):
    value = to_json(with_verifiers(tmp_path))
    if field == "model":
        value["model"]["source"] = "os:getcwd"
    else:
        value["data"][0]["path"] = "os:getcwd"
    with pytest.raises(RecipeError, match=r"names os:getcwd\."):
        load(stored(tmp_path / "recipe.json", value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "cameleer.recipe:Recipes"}, "names cameleer.recipe:Recipes, which this version"),
        ({"class": "cameleer.nowhere:Recipe"}, "names cameleer.nowhere:Recipe, which this version"),
        ({"num_step": 3}, "Recipe has no field 'num_step'. Did you mean 'num_steps'?"),
        ({"class": "cameleer.recipe:Output"}, "Output has no field"),
    ],
)
def test_what_this_version_does_not_know_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
):
    value = {**to_json(with_verifiers(tmp_path)), **change}
    with pytest.raises(RecipeError) as error:
        load(stored(tmp_path / "recipe.json", value))
    assert message in str(error.value)


def test_a_file_without_a_recipe_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="does not hold a recipe, as runs/NAME"):
        load(stored(tmp_path / "recipe.json", {"a": 1}))
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(RecipeError, match="Cannot read the recipe"):
        load(str(tmp_path / "recipe.json"))
    with pytest.raises(RecipeError, match="Cannot read the recipe"):
        load(str(tmp_path / "none.json"))


def test_an_unknown_name_comes_with_the_nearest():
    with pytest.raises(RecipeError) as error:
        load("tulu31_8")
    assert str(error.value) == (
        "There is no recipe 'tulu31_8'. Did you mean 'tulu31_8b'? `cameleer recipes` lists them; "
        "your own are named file.py:function."
    )


def test_a_file_without_the_function_is_refused(tmp_path: Path):
    (tmp_path / "mine_a.py").write_text("def recipe():\n    return 3\n")
    with pytest.raises(RecipeError, match=r"mine_a.py has no 'recipes'\. Did you mean 'recipe'"):
        load(f"{tmp_path}/mine_a.py:recipes")
    with pytest.raises(RecipeError, match="returned a int; it has to return a Recipe or Ladder"):
        load(f"{tmp_path}/mine_a.py:recipe")
    with pytest.raises(RecipeError, match=r"none.py is not a Python file\."):
        load(f"{tmp_path}/none.py:recipe")
