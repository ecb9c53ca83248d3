"""Directories as runs leave them, made in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fakes import grpo, sft
from safetensors.torch import load_file, save_file

from cameleer.files import checksums
from cameleer.recipe import Recipe
from cameleer.recipe_files import to_json
from cameleer.train.rollouts import SCHEMA

MANIFEST: dict[str, Any] = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "python": "3.11.7",
    "packages": {"cameleer": "0.1.0", "torch": "2.13.0"},
    "machine": "x86_64",
    "cpu_count": 2,
    "gpus": [],
    "seed": 1,
    "world_size": 1,
    "run": "feedbeef",
    "data": [],
    "prompts": 64,
    "examples": 0,
}


def made(
    directory: Path,
    metrics: Iterable[Mapping[str, Any]] = (),
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    rollouts: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    samples: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """A run's directory; `rollouts` are rows by step, filled up by `sampled`."""
    directory.mkdir(parents=True, exist_ok=True)
    if recipe is None:
        recipe = replace(grpo(Path("owner/base"), directory.parent), name=directory.name)
    stored = to_json(recipe) if isinstance(recipe, Recipe) else recipe
    (directory / "recipe.json").write_text(json.dumps(stored))
    (directory / "manifest.json").write_text(json.dumps({**MANIFEST, **(manifest or {})}))
    for name, lines in (("metrics", metrics), ("samples", samples)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if text:
            (directory / f"{name}.jsonl").write_text(text)
    (directory / "rollouts").mkdir(exist_ok=True)
    for step, rows in (rollouts or {}).items():
        table = pa.Table.from_pylist([sampled(step, **row) for row in rows], SCHEMA)
        pq.write_table(table, directory / f"rollouts/step_{step:06d}.parquet")
    return directory


def sampled(step: int, **changes: Any) -> dict[str, Any]:
    """A right completion, but for what is changed. A score of None: it has no check."""
    given = changes.get("score", {})
    score = {"verifier": "gsm8k", "value": 1.0, "status": "scored", "reason": "stated: 7"}
    return {
        "step": step,
        "prompt_id": "arithmetic:1",
        "source": "arithmetic",
        "sample": 0,
        "version": 0,
        "finish_reason": "eos",
        "text": "#### 7",
        "prompt_tokens": [4, 6, 5],
        "tokens": [27, 30, 1],
        "logprobs": [-0.5, -0.5, -0.5],
        "reward": 10.0,
        "advantage": 0.5,
        **changes,
        "scores": [] if given is None else [{**score, **given}],
    }


def made_ladder(directory: Path, *stages: Recipe | Mapping[str, Any]) -> Path:
    """A ladder's own directory; its stages are made one by one."""
    directory.mkdir(parents=True, exist_ok=True)
    stored = [to_json(stage) if isinstance(stage, Recipe) else stage for stage in stages]
    whole = {"class": "cameleer.recipe:Ladder", "name": directory.name, "stages": stored}
    (directory / "recipe.json").write_text(json.dumps({**whole, "seed": None}))
    return directory


def made_evaluation(directory: Path, step: int, profile: str = "full", **metrics: float) -> None:
    """Results of benchmarks with a metric each, on 100 instances of 200."""
    place = directory / f"evals/step_{step:06d}"
    place.mkdir(parents=True)
    benchmarks = {
        name: {
            "num_instances": 100,
            "num_available": 200,
            "metrics": {
                "exact": {
                    "value": value,
                    "standard_error": 0.04,
                    "low": value - 0.08,
                    "high": value + 0.08,
                }
            },
        }
        for name, value in metrics.items()
    }
    results = {"format": 1, "profile": profile, "benchmarks": benchmarks}
    (place / "results.json").write_text(json.dumps(results))


def made_checkpoint(directory: Path, step: int, save: Any) -> Path:
    """A whole checkpoint; `save` writes its model into the directory that it is given."""
    path = directory / f"checkpoints/step_{step}"
    (path / "model").mkdir(parents=True)
    save(path / "model")
    (path / "state.json").write_text(json.dumps({"step": step, "files": checksums(path)}))
    return path


def nudge(directory: Path, by: float) -> None:
    """Add a number to one weight."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    next(tensor for name, tensor in tensors.items() if "down_proj" in name)[0, 0] += by
    save_file(tensors, path, metadata={"format": "pt"})


def stage(name: str, kind: str, source: str, root: Path, **changes: Any) -> Recipe:
    """A stage of SFT or GRPO that starts from a source."""
    recipe = (grpo if kind == "grpo" else sft)(Path(source), root, name=name)
    return replace(recipe, **changes)
