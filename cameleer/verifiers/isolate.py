"""Verifiers in processes of their own: no text hangs, crashes or starves the run."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from cameleer.errors import RecipeError, nearest
from cameleer.types import Score
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.worker import TIMEOUTS, Limits, judge

Task = tuple[str, str, Any]
"""Name of the verifier, text of the completion, ground truth."""


class VerifierPool:
    """Scores tasks in worker processes that hold to limits, and counts what went wrong.

    CPU time decides: a task that takes longer is killed by the kernel's own timer, and the same
    text gets the same verdict on a loaded machine. The wall clock is a backstop for what sleeps. A
    task without a verdict is ``undecided``, its worker is replaced, and no other task notices.

    A verifier with ``isolated = False`` is scored in this process while the workers are busy: a
    round trip to a worker costs more than a few linear regular expressions.

    Workers start with the ``with`` block, never import torch or the caller's main module, ignore
    Ctrl-C, and end when this process ends, however it does. Threads may share a pool; they take
    turns.
    """

    counts: dict[str, int]
    """Tasks without a verdict so far: timeout, crash, memory, and error (the verifier raised)."""

    def __init__(
        self,
        verifiers: Mapping[str, Verifier],
        num_workers: int = 2,
        *,
        cpu_limit_s: float = 5.0,
        wall_limit_s: float = 60.0,
        memory_bytes: int = 2 << 30,
    ) -> None:
        """
        Args:
            num_workers: Processes; none is started when every verifier is linear (not isolated).
            cpu_limit_s: For one task, user and system time together.
            wall_limit_s: For one task.
            memory_bytes: Address space of a task, beyond what loading the verifiers took. One that
                touches half of it is undecided.
        """
        if num_workers < 1:
            raise RecipeError(f"A verifier pool needs a worker, and num_workers is {num_workers}.")
        if min(cpu_limit_s, wall_limit_s) <= 0 or memory_bytes < 256 << 20:
            raise RecipeError(
                f"The limits of a verifier pool are cpu_limit_s={cpu_limit_s}, wall_limit_s="
                f"{wall_limit_s}, memory_bytes={memory_bytes}. Times must be positive, and Python "
                "with sympy needs 256 MiB or more."
            )
        self.verifiers = dict(verifiers)
        self.num_workers = num_workers
        self.limits = Limits(cpu_limit_s, wall_limit_s, memory_bytes)
        self.counts = {"timeout": 0, "crash": 0, "memory": 0, "error": 0}
        self._isolated = {
            name: verifier
            for name, verifier in self.verifiers.items()
            if getattr(verifier, "isolated", True)
        }
        try:
            self._pickled = pickle.dumps(self._isolated)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise _not_started(error) from error
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._open = False
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        num_workers = self.num_workers if self._isolated else 0
        self._workers = [_Worker(self._pickled, self.limits) for _ in range(num_workers)]
        self._open = True
        try:
            for worker in self._workers:
                worker.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers. They hold nothing that could be lost."""
        self._open = False
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def score_all(self, tasks: Sequence[Task]) -> list[Score]:
        """One score a task, in the order of the tasks.

        Raises:
            RecipeError: A task names a verifier that the pool does not have; nothing has run then.
        """
        self._check_names(tasks)
        with self._turn:
            if not self._open:
                raise RecipeError("The verifier pool is closed. Use it inside its `with` block.")
            try:
                return self._score_all(tasks)
            except BaseException:
                # Ctrl-C, or a truth that cannot be pickled: late answers must not meet new tasks.
                for worker in [worker for worker in self._workers if worker.task is not None]:
                    self._replace(worker)
                raise

    def _score_all(self, tasks: Sequence[Task]) -> list[Score]:
        scores: dict[int, Score] = {}
        isolated = deque(i for i, task in enumerate(tasks) if task[0] in self._isolated)
        linear = deque(i for i, task in enumerate(tasks) if task[0] not in self._isolated)
        while len(scores) < len(tasks):
            for worker in self._workers:
                if worker.ready and worker.task is None and isolated:
                    i = isolated.popleft()
                    worker.give(i, tasks[i])
            look_up = time.monotonic() + 0.005  # Asking the workers costs more than a short task.
            while linear and time.monotonic() < look_up:
                i = linear.popleft()
                name, text, truth = tasks[i]
                scores[i] = self._counted(*judge(self.verifiers[name], text, truth))
            nothing_else_to_do = not linear and len(scores) < len(tasks)
            for worker in self._speaking(timeout_s=1.0 if nothing_else_to_do else 0.0):
                task, answer = worker.task, self._hear(worker)
                if task is not None:
                    scores[task] = self._counted(*answer)
        return [scores[i] for i in range(len(tasks))]

    def _check_names(self, tasks: Sequence[Task]) -> None:
        unknown = [task[0] for task in tasks if task[0] not in self.verifiers]
        if unknown:
            raise RecipeError(
                f"{len(unknown):,} of {len(tasks):,} tasks name the verifier '{unknown[0]}', which "
                f"the pool does not have (it has {', '.join(self.verifiers) or 'none'})."
                f"{nearest(unknown[0], self.verifiers)} Add it to `verifiers`, or drop these rows."
            )

    def _speaking(self, timeout_s: float) -> list[_Worker]:
        """Workers that have something to say, or that have been silent for too long."""
        if not self._workers:
            return []
        speaking = wait([worker.pool_end for worker in self._workers], timeout_s)
        now = time.monotonic()
        return [w for w in self._workers if w.pool_end in speaking or now > w.deadline]

    def _hear(self, worker: _Worker) -> tuple[str, Score]:
        """What became of a worker's task, and why. Afterwards it is idle, or replaced."""
        kind, content = worker.hear()
        if kind in ("scored", "error", "memory"):
            return kind, content
        if kind == "died" and -content in TIMEOUTS:
            limit = TIMEOUTS[signal.Signals(-content)]
            seconds = self.limits.cpu_s if limit == "CPU time" else self.limits.wall_s
            return "timeout", _undecided(f"over the limit of {seconds:g} s of {limit}")
        if kind == "ready":
            self._failed_starts = 0
            return kind, _undecided("it only now begins")
        self._replace(worker)
        if not worker.ready:
            self._failed_starts += 1
            if kind == "refused" or self._failed_starts > _Worker.max_failed_starts:
                raise _not_started(content)
        if kind == "silent":
            return "timeout", _undecided(
                f"over the limit of {self.limits.wall_s:g} s of wall clock"
            )
        return "crash", _undecided(f"the worker died ({_how(content)})")

    def _counted(self, kind: str, score: Score) -> Score:
        if kind != "scored":
            self.counts[kind] += 1
        return score

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        self._workers[self._workers.index(worker)] = _Worker(self._pickled, self.limits)


class _Worker:
    """One worker process, seen from the pool: loading, idle, or busy with a task."""

    max_failed_starts = 5
    """In a row. A machine short of memory kills a loading worker now and then."""
    loading_limit_s = 120.0
    grace_s = 5.0
    """What a worker's own wall-clock timer gets before the pool steps in."""

    def __init__(self, verifiers: bytes, limits: Limits) -> None:
        self.task: int | None = None
        """Index of the task it works on."""
        self.ready = False
        self.limits = limits
        self.deadline = time.monotonic() + self.loading_limit_s
        """When the pool gives up on it, on the monotonic clock. An idle worker has for ever."""
        ours, theirs = socket.socketpair()
        self.pool_end = Connection(ours.detach())
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from cameleer.verifiers.worker import main; "
            f"main({theirs.fileno()})"
        )
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Its own group, to be killed with its child, and out of reach of Ctrl-C.
                start_new_session=True,
                # sympy's choices follow the order of sets: one seed, one verdict.
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        with contextlib.suppress(ConnectionError):  # It has died; `hear` will meet the end.
            self.pool_end.send((verifiers, limits))

    def wait_until_ready(self) -> None:
        while not self.ready:
            self.pool_end.poll(self.deadline - time.monotonic())
            kind, content = self.hear()
            if kind != "ready":
                raise _not_started(content)

    def give(self, index: int, task: Task) -> None:
        self.task, self.deadline = index, time.monotonic() + self.limits.wall_s + self.grace_s
        with contextlib.suppress(ConnectionError):
            self.pool_end.send(task)

    def hear(self) -> tuple[str, Any]:
        """What it says: ready, refused, the kind of a score, or died; ``silent`` for nothing."""
        try:
            kind, content = self.pool_end.recv() if self.pool_end.poll() else ("silent", None)
        except (EOFError, ConnectionError):
            kind, content = "died", self.process.wait()
        self.task, self.deadline = None, math.inf
        self.ready = self.ready or kind == "ready"
        return kind, content

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # It is gone already.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.pool_end.close()


def _not_started(why: object) -> RecipeError:
    why = _how(why) if isinstance(why, int) else why
    return RecipeError(
        f"A verifier worker did not start: {why}. Verifiers must be picklable, and defined at "
        "the top level of a module that can be imported, not in the main script."
    )


def _undecided(why: str) -> Score:
    return Score(0.0, "undecided", why)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
