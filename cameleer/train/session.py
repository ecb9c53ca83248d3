"""What a recipe names, made real: data, policy, engine and verifiers. It writes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cameleer.batch import Batch
from cameleer.data.chat import with_template
from cameleer.data.mixture import Tally
from cameleer.data.preference import load_pairs
from cameleer.data.prompts import (
    Examples,
    Prompts,
    check_truths,
    load_examples,
    load_prompts,
    reasons,
)
from cameleer.data.sources import Source, local_file, sha256_of
from cameleer.errors import DataError, ModelError, RecipeError, RunError, TrainingError
from cameleer.log import quiet_libraries
from cameleer.models.heads import add_pad_token, fit_to_tokenizer, load_scorer
from cameleer.models.load import (
    check_same_tokens,
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
)
from cameleer.models.lora import add_adapter
from cameleer.models.tiny import cache_directory
from cameleer.recipe import Curate, Model, Optim, Recipe, Rollout
from cameleer.recipe_files import to_json
from cameleer.rollout.engine import Sampling, make_engine
from cameleer.train import ranks, rollouts
from cameleer.train.guards import checkpoint_bytes, count_parameters, refuse_overlap
from cameleer.train.learner import Sums
from cameleer.train.metrics import engine_metrics
from cameleer.train.model_reward import ModelReward
from cameleer.train.optimizer import MasterAdamW
from cameleer.train.torch_learner import TorchLearner, Trained
from cameleer.types import Group
from cameleer.user_files import call
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.isolate import VerifierPool

_HELDOUT_SLOTS = {"cpu": 64, "cuda": 512}
"""Held-out questions that a run without rollouts answers together."""

MAY_CHANGE = {"num_steps", "output", "heldout", "evals"}
"""Fields of a recipe that a resumed run may have otherwise than when it started."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a recipe reads before any weights: enough to check everything but memory."""

    tokenizer: Any
    config: Any
    prompts: Prompts
    examples: Examples
    heldout: Prompts
    heldout_pairs: Examples
    """What a reward model is measured on."""
    longest: int
    """Tokens of the longest sequence that the run can meet."""
    longest_answer: int
    """Those of them that are sampled or trained."""

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """What became of the rows of each source of the recipe's data."""
        return self.prompts.sources or self.examples.sources


def resolve(source: str) -> str:
    """The directory or hub id of a model, or what a function that is named instead returns."""
    if ":" not in source:
        return source
    try:
        return str(call(source))
    except RecipeError as error:
        raise RecipeError(f"model.source names {source}: {error}") from error


def read_inputs(recipe: Recipe) -> Inputs:
    """Tokenizer, configuration and data, checked against each other."""
    source = resolve(recipe.model.source)
    config, tokenizer = load_config(source), load_tokenizer(source)
    check_vocabulary(tokenizer, config, source)
    _refuse_scorer(config, recipe, source)
    with_template(tokenizer, recipe.model.chat_template, source)
    ranks_pairs = recipe.algorithm.trains == "reward_model"
    add_pad_token(tokenizer, apart_from_eos=ranks_pairs)
    for what, other in _others(recipe).items():
        check_same_tokens(tokenizer, load_tokenizer(resolve(other)), other, what)
    prompts, examples = read_data(recipe, tokenizer)
    prompts = check_truths(prompts, recipe.verifiers, recipe.data)
    heldout, heldout_pairs = Prompts(()), Examples(())
    if recipe.heldout:
        sources, count = recipe.heldout.sources, recipe.heldout.num_prompts
        limit = recipe.rollout.max_prompt_tokens if recipe.rollout else recipe.max_tokens
        if ranks_pairs:
            heldout_pairs = load_pairs(
                sources, tokenizer, max_tokens=limit, seed=recipe.seed, cache=_prepared()
            )
            some = [heldout_pairs.items[i] for i in range(min(count, len(heldout_pairs.items)))]
            heldout_pairs = dataclasses.replace(heldout_pairs, items=some)
        else:
            heldout = checked_prompts(sources, recipe.verifiers, tokenizer, limit, recipe.seed)
            heldout = dataclasses.replace(heldout, prompts=heldout.prompts[:count])
            _refuse_unchecked(heldout)
    answer, its_name = recipe.rollout.max_tokens if recipe.rollout else 0, "rollout.max_tokens"
    if recipe.heldout and not recipe.rollout:
        answer, its_name = longest_answer(examples), "the longest answer in the data"
    longest = max((len(p.tokens) for p in (*prompts.prompts, *heldout.prompts)), default=0) + answer
    longest = max(longest, examples.longest)
    window = getattr(config, "max_position_embeddings", None)
    lower = "max_prompt_tokens or max_tokens" if recipe.rollout else "max_tokens"
    if window and longest > window:
        parts = f" (its prompt, and {answer} of {its_name})" if longest > examples.longest else ""
        raise ModelError(
            f"The longest sequence has {longest} tokens{parts}, and {source} was made for "
            f"{window}. Lower {lower}."
        )
    sliding = getattr(config, "sliding_window", None)
    if sliding and longest > sliding:
        raise ModelError(
            f"The longest sequence has {longest} tokens, and {source} attends to the last "
            f"{sliding} only, which is not implemented. Lower {lower}."
        )
    refuse_overlap(prompts, examples, heldout, heldout_pairs)
    answer = answer or examples.longest_trained
    return Inputs(tokenizer, config, prompts, examples, heldout, heldout_pairs, longest, answer)


def _refuse_scorer(config: Any, recipe: Recipe, source: str) -> None:
    """Raises ModelError where a reward model would be trained as a policy, with another head."""
    kinds = getattr(config, "architectures", None) or ()
    if recipe.algorithm.trains == "policy" and any("SequenceClassification" in k for k in kinds):
        raise ModelError(
            f"{source} is a reward model ({', '.join(kinds)}), and a policy is a language model. "
            "Name the one that it was made from."
        )


def _refuse_unchecked(heldout: Prompts) -> None:
    """Raises DataError for questions of which nobody could say whether an answer is right."""
    unchecked = [prompt.id for prompt in heldout.prompts if not prompt.checks]
    if unchecked:
        raise DataError(
            f"{len(unchecked):,} of {len(heldout.prompts):,} held-out questions have no check, the "
            f"first at {heldout.places[unchecked[0]][1]}: held-out questions need a ground truth, "
            "and the recipe `verifiers` that read it. Add them, or remove `heldout`."
        )


def read_data(recipe: Recipe, tokenizer: Any) -> tuple[Prompts, Examples]:
    """What a recipe trains on: prompts, or examples or pairs. The other has none."""
    seed, cache = recipe.seed, _prepared()
    if recipe.rollout:
        limit = recipe.rollout.max_prompt_tokens
        found = load_prompts(recipe.data, tokenizer, max_tokens=limit, seed=seed, cache=cache)
        return found, Examples(())
    load = load_pairs if recipe.algorithm.learns_from == "pairs" else load_examples
    limit = recipe.max_tokens
    return Prompts(()), load(recipe.data, tokenizer, max_tokens=limit, seed=seed, cache=cache)


def _prepared() -> Path:
    return cache_directory() / "prepared"


def checkpoint_size(recipe: Recipe) -> int:
    """Bytes of all models and optimizers that a checkpoint holds, without loading them.

    Raises ModelError for a model that is none, or that LoRA cannot adapt.
    """
    size = 0
    scores = recipe.algorithm.trains == "reward_model"
    for model, is_scorer in ((recipe.model, scores), (recipe.value_model, True)):
        if model:
            with quiet_libraries():
                config = load_config(resolve(model.source))
                counts = count_parameters(model, config, scores=is_scorer)
            size += checkpoint_bytes(model, *counts)
    return size


class Session:
    """A recipe's policy with all that trains it, from the beginning or from a checkpoint."""

    def __init__(self, recipe: Recipe) -> None:
        recipe.validate()
        self.recipe = recipe
        check_device(recipe)
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
            "weights": self._weights(),
            "data": [fingerprint(source) for source in recipe.data],
        }
        fixed = {k: v for k, v in asked.items() if k not in MAY_CHANGE | {"name", "model", "data"}}
        if recipe.model.lora:
            fixed["lora"] = asked["model"]["lora"]
        text = json.dumps([start, fixed], sort_keys=True)
        return {"run": hashlib.sha256(text.encode()).hexdigest()[:16], **start}

    def refuse_other_start(self, manifest: dict[str, Any]) -> None:
        """Raises RunError where weights, data or ranks are not those that a run started with."""
        for what, now in self._weights().items():
            then = manifest["weights"].get(what)
            if now != then:
                start = _others(self.recipe).get(what, self.recipe.model.source)
                raise RunError(
                    f"{start} is not the {what} that "
                    f"this run started from: its weights hash to {str(now)[:12]}, and did to "
                    f"{str(then)[:12]}. Put the old weights back; another start is another run."
                )
        for source, then in zip(self.recipe.data, manifest["data"], strict=True):
            now = fingerprint(source)
            if now != {name: then.get(name) for name in now}:
                raise RunError(
                    f"{source.path} is not the file that this run started from: its sha256 is "
                    f"{now.get('sha256', 'none')[:12]}, and was {then.get('sha256', 'none')[:12]}. "
                    "Put the old rows back; other data is another run."
                )
        for source, tally, then in zip(
            self.recipe.data, self.inputs.tallies, manifest["data"], strict=True
        ):
            # Without a network the hub's client may not know it, which is no difference.
            if tally.commit and then.get("commit") and tally.commit != then["commit"]:
                raise RunError(
                    f"{source.path} is at commit {tally.commit[:12]} on the hub, and was at "
                    f"{then['commit'][:12]} when this run started: other data is another run. Set "
                    "revision of the source to start one of the same data."
                )
        if ranks.world_size() != manifest["world_size"]:
            raise RunError(
                f"This run was started on {manifest['world_size']} processes, and is to go on with "
                f"{ranks.world_size()}, which add gradients up in another order. Give torchrun "
                f"--nproc-per-node {manifest['world_size']}."
            )

    def _weights(self) -> dict[str, Any]:
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
        fused=_fuses(recipe),
        load_reference=load_policy if second else None,
        value=trained(new_scorer(value), value, value_optim) if value else None,
    )


def _c_compiler() -> str | None:
    """As Triton finds it."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def _fuses(recipe: Recipe) -> bool:
    """Not where an engine samples, which would round otherwise than a fused policy: by 0.045 nats a
    token in the mean, SmolLM2-135M on an H100, where the two agree to 1e-5 now."""
    if not recipe.runtime.compile or recipe.rollout or recipe.model.lora:
        return False
    return recipe.runtime.device == "cuda" and recipe.model.dtype == "bfloat16"


def _load_reward_model(recipe: Recipe, tokenizer: Any) -> ModelReward | None:
    term = recipe.reward_model
    if term is None:
        return None
    model = load_scorer(resolve(term.source), term.dtype, recipe.runtime.device)
    fit_to_tokenizer(model, tokenizer)
    return ModelReward(term, model, recipe.runtime.micro_batch_tokens)


def _others(recipe: Recipe) -> dict[str, str]:
    """Sources of the models that read the policy's tokens, by what they are."""
    found = {}
    if recipe.value_model:
        found["value model"] = recipe.value_model.source
    if recipe.reward_model:
        found["reward model"] = recipe.reward_model.source
    return found


def checked_prompts(
    sources: Sequence[Source],
    verifiers: Mapping[str, Verifier],
    tokenizer: Any,
    max_tokens: int,
    seed: int,
) -> Prompts:
    """The prompts of all sources. Raises DataError where a truth cannot be read."""
    found = load_prompts(sources, tokenizer, max_tokens=max_tokens, seed=seed, cache=_prepared())
    return check_truths(found, verifiers, sources)


def check_device(recipe: Recipe | Curate) -> None:
    """Raises RecipeError for a CUDA device that is not there."""
    if recipe.runtime.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "runtime.device is 'cuda', and torch finds no CUDA device here. Set --runtime.device "
            "cpu, or run where there is a GPU and a CUDA build of torch."
        )
    if isinstance(recipe, Recipe) and _fuses(recipe) and not _c_compiler():
        raise RecipeError(
            "runtime.compile fuses kernels with torch.compile, which needs a C compiler, and there "
            "is neither gcc nor clang here, nor is CC set. Install one, or set "
            "--runtime.compile false."
        )


def longest_answer(examples: Examples) -> int:
    """A model that imitates has no reason to answer longer than it was shown."""
    return examples.longest_trained + 8


def described(found: Prompts | Examples) -> str:
    """How many there are, and what became of the other rows, for people."""
    if isinstance(found, Prompts):
        text = f"{len(found.prompts):,} prompts"
    else:
        kind = "pairs" if len(found.items[0]) == 2 else "examples"
        text = f"{len(found.items):,} {kind}"
    notes = [reasons(found.sources)] if any(tally.dropped for tally in found.sources) else []
    truncated = sum(tally.truncated for tally in found.sources)
    if truncated:
        notes.insert(0, f"{truncated:,} cut at max_tokens")
    return f"{text} ({'; '.join(notes)})" if notes else text


def per_source(sources: Sequence[Source], tallies: Sequence[Tally]) -> list[str]:
    """A line for each source of a mixture; none where there is nothing to tell apart."""
    if len(sources) == 1 and tallies[0].taken == tallies[0].rows:
        return []
    total = sum(tally.tokens for tally in tallies)
    return [
        f"{source.name or source.path}: {tally.taken:,} taken of {tally.rows:,} rows, "
        f"{tally.kept:,} kept, {tally.tokens:,} tokens ({tally.tokens / total:.1%})"
        for source, tally in zip(sources, tallies, strict=True)
    ]


def fingerprint(source: Source) -> dict[str, Any]:
    path, known = local_file(source), dataclasses.asdict(source)
    if path is not None and path.is_file():
        known["sha256"] = sha256_of(path)
    return known
