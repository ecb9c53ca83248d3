"""Recipes by their names, from Python files, and as JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cameleer.data.sources import Source
from cameleer.errors import RecipeError, nearest
from cameleer.recipe import Curate, Eval, Ladder, Model, Recipe, RewardTerm, Rollout
from cameleer.recipe_types import type_problems
from cameleer.user_files import call, is_in_a_file


def load(reference: str) -> Recipe | Ladder:
    """A recipe by its name, ``file.py:function``, or the path of a recipe.json."""
    recipe: Any
    if reference.endswith(".json"):
        recipe = _from_json(Path(reference))
    elif is_in_a_file(reference):
        recipe = call(reference)
    else:
        found = named_recipes()
        if reference not in found:
            raise RecipeError(
                f"There is no recipe '{reference}'.{nearest(reference, found)} `cameleer recipes` "
                "lists them; your own are named file.py:function."
            )
        recipe = found[reference]()
    if not isinstance(recipe, Recipe | Ladder):
        raise RecipeError(
            f"{reference} returned a {type(recipe).__name__}; it has to return a Recipe or Ladder."
        )
    for problem in type_problems(recipe, unset=True):
        raise RecipeError(f"{reference}: {problem}")
    return recipe


def named_recipes() -> dict[str, Callable[[], Recipe | Ladder]]:
    """The recipes that come with Cameleer: the public functions of `cameleer.recipes`."""
    module = importlib.import_module("cameleer.recipes")
    return {name: getattr(module, name) for name in module.__all__}


def to_json(recipe: Recipe | Curate | Ladder) -> dict[str, Any]:
    """The resolved recipe, as stored in recipe.json and read back by `load`."""
    encoded: dict[str, Any] = _encode(recipe)
    return encoded


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kind = type(value)
        origin = sys.modules[kind.__module__]
        where = kind.__module__
        if not where.startswith("cameleer."):
            where = getattr(origin, "__file__", None) or where
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": f"{where}:{kind.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    return value


def _from_json(path: Path) -> Recipe | Ladder:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RecipeError(f"Cannot read the recipe {path}: {error}") from error
    recipe = _decode(stored, path)
    if not isinstance(recipe, Recipe | Ladder):
        raise RecipeError(f"{path} does not hold a recipe, as runs/NAME/recipe.json does.")
    for reference in filter(_is_foreign, _code_named_in(recipe)):
        raise RecipeError(
            f"{path} names {reference}. A recipe.json imports from cameleer only, as it may come "
            "from anywhere; run the Python file that made it instead."
        )
    return recipe


_NAMES_CODE = {
    Source: "path",
    Model: "source",
    RewardTerm: "source",
    Rollout: "engine",
    Eval: "benchmarks",
}
"""Fields that may hold ``module:NAME`` or ``file.py:NAME``, besides ``stage:NAME`` in the first
three."""


def _code_named_in(value: Any) -> Iterator[str]:
    below: Iterable[Any] = ()
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        found = getattr(value, _NAMES_CODE[kind]) if kind in _NAMES_CODE else ()
        for reference in (found,) if isinstance(found, str) else found:
            yield reference if kind in (Rollout, Eval) else reference.removeprefix("stage:")
        below = [getattr(value, each.name) for each in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        below = value.values()
    elif isinstance(value, tuple):
        below = value
    for each in below:
        yield from _code_named_in(each)


def _is_foreign(reference: str) -> bool:
    """True where it names code that did not come with cameleer."""
    if ":" not in reference:
        return False
    return is_in_a_file(reference) or not reference.startswith("cameleer.")


def _decode(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, path) for item in value)
    if not isinstance(value, dict):
        return value
    items = {key: _decode(item, path) for key, item in value.items() if key != "class"}
    if "class" not in value:
        return items
    module, _, name = str(value["class"]).partition(":")
    if not module.startswith("cameleer."):
        raise RecipeError(
            f"{path} names the class {value['class']}. A recipe.json imports from cameleer only, "
            "as it may come from anywhere; run the Python file that made it instead."
        )
    try:
        kind: Any = getattr(importlib.import_module(module), name, None)
    except ImportError:
        kind = None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise RecipeError(f"{path} names {value['class']}, which this version does not have.")
    known = {f.name for f in dataclasses.fields(kind)}
    for key in items:
        if key not in known:
            raise RecipeError(f"{path}: {name} has no field '{key}'.{nearest(key, known)}")
    try:
        return kind(**items)
    except TypeError as error:
        raise RecipeError(f"{path}: {name} cannot be made: {error}") from error
