"""The benchmarks that come with Cameleer, and how names become benchmarks."""

from __future__ import annotations

from pathlib import Path

from cameleer.errors import RecipeError, nearest
from cameleer.evals import gsm8k, ifeval, math
from cameleer.evals.base import Benchmark
from cameleer.user_files import import_file

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
    module = import_file(Path(file))
    benchmark = getattr(module, name, None)
    if not isinstance(benchmark, Benchmark):
        have = [each for each, value in vars(module).items() if isinstance(value, Benchmark)]
        raise RecipeError(
            f"{file} has no Benchmark named '{name}'.{nearest(name, have)} It has "
            f"{', '.join(have) or 'none'}."
        )
    return benchmark
