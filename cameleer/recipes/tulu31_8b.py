"""Llama-3.1-Tulu-3.1-8B: the published GRPO run.

Sources of the values: the command on the model card of allenai/Llama-3.1-Tulu-3.1-8B ("card"), and
the defaults of the script it runs, open_instruct/grpo_vllm_thread_ray_gtrl.py of
allenai/open-instruct at commit 3f37c29d ("script").
"""

from __future__ import annotations

from cameleer.algorithms.grpo import GRPO
from cameleer.data.sources import Source
from cameleer.recipe import Model, Optim, Output, Recipe, Reward, Rollout, Runtime
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.math import Math


def tulu31_8b() -> Recipe:
    """GRPO from the DPO model on GSM8K, MATH and instruction-following prompts.

    What differs from the published run: its first two steps answered the same prompts, each of its
    passes left out the prompts that fill no step, its minibatches were drawn among the sequences of
    each learner, and its verifiers had the faults that docs/decisions.md lists; ours are mended.
    """
    return Recipe(
        name="tulu31_8b",
        model=Model(
            source="allenai/Llama-3.1-Tulu-3-8B-DPO",  # card: --model_name_or_path
            dtype="bfloat16",  # script: bf16 under DeepSpeed, with float32 master weights
            chat_template="tulu",  # card: --chat_template_name tulu; no BOS
        ),
        algorithm=GRPO(
            beta=0.01,  # card: --beta; in the loss, not in the reward
            kl_estimator="k3",  # card: --kl_estimator kl3
            clip_eps=0.2,  # script: cliprange
            scale_by_std=True,  # script: (r - mean) / (std + 1e-8), ddof 1
        ),
        data=(
            # card: --dataset_mixer_list … 1.0, split train; the few-shot prefixes are in its rows
            Source(path="allenai/RLVR-GSM-MATH-IF-Mixed-Constraints", format="rlvr"),
        ),
        verifiers={"gsm8k": GSM8K(), "math": Math(), "ifeval": IFEval()},
        reward=Reward(
            correct=10.0,  # script: verification_reward
            without_eos=0.0,  # card: --non_stop_penalty --penalty_reward_value 0.0
        ),
        optim=Optim(
            learning_rate=5e-7,  # card: --learning_rate; --lr_scheduler_type constant
            betas=(0.9, 0.999),  # torch's defaults, which the script leaves alone, as eps and
            eps=1e-8,  # weight decay: its own `eps` of 1e-5 is never used
            weight_decay=0.01,
            max_grad_norm=1.0,  # script: DeepSpeed's gradient_clipping
            warmup_steps=0,  # script: warmup_ratio 0
        ),
        # The released checkpoint. The card's --total_episodes 10,000,000 is nominal: 13,020 steps.
        num_steps=1920,
        rollout=Rollout(
            num_prompts=48,  # card: --local_rollout_batch_size 8 on 6 learners
            group_size=16,  # card: --number_samples_per_prompt
            max_tokens=2048,  # card: --response_length
            max_prompt_tokens=2048,  # card: --max_prompt_token_length
            temperature=1.0,  # card: --temperature
            max_staleness=1,  # script: async_mode; one step, which is two updates, uncorrected
        ),
        num_minibatches=2,  # card: --local_mini_batch_size 64 of 8 * 16 sequences a learner
        num_epochs=1,  # card: --num_epochs
        split="sequence",  # script: np.random.permutation over a learner's sequences
        # card: --per_device_train_batch_size 2, whose token mean the accumulation then averaged
        normalize="micro_batch(2)",
        seed=1,  # card: --seed
        runtime=Runtime(device="cuda", micro_batch_tokens=8192),
        output=Output(save_every=40),  # card: --save_freq
    )
