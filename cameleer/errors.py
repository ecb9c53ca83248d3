"""Errors that a user can mend. Each message says what, why, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CameleerError(ValueError):
    """Root of all errors raised on purpose; anything else is a bug of ours."""


class RecipeError(CameleerError):
    """A recipe asks for what cannot work, or cannot be read."""


class DataError(CameleerError):
    """A row, file or data set is missing or malformed. The message names file and line."""


class RowError(DataError):
    """A single row that cannot be used. ``Source(bad_rows="skip")`` leaves it out and counts it."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The same for all rows of a kind: what they are counted by."""


class ModelError(CameleerError):
    """A checkpoint, tokenizer or chat template cannot be used."""


class RunError(CameleerError):
    """A run directory or checkpoint is not in the state that was asked for."""


class TrainingError(CameleerError):
    """Training met something it must not go on from, such as a loss that is not a number."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known word most like this one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
