"""That a saved model is the one in memory, under names that other programs know."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from cameleer.errors import RunError
from cameleer.models.heads import HEAD, load_like
from cameleer.types import DType


def verify_export(model: nn.Module, directory: Path, dtype: DType) -> None:
    """Load a saved model back and compare every tensor. Raises RunError for the first that differs.

    It takes a second copy of the weights in memory for a moment, on the CPU.
    """
    stored = load_like(model, directory, dtype).state_dict()
    here = model.state_dict()
    for name in sorted(here.keys() | stored.keys()):
        if name not in stored or name not in here:
            problem = "is missing in it" if name not in stored else "is not in the model"
        elif not torch.equal(stored[name], here[name].cpu()):
            problem = "comes back with other numbers"
        else:
            continue
        raise RunError(
            f"The export {directory} does not load back as the model that was saved: {name} "
            f"{problem}. Do not use it. Look at the version of transformers, and at its disk."
        )


def foreign_names(directory: Path, source: str) -> list[str]:
    """Tensors of an export whose names the checkpoint it came from does not have.

    transformers renames some architectures' tensors in memory and may save them so; engines that
    know the published names could not load them. A head of ours is not foreign. Empty where the
    source is no directory.
    """
    known = _names(Path(source))
    return sorted(_names(directory) - known - {HEAD}) if known else []


def _names(directory: Path) -> set[str]:
    found: set[str] = set()
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= set(file.keys())
    return found
