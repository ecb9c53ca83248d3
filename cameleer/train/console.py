"""What a run says while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cameleer.log import console, visible
from cameleer.train import ranks
from cameleer.train.metric_docs import out_of_range, primary_scores

_SHOWN = (
    ("loss", "loss", ".4f"),
    ("correct", "verifiable_rate", ".3f"),
    ("reward", "reward/mean", ".2f"),
    ("tokens", "length/mean", ".0f"),
    ("entropy", "policy/entropy", ".3f"),
    ("kl", "policy/kl", ".4f"),
    ("clip", "policy/clip_fraction", ".3f"),
    ("grad", "optim/grad_norm", ".2f"),
    ("tok/s", "throughput/tokens_per_s", ",.0f"),
)


def step_line(step: int, num_steps: int, metrics: dict[str, float]) -> str:
    """One line, with rich's markup. It reads the same in a log file.

    Numbers out of their healthy range (docs/metrics.md) are marked with ``!``, and those that the
    line does not show are named at its end.
    """
    left = out_of_range(metrics)
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}"]
    for label, key, form in _SHOWN:
        # The policy loss of reinforcement learning says nothing about progress.
        if key in metrics and not (key == "loss" and "reward/mean" in metrics):
            shown = f"{label} {metrics[key]:{form}}"
            parts.append(f"[yellow]{shown}![/]" if key in left else shown)
    if "time/step" in metrics:
        phases = ", ".join(
            f"{name} {metrics[f'time/{name}']:.1f}"
            for name in ("rollout", "verify", "score", "update")
            if f"time/{name}" in metrics
        )
        parts.append(f"{metrics['time/step']:.1f} s ({phases})")
    if metrics.get("status/undecided"):
        parts.append(f"[yellow]undecided {metrics['status/undecided']:.0f}[/]")
    if "heldout/accuracy" in metrics:
        parts.append(f"[bold]held-out {metrics['heldout/accuracy']:.3f}[/]")
    for key in primary_scores(metrics):
        parts.append(f"[bold]{key.split('/')[1]} {metrics[key]:.3f}[/]")
    shown_keys = {"status/undecided", *(key for _, key, _ in _SHOWN)}
    others = [f"{key} {metrics[key]:.3g}!" for key in left if key not in shown_keys]
    if others:
        parts.append(f"[yellow]{'  '.join(others)}[/]")
    return "  ".join(parts)


def warn(text: str) -> None:
    """Say once what does not end the run and should be looked at."""
    if ranks.is_main():
        console.print(f"[yellow]warning[/] {escape(text)}")


def tail(text: str, width: int = 160) -> str:
    """The end of a text on one line, where the question and the answer are."""
    flat = visible(" ".join(text.split()))
    return escape(flat if len(flat) <= width else "…" + flat[-width:])


@contextlib.contextmanager
def progress(name: str, num_steps: int) -> Iterator[Callable[[int], None]]:
    """A bar below the lines while there is a terminal; nothing in a log file."""
    bar = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or not ranks.is_main(),
    )
    with bar:
        task = bar.add_task(name, total=num_steps)
        yield lambda step: bar.update(task, completed=step)
