"""Runs a recipe or a ladder, in this process or in all that torchrun started."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from cameleer.curate.stage import curate_stage, refuse_changed_stage
from cameleer.errors import RunError
from cameleer.files import make_directory, read_json, unwritable, write_json
from cameleer.log import console
from cameleer.recipe import Curate, Ladder, Recipe
from cameleer.recipe_files import to_json
from cameleer.train import checkpoint, ranks
from cameleer.train.console import warn
from cameleer.train.ladder import notices, placed_stages, refuse_other_ladder
from cameleer.train.offline import train_offline
from cameleer.train.online import train_online
from cameleer.train.origins import refuse_other_origins
from cameleer.train.run import Run
from cameleer.train.same_run import refuse_changes

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}
"""What the file system says when nothing more can be written."""


def run(recipe: Recipe | Ladder, *, resume: bool = False) -> list[Path]:
    """Train, and return the directory of each stage.

    Raises a CameleerError for what the user can mend: before training where it can be known.
    """
    with process_group():
        if isinstance(recipe, Recipe):
            return [_run_stage(recipe, resume=resume)]
        return _run_ladder(recipe, resume=resume)


def _run_ladder(ladder: Ladder, *, resume: bool) -> list[Path]:
    placed = placed_stages(ladder)
    for notice in notices(ladder) if ranks.is_main() else ():
        warn(notice)
    root = placed[0].directory.parent
    if not resume and root.exists() and any(root.iterdir()):
        raise RunError(
            f"{root} exists already. Continue it with --resume, start another with --name OTHER, "
            "or delete it."
        )
    if resume:
        if not (root / "recipe.json").exists():
            raise RunError(f"{root} holds no run to resume. Start it without --resume.")
        refuse_other_ladder(ladder, read_json(root / "recipe.json"))
        for stage in placed:
            if (stage.directory / "recipe.json").exists():
                if isinstance(stage, Recipe):
                    refuse_changes(stage)
                else:
                    refuse_changed_stage(stage)
    # No rank may make the directory while another still looks whether there is one.
    ranks.barrier()
    if ranks.is_main():
        if resume:
            write_json(root / "recipe.json", to_json(ladder))
        else:
            make_directory(root, {"recipe.json": to_json(ladder)})
    ranks.barrier()
    for stage in placed:
        if isinstance(stage, Curate):
            curate_stage(stage)
            continue
        begun = resume and (stage.directory / "recipe.json").exists()
        if begun:
            manifest = read_json(stage.directory / "manifest.json")
            refuse_other_origins(stage, manifest["origins"])
        if begun and _is_complete(stage):
            console.print(f"{stage.name} is complete")
            continue
        _run_stage(stage, resume=begun)
    return [stage.directory for stage in placed]


def _run_stage(recipe: Recipe, *, resume: bool) -> Path:
    train = train_online if recipe.rollout else train_offline
    try:
        with Run(recipe, resume=resume) as started:
            train(started)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise unwritable(recipe.directory, error) from error
    return recipe.directory


def _is_complete(recipe: Recipe) -> bool:
    if read_json(recipe.directory / "recipe.json")["num_steps"] != recipe.num_steps:
        return False
    try:
        _, state = checkpoint.latest(recipe.directory / "checkpoints")
    except RunError:
        return False
    return bool(state["step"] == recipe.num_steps)


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that torchrun started, if it did."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()
