"""`cameleer release`: a checkpoint as a Hugging Face directory, verified, and pushed if asked."""

from __future__ import annotations

import argparse
from pathlib import Path

from cameleer.errors import RunError
from cameleer.log import console


def add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "words",
        nargs="+",
        metavar="[verify] DIR",
        help="a run or ladder to release; or `verify` and a release to hold against its checkpoint",
    )
    add("--stage", help="which of a ladder's; the last one otherwise")
    add("--step", type=int, help="which checkpoint; the newest otherwise")
    add("--output", type=Path, help="where to; DIR/release, or DIR/STAGE/release with --stage")
    add("--push", metavar="REPO", help="upload it to the hub as owner/name (private where new)")
    add("--revision", default="", help="the branch to push to, made where it is not there")
    add("--against", type=Path, metavar="RUN", help="verify: the run it came from")


def run(known: argparse.Namespace) -> int:
    """Returns the exit status. Raises RunError for what the user can mend."""
    if known.words[0] == "verify" and len(known.words) == 2:
        if used := [name for name in ("stage", "step", "output", "push") if getattr(known, name)]:
            raise RunError(f"release verify does not take --{used[0]}.")
        return _verify(Path(known.words[1]), known.against)
    if len(known.words) > 1 or known.against:
        raise RunError("release takes one directory; --against belongs to `release verify DIR`.")
    if known.revision and not known.push:
        raise RunError("--revision names a branch on the hub: give --push OWNER/NAME with it.")
    from cameleer.release.export import release
    from cameleer.release.hub import push, require_token

    # Before minutes of work, not after.
    token = require_token() if known.push else ""
    directory, verified = release(
        Path(known.words[0]), stage=known.stage, step=known.step, output=known.output
    )
    console.print(f"verified: {verified}", markup=False)
    console.print(f"release: {directory}", markup=False)
    if known.push:
        url = push(directory, known.push, token=token, revision=known.revision)
        console.print(f"pushed: {url}", markup=False)
    return 0


def _verify(directory: Path, against: Path | None) -> int:
    from cameleer.release.origin import origin
    from cameleer.release.record import verify_files
    from cameleer.release.verify import verify_checkpoint

    model, stage = origin(directory, against)
    files = verify_files(directory)
    for note in files.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"verified: {len(files.same)} files are as they were released", markup=False)
    console.print(f"verified: {verify_checkpoint(directory, model, stage)}", markup=False)
    return 0
