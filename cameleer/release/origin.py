"""Where a release came from, found again."""

from __future__ import annotations

from pathlib import Path

from cameleer.errors import RunError
from cameleer.release.record import read_record
from cameleer.report.stages import Stage, read_tree


def origin(directory: Path, against: Path | None) -> tuple[Path, Stage | None]:
    """The checkpoint's model that a release is a copy of, and its run.

    Args:
        against: The run or ladder. None: the one that the release lies in; if that is not there,
            the release itself, which then is held against its own weights in Cameleer's engine.

    Raises:
        RunError: The directory is no release, or the run is not the one it came from.
    """
    record = read_record(directory)
    place = Path("checkpoints") / f"step_{record.step}" / "model"
    root = against or directory.resolve().parent
    stages = read_tree(root).stages if (root / "recipe.json").is_file() else ()
    for stage in stages:
        is_it = stage.manifest.get("run", "") == record.run and stage.name == record.stage
        if is_it and (stage.directory / place).is_dir():
            return stage.directory / place, stage
    if against:
        raise RunError(
            f"{against} is not where {directory} came from, or its checkpoint of step "
            f"{record.step} is gone: that was run {record.run}, stage {record.stage}."
        )
    return directory, None
