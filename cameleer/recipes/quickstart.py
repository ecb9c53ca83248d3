"""Climb every rung on a CPU in minutes."""

from __future__ import annotations

from dataclasses import replace

from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.ppo import PPO
from cameleer.algorithms.reward_model import RewardModel
from cameleer.algorithms.sft import SFT
from cameleer.data.sources import Source
from cameleer.recipe import Curate, HeldOut, Ladder, Model, Optim, Output, Recipe, Rollout
from cameleer.verifiers.gsm8k import GSM8K

_LICENSE = "apache-2.0"  # All of it was made here.
_PROBLEMS = Source(
    path="cameleer.data.datasets.arithmetic:problems",
    format="gsm8k",
    name="arithmetic",
    license=_LICENSE,
)
_DEMONSTRATIONS = "cameleer.data.datasets.arithmetic:demonstrations"
_PAIRS = Source(path="stage:pairs", format="preference", name="arithmetic")
_HELD_OUT_PAIRS = 200


def quickstart() -> Ladder:
    """A tiny Llama learns arithmetic word problems by SFT, DPO, then PPO and, apart, GRPO.

    Some demonstrations show their work and more are rough estimates, and so are the model's first
    answers. Its own right and wrong answers make preference pairs, for DPO and a reward model; PPO,
    whose values start from that, and GRPO go on from DPO's policy and find out that it pays to show
    the work.
    """
    verifiers = {"gsm8k": GSM8K()}
    heldout = HeldOut(sources=(replace(_PROBLEMS, split="test"),), num_prompts=500, temperature=1.0)
    output = Output(save_every=1_000, keep_last=1, log_every=10, sample_every=0)
    sft = Recipe(
        name="sft",
        model=Model(source="cameleer.models.tiny:arithmetic_llama", license=_LICENSE),
        algorithm=SFT(),
        data=(replace(_PROBLEMS, path=_DEMONSTRATIONS, format="chat"),),
        optim=Optim(learning_rate=2e-3, betas=(0.9, 0.98), warmup_steps=50),
        num_steps=500,
        batch_size=64,
        verifiers=verifiers,
        heldout=heldout,
        output=replace(output, log_every=50),
    )
    pairs = Curate(
        name="pairs",
        model=Model(source="stage:sft"),
        data=(_PROBLEMS,),
        rollout=Rollout(num_prompts=1_500, group_size=8, max_tokens=32, num_slots=256),
        verifiers=verifiers,
    )
    dpo = Recipe(
        name="dpo",
        model=Model(source="stage:sft"),
        algorithm=DPO(),
        data=(_PAIRS,),
        optim=Optim(learning_rate=5e-5, warmup_steps=2),
        num_steps=16,
        batch_size=64,
        verifiers=verifiers,
        heldout=heldout,
        output=output,
    )
    reward_model = Recipe(
        name="reward_model",
        model=Model(source="stage:sft"),
        algorithm=RewardModel(),
        data=(replace(_PAIRS, skip_rows=_HELD_OUT_PAIRS),),
        optim=Optim(learning_rate=3e-4),
        num_steps=30,
        batch_size=64,
        heldout=HeldOut(sources=(_PAIRS,), num_prompts=_HELD_OUT_PAIRS),
        output=output,
    )
    rollout = Rollout(
        num_prompts=32, group_size=8, max_tokens=32, max_prompt_tokens=64, num_slots=256
    )
    ppo = Recipe(
        name="ppo",
        model=Model(source="stage:dpo"),
        algorithm=PPO(beta=0.0, value_clip=None),
        value_model=Model(source="stage:reward_model"),
        data=(_PROBLEMS,),
        optim=Optim(learning_rate=2e-4),
        value_optim=Optim(learning_rate=1e-3),
        num_steps=40,
        rollout=replace(rollout, num_prompts=256, group_size=1),
        verifiers=verifiers,
        num_minibatches=2,
        heldout=heldout,
        output=output,
    )
    grpo = Recipe(
        name="grpo",
        model=Model(source="stage:dpo"),
        algorithm=GRPO(beta=0.0),
        data=(_PROBLEMS,),
        optim=Optim(learning_rate=2e-4),
        num_steps=50,
        rollout=rollout,
        verifiers=verifiers,
        num_minibatches=2,
        heldout=heldout,
        output=replace(output, save_every=20, keep_last=2),
    )
    return Ladder(name="quickstart", stages=(sft, pairs, dpo, reward_model, ppo, grpo))
