"""One step of a run again: does it come out as it was written down?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cameleer.errors import RunError, TrainingError
from cameleer.files import read_json, read_lines
from cameleer.log import console
from cameleer.recipe import Recipe
from cameleer.recipe_files import load
from cameleer.train import checkpoint, offline, online, rollouts
from cameleer.train.collect import Clock
from cameleer.train.same_run import refuse_changes, refuse_other_start
from cameleer.train.session import Session
from cameleer.types import Group

_NOT_REPLAYED = ("time/", "throughput/", "heldout/", "engine/drift")
_FIRST = ("loss", "optim/grad_norm")
"""Metrics that are told by name; of all others, the first that differs."""


@dataclass(frozen=True)
class Finding:
    """What came of comparing one thing with what the run wrote down."""

    what: str
    same: bool | None
    """None where it could not be compared."""
    detail: str


def replay(directory: Path, step: int, recipe: Recipe | None = None) -> list[Finding]:
    """Execute a step again from the checkpoint before it and its rollouts.

    Tokens are sampled anew by the weights that sampled them, verdicts reached anew on the texts
    that were written down, and the update made anew from those rollouts. Where no checkpoint lies
    right before the step, the steps in between are run through first. Nothing is written.

    Args:
        recipe: The run's own, where its recipe.json names classes that are not cameleer's.

    Raises:
        RunError: The directory does not hold what the step needs, or `recipe` is another.
    """
    recipe = recipe or _recipe(directory)
    refuse_changes(recipe, directory)
    if not 1 <= step <= recipe.num_steps:
        raise RunError(f"{directory} has the steps 1 to {recipe.num_steps}, and {step} is none.")
    recorded = _recorded(directory, step)
    staleness = recipe.rollout.max_staleness if recipe.rollout else 0
    sampled_in = max(1, step - staleness)
    findings: list[Finding] = []
    with Session(recipe) as session:
        manifest = read_json(directory / "manifest.json")
        refuse_other_start(recipe, session.inputs, session.weights(), manifest)
        by_id = {prompt.id: prompt for prompt in session.prompts}
        done = _restore(session, directory, sampled_in - 1, step - 1)
        if recipe.rollout and done >= sampled_in:
            why = f"the checkpoint of step {sampled_in - 1}, whose weights sampled them, is gone"
            findings.append(Finding("tokens", None, why))
        for number in range(done + 1, step + 1):
            if number < step:
                console.print(f"running through step {number}")
            groups: Sequence[Group] = ()
            if recipe.rollout:
                groups = rollouts.read(rollouts.path_of(directory, number), by_id)
                if number == sampled_in:
                    asked = groups
                    if step != number:
                        asked = rollouts.read(rollouts.path_of(directory, step), by_id)
                    again = online.collect_step(session, step, Clock())
                    findings.append(_compare_tokens(asked, again, session.inputs.tokenizer))
                if number == step:
                    findings.append(_compare_verdicts(session, groups))
            outcome = _execute(session, number, groups)
    return [*findings, *_compare_outcomes(recorded, outcome, exact=recipe.runtime.device == "cpu")]


def report(directory: Path, step: int, findings: Sequence[Finding]) -> int:
    """Print what was found. Returns the exit status: 0, or 1 where anything differs."""
    console.print(f"[bold]{directory}[/], step {step}")
    mark = {True: "[green]same   [/]", False: "[red]differs[/]", None: "[yellow]--     [/]"}
    for finding in findings:
        console.print(f"  {mark[finding.same]}  {finding.what:<15}  ", end="")
        console.print(finding.detail, markup=False)
    different = [finding.what for finding in findings if finding.same is False]
    console.print(
        f"first difference: {different[0]}" if different else "The step is as it was written down."
    )
    return 1 if different else 0


def _recipe(directory: Path) -> Recipe:
    path = directory / "recipe.json"
    if not path.exists():
        raise RunError(f"{directory} holds no run: it has no recipe.json.")
    recipe = load(str(path))
    if not isinstance(recipe, Recipe):
        names = ", ".join(str(directory / stage.name) for stage in recipe.stages)
        raise RunError(f"{directory} is a ladder. Name one of its stages: {names}.")
    return recipe


def _recorded(directory: Path, step: int) -> dict[str, Any]:
    """The metrics of a step, or the failure that it ended with, under "error"."""
    records = read_lines(directory / "metrics.jsonl")
    found = [r for r in records if r["step"] == step and "loss" in r]
    if found:
        return found[0]
    failure = directory / "dumps" / f"step_{step:06d}.json"
    if failure.exists():
        return {"error": read_json(failure)["message"]}
    reached = max((r["step"] for r in records), default=0)
    raise RunError(f"{directory} got to step {reached}: of step {step} nothing is written down.")


def _restore(session: Session, directory: Path, wanted: int, at_most: int) -> int:
    """Bring the session to the newest checkpoint at or before a step; else to a later one.

    Returns the step that was reached; 0 is the policy the run started from.
    """
    root = directory / "checkpoints"
    for limit in (wanted, at_most):
        if any(0 < step <= limit for step in checkpoint.steps(root)):
            path, state = checkpoint.latest(root, up_to=limit)
            session.restore(path)
            return int(state["step"])
        if limit == 0:
            return 0
    return 0


def _execute(session: Session, step: int, groups: Sequence[Group]) -> dict[str, Any]:
    try:
        if session.recipe.rollout:
            return online.execute(session, step, groups, Clock())
        return offline.execute(session, step, Clock())[0]
    except TrainingError as error:
        return {"error": str(error)}


def _compare_tokens(stored: list[Group], again: list[Group], tokenizer: Any) -> Finding:
    num_completions = num_tokens = 0
    # Another verdict can ask for other groups in the stead of those without contrast.
    for group, other in zip(stored, again, strict=False):
        if group.prompt.id != other.prompt.id:
            detail = f"prompt {other.prompt.id} was asked in place of {group.prompt.id}"
            return Finding("tokens", False, detail)
        pairs = zip(group.completions, other.completions, strict=True)
        for sample, (one, two) in enumerate(pairs):
            num_completions, num_tokens = num_completions + 1, num_tokens + len(one.tokens)
            if one.tokens == two.tokens:
                continue
            places = zip(one.tokens, two.tokens, strict=False)
            place = next(
                (i for i, (a, b) in enumerate(places) if a != b),
                min(len(one.tokens), len(two.tokens)),
            )
            was, now = (
                repr(tokenizer.decode(c.tokens[place : place + 1])) if place < len(c.tokens) else ""
                for c in (one, two)
            )
            return Finding(
                "tokens",
                False,
                f"prompt {group.prompt.id}, sample {sample}, token {place}: "
                f"{was or 'the end'} was written down, and now it is {now or 'the end'}",
            )
    if len(stored) != len(again):
        detail = f"{len(stored)} groups were written down, and now there are {len(again)}"
        return Finding("tokens", False, detail)
    return Finding("tokens", True, f"{num_completions:,} completions, {num_tokens:,} tokens")


def _compare_verdicts(session: Session, groups: Sequence[Group]) -> Finding:
    """Hold the texts that were written down against their truths again."""
    cases = [
        (group, sample, check, score)
        for group in groups
        for sample, scores in enumerate(group.scores)
        for check, score in zip(group.prompt.checks, scores, strict=True)
    ]
    verdicts = session.pool.score_all(
        [(check.verifier, g.completions[i].text, check.truth) for g, i, check, _ in cases]
    )
    for (group, sample, check, was), now in zip(cases, verdicts, strict=True):
        if (was.value, was.status) != (now.value, now.status):
            return Finding(
                "verdicts",
                False,
                f"prompt {group.prompt.id}, sample {sample}, {check.verifier}: {was.value:g} "
                f"{was.status} ({was.reason}) was written down, and now it is {now.value:g} "
                f"{now.status} ({now.reason})",
            )
    return Finding("verdicts", True, f"{len(cases):,} scores")


def _compare_outcomes(
    recorded: dict[str, Any], outcome: dict[str, Any], *, exact: bool
) -> list[Finding]:
    if "error" in recorded or "error" in outcome:
        was, now = recorded.get("error", "no failure"), outcome.get("error", "no failure")
        if was == now:
            return [Finding("failure", True, was)]
        return [Finding("failure", False, f"{was} was written down, and now it is: {now}")]
    # Sums over CUDA threads round in another order each time.
    tolerance = 0.0 if exact else 0.01
    keys = [k for k in recorded if k != "step" and not k.startswith(_NOT_REPLAYED)]
    differences = {
        key: f"{recorded[key]!r} was written down, and now it is {outcome.get(key)!r}"
        for key in keys
        if key not in outcome or abs(recorded[key] - outcome[key]) > tolerance * abs(recorded[key])
    }
    findings = [
        Finding(key, key not in differences, differences.get(key, f"{recorded[key]:.8g}"))
        for key in _FIRST
    ]
    others = {key: text for key, text in differences.items() if key not in _FIRST}
    if others:
        key, text = next(iter(others.items()))
        return [*findings, Finding("other metrics", False, f"{key}: {text}")]
    return [*findings, Finding("other metrics", True, f"{len(keys) - len(_FIRST)} of them")]
