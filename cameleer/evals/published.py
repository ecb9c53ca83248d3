"""Published scores to compare with: one column a model, by Cameleer's benchmark names.

They were made with AI2's harness (allenai/olmes): MMLU 0-shot CoT, PopQA 15-shot, TruthfulQA
6-shot, BBH 3-shot CoT, DROP 3-shot, MATH 4-shot CoT (flex), GSM8K 8-shot CoT, HumanEval(+) pass@10,
IFEval prompt loose, AlpacaEval 2 length-controlled, and Safety, the mean of six tasks. Only means
were published, so no comparison with them is paired. The columns of Tulu 3 and Llama are of
November 2024, when each task had a token limit of its own; that of Tulu 3.1 is of February 2025,
with 4,096 tokens nearly everywhere.

The column of Qwen2.5-7B-Instruct is left out: the cards themselves call theirs superseded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cameleer.evals.stats import Estimate, proportion

NUM_INSTANCES = {
    "mmlu": 14_042,
    "popqa": 14_267,
    "truthfulqa": 817,
    "bbh": 6_511,
    "bbh_v0": 6_511,
    "drop": 9_536,
    "math": 5_000,
    "gsm8k": 1_319,
    "humaneval": 164,
    "humaneval_plus": 164,
    "ifeval": 541,
}
"""Instances behind a score. AlpacaEval 2 and Safety are no means over instances: no error is known.

``bbh_v0`` wants the words "the answer is" in an answer, and ``bbh`` (v1) tries other forms after
them. The card of Tulu 3.1 has both in one row; they are not to be compared.
"""


@dataclass(frozen=True)
class Published:
    """A column of a model card."""

    model: str
    source: str
    average: float
    """The mean of all rows, as printed."""
    percent: Mapping[str, float]

    def estimate(self, benchmark: str) -> Estimate | None:
        """Score and binomial standard error, or None where either is unknown."""
        if benchmark not in self.percent or benchmark not in NUM_INSTANCES:
            return None
        return proportion(self.percent[benchmark] / 100, NUM_INSTANCES[benchmark])


_TULU31_CARD = "https://huggingface.co/allenai/Llama-3.1-Tulu-3.1-8B, Performance"
_TULU3_CARD = "https://huggingface.co/allenai/Llama-3.1-Tulu-3-405B, Performance, 8B"

COLUMNS: Mapping[str, Published] = {
    "tulu31_8b_published": Published(
        model="allenai/Llama-3.1-Tulu-3.1-8B",
        source=_TULU31_CARD,
        average=66.3,
        percent={
            "mmlu": 69.5,
            "popqa": 30.2,
            "truthfulqa": 59.9,
            "bbh": 68.9,
            "drop": 63.9,
            "math": 47.8,
            "gsm8k": 90.0,
            "humaneval": 84.8,
            "humaneval_plus": 80.4,
            "ifeval": 83.9,
            "alpaca_eval": 34.9,
            "safety": 81.2,
        },
    ),
    "tulu3_8b_published": Published(
        model="allenai/Llama-3.1-Tulu-3-8B",
        source=_TULU3_CARD,
        average=64.8,
        percent={
            "mmlu": 68.2,
            "popqa": 29.1,
            "truthfulqa": 55.0,
            "bbh_v0": 66.0,
            "drop": 62.6,
            "math": 43.7,
            "gsm8k": 87.6,
            "humaneval": 83.9,
            "humaneval_plus": 79.2,
            "ifeval": 82.4,
            "alpaca_eval": 34.5,
            "safety": 85.5,
        },
    ),
    "tulu3_8b_dpo_published": Published(
        model="allenai/Llama-3.1-Tulu-3-8B-DPO",
        source=_TULU3_CARD,
        average=64.4,
        percent={
            "mmlu": 68.7,
            "popqa": 29.3,
            "truthfulqa": 56.1,
            "bbh_v0": 65.8,
            "drop": 62.5,
            "math": 42.0,
            "gsm8k": 84.3,
            "humaneval": 83.9,
            "humaneval_plus": 78.6,
            "ifeval": 81.1,
            "alpaca_eval": 33.5,
            "safety": 87.2,
        },
    ),
    "tulu3_8b_sft_published": Published(
        model="allenai/Llama-3.1-Tulu-3-8B-SFT",
        source=_TULU3_CARD,
        average=60.4,
        percent={
            "mmlu": 65.9,
            "popqa": 29.3,
            "truthfulqa": 46.8,
            "bbh_v0": 67.9,
            "drop": 61.3,
            "math": 31.5,
            "gsm8k": 76.2,
            "humaneval": 86.2,
            "humaneval_plus": 81.4,
            "ifeval": 72.8,
            "alpaca_eval": 12.4,
            "safety": 93.1,
        },
    ),
    "llama31_8b_instruct_published": Published(
        model="meta-llama/Llama-3.1-8B-Instruct",
        source=_TULU3_CARD,
        average=62.2,
        percent={
            "mmlu": 71.2,
            "popqa": 20.2,
            "truthfulqa": 55.1,
            "bbh_v0": 62.8,
            "drop": 61.5,
            "math": 42.5,
            "gsm8k": 83.4,
            "humaneval": 86.3,
            "humaneval_plus": 82.9,
            "ifeval": 80.6,
            "alpaca_eval": 24.2,
            "safety": 75.2,
        },
    ),
}
