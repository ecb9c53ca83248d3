"""Where the stages of a ladder are written, and what they start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cameleer.data.sources import Source
from cameleer.errors import RunError
from cameleer.recipe import Curate, Ladder, Model, Recipe, RewardTerm, stage_references
from cameleer.recipe_files import to_json

M = TypeVar("M", Model, RewardTerm)
_STAGE = "stage:"


def placed_stages(ladder: Ladder) -> list[Recipe | Curate]:
    """The stages as they run: below the ladder's directory, with paths for ``stage:NAME``."""
    placed: dict[str, Recipe | Curate] = {}
    evals = ladder.evals
    for stage in ladder.stages:
        root = str(Path(stage.output.directory) / ladder.name)
        stage = replace(
            stage,
            output=replace(stage.output, directory=root),
            seed=stage.seed if ladder.seed is None else ladder.seed,
            model=_model(stage.model, placed),
            data=tuple(_data(source, placed) for source in stage.data),
        )
        if stage.reward_model:
            stage = replace(stage, reward_model=_model(stage.reward_model, placed))
        if isinstance(stage, Recipe):
            if stage.heldout:
                sources = tuple(_data(source, placed) for source in stage.heldout.sources)
                stage = replace(stage, heldout=replace(stage.heldout, sources=sources))
            if stage.value_model:
                stage = replace(stage, value_model=_model(stage.value_model, placed))
            if evals and stage.evals is None and stage.algorithm.trains == "policy":
                stage = replace(stage, evals=evals)
                evals = replace(evals, at_start=False)
        placed[stage.name] = stage
    return list(placed.values())


def from_the_start(ladder: Ladder) -> list[Recipe | Curate]:
    """The stages with models that are there before any has run: those that the first began with.

    Tokenizer and context are handed on, so that what can be known of a later stage can be known.
    """
    first: dict[str, str] = {}
    found: list[Recipe | Curate] = []

    def started(model: M) -> M:
        name = model.source.removeprefix(_STAGE)
        return replace(model, source=first[name]) if name != model.source else model

    for stage in ladder.stages:
        seed = stage.seed if ladder.seed is None else ladder.seed
        stage = replace(stage, model=started(stage.model), seed=seed)
        if stage.reward_model:
            stage = replace(stage, reward_model=started(stage.reward_model))
        if isinstance(stage, Recipe) and stage.value_model:
            stage = replace(stage, value_model=started(stage.value_model))
        first[stage.name] = stage.model.source
        found.append(stage)
    return found


def notices(ladder: Ladder) -> Iterator[str]:
    """Stages that climb from nothing, which is rarely meant."""
    trained = ""
    for stage in ladder.stages:
        if trained and not stage_references(stage):
            yield (
                f"Stage {stage.name} starts from {stage.model.source}, not from what an earlier "
                f'stage ended with. If it should, write Model(source="stage:{trained}").'
            )
        trained = stage.name if isinstance(stage, Recipe) else trained


def refuse_other_ladder(ladder: Ladder, stored: Mapping[str, Any]) -> None:
    """Raises RunError where a ladder cannot go on as another, of which it says that it was.

    Args:
        stored: The recipe.json that it was started with.
    """
    then = {stage["name"]: stage for stage in stored.get("stages", ())}
    now = {stage["name"]: stage for stage in to_json(ladder)["stages"]}
    placed = placed_stages(ladder)
    root = placed[0].directory.parent
    if gone := [name for name in then if name not in now and (root / name).exists()]:
        raise RunError(
            f"{ladder.name} was started with the stages {', '.join(then)}, and is to go on without "
            f"{', '.join(gone)}. Put them back, or start another ladder with --name OTHER."
        )
    begun = {stage.name for stage in placed if (stage.directory / "recipe.json").exists()}
    other: dict[str, str] = {}
    """Stages to be made anew by another recipe, and all that come of them, by the first."""
    for stage in ladder.stages:
        parents = {ref.removeprefix("stage:").partition("/")[0] for ref in stage_references(stage)}
        cause = next((other[name] for name in sorted(parents & set(other))), None)
        is_changed = stage.name in then and _differ(then[stage.name], now[stage.name])
        if cause or (is_changed and stage.name not in begun):
            other[stage.name] = cause or stage.name
    for first in dict.fromkeys(other.values()):
        if old := [name for name, cause in other.items() if cause == first and name in begun]:
            raise RunError(
                f"Stage {first} would be made anew by another recipe than before, and of the old "
                f"one came {', '.join(old)}. Set its fields back, delete their directories too, or "
                "start another ladder with --name OTHER."
            )


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """But for what changes nothing of what a stage ends with."""
    without = {"output", "heldout", "evals"}
    return any(one.get(name) != other[name] for name in other if name not in without)


def _model(model: M, placed: dict[str, Recipe | Curate]) -> M:
    if not model.source.startswith(_STAGE):
        return model
    before = placed[model.source.removeprefix(_STAGE)]
    assert isinstance(before, Recipe), "the ladder was validated"
    policy = before.directory / "checkpoints" / f"step_{before.num_steps}" / "model"
    return replace(model, source=str(policy))


def _data(source: Source, placed: dict[str, Recipe | Curate]) -> Source:
    if not source.path.startswith(_STAGE):
        return source
    name, _, file = source.path.removeprefix(_STAGE).partition("/")
    return replace(source, path=str(placed[name].directory / f"{file or 'pairs'}.jsonl"))
