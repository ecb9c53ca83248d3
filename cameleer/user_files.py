"""What a user names: ``module:NAME``, or ``file.py:NAME`` in a file of their own."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cameleer.errors import CameleerError, RecipeError, nearest


def is_in_a_file(reference: str) -> bool:
    """True for ``file.py:NAME``."""
    return reference.rpartition(":")[0].endswith(".py")


def find(reference: str) -> Any:
    """What a reference names. Files are looked for from the directory the command runs in.

    Raises RecipeError where module, file or name are not there, or the file cannot be imported.
    """
    where, _, name = reference.rpartition(":")
    if is_in_a_file(reference):
        module = import_file(Path(where))
    else:
        try:
            module = importlib.import_module(where)
        except (ImportError, ValueError) as error:
            raise RecipeError(_sentence(str(error))) from error
    if not hasattr(module, name):
        own = [
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        there = nearest(name, vars(module)) or (f" It has {', '.join(own)}." if own else "")
        raise RecipeError(f"{where} has no '{name}'.{there}")
    return getattr(module, name)


def call(reference: str, *arguments: Any) -> Any:
    """What a function returns. Raises RecipeError as `find` and `blaming` do."""
    function = find(reference)
    with blaming(reference):
        return function(*arguments)


def import_file(path: Path) -> ModuleType:
    """The module of a Python file, which is imported once.

    It goes by its bare name, and its directory can be imported from: so worker processes find its
    classes.

    Raises RecipeError where it is no Python file, has the name of another module, or fails.
    """
    name, path = path.stem, path.expanduser().resolve()
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RecipeError(
            f"{path} is not a Python file. Paths are taken from the directory the command runs in."
        )
    if (known := sys.modules.get(name)) is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path:
            return known
        raise RecipeError(
            f"{path} has the name of a module that is in use, {name}. Rename the file."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        with blaming(f"{path}:{name}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def blaming(reference: str) -> Iterator[None]:
    """Errors in a user's file become a RecipeError that begins with the line at fault.

    Those of a function in an installed module rise as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_in_a_file(reference):
            raise
        path = Path(reference.rpartition(":")[0]).expanduser().resolve()
        raise RecipeError(_sentence(f"{_place(path, error)}: {_told(error)}")) from error


def _place(path: Path, error: Exception) -> str:
    """The innermost line of the file, or of one beside it, that an error came through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent == path.parent]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else str(path)


def _told(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    return str(error) if isinstance(error, CameleerError) else f"{type(error).__name__}: {error}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
