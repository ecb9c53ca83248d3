"""Answers on the edge of IFEval's 25 instructions, drawn from a seed.

The verdicts of an independent implementation on them are in data/ifeval_google.json.gz, recorded by
benchmarks/ifeval_verdicts.py, which has to run again when anything here changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Case(NamedTuple):
    instruction: str
    kwargs: dict[str, Any]
    answer: str


def cases(seed: int = 2311) -> Iterator[Case]:
    """A hundred answers for each of the 25 instructions."""
    rng = random.Random(seed)
    for instruction, all_kwargs in LABELS.items():
        for n in range(100):
            kwargs = all_kwargs[n % len(all_kwargs)]
            yield Case(instruction, kwargs, answer(rng, instruction, kwargs))


def cases_of(rows: list[dict[str, Any]]) -> Iterator[Case]:
    """Three answers for each instruction of google/IFEval's rows."""
    rng = random.Random(541)
    for row in rows:
        for instruction, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            # For a letter that is not one of a to z the other implementation draws another one.
            if kwargs.get("letter", "a").isalpha():
                for _ in range(3):
                    yield Case(instruction, kwargs, answer(rng, instruction, kwargs))


def answer(rng: random.Random, instruction: str, kwargs: dict[str, Any]) -> str:
    """An answer that keeps the instruction or just not, dressed as models dress theirs."""
    text = EDGES[instruction](rng, **kwargs)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        text = rng.choice(DRESS)(text)
    return text


LABELS: dict[str, list[dict[str, Any]]] = {
    "keywords:existence": [
        {"keywords": ["river"]},
        {"keywords": ["Harbor", "ice cream"]},
        {"keywords": ["été", "no"]},
        {"keywords": [" art ", "well-known"]},
    ],
    "keywords:frequency": [
        {"keyword": "river", "frequency": 2, "relation": "at least"},
        {"keyword": " Ice cream ", "frequency": 3, "relation": "less than"},
        {"keyword": "aa", "frequency": 4, "relation": "at least"},
        {"keyword": "Straße", "frequency": 1, "relation": "less than"},
    ],
    "keywords:forbidden_words": [
        {"forbidden_words": ["cat", "dog"]},
        {"forbidden_words": ["well-known", "ÉTÉ"]},
        {"forbidden_words": ["ice cream", "cat", "cat"]},
    ],
    "keywords:letter_frequency": [
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        {"letter": "E", "let_frequency": 5, "let_relation": "less than"},
        {"letter": "i", "let_frequency": 9, "let_relation": "at least"},
    ],
    "language:response_language": [
        {"language": code} for code in ("en", "es", "de", "hi", "ko", "ru", "fa")
    ],
    "length_constraints:number_sentences": [
        {"num_sentences": count, "relation": relation}
        for count in (1, 3, 6, 20)
        for relation in ("less than", "at least")
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3, 6)],
    "length_constraints:number_words": [
        {"num_words": count, "relation": relation}
        for count in (1, 10, 40, 300)
        for relation in ("less than", "at least")
    ],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "Weekend"},
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "however"},
        {"num_paragraphs": 4, "nth_paragraph": 4, "first_word": "ΛΌΓΟΣ"},
        {"num_paragraphs": 4, "nth_paragraph": 1, "first_word": "it"},
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 3, 8)],
    "detectable_content:postscript": [
        {"postscript_marker": marker} for marker in ("P.S.", "P.P.S", " P.S. ", "PS:")
    ],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 3, 10)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 3, 6)],
    "detectable_format:multiple_sections": [
        {"section_spliter": "Section", "num_sections": 3},
        {"section_spliter": "SECTION", "num_sections": 1},
        {"section_spliter": " Day ", "num_sections": 4},
    ],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [
        {"prompt_to_repeat": "Describe a bicycle.\nThen describe it AGAIN."},
        {"prompt_to_repeat": " Wie groß ist İstanbul? "},
    ],
    "startend:end_checker": [
        {"end_phrase": "Is there anything else I can help with?"},
        {"end_phrase": ' Peace! "'},
        {"end_phrase": "that is all"},
    ],
    "startend:quotation": [{}],
    "change_case:capital_word_frequency": [
        {"capital_frequency": count, "capital_relation": relation}
        for count in (1, 3, 10)
        for relation in ("less than", "at least")
    ],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
}

WORDS = str.split(
    "the river runs past harbor café don't well-known ice_cream 3.14 cat category dogs quick "
    "naïve — & été İstanbul Straße queen U.S. e.g. art's PARTY 日本 𝐀 e\u0301 aaaa No. I'm CANNOT"
)
SENTENCES = str.split(
    "It is late.|Dr. Smith left at 5 p.m. sharp.|What?!|Wait... no.|He said “Go.” Then he left.|"
    "See No. 5 there.|1. The first item.|J. Bach wrote it!|No way!!|So . . . what now?|The end|"
    '"Stop!" she said.|They went to the U.S. They came back.|e.g. this one.|(It is so.)|Really?|'
    "A list: a, b, etc. And c.|**Bold.** Then plain.|止まれ。見ろ。|It costs 3.50 dollars.|x.y.z|"
    "«Oui.» Non.|I, however, stay.|Visit example.com now.",
    "|",
)
BY_LANGUAGE = {
    "en": "The rider stays upright because the wheel turns towards the side of the fall.",
    "es": "El ciclista mantiene el equilibrio porque gira la rueda hacia el lado de la caída.",
    "de": "Der Fahrer bleibt aufrecht, weil er das Rad zu der Seite dreht, auf die er fällt.",
    "hi": "साइकिल चलाने वाला गिरने की दिशा में पहिया घुमाकर संतुलन बनाए रखता है।",
    "ko": "자전거를 타는 사람은 넘어지는 쪽으로 바퀴를 돌려 균형을 유지한다.",
    "ru": "Велосипедист держит равновесие, потому что поворачивает колесо в сторону падения.",
    "zh-cn": "骑车的人把车轮转向倒下的一边。这就是他不会倒的原因。",
    "fa": "دوچرخه‌سوار با چرخاندن چرخ به سمت افتادن تعادل خود را حفظ می‌کند.",
    "": "123 456, 7! ***",
}
SHOUTS = ("USA", "I", "A", "DON'T", "U.S.", "CANNOT", "IT'S", "B-52", "ÉTÉ", "'TWAS", "X.", "MOT-É")
MURMURS = ("Mixed", "lower", "iPhone", "3", "日本", "Ⅳth", "—", "CamelCASE", "B2b")

TRAPS = str.split(
    ". .. ... !! ? ?! !!! \" ' '' `` ` ( ) [ ] { } < > “ ” ‘ ’ « » , : ; -- - — * ** & @ # $ % ß "
    "Mr. Dr. U.S. i.e. etc. p.m. A.B.C. a.b J. B. 1. gimme GONNA wanna LEMME gotta 'tis d'ye "
    "more'n 'S I'LL n't N'T 3,5 5: \u2028 日本。 Ж."
)

DRESS: tuple[Callable[[str], str], ...] = (
    lambda text: "",
    lambda text: " \n",
    lambda text: f"Sure! Here it is, as asked:\n{text}",
    lambda text: f"Sure!\n\n{text}\n\nI hope this helps.",
    lambda text: f"{text}\nLet me know if you need more.",
    lambda text: f"\n\n  {text}  \n",
    lambda text: f"**{text}**",
    lambda text: f"*{text}*",
    lambda text: f'"{text}"',
    lambda text: f"“{text}”",
    lambda text: f"```\n{text}\n```",
    lambda text: f"```json\n{text}\n```",
    lambda text: f"<<A title>>\n{text}",
    lambda text: f"- {text}",
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", "\n\n"),
    lambda text: text.replace(" ", "\u00a0"),
    lambda text: text.replace(".", "!"),
    lambda text: text.replace("*", ""),
    lambda text: text.replace("*", "**"),
    str.upper,
    str.lower,
    str.title,
    lambda text: f"{text}!!",
    lambda text: f"{text}, and so on",
    lambda text: text[: len(text) // 2],
    lambda text: text[::-1],
)


def texts() -> Iterator[str]:
    """Texts of which it is hard to say where sentences and words end."""
    rng = random.Random(2006)
    pieces = [*SENTENCES, *WORDS, *SHOUTS, *MURMURS, *TRAPS, *TRAPS]
    for _ in range(600):
        found = rng.choices(pieces, k=rng.randint(0, 25))
        yield join(rng, found, "", "", " ", " ", "  ", "\n", "\n\n")


def near(rng: random.Random, count: int) -> int:
    return max(0, count + rng.choice((-1, -1, 0, 0, 0, 1, 1, 2)))


def some_words(rng: random.Random, least: int = 1, most: int = 8) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def join(rng: random.Random, parts: list[str], *between: str) -> str:
    return "".join(part + rng.choice(between) for part in parts)


def mixed(rng: random.Random, pieces: list[str]) -> str:
    """The pieces among words, some of them glued to their neighbours."""
    parts = [*pieces, *(some_words(rng) for _ in range(rng.randint(0, 3)))]
    rng.shuffle(parts)
    return join(rng, parts, " ", " ", "\n", ", ", "", "s ", "-")


def existence(rng: random.Random, keywords: list[str]) -> str:
    return mixed(rng, [rng.choice((k, k, k, k.upper(), k.strip(), k[:-1])) for k in keywords])


def frequency(rng: random.Random, keyword: str, frequency: int, relation: str) -> str:
    word = keyword.strip()
    return mixed(rng, [rng.choice((word, word.upper(), word)) for _ in range(near(rng, frequency))])


def forbidden_words(rng: random.Random, forbidden_words: list[str]) -> str:
    found = rng.choices(forbidden_words, k=rng.randint(0, 1))
    forms = (*found, *(f"{word}{rng.choice(('s', '_', 'é', ''))}" for word in found))
    return mixed(rng, [some_words(rng), *forms])


def letter_frequency(rng: random.Random, letter: str, let_frequency: int, let_relation: str) -> str:
    rest = "".join(c for c in some_words(rng, 5, 20) if c.lower() != letter.lower())
    found = [rng.choice((letter.lower(), letter.upper())) for _ in range(near(rng, let_frequency))]
    return rest + "".join(found)


def response_language(rng: random.Random, language: str) -> str:
    spoken = [rng.choice((language, language, "en", "es", "")) for _ in range(rng.randint(1, 3))]
    return join(rng, [BY_LANGUAGE.get(code, "Sijambo, karibu sana.") for code in spoken], " ", "\n")


def number_sentences(rng: random.Random, num_sentences: int, relation: str) -> str:
    found = near(rng, rng.choice((num_sentences, num_sentences * 4 // 5)))
    return join(rng, rng.choices(SENTENCES, k=found), " ", " ", "\n", "  ", "\n\n", "")


def number_paragraphs(rng: random.Random, num_paragraphs: int) -> str:
    parts = [rng.choice((some_words(rng), some_words(rng), " ")) for _ in range(num_paragraphs)]
    parts = [some_words(rng) for _ in parts] if rng.random() < 0.7 else parts
    dividers = ("\n***\n", "\n\n***\n\n", "***", " *** ", "\n* * *\n", "******", "****", "\n---\n")
    divider = rng.choice((*dividers[:4], *dividers))
    text = divider.join(parts[: near(rng, num_paragraphs)] or parts)
    return rng.choice(("{}", "{}", "{}" + divider, divider + "{}")).replace("{}", text)


def number_words(rng: random.Random, num_words: int, relation: str) -> str:
    found = near(rng, rng.choice((num_words, num_words, num_words * 9 // 10)))
    return join(rng, rng.choices(WORDS[:12], k=found), " ", " ", " ", "\n", ". ", " - ")


def nth_paragraph_first_word(
    rng: random.Random, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> str:
    found = rng.choice((num_paragraphs, near(rng, num_paragraphs) or 1))
    parts = [some_words(rng) for _ in range(found)]
    begins = (first_word, first_word.upper(), f"'{first_word}', ", f'"{first_word}"', "The ")
    begins += (f"**{first_word}** ", f"{first_word}s ", f"  {first_word}! ", f"\"'{first_word}")
    if nth_paragraph <= len(parts):
        chosen = rng.choice((*begins[:3] * 4, *begins))
        glue = rng.choice((" ", " ", " ", " ", "-", ""))
        parts[nth_paragraph - 1] = chosen + glue + some_words(rng)
    if rng.random() < 0.2:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(("", " ", "\n")))
    return rng.choice(("\n\n",) * 8 + ("\n", "\n\n\n\n")).join(parts)


def number_placeholders(rng: random.Random, num_placeholders: int) -> str:
    forms = ("[name]", "[name]", "[]", "[a [b]", "[two\nlines]", "[[x]]", "]", "[", "[1](url)")
    weights = (9, 9, 1, 1, 1, 1, 1, 1, 1)
    return mixed(rng, rng.choices(forms, weights, k=near(rng, num_placeholders)))


def postscript(rng: random.Random, postscript_marker: str) -> str:
    marks = (postscript_marker, postscript_marker.lower(), "P.S.", "P.P.S", "P. S. so", "PS")
    marks += ("p.p.s.", "P. P. S", "P.\nP.S", "P.P. s.", "PPS", "P.  S.", "p.\u00a0s.", "PS: so")
    before, after = some_words(rng), rng.choice(("", f" {some_words(rng)}", "\nmore"))
    return before + rng.choice((" ", "\n\n", "")) + rng.choice(marks) + after


def number_bullet_lists(rng: random.Random, num_bullets: int) -> str:
    forms = ("* one", "* two", "- three", "- four", "*five", "  * six", "**bold**", "---", "-", "*")
    forms += (
        "* - both",
        "- * both",
        "1. seven",
        "+ eight",
        "\t* nine",
        "\u2028* ten",
        "",
        " ",
        "–",
    )
    weights = [9, 9, 9, 9] + [1] * (len(forms) - 4)
    lines = rng.choices(forms, weights, k=near(rng, num_bullets))
    return join(
        rng, [*lines, rng.choice(("", "So", "*"))], "\n", "\n", "\n", "\n\n", "\n \n", "\r\n"
    )


def constrained_response(rng: random.Random) -> str:
    option = rng.choice(("My answer is yes.", "My answer is no.", "My answer is maybe."))
    forms = (option, option, option[:-1], option.lower(), f"{some_words(rng)} {option}", "yes")
    return rng.choice((*forms, "My  answer is yes.", "My answer is: no.", f"({option})"))


def number_highlighted_sections(rng: random.Random, num_highlights: int) -> str:
    forms = (
        "*one*",
        "*two words*",
        "**bold**",
        "* *",
        "**",
        "****",
        "***three***",
        "*\n*",
        "*open",
    )
    weights = (9, 9, 3, 1, 1, 1, 1, 1, 1)
    return mixed(rng, rng.choices(forms, weights, k=near(rng, num_highlights)))


def multiple_sections(rng: random.Random, section_spliter: str, num_sections: int) -> str:
    word = section_spliter.strip()
    forms = (f"{word} #", f"{word} #", f"{word} #", f"{word}#", f"## {word} #:", f"**{word} #**")
    forms += (f"{word} X", f"{word}  #", f"{word.lower()} #", word, f"Sub{word} #")
    found = [rng.choice(forms).replace("#", str(i)) for i in range(1, near(rng, num_sections) + 1)]
    return join(rng, [f"{each}\n{some_words(rng)}" for each in found], "\n", "\n\n", " ")


def json_format(rng: random.Random) -> str:
    forms = ('{"a": [1, "b"]}', '{"a": "été"}', "[]", "5", "NaN", "null", '"text"', "{'a': 1}")
    forms += ('{"a": 1,}', '{"a": "b\nc"}', "", '{"a": 1} so', "[" + "1" * 4301 + "]", "1e999")
    text = rng.choice((*forms[:3], *forms))
    fences = ("{}", "```json\n{}\n```", "```\n{}```", "```Json{}```", "```JSON\n{}", "````{}````")
    return rng.choice((*fences, "```JSON```{}```", "`{}`")).replace("{}", text)


def title(rng: random.Random) -> str:
    forms = ("<<poem of joy>>", "<<x>>", "<poem>", "<<>>", "<<>>>", "<< >>", "<<poem\nof joy>>")
    forms += (
        "<<<deep>>>",
        "<<<>>>",
        "<<a>> <<b>>",
        ">>a<<",
        "<<a>",
        "<< > >>",
        "<<<<>>>>",
        "<<><>>",
    )
    return mixed(rng, [rng.choice((*forms[:2], *forms))])


def two_responses(rng: random.Random) -> str:
    one, two = some_words(rng), some_words(rng)
    forms = [(one, two), (one, two), (one, one), (one, f" {one}"), (one,), (one, two, one)]
    forms += [("", two), (one, two, ""), ("", one, two), (one, "", two), (one, one.upper())]
    divider = rng.choice(("******", "\n******\n", "\n\n******\n\n", "*****", "\n*******\n"))
    return divider.join(rng.choice(forms))


def repeat_prompt(rng: random.Random, prompt_to_repeat: str) -> str:
    prompt = prompt_to_repeat
    forms = (prompt, prompt, prompt.strip(), prompt.upper(), prompt[:-3], f'"{prompt}"')
    forms += (f"Sure. {prompt}", " ".join(prompt.split()), f"\n {prompt}", f"First line\n{prompt}")
    return rng.choice(forms) + rng.choice(("", "\n\n", " ")) + some_words(rng)


def end_checker(rng: random.Random, end_phrase: str) -> str:
    forms = (end_phrase, end_phrase.strip(), end_phrase.upper(), f'{end_phrase}"', end_phrase[:-1])
    forms += (f"{end_phrase} ", f"{end_phrase}.", f'"{end_phrase}" ""', f"*{end_phrase}*")
    return some_words(rng) + rng.choice((" ", "\n", "")) + rng.choice((*forms[:4], *forms))


def quotation(rng: random.Random) -> str:
    forms = ('"{}"', '"{}"', ' "{}"\n', '"{}', '{}"', "“{}”", "'{}'", '"', '""', '"{}".', '*"{}"*')
    return rng.choice(forms).replace("{}", some_words(rng))


def capital_word_frequency(
    rng: random.Random, capital_frequency: int, capital_relation: str
) -> str:
    parts = rng.choices(SHOUTS, k=near(rng, capital_frequency))
    parts += rng.choices(MURMURS, k=rng.randint(0, 4))
    rng.shuffle(parts)
    return join(rng, parts, " ", " ", " ", "\n", ". ", '" ', "-", "/", ":", "...", "! ", "'S ")


def in_case(rng: random.Random, case: Callable[[str], str]) -> str:
    spoken = [
        rng.choice(("en", "en", "en", "es", "de", "ru", "")) for _ in range(rng.randint(1, 2))
    ]
    text = case(join(rng, [BY_LANGUAGE[code] for code in spoken], " ", "\n"))
    return rng.choice((text, text, text, f"{text} Ab", f"{text} ß", f"{text} 5", f"{text} 日"))


EDGES: dict[str, Callable[..., str]] = {
    instruction: globals().get(instruction.partition(":")[2], lambda rng: "")
    for instruction in LABELS
} | {
    "change_case:english_capital": lambda rng: in_case(rng, str.upper),
    "change_case:english_lowercase": lambda rng: in_case(rng, str.lower),
    "punctuation:no_comma": lambda rng: (
        some_words(rng) + rng.choice(("", "", ",", "，", "a,b", "،"))
    ),
}
"""For each instruction, an answer close to the line between kept and not kept."""

DIFFERENCES: list[tuple[str, dict[str, Any], str, bool, bool | str]] = [
    ("keywords:existence", {"keywords": ["U.S."]}, "the UNSC", False, True),
    ("keywords:existence", {"keywords": ["c++"]}, "I cook.", False, True),
    ("keywords:forbidden_words", {"forbidden_words": ["a.c"]}, "an abc", True, False),
    (
        "keywords:frequency",
        {"keyword": "(x", "frequency": 1, "relation": "at least"},
        "f(x)",
        True,
        "error",
    ),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, "onubu", False, True),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part.", "num_sections": 1},
        "Party 1",
        False,
        True,
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        "# One\n# Two",
        True,
        "random",
    ),
    ("detectable_format:json_format", {}, "[" * 100_000, False, "error"),
    ("language:response_language", {"language": "zh"}, BY_LANGUAGE["zh-cn"], True, "error"),
]
"""Instruction, kwargs and answer; our verdict and the other implementation's. Why they differ is
said in `cameleer.verifiers.ifeval_google`."""
