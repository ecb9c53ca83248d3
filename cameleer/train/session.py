"""What a recipe names, made real: data, policy, engine and verifiers. It writes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cameleer.batch import Batch
from cameleer.errors import TrainingError
from cameleer.log import quiet_libraries
from cameleer.models.heads import fit_to_tokenizer, load_scorer
from cameleer.models.load import (
    load_model,
)
from cameleer.models.lora import add_adapter
from cameleer.recipe import Model, Optim, Recipe, Rollout
from cameleer.recipe_files import to_json
from cameleer.rollout.engine import Sampling, make_engine
from cameleer.train import rollouts
from cameleer.train.guards import refuse_device
from cameleer.train.inputs import (
    Inputs,
    fingerprint,
    longest_answer,
    read_inputs,
    resolve,
)
from cameleer.train.learner import Sums
from cameleer.train.metrics import engine_metrics
from cameleer.train.model_reward import ModelReward
from cameleer.train.optimizer import MasterAdamW
from cameleer.train.same_run import MAY_CHANGE
from cameleer.train.torch_learner import TorchLearner, Trained
from cameleer.types import Group
from cameleer.verifiers.isolate import VerifierPool

_HELDOUT_SLOTS = {"cpu": 64, "cuda": 512}
"""Held-out questions that a run without rollouts answers together."""


class Session:
    """A recipe's policy with all that trains it, from the beginning or from a checkpoint."""

    def __init__(self, recipe: Recipe) -> None:
        recipe.validate()
        self.recipe = recipe
        refuse_device(recipe)
        torch.set_num_threads(recipe.runtime.num_threads)
        with quiet_libraries():
            self.inputs = read_inputs(recipe)
            self.learner = _make_learner(recipe, self.inputs)
        self.prompts, self.examples = self.inputs.prompts.prompts, self.inputs.examples.items
        rollout = recipe.rollout
        self.answers = recipe.algorithm.trains == "policy"
        """False for a reward model, which has no engine."""
        if self.answers:
            self.engine = make_engine(
                (rollout or Rollout).engine,
                self.learner.model,
                self.inputs.tokenizer,
                num_slots=rollout.num_slots if rollout else _HELDOUT_SLOTS[recipe.runtime.device],
            )
        self.reward_model = _load_reward_model(recipe, self.inputs.tokenizer)
        self.pool = VerifierPool(
            dict(recipe.verifiers), num_workers=recipe.runtime.num_verifier_workers
        )
        self.ahead: dict[int, list[Group]] = {}
        """Groups that were collected before their step, by step."""
        self.sampling = Sampling(
            max_tokens=rollout.max_tokens if rollout else longest_answer(self.inputs.examples),
            temperature=rollout.temperature if rollout else 1.0,
            stop=rollout.stop if rollout else (),
        )

    def __enter__(self) -> Self:
        self.pool.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def identity(self) -> dict[str, Any]:
        """What makes a run this one: hashes of its weights, its data, and of the whole."""
        recipe = self.recipe
        asked = to_json(recipe)
        start = {
            "weights": self.weights(),
            "data": [fingerprint(source) for source in recipe.data],
        }
        fixed = {k: v for k, v in asked.items() if k not in MAY_CHANGE | {"name", "model", "data"}}
        if recipe.model.lora:
            fixed["lora"] = asked["model"]["lora"]
        text = json.dumps([start, fixed], sort_keys=True)
        return {"run": hashlib.sha256(text.encode()).hexdigest()[:16], **start}

    def weights(self) -> dict[str, Any]:
        """Hashes of all models that the run begins with."""
        found = self.learner.identity()
        if self.reward_model is not None:
            found["reward model"] = self.reward_model.hash
        return found

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint's weights, optimizer and groups in waiting."""
        self.learner.load(checkpoint)
        self.publish()
        by_id = {prompt.id: prompt for prompt in self.prompts}
        self.ahead = {
            int(path.stem.removeprefix("step_")): rollouts.read(path, by_id)
            for path in sorted((checkpoint / "ahead").glob("step_*.parquet"))
        }

    def publish(self) -> None:
        """Tell the engine that the learner's weights are others."""
        if self.answers:
            self.engine.load(version=self.learner.version)

    def keep_rollouts(self, step: int, groups: Sequence[Group], batch: Batch) -> None:
        """Where a run writes a step's completions down before the update. A session does not."""

    def compare_engine(
        self, step: int, groups: Sequence[Group], batch: Batch, version: int
    ) -> dict[str, float]:
        """How far the engine was from the learner of a version, on the tokens of a step."""
        assert self.recipe.rollout is not None
        return engine_metrics(batch, version if self.recipe.rollout.max_staleness else None)

    def update(self, step: int, minibatch: Batch, sums: Sums) -> Tensor:
        """One optimizer step. Returns the log-probabilities that it was made from, [N].

        Raises TrainingError for a loss or gradient that is not a number.
        """
        found, logprobs_N = self.learner.forward_backward(minibatch)
        loss = found.total["loss"]
        optim = self.learner.step() if math.isfinite(loss) else {}
        wrong = f"loss is {loss}" if not optim else ""
        for name, value in optim.items():
            if not math.isfinite(value):
                wrong = f"{name.removeprefix('optim/').replace('_', ' ')} is {value}"
        if wrong:
            raise TrainingError(
                f"Step {step}: the {wrong.replace('grad norm', 'gradient norm')}, so no update was "
                "made."
            )
        for name, total in found.total.items():
            sums.add(name, total, found.count[name])
        for name, value in optim.items():
            sums.add(name, value)
        return logprobs_N


def _make_learner(recipe: Recipe, inputs: Inputs) -> TorchLearner:
    source, device = resolve(recipe.model.source), recipe.runtime.device
    dtype = recipe.model.dtype

    def load_policy() -> Any:
        policy = load_model(source, dtype, device)
        fit_to_tokenizer(policy, inputs.tokenizer)
        return policy

    def new_scorer(of: Model) -> Any:
        scorer = load_scorer(resolve(of.source), of.dtype, device, seed=recipe.seed)
        fit_to_tokenizer(scorer, inputs.tokenizer)
        return scorer

    def trained(model: Any, of: Model, optim: Optim) -> Trained:
        if of.lora:
            add_adapter(model, **dataclasses.asdict(of.lora), seed=recipe.seed)
        optimizer = MasterAdamW(
            model,
            lr=optim.learning_rate,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            warmup_steps=optim.warmup_steps,
            schedule=optim.schedule,
            num_updates=recipe.num_updates,
        )
        return Trained(model, optimizer, optim.max_grad_norm)

    answers = recipe.algorithm.trains == "policy"
    value, value_optim = recipe.value_model, recipe.value_optim or recipe.optim
    # Under LoRA the reference is the policy itself, without its adapter.
    second = "reference" in recipe.algorithm.needs and not recipe.model.lora
    return TorchLearner(
        trained(load_policy() if answers else new_scorer(recipe.model), recipe.model, recipe.optim),
        inputs.tokenizer,
        recipe.algorithm,
        temperature=recipe.rollout.temperature if recipe.rollout else 1.0,
        micro_batch_tokens=recipe.runtime.micro_batch_tokens,
        fused=recipe.fuses,
        load_reference=load_policy if second else None,
        value=trained(new_scorer(value), value, value_optim) if value else None,
    )


def _load_reward_model(recipe: Recipe, tokenizer: Any) -> ModelReward | None:
    term = recipe.reward_model
    if term is None:
        return None
    model = load_scorer(resolve(term.source), term.dtype, recipe.runtime.device)
    fit_to_tokenizer(model, tokenizer)
    return ModelReward(term, model, recipe.runtime.micro_batch_tokens)
