"""What a run is made of. A recipe is a Python function that returns a `Recipe` or a `Ladder`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cameleer.algorithms import Algorithm
from cameleer.data.chat import ChatTemplate
from cameleer.data.sources import Source
from cameleer.errors import RecipeError, nearest
from cameleer.recipe_checks import curate_problems, recipe_problems
from cameleer.recipe_types import type_problems
from cameleer.types import Completion, DType, Score
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
    """On CUDA in bfloat16, fuse the small kernels of a stage without rollouts with torch.compile.
    It takes a C compiler, and at the start some seconds."""
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
    """By the name that the data's checks use. With none, a `reward_model` alone rates."""
    reward: Reward = Reward()
    reward_model: RewardTerm | None = None
    """Added to `reward` where that is not `without_eos`. Have that below the model's scores, or a
    cut answer is better than an ended one. Rows of format `chat` have no other reward."""
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
    def fuses(self) -> bool:
        """Whether models are compiled. Not where an engine samples, which would round otherwise
        than a fused policy: by 0.045 nats a token in the mean, SmolLM2-135M on an H100, where the
        two agree to 1e-5 now."""
        on_gpu = self.runtime.device == "cuda" and self.model.dtype == "bfloat16"
        return self.runtime.compile and on_gpu and self.rollout is None

    @property
    def num_updates(self) -> int:
        """Optimizer steps from start to end."""
        return self.num_steps * self.num_minibatches * self.num_epochs

    def validate(self) -> None:
        """Raises RecipeError for what is wrong without looking at model or data."""
        for problem in recipe_problems(self):
            raise RecipeError(problem)
        _refuse_stages(self)


@dataclass(frozen=True, kw_only=True)
class Curate:
    """A stage of a ladder that trains nothing: a policy's own answers, rated, become data.

    Its directory gets ``pairs.jsonl``, the best and worst answer to each question, and
    ``right.jsonl``, one right answer to each (rejection sampling); of a question that a reward
    model alone rates, the best one. A later stage reads them as
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
    """Its weighted score is added to what the verifiers give. Without any, and to rows of format
    `chat`, it is all that rates."""
    seed: int = 1
    runtime: Runtime = Runtime()
    output: Output = Output()
    """Of it `directory` alone is read."""

    @property
    def directory(self) -> Path:
        return Path(self.output.directory) / self.name

    def validate(self) -> None:
        """Raises RecipeError for what is wrong without looking at model or data."""
        for problem in curate_problems(self):
            raise RecipeError(problem)
        _refuse_stages(self)


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
            found = recipe_problems(stage) if isinstance(stage, Recipe) else curate_problems(stage)
            for problem in found:
                raise RecipeError(f"{stage.name}: {problem}")

    def validate_names(self) -> None:
        """Raises RecipeError where two stages would write to the same directory, or one names
        another that is not before it."""
        for problem in type_problems(self):
            raise RecipeError(problem)
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
            _refuse_wrong_kind(stage, before)


def _refuse_wrong_kind(stage: Recipe | Curate, before: Mapping[str, Recipe | Curate]) -> None:
    """Raises RecipeError where a reward model would be a policy, or a policy a reward model."""
    kinds: dict[str, Model | RewardTerm | None] = {"reward_model": stage.reward_model}
    if isinstance(stage, Curate) or stage.algorithm.trains == "policy":
        kinds["policy"] = stage.model
    for kind, model in kinds.items():
        if model is None or not model.source.startswith("stage:"):
            continue
        made_by = before[model.source.removeprefix("stage:")]
        made = made_by.algorithm.trains if isinstance(made_by, Recipe) else kind
        if made != kind:
            raise RecipeError(
                f"Stage {stage.name} names {model.source} as its {kind.replace('_', ' ')}, and "
                f"{made_by.name} makes a {made.replace('_', ' ')}."
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
