"""The program that a `VerifierPool` starts: one process that loads, and a child of it that scores.

It runs as ``python -c "…; main(…)"`` rather than through multiprocessing, which would import the
main module of the run, and torch with it, into every worker. The child is forked after the imports,
so a new one takes milliseconds. Both hold the same end of one socket and use it in turns: the child
while it lives, the parent of the child to say that it died.

A verifier that leaves something behind in its process (a thread, a child of its own) has its
verdict taken and the process replaced, so that it cannot reach into the next task. Not covered: a
child that has left the process group, which lives on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, get_args

from cameleer.types import Score, Status
from cameleer.verifiers.base import Verifier


class Limits(NamedTuple):
    """What one task may use."""

    cpu_s: float
    wall_s: float
    memory_bytes: int


TIMEOUTS = {signal.SIGPROF: "CPU time", signal.SIGALRM: "wall clock"}
"""The signals of the interval timers, by what they measure."""

_RETIRED = 75
"""Exit status of a child that wants to be replaced, after it has answered."""


def main(socket: int) -> None:
    """Load the verifiers that the pool sends, then keep a child scoring until the pool goes."""
    # Ctrl-C reaches the whole terminal; the run decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The pool may be gone before this process has loaded: nobody waits for an answer then.
    with contextlib.suppress(ConnectionError), Connection(socket) as pool:
        try:
            pickled, limits = pool.recv()
        except EOFError:
            return
        try:
            verifiers: dict[str, Verifier] = pickle.loads(pickled)
            for verifier in verifiers.values():
                if (warm_up := getattr(verifier, "warm_up", None)) is not None:
                    warm_up()
        except Exception as error:
            pool.send(("refused", f"{type(error).__name__}: {error}"))
            return
        # What the verifiers' modules map does not count: a recipe file imports torch, and CUDA's
        # libraries alone exceed any sensible limit.
        _set_memory_limit(_mapped_bytes() + limits.memory_bytes)
        pool.send(("ready", "torch" in sys.modules))
        _keep_a_child(pool, verifiers, limits)


def judge(verifier: Verifier, text: str, truth: Any) -> tuple[str, Score]:
    """A kind that `VerifierPool.counts` has, or ``scored``, and the score, undecided on raising."""
    try:
        score = verifier.score(text, truth)
        if not 0.0 <= score.value <= 1.0 or score.status not in get_args(Status):
            raise ValueError(f"{score} is no verdict: a value in [0, 1], and a known status")
        return "scored", Score(float(score.value), score.status, str(score.reason)[:200])
    except MemoryError:
        return "memory", Score(0.0, "undecided", "the verifier ran out of memory")
    except (Exception, SystemExit) as error:
        why = f"the verifier raised {type(error).__name__}: {error}"
        return "error", Score(0.0, "undecided", why[:200])


def _keep_a_child(pool: Connection, verifiers: dict[str, Verifier], limits: Limits) -> None:
    answered = mmap.mmap(-1, 1)  # Shared with the child, whose exit status a verifier can forge.
    while True:
        child = os.fork()
        if child == 0:
            try:
                status = _serve(pool, verifiers, limits, answered)
            except (EOFError, OSError):
                status = 0
            os._exit(status)
        _, wait_status = os.waitpid(child, 0)
        _kill_leftovers()
        code = os.waitstatus_to_exitcode(wait_status)
        if code == 0:
            return
        if code != _RETIRED or not answered[0]:
            try:
                pool.send(("died", code))
            except OSError:
                return
            if -code not in TIMEOUTS:
                return  # It may have died while reading, with half a task left in the socket.


def _serve(
    pool: Connection, verifiers: dict[str, Verifier], limits: Limits, answered: mmap.mmap
) -> int:
    """Answer tasks until the pool closes its end (EOFError), or this child wants replacement."""
    loaded_bytes, this_process = _peak_bytes(), os.getpid()
    num_threads = threading.active_count()
    while True:
        name, text, truth = pool.recv()
        answered[0] = 0
        for stop in TIMEOUTS:  # The verifier before may have caught or blocked them.
            signal.signal(stop, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TIMEOUTS)
        # The default action of both signals kills, whatever Python code is running: an exception
        # would be swallowed by sympy. CPU time decides, so that no verdict depends on the load.
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
        signal.setitimer(signal.ITIMER_REAL, limits.wall_s)
        kind, score = judge(verifiers[name], text, truth)
        if os.getpid() != this_process:
            os._exit(0)  # The verifier forked, and only one may answer.
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # sympy swallows MemoryError as well, and then says that two answers differ.
        if kind == "scored" and _peak_bytes() - loaded_bytes > limits.memory_bytes // 2:
            kind, score = "memory", Score(0.0, "undecided", "the verifier used too much memory")
        pool.send((kind, score))
        answered[0] = 1
        if kind == "memory" or threading.active_count() > num_threads or _has_children():
            return _RETIRED


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _kill_leftovers() -> None:
    """Kill what the dead child left in this process group, which is this worker's own.

    Where the system has no /proc, they live until the pool kills the group.
    """
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):  # No process, or one that just ended.
                if int(entry) != os.getpid() and os.getpgid(int(entry)) == os.getpgrp():
                    os.kill(int(entry), signal.SIGKILL)


def _set_memory_limit(memory_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        memory_bytes = min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _mapped_bytes() -> int:
    """Address space of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
