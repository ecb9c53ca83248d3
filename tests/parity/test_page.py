"""The page on parity names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_test_that_the_page_names_is_there_and_every_comparison_is_named():
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    named = set(NAMED.findall(page))
    for path, test in named:
        assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"
    files = {path.relative_to(ROOT).as_posix() for path in Path(__file__).parent.glob("*against*")}
    assert files and files <= {path for path, _ in named}
