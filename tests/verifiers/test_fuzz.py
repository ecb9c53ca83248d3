"""No text hangs, kills or slows a verifier, and what stands around an answer changes no verdict.

``CAMELEER_FUZZ=100 pytest tests/verifiers/test_fuzz.py --timeout 0`` looks at a hundred times as
many texts, and at other ones each time.
"""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_rows import SHARED, rows_of

from cameleer.types import Score
from cameleer.verifiers.cases import CASES
from cameleer.verifiers.cases import ifeval as instructions
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.isolate import VerifierPool
from cameleer.verifiers.math import Math
from cameleer.verifiers.text import boxes

TIMES = int(os.environ.get("CAMELEER_FUZZ", "1"))


def examples(count: int) -> settings:
    return settings(
        deadline=None,
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


MAX_CHARACTERS = 10_000
"""A completion of 2,048 tokens, at five characters a token."""

PIECES = [
    "18", "0", "1,800", "3.5", "7" * 60, "1/2", "-5", "½", "１８", "٣", "²", "−", "1e9", "٫",
    "\\boxed{", "\\boxed ", "\\fbox{", "{", "}", "\\{", "(", ")", "[", "]", "$", "$$", "\\(",
    "\\frac", "\\frac{1}{2}", "\\sqrt", "\\sqrt{", "^", "^{", "_", "!", "\\binom{9}{4}", "\\pm",
    "\\int_0^", "\\sum_{i=1}^", "\\text{", "\\text{ or }", "\\left(", "\\right]", "\\cup",
    "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&", "x", "y^2", "\\sin ", "\\log_2", "\\infty",
    "\\pi", "i", "\\]", "#### ", "The answer is ", "Answer: ", "The final answer is ",
    " I hope it is correct.", "is", "Wait, that is wrong. ", "\nQuestion: ", "<|user|>", " or ",
    " and ", " than ", "not ", "maybe ", "=", "<", "\\leq", "+", "-", "*", "/", "%", "°", "€",
    ".", ",", ";", ":", "?", "|", "~~", "`", "**", "* ", "- ", "# ", "```", "\n", "\n\n", " ",
    "\t", "\xa0", "word ", "Step 1 ", "a.m.", "cm", "* * *", "******", "<<", ">>", "P.S.", '"',
    "“", "SECTION 1", "[name]", "\x00", "\ud7ff", "é", "日本",
]  # fmt: skip
"""What verifiers look for, and what they stumble over."""

REPEATED = st.tuples(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), st.integers(1, 4000)
)
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=30).map("".join),
    st.lists(REPEATED.map(lambda part: "".join(part[0]) * part[1]), min_size=1, max_size=4)
    .map("".join)
    .map(lambda text: text[:MAX_CHARACTERS]),
)
TRUTHS = st.sampled_from(
    ["5", r"\frac{1}{2}", "x^2+1", "(1,2)", r"\text{even}", r"(-\infty,3]", "√8"]
)


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds))]


def cpu_seconds(score: Callable[[], Score]) -> float:
    """CPU time, so that a busy machine fails no test."""
    begin = time.process_time()
    result = score()
    seconds = time.process_time() - begin
    assert result.status in ("scored", "invalid") and result.value in (0.0, 1.0)
    assert len(result.reason) <= 200
    # One slow text may be the garbage collector's; one of 20 times the limit is not.
    assert seconds < 1.0
    return seconds


def test_gsm8k_takes_less_than_50_ms_for_99_of_100_texts():
    seconds: list[float] = []

    @examples(400)
    @given(TEXTS)
    def fuzz(text: str) -> None:
        seconds.append(cpu_seconds(lambda: GSM8K().score(text, "5")))

    fuzz()
    assert p99(seconds) < 0.05


LABELS = sorted({truth for _, truth, _, _ in instructions.CASES})


def test_ifeval_takes_less_than_50_ms_for_99_of_100_texts():
    seconds: list[float] = []

    @examples(400)
    @given(TEXTS, st.sampled_from(LABELS))
    def fuzz(text: str, truth: str) -> None:
        seconds.append(cpu_seconds(lambda: IFEval().score(text, truth)))

    fuzz()
    assert p99(seconds) < 0.05


def test_math_takes_less_than_500_ms_for_99_of_100_texts_and_the_pool_stops_the_others():
    """The limit of CPU time is the pool's: what exceeds it is undecided, and counted."""
    tasks = 0
    with VerifierPool({"math": Math()}, cpu_limit_s=0.5) as pool:

        @examples(25)
        @given(st.lists(st.tuples(TEXTS, st.booleans(), TRUTHS), min_size=20, max_size=20))
        def fuzz(texts: list[tuple[str, bool, str]]) -> None:
            nonlocal tasks
            scores = pool.score_all(
                [
                    ("math", rf"\boxed{{{text}}}" if box else text, truth)
                    for text, box, truth in texts
                ]
            )
            tasks += len(scores)
            for score in scores:
                assert score.status in ("scored", "undecided") and score.value in (0.0, 1.0)
                assert len(score.reason) <= 200

        fuzz()
        counts = pool.counts
    assert counts["crash"] == counts["error"] == 0, counts
    assert counts["timeout"] + counts["memory"] <= 0.01 * tasks, counts


# What stands around an answer: words without digits, mathematics or the verifiers' own cues. Not
# among them, because they change what the text says: "answer", "boxed" and "####" (a statement),
# "wait", "no", "wrong", "sorry", "actually" and their like (a correction), "Question:" (another
# problem), "or", "maybe", "otherwise" (an alternative), "not" and "than" (they join the sentence).
WORDS = [
    "we", "first", "add", "the", "apples", "and", "then", "share", "them", "so", "that", "every",
    "child", "gets", "the", "same", "amount", "of", "fruit", "therefore", "this", "gives", "what",
    "was", "asked", "let", "us", "see", "how", "many", "there", "are", "in", "each", "of",
    "those", "boxes", "it", "follows", "because", "both", "sides", "agree", "hence", "good",
    "luck", "I", "hope", "this", "helps", "thanks", "für", "die", "größte", "Äpfel",
]  # fmt: skip
SENTENCE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
MARKED = st.sampled_from(
    [
        *("{}", "{}.", "**{}**", "*{}*", "_{}_", "## {}", "### {}:", "> {}", "- {}\n- {}", "* {}"),
        *("a) {}", "```\n{}\n```", "`{}`", "~~~\n{}\n~~~", "| {} | {} |", "<b>{}</b>", "{}\n---"),
        *("***", "\n\n\n", "\t", " \r\n ", "---"),
    ]
)
PARAGRAPH = st.builds(lambda mark, words: mark.replace("{}", words), MARKED, SENTENCE)
AROUND = st.lists(PARAGRAPH, max_size=3).map("\n\n".join)


class Known(NamedTuple):
    """A text whose verdict is known."""

    text: str
    truth: str
    value: float


OPENS_WITH_A_PROBLEM = ("Question:", "Problem:")
"""After other words such a line opens another problem, and what follows it counts for nothing."""


@functools.cache
def known(verifier: str) -> list[Known]:
    """The table's texts, and worked solutions where the data sets are at hand."""
    table = [
        Known(case.text, case.truth, float(case.right))
        for case in CASES
        if case.verifier == verifier
        and len(case.text) < MAX_CHARACTERS
        and not case.text.startswith(OPENS_WITH_A_PROBLEM)
    ]
    return table + (_solutions(verifier) if SHARED.exists() else [])


def _solutions(verifier: str) -> list[Known]:
    if verifier == "gsm8k":
        rows: list[dict[str, Any]] = rows_of("gsm8k/test.jsonl")
        pairs = [(row["answer"], row["answer"].split("#### ")[1]) for row in rows]
        pairs += [(text.split("####")[0], truth) for text, truth in pairs]
    else:
        rows = rows_of("math/test.jsonl.gz")
        pairs = [(row["solution"], boxes(row["solution"])[-1].answer) for row in rows]
    chosen = random.Random(0).sample(pairs, 300)
    score = {"gsm8k": GSM8K(), "math": Math()}[verifier].score
    return [Known(text, truth, score(text, truth).value) for text, truth in chosen]


@pytest.mark.parametrize(("verifier", "count"), [("gsm8k", 50), ("math", 15)])
def test_white_space_markdown_and_prose_around_a_text_change_no_verdict(
    pool: VerifierPool, verifier: str, count: int
):
    texts = known(verifier)

    @examples(count)
    @given(st.lists(st.tuples(st.sampled_from(texts), AROUND, AROUND), min_size=30, max_size=30))
    def fuzz(wrapped: list[tuple[Known, str, str]]) -> None:
        around = [f"{before}\n\n{case.text}\n\n{after}" for case, before, after in wrapped]
        scores = pool.score_all(
            [
                (verifier, text, case.truth)
                for text, (case, _, _) in zip(around, wrapped, strict=True)
            ]
        )
        for text, (case, _, _), score in zip(around, wrapped, scores, strict=True):
            assert (score.value, score.status) == (case.value, "scored"), (text, case, score)

    fuzz()
