"""The console: rich where there is a terminal, plain lines in a log file."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


def visible(text: str) -> str:
    """A text of unknown origin with signs for what would steer a terminal: ``␛`` for escape."""
    return text.translate(_SIGNS)


_SIGNS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_SIGNS |= {code: 0xFFFD for code in range(0x80, 0xA0)} | {0x7F: 0x2421}


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Loading a checkpoint without progress bars and notices of the libraries underneath."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"transformers(\..*)?")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
