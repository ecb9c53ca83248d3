"""Would the tests notice? Breaks objectives and verifiers in one place at a time and runs tests.

pip install --target /tmp/mutation cosmic-ray
PYTHONPATH=/tmp/mutation:. python benchmarks/mutation_check.py results.jsonl --processes 2

Mutants are drawn with a seed: first a place, then one of cosmic-ray's operators that apply there,
so that places count alike. Each is tried in a copy of the repository, in a process namespace of its
own where there can be one. The results file is continued when the command runs again; mutants that
survived are printed with their diffs. One that makes the tests run for three times as long counts
as killed, by time.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import parso
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "cameleer/algorithms/": "tests/algorithms tests/parity tests/train/test_collect.py",
    "cameleer/verifiers/ifeval_google": "tests/verifiers/test_ifeval_google.py",
    "cameleer/verifiers/sentences": "tests/verifiers/test_ifeval_google.py",
    "cameleer/verifiers/ifeval_checks": "tests/verifiers/test_cases.py "
    "tests/verifiers/test_ifeval.py",
    "cameleer/verifiers/ifeval": "tests/verifiers/test_ifeval.py "
    "tests/verifiers/test_ifeval_google.py",
    "cameleer/verifiers/isolate": "tests/verifiers/test_isolate.py",
    "cameleer/verifiers/worker": "tests/verifiers/test_isolate.py",
    "cameleer/verifiers/tulu3": "tests/verifiers/test_tulu3.py tests/verifiers/test_published.py",
    "cameleer/verifiers/published": "tests/verifiers/test_published.py",
    "cameleer/verifiers/": "tests/verifiers/test_text.py tests/verifiers/test_gsm8k.py "
    "tests/verifiers/test_math.py tests/verifiers/test_tulu3.py tests/verifiers/test_fuzz.py",
}
"""Tests of the files whose paths begin so; the first that fits."""


class Mutant(NamedTuple):
    path: str
    operator: str
    occurrence: int

    @property
    def id(self) -> str:
        return f"{self.path} {self.operator} {self.occurrence}"


ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
ALONE += ["sh", "-c", '"$@"; exit $?', "sh"]  # The first process has to bury orphans.
"""Where it is allowed: a mutant of the code that kills workers may kill whatever it can see."""
if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
    print("no process namespaces here: a mutant may kill more than its tests", flush=True)
    ALONE = []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # A shell's background jobs ignore Ctrl-C, and so would the processes whose end the tests watch.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mutants = sample(options.mutants, options.seed)
    done = read(options.results)
    left: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        if mutant.id not in done:
            left.put(mutant)
    print(f"{len(mutants)} mutants, {left.qsize()} to try", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        limits = baseline(copy(Path(directory) / "baseline"), mutants) if left.qsize() else {}
        workers = [
            threading.Thread(
                target=work, args=(Path(directory) / str(i), left, limits, options.results)
            )
            for i in range(options.processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    report(mutants, read(options.results))


def sample(count: int, seed: int) -> list[Mutant]:
    places: dict[tuple[str, tuple[int, int]], list[Mutant]] = {}
    for kind in ("algorithms", "verifiers"):
        for path in sorted((ROOT / "cameleer" / kind).glob("*.py")):
            for place, mutant in mutants_of(path):
                places.setdefault((mutant.path, place), []).append(mutant)
    generator = random.Random(seed)
    order = sorted(places)
    generator.shuffle(order)
    chosen: list[Mutant] = []
    for place in order:
        mutant = generator.choice(places[place])
        if len(chosen) < count and changes_something(mutant):
            chosen.append(mutant)
    return chosen


def mutants_of(path: Path) -> Iterator[tuple[tuple[int, int], Mutant]]:
    """Every mutant of a file, with where it begins."""
    name, tree = str(path.relative_to(ROOT)), parso.parse(path.read_text(encoding="utf-8"))
    # Those on variables have to be told which variable.
    operators = [(key, get_operator(key)()) for key in operator_names() if "Variable" not in key]
    occurrences: Counter[str] = Counter()
    for node in walk(tree):
        for key, operator in operators:
            for start, _ in operator.mutation_positions(node):
                yield start, Mutant(name, key, occurrences[key])
                occurrences[key] += 1


def walk(node: parso.tree.NodeOrLeaf) -> Iterator[parso.tree.NodeOrLeaf]:
    yield node
    for child in getattr(node, "children", ()):
        yield from walk(child)


def mutated(mutant: Mutant) -> str:
    code = (ROOT / mutant.path).read_text(encoding="utf-8")
    return mutate_code(code, get_operator(mutant.operator)(), mutant.occurrence) or code


def changes_something(mutant: Mutant) -> bool:
    """False for a changed type annotation, and for what is no Python."""
    try:
        codes = [(ROOT / mutant.path).read_text(encoding="utf-8"), mutated(mutant)]
        before, after = (ast.dump(WithoutAnnotations().visit(ast.parse(code))) for code in codes)
    except SyntaxError:
        return False
    return before != after


class WithoutAnnotations(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def copy(place: Path) -> Path:
    """The repository's files, with the data sets beside them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    root = place / "repository"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    if (ROOT.parent / "shared").exists():
        (place / "shared").symlink_to(ROOT.parent / "shared")
    return root


def baseline(root: Path, mutants: list[Mutant]) -> dict[str, float]:
    """A limit of seconds for each set of tests: three times what they take unbroken."""
    limits = {}
    for tests in sorted({tests_of(mutant) for mutant in mutants}):
        began = time.perf_counter()
        outcome, output = run_tests(root, tests, limit_s=1800)
        if outcome != "survived":
            sys.exit(f"the tests {tests} fail without a mutant:\n{output}")
        limits[tests] = 3 * (time.perf_counter() - began) + 10
        print(f"{limits[tests] / 3:6.0f} s  {tests}", flush=True)
    return limits


def tests_of(mutant: Mutant) -> str:
    return next(tests for start, tests in TESTS.items() if mutant.path.startswith(start))


def run_tests(root: Path, tests: str, limit_s: float) -> tuple[str, str]:
    """survived, killed or timeout, and the end of what pytest printed."""
    command = [
        *ALONE,
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *tests.split(),
    ]
    path = os.pathsep.join([str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))])
    process = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return "timeout", ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return ("survived" if process.returncode == 0 else "killed"), output[-2000:]


def work(
    place: Path, left: queue.SimpleQueue[Mutant], limits: dict[str, float], results: Path
) -> None:
    root = copy(place)
    while True:
        try:
            mutant = left.get_nowait()
        except queue.Empty:
            return
        before, after = (ROOT / mutant.path).read_text(encoding="utf-8"), mutated(mutant)
        (root / mutant.path).write_text(after, encoding="utf-8")
        began = time.perf_counter()
        outcome, output = run_tests(root, tests_of(mutant), limits[tests_of(mutant)])
        (root / mutant.path).write_text(before, encoding="utf-8")
        names = (f"a/{mutant.path}", f"b/{mutant.path}")
        diff = difflib.unified_diff(
            before.splitlines(), after.splitlines(), *names, lineterm="", n=1
        )
        record = {
            "mutant": mutant.id,
            "outcome": outcome,
            "seconds": round(time.perf_counter() - began, 1),
            "diff": "\n".join(diff),
            "killed_by": [line for line in output.splitlines() if line.startswith("FAILED")],
        }
        with open(results, "a", encoding="utf-8") as file:  # One short write: threads may share it.
            file.write(json.dumps(record) + "\n")
        print(f"{record['seconds']:6.1f} s  {outcome:<8}  {mutant.id}", flush=True)


def read(results: Path) -> dict[str, dict[str, object]]:
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {record["mutant"]: record for record in map(json.loads, lines)}


def report(mutants: list[Mutant], done: dict[str, dict[str, object]]) -> None:
    tried = [done[mutant.id] for mutant in mutants if mutant.id in done]
    for record in tried:
        if record["outcome"] == "survived":
            print(f"\n{record['diff']}")
    outcomes = Counter(str(record["outcome"]) for record in tried)
    killed = outcomes["killed"] + outcomes["timeout"]
    print(f"\n{killed} of {len(tried)} mutants killed ({outcomes['timeout']} by time)")


if __name__ == "__main__":
    main()
