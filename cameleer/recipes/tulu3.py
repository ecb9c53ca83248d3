"""The Tulu 3 ladders: SFT, DPO, a reward model, and PPO on verifiable rewards.

Sources of the values: the commands of docs/tulu3.md in allenai/open-instruct at commit 0becd2ce
("command"), and what its scripts do where a command is silent, at commit 3f37c29d ("script"). Rows
of the data sets are those of their cards, rounded: a command counts passes, a recipe counts steps.
Each policy answers three of its published benchmarks. The reward model's published test pairs
(allenai/ultrafeedback_binarized_cleaned) are left out: they may share questions with the training
pairs, and a run that finds one ends.
"""

from __future__ import annotations

from dataclasses import replace

from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.ppo import PPO
from cameleer.algorithms.reward_model import RewardModel
from cameleer.algorithms.sft import SFT
from cameleer.data.sources import Source
from cameleer.recipe import Eval, Ladder, Model, Optim, Output, Recipe, Reward, Rollout, Runtime
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.math import Math

_RUNTIME = Runtime(device="cuda")
_EVALS = Eval(benchmarks=("gsm8k", "math", "ifeval"), every=0, profile="full")
_SFT_ROWS = 939_000


def tulu3_8b() -> Ladder:
    """Llama-3.1-Tulu-3-8B, from the base model: SFT, DPO, reward model, PPO."""
    preferences = "allenai/llama-3.1-tulu-3-8b-preference-mixture"
    ppo = _ppo(
        _from("stage:dpo"),
        _from("stage:reward_model"),
        beta=0.05,  # command: --beta
        # command: --learning_rate 3e-7; script: --lr_scheduler_type linear, over all nominal steps
        optim=Optim(learning_rate=3e-7, schedule="linear"),
        num_prompts=224,  # command: 7 learners x --local_rollout_batch_size 32
        num_steps=44_642,  # command: --total_episodes 10,000,000. A checkpoint before was released.
        seed=3,  # command: --seed
        normalize="micro_batch(2)",  # command: --per_device_train_batch_size 2
        save_every=100,  # command: --save_freq
    )
    stages = (
        # command: --learning_rate 5e-06 --seed 123
        _sft("meta-llama/Llama-3.1-8B", learning_rate=5e-6, seed=123),
        _dpo(
            _from("stage:sft"),
            preferences,
            learning_rate=5e-7,  # command: --learning_rate
            num_pairs=270_000,
            batch_size=128,  # command: 8 GPUs x 1 x --gradient_accumulation_steps 16
        ),
        _reward_model(_from("stage:sft"), preferences),
        ppo,
    )
    return Ladder(name="tulu3_8b", stages=stages, evals=_EVALS)


def tulu3_70b() -> Ladder:
    """Llama-3.1-Tulu-3-70B: SFT, DPO, and PPO whose value model starts from the 8B reward model."""
    ppo = _ppo(
        _from("stage:dpo"),
        _from("allenai/Llama-3.1-Tulu-3-8B-RM"),  # command: --reward_model_path
        beta=0.07,  # command: --beta
        # command: --learning_rate 1e-7 --warmup_ratio 0.1; script: of 625 x 4 updates
        optim=Optim(learning_rate=1e-7, schedule="linear", warmup_steps=250),
        num_prompts=640,  # command: 40 learners x --local_rollout_batch_size 16
        num_steps=625,  # command: --total_episodes 400,000
        seed=8,  # command: --seed
        normalize="micro_batch(1)",  # command: --per_device_train_batch_size 1
        save_every=40,  # command: --save_freq
    )
    stages = (
        # command: --learning_rate 2e-06 --seed 456
        _sft("meta-llama/Llama-3.1-70B", learning_rate=2e-6, seed=456),
        _dpo(
            _from("stage:sft"),
            "allenai/llama-3.1-tulu-3-70b-preference-mixture",
            learning_rate=2e-7,  # command: --learning_rate
            num_pairs=330_000,
            batch_size=128,  # command: 64 GPUs x 1 x --gradient_accumulation_steps 2
        ),
        ppo,
    )
    return Ladder(name="tulu3_70b", stages=stages, evals=_EVALS)


def tulu3_405b() -> Ladder:
    """Llama-3.1-Tulu-3-405B from its SFT model (no command is published): DPO, then PPO on MATH.

    The commands name a preference mixture and a DPO checkpoint of their authors' own storage.
    """
    ppo = _ppo(
        _from("stage:dpo"),
        _from("allenai/Llama-3.1-Tulu-3-8B-RM"),  # command: --reward_model_path
        beta=0.05,  # command: --beta
        optim=Optim(learning_rate=1e-7, schedule="linear"),  # command: --learning_rate
        num_prompts=1_856,  # command: 232 learners x --local_rollout_batch_size 8
        num_steps=215,  # command: --total_episodes 400,000
        seed=3,  # command: --seed
        normalize="micro_batch(1)",  # command: --per_device_train_batch_size 1
        save_every=25,  # command: --save_freq
    )
    assert ppo.rollout is not None
    ppo = replace(
        ppo,
        data=(Source(path="allenai/RLVR-MATH", format="rlvr"),),  # command: --dataset_mixer_list
        verifiers={"math": Math()},
        rollout=replace(ppo.rollout, max_tokens=1024),  # command: --response_length
    )
    dpo = _dpo(
        _from("allenai/Llama-3.1-Tulu-3-405B-SFT"),  # command: --model_name_or_path
        "ai2-adapt-dev/405b_preference_mix",  # command: --dataset_mixer_list
        learning_rate=2e-7,  # command: --learning_rate
        num_pairs=360_000,  # unknown: the mixture is not public under this name
        batch_size=256,  # command: 256 GPUs x 1 x 1
    )
    return Ladder(name="tulu3_405b", stages=(dpo, ppo), evals=_EVALS)


def _from(source: str) -> Model:
    # script: bf16 under DeepSpeed, with float32 master weights; no BOS.
    return Model(source=source, dtype="bfloat16", chat_template="tulu")


def _sft(source: str, *, learning_rate: float, seed: int) -> Recipe:
    num_steps = 2 * _SFT_ROWS // 128  # command: --num_train_epochs 2
    return Recipe(
        name="sft",
        model=_from(source),
        algorithm=SFT(),
        # command: --dataset_mixer_list … 1.0
        data=(Source(path="allenai/tulu-3-sft-mixture", format="chat"),),
        optim=Optim(
            learning_rate=learning_rate,
            weight_decay=0.0,  # command: --weight_decay
            schedule="linear",  # command: --lr_scheduler_type
            warmup_steps=round(0.03 * num_steps),  # command: --warmup_ratio
            max_grad_norm=1.0,  # script: accelerate's default, which DeepSpeed's "auto" takes
        ),
        num_steps=num_steps,
        batch_size=128,  # command: 64 GPUs x 1 x --gradient_accumulation_steps 2
        max_tokens=4096,  # command: --max_seq_length
        normalize="sum",  # command: --reduce_loss sum, over a batch of one sequence a rank
        seed=seed,
        runtime=_RUNTIME,
        output=Output(save_every=1000),
    )


def _dpo(
    model: Model, pairs: str, *, learning_rate: float, num_pairs: int, batch_size: int
) -> Recipe:
    num_steps = num_pairs // batch_size  # command: --num_train_epochs 1
    return Recipe(
        name="dpo",
        model=model,
        algorithm=DPO(beta=5.0, length_normalized=True),  # command: dpo_norm, --dpo_beta 5
        data=(Source(path=pairs, format="preference"),),  # command: --dataset_mixer_list … 1.0
        optim=Optim(
            learning_rate=learning_rate,
            weight_decay=0.0,  # command: --weight_decay
            schedule="linear",  # command: --lr_scheduler_type
            warmup_steps=round(0.1 * num_steps),  # command: --warmup_ratio
            max_grad_norm=1.0,  # script: as for SFT
        ),
        num_steps=num_steps,
        batch_size=batch_size,
        max_tokens=2048,  # command: --max_seq_length
        runtime=_RUNTIME,
        output=Output(save_every=1000),  # command: --checkpointing_steps
    )


def _reward_model(model: Model, pairs: str) -> Recipe:
    return Recipe(
        name="reward_model",
        model=model,
        algorithm=RewardModel(),  # script: no margin, no centering
        data=(Source(path=pairs, format="preference"),),  # command: --dataset_mixer … 1.0
        optim=Optim(
            learning_rate=3e-6,  # command: --learning_rate
            schedule="linear",  # script: the default of lr_scheduler_type
            eps=1e-5,  # script: optim.AdamW(lr=…, eps=args.eps)
            weight_decay=0.01,  # script: torch's default, as nothing is passed
        ),
        num_steps=270_000 // 256,  # command: --num_train_epochs 1
        batch_size=256,  # command: 8 GPUs x 1 x --gradient_accumulation_steps 32
        max_tokens=2048,  # command: --max_token_length
        runtime=_RUNTIME,
        output=Output(save_every=200),
    )


def _ppo(
    model: Model,
    value_model: Model,
    *,
    beta: float,
    optim: Optim,
    num_prompts: int,
    num_steps: int,
    seed: int,
    normalize: str,
    save_every: int,
) -> Recipe:
    return Recipe(
        name="ppo",
        model=model,
        # script: value_clip 0.2, vf_coef 0.1, gamma 1, lam 0.95, whitened advantages
        algorithm=PPO(beta=beta),
        value_model=value_model,  # script: its own AdamW with the policy's rate
        # command: --dataset_mixer_list … 1.0
        data=(Source(path="allenai/RLVR-GSM-MATH-IF-Mixed-Constraints", format="rlvr"),),
        verifiers={"gsm8k": GSM8K(), "math": Math(), "ifeval": IFEval()},
        reward=Reward(
            correct=10.0,  # script: verification_reward
            without_eos=-10.0,  # command: --non_stop_penalty --penalty_reward_value -10.0
        ),
        optim=optim,
        num_steps=num_steps,
        rollout=Rollout(
            num_prompts=num_prompts,
            group_size=1,  # script: one completion a prompt
            max_tokens=2048,  # command: --response_length
            max_prompt_tokens=2048,  # command: --max_prompt_token_length
            temperature=1.0,  # command: --temperature
            max_staleness=1,  # script: async_mode
        ),
        num_epochs=4,  # script: the default of num_epochs (405B's command states it)
        # command: local_mini_batch_size is local_rollout_batch_size, so one update an epoch
        num_minibatches=1,
        normalize=normalize,
        seed=seed,
        runtime=_RUNTIME,
        output=Output(save_every=save_every),
    )
