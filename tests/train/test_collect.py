"""Rewards, and how groups become one row of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes import Even, completion, group, one_prompt

from cameleer.recipe import Reward
from cameleer.rollout.engine import Request, Sampling
from cameleer.train.collect import Clock, assemble, collect
from cameleer.types import Completion, Group, Score
from cameleer.verifiers.isolate import VerifierPool

RIGHT, HALF, WRONG = Score(1.0), Score(0.5), Score(0.0)


class Parrot:
    """Says the number of its sample as often."""

    version = 3

    def load(self, version: int) -> None:
        self.version = version

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, seed: int, step: int
    ) -> list[Completion]:
        return [
            Completion((9,) * (r.sample + 1), "x " * r.sample, (-1.0,) * (r.sample + 1), "eos", 3)
            for r in requests
        ]


@pytest.mark.parametrize(
    ("reward", "finish_reason", "scores", "weights", "expected"),
    [
        (Reward(), "eos", (RIGHT,), (1.0,), 10.0),
        (Reward(correct=1.0), "eos", (RIGHT,), (1.0,), 1.0),
        (Reward(), "eos", (HALF,), (1.0,), 5.0),
        # Several checks add up by weight: 10 * (1 * 2 + 0.5 * 1).
        (Reward(), "eos", (RIGHT, HALF), (2.0, 1.0), 25.0),
        # Cut off, or ended by a stop string: no end-of-sequence token.
        (Reward(), "length", (RIGHT,), (1.0,), 0.0),
        (Reward(), "stop", (RIGHT,), (1.0,), 0.0),
        (Reward(without_eos=-10.0), "length", (RIGHT,), (1.0,), -10.0),
        (Reward(without_eos=None), "length", (RIGHT,), (1.0,), 10.0),
        (Reward(without_eos=None), "length", (WRONG,), (1.0,), 0.0),
        # No verdict is no reward, whatever the ending and the other checks.
        (Reward(), "eos", (RIGHT, Score(0.0, "undecided")), (1.0, 1.0), None),
        (Reward(), "length", (Score(0.0, "undecided"),), (1.0,), None),
        (Reward(), "eos", (Score(0.0, "invalid"),), (1.0,), None),
    ],
)
def test_the_reward_of_a_completion(
    reward: Reward,
    finish_reason: str,
    scores: tuple[Score, ...],
    weights: tuple[float, ...],
    expected: float | None,
):
    assert reward.of(completion(1, finish_reason), scores, weights) == expected


def test_a_batch_by_hand():
    batch = assemble(
        [
            group(0, [(completion(2, version=5), RIGHT), (completion(1, version=5), WRONG)]),
            group(1, [(completion(1, version=5), Score(0.0, "undecided"))]),
        ],
        Reward(),
    )
    assert batch.tokens_N.tolist() == [4, 10, 5, 20, 21, 4, 10, 5, 20, 4, 11, 5, 20]
    assert batch.lengths_B.tolist() == [5, 4, 4]
    assert batch.mask_N.int().tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert batch.group_B is not None and batch.group_B.tolist() == [0, 0, 1]
    assert batch.rewards_B is not None and batch.rewards_B.tolist() == [10.0, 0.0, 0.0]
    assert batch.scored_B is not None and batch.scored_B.tolist() == [True, True, False]
    assert batch.version_N is not None and batch.sampler_logprobs_N is not None
    assert batch.version_N.tolist() == [0, 0, 0, 5, 5, 0, 0, 0, 5, 0, 0, 0, 5]
    assert batch.sampler_logprobs_N[batch.mask_N].tolist() == [-0.5] * 4
    assert batch.sampler_logprobs_N[~batch.mask_N].abs().sum() == 0


def test_each_completion_meets_the_score_of_its_own_checks():
    prompts = [one_prompt(0, checks=1), one_prompt(1, checks=3), one_prompt(2, checks=2)]
    with VerifierPool({"gsm8k": Even()}) as pool:
        groups = collect(
            Parrot(), pool, prompts, Sampling(max_tokens=9), group_size=4, seed=1, step=1
        )
    assert [g.prompt for g in groups] == prompts
    for found in groups:
        assert [len(c.tokens) for c in found.completions] == [1, 2, 3, 4]
        for sample, scores in enumerate(found.scores):
            even = Score(float(sample % 2 == 0), reason=f"{sample} words")
            assert scores == (even,) * len(found.prompt.checks)


def test_a_prompt_that_is_asked_twice_has_other_samples_the_second_time():
    prompts = [one_prompt(0), one_prompt(1), one_prompt(0)]
    with VerifierPool({"gsm8k": Even()}) as pool:
        groups = collect(
            Parrot(), pool, prompts, Sampling(max_tokens=9), group_size=2, seed=1, step=1
        )
    samples = [[len(c.tokens) - 1 for c in found.completions] for found in groups]
    assert samples == [[0, 1], [0, 1], [2, 3]]


def test_an_empty_list_of_prompts_has_no_groups():
    with VerifierPool({"gsm8k": Even()}) as pool:
        found: list[Group] = collect(
            Parrot(), pool, [], Sampling(max_tokens=9), group_size=4, seed=1, step=1
        )
    assert found == []


def test_phases_add_up_to_less_than_the_step():
    clock = Clock()
    for _ in range(2):
        with clock.phase("rollout"):
            sum(range(10_000))
    found = clock.metrics()
    assert found.keys() == {"time/rollout", "time/step"}
    assert 0 < found["time/rollout"] <= found["time/step"]
