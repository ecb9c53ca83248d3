"""``--field value`` for any field of a recipe, with types taken from the recipe itself.

A recipe's `algorithm` and `verifiers` are typed by protocols, which no command line can parse. So
the options are the leaves of the recipe at hand: ``--algorithm.beta`` where the algorithm has one.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import docstring_parser
import tyro

from cameleer.recipe import Curate, Ladder, Recipe

R = TypeVar("R", bound=Recipe | Ladder)


@dataclass(frozen=True)
class Leaf:
    """A field with a value of its own, such as ``optim.learning_rate``."""

    path: tuple[str, ...]
    hint: Any
    value: Any
    doc: str


def override(recipe: R, arguments: Sequence[str], *, prog: str) -> R:
    """The recipe with the fields that the arguments name replaced.

    An unknown field or an unreadable value ends the program with tyro's message, which names the
    nearest fields.
    """
    recipe = _with_tuples(recipe)
    found = list(leaves(recipe))
    options = dataclasses.make_dataclass(
        "Options",
        [
            (
                f"option_{number}",
                Annotated[leaf.hint, tyro.conf.arg(name=".".join(leaf.path), help=leaf.doc)],
                dataclasses.field(default=leaf.value),
            )
            for number, leaf in enumerate(found)
        ],
        frozen=True,
    )
    with warnings.catch_warnings():
        # Of values of another type, which `cameleer.recipe_types` tells better.
        warnings.simplefilter("ignore", UserWarning)
        parsed: Any = tyro.cli(
            options,
            args=list(arguments),
            prog=prog,
            description=f"Fields of the recipe {recipe.name} and their values.",
        )
    for number, leaf in enumerate(found):
        value = getattr(parsed, f"option_{number}")
        if value != leaf.value:
            recipe = _replaced(recipe, leaf.path, value)
    return recipe


def _with_tuples(value: Any) -> Any:
    """Lists that a recipe was given as the tuples that it holds. Users' own classes stay."""
    if isinstance(value, list | tuple):
        items = tuple(map(_with_tuples, value))
        return value if value == items else items
    is_ours = dataclasses.is_dataclass(value) and type(value).__module__.startswith("cameleer.")
    if not is_ours or isinstance(value, type):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    changes = {name: _with_tuples(item) for name, item in fields.items()}
    changes = {name: item for name, item in changes.items() if item is not fields[name]}
    return dataclasses.replace(value, **changes) if changes else value


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every field below a record that is not itself one, outermost first."""
    nested: list[tuple[str, Any]] = []
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if _is_record(item):
                nested.append((field.name, item))
            elif _is_plain(hints[field.name]):
                kind: Any = type(value)
                doc = _documentation(kind).get(field.name, "")
                yield Leaf((*path, field.name), hints[field.name], item, doc)
    else:
        nested = list(_members(value).items())
    for name, item in nested:
        yield from leaves(item, (*path, name))


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or bool(_members(value))


def _members(value: Any) -> dict[str, Any]:
    """The dataclasses in a mapping by key, and in a tuple by name (stages) or place."""
    if isinstance(value, tuple):
        value = {
            v.name if isinstance(v, Recipe | Curate) else str(i): v for i, v in enumerate(value)
        }
    if isinstance(value, Mapping) and all(dataclasses.is_dataclass(v) for v in value.values()):
        return dict(value)
    return {}


def _is_plain(hint: Any) -> bool:
    """False for protocols, records and what holds them: unset, those can be set in code only."""
    parts = (hint, *typing.get_args(hint))
    return not any(getattr(p, "_is_protocol", False) or dataclasses.is_dataclass(p) for p in parts)


@functools.cache
def _documentation(kind: Any) -> dict[str, str]:
    """First sentences of the docstrings below a dataclass's fields."""
    parsed = docstring_parser.parse_from_object(kind)
    return {
        p.arg_name: " ".join((p.description or "").split()).replace("``", "") for p in parsed.params
    }


def _replaced(value: Any, path: tuple[str, ...], leaf: Any) -> Any:
    if not path:
        return leaf
    name, rest = path[0], path[1:]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{name: _replaced(getattr(value, name), rest, leaf)})
    members = {k: _replaced(v, rest, leaf) if k == name else v for k, v in _members(value).items()}
    return members if isinstance(value, Mapping) else tuple(members.values())
