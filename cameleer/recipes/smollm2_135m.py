"""Recipes for SmolLM2-135M-Instruct, a real model that trains on any machine."""

from __future__ import annotations

from dataclasses import replace

from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.sft import SFT
from cameleer.data.sources import Source
from cameleer.recipe import (
    Curate,
    Eval,
    HeldOut,
    Ladder,
    Model,
    Optim,
    Output,
    Recipe,
    Rollout,
    Runtime,
)
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.ifeval import IFEval

_GSM8K = Source(path="openai/gsm8k", subset="main", format="gsm8k", license="mit")
_HALF = 3_736  # of GSM8K's 7,473 training questions
_CONSTRAINTS = "cameleer.data.datasets.constraints:prompts"
_GPU = Runtime(device="cuda", micro_batch_tokens=16_384, num_verifier_workers=8)


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
    heldout = HeldOut(sources=(replace(_GSM8K, split="test"),), num_prompts=1_319, temperature=1.0)
    sft = Recipe(
        name="sft",
        model=model,
        algorithm=SFT(),
        data=(replace(_GSM8K, count=_HALF, take="first"),),
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
        model=replace(model, source="stage:sft"),
        algorithm=GRPO(beta=0.0),
        data=(replace(_GSM8K, skip_rows=_HALF),),
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


def smollm2_135m() -> Ladder:
    """SFT, DPO and GRPO on GSM8K and on constraints that rules can check; one GPU, 20 minutes.

    The model learns from GSM8K's worked solutions and from its own answers that keep a constraint,
    then prefers its right answers to its wrong ones, then is rewarded for right ones to new
    questions. docs/runs/smollm2_135m_ladder_h100.md has what came of it.
    """
    start = Model(
        source="cameleer.models.smollm2:smollm2_135m_instruct",
        dtype="bfloat16",
        license="apache-2.0",
    )
    verifiers: dict[str, Verifier] = {"gsm8k": GSM8K(), "ifeval": IFEval()}
    learnt = replace(_GSM8K, count=_HALF, take="first")
    constraints = Source(
        path=_CONSTRAINTS,
        format="rlvr",
        name="constraints",
        count=2_500,
        take="first",
        license="apache-2.0",
    )
    heldout = HeldOut(sources=(replace(_GSM8K, split="test"),), num_prompts=1_319)
    rollout = Rollout(
        num_prompts=64, group_size=16, max_tokens=256, max_prompt_tokens=512, num_slots=1_024
    )
    output = Output(save_every=1_000, keep_last=1, log_every=20, sample_every=0)
    answers = Curate(
        name="answers",
        model=start,
        data=(constraints,),
        rollout=replace(rollout, num_prompts=2_500, group_size=8),
        verifiers=verifiers,
        runtime=_GPU,
    )
    sft = Recipe(
        name="sft",
        model=start,
        algorithm=SFT(),
        data=(learnt, Source(path="stage:answers/right", format="chat", name="constraints")),
        verifiers=verifiers,
        optim=Optim(learning_rate=2e-4, weight_decay=0.0, warmup_steps=20, schedule="linear"),
        num_steps=400,
        batch_size=64,
        max_tokens=512,
        heldout=heldout,
        runtime=_GPU,
        output=output,
    )
    pairs = Curate(
        name="pairs",
        model=replace(start, source="stage:sft"),
        data=(learnt, constraints),
        rollout=replace(rollout, num_prompts=4_000, group_size=8),
        verifiers=verifiers,
        runtime=_GPU,
    )
    dpo = Recipe(
        name="dpo",
        model=replace(start, source="stage:sft"),
        algorithm=DPO(),
        data=(Source(path="stage:pairs", format="preference"),),
        verifiers=verifiers,
        optim=Optim(learning_rate=2e-5, weight_decay=0.0, warmup_steps=5, schedule="linear"),
        num_steps=56,
        batch_size=64,
        max_tokens=768,
        heldout=heldout,
        runtime=_GPU,
        output=output,
    )
    grpo = Recipe(
        name="grpo",
        model=replace(start, source="stage:dpo"),
        algorithm=GRPO(beta=0.0),
        data=(
            replace(_GSM8K, skip_rows=_HALF),
            replace(constraints, skip_rows=2_500),
        ),
        verifiers=verifiers,
        optim=Optim(learning_rate=1.5e-5, weight_decay=0.0),
        num_steps=100,
        rollout=rollout,
        num_minibatches=2,
        heldout=heldout,
        runtime=_GPU,
        output=output,
    )
    evals = Eval(benchmarks=("gsm8k", "ifeval"), every=0, profile="full", max_tokens=1_024)
    return Ladder(name="smollm2_135m", stages=(answers, sft, pairs, dpo, grpo), evals=evals)
