"""From a model and benchmarks to results: ask, keep every answer, score, average."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cameleer.errors import DataError, ModelError, RecipeError, RunError
from cameleer.evals import stats
from cameleer.evals.base import Benchmark, Instance, Metric, load
from cameleer.evals.model import Answer, Model, Question
from cameleer.evals.store import Key, Row, Store, encodable, read_rows, sha, write_rows, writing
from cameleer.files import locked, read_json, write_json
from cameleer.log import console
from cameleer.types import Score
from cameleer.verifiers.isolate import Task, VerifierPool

Profile = Literal["smoke", "dev", "full"]
_SMOKE_INSTANCES, _SMOKE_TOKENS, _DEV_INSTANCES = 8, 64, 200
_SCORED_AT_ONCE = 256


@dataclass(frozen=True)
class Job:
    """A benchmark with the instances that are asked, and what the model reads for each."""

    benchmark: Benchmark
    instances: list[Instance]
    num_available: int
    prompts: list[str]
    max_tokens: list[int]
    """Longest answer of each, where the context leaves less than the benchmark allows."""

    def questions(self) -> list[Question]:
        """All that is asked, the samples of an instance one after the other."""
        return [
            Question(instance, sample, max_tokens, self.benchmark.stop)
            for instance, max_tokens in zip(self.instances, self.max_tokens, strict=True)
            for sample in range(self.benchmark.samples)
        ]


def evaluate(
    model: Model,
    benchmarks: Sequence[Benchmark],
    directory: Path,
    *,
    profile: Profile = "full",
    data: Path | None = None,
    seed: int = 0,
    num_workers: int = 2,
) -> dict[str, Any]:
    """Answer and score benchmarks; the same call goes on where a killed one stopped.

    Args:
        directory: Where answers and results go. A finished one is only read.
        data: Directory of the benchmarks' files. None: the hub.
        seed: Of sampling. Greedy answers do not depend on it.
        num_workers: Processes that score.

    Returns:
        What results.json holds.

    Raises:
        ModelError: A prompt does not fit the model, or some question could not be answered. What
            was answered is kept, and no score is reported.
        RunError: The directory holds another evaluation, or cannot be written.
        DataError: A benchmark's data cannot be read.
        RecipeError: A verifier cannot be given to processes.
    """
    jobs = [prepare(model, benchmark, profile, data) for benchmark in benchmarks]
    for benchmark in benchmarks:
        _pool(benchmark, num_workers)  # What it refuses, it refuses before hours of answering.
    store = Store(directory, _config(model, jobs, profile, seed))
    if not store.is_finished:
        with locked(directory):
            if not store.is_finished:  # By a process that held it a moment ago.
                _finish(model, jobs, store, seed, num_workers)
    results: dict[str, Any] = read_json(directory / "results.json")
    return results


def _finish(model: Model, jobs: Sequence[Job], store: Store, seed: int, num_workers: int) -> None:
    answers = ask(model, jobs, store, seed)
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    scored = score(jobs, answers, store.directory, num_workers)
    store.finish(
        {
            **read_json(store.directory / "config.json"),
            "packages": packages,
            "benchmarks": scored,
        }
    )


def prepare(model: Model, benchmark: Benchmark, profile: Profile, data: Path | None) -> Job:
    """Read a benchmark, take the profile's part, and see that model and verifiers can read it."""
    every = load(benchmark, data)
    instances = [every[i] for i in chosen(len(every), profile)]
    for instance in instances:
        for metric in benchmark.metrics:
            if (problem := metric.verifier.validate(instance.truth)) is not None:
                raise _unreadable(instance.id, metric, problem)
    limit = benchmark.max_tokens
    if profile == "smoke":
        limit = min(limit, _SMOKE_TOKENS)
    prompts, room = [], []
    for instance in instances:
        prompt, num_tokens = model.prompt(instance)
        prompts.append(prompt)
        left = limit
        if model.context is not None and num_tokens is not None:
            left = model.context - num_tokens
            if left < 1:
                raise ModelError(
                    f"{model.name} was made for {model.context:,} tokens, and the prompt of "
                    f"{instance.id} has {num_tokens:,}: nothing is left for an answer. A cut "
                    f"prompt would be another question; leave out {benchmark.name}, or take a "
                    "model with more context."
                )
        room.append(min(limit, left))
    return Job(benchmark, instances, len(every), prompts, room)


def chosen(count: int, profile: Profile) -> list[int]:
    """Which of `count` instances a profile asks: the same of every model."""
    size = {"smoke": _SMOKE_INSTANCES, "dev": _DEV_INSTANCES, "full": count}[profile]
    if size >= count:
        return list(range(count))
    drawn = np.random.Generator(np.random.Philox(key=0)).permutation(count)[:size]
    return sorted(int(i) for i in drawn)


def ask(model: Model, jobs: Sequence[Job], store: Store, seed: int) -> dict[str, dict[Key, Answer]]:
    """All answers by benchmark, of which only those that the store lacks are asked for."""
    answers = store.answers([job.benchmark.name for job in jobs])
    left = [
        (job.benchmark, question)
        for job in jobs
        for question in job.questions()
        if (question.instance.id, question.sample) not in answers[job.benchmark.name]
    ]
    with _progress() as progress:
        bars = {
            job.benchmark.name: progress.add_task(
                job.benchmark.name,
                total=len(job.questions()),
                completed=len(answers[job.benchmark.name]),
            )
            for job in jobs
        }

        def keep(asked: Sequence[tuple[Benchmark, Question]], place: int, answer: Answer) -> None:
            (name, question) = asked[place][0].name, asked[place][1]
            answer = replace(answer, text=encodable(answer.text))
            store.add(name, question.instance.id, question.sample, answer)
            answers[name][question.instance.id, question.sample] = answer
            progress.advance(bars[name])

        weighed = [each for each in left if each[1].instance.choices]
        if weighed:
            model.loglikelihoods(
                [question.instance for _, question in weighed],
                lambda place, found: keep(weighed, place, Answer(json.dumps(found), 0, "eos")),
            )
        # Benchmarks that sample alike are answered together, so that slots stay full.
        written = [each for each in left if not each[1].instance.choices]
        for temperature in sorted({benchmark.temperature for benchmark, _ in written}):
            asked = [each for each in written if each[0].temperature == temperature]
            questions = [question for _, question in asked]
            model.generate(questions, partial(keep, asked), temperature=temperature, seed=seed)
    return answers


def score(
    jobs: Sequence[Job],
    answers: Mapping[str, Mapping[Key, Answer]],
    directory: Path,
    num_workers: int,
) -> dict[str, Any]:
    """Hold all answers against the truths, and write a row for each. Results by benchmark."""
    found = {}
    with _progress() as progress:
        for job in jobs:
            about = answers[job.benchmark.name]
            bar = progress.add_task(f"scoring {job.benchmark.name}", total=len(about))
            with _pool(job.benchmark, num_workers) as pool:
                rows = list(_scored(job, about, pool, partial(progress.advance, bar)))
            write_rows(directory, job.benchmark.name, rows)
            found[job.benchmark.name] = _summary(job, rows)
    return found


def rescore(
    directory: Path, benchmarks: Mapping[str, Benchmark], num_workers: int = 2
) -> dict[str, Any]:
    """Score an evaluation's answers again by the rules of now. No model is needed.

    Raises RunError where it is not finished, and RecipeError for a benchmark that is not given.
    """
    if not (directory / "results.json").exists():
        raise RunError(
            f"{directory} has no results.json: an evaluation was not finished there, or never "
            "began. Run it to its end first."
        )
    results: dict[str, Any] = read_json(directory / "results.json")
    jobs, answers = [], {}
    for name, before in results["benchmarks"].items():
        if name not in benchmarks:
            raise RecipeError(
                f"{directory} has answers to {name}, which is not among the benchmarks. Name its "
                "file with --benchmarks file.py:NAME."
            )
        rows = read_rows(directory, name)
        first = {row["instance"]: row for row in reversed(rows)}
        instances = [
            Instance(
                id=row["instance"],
                prompt=row["prompt"],
                truth=json.loads(row["truth"]),
                subject=row["subject"],
                num_parts=row["num_parts"],
            )
            for row in reversed(first.values())
        ]
        prompts = [first[instance.id]["prompt"] for instance in instances]
        # The command may have asked otherwise than the benchmark does: what is there, counts.
        asked = replace(benchmarks[name], samples=before["samples"])
        jobs.append(Job(asked, instances, before["num_available"], prompts, []))
        answers[name] = {
            (row["instance"], row["sample"]): Answer(
                row["output"], row["num_tokens"], row["finish_reason"]
            )
            for row in rows
        }
    with locked(directory):
        scored = score(jobs, answers, directory, num_workers)
        for name, before in results["benchmarks"].items():
            # What was asked stays what it was; how it is scored is of now.
            kept = {key: before[key] for key in ("version", "decoding")}
            results["benchmarks"][name] = {**scored[name], **kept}
        with writing(directory):
            write_json(directory / "results.json", results)
    return results


def _scored(
    job: Job, answers: Mapping[Key, Answer], pool: VerifierPool, tell: Callable[[int], None]
) -> Iterator[Row]:
    """A row an answer, in the order of the questions."""
    benchmark, prompts = job.benchmark, dict(zip(map(_id, job.instances), job.prompts, strict=True))
    by_id = {instance.id: instance for instance in job.instances}
    keys = [(i.id, s) for i in job.instances for s in range(benchmark.samples)]
    for begin in range(0, len(keys), _SCORED_AT_ONCE):
        some = keys[begin : begin + _SCORED_AT_ONCE]
        tasks: list[Task] = [
            (metric.name, answers[key].text, by_id[key[0]].truth)
            for key in some
            for metric in benchmark.metrics
        ]
        scores = iter(pool.score_all(tasks))
        for key in some:
            verdicts = {
                metric.name: _value(metric, next(scores), key[0]) for metric in benchmark.metrics
            }
            extraction = benchmark.extract(answers[key].text)
            yield Row(by_id[key[0]], key[1], prompts[key[0]], answers[key], extraction, verdicts)
        tell(len(some))


def _value(metric: Metric, score: Score, instance: str) -> Score:
    if score.status == "invalid":
        raise _unreadable(instance, metric, score.reason)
    value = score.value if score.status == "scored" else 0.0
    return Score(float(value >= 1) if metric.whole else value, score.status, score.reason)


def _unreadable(instance: str, metric: Metric, problem: str) -> DataError:
    return DataError(
        f"{instance}: {metric.name} cannot read the truth ({problem}), so nothing could be right. "
        "Use the benchmark's own file, or mend this row."
    )


def _pool(benchmark: Benchmark, num_workers: int) -> VerifierPool:
    return VerifierPool({metric.name: metric.verifier for metric in benchmark.metrics}, num_workers)


def _summary(job: Job, rows: Sequence[Row]) -> dict[str, Any]:
    benchmark, count = job.benchmark, len(job.instances)
    subjects = [instance.subject for instance in job.instances]
    parts = [instance.num_parts for instance in job.instances]
    metrics = {}
    for metric in benchmark.metrics:
        verdicts = [row.scores[metric.name] for row in rows]
        values_IK = np.array([verdict.value for verdict in verdicts]).reshape(count, -1)
        how = (
            values_IK.mean(1),
            parts if metric.average == "parts" else None,
            subjects if metric.average == "subjects" else None,
        )
        low, high = stats.interval(*how)
        metrics[metric.name] = {
            **asdict(stats.estimate(*how)),
            "low": low,
            "high": high,
            "average": metric.average,
            "whole": metric.whole,
            "undecided": sum(verdict.status == "undecided" for verdict in verdicts),
        }
        if metric is benchmark.primary and benchmark.samples > 1:
            num_right = (values_IK >= 1).sum(1)
            ks = [k for k in (1, 2, 4, 8, 10, 16, 32, 64) if k <= benchmark.samples]
            pass_at = {k: stats.pass_at_k(benchmark.samples, num_right, k).mean() for k in ks}
            metrics[metric.name]["pass_at"] = {str(k): float(v) for k, v in pass_at.items()}
    tokens = [row.answer.num_tokens for row in rows]
    return {
        "version": benchmark.version,
        "scored_by": benchmark.version,
        "num_instances": count,
        "num_available": job.num_available,
        "samples": benchmark.samples,
        "decoding": _decoding(benchmark),
        "data_hash": data_hash(job),
        "metrics": metrics,
        "truncated": sum(row.answer.finish_reason == "length" for row in rows),
        "empty": sum(not row.answer.text.strip() for row in rows),
        "mean_tokens": sum(tokens) / len(tokens),
    }


def _config(model: Model, jobs: Sequence[Job], profile: Profile, seed: int) -> dict[str, Any]:
    """What was asked of whom: two evaluations with the same may share a directory."""
    config: dict[str, Any] = {
        "format": 1,
        "model": {"name": model.name, **model.identity()},
        "profile": profile,
        "seed": seed,
        "asked": {
            job.benchmark.name: {
                "version": job.benchmark.version,
                "decoding": _decoding(job.benchmark),
                "num_instances": len(job.instances),
                "prompts": sha("\0".join(_read_by_the_model(job))),
                "data_hash": data_hash(job),
            }
            for job in jobs
        },
    }
    nameless = {**config, "model": model.identity()}
    return {**config, "config_hash": sha(json.dumps(nameless, sort_keys=True))}


def data_hash(job: Job) -> str:
    """Of ids and truths: what the answers are held against."""
    known = [[instance.id, instance.subject, instance.truth] for instance in job.instances]
    return sha(json.dumps(known, sort_keys=True))


def _decoding(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "max_tokens": benchmark.max_tokens,
        "temperature": benchmark.temperature,
        "stop": list(benchmark.stop),
        "samples": benchmark.samples,
    }


def _read_by_the_model(job: Job) -> Iterator[str]:
    for instance, prompt in zip(job.instances, job.prompts, strict=True):
        yield from (prompt, *instance.choices)


def _id(instance: Instance) -> str:
    return instance.id


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
