"""Places that metrics go to besides metrics.jsonl. Each package is imported only when asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from cameleer.errors import RunError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""What has to be installed for each sink."""


class Sink(Protocol):
    """Takes the metrics of a step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_sink(kind: str, directory: Path, recipe: dict[str, Any], first_step: int = 1) -> Sink:
    """TensorBoard, Weights & Biases or trackio, writing below the run's directory.

    Projects, entities and hosts are those packages' own environment variables. W&B is offline
    unless WANDB_MODE says otherwise.
    """
    name = str(recipe["name"])
    if kind == "tensorboard":
        _require("tensorboard", kind)
        return _TensorBoard(directory, first_step)
    if kind == "wandb":
        return _WandB(_require("wandb", kind), directory, name, recipe)
    assert kind == "trackio", f"no sink is called {kind!r}"
    return _Trackio(directory, name, recipe)


def require_sinks(kinds: Sequence[str]) -> None:
    """Raises RunError for a sink whose package cannot be imported, before anything is written."""
    for kind in kinds:
        if importlib.util.find_spec(PACKAGES[kind]) is None:
            raise RunError(_missing(kind, "is not installed"))


def _missing(kind: str, why: str) -> str:
    return (
        f"output.sinks names '{kind}', and the package {PACKAGES[kind]} {why}. Install it with: "
        f"pip install 'cameleer[{kind}]'"
    )


def _require(package: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        # A package of it, such as gradio_client, may be the one that is missing.
        raise RunError(_missing(kind, f"cannot be imported ({error})")) from error


class _TensorBoard:
    def __init__(self, directory: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a crash had written beyond the checkpoint is not shown twice.
        purge = first_step if first_step > 1 else None
        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=purge)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(
        self, wandb: ModuleType, directory: Path, name: str, recipe: dict[str, Any]
    ) -> None:
        import os

        mode = os.environ.get("WANDB_MODE", "offline")
        # The id is the run's name, so that a resumed run goes on in the same curve.
        self._run = wandb.init(
            dir=str(directory), name=name, id=name, resume="allow", config=recipe, mode=mode
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, directory: Path, name: str, recipe: dict[str, Any]) -> None:
        import os

        # Trackio reads its directory once, on import.
        os.environ.setdefault("TRACKIO_DIR", str(directory.resolve() / "trackio"))
        trackio = _require("trackio", "trackio")
        self._run = trackio.init(project="cameleer", name=name, config=recipe, resume="allow")
        self._finish = trackio.finish

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._finish()
