"""The recipes that `cameleer recipes` lists: functions that return a Recipe or a Ladder."""

from cameleer.recipes.quickstart import quickstart
from cameleer.recipes.smollm2_135m import (
    smollm2_135m,
    smollm2_135m_gsm8k,
    smollm2_135m_sft_grpo,
)
from cameleer.recipes.tulu3 import tulu3_8b, tulu3_70b, tulu3_405b
from cameleer.recipes.tulu31_8b import tulu31_8b

__all__ = [
    "quickstart",
    "smollm2_135m",
    "smollm2_135m_gsm8k",
    "smollm2_135m_sft_grpo",
    "tulu3_8b",
    "tulu3_70b",
    "tulu3_405b",
    "tulu31_8b",
]
