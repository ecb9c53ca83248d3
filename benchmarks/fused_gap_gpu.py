"""What fusing layers changes: log-probabilities of the engine, of a bfloat16 policy as transformers
wrote it, of the same fused, and of float32, on tokens that the engine sampled. For a CUDA device.

    python benchmarks/fused_gap_gpu.py ROWS MODEL

ROWS is dpo_en_demo.jsonl(.gz) of hiyouga/LLaMA-Factory; the first 400
characters of the last turn of 64 prompts.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from cameleer.batch import Batch
from cameleer.data.chat import prompt_tokens
from cameleer.models.fuse import fuse_layers
from cameleer.models.load import load_model, load_tokenizer
from cameleer.models.logprobs import forward_logprobs
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine

NUM_PROMPTS, AT_ONCE = 64, 8


def main(file: Path, source: str) -> None:
    tokenizer, model = load_tokenizer(source), load_model(source, "bfloat16", "cuda")
    read = gzip.decompress if file.suffix == ".gz" else bytes
    rows = [json.loads(x) for x in read(file.read_bytes()).splitlines()[:NUM_PROMPTS]]
    questions = [row["conversations"][-1]["value"][:400] for row in rows]
    prompts = [prompt_tokens(tokenizer, [{"role": "user", "content": x}]) for x in questions]
    requests = [Request(f"p:{i}", tuple(tokens)) for i, tokens in enumerate(prompts)]
    engine = TorchEngine(model, tokenizer, num_slots=NUM_PROMPTS)
    answers = engine.generate(requests, Sampling(max_tokens=256), seed=0, step=1)
    sequences = [[*r.tokens, *a.tokens] for r, a in zip(requests, answers, strict=True)]
    batch = Batch(
        tokens_N=torch.tensor([token for s in sequences for token in s]),
        lengths_B=torch.tensor([len(s) for s in sequences]),
        mask_N=torch.tensor(
            [i >= len(p) for p, s in zip(prompts, sequences, strict=True) for i in range(len(s))]
        ),
    )
    found = {"engine": torch.tensor([x for a in answers for x in a.logprobs])}
    found["bfloat16"] = logprobs(model, batch)
    found["float32"] = logprobs(load_model(source, "float32", "cuda"), batch)
    fuse_layers(model)
    found["fused"] = logprobs(model, batch)
    for one, other in (
        ("engine", "bfloat16"),
        ("engine", "fused"),
        ("bfloat16", "float32"),
        ("fused", "float32"),
    ):
        gap = (found[one] - found[other]).abs()
        print(f"{one} and {other}: mean {gap.mean():.5f}, largest {gap.max():.3f} nats a token")
    print(f"{len(gap):,} sampled tokens")


@torch.no_grad()
def logprobs(model: nn.Module, batch: Batch) -> Tensor:
    parts = []
    for rows in torch.arange(batch.num_sequences).split(AT_ONCE):
        part = batch.select(rows)
        found_N = forward_logprobs(model, part.to("cuda"), 1.0).logprobs_N
        parts.append(found_N.cpu()[part.mask_N])
    return torch.cat(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
