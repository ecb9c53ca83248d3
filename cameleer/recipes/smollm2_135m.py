"""Recipes for SmolLM2-135M-Instruct, a real model that trains on any machine."""

from __future__ import annotations

from dataclasses import replace

from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.sft import SFT
from cameleer.data.sources import Source
from cameleer.recipe import HeldOut, Ladder, Model, Optim, Output, Recipe, Rollout, Runtime
from cameleer.verifiers.gsm8k import GSM8K


def smollm2_135m_gsm8k() -> Recipe:
    """GRPO with the Tulu 3.1 objective on GSM8K's training questions, zero-shot.

    The questions come from the hub; give a local file with --data.0.path and
    --heldout.sources.0.path.
    """
    return Recipe(
        name="smollm2_135m_gsm8k",
        model=Model(source="cameleer.models.smollm2:smollm2_135m_instruct"),
        algorithm=GRPO(beta=0.01, kl_estimator="k3"),
        data=(Source(path="openai/gsm8k", subset="main", format="gsm8k"),),
        verifiers={"gsm8k": GSM8K()},
        # Two orders of magnitude above the card's 8B: small models take and need larger steps.
        optim=Optim(learning_rate=5e-6),
        num_steps=200,
        rollout=Rollout(num_prompts=16, group_size=8, max_tokens=256, max_prompt_tokens=512),
        num_minibatches=2,
        heldout=HeldOut(
            sources=(Source(path="openai/gsm8k", subset="main", split="test", format="gsm8k"),),
            num_prompts=200,
            every=50,
        ),
        runtime=Runtime(micro_batch_tokens=4096),
        output=Output(save_every=40, sample_every=20),
    )


def smollm2_135m_sft_grpo() -> Ladder:
    """SFT on one half of GSM8K's training questions, then GRPO on the other; one GPU, minutes.

    docs/runs/smollm2_135m_h100.md has what came of it. The halves do not overlap, so that GRPO's
    questions are new to the policy.
    """
    model = Model(source="cameleer.models.smollm2:smollm2_135m_instruct", dtype="bfloat16")
    half = 3_736  # of 7,473
    questions = Source(path="openai/gsm8k", subset="main", format="gsm8k")
    heldout = HeldOut(
        sources=(replace(questions, split="test"),), num_prompts=1_319, temperature=1.0
    )
    sft = Recipe(
        name="sft",
        model=model,
        algorithm=SFT(),
        data=(replace(questions, count=half, take="first"),),
        verifiers={"gsm8k": GSM8K()},
        optim=Optim(learning_rate=2e-4, weight_decay=0.0, warmup_steps=20),
        num_steps=468,  # Eight passes over the half.
        batch_size=64,
        max_tokens=512,
        heldout=heldout,
        runtime=Runtime(device="cuda", micro_batch_tokens=16_384),
        output=Output(save_every=1_000, keep_last=1, log_every=40, sample_every=0),
    )
    grpo = Recipe(
        name="grpo",
        model=model,
        algorithm=GRPO(beta=0.0),
        data=(replace(questions, skip_rows=half),),
        verifiers={"gsm8k": GSM8K()},
        optim=Optim(learning_rate=1.5e-5, weight_decay=0.0),
        num_steps=150,
        rollout=Rollout(
            num_prompts=64, group_size=16, max_tokens=256, max_prompt_tokens=512, num_slots=1_024
        ),
        num_minibatches=2,
        heldout=replace(heldout, every=20),
        runtime=Runtime(device="cuda", micro_batch_tokens=16_384),
        output=Output(save_every=20, keep_last=1, sample_every=20),
    )
    return Ladder(name="smollm2_135m_sft_grpo", stages=(sft, grpo))
