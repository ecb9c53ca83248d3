"""Whether the fields of a recipe hold what their types say. Python and JSON do not look."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from cameleer.errors import nearest


def type_problems(value: Any, path: str = "", *, unset: bool = False) -> Iterator[str]:
    """A sentence for each field of a recipe, and of what it holds, that has another type.

    Fields of users' own classes are theirs.

    Args:
        unset: None may stand for what the command line is to give.
    """
    is_ours = type(value).__module__.startswith("cameleer.")
    hints = typing.get_type_hints(type(value)) if is_ours else {}
    for field in dataclasses.fields(value):
        where = f"{path}.{field.name}" if path else field.name
        found = getattr(value, field.name, None)
        if not (unset and found is None):
            yield from _problems(found, hints.get(field.name, Any), where, unset)


def _problems(value: Any, hint: Any, path: str, unset: bool) -> Iterator[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and origin is Mapping:
        for name, item in value.items():
            yield from _problems(item, parts[1], f"{path}.{name}", unset)
    elif isinstance(value, tuple | list) and parts[1:] == (...,):
        for number, item in enumerate(value):
            yield from _problems(item, parts[0], f"{path}.{number}", unset)
    elif not _fits(value, hint):
        yield f"{path} is {_shown(value)}, and has to be {_named(hint)}.{_hint(value, hint)}"
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from type_problems(value, path, unset=unset)


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in parts
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        each = [parts[0]] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(each) and all(map(_fits, value, each))
    if hint in (int, float):
        kinds = (int, float) if hint is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, origin or hint) and not isinstance(value, type)


def _named(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_named, parts))
    if origin is tuple:
        return f"a tuple ({', '.join('…' if part is ... else _named(part) for part in parts)})"
    if origin is Mapping:
        return f"a mapping from {_named(parts[0])} to {_named(parts[1])}"
    name = getattr(hint, "__name__", str(hint))
    return _NAMES.get(hint) or f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    type(None): "None",
}


def _hint(value: Any, hint: Any) -> str:
    """What is nearest to a mistyped option, or what an object lacks to be of a protocol."""
    if isinstance(value, str):
        return nearest(value, [part for part in get_args(hint) if isinstance(part, str)])
    if not getattr(hint, "_is_protocol", False) or isinstance(value, type):
        return ""
    lacks = [name for name in vars(hint) if name[0] != "_" and not hasattr(value, name)]
    return f" It lacks {', '.join(lacks)}."


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | int | float | None | tuple | list):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"
