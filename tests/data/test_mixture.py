"""Which rows a share or a count takes, and what is counted of the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.test_prompts import Bytes, assistant, source, user
from hypothesis import given
from hypothesis import strategies as st

from cameleer.data.mixture import Tally, taken, times_taken
from cameleer.data.prompts import load_examples, load_prompts
from cameleer.data.sources import Source, open_source
from cameleer.errors import DataError

PINNED = [0, 1, 3, 14, 17]
"""The 5 of 20 rows that seed 1 draws for the first source."""


def times(num_rows: int, *, seed: int = 1, place: int = 0, **fields: Any) -> list[int]:
    found = times_taken(num_rows, Source(path="rows", **fields), seed=seed, place=place)
    return [int(n) for n in found]


def talks(tmp_path: Path, num_rows: int, /, **fields: Any) -> Source:
    rows = ({"messages": [user(f"{n}"), assistant("yes")]} for n in range(num_rows))
    return source(tmp_path, *rows, **{"format": "chat", **fields})


def questions(found: Source, seed: int = 1) -> list[int]:
    """The numbers that `talks` wrote, as training would find them."""
    examples = load_examples([found], Bytes(), max_tokens=100, seed=seed)
    return [int(bytes(e.tokens).split(b"\n")[0][2:]) for e in examples.sequences]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"share": 0.5}, [1, 1, 0, 0, 0]),  # floor(2.5) = 2
        ({"share": 2.5}, [3, 3, 2, 2, 2]),  # floor(12.5) = 2 x 5 + 2
        ({"share": 1.0}, [1, 1, 1, 1, 1]),
        ({"share": 2}, [2, 2, 2, 2, 2]),
        ({"count": 3}, [1, 1, 1, 0, 0]),
        ({"count": 5}, [1, 1, 1, 1, 1]),
    ],
)
def test_the_first_rows_by_hand(fields: dict[str, Any], expected: list[int]):
    assert times(5, take="first", **fields) == expected


def test_a_share_is_taken_as_it_is_written():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert sum(times(100, share=0.29, take="first")) == 29
    assert sum(times(10, share=1.1)) == 11


@given(
    num_rows=st.integers(1, 60),
    share=st.integers(1, 400),
    seed=st.integers(0, 2**32),
    place=st.integers(0, 9),
)
def test_a_drawn_share_differs_by_one_pass_at_most(
    num_rows: int, share: int, seed: int, place: int
):
    if share * num_rows < 100:
        return
    found = times(num_rows, share=share / 100, seed=seed, place=place)
    assert sum(found) == share * num_rows // 100
    assert set(found) <= {share // 100, share // 100 + 1}
    assert found == times(num_rows, share=share / 100, seed=seed, place=place)


def test_every_row_is_drawn_as_often_as_another():
    # 3 of 8 rows, 4,000 seeds: 1,500 of each, with a standard deviation of 31.
    drawn = np.sum([times(8, count=3, seed=seed) for seed in range(4_000)], axis=0)
    assert all(abs(n - 1_500) < 4 * 31 for n in drawn)


def test_a_draw_depends_on_seed_and_place_and_not_on_the_path():
    drawn = times(50, count=10)
    assert times(50, count=10, name="other") == drawn != times(50, count=10, seed=2)
    assert times(50, count=10, place=1) != drawn
    assert times(50, share=0.2) == drawn, "the same number of rows is the same draw"


def test_the_draw_is_the_same_next_year():
    # Pinned: another draw would make resumed runs other runs. numpy keeps Philox's stream.
    assert [i for i, n in enumerate(times(20, count=5)) if n] == PINNED


def test_more_rows_than_there_are_is_an_error_that_names_the_share(tmp_path: Path):
    said = r"has 5 rows, and count=8 is more\. To take rows more than once, set share .* about 1\.6"
    with pytest.raises(DataError, match=said):
        times(5, count=8)
    for take in ("first", "random"):
        with pytest.raises(DataError, match=r"has 4 rows after the first 2, and count=5 is more"):
            questions(talks(tmp_path, 6, skip_rows=2, count=5, take=take))


def test_a_share_below_one_row_is_an_error():
    with pytest.raises(DataError, match=r"share=0\.1 of the 5 rows of rows is less than one"):
        times(5, share=0.1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"share": 0.5, "count": 3}, r"has a share \(0\.5\) and a count \(3\)"),
        ({"share": 0.0}, r"has share=0\.0\. Give a number above 0"),
        ({"share": -1.0}, r"has share=-1\.0"),
        ({"share": float("inf")}, "has share=inf"),
        ({"share": float("nan")}, "has share=nan"),
        ({"count": 0}, "has count=0. Give 1 or more"),
        ({"skip_rows": -1}, "has skip_rows=-1"),
        ({"take": "last"}, "has take='last', not random or first"),
        ({"bad_rows": "ignore"}, "has bad_rows='ignore', not error or skip"),
    ],
)
def test_what_no_source_can_ask_is_refused(fields: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(DataError, match=said):
        open_source(talks(tmp_path, 3, **fields))


def test_rows_keep_their_order_and_stand_beside_their_copies(tmp_path: Path):
    drawn = questions(talks(tmp_path, 20, count=5))
    assert drawn == PINNED
    assert questions(talks(tmp_path, 3, share=2.34, take="first")) == [0, 0, 0, 1, 1, 2, 2]
    assert questions(talks(tmp_path, 20, count=5), seed=2) != drawn


def test_rows_that_are_skipped_are_never_drawn(tmp_path: Path):
    assert set(questions(talks(tmp_path, 6, skip_rows=4, share=3.0))) == {4, 5}


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.parquet"])
def test_every_kind_of_file_gives_the_same_draw(name: str, tmp_path: Path):
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [user(f"{n}"), assistant("yes")]} for n in range(20)]
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    else:
        # Blank lines are no rows.
        path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    assert questions(Source(path=str(path), format="chat", count=5)) == PINNED


def twenty(split: str) -> Iterator[dict[str, Any]]:
    yield from ({"messages": [user(f"{n}"), assistant("yes")]} for n in range(20))


def endless(split: str) -> Iterator[dict[str, Any]]:
    n = 0
    while True:
        yield {"messages": [user(f"{n}"), assistant("yes")]}
        n += 1


def test_a_function_gives_the_same_draw_and_may_be_endless_for_its_first_rows():
    assert questions(Source(path=f"{__name__}:twenty", format="chat", count=5)) == PINNED
    first = Source(path=f"{__name__}:endless", format="chat", count=3, take="first", skip_rows=1)
    assert questions(first) == [1, 2, 3]


def test_a_function_with_too_few_rows_or_some_to_skip_is_no_different():
    path = f"{__name__}:twenty"
    for take in ("first", "random"):
        with pytest.raises(DataError, match="has 20 rows, and count=21 is more"):
            questions(Source(path=path, format="chat", count=21, take=take))
    assert questions(Source(path=path, format="chat", skip_rows=17, share=1.0)) == [17, 18, 19]


def test_rows_that_are_not_taken_are_not_looked_at(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"messages": [user("0"), assistant("yes")]})
    path.write_text(f"{good}\n{{broken\n")
    assert questions(Source(path=str(path), format="chat", count=1, take="first")) == [0]


def test_a_prompt_that_is_asked_twice_has_two_names(tmp_path: Path):
    row = {"messages": [user("?")], "ground_truth": "2", "dataset": "gsm8k"}
    found = load_prompts([source(tmp_path, row, row, share=2.0)], Bytes(), max_tokens=100)
    assert [prompt.id for prompt in found.prompts] == [f"gsm8k:{n}" for n in range(4)]


def test_the_tally_by_hand(tmp_path: Path):
    rows = [
        # "u:" + question + "\n" + "a:" is six tokens with one of question, and "yes\0" four more.
        {"messages": [user("1"), assistant("yes")]},
        {"messages": [user("2"), assistant("yes, and on")]},
        {"messages": [user("x" * 20), assistant("yes")]},
        {"messages": [user("3")]},
        {"messages": [user("4"), assistant("yes")]},
    ]
    every = source(tmp_path, *rows, format="chat", share=2.0, skip_rows=0)
    (tally,) = load_examples([every], Bytes(), max_tokens=12).sources
    # Kept: two of 10 tokens, one that is cut to 12; all twice. 4 + 4 + 6 of them are trained.
    assert tally == Tally(
        rows=5,
        taken=10,
        kept=6,
        tokens=64,
        trained_tokens=28,
        longest=12,
        longest_trained=6,
        truncated=2,
        dropped={"nothing to train within the length limit": 2, "no assistant's turn": 2},
        sha256=tally.sha256,
        prepared=tally.prepared,
    )
    assert len(tally.sha256) == 64 and len(tally.prepared) == 32


def test_a_source_without_rows_is_refused_by_name(tmp_path: Path):
    for fields in ({}, {"share": 0.5}, {"count": 3}):
        empty = source(tmp_path, format="chat", **fields)
        with pytest.raises(DataError, match=r"has no rows\. Training needs at least one"):
            list(taken(empty, open_source(empty), Tally(), seed=0, place=0))
