"""SFT and DPO on rows of unequal length: ours against TRL's trainers, same model, rows and batches.

    cd benchmarks     # CPU, float32, two threads; then CUDA, bfloat16
    python offline_throughput.py ROWS MODEL --tasks sft --rows 24 --repeats 1
    python offline_throughput.py ROWS MODEL --tasks dpo --rows 6 --batch 3 --repeats 1
    python offline_throughput.py ROWS MODEL --device cuda --warm-up 1 --repeats 2 --batch 16 \\
        --packs 8 --micro-batch-tokens 32768 [--lora 16]

ROWS is dpo_en_demo.jsonl(.gz) of hiyouga/LLaMA-Factory: 300 preference pairs. SFT learns the chosen
answers. Each side runs in a process of its own, in turn, and passes through all rows once, after
`--warm-up` passes that are not counted. Tokens are those of the rows, without padding: a pass has
the same number for all sides. TRL comes as it is by default, then without gradient checkpointing,
then at its best setting: packing for SFT, padding_free for DPO.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
SIDES = ("ours", "trl", "trl_no_checkpointing", "trl_best")
MAX_TOKENS = 1024


def rows() -> list[dict[str, Any]]:
    path = Path(os.environ["ROWS"])
    read = gzip.decompress if path.suffix == ".gz" else bytes
    lines = [json.loads(line) for line in read(path.read_bytes()).splitlines()]
    lines = lines[: int(os.environ["NUM_ROWS"])]

    def turn(message: dict[str, str]) -> dict[str, str]:
        return {"role": ROLES[message["from"]], "content": message["value"]}

    return [
        {
            "prompt": [turn(message) for message in line["conversations"]],
            "chosen": [turn(line["chosen"])],
            "rejected": [turn(line["rejected"])],
        }
        for line in lines
    ]


def pairs(split: str) -> Iterator[dict[str, Any]]:
    yield from rows()


def chats(split: str) -> Iterator[dict[str, Any]]:
    for row in rows():
        yield {"messages": [*row["prompt"], *row["chosen"]]}


def ours(asked: argparse.Namespace) -> dict[str, float]:
    """Seconds and tokens of the counted pass."""
    from cameleer.algorithms.dpo import DPO
    from cameleer.algorithms.sft import SFT
    from cameleer.data.sources import Source
    from cameleer.recipe import LoRA, Model, Optim, Output, Recipe, Runtime
    from cameleer.train.offline import train_offline
    from cameleer.train.run import Run

    module = Path(__file__).stem
    sft = asked.task == "sft"
    source = Source(path=f"{module}:{'chats' if sft else 'pairs'}", format="chat")
    if not sft:
        source = Source(path=f"{module}:pairs", format="preference")
    times: list[dict[str, float]] = []

    class Timed(Run):
        def end_step(self, step: int, metrics: dict[str, float]) -> None:
            metrics["tokens"] = metrics["throughput/tokens_per_s"] * metrics["time/step"]
            times.append(metrics)

    per_pass = -(-len(rows()) // asked.batch)
    with tempfile.TemporaryDirectory() as root:
        recipe = Recipe(
            name="run",
            model=Model(
                source=asked.model,
                dtype="bfloat16" if asked.device == "cuda" else "float32",
                lora=LoRA(rank=asked.lora, alpha=2.0 * asked.lora) if asked.lora else None,
            ),
            algorithm=SFT() if sft else DPO(),
            data=(source,),
            optim=Optim(learning_rate=1e-6),
            num_steps=per_pass * (asked.warm_up + 1),
            batch_size=asked.batch,
            max_tokens=MAX_TOKENS,
            runtime=Runtime(device=asked.device, micro_batch_tokens=asked.micro_batch_tokens),
            output=Output(directory=root, sample_every=0),
        )
        with Timed(recipe, resume=False) as run:
            train_offline(run)
    counted = times[-per_pass:]
    return {
        "seconds": sum(step["time/step"] for step in counted),
        "tokens": sum(step["tokens"] for step in counted),
    }


def trl(asked: argparse.Namespace) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(2)
    cuda = asked.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    adapter = None
    if asked.lora:
        adapter = LoraConfig(
            r=asked.lora,
            lora_alpha=2 * asked.lora,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as root:
        common: dict[str, Any] = {
            "output_dir": root,
            "use_cpu": not cuda,
            "bf16": cuda,
            "report_to": "none",
            "save_strategy": "no",
            "per_device_train_batch_size": asked.batch,
            "num_train_epochs": asked.warm_up + 1,
            "learning_rate": 1e-6,
            "max_length": MAX_TOKENS,
            "disable_tqdm": True,
            "dataloader_pin_memory": cuda,
        }
        if asked.side != "trl":
            common["gradient_checkpointing"] = False
        best = asked.side == "trl_best"
        if asked.task == "sft":
            if best:
                # As many tokens a batch as the rows have on average.
                common |= {"packing": True, "per_device_train_batch_size": asked.packs}
            data = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows()]
            trainer: Any = SFTTrainer(
                model=model,
                processing_class=tokenizer,
                args=SFTConfig(**common),
                train_dataset=Dataset.from_list(data),
                callbacks=[Clock()],
                peft_config=adapter,
            )
        else:
            trainer = DPOTrainer(
                model=model,
                processing_class=tokenizer,
                args=DPOConfig(**common, padding_free=best),
                train_dataset=Dataset.from_list(rows()),
                callbacks=[Clock()],
                peft_config=adapter,
            )
        trainer.train()
    per_pass = (len(ends) - 1) // (asked.warm_up + 1)
    return {"seconds": ends[-1] - ends[-1 - per_pass]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("file", type=Path)
    add("model")
    add("--rows", type=int, default=300)
    add("--batch", type=int, default=8, help="rows, or pairs, a step")
    add("--packs", type=int, default=4, help="rows of 1,024 tokens a step of TRL's packing")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--micro-batch-tokens", type=int, default=8192)
    add("--lora", type=int, default=0, help="rank of an adapter for all linear layers")
    add("--warm-up", type=int, default=0)
    add("--repeats", type=int, default=3)
    add("--tasks", default="sft,dpo")
    add("--task", choices=["sft", "dpo"])
    add("--side", choices=SIDES)
    asked = parser.parse_args()
    os.environ |= {"ROWS": str(asked.file.resolve()), "NUM_ROWS": str(asked.rows)}
    os.environ |= {"HF_HUB_OFFLINE": "1", "GOMP_SPINCOUNT": "5000"}
    if asked.side:
        found = ours(asked) if asked.side == "ours" else trl(asked)
        print(f"RESULT {json.dumps(found)}")
        return
    for task in asked.tasks.split(","):
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        tokens = 0.0
        for _ in range(asked.repeats):
            for side in SIDES:
                command = [sys.executable, __file__, *sys.argv[1:], "--task", task, "--side", side]
                done = subprocess.run(command, capture_output=True, text=True)
                line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
                if line is None:
                    print(f"{task} {side} failed: {done.stderr.strip()[-300:]}", flush=True)
                    continue
                found = json.loads(line.removeprefix("RESULT "))
                seconds[side].append(found["seconds"])
                tokens = found.get("tokens", tokens)
        mine = statistics.median(seconds["ours"])
        for side, times in seconds.items():
            if times:
                middle = statistics.median(times)
                print(
                    f"{task:<4}{side:<21}{middle:8.2f} s ({min(times):.2f} to {max(times):.2f})"
                    f"{tokens / middle:12,.0f} tokens/s   ours is {middle / mine:.2f} x as fast",
                    flush=True,
                )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
