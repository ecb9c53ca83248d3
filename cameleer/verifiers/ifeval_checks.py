"""The 25 rules behind `IFEval`. Each reads a text and the arguments that a label gives it.

Functions carry the names that labels use, and their parameters the names of a label's keys. Each
docstring says what is asked, and what was mended in the published rule, of
``open_instruct/if_functions.py`` in github.com/allenai/open-instruct at 9c2d44b;
`ifeval` has those as they were. All are linear in the text: where a regular expression looks odd
(possessive ``++``, a lookbehind that repeats its first character), that is why.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

Outcome = tuple[bool, str]
"""Whether the text does what was asked, and what was seen in it."""

QUANTIFIERS = ("at least", "around", "at most")


def verify_keywords(text: str, keyword_list: Sequence[str]) -> Outcome:
    """Each keyword is there, as a word. Published: as part of one too, "art" in "party"."""
    folded = text.casefold()
    missing = [word for word in keyword_list if not _whole_word(word).search(folded)]
    return not missing, f"missing: {', '.join(missing) or 'none'}"


def verify_keyword_frequency(text: str, word: str, N: int) -> Outcome:
    """The word is there N times. Published: "ice cream", "well-known", "_word_" never counted."""
    return _amount(len(_whole_word(word).findall(text.casefold())), "occurrences", N)


def validate_forbidden_words(text: str, forbidden_words: Sequence[str]) -> Outcome:
    """None is there as a word. Published: nor as part of one, "cat" forbade "category"."""
    folded = text.casefold()
    found = [word for word in forbidden_words if _whole_word(word).search(folded)]
    return not found, f"found: {', '.join(found) or 'none'}"


def verify_letter_frequency(text: str, letter: str, N: int) -> Outcome:
    """The letter is there N times. Published: in its one case, though Q is the letter q too."""
    return _amount(text.casefold().count(letter.casefold()), f"times '{letter}'", N)


def validate_response_language(text: str, language: str) -> Outcome:
    """Most of the text is in the language. Published: raised on "123", read the beginning only."""
    found, language = detect_language(_sample(text)), language.lower()
    return language in (found, found.split("-")[0]), f"language {found}"


def verify_paragraph_count(text: str, N: int) -> Outcome:
    """N paragraphs between lines ``* * *``. Published: also between "2 * * * 3" within a line."""
    paragraphs = _DIVIDER.split(text)
    if not all(map(has_word, paragraphs)):
        return False, "a divider with nothing before or after it"
    return _amount(len(paragraphs), "paragraphs", N)


def validate_word_constraint(text: str, N: int, quantifier: str) -> Outcome:
    """About N words. Published: "-" and "*" counted, so that dashes made a text longer."""
    return _amount(len(_WORD.findall(text)), "words", N, quantifier, slack=max(round(N * 0.1), 1))


def verify_sentence_constraint(text: str, N: int, quantifier: str) -> Outcome:
    """About N sentences. Published: "!" ended none, nor did "No." or "Go."; "" was one sentence."""
    pieces = _SENTENCE_END.split(_NO_SENTENCE_END.sub(" ", text))
    return _amount(sum(map(has_word, pieces)), "sentences", N, quantifier, slack=1)


def validate_paragraphs(text: str, N: int, first_word: str, i: int) -> Outcome:
    """N paragraphs, the i-th begins so. Published: "How" began "However"; "However" and **However
    did not begin with "however"; four line breaks made an empty paragraph."""
    paragraphs = _paragraphs(text)
    if len(paragraphs) != N:
        return _amount(len(paragraphs), "paragraphs", N)
    beginning = paragraphs[i - 1].casefold().lstrip(_MARKUP)
    begins = _whole_word(first_word.strip(_MARKUP) or first_word).match(beginning)
    return begins is not None, f"paragraph {i} begins '{beginning[:30]}'"


def verify_postscript(text: str, postscript_marker: str) -> Outcome:
    """A postscript ends the text. Published: it could stand anywhere, even before the answer."""
    before, marker, after = text.rpartition(postscript_marker.strip())
    if not marker or before[-1:].isalnum():
        return False, "no postscript"
    ends = has_word(before) and len(_paragraphs(after)) == 1
    return ends, f"a postscript that {'ends' if ends else 'does not end'} the text"


def validate_placeholders(text: str, N: int) -> Outcome:
    """N or more ``[placeholders]``. Published: always right, for it returned a tuple; and it took
    ``[]``, ``[1]`` and the text of links for placeholders."""
    found = sum(map(bool, map(_LETTER.search, _BRACKETS.findall(text))))
    return _amount(found, "placeholders", N, "at least")


def verify_bullet_points(text: str, N: int) -> Outcome:
    """N bullet points. Published: ``**bold**``, ``-5`` and ``---`` at a line's start were some."""
    return _amount(sum(map(has_word, _BULLET.findall(text))), "bullet points", N)


def validate_title(text: str) -> Outcome:
    """A ``<<title>>``. Published: an empty one, ``<<>>``, was enough."""
    found = any(map(has_word, _TITLE.findall(text)))
    return found, "a title" if found else "no title"


def validate_choice(text: str, options: Sequence[str]) -> Outcome:
    """One of the options, and no other. Published: reversed, the text had to be part of an option;
    so "e" was right and "My answer: yes" was not."""
    found = {
        " ".join(option.split())
        for option in _whole_word(*(option.strip(" .!?") or option for option in options)).findall(
            text.casefold()
        )
    }
    return len(found) == 1, f"options: {', '.join(sorted(found)) or 'none'}"


def validate_highlighted_sections(text: str, N: int) -> Outcome:
    """N or more ``*highlights*``. Published: ``**bold**`` was two, as were two bullets ``* …``."""
    found = sum(map(has_word, _HIGHLIGHT.findall(text)))
    return _amount(found, "highlighted sections", N, "at least")


def validate_sections(text: str, N: int, section_splitter: str) -> Outcome:
    """N lines begin with ``SPLITTER X``. Published: what precedes the first one was a section, and
    so was what follows the word within a sentence."""
    return _amount(len(_heading(section_splitter).findall(text)), "sections", N)


def validate_json_format(text: str) -> Outcome:
    """A JSON object or array. Published: ``5`` and ``NaN`` were right, deep nesting raised."""
    read = parse_json(text, parse_int=str, parse_constant=_refuse)
    return isinstance(read, dict | list), f"JSON of type {type(read).__name__}"


def validate_repeat_prompt(text: str, original_prompt: str) -> Outcome:
    """The prompt, then an answer. Published: no answer was needed; a space at its end mattered."""
    prompt = original_prompt.strip()
    repeats, answers = text.startswith(prompt), has_word(text[len(prompt) :])
    return repeats and answers, f"begins with the prompt: {repeats}, answers after it: {answers}"


def validate_two_responses(text: str) -> Outcome:
    """Two responses and ``******`` between. Published: one could be empty, or differ in spaces."""
    responses = [" ".join(part.casefold().split()) for part in _SIX_STARS.split(text)]
    if len(responses) != 2 or not all(map(has_word, responses)):
        return False, f"{sum(map(has_word, responses))} responses, asked for exactly 2"
    return responses[0] != responses[1], "two responses"


def validate_uppercase(text: str) -> Outcome:
    """English capitals only. Published: a text without Latin letters was right."""
    return text == text.upper() and bool(re.search("[A-Z]", text)), "its case"


def validate_lowercase(text: str) -> Outcome:
    """English, no capital letter. Published: a text without Latin letters was right."""
    return text == text.lower() and bool(re.search("[a-z]", text)), "its case"


def validate_frequency_capital_words(text: str, N: int, quantifier: str) -> Outcome:
    """About N words in capitals. Published: "I" and "A" counted, "DON'T" was two, "ÉTÉ" none, and
    "around" meant exactly; here it is a tenth or 1, as for words."""
    found = sum(len(word) > 1 and word.isupper() for word in _TERM.findall(text))
    return _amount(found, "words in capitals", N, quantifier, slack=max(round(N * 0.1), 1))


def validate_end(text: str, end_phrase: str) -> Outcome:
    """The phrase is the end. Published: "ball." ended with "all.", and "all.*" did not."""
    phrase = end_phrase.strip()
    text = text.rstrip("".join(set(_MARKUP) - set(phrase)))
    cut = phrase[0].isalnum() and text[: -len(phrase)][-1:].isalnum()
    return text.endswith(phrase) and not cut, f"ends '{text[-40:]}'"


def validate_quotation(text: str) -> Outcome:
    """Wrapped in double quotation marks. Published: one mark was enough, “curly” ones were none."""
    ends = text[:1] + text[-1:]
    return ends in ('""', "“”") and has_word(text), f"from {ends[:1]} to {ends[1:]}"


def validate_no_commas(text: str) -> Outcome:
    """No comma. Published: those of other scripts were allowed."""
    found = sum(map(text.count, ",\uff0c\u3001\u060c"))
    return not found, f"{found} commas"


RULES: dict[str, Callable[..., Outcome]] = {
    name: rule
    for name, rule in list(globals().items())
    if name.startswith(("verify_", "validate_"))
}
"""The 25 rules by the name that labels use."""


def detect_language(text: str) -> str:
    langdetect = importlib.import_module("langdetect")
    langdetect.DetectorFactory.seed = 0  # It draws n-grams at random, and otherwise wavers.
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:  # Digits and signs alone are in no language.
        return "unknown"


def _sample(text: str) -> str:
    """What langdetect is to read, 10,000 characters at most: four pieces from all over the text."""
    if len(text) <= 10_000:
        return text
    step = (len(text) - 2500) // 3
    return " ".join(text[at : at + 2500] for at in range(0, len(text) - 2499, step))


def _amount(found: int, what: str, N: int, quantifier: str = "", slack: int = 0) -> Outcome:
    return within(
        found, N, quantifier, slack
    ), f"{found} {what}, asked for {quantifier or 'exactly'} {N}"


def within(found: int, N: int, quantifier: str, slack: int) -> bool:
    match quantifier:
        case "at least":
            return found >= N
        case "at most":
            return found <= N
    return abs(found - N) <= slack


def has_word(text: str) -> bool:
    return _ALPHANUMERIC.search(text) is not None


def _paragraphs(text: str) -> list[str]:
    return [part for part in _BLANK_LINES.split(text) if has_word(part)]


@lru_cache(maxsize=4096)
def _whole_word(*phrases: str) -> re.Pattern[str]:
    """Finds any of the phrases, as words, in a casefolded text; the longest where several fit."""
    return re.compile("|".join(map(_bounded, sorted(phrases, key=len, reverse=True))))


def _bounded(phrase: str) -> str:
    words = phrase.casefold().split()
    pattern = r"\s++".join(map(re.escape, words))
    if _NEEDS_BOUNDARY.match(words[0][0]):
        pattern = r"(?<![^\W_])" + pattern
    return pattern + r"(?![^\W_])" if _NEEDS_BOUNDARY.match(words[-1][-1]) else pattern


@lru_cache(maxsize=4096)
def _heading(splitter: str) -> re.Pattern[str]:
    splitter = splitter.strip()
    gap = r"(?:[ \t]*[0-9]|[ \t]+[^\W_])" if splitter[-1].isalnum() else r"[ \t]*[^\W_]"
    return re.compile(rf"^[ \t#*_>]*{re.escape(splitter)}{gap}", re.MULTILINE)


NOT_JSON: Any = object()
"""What `parse_json` returns for a text that is none."""


def parse_json(text: str, **hooks: Any) -> Any:
    try:
        return json.loads(text, **hooks)
    except (ValueError, RecursionError):
        return NOT_JSON


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_MARKUP = " \t\r\n*_#>`\"'\u201c\u201d\u2018\u2019"
"""White space, markdown and quotation marks that may stand around what was asked for."""
_ALPHANUMERIC = re.compile(r"[^\W_]")
_LETTER = re.compile(r"[^\W\d_]")
# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words.
_NEEDS_BOUNDARY = re.compile(
    r"[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"
)
_WORD = re.compile(r"(?<!\S)(?:[^\w\s]|_)*+[^\W_]")
_TERM = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019)\]*_]*+(?=\s|\Z)|[\u3002\uff01\uff1f]"
)
_NO_SENTENCE_END = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|e\.g|i\.e|[A-HJ-Z])\.(?=\s)|^[ \t]*[0-9]++\.(?=\s)",
    re.MULTILINE,
)
_BLANK_LINES = re.compile(r"\n\s*\n")
_DIVIDER = re.compile(r"^[ \t]*\* \* \*[ \t\r]*$", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*[*+-][ \t]+(.*)", re.MULTILINE)
_TITLE = re.compile(r"<<([^<>\n]*)>>")
_BRACKETS = re.compile(r"\[([^\[\]\n]*)\](?!\()")
_HIGHLIGHT = re.compile(r"(?<!\*)\*++(?!\s)([^*\n]++)(?<!\s)\*")
_SIX_STARS = re.compile(r"(?<!\*)\*{6}(?!\*)")
