"""A run: everything a recipe names, made real, with what the two loops share."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cameleer.batch import Batch
from cameleer.data.chat import with_template
from cameleer.data.prompts import Example, Prompts, check_truths, load_examples, load_prompts
from cameleer.data.sources import Source
from cameleer.errors import ModelError, RecipeError, RunError, TrainingError
from cameleer.log import console, quiet_libraries
from cameleer.models.load import check_vocabulary, load_config, load_model, load_tokenizer
from cameleer.recipe import Recipe, to_json
from cameleer.rollout.engine import Request, RolloutEngine, Sampling
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.train import checkpoint, ranks
from cameleer.train.console import progress, step_line, tail, warn
from cameleer.train.guards import (
    count_parameters,
    notices,
    refuse_full_disk,
    refuse_output,
    refuse_overlap,
)
from cameleer.train.heldout import heldout_accuracy
from cameleer.train.learner import Sums
from cameleer.train.optimizer import MasterAdamW
from cameleer.train.parity import Gap, Parity
from cameleer.train.probe import probe, worth_probing
from cameleer.train.recorder import Recorder, environment, read_json, write_json
from cameleer.train.sinks import require_sinks
from cameleer.train.torch_learner import TorchLearner
from cameleer.train.watch import Watch
from cameleer.types import Group
from cameleer.verifiers.isolate import VerifierPool

_MAY_CHANGE = {"num_steps", "output", "heldout"}
"""Fields of a recipe that a resumed run may have otherwise than when it started."""

_NUM_SAMPLES = 2


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a recipe reads before any weights: enough to check everything but memory."""

    tokenizer: Any
    config: Any
    prompts: Prompts
    examples: list[Example]
    heldout: Prompts
    longest: int
    """Tokens of the longest sequence that the run can meet."""
    longest_answer: int
    """Those of them that are sampled or trained."""


def resolve(source: str) -> str:
    """The directory or hub id of a model; ``module:function`` is called for it."""
    if ":" not in source:
        return source
    module, _, name = source.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"model.source names {source}, which cannot be imported: {error}"
        ) from error
    return str(function())


def read_inputs(recipe: Recipe) -> Inputs:
    """Tokenizer, configuration and data, checked against each other."""
    source = resolve(recipe.model.source)
    config, tokenizer = load_config(source), load_tokenizer(source)
    check_vocabulary(tokenizer, config, source)
    with_template(tokenizer, recipe.model.chat_template, source)
    prompts = heldout = Prompts((), 0)
    examples: list[Example] = []
    limit = recipe.rollout.max_prompt_tokens if recipe.rollout else recipe.max_tokens
    if recipe.rollout:
        prompts = _checked_prompts(recipe, recipe.data, tokenizer, limit)
    else:
        examples = load_examples(recipe.data, tokenizer, max_tokens=recipe.max_tokens)
    if recipe.heldout:
        heldout = _checked_prompts(recipe, recipe.heldout.sources, tokenizer, limit)
        heldout = Prompts(heldout.prompts[: recipe.heldout.num_prompts], heldout.too_long)
    answer, its_name = recipe.rollout.max_tokens if recipe.rollout else 0, "rollout.max_tokens"
    if recipe.heldout and not recipe.rollout:
        answer, its_name = _longest_answer(examples), "the longest answer in the data"
    longest = max((len(p.tokens) for p in (*prompts.prompts, *heldout.prompts)), default=0) + answer
    longest = max(longest, max((len(e.tokens) for e in examples), default=0))
    window = getattr(config, "max_position_embeddings", None)
    if window and longest > window:
        raise ModelError(
            f"The longest sequence has {longest} tokens (its prompt, and {answer} of {its_name}), "
            f"and {source} was made for {window}. Lower max_prompt_tokens or max_tokens."
        )
    sliding = getattr(config, "sliding_window", None)
    if sliding and longest > sliding:
        raise ModelError(
            f"The longest sequence has {longest} tokens, and {source} attends to the last "
            f"{sliding} only, which is not implemented. Lower max_prompt_tokens or max_tokens."
        )
    refuse_overlap(prompts, examples, heldout)
    answer = answer or max(sum(e.mask) for e in examples)
    return Inputs(tokenizer, config, prompts, examples, heldout, longest, answer)


def refuse_changes(recipe: Recipe) -> None:
    """Raises RunError where a run to resume is not there, or was started with another recipe."""
    directory, asked = recipe.directory, to_json(recipe)
    if not (directory / "recipe.json").exists():
        raise RunError(f"{directory} holds no run to resume. Start it without --resume.")
    stored = read_json(directory / "recipe.json")
    for name in asked:
        if name not in _MAY_CHANGE and stored.get(name) != asked[name]:
            difference = _first_difference(stored.get(name), asked[name], name)
            raise RunError(
                f"{directory} was started with {difference}. A resumed run has to be the same "
                "run: set it back, or start another with --name OTHER."
            )


class Run:
    """Opens the run directory, loads the policy, and keeps the books of the loops."""

    def __init__(self, recipe: Recipe, *, resume: bool) -> None:
        recipe.validate()
        self.recipe = recipe
        self._stored = to_json(recipe)
        self._check_directory(resume)
        # No rank may make the directory before all have found it absent.
        ranks.barrier()
        _check_device(recipe)
        require_sinks(recipe.output.sinks)
        torch.set_num_threads(recipe.runtime.num_threads)
        with quiet_libraries():
            inputs = read_inputs(recipe)
            self._inputs = inputs
            refuse_output(recipe.directory)
            refuse_full_disk(recipe, count_parameters(inputs.config), resume=resume)
            self.prompts, self.examples = inputs.prompts.prompts, inputs.examples
            self.learner = self._make_learner(inputs)
        rollout = recipe.rollout
        self.engine: RolloutEngine = TorchEngine(
            self.learner.model, inputs.tokenizer, num_slots=rollout.num_slots if rollout else 64
        )
        self.pool = VerifierPool(
            dict(recipe.verifiers), num_workers=recipe.runtime.num_verifier_workers
        )
        self.parity = Parity(self.learner, rollout.temperature if rollout else 1.0, warn)
        self._watch = Watch(recipe)
        self.first_step = 1
        if resume:
            self._resume()
        self.engine.load(version=self.learner.version)
        self._resumes = resume

    def __enter__(self) -> Run:
        # Before the directory is made: verifiers that cannot start leave none behind.
        self.pool.__enter__()
        try:
            self._probe()
            gap = self._compare()
        except BaseException:
            self.pool.close()
            raise
        ranks.barrier()
        if ranks.is_main():
            self._open_store(self._resumes)
            if gap:
                gap.append(self.recipe.directory / "parity.jsonl", self.first_step - 1)
                console.print(f"engine and learner agree: {gap}")
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        if ranks.is_main():
            self.recorder.close()

    def steps(self) -> Iterator[int]:
        """The steps still to run, from 1; answers the held-out questions before the first."""
        if self.first_step == 1:
            self._log(0, self._heldout())
        with progress(self.recipe.name, self.recipe.num_steps) as show:
            for step in range(self.first_step, self.recipe.num_steps + 1):
                yield step
                show(step)

    def update(self, step: int, minibatch: Batch, sums: Sums) -> None:
        """One optimizer step. A loss or gradient that is not a number ends the run."""
        found = self.learner.forward_backward(minibatch)
        loss = found.total["loss"]
        optim = self.learner.step() if math.isfinite(loss) else {}
        norm = optim.get("optim/grad_norm", math.nan)
        if not math.isfinite(norm):
            what = f"gradient norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
            where = self.recorder.dump(step, minibatch) if ranks.is_main() else "the main rank"
            raise TrainingError(
                f"Step {step}: the {what}, so no update was made. The batch is kept in {where}. "
                "Resume from the last checkpoint with a lower optim.learning_rate or another seed."
            )
        for name, total in found.total.items():
            sums.add(name, total, found.count[name])
        for name, value in optim.items():
            sums.add(name, value)

    def end_step(
        self,
        step: int,
        metrics: dict[str, float],
        groups: Sequence[Group] = (),
        batch: Batch | None = None,
    ) -> None:
        """Record a step; evaluate, show samples and save where they are due."""
        recipe, output = self.recipe, self.recipe.output
        last = step == recipe.num_steps
        every = recipe.heldout.every if recipe.heldout else 0
        if last or (every and step % every == 0):
            metrics = {**metrics, **self._heldout()}
        if ranks.is_main() and batch is not None:
            self.recorder.rollouts(step, groups, batch)
        self._log(step, metrics)
        for warning in self._watch.step(step, metrics):
            warn(warning)
        if output.sample_every and (last or step % output.sample_every == 0):
            self._show_samples(step)
        if last or step % output.save_every == 0:
            self._save(step)

    # What the constructor is made of

    def _check_directory(self, resume: bool) -> None:
        directory = self.recipe.directory
        if not resume and directory.exists() and any(directory.iterdir()):
            raise RunError(
                f"{directory} exists already. Continue it with --resume, start another with "
                "--name OTHER, or delete it."
            )
        if resume:
            refuse_changes(self.recipe)

    def _make_learner(self, inputs: Inputs) -> TorchLearner:
        recipe = self.recipe
        source, device = resolve(recipe.model.source), recipe.runtime.device

        def load_policy() -> Any:
            return load_model(source, recipe.model.dtype, device)

        policy, optim = load_policy(), recipe.optim
        optimizer = MasterAdamW(
            policy,
            lr=optim.learning_rate,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            warmup_steps=optim.warmup_steps,
        )
        return TorchLearner(
            policy,
            inputs.tokenizer,
            recipe.algorithm,
            optimizer,
            temperature=recipe.rollout.temperature if recipe.rollout else 1.0,
            max_grad_norm=optim.max_grad_norm,
            micro_batch_tokens=recipe.runtime.micro_batch_tokens,
            load_reference=load_policy if "reference" in recipe.algorithm.needs else None,
        )

    def _resume(self) -> None:
        """Continue from the newest complete checkpoint, if the start is still the same."""
        manifest = read_json(self.recipe.directory / "manifest.json")
        for what, now in self.learner.identity().items():
            then = manifest["weights"][what]
            if now != then:
                raise RunError(
                    f"{self.recipe.model.source} is not the {what} that this run started from: its "
                    f"weights hash to {str(now)[:12]}, and did to {str(then)[:12]}. Put the old "
                    "weights back; another start is another run."
                )
        for source, then in zip(self.recipe.data, manifest["data"], strict=True):
            now = _fingerprint(source)
            if now != then:
                raise RunError(
                    f"{source.path} is not the file that this run started from: its sha256 is "
                    f"{now.get('sha256', 'none')[:12]}, and was {then.get('sha256', 'none')[:12]}. "
                    "Put the old rows back; other data is another run."
                )
        root = self.recipe.directory / "checkpoints"
        if checkpoint.exists(root):
            path, state = checkpoint.latest(root)
            self.learner.load(path)
            self.first_step = state["step"] + 1
        ranks.barrier()
        if ranks.is_main():
            checkpoint.cut(root, self.first_step - 1)
            where = f"after step {self.first_step - 1}"
            if self.first_step == 1:
                where = "from its start: it stopped before the first checkpoint"
            console.print(f"resuming {self.recipe.name} {where}")

    def _probe(self) -> None:
        """Raises TrainingError where the longest batch would run out of memory."""
        longest = self._inputs.longest
        for notice in notices(self.recipe, longest):
            warn(notice)
        size = sum(p.numel() for p in self.learner.model.parameters())
        if self.first_step <= self.recipe.num_steps and worth_probing(self.recipe, size, longest):
            answer = self._inputs.longest_answer
            probe(self.recipe, self.engine, self.learner, longest, answer)

    def _compare(self) -> Gap | None:
        """Raises TrainingError where the engine does not sample from the learner's policy."""
        rollout, seed = self.recipe.rollout, self.recipe.seed
        if rollout is None or self.first_step > self.recipe.num_steps:
            return None
        return self.parity.start(
            self.engine, self.prompts, max_tokens=rollout.max_tokens, seed=seed
        )

    def _open_store(self, resume: bool) -> None:
        recipe, directory = self.recipe, self.recipe.directory
        directory.mkdir(parents=True, exist_ok=True)
        self.recorder = Recorder(directory, self._stored, recipe.output.sinks)
        write_json(directory / "recipe.json", self._stored)
        if resume:
            # From its start a run answers the held-out questions of step 0 again.
            self.recorder.cut(self.first_step - 1 if self.first_step > 1 else -1)
            return
        inputs = self._inputs
        write_json(
            directory / "manifest.json",
            {
                **environment(),
                "seed": recipe.seed,
                "num_threads": recipe.runtime.num_threads,
                "world_size": ranks.world_size(),
                "weights": self.learner.identity(),
                "data": [_fingerprint(s) for s in recipe.data],
                "heldout": [_fingerprint(s) for s in recipe.heldout.sources]
                if recipe.heldout
                else [],
                "prompts": len(inputs.prompts.prompts),
                "prompts_too_long": inputs.prompts.too_long,
                "examples": len(inputs.examples),
            },
        )
        self._introduce()

    # What a step ends with

    def _heldout(self) -> dict[str, float]:
        heldout = self.recipe.heldout
        if heldout is None:
            return {}
        return heldout_accuracy(
            self.engine,
            self.pool,
            self._inputs.heldout.prompts,
            self._answering(heldout.temperature),
            seed=self.recipe.seed,
        )

    def _answering(self, temperature: float) -> Sampling:
        rollout = self.recipe.rollout
        return Sampling(
            max_tokens=rollout.max_tokens if rollout else _longest_answer(self.examples),
            temperature=temperature,
            stop=rollout.stop if rollout else (),
        )

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if ranks.is_main() and metrics:
            self.recorder.log(step, metrics)
            last = step == self.recipe.num_steps
            if last or step % self.recipe.output.log_every == 0 or "heldout/accuracy" in metrics:
                console.print(step_line(step, self.recipe.num_steps, metrics))

    def _show_samples(self, step: int) -> None:
        prompts = (self._inputs.heldout.prompts or self.prompts)[:_NUM_SAMPLES]
        if not prompts or not ranks.is_main():
            return
        answers = self.engine.generate(
            [Request(p.id, p.tokens) for p in prompts], self._answering(0.0), seed=0, step=step
        )
        pairs = [(p.messages[-1]["content"], a.text) for p, a in zip(prompts, answers, strict=True)]
        self.recorder.samples(step, pairs)
        for question, answer in pairs:
            console.print(f"  [dim]Q[/] {tail(question)}", f"  [dim]A[/] {tail(answer)}", sep="\n")

    def _save(self, step: int) -> None:
        if ranks.is_main():
            checkpoint.write(
                self.recipe.directory / "checkpoints",
                step,
                {"version": self.learner.version},
                self.learner.save,
                keep_last=self.recipe.output.keep_last,
            )
        ranks.barrier()

    def _introduce(self) -> None:
        recipe, inputs = self.recipe, self._inputs
        size = sum(p.numel() for p in self.learner.model.parameters())
        data = f"{len(inputs.prompts.prompts) or len(inputs.examples):,} "
        data += "prompts" if recipe.rollout else "examples"
        if inputs.prompts.too_long:
            data += f" ({inputs.prompts.too_long:,} dropped: too long)"
        console.print(
            f"[bold]{recipe.name}[/]: {type(recipe.algorithm).__name__}, {size / 1e6:,.1f} M "
            f"parameters in {recipe.model.dtype} on {recipe.runtime.device}, {data}, "
            f"{recipe.num_steps} steps -> {recipe.directory}"
        )


def _checked_prompts(
    recipe: Recipe, sources: Sequence[Source], tokenizer: Any, max_tokens: int
) -> Prompts:
    origins: dict[str, str] = {}
    found = load_prompts(sources, tokenizer, max_tokens=max_tokens, origins=origins)
    check_truths(found.prompts, dict(recipe.verifiers), origins)
    return found


def _check_device(recipe: Recipe) -> None:
    if recipe.runtime.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "runtime.device is 'cuda', and torch finds no CUDA device here. Set --runtime.device "
            "cpu, or run where there is a GPU and a CUDA build of torch."
        )


def _longest_answer(examples: Sequence[Example]) -> int:
    """A model that imitates has no reason to answer longer than it was shown."""
    return max(sum(e.mask) for e in examples) + 8


def _fingerprint(source: Source) -> dict[str, Any]:
    path = Path(source.path)
    known = dataclasses.asdict(source)
    if path.is_file():
        known["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return known


def _first_difference(stored: Any, asked: Any, path: str) -> str:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            if stored.get(key) != asked.get(key):
                return _first_difference(stored.get(key), asked.get(key), f"{path}.{key}")
    return f"{path}={stored!r}, and is to go on with {asked!r}"
