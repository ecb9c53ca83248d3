"""Records an independent implementation's verdicts for tests/verifiers/test_ifeval_google.py.

The implementation is that of if-verifiable (a copy of Google's code) with NLTK's own Punkt. They
are not among the development tools, since they bring some ten packages more.

    pip install if-verifiable==0.1.2 nltk==3.10.4 langdetect==1.0.9
    python -c "import nltk; nltk.download('punkt_tab')"
    python benchmarks/ifeval_verdicts.py --rows input_data.jsonl

`--rows` is google/IFEval's file; of its prompts nothing is recorded but a hash.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import langdetect
import nltk
from if_verifiable.common import get_loose_transformations
from if_verifiable.ifeval import INSTRUCTION_DICT

TESTS = Path(__file__).resolve().parents[1] / "tests" / "verifiers"
sys.path.insert(0, str(TESTS))

from google_answers import DIFFERENCES, Case, cases, cases_of, texts  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=Path, required=True)
    rows = [json.loads(line) for line in parser.parse_args().rows.read_text("utf-8").splitlines()]
    langdetect.DetectorFactory.seed = 0
    for instruction, kwargs, answer, _, theirs in DIFFERENCES:
        if theirs != "random":
            assert verdict(Case(instruction, kwargs, answer)) == theirs, (instruction, kwargs)
    found: dict[str, Any] = {"cases": recorded(cases()), "rows": recorded(cases_of(rows))}
    found["texts"] = [[len(nltk.sent_tokenize(text)), nltk.word_tokenize(text)] for text in texts()]
    # Without a time stamp, so that equal verdicts make an equal file.
    content = gzip.compress(json.dumps(found).encode(), mtime=0)
    (TESTS / "data" / "ifeval_google.json.gz").write_bytes(content)
    print({part: Counter(found[part]["strict"]) for part in ("cases", "rows")})


def recorded(drawn: Iterable[Case]) -> dict[str, str]:
    """A 0 or 1 for each case, strict and loose, and a hash of the cases."""
    drawn = list(drawn)
    return {
        "sha256": hashlib.sha256(repr([tuple(case) for case in drawn]).encode()).hexdigest(),
        "strict": "".join(str(int(verdict(case))) for case in drawn),
        "loose": "".join(
            str(int(any(verdict(case._replace(answer=v)) for v in variants(case))))
            for case in drawn
        ),
    }


def variants(case: Case) -> list[str]:
    return get_loose_transformations(case.answer)


def verdict(case: Case) -> Any:
    try:
        rule = INSTRUCTION_DICT[case.instruction](case.instruction)
        rule.build_description(**case.kwargs)
        return bool(case.answer.strip()) and bool(rule.check_following(case.answer))
    except Exception:
        return "error"


if __name__ == "__main__":
    main()
