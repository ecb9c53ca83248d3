"""Where the answer stands in a text. Shared by the verifiers of mathematics; nothing is evaluated.

The answer is the first completed final-answer statement, replaced only by an explicit correction.

* A statement is a box (``\\boxed{18}``) or a phrase (``#### 18``, ``The answer is 18``,
  ``Answer: 18``). One that nothing follows, or an unclosed box, is not completed and counts not.
* What follows a new problem (``Question:`` at the start of a line) is no part of the answer.
* After an explicit correction ("Wait, that is wrong.") only the statements after it count.
* Of several phrases the first counts: models ramble on after they have answered. All boxes count,
  and they must agree with each other and with that phrase, or hedging would pay.

Every pattern here has bounded repeats, or repeats that cannot share characters: time is linear.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_STATEMENTS = 100
"""Boxes, and phrases, after this many are not read: no honest text has them."""

MAX_BOX = 20_000
"""A box that holds more characters than this may be taken for one that is not closed."""


@dataclass(frozen=True)
class Statement:
    """A place where the text says what its answer is."""

    kind: Literal["box", "phrase", "label"]
    """`label` is a phrase of the form ``Answer: …``, which may also open a worked solution."""
    start: int
    end: int
    answer: str
    """What stands in the box, or after the phrase up to the end of its sentence."""


def before_new_problem(text: str) -> str:
    """The text up to a line that opens another problem or turn. One at the very start stays."""
    start = len(text) - len(text.lstrip())
    header = _NEW_PROBLEM.search(text, start)
    return text[: header.start()] if header else text


def boxes(text: str) -> list[Statement]:
    r"""Every closed ``\boxed{…}``, ``\fbox{…}`` or ``\boxed 5``, in order; no box in a box."""
    openings = list(itertools.islice(_BOX.finditer(text), MAX_STATEMENTS))
    if not openings:
        return []
    closing = matching_braces(text, openings[0].start(), openings[-1].end() + MAX_BOX)
    found: list[Statement] = []
    for opening in openings:
        if found and opening.start() < found[-1].end:
            continue
        bare = opening["bare"]
        if bare is not None:
            answer, end = bare.rstrip("."), opening.end()
        elif opening.end() - 1 in closing:
            end = closing[opening.end() - 1] + 1
            answer = text[opening.end() : end - 1]
        else:
            continue
        if answer.strip():
            found.append(Statement("box", opening.start(), end, answer))
    return found


def braces_match(text: str) -> bool:
    r"""Whether every ``{`` has its ``}``; those of sets, ``\{`` and ``\}``, are text."""
    count = sum(brace[0] in "{}" for brace in _BRACE.finditer(text))
    return count == 2 * len(matching_braces(text))


def matching_braces(text: str, start: int = 0, end: int = sys.maxsize) -> dict[int, int]:
    """Position of each closed ``{`` to that of its ``}``; after a backslash they are characters."""
    closing: dict[int, int] = {}
    open_at: list[int] = []
    for brace in _BRACE.finditer(text, start, end):
        if brace[0] == "{":
            open_at.append(brace.start())
        elif brace[0] == "}" and open_at:
            closing[open_at.pop()] = brace.start()
    return closing


def phrases(text: str, *, latex: bool) -> list[Statement]:
    """Every phrase that announces the answer and is followed by something, in order.

    Args:
        latex: A dollar sign opens mathematics, in which a full stop or a line break ends no
            sentence. Else it is money.
    """
    found: list[Statement] = []
    cues = list(itertools.islice(_CUE.finditer(text), MAX_STATEMENTS))
    for cue, following in itertools.zip_longest(cues, cues[1:]):
        start, end = _sentence(text, cue.end(), latex=latex)
        if following is not None and following.start() < end:
            # "Final Answer: The final answer is 5": the later cue is the nearer one.
            end = following.start()
            if cue["label"]:
                continue
        answer = text[start:end]
        if not answer.strip(_DECORATION) or _NO_ANSWER.match(answer):
            continue
        kind: Literal["label", "phrase"] = "label" if cue["label"] else "phrase"
        found.append(Statement(kind, cue.start(), end, answer))
    return found


def that_count(text: str, statements: Sequence[Statement]) -> list[Statement]:
    """Of all statements, those that have to be right: see the rules at the top of this file."""
    ordered = sorted(statements, key=lambda s: (s.start, s.end))
    since = 0
    for index, (before, after) in enumerate(itertools.pairwise(ordered), start=1):
        # From the closing brace on, after which "Wait" begins a sentence.
        if _CORRECTION.search(text, min(before.end, after.start) - 1, after.start):
            since = index
    kept = ordered[since:]
    first_phrase = next((s for s in kept if s.kind != "box"), None)
    return [s for s in kept if s.kind == "box" or s is first_phrase]


def _sentence(text: str, start: int, *, latex: bool, limit: int = 1000) -> tuple[int, int]:
    """Where the sentence after a cue begins and ends; it may begin on one of the next lines."""
    blank = _BLANK.match(text, start)
    assert blank is not None, "the pattern matches the empty string"
    start = blank.end()
    inside_math = False
    for mark in _SENTENCE_MARK.finditer(text, start, start + limit):
        if mark["math"]:
            inside_math = latex and not inside_math
        elif mark["end"] and not inside_math:
            return start, mark.start()
    return start, min(len(text), start + limit)


_DECORATION = " \t\r\n*_`$:=#\\()[]{}.,!?;-"

_NEW_PROBLEM = re.compile(
    r"\n[ \t>*#_]{0,12}(?:(?i:new|next)[ \t]{1,3})?(?i:question|problem|exercise|q|human|user)"
    r"[ \t]{0,3}#?[0-9]{0,4}[ \t*_]{0,6}:|<\|user\|>"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,4}(?:\{|(?P<bare>[^\s{}$,;]{1,40}))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Begins with a set of characters, so that the search skips everything else at the speed of C.
_CUE = re.compile(
    r"[#Aa](?:(?<=\#)(?<!\#\#)\#{3}(?!\#)"
    r"|(?<![\w\#].)(?i:nswer(?:(?<=the.answer)s)?)\b"
    r"(?i:[ \t]{1,3}to[ \t][^.:\n]{1,40}?[ \t](?=(?:is|are)\b))?[ \t*_]{0,6}"
    r"(?:(?P<label>:)|(?i:is\b|are\b|(?:would|should|will|must)[ \t]be\b)))"
)
_BLANK = re.compile(r"[\s*_:]*")
_SENTENCE_MARK = re.compile(
    r"\\[$\\.]|(?P<math>\$\$?|\\[\[\]()])|(?P<end>\n|[.!?](?![0-9])|[ \t]I hope it is correct)"
)
_NO_ANSWER = re.compile(
    r"(?:not|n't|wrong|incorrect|correct|right|obtained|found|given)\b", re.IGNORECASE
)
_CORRECTION = re.compile(
    r"(?:^|[.!?…\n*)}$]\s{0,4})(?:wait|hold on|oops|hmm|sorry|no)\b[ \t]{0,2}[,.!:;…\u2014\u2013-]"
    r"|\bcorrection\b[*_ \t]{0,4}:"
    r"|\bcorrected\b"
    r"|\b(?:made|is|was|found|see|spot(?:ted)?|noticed?)[ \t](?:a|an|my|the)[ \t]"
    r"(?:[a-z]{1,15}[ \t])?(?:mistake|error)\b"
    r"|\b(?:that|this|it|which|above|answer|result)(?:[ \t](?:is|was)|['\u2019]s)[ \t]"
    r"(?:wrong|incorrect|not (?:right|correct)|mistaken)\b"
    r"|\blet(?: me|['\u2019]s| us)[ \t](?:[a-z]{1,15}[ \t]){0,2}(?:correct|fix|re-?check|re-?do"
    r"|re-?calculate|re-?compute|re-?consider|re-?evaluate|re-?visit|double[- ]check|try again"
    r"|start over)"
    r"|\bmy (?:mistake|apologies|bad)\b"
    r"|\bi (?:was wrong|apologi[sz]e|miscalculated|misread)\b"
    r"|(?:^|[.!?…\n]\s{0,4})actually\b|\bactually,|\bscratch that\b|\bon second thou?ght",
    re.IGNORECASE,
)
