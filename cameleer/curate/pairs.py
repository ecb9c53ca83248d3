"""On-policy data: several answers to each question, sorted into preferred, rejected and right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cameleer.types import Group, Score


@dataclass
class Curated:
    """Rows for training, and what became of the questions without any."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    """Format `preference`: `prompt`, `chosen` and `rejected` as turns; `rewards` and `id`."""
    right: list[dict[str, Any]] = field(default_factory=list)
    """Format `chat`: one fully right answer to each question that has any (rejection sampling)."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Questions without a pair, by reason."""


def curate(groups: Sequence[Group], *, seed: int) -> Curated:
    """Pair the best and the worst answer to each question.

    Only answers that ended by themselves and reached a verdict count: a cut one, rendered as a
    turn, would have an end that the policy never wrote. Among equals the seed draws. Answers of
    equal text are one answer.
    """
    found, dropped = Curated(), Counter[str]()
    for group in groups:
        rng = random.Random(f"{seed} {group.prompt.id}")
        answers = list(_ended(group))
        if not answers:
            dropped["no answer ended with a verdict"] += 1
            continue
        rng.shuffle(answers)
        best, worst = max(answers, key=lambda a: a[1]), min(answers, key=lambda a: a[1])
        prompt = [dict(message) for message in group.prompt.messages]
        if best[1] >= sum(check.weight for check in group.prompt.checks):
            found.right.append({"messages": [*prompt, _turn(best[0])], "id": group.prompt.id})
        if best[1] > worst[1]:
            found.pairs.append(
                {
                    "prompt": prompt,
                    "chosen": [_turn(best[0])],
                    "rejected": [_turn(worst[0])],
                    "rewards": [best[1], worst[1]],
                    "id": group.prompt.id,
                }
            )
        else:
            dropped[
                "all answers equally wrong" if best[1] == 0 else "all answers equally right"
            ] += 1
    found.dropped = dict(dropped)
    return found


def _ended(group: Group) -> Iterator[tuple[str, float]]:
    """Texts and rewards of the answers that count, each text once."""
    seen: set[str] = set()
    for completion, scores in zip(group.completions, group.scores, strict=True):
        text = completion.text.strip()
        if completion.finish_reason == "eos" and text and text not in seen and _decided(scores):
            seen.add(text)
            weights = (check.weight for check in group.prompt.checks)
            yield text, sum(s.value * w for s, w in zip(scores, weights, strict=True))


def _decided(scores: Sequence[Score]) -> bool:
    return all(score.status == "scored" for score in scores)


def _turn(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
