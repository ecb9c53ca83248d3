r"""The rules by which others publish numbers on GSM8K and MATH, their errors included.

`LastNumber` and `Minerva` make the columns of Tulu 3 (Lambert et al. 2024, arXiv:2411.15124), as
github.com/allenai/olmes computes them. `Minerva(flex=False)` is the older rule, of
lm_eval/tasks/minerva_math/utils.py in github.com/EleutherAI/lm-evaluation-harness at 0.4.3, which
goes back to Lewkowycz et al. 2022, arXiv:2206.14858. Their functions are those that trained Tulu 3
(`cameleer.verifiers.tulu3`), so that training and evaluation cannot drift apart; its header lists
what the rules get wrong, and where time and size are limited differently. As here the truth too is
in Minerva's spelling, which drops units, ``ft`` among them, ``(1,2)`` is not ``\left(1,2\right)``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from cameleer.types import Score
from cameleer.verifiers import tulu3
from cameleer.verifiers.base import brief
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.math import Math


@dataclass(frozen=True)
class LastNumber:
    """Right if the text's last number is spelled as the truth's: ``18.00`` is not 18.

    Both lose a whole number's sign. The published comparison also ignores case, commas, dollars,
    a last point, and what stands before ``####``, none of which a number so found can have.
    """

    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        if (problem := self.validate(truth)) is not None:
            return Score(0.0, "invalid", f"ground truth {brief(truth)}: {problem}")
        right = tulu3.gsm8k_is_right(text, tulu3.last_number(str(truth)))
        return Score(float(right), reason=f"last number: {brief(tulu3.last_number(text))}")

    def validate(self, truth: Any) -> str | None:
        return GSM8K().validate(truth)


@dataclass(frozen=True)
class Minerva:
    r"""Right if an answer of the text equals the truth, all in Minerva's spelling.

    The truth is what stands in the solution's last box.
    """

    flex: bool = True
    """True: any of `candidates`, by sympy or as a string without its spelling. False, the strict
    rule: only what the closing sentence states, and only by sympy, so that pairs, intervals and
    whatever else it cannot subtract are never right. Words are products of letters to it."""

    isolated: ClassVar[bool] = True

    def score(self, text: str, truth: Any) -> Score:
        self.check_installed()
        if (problem := self.validate(truth)) is not None:
            return Score(0.0, "invalid", f"ground truth {brief(truth)}: {problem}")
        gold = tulu3.minerva_spelling(truth)
        answers = candidates(text) if self.flex else list(_stated(text))
        equal = tulu3.equal if self.flex else tulu3.equal_by_sympy
        right = any(equal(answer, gold) for answer in answers)
        return Score(float(right), reason=f"any of: {brief(', '.join(answers) or 'nothing')}")

    def validate(self, truth: Any) -> str | None:
        return Math().validate(truth)

    def check_installed(self) -> None:
        """Raises RecipeError where the packages for this rule are not installed."""
        tulu3.check_antlr(f"{type(self).__name__}(flex={self.flex})", "leave this metric out")

    def warm_up(self) -> None:
        self.score("Final Answer: The final answer is $x+1$. I hope it is correct.", "1+x")


@dataclass(frozen=True)
class MathVerify:
    """Right if github.com/huggingface/Math-Verify says so, with its defaults, of the whole text.

    `cameleer.verifiers.math.Math` asks the same library, of one answer that it finds itself.
    """

    isolated: ClassVar[bool] = True

    def score(self, text: str, truth: Any) -> Score:
        if (problem := self.validate(truth)) is not None:
            return Score(0.0, "invalid", f"ground truth {brief(truth)}: {problem}")
        from math_verify import parse, verify

        # Its own limits need SIGALRM on a main thread; a `VerifierPool` has better ones.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gold, answer = (
                parse(each, parsing_timeout=None) for each in (rf"\boxed{{{truth}}}", text)
            )
            right = verify(gold, answer, timeout_seconds=None)
        return Score(float(right), reason=f"parsed: {brief(str(answer[-1:]))}")

    def validate(self, truth: Any) -> str | None:
        return Math().validate(truth)

    def warm_up(self) -> None:
        self.score(r"\boxed{x+1}", "1+x")


def candidates(text: str) -> list[str]:
    """What counts as an answer for `Minerva`: the closing sentence's and the last box's.

    Only where both are absent, the last formula; and where that is too, the whole text.
    """
    found = [*_stated(text), *map(tulu3.minerva_spelling, tulu3.last_box(text))]
    return found or [tulu3.last_formula(text)]


def _stated(text: str) -> Iterator[str]:
    return map(tulu3.minerva_spelling, tulu3.minerva_statement(text))
