"""Releases that several files' tests stand on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes import tiny_llama
from made_runs import made, made_checkpoint

from cameleer.release.export import release


@pytest.fixture(scope="session")
def released(real_ladder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a real ladder. To be read only."""
    directory, _ = release(real_ladder, output=tmp_path_factory.mktemp("out") / "release")
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two checkpoints, made without training."""
    directory = made(
        tmp_path / "runs" / "run", [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.5}]
    )
    for step in (2, 4):
        made_checkpoint(directory, step, lambda path, seed=step: tiny_llama(path, seed=seed))
    return directory


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "copy"))
