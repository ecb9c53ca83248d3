"""Instructions whose keeping a rule can check: a plain request and one constraint on its answer.

One row for each rule of `cameleer.verifiers.ifeval_checks` in turn, in the columns of
allenai/RLVR-GSM-MATH-IF-Mixed-Constraints. Requests and constraints were written here; none is a
prompt of IFEval, whose 541 are for evaluation alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from cameleer.errors import DataError, nearest

_TASKS = (
    "Explain {} to a child",
    "Write a short paragraph about {}",
    "Give advice to a beginner about {}",
    "List a few facts about {}",
    "Describe a day that has to do with {}",
    "Tell a short story about {}",
    "Write a friendly letter to a neighbour about {}",
    "Compare the good and the bad sides of {}",
    "Write an advertisement for {}",
    "Answer a journalist's question about {}",
    "Summarize what most people know about {}",
    "Write a note for a museum about {}",
)
_TOPICS = (
    "bicycles", "bread", "bridges", "camels", "carpets", "chess", "cheese", "clocks", "clouds",
    "coffee", "coral reefs", "deserts", "dreams", "earthquakes", "elephants", "fishing", "forests",
    "gardens", "glass", "gravity", "honey bees", "ice skating", "kites", "lighthouses", "libraries",
    "lightning", "magnets", "maps", "markets", "mountains", "music lessons", "night trains",
    "olive trees", "owls", "paper", "penguins", "photography", "pottery", "rainbows", "rivers",
    "robots", "sailing", "salt", "schools", "sewing", "silence", "sleep", "snow", "spices",
    "sunflowers", "swimming", "tea", "telescopes", "tents", "the moon", "the sea", "tides",
    "vaccines", "volcanoes", "walking", "water wheels", "weather reports", "whales", "windmills",
    "wolves", "wool",
)  # fmt: skip
_WORDS = (
    "bright", "careful", "early", "every", "first", "gentle", "large", "little", "morning", "often",
    "people", "quiet", "simple", "strong", "together", "useful", "water", "winter", "world", "year",
)  # fmt: skip
_ENDINGS = ("That is all.", "Thank you for reading.", "More tomorrow.", "Is there anything else?")
_LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German"}
_SIZES = {"train": 5_000, "test": 500}

Constraint = tuple[str, dict[str, Any]]


def prompts(split: str) -> Iterator[dict[str, Any]]:
    """Rows of format `rlvr`. No request with its constraint is in both splits."""
    if split not in _SIZES:
        raise DataError(
            f"The constraints have no split '{split}'.{nearest(split, _SIZES)} They have "
            f"{' and '.join(_SIZES)}."
        )
    rng, seen = random.Random(0), set[str]()
    # Topics of the held-out requests are never trained on.
    topics = [t for i, t in enumerate(_TOPICS) if (i % 6 == 5) == (split == "test")]
    while len(seen) < _SIZES[split]:
        make = _CONSTRAINTS[len(seen) % len(_CONSTRAINTS)]
        request = f"{rng.choice(_TASKS).format(rng.choice(topics))}."
        constraint, arguments = make(rng, request)
        text = f"{request} {constraint}"
        if text not in seen:
            seen.add(text)
            yield {
                "messages": [{"role": "user", "content": text}],
                "ground_truth": json.dumps({"func_name": make.__name__.strip("_"), **arguments}),
                "dataset": "ifeval",
                "constraint": constraint,
            }


def _verify_keywords(rng: random.Random, _: str) -> Constraint:
    words = rng.sample(_WORDS, 2)
    return f"Use the words {words[0]} and {words[1]}.", {"keyword_list": words}


def _verify_keyword_frequency(rng: random.Random, _: str) -> Constraint:
    word, count = rng.choice(_WORDS), rng.randint(1, 3)
    times = {1: "once", 2: "twice", 3: "three times"}[count]
    return f"The word {word} has to occur exactly {times}.", {"word": word, "N": count}


def _validate_forbidden_words(rng: random.Random, _: str) -> Constraint:
    words = rng.sample(_WORDS, 3)
    return f"Avoid the words {', '.join(words)}.", {"forbidden_words": words}


def _verify_letter_frequency(rng: random.Random, _: str) -> Constraint:
    letter, count = rng.choice("jqxz"), rng.randint(1, 2)
    times = "once" if count == 1 else "twice"
    text = f"The small letter {letter} has to occur exactly {times}."
    return text, {"letter": letter, "N": count}


def _validate_response_language(rng: random.Random, _: str) -> Constraint:
    language = rng.choice(sorted(_LANGUAGES))
    return f"Answer in {_LANGUAGES[language]} only.", {"language": language}


def _verify_paragraph_count(rng: random.Random, _: str) -> Constraint:
    count = rng.randint(2, 4)
    return f"Write {count} paragraphs, with a line of * * * between two of them.", {"N": count}


def _validate_word_constraint(rng: random.Random, _: str) -> Constraint:
    quantifier, count = rng.choice(("at least", "at most", "around")), 10 * rng.randint(3, 15)
    return f"Use {quantifier} {count} words.", {"quantifier": quantifier, "N": count}


def _verify_sentence_constraint(rng: random.Random, _: str) -> Constraint:
    quantifier, count = rng.choice(("at least", "at most", "around")), rng.randint(2, 8)
    return f"Write {quantifier} {count} sentences.", {"quantifier": quantifier, "N": count}


def _validate_paragraphs(rng: random.Random, _: str) -> Constraint:
    count = rng.randint(2, 3)
    place, word = rng.randint(1, count), rng.choice(_WORDS).capitalize()
    text = (
        f"Write {count} paragraphs with an empty line between two of them; paragraph {place} "
        f"has to begin with the word {word}."
    )
    return text, {"N": count, "i": place, "first_word": word}


def _verify_postscript(rng: random.Random, _: str) -> Constraint:
    marker = rng.choice(("P.S.", "P.P.S"))
    return f"Close with a postscript that begins with {marker}", {"postscript_marker": marker}


def _validate_placeholders(rng: random.Random, _: str) -> Constraint:
    count = rng.randint(1, 4)
    return f"Leave at least {count} blanks in square brackets, like [name].", {"N": count}


def _verify_bullet_points(rng: random.Random, _: str) -> Constraint:
    count = rng.randint(2, 6)
    return f"Answer with exactly {count} bullet points, each on a line with a * first.", {
        "N": count
    }


def _validate_title(rng: random.Random, _: str) -> Constraint:
    return "Give it a title in double angle brackets, like <<my title>>.", {}


def _validate_choice(rng: random.Random, _: str) -> Constraint:
    options = rng.choice((["good", "bad"], ["often", "seldom", "never"], ["yes", "no", "perhaps"]))
    text = f"Then say what you think of it. Write nothing but one of: {', '.join(options)}."
    return text, {"options": options}


def _validate_highlighted_sections(rng: random.Random, _: str) -> Constraint:
    count = rng.randint(1, 4)
    return f"Put at least {count} phrases between asterisks, like *this one*.", {"N": count}


def _validate_sections(rng: random.Random, _: str) -> Constraint:
    count, splitter = rng.randint(2, 4), rng.choice(("Section", "PART"))
    text = f"Divide it into {count} parts; head them {splitter} 1, {splitter} 2 and so on."
    return text, {"N": count, "section_splitter": splitter}


def _validate_json_format(rng: random.Random, _: str) -> Constraint:
    return "The whole answer has to be one JSON object.", {}


def _validate_repeat_prompt(rng: random.Random, request: str) -> Constraint:
    text = "Before you answer, copy the sentence before this one, word for word."
    return text, {"original_prompt": request}


def _validate_two_responses(rng: random.Random, _: str) -> Constraint:
    return "Write two versions that differ, with a line of ****** between them.", {}


def _validate_uppercase(rng: random.Random, _: str) -> Constraint:
    return "Write in capital letters only.", {}


def _validate_lowercase(rng: random.Random, _: str) -> Constraint:
    return "Write in small letters only, without one capital.", {}


def _validate_frequency_capital_words(rng: random.Random, _: str) -> Constraint:
    quantifier, count = rng.choice(("at least", "at most")), rng.randint(1, 5)
    text = f"Write {quantifier} {count} words in capitals throughout."
    return text, {"quantifier": quantifier, "N": count}


def _validate_end(rng: random.Random, _: str) -> Constraint:
    ending = rng.choice(_ENDINGS)
    return f'The last words have to be "{ending}"', {"end_phrase": ending}


def _validate_quotation(rng: random.Random, _: str) -> Constraint:
    return "Put the whole answer in double quotation marks.", {}


def _validate_no_commas(rng: random.Random, _: str) -> Constraint:
    return "Do without commas.", {}


_CONSTRAINTS: tuple[Callable[[random.Random, str], Constraint], ...] = (
    _verify_keywords,
    _verify_keyword_frequency,
    _validate_forbidden_words,
    _verify_letter_frequency,
    _validate_response_language,
    _verify_paragraph_count,
    _validate_word_constraint,
    _verify_sentence_constraint,
    _validate_paragraphs,
    _verify_postscript,
    _validate_placeholders,
    _verify_bullet_points,
    _validate_title,
    _validate_choice,
    _validate_highlighted_sections,
    _validate_sections,
    _validate_json_format,
    _validate_repeat_prompt,
    _validate_two_responses,
    _validate_uppercase,
    _validate_lowercase,
    _validate_frequency_capital_words,
    _validate_end,
    _validate_quotation,
    _validate_no_commas,
)
