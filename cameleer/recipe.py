"""What a run is made of. A recipe is a Python function that returns a `Recipe` or a `Ladder`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cameleer.algorithms import Algorithm
from cameleer.algorithms.normalize import Normalize
from cameleer.data.chat import ChatTemplate
from cameleer.data.sources import Source
from cameleer.errors import RecipeError, nearest
from cameleer.types import Completion, DType, Score
from cameleer.user_files import call, is_in_a_file
from cameleer.verifiers.base import Verifier


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank updates that are trained in place of a model's weights. There is no dropout."""

    rank: int = 16
    alpha: float = 32.0
    """Updates are scaled by alpha / rank."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers by the end of their names, such as ``q_proj``, or all of the decoder's."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv:2312.03732)."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The policy a run starts from, which is also its frozen reference."""

    source: str
    """A Hugging Face directory or hub id, a function that returns a directory, as
    ``module:function`` or ``file.py:function``, or in a ladder ``stage:NAME`` for what the stage of
    that name ended with."""
    dtype: DType = "float32"
    """What the policy computes in. The optimizer's weights are float32 in any case."""
    chat_template: ChatTemplate = "tokenizer"
    """Tulu 3's template, or the tokenizer's own."""
    license: str = ""
    """What the hub calls its terms, such as "apache-2.0", for the model card. Empty: unknown."""
    lora: LoRA | None = None
    """None trains all weights."""


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Turns scores into the number that the algorithm compares."""

    correct: float = 10.0
    """Reward of a fully right completion; times score and weight, summed over its checks."""
    without_eos: float | None = 0.0
    """Reward of a completion without end-of-sequence token, whatever its score. None leaves it."""

    def of(
        self, completion: Completion, scores: tuple[Score, ...], weights: tuple[float, ...]
    ) -> float | None:
        """The reward, or None where any check reached no verdict."""
        if any(score.status != "scored" for score in scores):
            return None
        if self.without_eos is not None and completion.finish_reason != "eos":
            return self.without_eos
        return self.correct * sum(s.value * w for s, w in zip(scores, weights, strict=True))


@dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """A trained reward model, whose score is added to what verifiers give."""

    source: str
    """Of the reward model, as in `Model`. It has to have the policy's tokenizer."""
    weight: float = 1.0
    """Times its score, which knows no unit. open-instruct's ``reward_model_multiplier``."""
    dtype: DType = "float32"


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How completions are collected for a step of reinforcement learning."""

    num_prompts: int
    """Prompts a step."""
    group_size: int
    """Completions of each prompt."""
    max_tokens: int
    """Longest completion, in tokens."""
    max_prompt_tokens: int = 2048
    """Longer prompts are dropped and counted."""
    temperature: float = 1.0
    """Divides the logits, in the sampler and in the learner's log-probabilities alike."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion besides the end-of-sequence token."""
    num_slots: int = 64
    """Completions decoded together. Memory grows with it; what is sampled does not change."""
    engine: str = "cameleer.rollout.torch_engine:TorchEngine"
    """A `RolloutEngine`, as ``module:class`` or ``file.py:CLASS``; see docs/add/engine.md."""
    max_staleness: int = 0
    """Steps that groups are collected ahead of their update. 0 is on-policy; Tulu 3.1 had 1."""
    max_refills: int = 0
    """Rounds of further prompts in the stead of groups whose rewards are all equal, until
    `num_prompts` have contrast (DAPO's dynamic sampling). The algorithm has to leave such groups
    out."""


Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW and its learning rate."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    """torch's default, which trained Tulu 3.1 because nobody set it."""
    max_grad_norm: float = 1.0
    """Gradients of a larger norm are scaled down to it."""
    warmup_steps: int = 0
    """The learning rate rises linearly over so many updates."""
    schedule: Schedule = "constant"
    """Then it stays, or falls to 0 at the recipe's end along a line or half a cosine."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Questions that are never trained on, answered before, during and after the run."""

    sources: tuple[Source, ...]
    num_prompts: int = 500
    """The first so many prompts."""
    every: int = 0
    """Also answer them every so many steps. 0: only before and after."""
    temperature: float = 0.0
    """0 is greedy."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A score that training must not cost."""

    benchmark: str
    share: float = 0.95
    """Of the score before the first step, which is still good."""
    metric: str = ""
    """Empty: the benchmark's primary one."""
    num_errors: float = 2.0
    """Standard errors of the paired difference that chance is allowed. 0: none."""


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Benchmarks that the run's own policy answers before, during and after training."""

    benchmarks: tuple[str, ...] = ("gsm8k", "math", "ifeval")
    """Names of ``cameleer eval --list``, or file.py:NAME."""
    every: int = 40
    """Steps between them. 0: only before and after."""
    at_start: bool = True
    """Also before the first step."""
    profile: Literal["smoke", "dev", "full"] = "dev"
    """dev asks up to 200 instances of each, the same every time."""
    data: str = ""
    """Directory with the benchmarks' files. Empty: the hub."""
    max_tokens: int | None = None
    """Longest answer, where that is less than the benchmark's."""
    keep_best: str = ""
    """The benchmark whose best checkpoint is never deleted."""
    floors: tuple[Floor, ...] = ()
    below_floor: Literal["stop", "roll_back"] = "stop"
    """What to do below a floor: stop with an error, or end with the last policy that held all."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how fast. Nothing here changes the objective."""

    device: Literal["cpu", "cuda"] = "cpu"
    num_threads: int = 2
    """CPU threads of torch. Results are the same to the bit only at the same number."""
    micro_batch_tokens: int = 8192
    """Tokens of one forward and backward. A longer sequence goes alone."""
    compile: bool = True
    """On CUDA in bfloat16, fuse the small kernels of a stage without rollouts or an adapter with
    torch.compile. It takes a C compiler, and at the start some seconds."""
    num_verifier_workers: int = 2
    """Processes that verify."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a run leaves behind, and where."""

    directory: str = "runs"
    """The run is written to ``directory/name``."""
    save_every: int = 40
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = 2
    """Older checkpoints are deleted. 0 keeps all."""
    log_every: int = 1
    """Steps between lines on the console. metrics.jsonl has every step."""
    sample_every: int = 20
    """Steps between greedy answers to the same few questions, shown on the console. 0: never."""
    sinks: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where metrics go besides metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stage of training. With `rollout` it is reinforcement learning, without, imitation."""

    name: str
    model: Model
    algorithm: Algorithm
    data: tuple[Source, ...]
    optim: Optim
    num_steps: int
    """Rounds of the loop: collections of rollouts, or batches of examples."""
    rollout: Rollout | None = None
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    """By the name that the data's checks use."""
    reward: Reward = Reward()
    reward_model: RewardTerm | None = None
    """Added to `reward` where that is not `without_eos`."""
    value_model: Model | None = None
    """What the value model of PPO starts from: a reward model, or a language model, which gets a
    new head. It has to have the policy's tokenizer, and may be of another size."""
    value_optim: Optim | None = None
    """Of the value model. None: as `optim`."""
    batch_size: int = 0
    """Examples a step, for imitation."""
    max_tokens: int = 2048
    """Longest example, for imitation; longer ones are cut."""
    num_minibatches: int = 1
    """Optimizer steps a pass over the batch."""
    num_epochs: int = 1
    """Passes over the batch of a step."""
    split: Literal["group", "sequence"] = "group"
    """Whether minibatches hold whole groups, or any sequences, as the published Tulu 3.1 run's."""
    normalize: str = "token"
    """How losses are averaged; see `cameleer.algorithms.normalize`."""
    heldout: HeldOut | None = None
    evals: Eval | None = None
    seed: int = 1
    runtime: Runtime = Runtime()
    output: Output = Output()

    @property
    def directory(self) -> Path:
        return Path(self.output.directory) / self.name

    @property
    def num_updates(self) -> int:
        """Optimizer steps from start to end."""
        return self.num_steps * self.num_minibatches * self.num_epochs

    def validate(self) -> None:
        """Raises RecipeError for what is wrong without looking at model or data."""
        _refuse_stages(self)
        for problem in _problems(self):
            raise RecipeError(problem)


@dataclass(frozen=True, kw_only=True)
class Curate:
    """A stage of a ladder that trains nothing: a policy's own answers, rated, become data.

    Its directory gets ``pairs.jsonl``, the best and worst answer to each question, and
    ``right.jsonl``, one right answer to each (rejection sampling). A later stage reads them as
    ``Source(path="stage:NAME", format="preference")`` and
    ``Source(path="stage:NAME/right", format="chat")``.
    """

    name: str
    model: Model
    data: tuple[Source, ...]
    """Questions. The first `rollout.num_prompts` in the order of the seed are answered."""
    rollout: Rollout
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    reward_model: RewardTerm | None = None
    """Its weighted score is added to what the verifiers give."""
    seed: int = 1
    runtime: Runtime = Runtime()
    output: Output = Output()
    """Of it `directory` alone is read."""

    @property
    def directory(self) -> Path:
        return Path(self.output.directory) / self.name

    def validate(self) -> None:
        """Raises RecipeError for what is wrong without looking at model or data."""
        _refuse_stages(self)
        for problem in _curate_problems(self):
            raise RecipeError(problem)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Stages, one after the other, that start from what earlier ones ended with.

    A stage names an earlier one in place of a model or file: ``Model(source="stage:sft")``, also
    for a value or reward model, and ``Source(path="stage:pairs")`` for what a Curate stage made.
    """

    name: str
    """The stages are written to directories below this one's."""
    stages: tuple[Recipe | Curate, ...]
    seed: int | None = None
    """Seed of all stages. None leaves each its own."""
    evals: Eval | None = None
    """Benchmarks for every stage that trains a policy and names none: before the first of them,
    and after each."""

    def validate(self) -> None:
        """Raises RecipeError for what is wrong without looking at model or data."""
        self.validate_names()
        for stage in self.stages:
            problems = _problems(stage) if isinstance(stage, Recipe) else _curate_problems(stage)
            for problem in problems:
                raise RecipeError(f"{stage.name}: {problem}")

    def validate_names(self) -> None:
        """Raises RecipeError where two stages would write to the same directory, or one names
        another that is not before it."""
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names) or not names:
            raise RecipeError(
                f"The stages of ladder {self.name} are {names}; names have to differ."
            )
        for number, stage in enumerate(self.stages):
            before = {other.name: other for other in self.stages[:number]}
            for reference in stage_references(stage):
                name = reference.removeprefix("stage:").partition("/")[0]
                if name not in before:
                    raise RecipeError(
                        f"Stage {stage.name} names {reference}, and before it come "
                        f"{', '.join(before) or 'none'}.{nearest(name, before)}"
                    )
                is_data = reference in {source.path for source in stage_sources(stage)}
                if is_data != isinstance(before[name], Curate):
                    made = "data" if isinstance(before[name], Curate) else "a model"
                    raise RecipeError(
                        f"Stage {stage.name} names {reference} as "
                        f"{'data' if is_data else 'a model'}, and {name} makes {made}."
                    )


def stage_sources(stage: Recipe | Curate) -> list[Source]:
    """What a stage reads: to learn from, and held out."""
    heldout = stage.heldout if isinstance(stage, Recipe) else None
    return [*stage.data, *(heldout.sources if heldout else ())]


def stage_references(stage: Recipe | Curate) -> list[str]:
    """The ``stage:NAME`` of all models and sources that a stage names."""
    models = [stage.model, stage.reward_model, getattr(stage, "value_model", None)]
    named = [model.source for model in models if model is not None]
    named += [source.path for source in stage_sources(stage)]
    return [reference for reference in named if reference.startswith("stage:")]


def _refuse_stages(stage: Recipe | Curate) -> None:
    for reference in stage_references(stage):
        raise RecipeError(
            f"{stage.name} names {reference}, which a ladder alone has. Put it into one behind "
            "that stage, or name a directory."
        )


def _problems(recipe: Recipe) -> typing.Iterator[str]:
    try:
        Normalize.parse(recipe.normalize)
    except ValueError as error:
        yield str(error)
    rollout = recipe.rollout
    for name in _not_numbers(recipe):
        yield f"{name} is not a number (NaN). Give it a value."
    algorithm = recipe.algorithm
    if "value" in algorithm.needs and recipe.value_model is None:
        yield (
            f"{type(algorithm).__name__} needs a value model, and the recipe has no `value_model`. "
            "Name what it starts from: a reward model's checkpoint, or the policy's."
        )
    if recipe.value_model and "value" not in algorithm.needs:
        yield f"{type(algorithm).__name__} has no use for the recipe's `value_model`. Remove it."
    if recipe.value_optim and not recipe.value_model:
        yield "The recipe has a `value_optim` and no `value_model`. Remove it, or add the model."
    for name, model in (("model", recipe.model), ("value_model", recipe.value_model)):
        if model and model.lora:
            yield from _lora_problems(model.lora, f"{name}.lora")
    if algorithm.trains == "reward_model" and recipe.evals:
        yield "A reward model answers no benchmark. Remove `evals`; `heldout` takes pairs."
    dual_clip: float | None = getattr(algorithm, "dual_clip", None)
    if dual_clip is not None:
        high: float | None = getattr(algorithm, "clip_eps_high", None)
        high = getattr(algorithm, "clip_eps", 0.0) if high is None else high
        if dual_clip <= 1 + high:
            yield (
                f"algorithm.dual_clip is {dual_clip}, and ratios are held below {1 + high:g} "
                "anyway. Set it above that, or to None."
            )
    if recipe.reward_model and rollout is None:
        yield "The recipe has a `reward_model` and no `rollout` to reward. Remove one of the two."
    if not 0 <= recipe.seed < 1 << 63:
        yield f"seed is {recipe.seed}; give a whole number from 0 on."
    for source in (*recipe.data, *(recipe.heldout.sources if recipe.heldout else ())):
        yield from source.problems()
    if not recipe.data:
        yield "The recipe has no `data`. Name at least one Source."
    if recipe.num_steps < 1:
        yield f"num_steps is {recipe.num_steps}, so nothing would be trained. Set it to 1 or more."
    if "/" in recipe.name or not recipe.name.strip():
        yield f"name is {recipe.name!r}, and has to be usable as a directory's name."
    if not 0 < recipe.optim.learning_rate < math.inf:
        yield f"optim.learning_rate is {recipe.optim.learning_rate}; it has to be above 0."
    for name in ("num_threads", "micro_batch_tokens", "num_verifier_workers"):
        if getattr(recipe.runtime, name) < 1:
            yield f"runtime.{name} is {getattr(recipe.runtime, name)}; it has to be 1 or more."
    if recipe.num_minibatches < 1 or recipe.num_epochs < 1:
        yield (
            f"num_minibatches is {recipe.num_minibatches} and num_epochs {recipe.num_epochs}; "
            "both have to be 1 or more."
        )
    if min(recipe.output.save_every, recipe.output.log_every) < 1:
        yield "output.save_every and output.log_every count steps, and have to be 1 or more."
    if recipe.optim.warmup_steps < 0:
        yield f"optim.warmup_steps is {recipe.optim.warmup_steps}; it counts updates, from 0."
    if recipe.optim.max_grad_norm <= 0:
        yield (
            f"optim.max_grad_norm is {recipe.optim.max_grad_norm}, which would scale every "
            "gradient to nothing. Set it above 0; a large number never clips."
        )
    if recipe.output.keep_last < 0:
        yield f"output.keep_last is {recipe.output.keep_last}; it has to be 0 (all) or more."
    if recipe.heldout and recipe.heldout.num_prompts < 1:
        yield f"heldout.num_prompts is {recipe.heldout.num_prompts}; it has to be 1 or more."
    if recipe.heldout and recipe.heldout.temperature < 0:
        yield f"heldout.temperature is {recipe.heldout.temperature}; 0 is greedy, the least."
    if recipe.evals and (recipe.evals.every < 0 or not recipe.evals.benchmarks):
        yield (
            f"evals.every is {recipe.evals.every} and evals.benchmarks names "
            f"{len(recipe.evals.benchmarks)}: steps count from 0, and one benchmark is the least."
        )
    if recipe.evals and recipe.evals.floors and not recipe.evals.at_start:
        yield "evals.floors are shares of the score at the start, and evals.at_start is False."
    if rollout is None:
        if recipe.num_minibatches > 1 or recipe.num_epochs > 1:
            yield (
                f"num_minibatches is {recipe.num_minibatches} and num_epochs {recipe.num_epochs}, "
                "which divide and repeat rollouts, and the recipe has no `rollout`. Set both to 1: "
                "imitation takes one update a step, on batch_size examples."
            )
        if recipe.batch_size < 1:
            yield (
                "The recipe has neither `rollout` (reinforcement learning) nor a `batch_size` "
                "(imitation). Set one of them."
            )
        if recipe.algorithm.learns_from == "rollouts":
            yield (
                f"{type(recipe.algorithm).__name__} compares completions that the policy sampled, "
                "and the recipe has no `rollout`. Add Rollout(num_prompts=…, group_size=…)."
            )
        return
    if recipe.algorithm.learns_from != "rollouts":
        yield (
            f"{type(recipe.algorithm).__name__} learns from {recipe.algorithm.learns_from}, and "
            "the recipe has a `rollout`. Remove it, and set batch_size instead."
        )
    compares = "value" not in algorithm.needs and getattr(algorithm, "baseline", "none") != "none"
    if rollout.group_size < 2 and compares:
        yield (
            "GRPO compares completions of the same prompt, and rollout.group_size is "
            f"{rollout.group_size}. Set it to 2 or more (Tulu 3.1 used 16), or use PPO."
        )
    if rollout.temperature <= 0 or not math.isfinite(rollout.temperature):
        yield (
            f"rollout.temperature is {rollout.temperature}: all siblings would be equal, and "
            "log-probabilities undefined. Set it above 0 (Tulu 3.1 used 1)."
        )
    if rollout.num_slots < 1 or rollout.max_tokens < 1 or rollout.num_prompts < 1:
        yield "rollout.num_prompts, num_slots and max_tokens have to be 1 or more."
    if rollout.max_staleness < 0:
        yield f"rollout.max_staleness is {rollout.max_staleness}; it counts steps, from 0."
    if rollout.max_refills < 0:
        yield f"rollout.max_refills is {rollout.max_refills}; it counts rounds, from 0."
    elif rollout.max_refills and not getattr(algorithm, "drop_equal_groups", False):
        yield (
            f"rollout.max_refills is {rollout.max_refills}, and {type(algorithm).__name__} would "
            "learn from the groups that were to be replaced. Set algorithm.drop_equal_groups, "
            "which GRPO has, or max_refills=0."
        )
    elif rollout.max_refills and recipe.reward_model:
        yield (
            f"rollout.max_refills is {rollout.max_refills}, and a `reward_model` gives no two "
            "answers the same reward: there would be nothing to replace. Set max_refills=0."
        )
    num_sequences = rollout.num_prompts * rollout.group_size
    if recipe.split == "sequence" and recipe.num_minibatches > num_sequences:
        yield (
            f"num_minibatches is {recipe.num_minibatches}, but a step has only {num_sequences} "
            "completions to divide. Lower it."
        )
    if recipe.split == "group" and recipe.num_minibatches > rollout.num_prompts:
        yield (
            f"num_minibatches is {recipe.num_minibatches}, but a step has only "
            f"{rollout.num_prompts} groups to divide. Lower it, or set split='sequence'."
        )
    if not recipe.verifiers:
        yield "The recipe has no `verifiers`, so no completion could be scored. Add one."


def _curate_problems(stage: Curate) -> typing.Iterator[str]:
    for name in _not_numbers(stage):
        yield f"{name} is not a number (NaN). Give it a value."
    if stage.rollout.group_size < 2:
        yield f"rollout.group_size is {stage.rollout.group_size}; a pair takes 2 answers or more."
    if stage.rollout.temperature <= 0:
        yield (
            f"rollout.temperature is {stage.rollout.temperature}: all answers would be equal. Set "
            "it above 0."
        )
    if min(stage.rollout.num_prompts, stage.rollout.num_slots, stage.rollout.max_tokens) < 1:
        yield "rollout.num_prompts, num_slots and max_tokens have to be 1 or more."
    if not stage.data:
        yield "The stage has no `data`. Name at least one Source of questions."
    if not stage.verifiers and not stage.reward_model:
        yield "The stage has neither `verifiers` nor a `reward_model`, which rate the answers."
    if stage.model.lora:
        yield "A Curate stage trains nothing. Remove `lora` from its `model`."


def _lora_problems(lora: LoRA, name: str) -> typing.Iterator[str]:
    if lora.rank < 1:
        yield f"{name}.rank is {lora.rank}; it has to be 1 or more (16 is common), or lora None."
    if not 0 < lora.alpha < math.inf:
        yield f"{name}.alpha is {lora.alpha}, which scales the updates; it has to be above 0."
    if lora.targets != "all-linear" and (isinstance(lora.targets, str) or not lora.targets):
        yield (
            f"{name}.targets is {lora.targets!r}. Set it to 'all-linear', or to the names of one "
            "layer or more, such as ('q_proj', 'v_proj')."
        )


def _not_numbers(value: Any, path: str = "") -> typing.Iterator[str]:
    """Fields that hold NaN, which passes every comparison that would refuse it."""
    if isinstance(value, float) and math.isnan(value):
        yield path
    if dataclasses.is_dataclass(value):
        for field_ in dataclasses.fields(value):
            below = f"{path}.{field_.name}" if path else field_.name
            yield from _not_numbers(getattr(value, field_.name), below)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _not_numbers(item, f"{path}.{number}")


# Reading and writing


def load(reference: str) -> Recipe | Ladder:
    """A recipe by its name, ``file.py:function``, or the path of a recipe.json."""
    if reference.endswith(".json"):
        return _from_json(Path(reference))
    if is_in_a_file(reference):
        recipe = call(reference)
    else:
        found = named_recipes()
        if reference not in found:
            raise RecipeError(
                f"There is no recipe '{reference}'.{nearest(reference, found)} `cameleer recipes` "
                "lists them; your own are named file.py:function."
            )
        recipe = found[reference]()
    if not isinstance(recipe, Recipe | Ladder):
        raise RecipeError(
            f"{reference} returned a {type(recipe).__name__}; it has to return a Recipe or Ladder."
        )
    return recipe


def named_recipes() -> dict[str, Callable[[], Recipe | Ladder]]:
    """The recipes that come with Cameleer: the public functions of `cameleer.recipes`."""
    module = importlib.import_module("cameleer.recipes")
    return {name: getattr(module, name) for name in module.__all__}


def to_json(recipe: Recipe | Curate | Ladder) -> dict[str, Any]:
    """The resolved recipe, as stored in recipe.json and read back by `load`."""
    encoded: dict[str, Any] = _encode(recipe)
    return encoded


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kind = type(value)
        origin = sys.modules[kind.__module__]
        where = kind.__module__
        if not where.startswith("cameleer."):
            where = getattr(origin, "__file__", None) or where
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": f"{where}:{kind.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    return value


def _from_json(path: Path) -> Recipe | Ladder:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RecipeError(f"Cannot read the recipe {path}: {error}") from error
    recipe = _decode(stored, path)
    if not isinstance(recipe, Recipe | Ladder):
        raise RecipeError(f"{path} does not hold a recipe, as runs/NAME/recipe.json does.")
    for reference in filter(_is_foreign, _code_named_in(recipe)):
        raise RecipeError(
            f"{path} names {reference}. A recipe.json imports from cameleer only, as it may come "
            "from anywhere; run the Python file that made it instead."
        )
    return recipe


_NAMES_CODE = {
    Source: "path",
    Model: "source",
    RewardTerm: "source",
    Rollout: "engine",
    Eval: "benchmarks",
}
"""Fields that may hold ``module:NAME`` or ``file.py:NAME``, besides ``stage:NAME`` in the first
three."""


def _code_named_in(value: Any) -> typing.Iterator[str]:
    below: typing.Iterable[Any] = ()
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        found = getattr(value, _NAMES_CODE[kind]) if kind in _NAMES_CODE else ()
        for reference in (found,) if isinstance(found, str) else found:
            yield reference if kind in (Rollout, Eval) else reference.removeprefix("stage:")
        below = [getattr(value, each.name) for each in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        below = value.values()
    elif isinstance(value, tuple):
        below = value
    for each in below:
        yield from _code_named_in(each)


def _is_foreign(reference: str) -> bool:
    """True where it names code that did not come with cameleer."""
    if ":" not in reference:
        return False
    return is_in_a_file(reference) or not reference.startswith("cameleer.")


def _decode(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, path) for item in value)
    if not isinstance(value, dict):
        return value
    items = {key: _decode(item, path) for key, item in value.items() if key != "class"}
    if "class" not in value:
        return items
    module, _, name = str(value["class"]).partition(":")
    if not module.startswith("cameleer."):
        raise RecipeError(
            f"{path} names the class {value['class']}. A recipe.json imports from cameleer only, "
            "as it may come from anywhere; run the Python file that made it instead."
        )
    try:
        kind: Any = getattr(importlib.import_module(module), name, None)
    except ImportError:
        kind = None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise RecipeError(f"{path} names {value['class']}, which this version does not have.")
    known = {f.name for f in dataclasses.fields(kind)}
    for key in items:
        if key not in known:
            raise RecipeError(f"{path}: {name} has no field '{key}'.{nearest(key, known)}")
    try:
        return kind(**items)
    except TypeError as error:
        raise RecipeError(f"{path}: {name} cannot be made: {error}") from error
