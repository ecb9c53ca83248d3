"""SIGKILL at any moment, then --resume: the run that nobody killed, to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"


def test_a_run_killed_at_every_write_point_and_at_random_moments_is_the_same_run():
    command = [sys.executable, str(BENCHMARK), "--points", "--grpo", "1"]
    for kind in ("sft", "dpo", "reward-model", "ppo", "ppo-lora"):
        command += [f"--{kind}", "1"]
    # Threads that spin while they wait would take the other trials' core.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "24 of 24 trials" in done.stdout and " 0 differ" in done.stdout
