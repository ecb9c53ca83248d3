"""Loss and gradient of GRPO and its relatives are TRL's, on the same tensors, in float64."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.normalize import Normalize
from cameleer.batch import Batch, Output

PROMPTS, COMPLETIONS = (3, 3, 5, 5, 2, 2), (4, 7, 1, 9, 6, 2)
ADVANTAGES = (0.9, -0.9, 0.3, -0.3, 1.4, -0.2)
CLIP, CAP, MAX_TOKENS = 0.2, 2.0, 16


def logprobs(seed: int) -> list[torch.Tensor]:
    """One tensor a completion, spread widely enough that some ratios are clipped."""
    generator = torch.Generator().manual_seed(seed)
    return [-3 * torch.rand(n, generator=generator, dtype=torch.float64) for n in COMPLETIONS]


def padded(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


def trl_loss(
    loss_type: str,
    beta: float,
    new: list[torch.Tensor],
    old: Any,
    reference: Any,
    *,
    sampler: Any = None,
    delta: float | None = None,
    **changes: Any,
) -> tuple[float, list[torch.Tensor]]:
    """TRL's own `_compute_loss`, with the model's log-probabilities put in its place.

    Args:
        sampler: The engine's log-probabilities. TRL truncates the ratio to them before the loss.
        changes: Attributes of the trainer.
    """
    leaf = padded(new).requires_grad_()
    mask = padded([torch.ones(n, dtype=torch.long) for n in COMPLETIONS])
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
        sync_gradients=True,
    )

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, leaf.detach(), None),
        get_high_entropy_mask=None,
        accelerator=accelerator,
        args=SimpleNamespace(
            delta=delta, use_bias_correction_kl=False, steps_per_generation=1, entropy_target=None
        ),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        beta=beta,
        loss_type=loss_type,
        epsilon_low=CLIP,
        epsilon_high=CLIP,
        importance_sampling_level="token",
        max_completion_length=MAX_TOKENS,
        current_gradient_accumulation_steps=1,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=sampler is not None,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    vars(trainer).update(changes)
    length = max(COMPLETIONS)
    weight = sampler and (padded(old) - padded(sampler)).exp().clamp(max=CAP)
    loss = GRPOTrainer._compute_loss(
        trainer,
        None,
        {
            "prompt_ids": torch.zeros(len(COMPLETIONS), 5, dtype=torch.long),
            "prompt_mask": torch.ones(len(COMPLETIONS), 5, dtype=torch.long),
            "completion_ids": torch.zeros(len(COMPLETIONS), length, dtype=torch.long),
            "completion_mask": mask,
            "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
            "old_per_token_logps": padded(old),
            "ref_per_token_logps": padded(reference),
            "importance_sampling_ratio": weight,
            "num_items_in_batch": mask.sum(),
        },
    )
    loss.backward()
    assert leaf.grad is not None
    gradients = [row[:n] for row, n in zip(leaf.grad, COMPLETIONS, strict=True)]
    return float(loss.detach()), gradients


def our_loss(
    algorithm: GRPO,
    normalize: str,
    new: list[torch.Tensor],
    old: Any,
    reference: Any,
    sampler: Any = None,
) -> tuple[float, list[torch.Tensor]]:
    """The same completions behind prompts, end to end."""

    def packed(parts: list[torch.Tensor]) -> torch.Tensor:
        zeros = [torch.zeros(n, dtype=torch.float64) for n in PROMPTS]
        return torch.cat([x for pair in zip(zeros, parts, strict=True) for x in pair])

    lengths = torch.tensor([p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    mask_N = packed([torch.ones(n, dtype=torch.float64) for n in COMPLETIONS]).bool()
    batch = Batch(
        tokens_N=torch.zeros(int(lengths.sum()), dtype=torch.long),
        lengths_B=lengths,
        mask_N=mask_N,
        scored_B=torch.ones(len(lengths), dtype=torch.bool),
        old_logprobs_N=packed(old),
        reference_logprobs_N=packed(reference),
        sampler_logprobs_N=sampler and packed(sampler),
    )
    advantages_N = batch.per_token(torch.tensor(ADVANTAGES, dtype=torch.float64)) * mask_N
    batch = replace(batch, advantages_N=advantages_N)
    leaf = packed(new).requires_grad_()
    loss = algorithm.loss(batch, Output(leaf))
    total = (loss.values * Normalize.parse(normalize).weights(batch)).sum()
    total.backward()
    assert leaf.grad is not None
    assert float(leaf.grad[~mask_N].abs().max()) == 0
    return float(total.detach()), list(leaf.grad[mask_N].split(COMPLETIONS))


def assert_equal(
    ours: tuple[float, list[torch.Tensor]], theirs: tuple[float, list[torch.Tensor]]
) -> None:
    # Weights are float32: 1e-6 is ten of their roundings.
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6, rel=1e-6)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize(
    ("normalize", "loss_type"),
    [
        ("token", "bnpo"),
        ("token", "dapo"),
        ("sequence", "grpo"),
        (f"constant({MAX_TOKENS})", "dr_grpo"),
        ("sum", "luspo"),
    ],
)
def test_loss_and_gradient_are_trls(normalize: str, loss_type: str, beta: float):
    new, old, reference = logprobs(1), logprobs(2), logprobs(3)
    algorithm = GRPO(clip_eps=CLIP, beta=beta, kl_estimator="k3")
    assert_equal(
        our_loss(algorithm, normalize, new, old, reference),
        trl_loss(loss_type, beta, new, old, reference),
    )


@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize(
    ("algorithm", "normalize", "loss_type", "changes"),
    [
        (GRPO(clip_eps_high=0.9), "token", "dapo", {"epsilon_high": 0.9}),
        (GRPO(dual_clip=1.5), "token", "bnpo", {"delta": 1.5}),
        (GRPO(ratio="sequence"), "sequence", "grpo", {"importance_sampling_level": "sequence"}),
        # TRL's epsilon_high is the end itself here, not its distance from 1.
        (GRPO(surrogate="cispo", clip_eps_high=0.9), "token", "cispo", {"epsilon_high": 1.9}),
        (GRPO(importance_cap=CAP), "token", "dapo", {"sampler": logprobs(4)}),
    ],
    ids=["clip-higher", "dual clip", "gspo", "cispo", "truncated importance"],
)
def test_the_relatives_and_their_gradients_are_trls(
    algorithm: GRPO, normalize: str, loss_type: str, changes: dict[str, Any], beta: float
):
    new, old, reference = logprobs(1), logprobs(2), logprobs(3)
    algorithm = replace(algorithm, beta=beta)
    ours = our_loss(algorithm, normalize, new, old, reference, changes.get("sampler"))
    assert_equal(ours, trl_loss(loss_type, beta, new, old, reference, **changes))
    # The option matters to these tensors.
    plain = our_loss(GRPO(beta=beta), normalize, new, old, reference)
    assert abs(ours[0] - plain[0]) > 1e-3


def test_on_policy_the_gradient_of_rloo_is_trls():
    # TRL's ratio is that of whole sequences, which a token's ratio equals in its gradient at 1.
    # The values differ there: minus advantage a sequence, or a token.
    new = logprobs(1)
    leaf = padded(new).requires_grad_()
    mask = padded([torch.ones(n, dtype=torch.long) for n in COMPLETIONS])
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x),
        aux_loss_enabled=False,
        epsilon_low=CLIP,
        epsilon_high=CLIP,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(len(COMPLETIONS), 5, dtype=torch.long),
        "prompt_mask": torch.ones(len(COMPLETIONS), 5, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        "old_logps": torch.stack([x.sum() for x in new]),
    }
    RLOOTrainer._compute_loss(trainer, None, inputs).backward()
    assert leaf.grad is not None
    _, ours = our_loss(GRPO(beta=0.0), "sum", new, new, new)
    for mine, row in zip(ours, leaf.grad, strict=True):
        torch.testing.assert_close(mine, row[: len(mine)], atol=1e-6, rtol=1e-6)


def test_the_tensors_of_this_comparison_hold_clipped_and_unclipped_tokens():
    ratios = torch.cat([(n - o).exp() for n, o in zip(logprobs(1), logprobs(2), strict=True)])
    clipped = ((ratios < 1 - CLIP) | (ratios > 1 + CLIP)).double().mean()
    assert 0.2 < float(clipped) < 0.95
