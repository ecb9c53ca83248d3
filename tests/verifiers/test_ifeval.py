"""IFEval's verifier: a table of texts for the 25 rules, the labels it refuses, and its time."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_rows import rows_of

from cameleer.errors import RecipeError
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.ifeval_checks import RULES, _sample

TULU3 = IFEval(compat="tulu3")
NEVER_RAISES = settings(deadline=None, max_examples=60, derandomize=True)
BOTH, NEITHER, ASKED, PUBLISHED = (1, 1), (0, 0), (1, 0), (0, 1)
"""Who calls a text right: the rule that the instruction asks for, the published one."""

GIVEN: dict[str, dict[str, Any]] = {
    "verify_keywords": {"keyword_list": ["harbor", "ice cream"]},
    "verify_keywords with signs": {"keyword_list": ["visual c++", "the .net"]},
    "verify_keyword_frequency": {"word": "river", "N": 2},
    "verify_keyword_frequency of a compound": {"word": "well-known", "N": 1},
    "validate_forbidden_words": {"forbidden_words": ["cat", "dog"]},
    "validate_forbidden_words in Chinese": {"forbidden_words": ["猫"]},
    "verify_letter_frequency": {"letter": "q", "N": 2},
    "verify_paragraph_count": {"N": 2},
    "validate_word_constraint": {"N": 3, "quantifier": "at least"},
    "validate_word_constraint around": {"N": 20, "quantifier": "around"},
    "validate_word_constraint around few": {"N": 4, "quantifier": "around"},
    "validate_word_constraint at most": {"N": 2, "quantifier": "at most"},
    "verify_sentence_constraint": {"N": 3, "quantifier": "at least"},
    "verify_sentence_constraint around": {"N": 2, "quantifier": "around"},
    "validate_paragraphs": {"N": 2, "first_word": "How", "i": 2},
    "validate_paragraphs in bold": {"N": 1, "first_word": "**How**", "i": 1},
    "validate_paragraphs of stars": {"N": 2, "first_word": "*", "i": 1},
    "verify_postscript": {"postscript_marker": "P.S."},
    "validate_placeholders": {"N": 2},
    "verify_bullet_points": {"N": 2},
    "validate_title": {},
    "validate_choice": {"options": ["yes", "no", "not sure"]},
    "validate_choice with a longer one": {"options": ["no", "no idea"]},
    "validate_highlighted_sections": {"N": 2},
    "validate_sections": {"N": 2, "section_splitter": "SECTION"},
    "validate_sections with a colon": {"N": 1, "section_splitter": "Part:"},
    "validate_json_format": {},
    "validate_repeat_prompt": {"original_prompt": "Describe a bicycle. "},
    "validate_two_responses": {},
    "validate_uppercase": {},
    "validate_lowercase": {},
    "validate_frequency_capital_words": {"N": 2, "quantifier": "at least"},
    "validate_frequency_capital_words around": {"N": 4, "quantifier": "around"},
    "validate_frequency_capital_words around many": {"N": 20, "quantifier": "around"},
    "validate_frequency_capital_words at most": {"N": 0, "quantifier": "at most"},
    "validate_end": {"end_phrase": "all."},
    "validate_end in bold": {"end_phrase": "**all**"},
    "validate_quotation": {},
    "validate_no_commas": {},
}
"""Arguments for each rule; a rule that has several goes by its name and what is special."""
TABLE: list[Any] = [
    ("verify_keywords", BOTH, "The Harbor sells ice cream."),
    ("verify_keywords", NEITHER, "The harbor sells cream."),
    ("verify_keywords", PUBLISHED, "Harbormasters sell ice cream.", "Superharbor, ice cream."),
    ("verify_keywords", ASKED, "A _harbor_ of ice\ncream."),
    ("verify_keywords with signs", BOTH, "The .NET, visual C++.", "The .net, visual c++s."),
    ("verify_keywords with signs", PUBLISHED, "The .net, revisual c++", "Bathe .net, visual c++"),
    ("verify_keywords with signs", PUBLISHED, "The .network, visual c++"),
    ("verify_keyword_frequency", BOTH, "River, river!"),
    ("verify_keyword_frequency", NEITHER, "The river, the rivers.", "river river river "),
    ("verify_keyword_frequency", ASKED, "A _river_ is a river."),
    ("verify_keyword_frequency of a compound", ASKED, "A well-known road."),
    ("validate_forbidden_words", BOTH, "A bird in a tree."),
    ("validate_forbidden_words", NEITHER, "A Dog in a tree."),
    ("validate_forbidden_words", ASKED, "A category of trees."),
    ("validate_forbidden_words", PUBLISHED, ""),
    ("validate_forbidden_words in Chinese", NEITHER, "一只猫在树上"),
    ("verify_letter_frequency", BOTH, "quick quartz"),
    ("verify_letter_frequency", NEITHER, "quick", "quick quartz quilt"),
    ("verify_letter_frequency", ASKED, "Quick quartz"),
    ("verify_paragraph_count", BOTH, "One.\n* * *\nTwo."),
    ("verify_paragraph_count", NEITHER, "One.\n\nTwo.", "One.\n* * *\nTwo.\n* * *"),
    ("verify_paragraph_count", NEITHER, "One.\n* * *\nTwo.\n* * *\nThree."),
    ("verify_paragraph_count", PUBLISHED, "It is 2 * * * 3."),
    ("validate_word_constraint", BOTH, "one two three"),
    ("validate_word_constraint", NEITHER, "one two"),
    ("validate_word_constraint", PUBLISHED, "one - two"),
    ("validate_word_constraint around", BOTH, "word " * 18, "word " * 22),
    ("validate_word_constraint around", NEITHER, "word " * 17),
    ("validate_word_constraint around few", BOTH, "word " * 3, "word " * 5),
    ("validate_word_constraint around few", NEITHER, "word " * 2, "word " * 6),
    ("validate_word_constraint at most", ASKED, "a - b"),
    ("verify_sentence_constraint", BOTH, "It is. Is it? It is."),
    ("verify_sentence_constraint", NEITHER, "It is, Mr. Smith, e.g. here. It is."),
    ("verify_sentence_constraint", ASKED, "Stop! Look! Go!"),
    ("verify_sentence_constraint", ASKED, 'I said "Go." "No." They left.', "止まれ。見ろ。行け。"),
    ("verify_sentence_constraint", PUBLISHED, "What... . . . ?"),
    ("verify_sentence_constraint around", BOTH, "One.", "One. Two. Three."),
    ("verify_sentence_constraint around", NEITHER, "Aaa. Bbb. Ccc. Ddd."),
    ("validate_paragraphs", BOTH, "So it is.\n\nHow so?"),
    ("validate_paragraphs", NEITHER, "How so?\n\nSo it is.", "One.\n\nTwo.\n\nHow so?"),
    ("validate_paragraphs", NEITHER, "One.\n\nHow so?\n\nThree."),
    ("validate_paragraphs", PUBLISHED, "So it is.\n\nHowever, so."),
    ("validate_paragraphs", ASKED, "So it is.\n\n\n\n**How** so?", "So it is.\r\n\r\nhow so?"),
    ("validate_paragraphs in bold", BOTH, "**How** so?"),
    ("validate_paragraphs in bold", ASKED, "how so?"),
    ("validate_paragraphs in bold", NEITHER, "However, so."),
    ("validate_paragraphs of stars", PUBLISHED, "* one\n\n* two"),
    ("verify_postscript", BOTH, "So it is.\n\nP.S. Write soon.", "So it is. P.S. Write soon."),
    ("verify_postscript", NEITHER, "So it is.\n\nP.S.", "So it is."),
    ("verify_postscript", PUBLISHED, "P.S. Write soon.", "P.S. Write.\n\nSo it is.\n\nSo it was."),
    ("verify_postscript", PUBLISHED, "So it isP.S. Write soon."),
    ("validate_placeholders", BOTH, "Dear [name] of [home address]"),
    ("validate_placeholders", PUBLISHED, "Dear reader", "[name], [1], [] and [here](address)"),
    ("verify_bullet_points", BOTH, "So:\n* one\n- two"),
    ("verify_bullet_points", NEITHER, "* one", "* one\n* two\n* three"),
    ("verify_bullet_points", ASKED, "**So:**\n* one\n  * two\n---"),
    ("verify_bullet_points", PUBLISHED, "**One**\n-5 degrees"),
    ("validate_title", BOTH, "<<poem of joy>>\nSo it is."),
    ("validate_title", NEITHER, "<poem of joy>", "<<poem\nof joy>>"),
    ("validate_title", PUBLISHED, "<<>> So it is."),
    ("validate_choice", BOTH, "yes"),
    ("validate_choice", NEITHER, "perhaps", "yes or no", "nothing"),
    ("validate_choice", ASKED, "My answer is: Yes.", "I am not sure"),
    ("validate_choice", PUBLISHED, "e", ""),
    ("validate_choice with a longer one", BOTH, "no", "no idea"),
    ("validate_choice with a longer one", NEITHER, "No, no idea."),
    ("validate_highlighted_sections", BOTH, "*One* and *two words*", "**One** and ***two***"),
    ("validate_highlighted_sections", BOTH, "*a* *b* *c*"),
    ("validate_highlighted_sections", NEITHER, "*One* and two"),
    ("validate_highlighted_sections", PUBLISHED, "**One** and two", "* one * two * three * four"),
    ("validate_sections", BOTH, "SECTION 1\nOne.\nSECTION 2\nTwo."),
    ("validate_sections", NEITHER, "SECTION 1\nOne."),
    ("validate_sections", NEITHER, "SECTION 1\na\nSECTION 2\nb\nSECTION 3\nc"),
    ("validate_sections", ASKED, "A preamble.\n\n**SECTION 1**\nOne.\n## SECTION II\nTwo."),
    ("validate_sections", PUBLISHED, "SECTION 1\nSee the next SECTION for more."),
    ("validate_sections with a colon", BOTH, "Part:A"),
    ("validate_sections with a colon", PUBLISHED, "So."),
    ("validate_json_format", BOTH, '{"a": [1, "b"]}'),
    ("validate_json_format", NEITHER, "a: 1", "[" * 100_000 + "1"),
    ("validate_json_format", PUBLISHED, "5", "[NaN]"),
    ("validate_json_format", ASKED, "[" + "1" * 5000 + "]"),
    ("validate_repeat_prompt", BOTH, "Describe a bicycle. It has two wheels."),
    ("validate_repeat_prompt", NEITHER, "It has two wheels.", "Describe a bicycle."),
    ("validate_repeat_prompt", ASKED, "Describe a bicycle.\n\nIt has two wheels."),
    ("validate_two_responses", BOTH, "One.\n******\nTwo."),
    ("validate_two_responses", NEITHER, "One.\n******\nOne.", "One.\n******\nTwo.\n******\nThree."),
    ("validate_two_responses", NEITHER, "One."),
    ("validate_two_responses", BOTH, "Two.\n******\nOne."),
    ("validate_two_responses", PUBLISHED, "******\nTwo.", "So it is.\n******\nSo  it IS."),
    ("validate_uppercase", BOTH, "IT IS 5."),
    ("validate_uppercase", NEITHER, "IT is"),
    ("validate_uppercase", PUBLISHED, "5 日"),
    ("validate_lowercase", BOTH, "it is 5."),
    ("validate_lowercase", NEITHER, "It is"),
    ("validate_lowercase", PUBLISHED, "5 日"),
    ("validate_frequency_capital_words", BOTH, "It is BIG and RED."),
    ("validate_frequency_capital_words", NEITHER, "It is BIG and Red."),
    ("validate_frequency_capital_words", PUBLISHED, "I know that I am.", "DON'T go."),
    ("validate_frequency_capital_words", ASKED, "ÉTÉ À GENÈVE"),
    ("validate_frequency_capital_words around", BOTH, "BIG BIG BIG BIG "),
    ("validate_frequency_capital_words around", ASKED, "BIG BIG BIG BIG BIG "),
    ("validate_frequency_capital_words around", NEITHER, "BIG BIG BIG BIG BIG BIG "),
    ("validate_frequency_capital_words around many", ASKED, "BIG " * 18, "BIG " * 22),
    ("validate_frequency_capital_words around many", NEITHER, "BIG " * 17, "BIG " * 23),
    ("validate_frequency_capital_words at most", ASKED, "I do."),
    ("validate_end", BOTH, "That is all.\n"),
    ("validate_end", NEITHER, "That is all. Bye."),
    ("validate_end", PUBLISHED, "It is a ball."),
    ("validate_end", ASKED, '"That is *all.*"'),
    ("validate_end in bold", BOTH, "That is **all**"),
    ("validate_end in bold", NEITHER, "That is all"),
    ("validate_quotation", BOTH, '"So it is."'),
    ("validate_quotation", NEITHER, '"So" it is.'),
    ("validate_quotation", PUBLISHED, '"'),
    ("validate_quotation", ASKED, "“So it is.”"),
    ("validate_no_commas", BOTH, "So it is."),
    ("validate_no_commas", NEITHER, "So, it is"),
    ("validate_no_commas", PUBLISHED, "\u662f\uff0c\u7684"),
]
CASES = [(name, text, right) for name, right, *texts in TABLE for text in texts]


def label(name: str) -> dict[str, Any]:
    return {"func_name": name.split()[0], **GIVEN[name]}


def needs_langdetect() -> None:
    if importlib.util.find_spec("langdetect") is None:
        pytest.skip("langdetect is not installed")


@pytest.mark.parametrize(("name", "text", "right"), CASES)
def test_the_verdict_of_the_table(name: str, text: str, right: tuple[int, int]):
    truth = json.dumps({**label(name), "language": None})
    scores = [verifier.score(text, truth) for verifier in (IFEval(), TULU3)]
    assert tuple(score.value for score in scores) == right, scores
    assert all(score.status == "scored" and 0 < len(score.reason) <= 200 for score in scores)


def test_the_table_has_for_every_rule_a_right_and_a_wrong_text_and_one_that_was_mended():
    assert len(RULES) == 25
    for rule in set(RULES) - {"validate_response_language"}:
        verdicts = {right for name, _, right in CASES if name.split()[0] == rule}
        assert {asked for asked, _ in verdicts} == {0, 1}, rule
        assert verdicts & {ASKED, PUBLISHED}, rule


SPANISH = "El ciclista mantiene el equilibrio porque gira la rueda hacia el lado de la caída."
CHINESE = "骑车的人把车轮转向倒下的一边。这就是他不会倒的原因。我们都知道这个道理。"
ENGLISH = "The rider stays upright because the wheel turns towards the side of the fall."


def test_the_language_is_that_of_most_of_the_text():
    needs_langdetect()
    truth = {"func_name": "validate_response_language", "language": "es"}
    begins_in_spanish = SPANISH * 130 + ENGLISH * 2000
    verdicts = {SPANISH: BOTH, ENGLISH: NEITHER, "123": NEITHER, begins_in_spanish: PUBLISHED}
    for text, right in verdicts.items():
        assert (IFEval().score(text, truth).value, TULU3.score(text, truth).value) == right
    assert IFEval().score(CHINESE, {**truth, "language": "zh"}).value == 1.0


def test_the_language_is_the_same_each_time_and_leaves_the_random_numbers_alone():
    needs_langdetect()
    truth = {"func_name": "validate_response_language", "language": "en"}
    before = random.getstate()
    # Unseeded, langdetect calls this text Somali or English, at random.
    assert len({IFEval().score("Hello, how are you today?", truth).value for _ in range(10)}) == 1
    assert random.getstate() == before


def test_a_language_that_langdetect_does_not_know_is_refused():
    needs_langdetect()
    truth = {"func_name": "validate_response_language", "language": "elvish"}
    assert "none of langdetect's" in str(IFEval().validate(truth))


def test_without_langdetect_its_labels_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    truth = {"func_name": "validate_response_language", "language": "es"}
    assert "pip install langdetect" in str(IFEval().validate(truth))
    assert IFEval().score(SPANISH, truth).status == "invalid"


REASONS = [
    ("verify_keywords", "The harbor.", "missing: ice cream"),
    ("verify_keywords", "The harbor sells ice cream.", "missing: none"),
    ("validate_forbidden_words", "A dog and a cat.", "found: cat, dog"),
    ("validate_forbidden_words", "A bird.", "found: none"),
    ("verify_letter_frequency", "quick", "1 times 'q', asked for exactly 2"),
    ("validate_word_constraint", "one two", "2 words, asked for at least 3"),
    ("validate_paragraphs", "So.\n\n**So** " + "a" * 99, f"paragraph 2 begins 'so** {'a' * 25}'"),
    ("validate_paragraphs", "So it is.", "1 paragraphs, asked for exactly 2"),
    ("verify_postscript", "So it is.", "no postscript"),
    ("verify_postscript", "So it is. P.S. So.", "a postscript that ends the text"),
    ("verify_postscript", "P.S. So.", "a postscript that does not end the text"),
    ("validate_title", "<<a>>", "a title"),
    ("validate_title", "<<>> a", "no title"),
    ("validate_choice", "no or yes", "options: no, yes"),
    ("validate_choice", "perhaps", "options: none"),
    ("validate_two_responses", "One. ****** ", "1 responses, asked for exactly 2"),
    ("validate_end", "a" * 50 + ".", f"ends '{'a' * 39}.'"),
    ("validate_quotation", '"So it is.', 'from " to .'),
    ("validate_no_commas", "a, b, c", "2 commas"),
]


@pytest.mark.parametrize(("name", "text", "seen"), REASONS)
def test_the_reason_says_what_was_seen(name: str, text: str, seen: str):
    assert IFEval().score(text, label(name)).reason == f"{name}: {seen}"


def test_a_reason_has_200_characters_at_most():
    words = [f"word{i}" for i in range(99)]
    reason = IFEval().score("So.", {"func_name": "verify_keywords", "keyword_list": words}).reason
    assert len(reason) == 200


def test_of_a_long_text_langdetect_reads_four_pieces_with_its_beginning_and_its_end():
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 20_002)))
    assert _sample(long[:10_000]) == long[:10_000]
    # A third of what lies before the last piece is 5834, or for a character less 5833.67.
    for text, step in ((long, 5834), (long[:-1], 5833)):
        begins = [0, step, 2 * step, 3 * step]
        assert _sample(text).split(" ") == [text[at : at + 2500] for at in begins]
    assert len(_sample(long[:10_001])) == 10_003


REFUSED = [
    ("not json", "it is not JSON"),
    (None, "not an object with a func_name"),
    ("[]", "not an object with a func_name"),
    ("{}", "it is empty"),
    ('{"func_name": "verify_keyword"}', "Did you mean 'verify_keywords'?"),
    ({"func_name": ["validate_title"]}, "no known rule"),
    ({"func_name": "verify_keywords", "keyword_list": None}, "needs keyword_list"),
    ({"func_name": "verify_bullet_points", "N": "4"}, "N is '4' and not a whole number"),
    ({"func_name": "verify_bullet_points", "N": True}, "N is 'True' and not a whole number"),
    ({"func_name": "verify_bullet_points", "N": 1.0}, "N is '1.0' and not a whole number"),
    ({"func_name": "verify_bullet_points", "N": -1}, "not a whole number of 0 or more"),
    ({"func_name": "verify_keywords", "keyword_list": "river"}, "not a list of words"),
    ({"func_name": "validate_choice", "options": ["yes", " "]}, "not a list of words"),
    ({"func_name": "validate_choice", "options": []}, "not a list of words"),
    ({"func_name": "validate_end", "end_phrase": 5}, "end_phrase is '5' and not a text"),
    ({"func_name": "verify_letter_frequency", "letter": "qu", "N": 2}, "not a single character"),
    ({"func_name": "verify_letter_frequency", "letter": "", "N": 2}, "letter is '' and not a text"),
    ({"func_name": "validate_end", "end_phrase": " "}, "end_phrase is '' and not a text"),
    ({"func_name": "validate_title", "N": 2}, "validate_title does not take 'N'"),
    ({"func_name": "validate_word_constraint", "N": 2, "quantifier": "exactly"}, "none of at"),
    ({"func_name": "validate_paragraphs", "N": 2, "first_word": "So", "i": 3}, "i is 3"),
    ({"func_name": "validate_paragraphs", "N": 2, "first_word": "So", "i": 0}, "1 or more"),
    ({"func_name": "validate_paragraphs", "N": "2", "i": 1}, "needs first_word, which"),
    ({"func_name": "validate_paragraphs", "N": 2}, "needs first_word and i, which"),
    (
        {"func_name": "validate_paragraphs", "N": "2", "first_word": 5, "i": 1},
        "N is '2' and not a whole number of 0 or more and first_word is '5' and not a text",
    ),
]
ALLOWED = [
    {"func_name": "verify_bullet_points", "N": 0},
    {"func_name": "verify_letter_frequency", "letter": "#", "N": 2},
    {"func_name": "validate_paragraphs", "N": 2, "first_word": "So", "i": 2, "language": None},
    {"func_name": "validate_word_constraint", "N": 2, "quantifier": "around"},
]


@pytest.mark.parametrize("truth", ALLOWED)
def test_arguments_at_their_limits_are_allowed(truth: dict[str, Any]):
    assert IFEval().validate(truth) is None
    assert IFEval().validate([truth]) is None


@pytest.mark.parametrize("verifier", [IFEval(), TULU3])
@pytest.mark.parametrize(("truth", "why"), REFUSED)
def test_an_unreadable_label_is_refused_and_never_scored(verifier: IFEval, truth: object, why: str):
    assert why in str(verifier.validate(truth))
    score = verifier.score("So it is.", truth)
    assert (score.value, score.status) == (0.0, "invalid") and why in score.reason


def test_every_label_of_the_sample_is_read_as_text_and_as_object():
    needs_langdetect()
    rows = rows_of("rlvr/schema_sample.jsonl")
    truths = [row["ground_truth"] for row in rows if row["dataset"] == "ifeval"]
    assert {json.loads(truth)["func_name"] for truth in truths} == set(RULES)
    for truth in truths:
        assert IFEval().validate(truth) is None
        assert IFEval().score("So it is.", truth) == IFEval().score("So it is.", json.loads(truth))


def test_it_is_a_verifier_and_an_unknown_compat_is_refused():
    assert isinstance(IFEval(), Verifier) and not IFEval().isolated
    assert len({IFEval(), IFEval()}) == 1  # A value, which can be compared and never changes.
    with pytest.raises(RecipeError, match="no rules named compat='tulu2'"):
        IFEval(compat="tulu2")  # type: ignore[arg-type]


def test_an_answer_of_tulu_3_begins_after_the_last_assistant_tag():
    truth = {"func_name": "validate_lowercase"}
    assert TULU3.score("<|assistant|>\nNo.\n<|assistant|>\nso it is.", truth).value == 1.0


ODD = st.text(alphabet="aAI .!?\n\t*-<>[]{}\"',_0#\u03a3\u0300", max_size=99)


@given(st.text(max_size=200) | ODD)
@NEVER_RAISES
def test_any_text_gets_a_verdict_from_every_rule(text: str):
    for name in GIVEN:
        for verifier in (IFEval(), TULU3):
            score = verifier.score(text, label(name))
            assert score.status == "scored" and score.value in (0.0, 1.0)
            assert len(score.reason) <= 200


UNITS = ["A. ", ".)", "*", "* ", "*a ", "<<", "[", "\n", "\n ", "-", "[[1,", "******", "river yes "]
UNITS += ["* * *\n", "SECTION 1\n", "P.S. a\n\n", "\u0300\u0316"]
LONG = ["x" + unit * (200_000 // len(unit)) + "x" for unit in UNITS]
LONG.append("The river, the Harbor: *yes*. " * (1_000_000 // 30))


@pytest.mark.parametrize("name", [name for name in GIVEN if " " not in name])
def test_long_texts_are_read_in_linear_time(name: str):
    for text in LONG:
        for verifier in (IFEval(), TULU3):
            begin = time.process_time()
            assert verifier.score(text, label(name)).status == "scored"
            # A megabyte takes 1 to 130 ms; in quadratic time 200 kB would take minutes.
            assert time.process_time() - begin < 0.5, text[:20]


def test_a_language_is_read_from_all_over_a_long_text():
    assert _sample("short text") == "short text"
    text = "".join(chr(97 + i // 1000) for i in range(26_000))
    pieces = _sample(text).split(" ")
    assert [len(piece) for piece in pieces] == [2500] * 4
    assert pieces[0].startswith("a") and pieces[-1].endswith("z")


@pytest.mark.parametrize(
    ("text", "right"),
    [("Bye. P.S. hello", True), ("Bye. xP.S. hello", False), ("Bye.xP.S. hello", False)],
)
def test_a_marker_glued_to_a_letter_begins_no_postscript(text: str, right: bool):
    assert RULES["verify_postscript"](text, "P.S.")[0] == right
