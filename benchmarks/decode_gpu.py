"""How fast the engine samples on a GPU when all slots are at work.

    python benchmarks/decode_gpu.py

A Llama of SmolLM2-135M's shape with random weights, in bfloat16; prompts of 80 tokens with 16
siblings, answers of 200 tokens, two rounds of all slots.
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cameleer.models import attention
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine


class Silent:
    """Ends at no token and decodes nothing."""

    eos_token_id = -1

    def decode(self, tokens: object, *, skip_special_tokens: bool) -> str:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 512, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        attn_implementation=attention.NAME,
    )
    model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    for slots in asked.slots:
        engine = TorchEngine(model, Silent(), num_slots=slots)
        requests = [
            Request(f"p:{i // 16}", tuple(range(100 + i // 16, 180 + i // 16)), i % 16)
            for i in range(2 * slots)
        ]
        for repeat in range(asked.repeats):
            torch.cuda.synchronize()
            began = time.perf_counter()
            found = engine.generate(requests, Sampling(max_tokens=200), seed=0, step=repeat)
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            count = sum(len(c.tokens) for c in found)
            print(
                f"{slots:>5} slots: {count:,} tokens in {seconds:.2f} s, {count / seconds:,.0f} "
                f"tok/s, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
                + ("  (warm-up)" if repeat == 0 else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
