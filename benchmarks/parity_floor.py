"""How far engine and learner are apart, seed by seed, beside the learner's own gap.

    python benchmarks/parity_floor.py --questions train.jsonl --device cuda --seeds 8

The gate at the start of a run allows a mean gap of 1.2 times the learner's own, in bfloat16.
"""

from __future__ import annotations

import argparse
import statistics

from cameleer.algorithms.grpo import GRPO
from cameleer.data.sources import Source
from cameleer.recipe import Model, Optim, Recipe, Rollout, Runtime
from cameleer.train.parity import Parity
from cameleer.train.session import Session
from cameleer.verifiers.gsm8k import GSM8K


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", required=True, help="rows of GSM8K")
    parser.add_argument("--model", default="cameleer.models.smollm2:smollm2_135m_instruct")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    for dtype in ("float32", "bfloat16"):
        recipe = Recipe(
            name="parity",
            model=Model(source=asked.model, dtype=dtype),
            algorithm=GRPO(beta=0.0),
            data=(Source(path=asked.questions, format="gsm8k"),),
            verifiers={"gsm8k": GSM8K()},
            optim=Optim(learning_rate=1e-6),
            num_steps=1,
            rollout=Rollout(num_prompts=4, group_size=4, max_tokens=320),
            runtime=Runtime(device=asked.device),
        )
        session = Session(recipe)
        parity = Parity(session.learner, 1.0, print)
        ratios = []
        for seed in range(asked.seeds):
            gap = parity.start(session.engine, session.prompts, max_tokens=320, seed=seed)
            print(f"seed {seed}: {gap}, max {gap.max:.2e}", flush=True)
            if gap.floor_mean:
                ratios.append(gap.mean / gap.floor_mean)
        if ratios:
            print(
                f"gap over floor: median {statistics.median(ratios):.3f}, "
                f"{min(ratios):.3f} to {max(ratios):.3f}"
            )


if __name__ == "__main__":
    main()
