"""Benchmarks inside a run: answered by its own policy, kept in its directory, and acted upon."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cameleer.errors import RecipeError, nearest
from cameleer.evals import stats
from cameleer.evals.base import Benchmark, load
from cameleer.evals.in_process import InProcess
from cameleer.evals.model import Answer, Question
from cameleer.evals.runner import evaluate
from cameleer.evals.store import OtherEvaluationError, read_rows, values
from cameleer.evals.suite import benchmarks, check_installed
from cameleer.files import read_json
from cameleer.models.load import weights_hash
from cameleer.recipe import Eval, Floor, Recipe
from cameleer.train import ranks


def benchmarks_of(evals: Eval) -> list[Benchmark]:
    """The benchmarks that a run answers, with its own limit of tokens.

    Raises RecipeError for a benchmark or metric that is not there.
    """
    found = benchmarks(",".join(evals.benchmarks))
    for benchmark in found:
        check_installed(benchmark)
    by_name = {benchmark.name: benchmark for benchmark in found}
    for name in (evals.keep_best, *(floor.benchmark for floor in evals.floors)):
        if name and name not in by_name:
            raise RecipeError(
                f"evals names the benchmark '{name}' in keep_best or floors, and answers "
                f"{', '.join(by_name)} only.{nearest(name, by_name)} Add it to evals.benchmarks."
            )
    for floor in evals.floors:
        metrics = [metric.name for metric in by_name[floor.benchmark].metrics]
        if floor.metric and floor.metric not in metrics:
            raise RecipeError(
                f"evals.floors names the metric '{floor.metric}' of {floor.benchmark}, which has "
                f"{', '.join(metrics)}.{nearest(floor.metric, metrics)}"
            )
    limit = evals.max_tokens
    if limit is not None:
        found = [replace(b, max_tokens=min(limit, b.max_tokens)) for b in found]
    return found


def check_data(evals: Eval) -> dict[str, int]:
    """How many instances each benchmark has. Raises DataError where one cannot be read."""
    data = Path(evals.data) if evals.data else None
    return {benchmark.name: len(load(benchmark, data)) for benchmark in benchmarks_of(evals)}


class Evaluation:
    """Answers a run's benchmarks when they are due, and knows what came before."""

    def __init__(self, recipe: Recipe, evals: Eval, model: Any, tokenizer: Any) -> None:
        self._recipe, self._evals = recipe, evals
        self._model, self._tokenizer = model, tokenizer
        self._benchmarks = {benchmark.name: benchmark for benchmark in benchmarks_of(evals)}
        self._directory = recipe.directory / "evals"
        self._results: dict[int, dict[str, Any]] = {}
        """By step. Those beyond it wait until a resumed run comes by again."""

    def due(self, step: int) -> bool:
        """Before the first step, after every so many, and after the last."""
        every = self._evals.every
        if step == 0:
            return self._evals.at_start
        return step == self._recipe.num_steps or (every > 0 and step % every == 0)

    def resume(self, step: int) -> None:
        """Remember what was found up to a step."""
        for path in sorted(self._directory.glob("step_*/results.json")):
            then = int(path.parent.name.removeprefix("step_"))
            if then <= step:
                self._results[then] = read_json(path)

    def run(self, step: int) -> dict[str, float]:
        """Answer and score all benchmarks. Returns ``eval/BENCHMARK/METRIC``, on the main rank.

        Answers of the same weights that a killed run left are not generated again.
        """
        identity = {"kind": "run", "step": step, "weights": weights_hash(self._model)}
        policy = _Shared(
            InProcess(self._model, self._tokenizer, name=self._recipe.name, identity=identity)
        )
        if not ranks.is_main():
            policy.serve()
            return {}
        try:
            results = self._evaluate(policy, self._place(step))
        finally:
            policy.close()
        self._results[step] = results
        found = {}
        for name, result in results["benchmarks"].items():
            for metric, score in result["metrics"].items():
                found[f"eval/{name}/{metric}"] = score["value"]
            num_answers = result["num_instances"] * result["samples"]
            found[f"eval/{name}/truncated"] = result["truncated"] / num_answers
        return found

    def best(self) -> int | None:
        """The step with the best score of `keep_best`; the earliest of equals."""
        name = self._evals.keep_best
        if not name or not self._results:
            return None
        metric = self._benchmarks[name].primary.name
        scores = {
            step: results["benchmarks"][name]["metrics"][metric]["value"]
            for step, results in self._results.items()
        }
        return max(scores, key=lambda step: (scores[step], -step))

    def broken_floor(self, step: int) -> str:
        """Which floor the results of a step are below, in words; empty if they hold all."""
        if step not in self._results:
            return ""
        said = (self._below(floor, step) for floor in self._evals.floors)
        return next(filter(None, said), "")

    def kept(self) -> set[int]:
        """Steps whose checkpoints have to stay."""
        kept = {self.last_above()} if self._evals.floors and self._results else set()
        best = self.best()
        return kept if best is None else kept | {best}

    def last_above(self) -> int:
        """The newest step whose results hold all floors: the start does."""
        return next(step for step in sorted(self._results)[::-1] if not self.broken_floor(step))

    def _below(self, floor: Floor, step: int) -> str:
        benchmark = self._benchmarks[floor.benchmark]
        metric = next(m for m in benchmark.metrics if m.name == (floor.metric or m.name))
        start, now = (
            read_rows(self._place(each), benchmark.name) for each in (min(self._results), step)
        )
        once = [row for row in start if row["sample"] == 0]
        how = (
            [row["num_parts"] for row in once] if metric.average == "parts" else None,
            [row["subject"] for row in once] if metric.average == "subjects" else None,
        )
        before, after = (values(rows, metric.name) for rows in (start, now))
        error = stats.paired(before, after, *how).standard_error
        was, found = (stats.estimate(each, *how).value for each in (before, after))
        if found >= floor.share * was - floor.num_errors * error:
            return ""
        return (
            f"{metric.name} of {benchmark.name} is {100 * found:.1f}, and was {100 * was:.1f} at "
            f"the start: below {floor.share:g} of it by more than {floor.num_errors:g} standard "
            f"errors of {100 * error:.1f}"
        )

    def _place(self, step: int) -> Path:
        return self._directory / f"step_{step:06d}"

    def _evaluate(self, policy: _Shared, place: Path) -> dict[str, Any]:
        def answered() -> dict[str, Any]:
            return evaluate(
                policy,
                list(self._benchmarks.values()),
                place,
                profile=self._evals.profile,
                data=Path(self._evals.data) if self._evals.data else None,
                seed=self._recipe.seed,
                num_workers=self._recipe.runtime.num_verifier_workers,
            )

        try:
            return answered()
        except OtherEvaluationError:
            # A run that was resumed came by with other weights than the killed one.
            shutil.rmtree(place)
            return answered()


class _Shared:
    """A model whose questions the ranks share. The main one asks, the others `serve`."""

    def __init__(self, model: InProcess) -> None:
        self._model = model
        self.name, self.context = model.name, model.context
        self.identity, self.prompt = model.identity, model.prompt
        self.loglikelihoods = model.loglikelihoods

    def generate(
        self,
        questions: Sequence[Question],
        done: Callable[[int, Answer], None],
        *,
        temperature: float,
        seed: int,
    ) -> None:
        if ranks.world_size() == 1:
            self._model.generate(questions, done, temperature=temperature, seed=seed)
            return
        work = (list(questions), temperature, seed)
        ranks.gather(work)
        for share in self._answer(*work):
            for index, answer in share.items():
                done(index, answer)

    def serve(self) -> None:
        """Answer this rank's share of whatever the main one asks, until it closes."""
        while (work := ranks.gather(None)[0]) is not None:
            self._answer(*work)

    def close(self) -> None:
        ranks.gather(None)

    def _answer(
        self, questions: list[Question], temperature: float, seed: int
    ) -> list[dict[int, Answer]]:
        mine = range(ranks.rank(), len(questions), ranks.world_size())
        found: dict[int, Answer] = {}
        self._model.generate(
            [questions[i] for i in mine],
            lambda place, answer: found.__setitem__(mine[place], answer),
            temperature=temperature,
            seed=seed,
        )
        return ranks.gather(found)
