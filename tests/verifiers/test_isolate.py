"""The pool: verdicts in order whatever a task does, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nasty import Linear, Loads, Nasty

from cameleer.errors import RecipeError
from cameleer.types import Score
from cameleer.verifiers.isolate import Task, VerifierPool

RIGHT: Task = ("nasty", "right", None)
ROOT = Path(__file__).resolve().parents[2]


def nasty(does: str, truth: Any = None) -> Task:
    return ("nasty", does, truth)


def test_scores_come_in_the_order_of_the_tasks(pool: VerifierPool):
    texts = [f"text {i}" for i in range(200)]
    scores = pool.score_all(
        [("nasty" if i % 3 else "linear", t, None) for i, t in enumerate(texts)]
    )
    assert [score.reason for score in scores] == [f"read {text}" for text in texts]


def test_no_tasks_no_scores(pool: VerifierPool):
    assert pool.score_all([]) == []


@pytest.mark.parametrize(
    ("does", "count", "reason"),
    [
        ("spin", "timeout", "over the limit of 1 s of CPU time"),
        ("spin and swallow", "timeout", "CPU time"),
        ("power", "timeout", "CPU time"),
        ("sleep", "timeout", "over the limit of 1.5 s of wall clock"),
        ("raise", "error", "ZeroDivisionError: as asked"),
        ("exit", "crash", "exit status 3"),
        ("exit 99", "crash", "exit status 99"),
        ("segfault", "crash", "SIGSEGV"),
        ("allocate", "memory", "memory"),
        ("swallow memory", "memory", "memory"),
        ("sys.exit", "error", "SystemExit: 0"),
        ("exit as if done", "crash", "exit status 0"),
        ("exit as if retired", "crash", "exit status 75"),
        ("close files", "crash", "exit status 0"),
        ("fork and hang", "timeout", "CPU time"),
        ("not a number", "error", "value in [0, 1]"),
        ("two", "error", "value in [0, 1]"),
        ("minus a half", "error", "value in [0, 1]"),
        ("raise at length", "error", "ValueError: so so so"),
        ("no status", "error", "a known status"),
        ("nothing", "error", "AttributeError"),
    ],
)
def test_a_task_without_a_verdict_is_undecided_and_the_others_are_not_touched(
    does: str, count: str, reason: str
):
    # A busy machine grants CPU time slowly, and counts the touching of memory as CPU time.
    wall_limit_s = 1.5 if does == "sleep" else 60.0
    with VerifierPool(
        {"nasty": Nasty()},
        num_workers=2,
        cpu_limit_s=1.0 if count == "timeout" else 30.0,
        wall_limit_s=wall_limit_s,
        memory_bytes=1 << 28,
    ) as pool:
        scores = pool.score_all([RIGHT, nasty(does, 1 << 34), *[RIGHT] * 20])
    bad = scores.pop(1)
    assert (bad.value, bad.status) == (0.0, "undecided") and reason in bad.reason
    assert len(bad.reason) <= 200
    assert all(score == Score(1.0, "scored", "read right") for score in scores)
    assert pool.counts == {"timeout": 0, "crash": 0, "memory": 0, "error": 0} | {count: 1}


def test_a_task_may_touch_half_of_the_memory_that_it_may_map():
    with VerifierPool({"nasty": Nasty()}, num_workers=1, memory_bytes=512 << 20) as pool:
        less, more = pool.score_all([nasty("touch", n << 20) for n in (200, 320)])
    assert (less.status, less.reason) == ("scored", f"touched {200 << 20}")
    assert (more.status, more.reason) == ("undecided", "the verifier used too much memory")


def test_a_long_reason_is_cut_at_200_characters(pool: VerifierPool):
    scores = pool.score_all([("linear", "talk", None), nasty("talk"), nasty("raise at length")])
    assert [len(score.reason) for score in scores] == [200] * 3


def test_an_idle_worker_is_under_no_limit():
    with VerifierPool({"nasty": Nasty()}, num_workers=1, wall_limit_s=1.0) as pool:
        pool.score_all([RIGHT])
        time.sleep(1.2)
        assert [score.status for score in pool.score_all([RIGHT, RIGHT])] == ["scored"] * 2


def test_a_worker_may_die_five_times_in_a_row_while_it_loads(tmp_path: Path):
    verifiers = {"nasty": Loads(str(tmp_path / "loads"), failures=(2, 3, 4, 5, 6, 8))}
    with VerifierPool(verifiers, num_workers=1) as pool:
        for _ in range(2):
            scores = pool.score_all([nasty("exit"), RIGHT])
            assert [score.status for score in scores] == ["undecided", "scored"]
    assert pool.counts == {"timeout": 0, "crash": 2, "memory": 0, "error": 0}
    assert (tmp_path / "loads").read_text() == "x" * 9


@pytest.mark.parametrize("before", [(), (2,)])
def test_a_worker_that_dies_six_times_in_a_row_while_it_loads_is_an_error(
    tmp_path: Path, before: tuple[int, ...]
):
    loads = 1 + len(before) + bool(before)
    failures = (*before, *range(loads + 1, loads + 7))
    verifiers = {"nasty": Loads(str(tmp_path / "loads"), failures)}
    with VerifierPool(verifiers, num_workers=1) as pool:
        if before:
            pool.score_all([nasty("exit"), RIGHT])
        with pytest.raises(RecipeError, match="did not start: exit status 3"):
            pool.score_all([nasty("exit"), RIGHT])


def test_a_worker_that_raises_when_it_loads_again_is_an_error(tmp_path: Path):
    verifiers = {"nasty": Loads(str(tmp_path / "loads"), failures=(2,), how="raise")}
    with (
        VerifierPool(verifiers, num_workers=1) as pool,
        pytest.raises(RecipeError, match="OSError: the model is gone"),
    ):
        pool.score_all([nasty("exit"), RIGHT])


def test_one_process_scores_many_tasks():
    with VerifierPool({"nasty": Nasty()}, num_workers=1) as pool:
        scores = pool.score_all([nasty("modules")] * 3)
    assert len({score.reason for score in scores}) == 1


@dataclass(frozen=True)
class Holds(Nasty):
    what: Any = None


UNPICKLABLE: dict[str, Any] = {"a lock": threading.Lock(), "a function": lambda: lambda: None}
UNPICKLABLE["a local function"] = UNPICKLABLE["a function"]()


@pytest.mark.parametrize("what", UNPICKLABLE)
def test_a_verifier_that_cannot_be_pickled_is_an_error(what: str):
    with pytest.raises(RecipeError, match=r"did not start: .*ickle.* must be picklable"):
        VerifierPool({"holds": Holds(UNPICKLABLE[what])})


def test_a_stopped_worker_is_given_up_after_the_wall_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cameleer.verifiers.isolate._Worker.grace_s", 0.2)
    with VerifierPool({"nasty": Nasty()}, num_workers=1, wall_limit_s=0.3) as pool:
        scores = pool.score_all([nasty("stop"), RIGHT])
    assert [score.status for score in scores] == ["undecided", "scored"]
    assert pool.counts["timeout"] == 1


@pytest.mark.parametrize("does", ["catch signals and spin", "stop the clocks and spin"])
def test_a_verifier_that_defeats_its_timers_is_killed_by_the_pool(
    monkeypatch: pytest.MonkeyPatch, does: str
):
    monkeypatch.setattr("cameleer.verifiers.isolate._Worker.grace_s", 0.2)
    with VerifierPool({"nasty": Nasty()}, num_workers=1, wall_limit_s=0.3) as pool:
        scores = pool.score_all([nasty(does), RIGHT])
    assert [score.status for score in scores] == ["undecided", "scored"]
    assert pool.counts["timeout"] == 1


def test_a_verifier_that_catches_signals_does_not_disarm_the_next_task():
    with VerifierPool({"nasty": Nasty()}, num_workers=1, cpu_limit_s=0.5) as pool:
        caught, spun = pool.score_all([nasty("catch signals"), nasty("spin")])
    assert caught.reason == "caught"
    assert spun.status == "undecided" and "CPU time" in spun.reason


def test_a_verifier_that_kills_the_parent_of_its_process_loses_nothing():
    with VerifierPool({"nasty": Nasty()}, num_workers=1) as pool:
        scores = pool.score_all([nasty("kill parent"), RIGHT, nasty("exit"), RIGHT])
    assert [score.status for score in scores] == ["scored", "scored", "undecided", "scored"]


def test_what_a_verifier_prints_goes_nowhere_but_to_stderr(capfd: pytest.CaptureFixture[str]):
    with VerifierPool({"nasty": Nasty()}, num_workers=1) as pool:
        scores = pool.score_all([nasty("print"), RIGHT, nasty("print")])
    assert [score.reason for score in scores] == ["printed", "read right", "printed"]
    out, err = capfd.readouterr()
    assert out == "" and err.count("noise") == 20_000


def test_a_forked_verifier_answers_once():
    """A second answer would be taken for that of the next task."""
    with VerifierPool({"nasty": Nasty()}, num_workers=1) as pool:
        tasks = [task for i in range(5) for task in (nasty("fork and answer twice"), nasty(f"{i}"))]
        reasons = [score.reason for score in pool.score_all(tasks)]
    assert reasons[1::2] == [f"read {i}" for i in range(5)]
    assert all(reason.startswith("answered by") for reason in reasons[::2])
    assert pool.counts == {"timeout": 0, "crash": 0, "memory": 0, "error": 0}


def test_what_a_verifier_forked_is_killed_while_the_pool_goes_on():
    with VerifierPool({"nasty": Nasty()}, num_workers=1) as pool:
        forked, _ = pool.score_all([nasty("fork and spin"), RIGHT])
        assert forked.value == 1.0
        assert gone_within(int(forked.reason.split()[1]), 5.0, os.kill)


def test_a_thread_that_a_verifier_left_behind_does_not_end_a_later_task():
    with VerifierPool({"nasty": Nasty()}, num_workers=1) as pool:
        scores = pool.score_all([nasty("exit later"), nasty("nap"), RIGHT])
    assert [score.status for score in scores] == ["scored"] * 3
    assert sum(pool.counts.values()) == 0


@pytest.mark.parametrize("does", ["sys.exit", "not a number", "nothing"])
def test_a_linear_verifier_cannot_end_the_run_or_spoil_a_mean(does: str):
    with VerifierPool({"linear": Linear()}) as pool:
        (score,) = pool.score_all([("linear", does, None)])
    assert (score.value, score.status, pool.counts["error"]) == (0.0, "undecided", 1)


def test_truths_and_texts_of_a_megabyte_lose_nothing(pool: VerifierPool):
    digits, words = "9" * 1_000_000, "word " * 200_000
    tasks = [
        ("gsm8k", "#### 18", digits),
        ("math", r"\boxed{18}", digits),
        ("nasty", "right", words),
        ("nasty", words, None),
        ("math", "5" * 2048, "5"),
        ("gsm8k", "5" * 2048, "5"),
        RIGHT,
    ]
    scores = pool.score_all([*tasks, *tasks])
    statuses = ["invalid", "invalid", *["scored"] * 5] * 2
    assert [score.status for score in scores] == statuses
    assert [score.value for score in scores] == [0, 0, 1, 0, 0, 0, 1] * 2


def test_one_bad_task_does_not_delay_the_others(pool: VerifierPool):
    """One worker spins for the limit of a second; the other one does all the rest meanwhile."""
    begin = time.monotonic()
    scores = pool.score_all([nasty("spin"), *[RIGHT] * 300])
    assert time.monotonic() - begin < 4.0
    assert scores[0].status == "undecided" and all(score.value == 1.0 for score in scores[1:])


def test_many_deaths_in_a_row_lose_nothing(pool: VerifierPool):
    tasks = [nasty("exit") if i % 3 == 0 else RIGHT for i in range(9)]
    statuses = [score.status for score in pool.score_all(tasks)]
    assert statuses == ["undecided", "scored", "scored"] * 3


def test_a_worker_killed_while_idle_costs_one_task_at_most(pool: VerifierPool):
    for worker in pool._workers:
        os.killpg(worker.process.pid, signal.SIGKILL)
    statuses = [score.status for score in pool.score_all([RIGHT] * 9)]
    assert statuses.count("scored") >= 9 - len(pool._workers)


def test_workers_import_no_torch(pool: VerifierPool):
    (score,) = pool.score_all([nasty("modules")])
    assert score.reason.startswith("torch False")


def test_a_linear_verifier_runs_in_this_process():
    with VerifierPool({"linear": Linear()}) as pool:
        assert pool._workers == []
        (score,) = pool.score_all([("linear", "modules", None)])
        assert score.reason.endswith(f"pid {os.getpid()}")
        (score,) = pool.score_all([("linear", "raise", None)])
    assert score.status == "undecided" and pool.counts["error"] == 1


def test_an_unknown_verifier_is_an_error_before_anything_runs(pool: VerifierPool):
    why = (
        r"1 of 2 tasks name the verifier 'maths'.*it has math, gsm8k, nasty, linear\).*mean 'math'"
    )
    with pytest.raises(RecipeError, match=why):
        pool.score_all([nasty("exit"), ("maths", "", "")])
    with pytest.raises(RecipeError, match=r"1 of 1 tasks .* \(it has none\)"):
        VerifierPool({}).score_all([RIGHT])


def test_a_closed_pool_says_so():
    pool = VerifierPool({"linear": Linear()})
    with pytest.raises(RecipeError, match="closed"):
        pool.score_all([("linear", "right", None)])
    with pool:
        assert pool.score_all([("linear", "right", None)])[0].value == 1.0
    with pytest.raises(RecipeError, match="closed"):
        pool.score_all([("linear", "right", None)])


@pytest.mark.parametrize(
    "limits",
    [
        {"num_workers": 0},
        {"cpu_limit_s": 0.0},
        {"wall_limit_s": -1.0},
        {"memory_bytes": (256 << 20) - 1},
    ],
)
def test_limits_that_leave_nothing_are_refused(limits: dict[str, Any]):
    ((name, value),) = limits.items()
    with pytest.raises(RecipeError, match=rf"{name}(=| is ){value}"):
        VerifierPool({"nasty": Nasty()}, **limits)


@dataclass(frozen=True)
class CannotLoad(Nasty):
    def warm_up(self) -> None:
        raise OSError("no such model")


def test_a_verifier_that_cannot_be_loaded_is_an_error_at_the_start():
    pool = VerifierPool({"bad": CannotLoad()})
    with pytest.raises(RecipeError, match=r"did not start: OSError: no such model"):
        pool.__enter__()
    assert pool._workers == []  # The second one is not left behind.


def test_a_truth_that_cannot_be_pickled_leaves_the_pool_usable(pool: VerifierPool):
    with pytest.raises(Exception, match="pickle"):
        pool.score_all([RIGHT, nasty("right", lambda: None), RIGHT])
    assert pool.score_all([nasty("a"), nasty("b")])[1].reason == "read b"


SCRIPT = f"""
    import sys, time
    print("main runs", flush=True)
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from nasty import Nasty
    from cameleer.verifiers.isolate import VerifierPool
    sys.modules["torch"] = sys  # What a script that imports torch looks like.
    with VerifierPool({{"nasty": Nasty()}}, num_workers=1) as pool:
        print([s.reason for s in pool.score_all([("nasty", "right", None)])], flush=True)
        print("worker", pool._workers[0].process.pid, flush=True)
        if "idle" in sys.argv:
            time.sleep(60)
        if "busy" in sys.argv:
            pool.score_all([("nasty", "sleep", None)])
"""


def run(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def written(path: Path) -> Path:
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_the_main_script_runs_once_even_without_a_guard(tmp_path: Path):
    process = run([str(written(tmp_path / "script.py"))])
    out, err = process.communicate(timeout=30)
    assert out.splitlines()[:2] == ["main runs", "['read right']"] and err == ""


def test_it_works_from_the_command_line():
    out, err = run(["-c", textwrap.dedent(SCRIPT)]).communicate(timeout=30)
    assert out.splitlines()[:2] == ["main runs", "['read right']"] and err == ""


@pytest.mark.parametrize(("how", "state"), [(signal.SIGKILL, "idle"), (signal.SIGINT, "busy")])
def test_workers_end_when_the_run_ends(tmp_path: Path, how: signal.Signals, state: str):
    process = run([str(written(tmp_path / "script.py")), state])
    assert process.stdout is not None
    worker = int([process.stdout.readline() for _ in range(3)][2].split()[1])
    os.killpg(worker, 0)  # It is alive.
    process.send_signal(how)
    process.communicate(timeout=10)
    assert gone_within(worker, 5.0)


def gone_within(process: int, limit_s: float, send: Callable[[int, int], None] = os.killpg) -> bool:
    begin = time.monotonic()
    while time.monotonic() - begin < limit_s:
        try:
            send(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_importing_the_verifiers_imports_no_torch():
    code = (
        "import sys, cameleer.types, cameleer.verifiers.isolate, cameleer.verifiers.gsm8k, "
        "cameleer.verifiers.math; print({'torch', 'sympy', 'numpy'} & set(sys.modules))"
    )
    out, err = run(["-c", code]).communicate(timeout=30)
    assert (out, err) == ("set()\n", "")
