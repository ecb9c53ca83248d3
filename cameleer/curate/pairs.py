"""On-policy data: several answers to each question, sorted into preferred, rejected and right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cameleer.types import Group


@dataclass
class Curated:
    """Rows for training, and what became of the questions without any."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    """Format `preference`: `prompt`, `chosen` and `rejected` as turns; `rewards` and `id`."""
    right: list[dict[str, Any]] = field(default_factory=list)
    """Format `chat`: one answer to imitate to each question that has any (rejection sampling)."""
    num_rated: int = 0
    """How many of `right` are the best-rated answers to questions without checks."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Questions without a pair, by reason."""


def curate(groups: Sequence[Group], rewards: Sequence[float], *, seed: int) -> Curated:
    """Pair the best and the worst answer to each question.

    To imitate is the best of the answers with full scores of all their checks. A question without
    checks has the best of all its answers there, good or not: nobody can say that it is right.

    Only answers that ended by themselves and reached a verdict count: a cut one, rendered as a
    turn, would have an end that the policy never wrote. Among equals the seed draws. Answers of
    equal text are one answer.

    Args:
        rewards: Of all completions, in order; what an undecided one has is not read.
    """
    found, dropped = Curated(), Counter[str]()
    given = iter(rewards)
    for group in groups:
        rng = random.Random(f"{seed} {group.prompt.id}")
        answers = list(_ended(group, [next(given) for _ in group.completions]))
        if not answers:
            dropped["no answer ended with a verdict"] += 1
            continue
        rng.shuffle(answers)
        best, worst = max(answers, key=_reward), min(answers, key=_reward)
        prompt = [dict(message) for message in group.prompt.messages]
        is_checked = bool(group.prompt.checks)
        right = [answer for answer in answers if answer.right] if is_checked else [best]
        found.num_rated += not is_checked
        if right:
            chosen = _turn(max(right, key=_reward).text)
            found.right.append({"messages": [*prompt, chosen], "id": group.prompt.id})
        if best.reward > worst.reward:
            found.pairs.append(
                {
                    "prompt": prompt,
                    "chosen": [_turn(best.text)],
                    "rejected": [_turn(worst.text)],
                    "rewards": [best.reward, worst.reward],
                    "id": group.prompt.id,
                }
            )
        elif not is_checked:
            dropped["all answers equally rated"] += 1
        elif len(right) == len(answers):
            dropped["all answers equally right"] += 1
        else:
            dropped["all answers equally wrong"] += 1
    found.dropped = dict(dropped)
    return found


class _Answer(NamedTuple):
    text: str
    reward: float
    right: bool


def _ended(group: Group, rewards: Sequence[float]) -> Iterator[_Answer]:
    """The answers that count, each text once."""
    seen: set[str] = set()
    for completion, scores, reward in zip(group.completions, group.scores, rewards, strict=True):
        text = completion.text.strip()
        decided = all(score.status == "scored" for score in scores)
        if completion.finish_reason == "eos" and text and text not in seen and decided:
            seen.add(text)
            yield _Answer(text, reward, all(score.value >= 1 for score in scores))


def _reward(answer: _Answer) -> float:
    return answer.reward


def _turn(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
