"""IFEval's labels with func_name: texts that keep an instruction, and texts that only seem to."""

from __future__ import annotations

import json
from typing import Any


def _label(func_name: str, **arguments: Any) -> str:
    return json.dumps({"func_name": func_name, **arguments})


_KEYWORDS = _label("verify_keywords", keyword_list=["art", "ice cream"])
_FREQUENCY = _label("verify_keyword_frequency", word="river", N=2)
_FORBIDDEN = _label("validate_forbidden_words", forbidden_words=["cat"])
_LETTER = _label("verify_letter_frequency", letter="q", N=2)
_DIVIDED = _label("verify_paragraph_count", N=2)
_WORDS = _label("validate_word_constraint", N=4, quantifier="at least")
_SENTENCES = _label("verify_sentence_constraint", N=3, quantifier="at least")
_PARAGRAPHS = _label("validate_paragraphs", N=2, first_word="how", i=2)
_POSTSCRIPT = _label("verify_postscript", postscript_marker="P.S.")
_PLACEHOLDERS = _label("validate_placeholders", N=2)
_BULLETS = _label("verify_bullet_points", N=2)
_TITLE = _label("validate_title")
_CHOICE = _label("validate_choice", options=["My answer is yes.", "My answer is no."])
_HIGHLIGHTS = _label("validate_highlighted_sections", N=2)
_SECTIONS = _label("validate_sections", N=2, section_splitter="SECTION")
_JSON = _label("validate_json_format")
_REPEAT = _label("validate_repeat_prompt", original_prompt="Describe a kite.")
_TWO = _label("validate_two_responses")
_UPPER = _label("validate_uppercase")
_LOWER = _label("validate_lowercase")
_CAPITALS = _label("validate_frequency_capital_words", N=2, quantifier="at least")
_END = _label("validate_end", end_phrase="all.")
_QUOTED = _label("validate_quotation")
_NO_COMMAS = _label("validate_no_commas")

CASES: list[tuple[str, str, bool, str]] = [
    ("We had ice cream and art.", _KEYWORDS, True, "both words"),
    ("We had ice\ncream and Art.", _KEYWORDS, True, "a line break, upper case"),
    ("A party with ice cream.", _KEYWORDS, False, "a part of a word"),
    ("We had ice and cream and art.", _KEYWORDS, False, "a phrase taken apart"),
    ("A river meets a _River_.", _FREQUENCY, True, "italics, upper case"),
    ("A river meets two rivers.", _FREQUENCY, False, "another form of the word"),
    ("River, river, river.", _FREQUENCY, False, "once too often"),
    ("A category of birds.", _FORBIDDEN, True, "a part of a word"),
    ("A bird and a Cat.", _FORBIDDEN, False, "upper case"),
    ("A bird and a **cat**.", _FORBIDDEN, False, "in bold"),
    ("", _FORBIDDEN, False, "an empty text keeps nothing"),
    ("Quick quartz", _LETTER, True, "either case"),
    ("quick quartz quilt", _LETTER, False, "once too often"),
    ("One.\n* * *\nTwo.", _DIVIDED, True, "a divider on a line"),
    ("One.\n* * *\nTwo.\n* * *", _DIVIDED, False, "a divider with nothing after it"),
    ("Is 2 * * * 3 right?", _DIVIDED, False, "stars in a sentence"),
    ("One.\n\nTwo.", _DIVIDED, False, "another divider"),
    ("It is a well-known fact", _WORDS, True, "a compound is one word of five"),
    ("so - it - is", _WORDS, False, "dashes are no words"),
    ("well-known facts", _WORDS, False, "a compound is one word"),
    ("Stop! Look! Go!", _SENTENCES, True, "exclamation marks"),
    ("It is, said Mr. Smith. It is.", _SENTENCES, False, "a title ends no sentence"),
    ("What... . . . ?", _SENTENCES, False, "full stops are no sentences"),
    ("So it is.\n\n**How** so?", _PARAGRAPHS, True, "in bold"),
    ("So it is.\n\nHowever, so.", _PARAGRAPHS, False, "a longer word"),
    ("How so?\n\nSo it is.", _PARAGRAPHS, False, "the other paragraph"),
    ("So it is.\n\nHow?\n\nSo.", _PARAGRAPHS, False, "a third paragraph"),
    ("So it is.\n\nP.S. Write soon.", _POSTSCRIPT, True, "at the end"),
    ("P.S. Write soon.", _POSTSCRIPT, False, "a postscript to nothing"),
    ("So it is.\n\nP.S.", _POSTSCRIPT, False, "an empty one"),
    ("Dear [name] of [home address]", _PLACEHOLDERS, True, "two of them"),
    ("Dear [name] of the street", _PLACEHOLDERS, False, "one of them"),
    ("[name], [], [1] and [here](there)", _PLACEHOLDERS, False, "brackets of another kind"),
    ("* one\n- two", _BULLETS, True, "two kinds of bullets"),
    ("**One**\n-5 degrees", _BULLETS, False, "bold and a minus sign"),
    ("* one\n* two\n* three", _BULLETS, False, "one too many"),
    ("<<A kite>>\nIt flies.", _TITLE, True, "a title"),
    ("<< >> It flies.", _TITLE, False, "an empty one"),
    ("<A kite>", _TITLE, False, "single brackets"),
    ("My answer is yes.", _CHOICE, True, "one option"),
    ("I thought. My answer is no", _CHOICE, True, "one option after other words"),
    ("e", _CHOICE, False, "a part of an option"),
    ("My answer is yes. My answer is no.", _CHOICE, False, "both options"),
    ("My answer is perhaps.", _CHOICE, False, "another option"),
    ("*One* and **two**", _HIGHLIGHTS, True, "two of them"),
    ("**One** alone", _HIGHLIGHTS, False, "bold is one, not two"),
    ("* one * two * three", _HIGHLIGHTS, False, "stars between words"),
    ("Before.\nSECTION 1\nOne.\nSECTION 2\nTwo.", _SECTIONS, True, "a preamble is none"),
    ("Before.\nSECTION 1\nOne.", _SECTIONS, False, "a preamble is none"),
    ("SECTION 1\nSee the next SECTION 2.", _SECTIONS, False, "one within a sentence"),
    ('{"kite": [1, null]}', _JSON, True, "an object"),
    ("5", _JSON, False, "a number alone"),
    ('{"kite": NaN}', _JSON, False, "no number of JSON"),
    ('Here it is: {"kite": 1}', _JSON, False, "words before it"),
    ("Describe a kite. It flies.", _REPEAT, True, "the prompt, then an answer"),
    ("Describe a kite.", _REPEAT, False, "no answer"),
    ("It flies. Describe a kite.", _REPEAT, False, "the prompt at the end"),
    ("One.\n******\nTwo.", _TWO, True, "two responses"),
    ("One.\n******\nOne.", _TWO, False, "twice the same"),
    ("One.\n******\none.", _TWO, False, "the same but for its case"),
    ("******\nTwo.", _TWO, False, "one response"),
    ("IT IS 5.", _UPPER, True, "capitals"),
    ("5 + 5", _UPPER, False, "no letter"),
    ("IT is.", _UPPER, False, "a word in small letters"),
    ("it is 5.", _LOWER, True, "small letters"),
    ("It is.", _LOWER, False, "a capital"),
    ("It is BIG and RED.", _CAPITALS, True, "two words"),
    ("I think that I am.", _CAPITALS, False, "a single letter is no word in capitals"),
    ("It is BIG and Red.", _CAPITALS, False, "one word"),
    ("That is all.", _END, True, "the phrase"),
    ("It is a ball.", _END, False, "the end of a longer word"),
    ("That is all. Bye.", _END, False, "words after it"),
    ("“So it is.”", _QUOTED, True, "curly marks"),
    ('"', _QUOTED, False, "one mark"),
    ('"So" it is.', _QUOTED, False, "one word in marks"),
    ("So it is.", _NO_COMMAS, True, "no comma"),
    ("So, it is.", _NO_COMMAS, False, "a comma"),
    ("So\uff0c it is.", _NO_COMMAS, False, "a comma of another script"),
    ("a " * 1024, _NO_COMMAS, True, "2,048 tokens of one letter, as asked"),
    ("a," * 500_000, _NO_COMMAS, False, "1 MB of commas"),
]  # fmt: skip
