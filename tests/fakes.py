"""Small recipes, and verifiers that do as they are told. Worker processes can import this."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.ppo import PPO
from cameleer.algorithms.reward_model import RewardModel
from cameleer.algorithms.sft import SFT
from cameleer.batch import Batch, Loss, Output
from cameleer.data.datasets.arithmetic import problems, vocabulary
from cameleer.data.mixture import Tally, taken
from cameleer.data.sources import Row, Source, check_columns, open_source
from cameleer.errors import RowError
from cameleer.log import quiet_libraries
from cameleer.models.tiny import save_tiny_llama
from cameleer.recipe import Curate, HeldOut, Model, Optim, Recipe, Rollout, Runtime
from cameleer.recipe import Output as Files
from cameleer.types import Check, Completion, Group, Prompt, Score
from cameleer.verifiers.gsm8k import GSM8K


@dataclass(frozen=True)
class Even:
    """Right when an even number of words was said, which half of random answers are."""

    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        return Score(float(len(text.split()) % 2 == 0), reason=f"{len(text.split())} words")

    def validate(self, truth: Any) -> str | None:
        return None


@dataclass(frozen=True)
class Says:
    """Right when the answer contains a word: easily learnt, and right by chance now and then."""

    word: str
    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        return Score(float(self.word in text.split()))

    def validate(self, truth: Any) -> str | None:
        return None


@dataclass(frozen=True)
class Breaks:
    """Raises on answers of an odd number of words, or on all."""

    always: bool = False
    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        if self.always or len(text.split()) % 2:
            raise ZeroDivisionError("as asked")
        return Score(float("#" in text))

    def validate(self, truth: Any) -> str | None:
        return None


@dataclass(frozen=True, kw_only=True)
class Explodes:
    """GRPO whose loss is not a number once the fuse has burnt down."""

    learns_from: ClassVar[Literal["rollouts"]] = "rollouts"
    trains: ClassVar[Literal["policy"]] = "policy"
    fuse: ClassVar[dict[str, int]] = {"left": 0}
    """Losses until then."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("old",)

    def advantages(self, batch: Batch) -> Batch:
        return GRPO(beta=0.0).advantages(batch)

    def loss(self, batch: Batch, output: Output) -> Loss:
        loss = GRPO(beta=0.0).loss(batch, output)
        self.fuse["left"] -= 1
        return loss if self.fuse["left"] >= 0 else loss._replace(values=loss.values * math.nan)


ARITHMETIC = Source(
    path="cameleer.data.datasets.arithmetic:problems",
    format="gsm8k",
    name="arithmetic",
    count=64,
    take="first",
)

ONE_THREAD = Runtime(num_threads=1)
"""Tests run two at a time, and a second thread has nothing to do on a model of this size."""


def read_rows(source: Source) -> list[Row]:
    """All rows that a recipe of seed 0 would take, with their columns checked."""
    rows = []
    for entry, count in taken(source, open_source(source), Tally(), seed=0, place=0):
        if isinstance(entry, RowError):
            raise entry
        check_columns(entry, source.format)
        rows += [entry] * count
    return rows


def tiny_llama(directory: Path, *, seed: int = 0, max_tokens: int = 128) -> Path:
    """Two layers of width 32, with the words of the arithmetic problems."""
    with quiet_libraries():
        return save_tiny_llama(
            directory, vocabulary(), hidden_size=32, num_layers=2, seed=seed, max_tokens=max_tokens
        )


def conversations(split: str) -> Iterator[dict[str, Any]]:
    """The arithmetic problems as turns, which say nothing of what is right."""
    for row in problems(split):
        question = {"role": "user", "content": row["question"]}
        yield {"messages": [question, {"role": "assistant", "content": row["answer"]}]}


CHAT = replace(ARITHMETIC, path="fakes:conversations", format="chat", name="chat")


def named_otherwise(split: str) -> Iterator[dict[str, Any]]:
    """A question with the name of a verifier that there is not."""
    turns = [{"role": "user", "content": "How many ?"}]
    yield {"messages": turns, "ground_truth": "7", "dataset": "other"}


def sft(model: Path, root: Path, /, **changes: Any) -> Recipe:
    """Four steps of imitation."""
    recipe = Recipe(
        name="sft",
        model=Model(source=str(model)),
        algorithm=SFT(),
        data=(ARITHMETIC,),
        optim=Optim(learning_rate=1e-2),
        num_steps=4,
        batch_size=8,
        verifiers={"gsm8k": GSM8K()},
        runtime=ONE_THREAD,
        output=Files(directory=str(root), save_every=2, sample_every=2),
    )
    return replace(recipe, **changes)


def preferences(split: str) -> Iterator[dict[str, Any]]:
    """Worked answers to the arithmetic problems, preferred to their last lines alone."""
    for row in problems(split):
        yield {
            "prompt": row["question"],
            "chosen": row["answer"],
            "rejected": row["answer"].rpartition(" . ")[2],
        }


def dpo(model: Path, root: Path, /, **changes: Any) -> Recipe:
    """Four steps of DPO towards worked answers."""
    pairs = Source(path="fakes:preferences", format="preference", count=64, take="first")
    return replace(sft(model, root, name="dpo", algorithm=DPO(beta=1.0), data=(pairs,)), **changes)


def reward_model(model: Path, root: Path, /, **changes: Any) -> Recipe:
    """Four steps of a reward model that is to prefer worked answers."""
    return dpo(model, root, **{"name": "reward_model", "algorithm": RewardModel(), **changes})


def ppo(model: Path, root: Path, /, **changes: Any) -> Recipe:
    """Four steps of PPO with two epochs each, and a value model with a new head."""
    recipe = grpo(
        model,
        root,
        name="ppo",
        algorithm=PPO(),
        rollout=Rollout(num_prompts=8, group_size=1, max_tokens=8),
        num_epochs=2,
        value_model=Model(source=str(model)),
        value_optim=Optim(learning_rate=2e-2),
    )
    return replace(recipe, **changes)


def on_the_hub(monkeypatch: Any, root: Path, name: str, commit: str, rows: list[Any]) -> None:
    """Leave a data set as `datasets` keeps it once it was loaded, and cut the network off."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    owner, _, short = name.partition("/")
    directory = root / f"{owner}___{short}" / "default" / "0.0.0" / commit
    directory.mkdir(parents=True)
    features = datasets.Dataset.from_list(rows).features
    with ArrowWriter(features=features, path=str(directory / f"{short}-train.arrow")) as writer:
        for row in rows:
            writer.write(row)
        num_examples, num_bytes = writer.finalize()
    splits = datasets.SplitDict(dataset_name=short)
    splits["train"] = datasets.SplitInfo("train", num_bytes, num_examples, dataset_name=short)
    info = datasets.DatasetInfo(
        features=features, splits=splits, dataset_name=short, config_name="default",
        builder_name="parquet", version="0.0.0",
    )  # fmt: skip
    info.write_to_directory(str(directory))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root)


def grpo(model: Path, root: Path, /, **changes: Any) -> Recipe:
    """Four steps of GRPO on a reward that half of random answers get."""
    recipe = Recipe(
        name="grpo",
        model=Model(source=str(model)),
        algorithm=GRPO(beta=0.05),
        data=(ARITHMETIC,),
        optim=Optim(learning_rate=1e-2),
        num_steps=4,
        rollout=Rollout(num_prompts=4, group_size=4, max_tokens=8),
        verifiers={"gsm8k": Even()},
        num_minibatches=2,
        runtime=ONE_THREAD,
        output=Files(directory=str(root), save_every=2, sample_every=2),
    )
    return replace(recipe, **changes)


def curate(root: Path, /, **changes: Any) -> Curate:
    """Four answers to forty questions each, by the policy of stage sft."""
    stage = Curate(
        name="pairs",
        model=Model(source="stage:sft"),
        data=(ARITHMETIC,),
        rollout=Rollout(num_prompts=40, group_size=4, max_tokens=40),
        verifiers={"gsm8k": Even()},
        runtime=ONE_THREAD,
        output=Files(directory=str(root)),
    )
    return replace(stage, **changes)


def held_out(num_prompts: int = 8) -> HeldOut:
    return HeldOut(sources=(replace(ARITHMETIC, split="test"),), num_prompts=num_prompts)


def one_prompt(number: int, source: str = "arithmetic", checks: int = 1) -> Prompt:
    return Prompt(
        id=f"{source}:{number}",
        source=source,
        messages=({"role": "user", "content": "?"},),
        tokens=(4, 10 + number, 5),
        checks=tuple(Check("gsm8k", "7") for _ in range(checks)),
    )


def completion(num_tokens: int, finish_reason: Any = "eos", version: int = 0) -> Completion:
    return Completion(
        tokens=tuple(range(20, 20 + num_tokens)),
        text="#### 7",
        logprobs=(-0.5,) * num_tokens,
        finish_reason=finish_reason,
        version=version,
    )


def group(
    number: int, answers: Sequence[tuple[Completion, Score]], source: str = "arithmetic"
) -> Group:
    """A group of completions with a score each."""
    return Group(
        one_prompt(number, source),
        tuple(answer for answer, _ in answers),
        tuple((score,) for _, score in answers),
    )
