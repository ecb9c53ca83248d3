"""Learning from preference pairs without a reward model: DPO and two of its relatives.

Let m(y) be log p(y) of the policy less that of the reference, over the tokens of an answer that are
learned from, and d = m(chosen) - m(rejected). The loss of a pair is

    sigmoid  -log sigmoid(beta d)          DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7)
    ipo      (d - 1 / (2 beta))^2          IPO (Azar et al. 2023, arXiv:2310.12036, eq. 17)
    simpo    -log sigmoid(beta d - gamma)  SimPO (Meng et al. 2024, arXiv:2405.14734, eq. 6), where
                                           m(y) is log p(y) of the policy: there is no reference
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from cameleer.algorithms.functional import at_chosen, completion_means, pair_metrics
from cameleer.batch import Batch, Loss, Output


@dataclass(frozen=True, kw_only=True)
class DPO:
    """A loss a pair. The defaults are those of every Tulu 3 size ("dpo_norm")."""

    beta: float = 5.0
    """How strongly the policy is held to the reference. About 0.1 where log-probabilities are
    summed, and an IPO of means asks for d = 1 / (2 beta) nats a token."""
    length_normalized: bool = True
    """log p(y) is the mean over the answer's tokens, not their sum. The papers sum for DPO and
    IPO and average for SimPO. TRL sums for ``sigmoid``, and averages for ``sigmoid_norm`` and for
    ``ipo``, as IPO's authors told it that they had."""
    variant: Literal["sigmoid", "ipo", "simpo"] = "sigmoid"
    """Which of the module's losses."""
    gamma: float = 1.5
    """The margin that SimPO asks for; no other variant reads it. Open-instruct states gamma / beta
    (0.3, so 1.5 at a beta of 5), TRL gamma."""
    label_smoothing: float = 0.0
    """Share of pairs taken to be labelled the wrong way round: the loss of the swapped pair enters
    with it (conservative DPO, https://ericmitchell.ai/cdpo.pdf). IPO does not read it. TRL's
    ``robust`` subtracts that loss instead, and divides by one minus twice the share."""

    learns_from: ClassVar[Literal["pairs"]] = "pairs"
    trains: ClassVar[Literal["policy"]] = "policy"

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.variant == "simpo" else ("reference",)

    def advantages(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, output: Output) -> Loss:
        """The module's formulas. Both sequences of a pair must be in the batch.

        Metrics have the field's names. Rewards are ``beta * m(y)``, and they and ``logps/*`` are
        means a token where the loss is one of means: as in open-instruct, while TRL sums them
        always. An accuracy counts a tie as wrong.
        """
        chosen, rejected = batch.pairs
        logp_B = self._completion(batch, output.logprobs_N)
        moved_B = logp_B
        if self.variant != "simpo":
            assert batch.reference_logprobs_N is not None, "the loop fills what `needs` names"
            moved_B = logp_B - self._completion(batch, batch.reference_logprobs_N)
        rewards_B = self.beta * moved_B.detach()
        return Loss(
            values=at_chosen(batch, self._compare(moved_B[chosen] - moved_B[rejected])),
            per="pair",
            metrics_B={
                **pair_metrics(batch, rewards_B),
                "logps/chosen": at_chosen(batch, logp_B.detach()[chosen]),
                "logps/rejected": at_chosen(batch, logp_B.detach()[rejected]),
            },
        )

    def _compare(self, difference: Tensor) -> Tensor:
        """The loss of each pair, from d."""
        if self.variant == "ipo":
            return (difference - 1 / (2 * self.beta)).square()
        margin = self.beta * difference - (self.gamma if self.variant == "simpo" else 0.0)
        right, wrong = -logsigmoid(margin), -logsigmoid(-margin)
        return (1 - self.label_smoothing) * right + self.label_smoothing * wrong

    def _completion(self, batch: Batch, logprobs_N: Tensor) -> Tensor:
        """log p of each completion, [N] -> [B]; 0 where nothing is learned from."""
        if self.length_normalized:
            return completion_means(batch, logprobs_N)
        return batch.per_sequence(logprobs_N * batch.mask_N)
