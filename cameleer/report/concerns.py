"""What a reader of a run should look at, from what the run wrote down."""

from __future__ import annotations

from collections.abc import Iterator

from cameleer.files import read_json
from cameleer.report.stages import Stage
from cameleer.train.metric_docs import find, healthy_range, out_of_range


def concerns(stage: Stage) -> Iterator[str]:
    """A sentence each, the gravest first."""
    if not stage.has_begun:
        return
    yield from _end(stage)
    manifest = stage.manifest
    if str(manifest.get("commit") or "").endswith("-dirty"):
        yield "The working tree had changes beyond its commit, so the commit is not the whole code."
    if manifest and not manifest.get("commit"):
        yield "The commit is not known: Cameleer did not run from a git checkout."
    for key, what in (
        ("prompts_too_long", "prompts were left out, as they are longer than max_prompt_tokens"),
        ("examples_truncated", "examples were cut at max_tokens"),
    ):
        if manifest.get(key):
            yield f"{manifest[key]:,} {what}."
    for why, count in (manifest.get("examples_dropped") or {}).items():
        yield f"{count:,} examples were left out: {why}."
    yield from _ranges(stage)


def _end(stage: Stage) -> Iterator[str]:
    for path in sorted((stage.directory / "dumps").glob("step_*.json")):
        why = read_json(path)
        yield f"Step {why['step']} failed: {why['message']}"
    if stage.is_training and stage.last_step < stage.num_steps:
        saved = stage.checkpoints()
        then = f"resumes from step {saved[-1]}" if saved else "has no checkpoint to resume from"
        yield (
            f"The run is not finished: {stage.last_step:,} of {stage.num_steps:,} steps are done, "
            f"and it {then}."
        )


def _ranges(stage: Stage) -> Iterator[str]:
    """Metrics that left their healthy range, with how often and what to do."""
    left: dict[str, list[int]] = {}
    for line in stage.metrics:
        numbers = {key: value for key, value in line.items() if key != "step"}
        for key in out_of_range(numbers):
            left.setdefault(key, []).append(line["step"])
    for key, steps in left.items():
        metric = find(key)
        assert metric is not None, "out_of_range names what is known"
        when = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps):,} steps"
        last = f", the last of them step {steps[-1]:,}" if len(steps) > 1 else ""
        yield (
            f"{key} left its healthy range ({healthy_range(metric)}) in {when}{last}. "
            f"{metric.advice}"
        ).strip()
