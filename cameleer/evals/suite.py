"""The benchmarks that come with Cameleer, and how names become benchmarks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from cameleer.errors import RecipeError, nearest
from cameleer.evals import gsm8k, ifeval, math
from cameleer.evals.base import Benchmark

SUITE: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (gsm8k.BENCHMARK, math.BENCHMARK, math.MATH500, ifeval.BENCHMARK)
}
"""By name. A new benchmark is one file and one place here."""


def benchmarks(names: str) -> list[Benchmark]:
    """The benchmarks of a list such as ``gsm8k,my_task.py:BENCHMARK``, in its order.

    Raises RecipeError where a name is unknown, or stands twice.
    """
    found: list[Benchmark] = []
    for name in filter(None, map(str.strip, names.split(","))):
        benchmark = _from_file(name) if ".py" in name else SUITE.get(name)
        if benchmark is None:
            raise RecipeError(
                f"There is no benchmark '{name}'.{nearest(name, SUITE)} There are "
                f"{', '.join(SUITE)}; your own are named file.py:NAME."
            )
        if any(benchmark.name == other.name for other in found):
            raise RecipeError(
                f"{names} has two benchmarks named '{benchmark.name}', whose results would be one. "
                "Leave one out, or give yours another name."
            )
        found.append(benchmark)
    if not found:
        raise RecipeError(f"No benchmark is named. There are {', '.join(SUITE)}.")
    return found


def check_installed(benchmark: Benchmark) -> None:
    """Raises RecipeError where a metric needs a package that is not here."""
    for metric in benchmark.metrics:
        getattr(metric.verifier, "check_installed", lambda: None)()


def _from_file(reference: str) -> Benchmark:
    file, _, name = reference.rpartition(":")
    if not file or not name.isidentifier():
        raise RecipeError(
            f"{reference} names no benchmark: write file.py:NAME, where NAME is the Benchmark that "
            "the file defines."
        )
    module = _import_file(Path(file).resolve())
    benchmark = getattr(module, name, None)
    if not isinstance(benchmark, Benchmark):
        have = [each for each, value in vars(module).items() if isinstance(value, Benchmark)]
        raise RecipeError(
            f"{file} has no Benchmark named '{name}'.{nearest(name, have)} It has "
            f"{', '.join(have) or 'none'}."
        )
    return benchmark


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RecipeError(f"{path} is not a Python file.")
    if (known := sys.modules.get(path.stem)) is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        raise RecipeError(
            f"{path} has the name of a module that is in use, {path.stem}. Rename the file."
        )
    module = importlib.util.module_from_spec(spec)
    # Worker processes unpickle the file's verifiers by this name.
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module
