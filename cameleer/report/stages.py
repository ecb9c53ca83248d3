"""What a run left behind, read for people: whole, unfinished or crashed, of any recipe.

Nothing is decoded into classes, so runs of a user's own recipe file are read too.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cameleer.errors import RunError
from cameleer.files import read_json, read_lines
from cameleer.train import checkpoint

_OF_RUN = re.compile(r"(.+)/checkpoints/step_\d+/model/?")
"""A policy that another run ended with."""


@dataclass(frozen=True)
class Stage:
    """One run's directory. A stage of a ladder that has not begun has none yet."""

    directory: Path
    planned: Mapping[str, Any]
    """The stage as its ladder has it."""

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    @property
    def has_begun(self) -> bool:
        return self.directory.is_dir() and any(self.directory.iterdir())

    @property
    def is_training(self) -> bool:
        """False for a stage that makes data."""
        return "optim" in self.recipe

    @functools.cached_property
    def recipe(self) -> Mapping[str, Any]:
        path = self.directory / "recipe.json"
        return read_json(path) if path.exists() else self.planned

    @functools.cached_property
    def manifest(self) -> Mapping[str, Any]:
        path = self.directory / "manifest.json"
        return read_json(path) if path.exists() else {}

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One record a step, in order, made of all its lines."""
        steps: dict[int, dict[str, Any]] = {}
        for line in read_lines(self.directory / "metrics.jsonl"):
            steps.setdefault(line["step"], {}).update(line)
        return [steps[step] for step in sorted(steps)]

    @functools.cached_property
    def samples(self) -> list[dict[str, Any]]:
        """Answers to the same few questions, as training went on."""
        return read_lines(self.directory / "samples.jsonl")

    @property
    def algorithm(self) -> str:
        """The class's name, such as GRPO; that of the stage where it trains nothing."""
        of = self.recipe.get("algorithm", self.recipe)
        return str(of.get("class", "")).rpartition(":")[2]

    @property
    def num_steps(self) -> int:
        """Steps that the recipe asks for; 0 for a stage that trains nothing."""
        return int(self.recipe.get("num_steps", 0))

    @property
    def last_step(self) -> int:
        """The newest step with metrics; 0 before the first."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def seconds(self) -> float:
        """Of all steps, without evaluation and saving; of a Curate stage, of its answers."""
        if not self.metrics:
            return float(self.manifest.get("time/step", 0.0))
        return float(sum(line.get("time/step", 0.0) for line in self.metrics))

    def results(self, step: int) -> Mapping[str, Any]:
        """The run's benchmarks after a step, by name; none where they were not answered."""
        path = self.directory / "evals" / f"step_{step:06d}" / "results.json"
        if not path.exists():
            return {}
        results = read_json(path)
        # A smoke run shows that all works on a few instances, and is no score.
        return {} if results["profile"] == "smoke" else results["benchmarks"]

    def checkpoints(self) -> list[int]:
        """Steps that were saved, whole or not, the oldest first."""
        return sorted(checkpoint.steps(self.directory / "checkpoints"))


@dataclass(frozen=True)
class Tree:
    """A run, or a ladder with all its stages in their order."""

    directory: Path
    stages: tuple[Stage, ...]
    is_ladder: bool

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    def find(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)


def read_tree(directory: Path) -> Tree:
    """Raises RunError where a directory is neither a run nor a ladder."""
    if not (directory / "recipe.json").is_file():
        raise RunError(
            f"{directory} is neither a run nor a ladder: it has no recipe.json. Name a directory "
            "that `cameleer run` made, such as runs/quickstart or runs/quickstart/grpo."
        )
    recipe = read_json(directory / "recipe.json")
    if not isinstance(recipe, dict) or "name" not in recipe:
        raise RunError(f"{directory / 'recipe.json'} is not what `cameleer run` writes.")
    if "stages" not in recipe:
        return Tree(directory, (Stage(directory, recipe),), is_ladder=False)
    planned = recipe["stages"]
    stages = tuple(Stage(directory / stage["name"], stage) for stage in planned)
    return Tree(directory, stages, is_ladder=True)


def ancestors(stage: Stage) -> list[Stage]:
    """The stage and all that its weights and data came from, the earliest first."""
    found: list[Stage] = []

    def visit(each: Stage) -> None:
        if all(each.directory.resolve() != other.directory.resolve() for other in found):
            for parent in _parents(each):
                visit(parent)
            found.append(each)

    visit(stage)
    return found


def parent_of(stage: Stage, source: str) -> Stage | None:
    """The stage that made a model or data file, where one is known to have."""
    siblings = _siblings(stage)
    if source.startswith("stage:"):
        return siblings.get(source.removeprefix("stage:"))
    made = _OF_RUN.fullmatch(source)
    place = Path(made[1]) if made else Path(source).parent
    # The runs may have been moved together since.
    sibling = siblings.get(place.name)
    if sibling is not None and place.parent.name == stage.directory.resolve().parent.name:
        return sibling
    if made and (place / "recipe.json").is_file() and not _is_another(stage, Path(source)):
        return read_tree(place).stages[0]
    return None


def _is_another(stage: Stage, model: Path) -> bool:
    """True where a run of the same name was made anew since the stage started from its model."""
    state, began_from = model.parent / "state.json", stage.manifest.get("origins")
    if began_from is None or not state.is_file():
        return False
    return read_json(state).get("run") not in began_from.values()


def sources_of(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every model and data set that training reads: the name it goes by, and its record."""
    for role in ("model", "policy", "value_model", "reward_model"):
        if isinstance(recipe.get(role), Mapping):
            yield role, recipe[role]
    for data in recipe.get("data") or ():
        yield "data", data


def _parents(stage: Stage) -> Iterator[Stage]:
    for role, record in sources_of(stage.recipe):
        parent = parent_of(stage, str(record.get("path" if role == "data" else "source") or ""))
        if parent is not None and parent.directory != stage.directory:
            yield parent


def _siblings(stage: Stage) -> dict[str, Stage]:
    """The stages before this one in its ladder, by name."""
    root = stage.directory.resolve().parent
    if not (root / "recipe.json").is_file():
        return {}
    tree = read_tree(root)
    names = [each.name for each in tree.stages]
    if not tree.is_ladder or stage.name not in names:
        return {}
    return {each.name: each for each in tree.stages[: names.index(stage.name)]}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a recipe or manifest with their paths, as a person would write them."""
    if isinstance(value, Mapping):
        kind = str(value.get("class", "")).rpartition(":")[2]
        if kind and path:
            yield path, kind
        for key, item in value.items():
            if key != "class":
                yield from flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from flat(item, f"{path}.{number}")
    else:
        yield path, value if isinstance(value, str) and value else json.dumps(value)
