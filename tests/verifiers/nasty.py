"""Verifiers that do what nobody wants in a run, in a module that workers can import."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from cameleer.types import Score


@dataclass(frozen=True)
class Nasty:
    """Does what the text says; the text ``right`` is right."""

    def score(self, text: str, truth: Any) -> Score:
        match text:
            case "spin":
                while True:
                    pass
            case "spin and swallow":
                while True:
                    with contextlib.suppress(Exception):
                        sum(range(10_000_000))
            case "power":
                return Score(float(len(str(bool(9**9**9)))))
            case "sleep":
                time.sleep(1000)
            case "nap":
                time.sleep(0.6)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise ZeroDivisionError("as asked")
            case "raise at length":
                raise ValueError("so " * 1000)
            case "talk":
                return Score(1.0, reason="so " * 1000)
            case "exit":
                os._exit(3)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "allocate":
                return Score(float(len(bytearray(truth))))
            case "touch":
                return Score(1.0, reason=f"touched {len(bytearray(truth))}")
            case "swallow memory":
                try:
                    hoard = [bytearray(1 << 20) for _ in range(100_000)]
                    return Score(float(len(hoard)))
                except MemoryError:
                    return Score(0.0, reason="they differ")
            case "modules":
                return Score(1.0, reason=f"torch {'torch' in sys.modules}, pid {os.getpid()}")
            case "print":
                for stream in (sys.stdout, sys.stderr):
                    print("noise " * 10_000, file=stream, flush=True)
                os.write(1, b"noise")
                return Score(1.0, reason="printed")
            case "close files":
                os.closerange(0, 256)
            case "exit 99":
                os._exit(99)
            case "sys.exit":
                sys.exit(0)
            case "exit as if retired" | "exit as if done":
                os._exit(75 if text.endswith("retired") else 0)
            case "fork and answer twice":
                os.fork()
                return Score(1.0, reason=f"answered by {os.getpid()}")
            case "fork and spin":
                if (child := os.fork()) == 0:
                    while True:
                        pass
                return Score(1.0, reason=f"child {child}")
            case "fork and hang":
                if os.fork() == 0:
                    time.sleep(1000)
                while True:
                    pass
            case "exit later":
                threading.Timer(0.3, os._exit, [3]).start()
                return Score(1.0, reason="started a thread")
            case "catch signals":
                for stop in (signal.SIGPROF, signal.SIGALRM):
                    signal.signal(stop, lambda *_: None)
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
                return Score(1.0, reason="caught")
            case "catch signals and spin":
                for stop in (signal.SIGPROF, signal.SIGALRM):
                    signal.signal(stop, lambda *_: None)
                while True:
                    pass
            case "stop the clocks and spin":
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                while True:
                    pass
            case "not a number":
                return Score(float("nan"))
            case "two":
                return Score(2.0)
            case "minus a half":
                return Score(-0.5)
            case "no status":
                return Score(1.0, "fine")  # type: ignore[arg-type]
            case "nothing":
                return None  # type: ignore[return-value]
            case "kill parent":
                os.kill(os.getppid(), signal.SIGKILL)
        return Score(float(text == "right"), reason=f"read {text[:20]}")

    def validate(self, truth: Any) -> str | None:
        return None


@dataclass(frozen=True)
class Linear(Nasty):
    isolated: ClassVar[bool] = False


@dataclass(frozen=True)
class Loads(Nasty):
    """Loads, but not the n-th time where n is among the failures, counted in a file."""

    place: str
    failures: tuple[int, ...]
    how: str = "die"

    def warm_up(self) -> None:
        with open(self.place, "a") as file:
            file.write("x")
            loads = file.tell()
        if loads in self.failures:
            if self.how == "raise":
                raise OSError("the model is gone")
            os._exit(3)
