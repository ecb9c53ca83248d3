r"""The rules for GSM8K and MATH that trained Tulu 3, their errors included, for ``compat="tulu3"``.

Written anew after ``verify_gsm8k_sample`` and ``verify_math_sample`` of
``open_instruct/ground_truth_utils.py`` in github.com/allenai/open-instruct at 3f37c29d. What they
get wrong:

* GSM8K compares the last number as a string: ``18.00`` is not 18, the number of a step or a total
  after the answer replaces it, and whole numbers lose their sign.
* MATH is right when any candidate is, so that a box and a closing sentence with two different
  answers are right for both; ``3=5`` is right for 5, ``1,2`` for 1, and ``2+3`` for 5.

At that commit the check ran on the main thread of the process that trains, where the alarm that
limits sympy to five seconds works, and so symbolic equality counted. Later versions run it in a
thread, where setting the alarm raises, and lose it: there ``\frac{2}{4}`` is not ``\frac{1}{2}``.
Here it counts.

What differs: sympy is the installed release; its time is limited by the `VerifierPool`, which calls
a timeout undecided where they called it wrong; and it is not shown what `equivalence.too_large`
refuses, on which theirs gave up, or hung. Candidates of more than 10,000 characters are wrong
without being read.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

from cameleer.errors import RecipeError
from cameleer.verifiers.equivalence import too_large


def check_compat(verifier: str, compat: str) -> None:
    """Raises RecipeError for rules that do not exist, or that cannot run here."""
    if compat not in ("", "tulu3"):
        raise RecipeError(
            f"{verifier} has no rules named compat={compat!r}. Use '' for those that check the "
            "answer, or 'tulu3' for those that trained Tulu 3."
        )
    if compat and verifier == "Math":
        check_antlr("Math(compat='tulu3')", "use compat=''")


def check_antlr(rule: str, otherwise: str) -> None:
    """Raises RecipeError where sympy cannot read LaTeX, so that the rule cannot run here.

    Args:
        otherwise: What the user can do instead of installing it.
    """
    if not _antlr().startswith("4.11"):
        raise RecipeError(
            f"{rule} reads LaTeX with sympy, which needs antlr4-python3-runtime 4.11, "
            f"and {_antlr() or 'none'} is installed. pip install 'antlr4-python3-runtime==4.11.1' "
            f"(or 'cameleer[tulu3]'), or {otherwise}."
        )


def gsm8k_is_right(text: str, truth: str) -> bool:
    """The text's last number, or the text where it has none, is spelled as the truth is."""
    return last_number(text).lower() == truth.lower()


def last_number(text: str) -> str:
    """The last number of a text as it is spelled there, or the text where it has none.

    As published: only decimals have a sign, and digits of all scripts are digits.
    """
    numbers = re.findall(r"[-+]?\d*\.\d+|\d+", re.sub(r"(\d),(\d)", r"\1\2", text))
    return str(numbers[-1]) if numbers else text


def math_is_right(text: str, truth: str) -> bool:
    """Any candidate equals the truth, as a string without its spelling or by sympy."""
    stated = [*last_box(text), *map(minerva_spelling, minerva_statement(text))]
    return any(equal(answer, truth) for answer in stated or [last_formula(text)])


def _antlr() -> str:
    try:
        return importlib.metadata.version("antlr4-python3-runtime")
    except importlib.metadata.PackageNotFoundError:
        return ""


def equal(answer: str, truth: str) -> bool:
    """As a string without its spelling, or by sympy."""
    if len(answer) > _MAX_CHARACTERS:
        return False
    return _equal_strings(answer, truth) or equal_by_sympy(answer, truth)


def last_formula(text: str) -> str:
    """What stands between the last two dollars, or the text where there are fewer, normalised."""
    *before, last, _ = ["", *text.rsplit("$", 2)]
    return minerva_spelling(last if len(before) == 2 else text)


def last_box(text: str) -> Iterator[str]:
    r"""What stands in the last ``\boxed{…}`` or ``\boxed …``, if anything; ``\fbox`` is no box."""
    if r"\boxed " in text:
        yield text.rpartition(r"\boxed ")[2].partition("$")[0]
        return
    start = text.rfind(r"\boxed")
    if start < 0 or not text.startswith(r"\boxed{", start):
        return
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            yield text[start + len(r"\boxed{") : start + brace.start()]
            return


def minerva_statement(text: str) -> Iterator[str]:
    """What stands between the two parts of Minerva's sentence, on one line."""
    for line in f"{text}I hope it is correct.".split("\n"):
        start = line.find(_CUE)
        if start < 0:
            continue
        start += len(_CUE)
        if (end := _HOPE.search(line, start)) is not None:
            yield line[start : end.start()].strip()
            return


def minerva_spelling(answer: str) -> str:
    """Normalised as in appendix D of Lewkowycz et al. 2022, arXiv:2206.14858."""
    answer = answer.rpartition("=")[2]
    if len(answer) > _MAX_CHARACTERS:
        return answer
    for old, new in _MINERVA_REPLACED:
        answer = answer.replace(old, new)
    for removed in _MINERVA_REMOVED:
        answer = answer.replace(removed, "")
    lines = [line.split("$") for line in answer.split("\n")]
    answer = "\n".join(f"${line[1]}$" if len(line) > 2 else "$".join(line) for line in lines)
    for command in ("text", "textbf", "overline"):
        answer = re.sub(rf"\\{command}\{{(.*?)\}}", r"\1", answer)
    answer = re.sub(r"\\boxed\{(.*)\}", r"\1", answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt([^{])", r"sqrt{\1}", answer).replace("$", "")
    without_commas = answer.replace(",", "")
    return without_commas if without_commas.isdigit() else answer


def _equal_strings(answer: str, truth: str) -> bool:
    """Equal once spelled as in Hendrycks et al. 2021; as they are where that fails on either."""
    try:
        return _hendrycks_spelling(answer) == _hendrycks_spelling(truth)
    except (IndexError, ValueError):
        return answer == truth


def _hendrycks_spelling(answer: str) -> str:
    """Raises IndexError or ValueError on what the published code failed on, such as ``x/2``."""
    for old, new in _HENDRYCKS_REPLACED:
        answer = answer.replace(old, new)
    answer, *units = answer.split(r"\text{ ")
    if len(units) > 1:
        raise ValueError("two units")
    answer = answer.replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not answer:
        return answer
    answer = f"0{answer}" if answer[0] == "." else answer
    sides = answer.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        answer = sides[1]
    first, *roots = answer.split(r"\sqrt")
    for root in roots:
        first += r"\sqrt" + (root if root[0] == "{" else f"{{{root[0]}}}{root[1:]}")
    answer = _braced_fractions(first.replace(" ", ""))
    answer = r"\frac{1}{2}" if answer == "0.5" else answer
    if answer.count("/") == 1:
        over, under = map(int, answer.split("/"))
        answer = rf"\frac{{{over}}}{{{under}}}" if answer == f"{over}/{under}" else answer
    return answer


def _braced_fractions(answer: str) -> str:
    braced, *fractions = answer.split(r"\frac")
    for fraction in fractions:
        if fraction[0] == "{":
            braced += rf"\frac{fraction}"
        elif len(fraction) < 2:
            return answer
        elif fraction[1] == "{":
            braced += rf"\frac{{{fraction[0]}}}{fraction[1:]}"
        else:
            braced += rf"\frac{{{fraction[0]}}}{{{fraction[1]}}}{fraction[2:]}"
    return braced


def equal_by_sympy(answer: str, truth: str) -> bool:
    if too_large(answer) is not None or too_large(truth) is not None:
        return False
    import sympy
    from sympy.parsing.latex import parse_latex

    try:
        return bool(sympy.simplify(parse_latex(answer) - parse_latex(truth)) == 0)
    except (ImportError, MemoryError):
        raise
    except Exception:  # Whatever sympy cannot read or subtract was wrong, as published.
        return False


_MAX_CHARACTERS = 10_000
_CUE = "Final Answer: The final answer is"
_HOPE = re.compile(r". I hope it is correct.")
_MINERVA_REPLACED = [
    ("an ", ""), ("a ", ""), (".$", "$"), (r"\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (r",\text{and}", ","), (r"\text{and}", ","), (r"\text{m}", r"\text{}"),
]  # fmt: skip
_MINERVA_REMOVED = [
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units",
    r"\ldots", "sue", "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm",
    "pounds", "meters", "meals", "edges", "students", "childrentickets", "multiples",
    r"\text{s}", r"\text{.}", "\\text{\ns}", r"\text{}^2", r"\text{}^3", "\\text{\n}", r"\text{}",
    r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', r"\dots",
]  # fmt: skip
_HENDRYCKS_REPLACED = [
    ("\n", ""), (r"\!", ""), (r"\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), (r"\left", ""),
    (r"\right", ""), (r"^{\circ}", ""), (r"^\circ", ""), (r"\$", ""),
]  # fmt: skip
