"""A GRPO run on completions that are a pure function of the request: what ranks must agree on."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cameleer.algorithms.grpo import GRPO
from cameleer.data.sources import Source
from cameleer.distributed.launch import process_group
from cameleer.recipe import Eval, LoRA, Model, Optim, Output, Recipe, Rollout, Runtime
from cameleer.rollout.engine import Request, Sampling
from cameleer.train.online import train_online
from cameleer.train.run import Run
from cameleer.types import Completion, Score

BENCHMARK = f"{Path(__file__).parents[1] / 'small_benchmark.py'}:BENCHMARK"


@dataclass(frozen=True)
class Even:
    """Right if the answer is even, whatever the truth: half of random answers are."""

    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        return Score(float(int(text.split()[-1]) % 2 == 0))

    def validate(self, truth: Any) -> str | None:
        return None


class ReplayEngine:
    """Answers without a model: the same request has the same completion on every rank."""

    version = 0

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._ids = vocabulary

    def load(self, version: int) -> None:
        self.version = version

    def release(self) -> None:
        """It holds nothing."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, seed: int, step: int
    ) -> list[Completion]:
        return [self._answer(random.Random(f"{r.prompt_id} {r.sample} {step}")) for r in requests]

    def _answer(self, rng: random.Random) -> Completion:
        words = [str(rng.randint(1, 20)) for _ in range(rng.randint(0, 6))]
        words += ["####", str(rng.randint(5, 8)), "<eos>"]
        return Completion(
            tokens=tuple(self._ids[word] for word in words),
            text=" ".join(words[:-1]),
            logprobs=(-1.0,) * len(words),
            finish_reason="eos",
            version=self.version,
        )


def main(model: str, directory: str, data: str, rank: str) -> None:
    recipe = Recipe(
        name="replayed",
        model=Model(source=model, lora=LoRA(rank=int(rank)) if int(rank) else None),
        algorithm=GRPO(beta=0.1),
        data=(Source(path="cameleer.data.datasets.arithmetic:problems", format="gsm8k"),),
        verifiers={"gsm8k": Even()},
        optim=Optim(learning_rate=1e-2),
        num_steps=4,
        # Five prompts on two ranks: one rank has more to do than the other.
        rollout=Rollout(num_prompts=5, group_size=6, max_tokens=16),
        num_minibatches=2,
        normalize="micro_batch(2)",
        runtime=Runtime(num_threads=1, micro_batch_tokens=200),
        evals=Eval(benchmarks=(BENCHMARK,), every=0, data=data),
        output=Output(directory=directory, sample_every=0),
    )
    with process_group(), Run(recipe, resume=False) as run:
        run.engine = ReplayEngine(run.learner.tokenizer.get_vocab())
        train_online(run)


if __name__ == "__main__":
    main(*(str(Path(argument)) for argument in sys.argv[1:]))
