"""The command ``cameleer eval``: score a checkpoint or an endpoint, and print the table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from cameleer.errors import RecipeError
from cameleer.evals.base import Benchmark
from cameleer.evals.model import Model
from cameleer.evals.published import COLUMNS
from cameleer.evals.suite import SUITE, benchmarks, check_installed
from cameleer.log import console

_BESIDE = {"Tulu 3.1 8B": "tulu31_8b_published", "Llama 3.1 8B": "llama31_8b_instruct_published"}


def run(asked: argparse.Namespace) -> int:
    """Do what the options say. Returns the exit status."""
    if asked.list:
        console.print(benchmarks_table())
        return 0
    from cameleer.evals.runner import evaluate, rescore

    for name in ("samples", "max_tokens", "slots", "threads", "workers", "concurrency"):
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise RecipeError(f"--{name.replace('_', '-')} is {value}; it has to be 1 or more.")
    if asked.rescore is not None:
        found = {each.name: each for each in [*SUITE.values(), *benchmarks(asked.benchmarks)]}
        results = rescore(asked.rescore, found, asked.workers)
        show(results)
        return 0
    if asked.model is None:
        raise RecipeError("Name a model to evaluate, or give --list or --rescore DIR.")
    chosen = [_changed(benchmark, asked) for benchmark in benchmarks(asked.benchmarks)]
    for benchmark in chosen:
        check_installed(benchmark)
    model = _model(asked)
    directory = asked.output or Path("evals") / short_name(asked.model) / asked.profile
    console.print(f"{model.name}: {', '.join(b.name for b in chosen)} -> {directory}", markup=False)
    results = evaluate(
        model,
        chosen,
        directory,
        profile=asked.profile,
        data=asked.data,
        seed=asked.seed,
        num_workers=asked.workers,
    )
    show(results)
    return 0


def short_name(model: str) -> str:
    """The last part of a directory or hub id; of a run's checkpoint, the run and the step."""
    *before, last = Path(model).parts[-4:] or (model,)
    if last == "model" and len(before) == 3:
        return f"{before[0]}-{before[2]}"
    return last


def benchmarks_table() -> Table:
    """What there is, with the rule behind each number."""
    table = Table()
    for heading in ("benchmark", "metric", ""):
        table.add_column(heading)
    for benchmark in SUITE.values():
        table.add_row(f"{benchmark.name} v{benchmark.version}", "", benchmark.about)
        for metric in benchmark.metrics:
            table.add_row("", metric.name, metric.about)
    return table


def show(results: Mapping[str, Any]) -> None:
    """Print the scores with their standard errors, and what a reader of them has to know."""
    smoke = results["profile"] == "smoke"
    console.print(
        f"{results['model']['name']}, profile {results['profile']}"
        + (": a few shortened answers, which are no score" if smoke else ""),
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("benchmark", "metric"):
        table.add_column(heading, no_wrap=True)
    known = results["benchmarks"]
    beside = {
        title: key for title, key in _BESIDE.items() if known.keys() & COLUMNS[key].percent.keys()
    }
    for heading in ("score", "95 %", *beside):
        table.add_column(heading, justify="right", no_wrap=heading in ("score", "95 %"))
    for name, found in known.items():
        for metric, score in found["metrics"].items():
            is_primary = metric == next(iter(found["metrics"]))
            table.add_row(
                name if is_primary else "",
                metric,
                f"{100 * score['value']:.1f} ± {100 * score['standard_error']:.1f}",
                f"{100 * score['low']:.1f} to {100 * score['high']:.1f}",
                *(_published(key, name) if is_primary else "" for key in beside.values()),
            )
            for k, value in score.get("pass_at", {}).items():
                table.add_row("", f"  pass@{k}", f"{100 * value:.1f}")
    console.print(table)
    for name, found in known.items():
        console.print(_counts(name, found), markup=False)


def _counts(name: str, found: Mapping[str, Any]) -> str:
    asked, of = found["num_instances"], found["num_available"]
    samples = found["samples"]
    undecided = {m: s["undecided"] for m, s in found["metrics"].items() if s["undecided"]}
    without = ", ".join(f"{count:,} without a verdict on {m}" for m, count in undecided.items())
    return (
        f"{name}: {asked:,} of {of:,} asked"
        + (f", {samples} times each" if samples > 1 else "")
        + f", {found['mean_tokens']:,.0f} tokens an answer, {found['truncated']:,} cut off"
        + (f", {found['empty']:,} empty" if found["empty"] else "")
        + (f", {without}, which count as wrong" if without else "")
    )


def _published(key: str, benchmark: str) -> str:
    percent = COLUMNS[key].percent.get(benchmark)
    return "" if percent is None else f"{percent:.1f}"


def _changed(benchmark: Benchmark, asked: argparse.Namespace) -> Benchmark:
    changes = {
        name: value
        for name in ("samples", "temperature", "max_tokens")
        if (value := getattr(asked, name)) is not None
    }
    changed = replace(benchmark, **changes)
    if changed.temperature < 0:
        raise RecipeError(f"--temperature is {changed.temperature}; 0 is greedy, the least.")
    if changed.samples > 1 and changed.temperature == 0:
        raise RecipeError(
            f"--samples {changed.samples} at temperature 0 would be the same answer "
            f"{changed.samples} times. Give --temperature too, such as 1."
        )
    return changed


def _model(asked: argparse.Namespace) -> Model:
    if asked.endpoint is not None:
        from cameleer.evals.endpoint import Endpoint

        return Endpoint(
            asked.endpoint,
            asked.model,
            tokenizer=asked.tokenizer,
            context=asked.context,
            concurrency=asked.concurrency,
            timeout_s=asked.timeout,
            api_key_variable=asked.api_key_variable,
        )
    import torch

    from cameleer.evals.in_process import InProcess

    torch.set_num_threads(asked.threads)
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return InProcess.load(
        asked.model,
        dtype=asked.dtype or ("bfloat16" if device == "cuda" else "float32"),
        device=device,
        chat_template=asked.chat_template,
        num_slots=asked.slots,
    )
