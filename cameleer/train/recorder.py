"""The run's directory: what is written while it trains, and cut off again when it resumes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cameleer.batch import Batch
from cameleer.files import append_lines, reached, read_lines, write_json
from cameleer.train import rollouts
from cameleer.train.sinks import open_sink
from cameleer.types import Group

_PACKAGES = (
    "cameleer",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "safetensors",
    "math-verify",
)


class Recorder:
    """Writes metrics.jsonl, rollouts, samples and dumps of one run, and feeds its sinks."""

    def __init__(
        self, directory: Path, recipe: dict[str, Any], sinks: Sequence[str], *, first_step: int = 1
    ) -> None:
        """Args: `first_step`: where a resumed run goes on; sinks forget what they have beyond."""
        self.directory = directory
        self.metrics_path = directory / "metrics.jsonl"
        (directory / "rollouts").mkdir(parents=True, exist_ok=True)
        self._sinks = [open_sink(kind, directory, recipe, first_step) for kind in sinks]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line; a step may have several."""
        append_lines(self.metrics_path, [{"step": step, **metrics}])
        reached("metrics/written")
        for sink in self._sinks:
            sink.log(step, metrics)

    def rollouts(self, step: int, groups: Sequence[Group], batch: Batch) -> None:
        """Write the completions of a step to rollouts/step_NNNNNN.parquet."""
        rollouts.write(rollouts.path_of(self.directory, step), step, groups, batch)
        reached("rollouts/written")

    def samples(self, step: int, answers: Sequence[tuple[str, str]]) -> None:
        """Append the fixed questions and today's answers to samples.jsonl."""
        append_lines(
            self.directory / "samples.jsonl",
            [{"step": step, "prompt": question, "answer": answer} for question, answer in answers],
        )
        reached("samples/written")

    def dump(self, step: int, batch: Batch, error: Exception) -> Path:
        """Keep the minibatch that training could not go on from, and why.

        Returns:
            The safetensors file; a JSON file beside it holds the error.
        """
        path = self.directory / "dumps" / f"step_{step:06d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
        save_file({k: v.cpu().contiguous() for k, v in tensors.items() if v is not None}, path)
        why = {"step": step, "error": type(error).__name__, "message": str(error)}
        write_json(path.with_suffix(".json"), why)
        return path

    def written_since(self, step: int) -> list[Path]:
        """Files that hold what happened after a step."""
        later = [
            path
            for path in (self.directory / "rollouts").glob("step_*.parquet")
            if int(path.stem.removeprefix("step_")) > step
        ]
        logs = (self.directory / name for name in ("metrics.jsonl", "samples.jsonl"))
        return [*later, *(path for path in logs if path.exists())]

    def cut(self, step: int) -> None:
        """Forget what was written after a checkpoint's step: those steps will be run again."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.directory / name
            if path.exists():
                kept = [line for line in read_lines(path) if line["step"] <= step]
                partial = path.with_suffix(".partial")
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
                os.replace(partial, path)
        reached("resume/metrics")
        for path in (self.directory / "rollouts").glob("step_*"):
            if path.suffix == ".partial" or int(path.stem.removeprefix("step_")) > step:
                path.unlink()
        reached("resume/rollouts")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl so far."""
        return read_lines(self.metrics_path)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, for the manifest. No secrets and no host names."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "unknown"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": versions,
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "gpus": gpus,
    }


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
