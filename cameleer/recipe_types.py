"""Whether the fields of a recipe hold what their types say. Python and JSON do not look."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from cameleer.errors import nearest


def type_problems(value: Any, path: str = "") -> Iterator[str]:
    """A sentence for each field of a dataclass, and of those within it, that holds another type."""
    try:
        hints = typing.get_type_hints(type(value))
    except NameError:  # A user's class, whose imports are for type checkers only.
        hints = {}
    for field in dataclasses.fields(value):
        where = f"{path}.{field.name}" if path else field.name
        yield from _problems(getattr(value, field.name), hints.get(field.name, Any), where)


def _problems(value: Any, hint: Any, path: str) -> Iterator[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and _is_mapping(origin):
        for name, item in value.items():
            yield from _problems(item, parts[1], f"{path}.{name}")
    elif isinstance(value, tuple | list) and parts[1:] == (...,):
        for number, item in enumerate(value):
            yield from _problems(item, parts[0], f"{path}.{number}")
    elif not _fits(value, hint):
        yield f"{path} is {_shown(value)}, and has to be {_named(hint)}.{_hint(value, hint)}"
    elif dataclasses.is_dataclass(value):
        yield from type_problems(value, path)


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
    if _is_mapping(origin):
        return isinstance(value, Mapping) and all(_fits(v, parts[1]) for v in value.values())
    if hint in (int, float):
        kinds = (int, float) if hint is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    try:
        return isinstance(value, origin or hint) and not isinstance(value, type)
    except TypeError:  # Not to be looked into, such as a type variable of a user's class.
        return True


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _named(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_named, parts))
    if origin is tuple:
        return f"a tuple ({', '.join('…' if part is ... else _named(part) for part in parts)})"
    if origin is not None:
        return f"a mapping from {_named(parts[0])} to {_named(parts[-1])}"
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
