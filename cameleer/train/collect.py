"""From prompts to scored groups, and from groups to a batch."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from cameleer.batch import Batch
from cameleer.recipe import Reward
from cameleer.rollout.engine import Request, RolloutEngine, Sampling
from cameleer.train import ranks
from cameleer.types import Group, Prompt
from cameleer.verifiers.isolate import VerifierPool


class Clock:
    """Seconds of a step by phase."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def metrics(self) -> dict[str, float]:
        """``time/…`` of every phase, and ``time/step`` since the clock was made."""
        phases = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        return {**phases, "time/step": time.perf_counter() - self._began}


def collect(
    engine: RolloutEngine,
    pool: VerifierPool,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    group_size: int,
    seed: int,
    step: int,
    clock: Clock | None = None,
) -> list[Group]:
    """Sample `group_size` completions of each prompt and score them. Ranks share the prompts.

    A prompt that is asked twice has other samples the second time.
    """
    clock = clock or Clock()
    asked: Counter[str] = Counter()
    samples = []
    for prompt in prompts:
        samples.append(range(asked[prompt.id], asked[prompt.id] + group_size))
        asked[prompt.id] += group_size
    share = slice(ranks.rank(), None, ranks.world_size())
    mine = prompts[share]
    requests = [
        Request(prompt.id, prompt.tokens, sample)
        for prompt, numbers in zip(mine, samples[share], strict=True)
        for sample in numbers
    ]
    with clock.phase("rollout"):
        completions = engine.generate(requests, sampling, seed=seed, step=step)
    answers = [completions[i : i + group_size] for i in range(0, len(completions), group_size)]
    with clock.phase("verify"):
        scores = iter(
            pool.score_all(
                [
                    (check.verifier, completion.text, check.truth)
                    for prompt, siblings in zip(mine, answers, strict=True)
                    for completion in siblings
                    for check in prompt.checks
                ]
            )
        )
    groups = [
        Group(
            prompt,
            tuple(siblings),
            tuple(tuple(next(scores) for _ in prompt.checks) for _ in siblings),
        )
        for prompt, siblings in zip(mine, answers, strict=True)
    ]
    shares = ranks.gather(groups)
    return [shares[i % len(shares)][i // len(shares)] for i in range(len(prompts))]


def has_contrast(group: Group, reward: Reward) -> bool:
    """True where siblings that reached a verdict differ in reward."""
    weights = tuple(check.weight for check in group.prompt.checks)
    members = zip(group.completions, group.scores, strict=True)
    rewards = (reward.of(completion, verdicts, weights) for completion, verdicts in members)
    # In the precision that the algorithm compares them in.
    return len({np.float32(value) for value in rewards if value is not None}) > 1


def assemble(groups: Sequence[Group], reward: Reward) -> Batch:
    """One row of tokens from the groups of a step, with the rewards the algorithm compares."""
    tokens: list[int] = []
    lengths, group, rewards, scored, truncated = [], [], [], [], []
    mask: list[bool] = []
    logprobs: list[float] = []
    versions: list[int] = []
    for number, members in enumerate(groups):
        prompt = members.prompt.tokens
        weights = tuple(check.weight for check in members.prompt.checks)
        for completion, verdicts in zip(members.completions, members.scores, strict=True):
            before, after = len(prompt), len(completion.tokens)
            value = reward.of(completion, verdicts, weights)
            tokens += [*prompt, *completion.tokens]
            mask += [False] * before + [True] * after
            logprobs += [0.0] * before + list(completion.logprobs)
            versions += [0] * before + [completion.version] * after
            lengths.append(before + after)
            group.append(number)
            rewards.append(0.0 if value is None else value)
            scored.append(value is not None)
            truncated.append(completion.finish_reason == "length")
    return Batch(
        tokens_N=torch.tensor(tokens),
        lengths_B=torch.tensor(lengths),
        mask_N=torch.tensor(mask),
        group_B=torch.tensor(group),
        rewards_B=torch.tensor(rewards, dtype=torch.float32),
        scored_B=torch.tensor(scored),
        truncated_B=torch.tensor(truncated),
        sampler_logprobs_N=torch.tensor(logprobs, dtype=torch.float32),
        version_N=torch.tensor(versions),
    )
