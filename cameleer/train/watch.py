"""What only several steps together show to be wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from cameleer.recipe import Recipe

_CUT_OFF_STEPS = 3
_ALIKE_STEPS = 5


class Watch:
    """Looks at the metrics of the latest steps. It warns once, and again after all was well."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._latest: deque[Mapping[str, float]] = deque(maxlen=_ALIKE_STEPS)
        self._said: set[str] = set()

    def step(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """The warnings that this step gives rise to."""
        if "finish/length" not in metrics:
            return []
        self._latest.append(metrics)
        found = dict(self._problems(step))
        new = [text for name, text in found.items() if name not in self._said]
        self._said = set(found)
        return new

    def _problems(self, step: int) -> Iterator[tuple[str, str]]:
        rollout = self._recipe.rollout
        assert rollout is not None, "imitation has no groups"
        latest = list(self._latest)
        recent = latest[-_CUT_OFF_STEPS:]
        if len(recent) == _CUT_OFF_STEPS and all(m["finish/length"] == 1 for m in recent):
            worth = self._recipe.reward.without_eos
            yield (
                "cut off",
                f"Step {step}: every completion of the last {_CUT_OFF_STEPS} steps was cut off at "
                f"rollout.max_tokens={rollout.max_tokens}"
                + (f", where its reward is {worth:g}" if worth is not None else "")
                + ". Raise rollout.max_tokens, or start from a policy that ends its answers: one "
                "fine-tuned with this chat template.",
            )
        elif len(latest) == _ALIKE_STEPS and all(
            m.get("groups/zero_variance") == 1 for m in latest
        ):
            wrong = sum(m["groups/all_wrong"] for m in latest) / len(latest)
            right = sum(m["groups/all_right"] for m in latest) / len(latest)
            told = f" ({wrong:.0%} all wrong, {right:.0%} all right)"
            shares = told if self._recipe.verifiers else ""
            yield (
                "alike",
                f"Step {step}: in no group of the last {_ALIKE_STEPS} steps did siblings differ in "
                f"reward{shares}, so nothing is learnt from them. Take easier prompts or imitate "
                "first where all are wrong, harder ones where all are right; a larger "
                "rollout.group_size finds rare answers.",
            )
