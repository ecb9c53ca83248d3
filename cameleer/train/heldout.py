"""Accuracy on questions, or on pairs, that are never trained on."""

from __future__ import annotations

from collections.abc import Sequence

from cameleer.data.prompts import Example
from cameleer.errors import TrainingError
from cameleer.rollout.engine import RolloutEngine, Sampling
from cameleer.train.collect import collect
from cameleer.train.learner import Learner
from cameleer.train.packing import pack
from cameleer.types import Prompt
from cameleer.verifiers.isolate import VerifierPool


def heldout_accuracy(
    engine: RolloutEngine,
    pool: VerifierPool,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
) -> dict[str, float]:
    """Answer each prompt once and verify it.

    Returns:
        The share answered rightly, of those that reached a verdict, and the counts of both kinds.
    """
    assert all(prompt.checks for prompt in prompts), "nothing could be right without a check"
    # Step 0 is nobody's training step, so sampled answers have noise of their own.
    groups = collect(engine, pool, prompts, sampling, group_size=1, seed=seed, step=0)
    verdicts = [group.scores[0] for group in groups]
    decided = [v for v in verdicts if all(score.status == "scored" for score in v)]
    if not decided:
        raise TrainingError(
            f"None of {len(verdicts)} held-out answers reached a verdict; the first: "
            f"{verdicts[0][0].reason}."
        )
    right = sum(all(score.value >= 1 for score in v) for v in decided)
    return {
        "heldout/accuracy": right / len(decided),
        "heldout/num_prompts": len(decided),
        "heldout/undecided": len(verdicts) - len(decided),
    }


def ranking_accuracy(learner: Learner, pairs: Sequence[tuple[Example, ...]]) -> dict[str, float]:
    """The share of pairs whose chosen sequence the reward model scores above the other."""
    batch = pack(pairs)
    rewards_B = learner.rewards(batch)
    chosen, rejected = (rewards_B[rows] for rows in batch.pairs)
    return {
        "heldout/accuracy": float((chosen > rejected).double().mean()),
        "heldout/num_pairs": len(pairs),
        "heldout/margin": float((chosen - rejected).mean()),
    }
