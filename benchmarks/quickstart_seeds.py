"""Held-out accuracy of the quickstart's stages, seed by seed.

python benchmarks/quickstart_seeds.py 1 2 3
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

from cameleer.distributed.launch import run
from cameleer.log import console
from cameleer.recipe import Ladder
from cameleer.recipes import quickstart
from cameleer.report.curve import ladder_table


def main(seeds: list[int]) -> None:
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            directories = run(_placed(quickstart(), seed, directory))
            seconds = time.perf_counter() - began
            console.print(f"seed {seed}: {seconds:.0f} s")
            console.print(ladder_table([d for d in directories if (d / "metrics.jsonl").exists()]))


def _placed(ladder: Ladder, seed: int, directory: str) -> Ladder:
    stages = tuple(
        dataclasses.replace(s, output=dataclasses.replace(s.output, directory=directory))
        for s in ladder.stages
    )
    return dataclasses.replace(ladder, seed=seed, stages=stages)


if __name__ == "__main__":
    assert Path("pyproject.toml").exists(), "run from the repository"
    main([int(argument) for argument in sys.argv[1:]] or [1, 2, 3])
