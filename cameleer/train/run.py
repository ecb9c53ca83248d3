"""A run: a session whose steps are written down, saved, and gone on from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from torch import Tensor

from cameleer.batch import Batch
from cameleer.errors import RunError, TrainingError
from cameleer.files import locked, make_directory, reached, read_json, unwritable, write_json
from cameleer.log import console
from cameleer.recipe import Recipe
from cameleer.recipe_files import to_json
from cameleer.rollout.engine import Request
from cameleer.train import checkpoint, ranks, rollouts
from cameleer.train.console import progress, step_line, tail, warn
from cameleer.train.evaluation import Evaluation, check_data
from cameleer.train.guards import (
    notices,
    refuse_device,
    refuse_full_disk,
    refuse_output,
    refuse_undecided,
)
from cameleer.train.heldout import heldout_accuracy, ranking_accuracy
from cameleer.train.inputs import checkpoint_size, described, fingerprint, per_source
from cameleer.train.learner import Sums
from cameleer.train.origins import origins
from cameleer.train.parity import Gap, Parity
from cameleer.train.probe import probe, worth_probing
from cameleer.train.recorder import Recorder, environment
from cameleer.train.same_run import refuse_changes, refuse_other_start, tell_other_versions
from cameleer.train.session import Session
from cameleer.train.sinks import require_sinks
from cameleer.train.watch import Watch
from cameleer.types import Group

_NUM_SAMPLES = 2


class Run(Session):
    """Opens the run directory and keeps the books of the loops."""

    def __init__(self, recipe: Recipe, *, resume: bool) -> None:
        recipe.validate()
        self._check_directory(recipe, resume)
        # No rank may make the directory before all have found it absent.
        ranks.barrier()
        refuse_device(recipe)
        require_sinks(recipe.output.sinks)
        refuse_output(recipe.directory)
        refuse_full_disk(recipe, checkpoint_size(recipe), resume=resume)
        if recipe.evals:
            check_data(recipe.evals)
        super().__init__(recipe)
        self._evaluation: Evaluation | None = None
        if recipe.evals:
            model, tokenizer = self.learner.model, self.inputs.tokenizer
            self._evaluation = Evaluation(recipe, recipe.evals, model, tokenizer)
        self.parity = Parity(
            self.learner,
            self.sampling.temperature,
            warn,
            on_policy=not (recipe.rollout and recipe.rollout.max_staleness),
        )
        self._watch = Watch(recipe)
        self.first_step = 1
        self._resumes = resume
        self._identity = self.identity()
        self._ended = False
        """True once a floor was broken and the run went back."""
        self._unsaved: Exception | None = None
        """Why the newest checkpoint could not be written, if it could not."""
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        directory = self.recipe.directory
        with contextlib.ExitStack() as opening:
            # Before the directory is made: what cannot start leaves none behind.
            opening.enter_context(self.pool)
            ranks.barrier()
            if self._resumes:
                if ranks.is_main():
                    opening.enter_context(locked(directory))
                ranks.barrier()
                self._resume()
            if self.first_step <= self.recipe.num_steps:
                refuse_undecided(self.pool, judges_only=True)
            self._probe()
            gap = self._compare()
            ranks.barrier()
            if ranks.is_main():
                if not self._resumes:
                    self._make_directory()
                    opening.enter_context(locked(directory))
                opening.enter_context(self._recorder())
                if gap:
                    gap.append(directory / "parity.jsonl", self.first_step - 1)
                    console.print(f"engine and learner agree: {gap}")
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def steps(self) -> Iterator[int]:
        """The steps still to run, from 1; answers the held-out questions before the first.

        Raises RunError after the last when its checkpoint could not be written.
        """
        evals = self.recipe.evals
        if self.first_step == 1:
            self._log(0, {**self._heldout(), **self._evaluate(0)})
            if evals and evals.floors and evals.below_floor == "roll_back":
                self._save(0)
        self._heed_floors(self.first_step - 1)
        with progress(self.recipe.name, self.recipe.num_steps) as show:
            for step in range(self.first_step, self.recipe.num_steps + 1):
                if self._ended:
                    break
                yield step
                show(step)
        if self._unsaved is not None:
            raise RunError(
                f"The last checkpoint of {self.recipe.directory} could not be written "
                f"({self._unsaved}). Make room, then --resume does the steps since the one before "
                "again."
            ) from self._unsaved

    def keep_rollouts(self, step: int, groups: Sequence[Group], batch: Batch) -> None:
        """Write a step's completions down before the update: a crash in it leaves them to see."""
        if ranks.is_main():
            self.recorder.rollouts(step, groups, batch)

    def compare_engine(
        self, step: int, groups: Sequence[Group], batch: Batch, version: int
    ) -> dict[str, float]:
        """The same, with a warning when they drift apart."""
        return self.parity.step(step, groups, batch, version)

    def update(self, step: int, minibatch: Batch, sums: Sums) -> Tensor:
        """One optimizer step. The minibatch of one that fails is kept for `cameleer replay`."""
        try:
            return super().update(step, minibatch, sums)
        except Exception as error:
            where = self._dump(step, minibatch, error)
            if isinstance(error, TrainingError):
                raise TrainingError(
                    f"{error} {where} Start another run from the last checkpoint's model/ with a "
                    "lower optim.learning_rate or max_grad_norm."
                ) from error
            console.print(where, markup=False)
            raise

    def end_step(self, step: int, metrics: dict[str, float]) -> None:
        """Record a step; evaluate, show samples and save where they are due."""
        recipe, output = self.recipe, self.recipe.output
        last = step == recipe.num_steps
        every = recipe.heldout.every if recipe.heldout else 0
        if last or (every and step % every == 0):
            metrics = {**metrics, **self._heldout()}
        self._log(step, {**metrics, **self._evaluate(step)})
        for warning in self._watch.step(step, metrics):
            warn(warning)
        if output.sample_every and (last or step % output.sample_every == 0):
            self._show_samples(step)
        if last or step % output.save_every == 0 or step in self._kept():
            self._save(step)
        self._heed_floors(step)

    # How a run begins

    @staticmethod
    def _check_directory(recipe: Recipe, resume: bool) -> None:
        directory = recipe.directory
        if not resume and directory.exists() and any(directory.iterdir()):
            raise RunError(
                f"{directory} exists already. Continue it with --resume, start another with "
                "--name OTHER, or delete it."
            )
        if resume:
            refuse_changes(recipe)

    def _make_directory(self) -> None:
        recipe, inputs = self.recipe, self.inputs
        heldout = recipe.heldout.sources if recipe.heldout else ()
        manifest = {
            **environment(),
            "seed": recipe.seed,
            "num_threads": recipe.runtime.num_threads,
            "world_size": ranks.world_size(),
            **self._identity,
            "origins": origins(recipe),
            "data": [
                {**dataclasses.asdict(tally), **known}
                for tally, known in zip(inputs.tallies, self._identity["data"], strict=True)
            ],
            "heldout": [fingerprint(source) for source in heldout],
            "prompts": len(inputs.prompts.prompts),
            "examples": len(inputs.examples.items),
        }
        make_directory(
            recipe.directory, {"recipe.json": to_json(recipe), "manifest.json": manifest}
        )
        reached("run/opened")
        self._introduce()

    def _resume(self) -> None:
        """Continue from the newest complete checkpoint, if the start is still the same."""
        directory = self.recipe.directory
        manifest = read_json(directory / "manifest.json")
        refuse_other_start(self.recipe, self.inputs, self.weights(), manifest)
        root = directory / "checkpoints"
        looks = ranks.is_main() and checkpoint.exists(root)
        found = ranks.gather(checkpoint.latest(root) if looks else None)[0]
        if found is not None:
            path, state = found
            if state.get("run") != self._identity["run"]:
                raise RunError(
                    f"{path} is a checkpoint of another run ({state.get('run')}, and this one is "
                    f"{self._identity['run']}). Move it out of {root}, and resume again."
                )
            self.restore(path)
            self.parity.restore(state["parity"])
            self.first_step = state["step"] + 1
        reached("resume/restored")
        ranks.barrier()
        if ranks.is_main():
            if self._evaluation is not None:
                self._evaluation.resume(self.first_step - 1)
            keep_last = self.recipe.output.keep_last
            checkpoint.cut(root, self.first_step - 1, keep_last=keep_last, keep=self._kept())
            reached("resume/checkpoints")
            where = f"after step {self.first_step - 1}"
            if self.first_step == 1:
                where = "from its start: it stopped before the first checkpoint"
            console.print(f"resuming {self.recipe.name} {where}")
            tell_other_versions(manifest)

    def _probe(self) -> None:
        """Raises TrainingError where the longest batch would run out of memory."""
        longest, answer = self.inputs.longest, self.inputs.longest_answer
        for notice in notices(self.recipe, longest, self.inputs.tokenizer):
            warn(notice)
        size = sum(p.numel() for p in self.learner.model.parameters())
        if self.first_step <= self.recipe.num_steps and worth_probing(self.recipe, size, longest):
            engine = self.engine if self.recipe.rollout else None
            probe(self.recipe, engine, self.learner, longest, answer)

    def _compare(self) -> Gap | None:
        """Raises TrainingError where the engine does not sample from the learner's policy."""
        rollout, seed = self.recipe.rollout, self.recipe.seed
        if rollout is None or self.first_step > self.recipe.num_steps:
            return None
        return self.parity.start(
            self.engine, self.prompts, max_tokens=rollout.max_tokens, seed=seed
        )

    @contextlib.contextmanager
    def _recorder(self) -> Iterator[None]:
        directory, stored = self.recipe.directory, to_json(self.recipe)
        try:
            self.recorder = Recorder(
                directory, stored, self.recipe.output.sinks, first_step=self.first_step
            )
            if self._resumes:
                write_json(directory / "recipe.json", stored)
                # From its start a run answers the held-out questions of step 0 again.
                self.recorder.cut(self.first_step - 1 if self.first_step > 1 else -1)
        except OSError as error:
            raise unwritable(directory, error) from error
        with contextlib.closing(self.recorder):
            yield

    # What a step ends with

    def _heldout(self) -> dict[str, float]:
        heldout = self.recipe.heldout
        if heldout is None:
            return {}
        if self.inputs.heldout_pairs.items:
            return ranking_accuracy(self.learner, self.inputs.heldout_pairs.items)
        return heldout_accuracy(
            self.engine,
            self.pool,
            self.inputs.heldout.prompts,
            replace(self.sampling, temperature=heldout.temperature),
            seed=self.recipe.seed,
        )

    def _evaluate(self, step: int) -> dict[str, float]:
        """Scores of the benchmarks where they are due, on the main rank."""
        if self._evaluation is None or not self._evaluation.due(step):
            return {}
        self.engine.release()  # The evaluation's longer answers take the memory.
        return self._evaluation.run(step)

    def _kept(self) -> set[int]:
        """Steps whose checkpoints outlive the others: the best, and the one to go back to."""
        if self._evaluation is None or not ranks.is_main():
            return set()
        return self._evaluation.kept()

    def _heed_floors(self, step: int) -> None:
        """Stop, or go back, where the scores of a step are below a floor.

        Raises TrainingError for a floor at which the run has to stop.
        """
        evaluation, evals = self._evaluation, self.recipe.evals
        if evaluation is None or evals is None or not evals.floors:
            return
        fallen = evaluation.broken_floor(step) if ranks.is_main() else ""
        good = evaluation.last_above() if fallen else 0
        fallen, good = ranks.gather((fallen, good))[0]
        if not fallen:
            return
        root = self.recipe.directory / "checkpoints"
        if evals.below_floor == "stop":
            raise TrainingError(
                f"Step {step}: {fallen}. The last scores above were those of step {good}"
                + (f", kept in {root / f'step_{good}'}" if good in checkpoint.steps(root) else "")
                + ". --resume goes on once evals.floors allows it; another run may train for "
                "less, or with a lower learning rate."
            )
        self.restore(root / f"step_{good}")
        self._ended = True
        console.print(
            f"[bold red]Step {step}[/]: {fallen}. The run ends with the policy of step {good}, "
            f"saved as its last checkpoint, step_{self.recipe.num_steps}."
        )
        self._save(self.recipe.num_steps)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if ranks.is_main() and metrics:
            self.recorder.log(step, metrics)
            last = step == self.recipe.num_steps
            if last or step % self.recipe.output.log_every == 0 or "heldout/accuracy" in metrics:
                console.print(step_line(step, self.recipe.num_steps, metrics))

    def _show_samples(self, step: int) -> None:
        prompts = (self.inputs.heldout.prompts or self.prompts)[:_NUM_SAMPLES]
        if not prompts or not self.answers or not ranks.is_main():
            return
        answers = self.engine.generate(
            [Request(p.id, p.tokens) for p in prompts],
            replace(self.sampling, temperature=0.0),
            seed=0,
            step=step,
        )
        pairs = [(p.messages[-1]["content"], a.text) for p, a in zip(prompts, answers, strict=True)]
        self.recorder.samples(step, pairs)
        for question, answer in pairs:
            console.print(f"  [dim]Q[/] {tail(question)}", f"  [dim]A[/] {tail(answer)}", sep="\n")

    def _save(self, step: int) -> None:
        """Write a checkpoint. A disk that is full costs this one and nothing else."""
        if ranks.is_main():
            root = self.recipe.directory / "checkpoints"
            saved = max(checkpoint.steps(root), default=0)
            self._unsaved = None
            try:
                checkpoint.write(
                    root,
                    step,
                    {
                        "version": self.learner.version,
                        "run": self._identity["run"],
                        "parity": self.parity.state(),
                    },
                    self._save_into,
                    keep_last=self.recipe.output.keep_last,
                    keep=self._kept(),
                    before=self.recorder.written_since(saved),
                )
            except (OSError, SafetensorError) as error:
                self._unsaved = error
                console.print(
                    f"[bold red]The checkpoint of step {step} could not be written[/] ({error}). "
                    f"The run goes on, and would resume from step {saved}: make room."
                )
        ranks.barrier()

    def _save_into(self, directory: Path) -> None:
        self.learner.save(directory)
        if self.ahead:
            (directory / "ahead").mkdir()
        for step, groups in self.ahead.items():
            rollouts.write(directory / "ahead" / f"step_{step:06d}.parquet", step, groups)
        reached("checkpoint/ahead")

    def _dump(self, step: int, minibatch: Batch, error: Exception) -> str:
        """Where the minibatch of a failed update is kept, as a sentence."""
        if not ranks.is_main():
            return "The main rank keeps the batch."
        try:
            path = self.recorder.dump(step, minibatch, error)
        except (OSError, SafetensorError) as second:
            return f"The batch could not be kept ({second})."
        return (
            f"The batch is kept in {path}; `cameleer replay {self.recipe.directory} --step {step}` "
            "executes the step again."
        )

    def _introduce(self) -> None:
        recipe, inputs = self.recipe, self.inputs
        parameters = list(self.learner.model.parameters())
        size = sum(p.numel() for p in parameters)
        adapted = sum(p.numel() for p in parameters if p.requires_grad)
        trained = f"({adapted / 1e6:,.2f} M of them trained) " if recipe.model.lora else ""
        data = described(inputs.prompts if recipe.rollout else inputs.examples)
        console.print(
            f"[bold]{recipe.name}[/]: {type(recipe.algorithm).__name__}, {size / 1e6:,.1f} M "
            f"parameters {trained}in {recipe.model.dtype} on {recipe.runtime.device}, {data}, "
            f"{recipe.num_steps} steps -> {recipe.directory}"
        )
        for line in per_source(recipe.data, inputs.tallies):
            console.print(f"  {line}", markup=False)
