"""Imports point one way, and what starts often starts fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cameleer"

ORDER = (
    ("errors", "types"),
    ("log", "files", "user_files", "endpoint_client"),
    ("batch",),
    ("data",),
    ("models",),
    ("rollout",),
    ("verifiers",),
    ("evals",),
    ("recipe", "recipe_types", "recipe_checks", "recipe_files", "overrides"),
    ("train",),
    ("curate",),
    ("distributed",),
    ("recipes",),
    ("report", "serve", "verify", "evaluate"),
    ("release",),
    ("cli",),
    ("__main__",),
)
"""A room may import its own modules, and rooms that stand before it."""

EXCEPTIONS = {
    "algorithms": {"batch"},
    "recipe": {
        "algorithms",
        "data",
        "models",
        "verifiers",
        "batch",
        "types",
        "errors",
        "recipe_checks",
        "recipe_types",
    },
    "recipe_types": {"errors"},
    "recipe_checks": {"recipe", "recipe_types", "algorithms"},
    "recipe_files": {"recipe", "recipe_types", "data", "errors", "user_files"},
    "overrides": {"recipe", "errors"},
}
"""Rooms that may import less than their place would allow."""

NO_TORCH = {
    "types",
    "errors",
    "log",
    "files",
    "user_files",
    "endpoint_client",
    "data",
    "verifiers",
    "report",
    "verify",
    "evaluate",
}
"""Rooms that name no torch at the head of a module: workers and the command line import them."""


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """(dotted name, room, tree) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("cameleer", *parts)).removesuffix(".__init__")
        yield name, parts[0], ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST, name: str) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports anywhere, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively; write the whole name"
            assert node.module is not None
            # `from cameleer import recipe` names a room too.
            for alias in node.names:
                below = node.module == "cameleer"
                yield (f"cameleer.{alias.name}" if below else node.module), node.lineno


def allowed(room: str) -> set[str]:
    if room in EXCEPTIONS:
        return EXCEPTIONS[room]
    place = next(i for i, rooms in enumerate(ORDER) if room in rooms)
    before = {name for rooms in ORDER[:place] for name in rooms}
    # Objectives stand aside: learners and recipes use them, data and engines do not.
    return before | ({"algorithms"} if place >= PLACE_OF_RECIPES else set())


PLACE_OF_RECIPES = next(place for place, rooms in enumerate(ORDER) if "recipe" in rooms)


def wrong_edges() -> Iterator[str]:
    for name, room, tree in modules():
        if room == "__init__":
            continue
        for target, line in imported(tree, name):
            parts = target.split(".")
            if parts[0] != "cameleer" or len(parts) == 1:
                continue
            if parts[1] != room and parts[1] not in allowed(room):
                yield f"{name}:{line} imports {target}, and {room} may not know {parts[1]}"


def test_every_room_has_its_place():
    rooms = {room for _, room, _ in modules()} - {"__init__"}
    placed = {name for names in ORDER for name in names} | set(EXCEPTIONS)
    assert rooms <= placed, f"give {sorted(rooms - placed)} a place in ORDER"


def test_imports_point_one_way():
    assert not list(wrong_edges()), "\n".join(wrong_edges())


def test_objectives_import_torch_and_batches_only():
    for name, room, tree in modules():
        if room != "algorithms":
            continue
        roots = {target.split(".")[0] for target, _ in imported(tree, name)}
        foreign = roots - set(sys.stdlib_module_names) - {"torch", "cameleer"}
        assert not foreign, f"{name} imports {', '.join(sorted(foreign))}"


def test_rooms_without_torch_name_it_nowhere_at_their_head():
    for name, room, tree in modules():
        if room not in NO_TORCH:
            continue
        for node in tree.body:
            for target, line in imported(node, name) if not isinstance(node, DEFINITION) else ():
                root = target.split(".")[0]
                assert root not in ("torch", "transformers"), f"{name}:{line} imports {target}"


DEFINITION = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)


def test_a_wrong_edge_is_named(monkeypatch: pytest.MonkeyPatch):
    trees = [
        ("cameleer.data.chat", "data", ast.parse("import os\nfrom cameleer.models import load")),
        ("cameleer.algorithms.grpo", "algorithms", ast.parse("import cameleer.types")),
        ("cameleer.cli", "cli", ast.parse("def f():\n  from cameleer.train.run import Run")),
    ]
    monkeypatch.setattr(sys.modules[__name__], "modules", lambda: iter(trees))
    assert list(wrong_edges()) == [
        "cameleer.data.chat:2 imports cameleer.models, and data may not know models",
        "cameleer.algorithms.grpo:1 imports cameleer.types, and algorithms may not know types",
    ]


@pytest.mark.parametrize("module", ["cameleer", "cameleer.types", "cameleer.data.prompts"])
def test_what_starts_often_starts_without_torch(module: str):
    code = (
        "import sys, time; began = time.process_time(); "
        f"import {module}; "
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules); "
        "print(time.process_time() - began, *heavy)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    seconds, *heavy = run.stdout.split()
    assert not heavy, f"{module} imports {', '.join(heavy)}"
    # CPU seconds: a tenth is usual; numpy takes most of it.
    assert float(seconds) < (0.2 if module != "cameleer.data.prompts" else 1.0)
