"""Which rows of a source a recipe takes, and what became of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from cameleer.data.sources import Entry, Opened, Source
from cameleer.errors import DataError

_DRAWS = 1 << 32
"""Keys of draws begin here; those below are the passes of `cameleer.data.prompts.order`."""


@dataclass
class Tally:
    """What became of a source's rows. A row that is taken twice counts twice, but in `rows`."""

    rows: int = 0
    """There are after skip_rows; of a function that is asked for its first rows: those."""
    taken: int = 0
    """By share or count."""
    kept: int = 0
    """To train on, or to ask: taken and not dropped."""
    tokens: int = 0
    """Of the kept."""
    trained_tokens: int = 0
    """Those of them that are learnt from; none of a prompt's."""
    longest: int = 0
    """Tokens of the longest sequence."""
    longest_trained: int = 0
    """Most trained tokens of one sequence."""
    truncated: int = 0
    """Kept, with a sequence that was cut at the limit."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Taken and not kept, by reason."""
    sha256: str = ""
    """Of a local file."""
    commit: str = ""
    """Of a hub data set."""
    prepared: str = ""
    """A hash of all that the rows became: tokens, masks, ground truths."""

    def drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def keep(self, lengths: list[tuple[int, int]], *, truncated: bool, count: int = 1) -> None:
        """Count an item of sequences with so many tokens, and so many of those trained."""
        self.kept += count
        self.truncated += count * truncated
        for tokens, trained in lengths:
            self.tokens += count * tokens
            self.trained_tokens += count * trained
            self.longest = max(self.longest, tokens)
            self.longest_trained = max(self.longest_trained, trained)


def times_taken(num_rows: int, source: Source, *, seed: int, place: int) -> np.ndarray:
    """How often each of a source's rows, after skip_rows, is taken: integers, [num_rows].

    A share f of N rows is floor(f N) rows, f as it is written in decimals: whole passes, then a
    part. The part is the first rows, or the first of numpy's
    ``Generator(Philox(key=[seed, 2**32 + place])).permutation(N)``. So it depends on the recipe's
    seed, the source's place among its sources and N: not on the path or on other sources.
    Selecting does not reorder: training has its own order.

    Raises DataError for a count above N, and a share below one row.
    """
    size = num_rows
    if source.count is not None:
        size = source.count
        if size > num_rows:
            raise DataError(
                f"{source.path} has {num_rows:,} rows{_after(source)}, and count={size:,} is more. "
                f"To take rows more than once, set share instead, to about {size / num_rows:.4g}."
            )
    elif source.share is not None:
        size = int(Fraction(str(source.share)) * num_rows)
        if size == 0:
            raise DataError(
                f"share={source.share} of the {num_rows:,} rows of {source.path} is less than one "
                "row. Raise it, or set count."
            )
    passes, part = divmod(size, num_rows)
    times = np.full(num_rows, passes)
    if source.take == "first":
        times[:part] += 1
    elif part:
        generator = np.random.Generator(np.random.Philox(key=[seed, _DRAWS + place]))
        times[generator.permutation(num_rows)[:part]] += 1
    return times


def taken(
    source: Source, opened: Opened, tally: Tally, *, seed: int, place: int
) -> Iterator[tuple[Entry, int]]:
    """The rows that a recipe takes, in their order, and how often. Fills the tally's first counts.

    Raises DataError for a source without rows, and what `times_taken` does.
    """
    rows: Iterator[Entry] = itertools.islice(opened.entries(), source.skip_rows, None)
    part = source.share is not None or source.count is not None
    num_rows = opened.num_rows
    if num_rows is None and part and not (source.count and source.take == "first"):
        held = list(rows)
        num_rows, rows = source.skip_rows + len(held), iter(held)
    if part and num_rows is not None and num_rows > source.skip_rows:
        tally.rows = num_rows - source.skip_rows
        times = times_taken(tally.rows, source, seed=seed, place=place)
        last = int(np.flatnonzero(times)[-1])
        for entry, count in zip(rows, times[: last + 1].tolist(), strict=False):
            if count:
                tally.taken += count
                yield entry, count
        return
    for entry in itertools.islice(rows, source.count):
        tally.rows += 1
        tally.taken += 1
        yield entry, 1
    if not tally.rows:
        raise DataError(f"{source.path} has no rows{_after(source)}. Training needs at least one.")
    if source.count is not None and tally.rows < source.count:
        times_taken(tally.rows, source, seed=seed, place=place)  # Says that there are too few.


def _after(source: Source) -> str:
    return f" after the first {source.skip_rows:,}" if source.skip_rows else ""
