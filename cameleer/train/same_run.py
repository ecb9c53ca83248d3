"""Whether a run that is to go on is the one that was started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cameleer.data.chat import reads_the_clock
from cameleer.errors import RunError
from cameleer.files import read_json
from cameleer.log import console
from cameleer.recipe import Recipe
from cameleer.recipe_files import to_json
from cameleer.train import checkpoint, ranks
from cameleer.train.inputs import Inputs, fingerprint, other_models
from cameleer.train.recorder import environment

MAY_CHANGE = {"num_steps", "output", "heldout", "evals"}
"""Fields of a recipe that a resumed run may have otherwise than when it started."""


def refuse_changes(recipe: Recipe, directory: Path | None = None) -> None:
    """Raises RunError where a run is not there, or was started with another recipe.

    Args:
        directory: Where the run is, unless it is where the recipe would put it.
    """
    directory, asked = directory or recipe.directory, to_json(recipe)
    if not (directory / "recipe.json").exists():
        raise RunError(f"{directory} holds no run to resume. Start it without --resume.")
    stored = read_json(directory / "recipe.json")
    if stored["num_steps"] != asked["num_steps"] and recipe.optim.schedule != "constant":
        raise RunError(
            f"{directory} was started with num_steps={stored['num_steps']}, over which its "
            f"learning rate falls ({recipe.optim.schedule}), and is to go on to "
            f"{asked['num_steps']}: it would have fallen otherwise so far. Set it back, or start "
            "another run from its last checkpoint's model/."
        )
    done = max(checkpoint.steps(directory / "checkpoints"), default=0)
    if done > asked["num_steps"]:
        raise RunError(
            f"{directory} has done {done} steps, and num_steps is {asked['num_steps']} now: nobody "
            f"can take steps back. Set it to {done} or more."
        )
    for name in asked:
        if name not in MAY_CHANGE and stored.get(name) != asked[name]:
            difference = _first_difference(stored.get(name), asked[name], name)
            raise RunError(
                f"{directory} was started with {difference}. A resumed run has to be the same "
                "run: set it back, or start another with --name OTHER."
            )


def refuse_other_start(
    recipe: Recipe,
    inputs: Inputs,
    weights: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> None:
    """Raises RunError where weights, data or ranks are not those that a run started with.

    Args:
        inputs: What the run would read now.
        weights: Hashes of all models that the run would begin with now.
    """
    for what, now in weights.items():
        then = manifest["weights"].get(what)
        if now != then:
            start = other_models(recipe).get(what, recipe.model.source)
            raise RunError(
                f"{start} is not the {what} that "
                f"this run started from: its weights hash to {str(now)[:12]}, and did to "
                f"{str(then)[:12]}. Put the old weights back; another start is another run."
            )
    for source, then in zip(recipe.data, manifest["data"], strict=True):
        now = fingerprint(source)
        if now != {name: then.get(name) for name in now}:
            raise RunError(
                f"{source.path} is not the file that this run started from: its sha256 is "
                f"{now.get('sha256', 'none')[:12]}, and was {then.get('sha256', 'none')[:12]}. "
                "Put the old rows back; other data is another run."
            )
    for source, tally, then in zip(recipe.data, inputs.tallies, manifest["data"], strict=True):
        # Without a network the hub's client may not know it, which is no difference.
        if tally.commit and then.get("commit") and tally.commit != then["commit"]:
            raise RunError(
                f"{source.path} is at commit {tally.commit[:12]} on the hub, and was at "
                f"{then['commit'][:12]} when this run started: other data is another run. Set "
                "revision of the source to start one of the same data."
            )
        is_other = tally.prepared != then.get("prepared", tally.prepared)
        # On another day they are others, which the run has told when it started.
        if is_other and not reads_the_clock(inputs.tokenizer):
            raise RunError(
                f"The rows of {source.path} give other tokens than when this run started: "
                "what a function yields, the tokenizer or its chat template has changed. Put "
                "it back; other data is another run."
            )
    if ranks.world_size() != manifest["world_size"]:
        raise RunError(
            f"This run was started on {manifest['world_size']} processes, and is to go on with "
            f"{ranks.world_size()}, which add gradients up in another order. Give torchrun "
            f"--nproc-per-node {manifest['world_size']}."
        )


def tell_other_versions(manifest: Mapping[str, Any]) -> None:
    """Rounding may differ with the library or the machine: the run goes on, but is told apart."""
    now = environment()
    for what in ("torch", "transformers"):
        then, here = manifest["packages"].get(what), now["packages"].get(what)
        if then != here:
            console.print(
                f"[yellow]{what} is {here}, and was {then} when the run started: from here on it "
                "is not the same run to the bit[/]"
            )
    for what in ("machine", "gpus"):
        if manifest.get(what) != now[what]:
            console.print(
                f"[yellow]The run started on other hardware ({what}: {manifest.get(what)}, and now "
                f"{now[what]}): from here on it is not the same run to the bit[/]"
            )


def _first_difference(stored: Any, asked: Any, path: str) -> str:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            if stored.get(key) != asked.get(key):
                return _first_difference(stored.get(key), asked.get(key), f"{path}.{key}")
    if isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        for place, (one, other) in enumerate(zip(stored, asked, strict=True)):
            if one != other:
                return _first_difference(one, other, f"{path}.{place}")
    return f"{path}={stored!r}, and is to go on with {asked!r}"
