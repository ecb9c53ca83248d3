"""Every metric of a run: formula, unit, healthy range, what to do beyond it, its names elsewhere.

docs/metrics.md is written from this table (``python -m cameleer.train.metric_docs``), and the
console marks what has left its range. Aliases are those of TRL, verl and open-instruct for the
same quantity, though not always for the same formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One key of metrics.jsonl, or several that are read together."""

    key: str
    """A trailing ``*`` stands for any rest of a key."""
    formula: str
    unit: str
    advice: str
    """What to look at beyond the range, or what the number tells where it has none."""
    low: float | None = None
    high: float | None = None
    """The healthy range, both ends in it. None: no end, or none that holds for every run."""
    elsewhere: str = ""
    """Its names in TRL, verl and open-instruct."""

    def healthy(self, value: float) -> bool:
        """A number that is none is never healthy."""
        if math.isnan(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def describes(self, key: str) -> bool:
        return key.startswith(self.key[:-1]) if self.key.endswith("*") else key == self.key


_EVERY_SOURCE = "The same for the prompts of one data source."

METRICS = (
    Metric(
        key="reward/mean",
        formula="mean of rewards over completions without an undecided check",
        unit="reward",
        advice="Has to rise over tens of steps. If it is flat, see groups/zero_variance.",
        elsewhere="TRL `reward`; verl `critic/rewards/mean, critic/score/mean`",
    ),
    Metric(
        key="reward/mean/*",
        formula=_EVERY_SOURCE,
        unit="reward",
        advice="A source that stays flat while others rise is too hard, too easy, or misjudged: "
        "read its rollouts.",
    ),
    Metric(
        key="reward/std",
        formula="standard deviation (divided by n) of the same rewards",
        unit="reward",
        advice="0 means that all completions of the step earned the same: nothing was learnt.",
        elsewhere="TRL `reward_std`",
    ),
    Metric(
        key="verifiable_rate",
        formula="share of completions with checks and a verdict that are fully right by all checks",
        unit="share",
        advice="Unlike the reward, it counts a right answer that was cut off. Absent where no "
        "prompt has checks.",
        elsewhere="open-instruct `objective/verifiable_correct_rate`",
    ),
    Metric(
        key="verifiable_rate/*", formula=_EVERY_SOURCE, unit="share", advice="As reward/mean/*."
    ),
    Metric(
        key="reward/model",
        formula="mean over completions of the recipe's reward model's score, before its weight",
        unit="score",
        advice="Rising while verifiable_rate falls, the policy learns what the reward model likes "
        "and the verifier does not: lower reward_model.weight.",
    ),
    Metric(
        key="groups/zero_variance",
        formula="share of groups whose scored siblings all have the same reward",
        unit="share",
        high=0.95,
        advice="Such groups teach nothing. See which kind it is: all_right wants harder prompts, "
        "all_wrong easier ones, imitation first, or a larger rollout.group_size.",
        elsewhere="TRL `frac_reward_zero_std`; "
        "verl `training/filter_groups/filtered_reward_counts`; "
        "open-instruct `real_batch_size_ratio (its complement)`",
    ),
    Metric(
        key="groups/all_right",
        formula="share of groups with only right answers",
        unit="share",
        high=0.9,
        advice="The prompts are too easy for this policy: take harder ones.",
    ),
    Metric(
        key="groups/all_wrong",
        formula="share of groups with only wrong answers",
        unit="share",
        high=0.9,
        advice="The prompts are too hard for this policy: take easier ones, or imitate first.",
    ),
    Metric(
        key="groups/refilled",
        formula="groups sampled beyond rollout.num_prompts, in the stead of those without contrast",
        unit="groups",
        advice="Where rollout.max_refills allows it. Each costs a group's sampling: many are a "
        "reason for other prompts. All groups, replaced ones too, are in reward/* and groups/*.",
        elsewhere="verl `train/num_gen_batches`",
    ),
    Metric(
        key="length/mean",
        formula="mean tokens of a completion; in imitation, of an example with its prompt",
        unit="tokens",
        advice="A steady rise with a flat reward is padding; a fall to a few tokens is collapse.",
        elsewhere="TRL `completions/mean_length`; "
        "verl `response_length/mean`; "
        "open-instruct `val/sequence_lengths`",
    ),
    Metric(
        key="length/max",
        formula="tokens of the longest completion",
        unit="tokens",
        advice="At rollout.max_tokens an answer was cut off: see finish/length.",
        elsewhere="TRL `completions/max_length`; verl `response_length/max`",
    ),
    Metric(
        key="length/prompt_mean",
        formula="mean tokens of a prompt, once a group",
        unit="tokens",
        advice="Moves with the draw of prompts only.",
        elsewhere="verl `prompt_length/*`",
    ),
    Metric(
        key="finish/eos",
        formula="share of completions that ended with the end-of-sequence token",
        unit="share",
        advice="With finish/stop and finish/length it adds up to 1.",
        elsewhere="open-instruct `val/stop_rate`",
    ),
    Metric(
        key="finish/stop",
        formula="share that ended at a stop string",
        unit="share",
        advice="0 without rollout.stop. Such an answer has no EOS: Reward.without_eos decides "
        "what it earns.",
    ),
    Metric(
        key="finish/length",
        formula="share that was cut off at rollout.max_tokens",
        unit="share",
        high=0.5,
        advice="Raise rollout.max_tokens, unless answers have begun to ramble. Reward.without_eos "
        "decides what a cut answer earns.",
        elsewhere="TRL `completions/clipped_ratio`; "
        "verl `response_length/clip_ratio`; "
        "open-instruct `val/stop_rate (its complement)`",
    ),
    Metric(
        key="status/scored",
        formula="verdicts of the step",
        unit="count",
        advice="With the other two it adds up to the checks of the step's completions.",
    ),
    Metric(
        key="status/undecided",
        formula="checks that reached no verdict: time, memory, crash",
        unit="count",
        high=0,
        advice="The reasons stand in rollouts/*.parquet. Such completions teach nothing.",
    ),
    Metric(
        key="status/invalid",
        formula="checks whose ground truth cannot be used",
        unit="count",
        high=0,
        advice="Mend or drop the rows; the reasons stand in rollouts/*.parquet.",
    ),
    Metric(
        key="loss",
        formula="sum over tokens of loss times weight (see `normalize`), mean over updates",
        unit="nats in imitation",
        advice="Falls in imitation. In reinforcement learning it says nothing about progress.",
    ),
    Metric(
        key="sft/nll",
        formula="mean over learnt tokens of -log p, whatever the recipe's `normalize`",
        unit="nats a token",
        advice="Falls. exp of it is the perplexity; far below that of held-out answers is learning "
        "by heart.",
    ),
    Metric(
        key="rewards/chosen",
        formula="mean over pairs of beta times (log p_policy - log p_reference) of the chosen "
        "answer; a token where `length_normalized`, without a reference in SimPO",
        unit="nats times beta",
        advice="Often falls while the margin rises: the rejected answer falls faster.",
        elsewhere="TRL `rewards/chosen`",
    ),
    Metric(
        key="rewards/rejected",
        formula="the same of the rejected answer",
        unit="nats times beta",
        advice="Has to fall below rewards/chosen.",
        elsewhere="TRL `rewards/rejected`",
    ),
    Metric(
        key="rewards/margins",
        formula="rewards/chosen - rewards/rejected",
        unit="nats times beta",
        advice="0 before the first update, then it rises. A flat one learns nothing: raise the "
        "learning rate, or look whether the pairs differ.",
        elsewhere="TRL `rewards/margins`; open-instruct `rewards/margin`",
    ),
    Metric(
        key="rewards/accuracies",
        formula="share of pairs whose chosen answer has the larger reward; a tie is wrong",
        unit="share",
        advice="Says nothing while the policy still is its reference, for a tie is wrong. Then it "
        "rises above 0.5; at 1 within a few steps the pairs are too easy.",
        elsewhere="TRL `rewards/accuracies`; open-instruct `rewards/accuracy`",
    ),
    Metric(
        key="logps/*",
        formula="log p of the chosen or rejected answers, a token where `length_normalized`",
        unit="nats",
        advice="If the chosen one falls steadily, lower the learning rate, or raise beta.",
        elsewhere="TRL `logps/chosen, logps/rejected`; "
        "open-instruct `logps/chosen, logps/rejected`",
    ),
    Metric(
        key="policy/entropy",
        formula="mean over learnt tokens of -sum p log p, at the sampling temperature",
        unit="nats a token",
        low=0.01,
        advice="Near 0 all siblings are alike and nothing is left to compare (axolotl warns below "
        "0.01). A sudden rise precedes collapse. Lower the learning rate, or raise beta.",
        elsewhere="TRL `entropy`; verl `actor/entropy`; open-instruct `policy/entropy_avg`",
    ),
    Metric(
        key="policy/kl",
        formula="mean over learnt tokens of the recipe's estimate of KL(policy || reference); "
        "PPO's is k1, which may be negative",
        unit="nats a token",
        high=0.5,
        advice="The policy is far from its start, where it tends to exploit the verifier: read "
        "samples, raise beta or lower the learning rate. Tulu 3.1 ended near 28 nats a completion "
        "of 350 to 400 tokens, 0.07 a token.",
        elsewhere="TRL `kl`; "
        "verl `actor/kl_loss`; "
        "open-instruct `objective/kl0..kl3_avg, loss/kl_avg`",
    ),
    Metric(
        key="policy/ratio",
        formula="mean over learnt tokens of p_new / p_old, at the start of each update",
        unit="ratio",
        low=0.9,
        high=1.1,
        advice="Exactly 1 in the first update of a step. Beyond the range a step changes the "
        "policy too much: lower the learning rate, num_epochs or num_minibatches.",
        elsewhere="TRL `ratio`; open-instruct `val/ratio`",
    ),
    Metric(
        key="policy/clip_fraction",
        formula="share of learnt tokens whose ratio lies outside 1 ± clip_eps",
        unit="share",
        high=0.3,
        advice="Most of the step is ignored then: lower the learning rate or num_epochs.",
        elsewhere="TRL `clip_ratio/region_mean`; "
        "verl `actor/pg_clipfrac`; "
        "open-instruct `policy/clipfrac_avg`",
    ),
    Metric(
        key="policy/importance_weight",
        formula="mean over learnt tokens of min(p_old / p_sampler, importance_cap)",
        unit="ratio",
        low=0.9,
        high=1.1,
        advice="Far from 1, sampler and learner are not one policy: see engine/*.",
        elsewhere="TRL `sampling/importance_sampling_ratio/mean`; open-instruct `val/rho_weight`",
    ),
    Metric(
        key="value/explained_variance",
        formula="1 - var(return - value) / var(return) over learnt tokens, before the update",
        unit="share",
        advice="Rises towards 1 as the value model learns what answers earn. Below 0 its values "
        "are worse than their mean would be: start from a reward model, or raise "
        "value_optim.learning_rate. Where almost all answers earn the same it says little.",
        elsewhere="verl `critic/vf_explained_var`",
    ),
    Metric(
        key="value/loss",
        formula="mean over learnt tokens of half the squared error, before value_coef",
        unit="reward squared",
        advice="In the square of the reward's unit: with Reward(correct=10) it begins near 50.",
        elsewhere="verl `critic/vf_loss`; open-instruct `loss/value_avg`",
    ),
    Metric(
        key="value/mean",
        formula="mean over learnt tokens of the value model's prediction",
        unit="reward",
        advice="Comes near to reward/mean.",
        elsewhere="verl `critic/vpred_mean`",
    ),
    Metric(
        key="value/clip_fraction",
        formula="share of learnt tokens whose value moved beyond value_clip and lost by it",
        unit="share",
        advice="Near 1 while the values are far from the rewards: a step moves them by value_clip "
        "only. A larger value_clip, or None, lets them arrive sooner.",
        elsewhere="verl `critic/vf_clipfrac`",
    ),
    Metric(
        key="engine/logprob_difference_mean",
        formula="mean over sampled tokens of |log p_learner - log p_engine|",
        unit="nats",
        high=0.1,
        advice="The exact limit follows from dtype and the run's own floor, see engine/drift.",
        elsewhere="TRL `sampling/sampling_logp_difference/mean`; "
        "verl `training/rollout_probs_diff_mean (of probabilities)`; "
        "open-instruct `debug/vllm_vs_local_logprob_diff_mean`",
    ),
    Metric(
        key="engine/logprob_difference_max",
        formula="largest |log p_learner - log p_engine| of a sampled token",
        unit="nats",
        advice="Some 1e-5 in float32. In bfloat16 single tokens can be tenths of a nat apart and "
        "nothing is wrong; see engine/drift.",
        elsewhere="TRL `sampling/sampling_logp_difference/max`; "
        "verl `training/rollout_probs_diff_max (of probabilities)`; "
        "open-instruct `debug/vllm_vs_local_logprob_diff_max`",
    ),
    Metric(
        key="engine/kl",
        formula="mean over sampled tokens of r - 1 - log r with r = p_learner / p_engine "
        "(k3 of KL(engine || learner))",
        unit="nats a token",
        high=3e-3,
        advice="NeMo-RL looks into what exceeds about 1e-3, which the rounding of a small model in "
        "bfloat16 can reach by itself. See engine/drift.",
        elsewhere="verl `rollout_corr/k3_kl`; open-instruct `debug/vllm_local_reverse_kl`",
    ),
    Metric(
        key="engine/ratio",
        formula="mean over sampled tokens of p_learner / p_engine",
        unit="ratio",
        low=0.99,
        high=1.01,
        advice="1 in expectation where both are one policy, whatever they round.",
        elsewhere="TRL `sampling/importance_sampling_ratio/mean`; open-instruct `val/rho_weight`",
    ),
    Metric(
        key="engine/probability_error",
        formula="mean over sampled tokens of exp |log p_learner - log p_engine|; "
        "NeMo-RL's token_mult_prob_error",
        unit="ratio",
        high=1.05,
        advice="1.00 to 1.05 is healthy (NeMo-RL). A rise of a percent means that weights do not "
        "arrive.",
    ),
    Metric(
        key="engine/drift",
        formula="1 while the gap exceeds 1e-3 nats on a token (float32) or 1.2 times the learner's "
        "own mean gap between decoding and forward (bfloat16)",
        unit="0 or 1",
        high=0,
        advice="The warning of the first such step names the cause; parity.jsonl has the gap and "
        "the floor of each start.",
    ),
    Metric(
        key="optim/grad_norm",
        formula="2-norm of the gradient before clipping, mean over the step's updates",
        unit="of the loss",
        high=100.0,
        advice="Beyond it every update is direction only, and a spike often follows one bad batch: "
        "look at engine/* and policy/ratio of that step. 0 means that no group had contrast.",
        elsewhere="TRL `grad_norm`; verl `actor/grad_norm`; open-instruct `optim/grad_norm`",
    ),
    Metric(
        key="optim/learning_rate",
        formula="of the step's updates, mean",
        unit="none",
        advice="What optim.warmup_steps and optim.schedule say; nothing else moves it.",
        elsewhere="TRL `learning_rate`; verl `actor/lr`; open-instruct `lr`",
    ),
    Metric(
        key="optim/value_grad_norm",
        formula="optim/grad_norm of the value model",
        unit="of the loss",
        advice="Large at first, as the squared error of rewards of 10 is. It is clipped.",
        elsewhere="verl `critic/grad_norm`",
    ),
    Metric(
        key="optim/value_learning_rate",
        formula="of the value model",
        unit="none",
        advice="As optim/learning_rate, of value_optim.",
        elsewhere="verl `critic/lr`",
    ),
    Metric(
        key="heldout/accuracy",
        formula="share of held-out questions answered rightly, of those with a verdict; of a "
        "reward model, share of held-out pairs whose chosen answer scores higher",
        unit="share",
        advice="The number that a run is for. It should follow verifiable_rate; if it falls while "
        "that rises, the policy learns the training prompts by heart.",
        elsewhere="TRL `eval_*`; verl `val-core/{src}/acc/mean@k`; open-instruct `eval/pass_at_k`",
    ),
    Metric(
        key="heldout/num_prompts",
        formula="held-out answers with a verdict",
        unit="count",
        advice="With heldout/undecided it adds up to heldout.num_prompts, or to the rows that "
        "there are.",
    ),
    Metric(
        key="heldout/num_pairs",
        formula="held-out pairs of a reward model",
        unit="count",
        advice="heldout.num_prompts, or the pairs that there are.",
    ),
    Metric(
        key="heldout/margin",
        formula="mean over them of the chosen score less the rejected one",
        unit="score",
        advice="Grows without end on pairs that are easy: heldout/accuracy says what it is worth.",
    ),
    Metric(
        key="heldout/undecided",
        formula="held-out answers without a verdict",
        unit="count",
        high=0,
        advice="Mend the verifier: accuracy is measured on the others.",
    ),
    Metric(
        key="eval/*",
        formula="a benchmark's metric (`cameleer eval --list`), or the share of its answers that "
        "met their limit (truncated)",
        unit="share",
        advice="On 200 instances one standard error is up to 3.5 points: `cameleer report compare` "
        "of two directories below evals/ tells a gain from chance.",
        elsewhere="TRL `eval_*`; verl `val-core/*`; open-instruct `eval/scores`",
    ),
    Metric(
        key="time/rollout",
        formula="sampling",
        unit="s",
        advice="Follows length/max: a step waits for its longest answer. Lower rollout.max_tokens "
        "or, where memory allows, raise rollout.num_slots.",
        elsewhere="verl `timing_s/gen`",
    ),
    Metric(
        key="time/verify",
        formula="scoring completions",
        unit="s",
        advice="Add runtime.num_verifier_workers if it is more than a few percent of the step.",
        elsewhere="verl `timing_s/reward`",
    ),
    Metric(
        key="time/score",
        formula="log-probabilities of the old policy and the reference",
        unit="s",
        advice="Next to nothing where a step has one update, no reference and no value model.",
        elsewhere="TRL `forward_time_s`; verl `timing_s/old_log_prob, timing_s/ref`",
    ),
    Metric(
        key="time/update",
        formula="forward, backward and optimizer",
        unit="s",
        advice="Raise runtime.micro_batch_tokens where memory allows.",
        elsewhere="verl `timing_s/update_actor`; open-instruct `time/training`",
    ),
    Metric(
        key="time/step",
        formula="the step, without evaluation and saving",
        unit="s",
        advice="What the phases leave of it is mostly assembling and writing. At equal lengths a "
        "rise means that something else runs on the machine.",
        elsewhere="TRL `step_time`; verl `timing_s/step`; open-instruct `time/total`",
    ),
    Metric(
        key="throughput/tokens_per_s",
        formula="prompt and completion tokens of the step / time/step",
        unit="tokens/s",
        advice="Comparable at equal lengths only. If it falls, look which of time/* has grown.",
        elsewhere="TRL `training_tok/s`; "
        "verl `perf/throughput (a GPU)`; "
        "open-instruct `learner tokens/s`",
    ),
    Metric(
        key="throughput/sampled_tokens_per_s",
        formula="sampled tokens of the step / time/rollout",
        unit="tokens/s",
        advice="Falls where few long answers hold the last slots: see length/max.",
        elsewhere="TRL `generation_tok_per_s`; open-instruct `val/actor_tokens_per_second`",
    ),
)


def find(key: str) -> Metric | None:
    """What is known of a key: its own entry before one for many."""
    found = [metric for metric in METRICS if metric.describes(key)]
    return max(found, key=lambda metric: len(metric.key.rstrip("*")), default=None)


def primary_scores(keys: Iterable[str]) -> list[str]:
    """Of the keys ``eval/BENCHMARK/METRIC``, the first of each benchmark."""
    first: dict[str, str] = {}
    for key in keys:
        if key.startswith("eval/"):
            first.setdefault(key.split("/")[1], key)
    return list(first.values())


def out_of_range(metrics: Mapping[str, float]) -> list[str]:
    """The keys whose numbers have left the healthy range, in the order of the table."""
    known = {key: metric for key in metrics if (metric := find(key))}
    left = [key for key, metric in known.items() if not metric.healthy(metrics[key])]
    return sorted(left, key=lambda key: METRICS.index(known[key]))


def page() -> str:
    """docs/metrics.md."""
    parts, chapter = [_HEAD], ""
    for metric in METRICS:
        if chapter != (chapter := _CHAPTERS[metric.key.split("/")[0]]):
            parts.append(f"## {chapter}\n")
        parts.append(f"### `{metric.key}`\n\n{_sentence(metric.formula)}\n\n{_facts(metric)}\n")
    return "\n".join(parts)


_CHAPTERS = {
    "reward": "Rewards",
    "verifiable_rate": "Rewards",
    "groups": "Groups",
    "length": "Answers",
    "finish": "Answers",
    "status": "Verdicts",
    "loss": "Loss",
    "sft": "Loss",
    "rewards": "Pairs",
    "logps": "Pairs",
    "policy": "Policy",
    "value": "Value model",
    "engine": "Engine and learner",
    "optim": "Optimizer",
    "heldout": "Held-out questions and benchmarks",
    "eval": "Held-out questions and benchmarks",
    "time": "Time",
    "throughput": "Time",
}
"""By the first part of a key."""


_HEAD = """# Metrics

Every key of `metrics.jsonl`, one line a step. The page is written by
`python -m cameleer.train.metric_docs` from `cameleer/train/metric_docs.py`.

The console marks a number that has left its healthy range with `!`, and names the keys it does not
show. Ranges are those of NeMo-RL, axolotl and the published Tulu 3.1 run where they state one, and
rules of thumb otherwise: a mark asks for a look, it does not stop the run. A learnt token is a
sampled one (in imitation, one of an assistant's turn) of a completion that reached a verdict.
Aliases name the same quantity in other libraries; formulas can differ.
"""


def _facts(metric: Metric) -> str:
    healthy = healthy_range(metric)
    lines = [
        f"- unit: {metric.unit}",
        f"- healthy: {healthy}",
        f"- {'otherwise' if healthy != 'any' else 'note'}: {metric.advice}",
    ]
    if metric.elsewhere:
        lines.append(f"- elsewhere: {metric.elsewhere}")
    return "\n".join(lines)


def healthy_range(metric: Metric) -> str:
    """Such as ``up to 0.5``, ``0.9 to 1.1`` or ``any``."""
    low, high = metric.low, metric.high
    if low is None and high is None:
        return "any"
    if low is None:
        return f"{high:g}" if high == 0 else f"up to {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


if __name__ == "__main__":
    print(page(), end="")
