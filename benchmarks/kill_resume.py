"""Kill a run, resume it, and hold it against the one that nobody killed.

    python benchmarks/kill_resume.py --grpo 200 --sft 50     # random moments: the published figure
    python benchmarks/kill_resume.py --sft 50 --dpo 50 --reward-model 50 --ppo 50 --ppo-lora 50
    python benchmarks/kill_resume.py --points                # every named write point, once each

Every trial is a process of its own, killed with SIGKILL by another, then resumed (and killed again,
at random, a few times) until it is done. Compared are weights, optimizer and, times aside, metrics,
all to the bit, and rollouts and samples. Exit status 1 if any trial differs.

Processes are forked from one that has imported torch and computed nothing with it, so that a trial
takes two seconds; what is on the disk, and what the kernel does on a kill, is the same.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
from safetensors.torch import load_file

from cameleer import files
from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.ppo import PPO
from cameleer.algorithms.reward_model import RewardModel
from cameleer.algorithms.sft import SFT
from cameleer.data.datasets.arithmetic import problems, vocabulary
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.log import quiet_libraries
from cameleer.models.tiny import save_tiny_llama
from cameleer.recipe import HeldOut, LoRA, Model, Optim, Output, Recipe, Rollout, Runtime
from cameleer.types import Score
from cameleer.verifiers.math import Math

_PROBLEMS = "cameleer.data.datasets.arithmetic:problems"


@dataclass(frozen=True)
class Even:
    """Right for an even number of words, which half of random answers have."""

    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        return Score(float(len(text.split()) % 2 == 0))

    def validate(self, truth: Any) -> str | None:
        return None


def preferences(split: str) -> Iterator[dict[str, Any]]:
    """Worked answers to the arithmetic problems, preferred to their last lines alone."""
    for row in problems(split):
        answer = row["answer"]
        rejected = answer.rpartition(" . ")[2]
        yield {"prompt": row["question"], "chosen": answer, "rejected": rejected}


def recipe(kind: str, model: Path, root: Path) -> Recipe:
    """Six steps: sft, dpo, reward_model, ppo, ppo_lora, or GRPO as grpo0, grpo1 whose groups are
    collected a step ahead, or grpo1_workers.

    The last has a verifier with a worker process, which a kill must not leave behind.
    """
    source = Source(path=_PROBLEMS, format="gsm8k", name="arithmetic", count=64, take="first")
    common: dict[str, Any] = {
        "name": kind,
        "model": Model(source=str(model), lora=LoRA(rank=4) if kind == "ppo_lora" else None),
        "data": (source,),
        "optim": Optim(learning_rate=1e-2),
        "num_steps": 6,
        "runtime": Runtime(num_threads=1, num_verifier_workers=1),
        "heldout": HeldOut(sources=(replace(source, split="test"),), num_prompts=4, every=3),
        "output": Output(directory=str(root), save_every=2, keep_last=2, sample_every=2),
    }
    pairs = Source(path="kill_resume:preferences", format="preference", count=64, take="first")
    if kind == "sft":
        return Recipe(algorithm=SFT(), batch_size=8, verifiers={"gsm8k": Even()}, **common)
    if kind == "dpo":
        common |= {"data": (pairs,), "verifiers": {"gsm8k": Even()}}
        return Recipe(algorithm=DPO(beta=1.0), batch_size=8, **common)
    if kind == "reward_model":
        held = HeldOut(sources=(replace(pairs, split="test"),), num_prompts=4, every=3)
        return Recipe(
            algorithm=RewardModel(), batch_size=8, **{**common, "data": (pairs,), "heldout": held}
        )
    if kind in ("ppo", "ppo_lora"):
        return Recipe(
            algorithm=PPO(),
            rollout=Rollout(num_prompts=8, group_size=1, max_tokens=8, max_staleness=1),
            verifiers={"gsm8k": Even()},
            num_epochs=2,
            value_model=common["model"],
            **common,
        )
    return Recipe(
        algorithm=GRPO(beta=0.05),
        rollout=Rollout(
            num_prompts=4, group_size=4, max_tokens=8, max_staleness=int(kind != "grpo0")
        ),
        verifiers={"gsm8k": Even()} | ({"math": Math()} if kind == "grpo1_workers" else {}),
        num_minibatches=2,
        **common,
    )


def start(work: Callable[[], None]) -> int:
    """Run in a process of its own, silently. Returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def finish(child: int) -> None:
    """Wait for a process that has to end well."""
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"A run that nobody killed failed (status {status}).")


def killed_after(child: int, seconds: float) -> bool:
    """Kill a process unless it ends before. False if it ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if status:
                raise SystemExit(f"A run failed by itself (status {status}).")
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def go(chosen: Recipe) -> None:
    """Begin or go on, as a job script would."""
    run(chosen, resume=(chosen.directory / "recipe.json").exists())


def go_until(chosen: Recipe, point: str, times: int) -> None:
    """Die when a write point is reached for so many times."""
    left, original = times, files.reached

    def reached(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    # Modules have imported the function by its name.
    for module in list(sys.modules.values()):
        if getattr(module, "reached", None) is original:
            module.reached = reached  # type: ignore[attr-defined]
    go(chosen)


def differences(one: Path, other: Path, recipe: Recipe) -> list[str]:
    """What is not the same in two finished runs, by name."""
    found = []
    last = Path("checkpoints") / f"step_{recipe.num_steps}"
    for path in sorted((one / last).rglob("*.safetensors")):
        name = str(path.relative_to(one / last))
        ours, theirs = load_file(one / last / name), load_file(other / last / name)
        same = ours.keys() == theirs.keys() and all(
            bool((ours[key] == theirs[key]).all()) for key in ours
        )
        found += [] if same else [name]
    for name in ("metrics.jsonl", "samples.jsonl"):
        ours, theirs = (
            [
                {k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))}
                for line in files.read_lines(directory / name)
            ]
            for directory in (one, other)
        )
        found += [] if ours == theirs else [name]
    names = [sorted(p.name for p in (d / "rollouts").glob("*")) for d in (one, other)]
    if names[0] != names[1]:
        return [*found, "rollouts"]
    for name in names[0]:
        if not pq.read_table(one / "rollouts" / name).equals(
            pq.read_table(other / "rollouts" / name)
        ):
            found.append(f"rollouts/{name}")
    kept = [sorted(p.name for p in (d / "checkpoints").iterdir()) for d in (one, other)]
    return found + ([] if kept[0] == kept[1] else ["checkpoints"])


class Bench:
    """Uninterrupted runs to compare with, made once, and the trials against them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.model = root / "model"
        finish(start(self._save_model))
        self.whole: dict[str, tuple[Path, float]] = {}
        self.kills = 0
        self.different: list[str] = []
        self.died_at: Counter[str] = Counter()

    def _save_model(self) -> None:
        with quiet_libraries():
            save_tiny_llama(self.model, vocabulary(), hidden_size=32, num_layers=2, max_tokens=128)

    def reference(self, kind: str) -> tuple[Path, float]:
        """The directory of the run that nobody kills, and the seconds it took."""
        if kind not in self.whole:
            chosen = recipe(kind, self.model, self.root / "whole")
            began = time.monotonic()
            finish(start(lambda: go(chosen)))
            self.whole[kind] = chosen.directory, time.monotonic() - began
        return self.whole[kind]

    def trial(self, label: str, kind: str, first: Callable[[Recipe], bool]) -> None:
        """Kill once as `first` does, then at random, until the run is done; then compare."""
        whole, seconds = self.reference(kind)
        root = self.root / "trial"
        shutil.rmtree(root, ignore_errors=True)
        chosen = recipe(kind, self.model, root)
        killed = first(chosen)
        self.kills += killed
        while killed and self.random.random() < 0.3:
            again = start(lambda: go(chosen))
            killed = killed_after(again, self.random.uniform(0, seconds))
            self.kills += killed
        finish(start(lambda: go(chosen)))
        found = differences(whole, chosen.directory, chosen)
        left = [p.name for p in root.iterdir() if p.name != chosen.name]
        if found or left:
            self.different.append(f"{label} ({kind}): {', '.join(found + left)}")
            shutil.copytree(root, self.root / f"different-{len(self.different)}")

    def random_moment(self, kind: str) -> None:
        _, seconds = self.reference(kind)
        moment = self.random.uniform(0, seconds)
        self.trial(
            f"{moment:.3f} s", kind, lambda chosen: killed_after(start(lambda: go(chosen)), moment)
        )

    def at_point(self, point: str, kind: str) -> None:
        """A point of resuming is met by a run that was killed before, in the middle."""

        def first(chosen: Recipe) -> bool:
            times = self.random.randint(1, 3)
            if point.startswith("resume/"):
                before = start(lambda: go_until(chosen, "metrics/written", 5))
                os.waitpid(before, 0)
                times = 1
            if point.startswith("run/"):
                times = 1
            died = start(lambda: go_until(chosen, point, times))
            _, status = os.waitpid(died, 0)
            if os.WIFSIGNALED(status):
                self.died_at[point] += 1
            return True

        self.trial(point, kind, first)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--grpo", type=int, default=0, help="random kills of GRPO, half a step ahead"
    )
    kinds = ("sft", "dpo", "reward_model", "ppo", "ppo_lora")
    for kind in kinds:
        option = f"--{kind.replace('_', '-')}"
        parser.add_argument(option, type=int, default=0, help=f"random kills of {kind}")
    parser.add_argument("--points", action="store_true", help="a kill at every named write point")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", help="keep the runs here instead of in a temporary place")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(asked.directory or scratch), asked.seed)
        began = time.monotonic()
        grpo = ("grpo0", "grpo1", "grpo1_workers")
        trials = [(grpo[i % 3], "") for i in range(asked.grpo)]
        for kind in kinds:
            trials += [(kind, "")] * getattr(asked, kind)
        if asked.points:
            trials += [("grpo1", point) for point in files.POINTS]
        for number, (kind, point) in enumerate(trials, start=1):
            if point:
                bench.at_point(point, kind)
            else:
                bench.random_moment(kind)
            if number % 25 == 0 or number == len(trials):
                print(
                    f"{number} of {len(trials)} trials, {bench.kills} kills, "
                    f"{len(bench.different)} differ, {time.monotonic() - began:.0f} s",
                    flush=True,
                )
    for line in bench.different:
        print(f"differs: {line}")
    never = [point for point in files.POINTS if asked.points and not bench.died_at[point]]
    if never:
        print(f"never reached: {', '.join(never)}")
    return 1 if bench.different or never else 0


if __name__ == "__main__":
    sys.exit(main())
