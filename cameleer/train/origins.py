"""What a stage was made from, so that a ladder does not go on with stages of two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cameleer.data.sources import local_file, sha256_of
from cameleer.errors import RunError
from cameleer.files import read_json
from cameleer.recipe import Curate, Recipe


def origins(stage: Recipe | Curate) -> dict[str, str]:
    """The run of each model that a run has made, and the sha256 of each local file of data."""
    models = {
        "model": stage.model,
        "reward model": stage.reward_model,
        "value model": stage.value_model if isinstance(stage, Recipe) else None,
    }
    found: dict[str, str] = {}
    for what, model in models.items():
        state = Path(model.source).parent / "state.json" if model else None
        if state is not None and state.is_file():
            found[what] = read_json(state)["run"]
    for source in stage.data:
        path = local_file(source)
        if path is not None and path.is_file():
            found[source.path] = sha256_of(path)
    return found


def refuse_other_origins(stage: Recipe | Curate, then: Mapping[str, str]) -> None:
    """Raises RunError where a stage that has begun would now be made from something else."""
    for what, now in origins(stage).items():
        if now != then.get(what):
            raise RunError(
                f"{stage.directory} was made from another {what} than is there now: its results "
                "are not of this ladder. Delete it and resume, or start another ladder with "
                "--name OTHER."
            )
