"""Losses of preference pairs, and their gradients, are TRL's on the same tensors, in float64."""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.reward_trainer import RewardTrainer

from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.normalize import sequence_weights
from cameleer.algorithms.reward_model import RewardModel
from cameleer.batch import Batch, Output

with warnings.catch_warnings():
    # TRL tells that it may move what is experimental.
    warnings.simplefilter("ignore")
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

PROMPTS = (3, 1, 2, 4)
CHOSEN, REJECTED = (4, 7, 1, 9), (6, 2, 5, 3)
NUM_PAIRS = len(PROMPTS)


def logprobs(seed: int) -> list[torch.Tensor]:
    """One tensor an answer, of the chosen ones first."""
    generator = torch.Generator().manual_seed(seed)
    lengths = CHOSEN + REJECTED
    return [-3 * torch.rand(n, generator=generator, dtype=torch.float64) for n in lengths]


def padded(parts: list[torch.Tensor]) -> torch.Tensor:
    """Answers behind their prompts, padded on the right, as TRL collates them."""
    zeros = [torch.zeros(n, dtype=parts[0].dtype) for n in PROMPTS * 2]
    rows = [torch.cat(pair) for pair in zip(zeros, parts, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def trl_dpo(
    new: list[torch.Tensor], reference: list[torch.Tensor], *, loss_type: str, beta: float
) -> tuple[float, list[torch.Tensor], dict[str, list[float]]]:
    """TRL's own `_compute_loss`, with the model's log-probabilities put in its place."""
    leaf = padded(new).requires_grad_()
    mask = padded([torch.ones(len(answer), dtype=torch.long) for answer in new])
    nothing = torch.zeros_like(leaf[:, 1:]).detach()
    outputs = SimpleNamespace(
        log_probs=leaf[:, 1:],
        entropy=nothing,
        mean_logits=nothing,
        is_top1=nothing.bool(),
    )

    class Model:
        training = True

        def __call__(self, **_: Any) -> SimpleNamespace:
            return outputs

    trainer = SimpleNamespace(
        model=Model(),
        accelerator=SimpleNamespace(
            device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        aux_loss_enabled=False,
        beta=beta,
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
        ld_alpha=None,
        loss_types=[loss_type],
        loss_weights=[1.0],
        precompute_ref_logps=True,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    sums = torch.stack([answer.sum() for answer in reference])
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": sums[:NUM_PAIRS],
        "ref_rejected_logps": sums[NUM_PAIRS:],
    }
    loss = DPOTrainer._compute_loss(trainer, trainer.model, inputs, return_outputs=False)
    loss.backward()
    assert leaf.grad is not None
    gradients = [row[kept] for row, kept in zip(leaf.grad, mask.bool(), strict=True)]
    return float(loss.detach()), gradients, trainer._metrics["train"]


def packed(parts: list[torch.Tensor]) -> torch.Tensor:
    """The same end to end."""
    zeros = [torch.zeros(n, dtype=parts[0].dtype) for n in PROMPTS * 2]
    return torch.cat([x for pair in zip(zeros, parts, strict=True) for x in pair])


def our_batch(reference: list[torch.Tensor]) -> Batch:
    lengths = [p + n for p, n in zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)]
    return Batch(
        tokens_N=torch.zeros(sum(lengths), dtype=torch.long),
        lengths_B=torch.tensor(lengths),
        mask_N=packed([torch.ones(n, dtype=torch.bool) for n in CHOSEN + REJECTED]),
        reference_logprobs_N=packed(reference),
        pair_B=torch.arange(NUM_PAIRS).repeat(2),
        chosen_B=torch.arange(2 * NUM_PAIRS) < NUM_PAIRS,
    )


def our_dpo(
    algorithm: DPO, new: list[torch.Tensor], reference: list[torch.Tensor]
) -> tuple[float, list[torch.Tensor], dict[str, float]]:
    batch, leaf = our_batch(reference), packed(new).requires_grad_()
    loss = algorithm.loss(batch, Output(leaf))
    weights_B = sequence_weights(batch)
    total = (loss.values * weights_B).sum()
    total.backward()
    assert leaf.grad is not None
    metrics = {name: float((x * weights_B).sum()) for name, x in loss.metrics_B.items()}
    gradients = list(leaf.grad[batch.mask_N].split(CHOSEN + REJECTED))
    return float(total.detach()), gradients, metrics


def assert_equal(ours: tuple[float, list[torch.Tensor]], theirs: tuple[float, Any]) -> None:
    # Weights are float32: 1e-6 is ten of their roundings.
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6, rel=1e-6)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "loss_type"),
    [
        (DPO(beta=5.0), "sigmoid_norm"),
        (DPO(beta=0.1, length_normalized=False), "sigmoid"),
        (DPO(beta=0.1, variant="ipo"), "ipo"),
    ],
)
def test_dpo_and_its_gradient_are_trls(algorithm: DPO, loss_type: str):
    new, reference = logprobs(1), logprobs(2)
    *theirs, their_metrics = trl_dpo(new, reference, loss_type=loss_type, beta=algorithm.beta)
    *ours, metrics = our_dpo(algorithm, new, reference)
    assert_equal((ours[0], ours[1]), (theirs[0], theirs[1]))
    # Of sums, as TRL's metrics are whatever the loss.
    if not algorithm.length_normalized:
        for name, value in metrics.items():
            assert value == pytest.approx(their_metrics[name][0], rel=1e-6), name


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", ["simpo", "sigmoid"])
def test_simpo_and_label_smoothing_are_those_of_trls_cpo(loss_type: str, label_smoothing: float):
    # CPO has no reference: for `sigmoid`, ours is one that finds every token certain.
    beta, gamma = 2.0, 0.6
    averages = loss_type == "simpo"
    algorithm = DPO(
        beta=beta,
        gamma=gamma,
        variant="simpo" if averages else "sigmoid",
        length_normalized=averages,
        label_smoothing=label_smoothing,
    )
    new = logprobs(1)
    loss, gradients, metrics = our_dpo(algorithm, new, [torch.zeros_like(x) for x in new])

    leaves = [x.clone().requires_grad_() for x in new]
    completion = torch.stack([x.mean() if averages else x.sum() for x in leaves])
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        alpha=0.0,
        beta=beta,
        label_smoothing=label_smoothing,
        loss_type=loss_type,
        simpo_gamma=gamma,
    )
    losses, chosen, rejected = CPOTrainer.cpo_loss(
        trainer, completion[:NUM_PAIRS], completion[NUM_PAIRS:]
    )
    losses.mean().backward()
    assert_equal((loss, gradients), (float(losses.mean().detach()), [x.grad for x in leaves]))
    assert metrics["rewards/chosen"] == pytest.approx(float(chosen.mean()))
    assert metrics["rewards/rejected"] == pytest.approx(float(rejected.mean()))


@pytest.mark.parametrize(
    "algorithm", [RewardModel(), RewardModel(margin=0.3), RewardModel(center=0.01)]
)
def test_the_reward_models_loss_and_gradient_are_trls(algorithm: RewardModel):
    generator = torch.Generator().manual_seed(1)
    scores = 2 * torch.randn(2 * NUM_PAIRS, generator=generator, dtype=torch.float64)
    batch, ours = our_batch(logprobs(1)), scores.clone().requires_grad_()
    loss = algorithm.loss(batch, Output(packed(logprobs(1)), scores_B=ours))
    weights_B = sequence_weights(batch)
    total = (loss.values * weights_B).sum()
    total.backward()

    theirs = scores.clone().requires_grad_()
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        args=SimpleNamespace(center_rewards_coefficient=algorithm.center or None),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs: dict[str, Any] = {"attention_mask": torch.ones(2 * NUM_PAIRS, 1)}
    if algorithm.margin:
        inputs["margin"] = torch.full((NUM_PAIRS,), algorithm.margin)

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=theirs[:, None])

    their_loss = RewardTrainer.compute_loss(trainer, model, inputs)
    their_loss.backward()
    assert_equal((float(total.detach()), [ours.grad]), (float(their_loss.detach()), [theirs.grad]))
    for name, their_name in {"rewards/accuracies": "accuracy", "rewards/margins": "margin"}.items():
        value = float((loss.metrics_B[name] * weights_B).sum())
        assert value == pytest.approx(trainer._metrics["train"][their_name][0], rel=1e-6), name
