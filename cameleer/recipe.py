"""What a run is made of. A recipe is a Python function that returns a `Recipe` or a `Ladder`."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from cameleer.algorithms import Algorithm
from cameleer.algorithms.normalize import Normalize
from cameleer.algorithms.ppo import PPO
from cameleer.algorithms.reward_model import RewardModel
from cameleer.data.chat import ChatTemplate
from cameleer.data.sources import Source
from cameleer.errors import RecipeError, nearest
from cameleer.types import Completion, DType, Score
from cameleer.verifiers.base import Verifier


@dataclass(frozen=True, kw_only=True)
class Model:
    """The policy a run starts from, which is also its frozen reference."""

    source: str
    """A Hugging Face directory or hub id, or ``module:function`` that returns a directory."""
    dtype: DType = "float32"
    """What the policy computes in. The optimizer's weights are float32 in any case."""
    chat_template: ChatTemplate = "tokenizer"
    """Tulu 3's template, or the tokenizer's own."""
    license: str = ""
    """What the hub calls its terms, such as "apache-2.0", for the model card. Empty: unknown."""


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
    max_staleness: int = 0
    """Steps that groups are collected ahead of their update. 0 is on-policy; Tulu 3.1 had 1."""


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
        for problem in _problems(self):
            raise RecipeError(problem)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Stages, each of which starts from the policy that the one before ended with."""

    name: str
    """The stages are written to directories below this one's."""
    stages: tuple[Recipe, ...]
    seed: int | None = None
    """Seed of all stages. None leaves each its own."""

    def validate(self) -> None:
        """Raises RecipeError for what is wrong without looking at model or data."""
        self.validate_names()
        for stage in self.stages:
            stage.validate()

    def validate_names(self) -> None:
        """Raises RecipeError where two stages would write to the same directory."""
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names) or not names:
            raise RecipeError(
                f"The stages of ladder {self.name} are {names}; names have to differ."
            )


def _problems(recipe: Recipe) -> typing.Iterator[str]:
    try:
        Normalize.parse(recipe.normalize)
    except ValueError as error:
        yield str(error)
    rollout = recipe.rollout
    for name in _not_numbers(recipe):
        yield f"{name} is not a number (NaN). Give it a value."
    if isinstance(recipe.algorithm, PPO | RewardModel):
        yield (
            f"{type(recipe.algorithm).__name__} is an objective whose model, with a head of one "
            "number, no learner has yet. Use GRPO or DPO."
        )
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
    if rollout.group_size < 2 and getattr(recipe.algorithm, "baseline", "group") != "none":
        yield (
            "GRPO compares completions of the same prompt, and rollout.group_size is "
            f"{rollout.group_size}. Set it to 2 or more (Tulu 3.1 used 16)."
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
    if ".py:" in reference:
        path, _, name = reference.rpartition(":")
        function = getattr(_import_file(Path(path)), name, None)
        if function is None:
            raise RecipeError(f"{path} has no function '{name}'.")
    else:
        found = named_recipes()
        if reference not in found:
            raise RecipeError(
                f"There is no recipe '{reference}'.{nearest(reference, found)} `cameleer recipes` "
                "lists them; your own are named file.py:function."
            )
        function = found[reference]
    recipe = function()
    if not isinstance(recipe, Recipe | Ladder):
        raise RecipeError(
            f"{reference} returned a {type(recipe).__name__}; it has to return a Recipe or Ladder."
        )
    return recipe


def named_recipes() -> dict[str, Callable[[], Recipe | Ladder]]:
    """The recipes that come with Cameleer: the public functions of `cameleer.recipes`."""
    module = importlib.import_module("cameleer.recipes")
    return {name: getattr(module, name) for name in module.__all__}


def to_json(recipe: Recipe | Ladder) -> dict[str, Any]:
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
    for stage in recipe.stages if isinstance(recipe, Ladder) else (recipe,):
        sources = (*stage.data, *(stage.heldout.sources if stage.heldout else ()))
        for reference in (stage.model.source, *(source.path for source in sources)):
            if ":" in reference and not reference.startswith("cameleer."):
                raise RecipeError(
                    f"{path} names the function {reference}. A recipe.json imports from cameleer "
                    "only, as it may come from anywhere; run the Python file that made it instead."
                )
    return recipe


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


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RecipeError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Worker processes unpickle the file's classes by this name.
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module
