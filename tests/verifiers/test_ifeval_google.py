"""IFEval's own instructions: against an independent implementation, by hand, and their time."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google_answers import DIFFERENCES, LABELS, Case, cases, cases_of, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared_rows import rows_of

from cameleer.verifiers import ifeval_google
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.ifeval_google import RULES, kept, variants
from cameleer.verifiers.sentences import MAX_CHARACTERS, _punkt, sentences, words

RECORDED = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "ifeval_google.json.gz").read_bytes())
)
"""Verdicts of if-verifiable 0.1.2 with nltk 3.10.4 (benchmarks/ifeval_verdicts.py)."""


def verdicts(drawn: list[Case], loose: bool) -> str:
    found = (kept(case.answer, [case.instruction], [case.kwargs], loose)[0] for case in drawn)
    return "".join(str(int(each)) for each in found)


def assert_as_recorded(drawn: list[Case], name: str) -> None:
    recorded = RECORDED[name]
    digest = hashlib.sha256(repr([tuple(case) for case in drawn]).encode()).hexdigest()
    assert digest == recorded["sha256"], "the cases changed: run benchmarks/ifeval_verdicts.py"
    for mode in ("strict", "loose"):
        ours = verdicts(drawn, mode == "loose")
        unlike = [
            (mode, case)
            for case, mine, theirs in zip(drawn, ours, recorded[mode], strict=True)
            if mine != theirs
        ]
        assert not unlike, unlike[:3]


def test_2500_answers_are_judged_as_by_an_independent_implementation():
    assert_as_recorded(list(cases()), "cases")


def test_answers_to_the_541_prompts_are_judged_as_by_an_independent_implementation():
    assert_as_recorded(list(cases_of(rows_of("ifeval/input_data.jsonl"))), "rows")


def test_every_instruction_has_many_recorded_verdicts_of_both_kinds():
    assert LABELS.keys() == RULES.keys() and len(RULES) == 25
    for mode in ("strict", "loose"):
        found = Counter(
            (case.instruction, verdict)
            for case, verdict in zip(cases(), RECORDED["cases"][mode], strict=True)
        )
        assert min(found[name, verdict] for name in RULES for verdict in "01") >= 15


def test_texts_are_split_into_sentences_and_words_as_nltk_splits_them():
    for text, (num_sentences, nltk_words) in zip(texts(), RECORDED["texts"], strict=True):
        found = list(sentences(text))
        assert len(found) == num_sentences, text
        assert [word for sentence in found for word in words(sentence)] == nltk_words, text


@pytest.mark.parametrize(("instruction", "kwargs", "text", "ours", "theirs"), DIFFERENCES)
def test_the_differences_on_purpose(
    instruction: str, kwargs: dict[str, Any], text: str, ours: bool, theirs: object
):
    truth = {"instruction_id": [instruction], "kwargs": [kwargs]}
    assert ours != theirs and IFEval().validate(truth) is None
    assert IFEval().score(text, truth).value == float(ours)


# By hand, from the rules' descriptions in the paper and the code's oddities.
NUMBERED = {"num_sentences": 3, "relation": "at least"}
HAND = [
    ("keywords:existence", {"keywords": ["art"]}, "A party.", "An apple."),
    ("keywords:forbidden_words", {"forbidden_words": ["art"]}, "A party.", "Art."),
    ("length_constraints:number_sentences", NUMBERED, "A b. C d! E?", "A b. Mr. D e. C"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** b", "a\n* * *\nb"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "**a**\n- b"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "*\n- b", "*a\n - b\n* c"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "**a** *b*", "*a*"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "**a**", "** **"),
    ("detectable_format:json_format", {}, "```json\n5\n```", "```python\n5\n```"),
    ("detectable_format:title", {}, "<<a>>", "<<\na>>"),
    ("startend:end_checker", {"end_phrase": "All."}, '"that is all."\n', "All. Bye."),
    ("change_case:english_capital", {}, "IT IS THE END OF IT.", "IT IS THE END of IT."),
    ("combination:two_responses", {}, "a******b******", "a****** ******b"),
]


@pytest.mark.parametrize(("instruction", "kwargs", "right", "wrong"), HAND)
def test_verdicts_by_hand(instruction: str, kwargs: dict[str, Any], right: str, wrong: str):
    assert kept(right, [instruction], [kwargs]) == (True,)
    assert kept(wrong, [instruction], [kwargs]) == (False,)


def test_a_text_in_no_language_is_in_every_language_and_an_empty_one_keeps_nothing():
    # A Roman numeral is a capital of which langdetect knows nothing.
    assert kept("Ⅷ", ["change_case:english_capital"], [{}]) == (True,)
    assert kept("ⅷ", ["change_case:english_lowercase"], [{}]) == (True,)
    ids = ["language:response_language", "punctuation:no_comma"]
    assert kept("123", ids, [{"language": "fi"}, None]) == (True, True)
    assert kept(" \n", ids, [{"language": "fi"}, None], loose=True) == (False, False)


def test_the_eight_variants_of_a_text():
    assert variants("*Sure*:\n*a*\nBye") == (
        *("*Sure*:\n*a*\nBye", "*a*\nBye", "*Sure*:\n*a*", "*a*"),
        *("Sure:\na\nBye", "a\nBye", "Sure:\na", "a"),
    )
    assert variants("a") == ("a", "")


TRUTH = {
    "instruction_id": ["punctuation:no_comma", "startend:quotation", "detectable_format:title"],
    "kwargs": [None, {}, {"num_words": None}],
}


def test_the_value_is_the_share_of_kept_instructions_and_the_reason_names_the_others():
    # No comma, in no quotation marks, with a title: two of three.
    score = IFEval().score("<<So>> it is.", TRUTH)
    assert (score.value, score.status) == (2 / 3, "scored")
    assert score.reason == "kept 2 of 3; not: startend:quotation"
    assert IFEval().score('"<<So>> it is."', TRUTH).value == 1.0


def test_loose_forgives_a_first_line():
    text = 'Sure, here it is:\n"<<So>> it is."'
    assert (IFEval().score(text, TRUTH).value, IFEval(loose=True).score(text, TRUTH).value) == (
        1 / 3,
        1.0,
    )


def forms() -> Iterator[object]:
    row = {"key": 7, "prompt": "So?", "instruction_id_list": TRUTH["instruction_id"]}
    row["kwargs"] = [{"num_words": None, "keywords": None}] * 3
    for label in (TRUTH, row):
        yield from (label, [label], json.dumps(label), json.dumps([label]))
        yield from (repr(label), repr([label]))


@pytest.mark.parametrize("truth", list(forms()))
@pytest.mark.parametrize("verifier", [IFEval(), IFEval(compat="tulu3")])
def test_every_form_of_the_label_is_read(verifier: IFEval, truth: object):
    assert verifier.validate(truth) is None
    assert verifier.score("<<So>> it is.", truth).value == 2 / 3


def test_all_rows_of_ifeval_are_readable_labels():
    rows = rows_of("ifeval/input_data.jsonl")
    assert len(rows) == 541
    assert {IFEval().validate(row) for row in rows} == {None}


def label(instruction: object, kwargs: object = None) -> dict[str, Any]:
    return {"instruction_id": [instruction], "kwargs": [kwargs]}


WORD_COUNT = "length_constraints:number_words"
NTH = "length_constraints:nth_paragraph_first_word"
LETTER = "keywords:letter_frequency"
REFUSED = [
    (label("punctuation:no_coma"), "Did you mean 'punctuation:no_comma'?"),
    (label(5), "names no instruction of IFEval"),
    ({"instruction_id": [], "kwargs": []}, "not a list of instructions"),
    ({"instruction_id": "punctuation:no_comma", "kwargs": [{}]}, "not a list of instructions"),
    ({"instruction_id": ["punctuation:no_comma"]}, "names 1 instructions and has no list of"),
    (label("punctuation:no_comma") | {"kwargs": [{}, {}]}, "1 instructions and has 2 kwargs"),
    (label("punctuation:no_comma", "x"), "the kwargs of punctuation:no_comma are 'x' and not an"),
    (label("punctuation:no_comma") | {"instruction_id_list": []}, "has both instruction_id and"),
    ([label("punctuation:no_comma")] * 2, "not an object with a func_name, or with an instruction"),
    ("[{'instruction_id': [", "it is not JSON"),
    ("('instruction_id',)", "not an object with"),
    (label(WORD_COUNT, {"num_words": None, "relation": "at least"}), "needs num_words, which"),
    (label(WORD_COUNT), "needs num_words and relation"),
    (label(WORD_COUNT, {"num_words": 2.5, "relation": "at least"}), "'2.5' and not a whole number"),
    (label(WORD_COUNT, {"num_words": -1, "relation": "at least"}), "'-1' and not a whole number"),
    (label(WORD_COUNT, {"num_words": 2, "relation": "at most"}), "none of less than, at least"),
    (label(WORD_COUNT, {"num_words": 2, "relation": ["x"]}), "relation is '['x']' and not a text"),
    (label("punctuation:no_comma", {"num_words": 2}), "does not take 'num_words'"),
    (label("keywords:existence", {"keywords": "river"}), "not a list of words"),
    (label(LETTER, {"letter": "qu", "let_frequency": 1, "let_relation": "at least"}), "a single"),
    (label(NTH, {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}), "2 paragraphs only"),
    (label(NTH, {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"}), "of 1 or more"),
    (label("language:response_language", {"language": "elvish"}), "none of langdetect's"),
]


@pytest.mark.parametrize(("truth", "why"), REFUSED)
def test_an_unreadable_label_is_refused_and_never_scored(truth: object, why: str):
    assert why in str(IFEval().validate(truth))
    score = IFEval().score("So it is.", truth)
    assert (score.value, score.status) == (0.0, "invalid") and why[:20] in score.reason


def test_each_instruction_needs_its_kwargs():
    with pytest.raises(ValueError, match="zip"):
        kept("So it is.", ["punctuation:no_comma", "startend:quotation"], [{}])


def test_a_reason_has_200_characters_at_most():
    broken = {"instruction_id": ["startend:quotation"] * 20, "kwargs": [{}] * 20}
    assert len(IFEval().score("So it is.", broken).reason) == 200


@pytest.mark.parametrize("instruction", LABELS)
def test_without_its_package_a_rule_is_refused(instruction: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    why = IFEval().validate(label(instruction, LABELS[instruction][0]))
    needs = RULES[instruction].__name__ in ifeval_google.PACKAGES
    assert ("pip install" in str(why)) if needs else why is None


ORIGINAL: dict[str, Callable[[str], int]] = {
    "detectable_format:number_bullet_lists": lambda text: (
        len(re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE))
        + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))
    ),
    "detectable_content:number_placeholders": lambda text: len(re.findall(r"\[.*?\]", text)),
    "detectable_format:title": lambda text: any(
        found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text)
    ),
    "detectable_content:postscript": lambda text: bool(
        re.findall(r"\s*p\.\s?p\.\s?s.*$", text.lower(), re.MULTILINE)
    ),
    "detectable_format:multiple_sections": lambda text: len(re.split(r"\s?Day\s?\d+\s?", text)) - 1,
}
"""What the original finds, by its own patterns, which take quadratic time."""
SPACES = "\n\n\n \t\r\v\x1c\x85\u2028"


@given(st.text(alphabet="**--a[]<<>>pPsS." + SPACES, max_size=40))
@example("\n \n*\n\n-\n*a")
@example("*\n*\n* a")
@example("[a [b]\n[c\n]]")
@example("<<>>><<a>>")
@settings(deadline=None, max_examples=400, derandomize=True)
def test_the_linear_forms_find_what_the_original_patterns_find(text: str):
    for instruction in ("number_bullet_lists", "number_placeholders"):
        name = next(each for each in ORIGINAL if each.endswith(instruction))
        found = ORIGINAL[name](text)
        (parameter,) = LABELS[name][0]
        assert RULES[name](text, **{parameter: found}), text
        assert not RULES[name](text, **{parameter: found + 1}), text
    title, postscript = "detectable_format:title", "detectable_content:postscript"
    assert RULES[title](text) == ORIGINAL[title](text)
    assert RULES[postscript](text, "P.P.S") == ORIGINAL[postscript](text)


@given(st.text(alphabet="Day12 \n", max_size=30) | st.from_regex(r"( ?Day ?1?2?\s?)*"))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_sections_are_counted_as_by_the_original_pattern(text: str):
    name = "detectable_format:multiple_sections"
    found = ORIGINAL[name](text)
    assert RULES[name](text, section_spliter="Day", num_sections=found)
    assert not RULES[name](text, section_spliter="Day", num_sections=found + 1)


UNITS = [
    "A. ",
    "Mr. ",
    "? ",
    ".)",
    "*",
    "* ",
    "*\n",
    "<<",
    "[",
    "\n",
    "\n ",
    "- ",
    "[[1,",
    "'",
    '"',
]
UNITS += [
    "******",
    "* * *\n",
    "Section 1\n",
    "P. ",
    "\u0300\u0316",
    "a@",
    "http://a",
    " ",
    "x",
    "Ж",
]
LONG = ["x" + unit * (1_000_000 // len(unit)) + "x" for unit in UNITS]


@pytest.mark.parametrize("instruction", LABELS)
def test_a_megabyte_is_read_in_a_second(instruction: str):
    for text in LONG:
        begin = time.process_time()
        kept(text, [instruction], [LABELS[instruction][-1]])
        # 0.5 s at most were measured. In quadratic time it would be hours.
        assert time.process_time() - begin < 2, text[:20]


def test_sentences_far_behind_are_not_read():
    text = "So it is. " * (MAX_CHARACTERS // 10)
    assert len(list(sentences(text * 3))) == len(list(sentences(text))) == MAX_CHARACTERS // 10


def test_a_quotation_mark_alone_at_the_end_of_a_long_text_is_a_sentence():
    found = list(sentences("So it is. " * 30 + 'He said "go." "'))
    assert len(found) == 32 and found[-2:] == ['He said "go."', '"']
    assert list(sentences("So it is. " * 29 + "So (it is. )"))[-1] == "So (it is. )"


def test_the_model_of_sentences_is_loaded_once():
    assert _punkt() is _punkt()
