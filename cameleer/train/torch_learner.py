"""The learner in plain PyTorch: one process, or ranks that hold the same weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cameleer.algorithms import ActorCritic, Algorithm
from cameleer.batch import Batch, Loss, Output
from cameleer.files import reached
from cameleer.log import quiet_libraries
from cameleer.models.export import foreign_names, verify_export
from cameleer.models.fuse import fuse_layers
from cameleer.models.heads import forward_scores, forward_values, has_score, load_like
from cameleer.models.load import weights_hash
from cameleer.models.logprobs import forward_logprobs
from cameleer.models.lora import has_adapter, load_adapter, merged, save_adapter, without_adapter
from cameleer.train import ranks
from cameleer.train.console import warn
from cameleer.train.learner import Sums
from cameleer.train.optimizer import MasterAdamW
from cameleer.types import DType

_STATE = "optimizer.safetensors"


@dataclass(frozen=True)
class Trained:
    """A model and what updates it."""

    model: nn.Module
    optimizer: MasterAdamW
    max_grad_norm: float


class TorchLearner:
    """Runs the algorithm's loss over micro-batches of at most so many tokens.

    Under torchrun every rank takes its share of the sequences, and gradients are summed: the
    weights were computed for the whole minibatch, so nothing is left to average.
    """

    def __init__(
        self,
        policy: Trained,
        tokenizer: Any,
        algorithm: Algorithm,
        *,
        temperature: float,
        micro_batch_tokens: int,
        fused: bool = False,
        load_reference: Callable[[], nn.Module] | None = None,
        value: Trained | None = None,
    ) -> None:
        """
        Args:
            policy: A language model, or a reward model where the algorithm trains one.
            fused: Compile the layers of policy and reference.
            load_reference: Loads the frozen reference policy. None where no algorithm needs one, or
                the policy has an adapter: without it, it is the reference.
            value: The value model of an algorithm that is an ActorCritic.
        """
        self.version = 0
        self.model = policy.model
        self.tokenizer = tokenizer
        self._algorithm = algorithm
        self._value = value
        self._trained = {"": policy} if value is None else {"": policy, "value_": value}
        """By the prefix of their files and metrics."""
        self._temperature = temperature
        self._micro_batch_tokens = micro_batch_tokens
        self._reference = load_reference() if load_reference else None
        self.has_reference = self._reference is not None or (
            has_adapter(self.model) and "reference" in algorithm.needs
        )
        if fused:
            fuse_layers(self.model)
            if self._reference is not None:
                fuse_layers(self._reference)
        self._identity = {"policy": _start_hash(self.model), "reference": None}
        if self.has_reference:
            with self.reference() as reference:
                self._identity["reference"] = weights_hash(reference)
        if value is not None:
            self._identity["value model"] = _start_hash(value.model)
        self._device = next(self.model.parameters()).device
        self._export_verified = False

    @contextlib.contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The frozen policy that the KL penalty holds on to, for a while.

        Where the policy has an adapter, it is the policy without: there are no other weights.
        """
        assert self.has_reference, "the run loads the reference when the algorithm needs it"
        if self._reference is not None:
            yield self._reference
            return
        with without_adapter(self.model):
            yield self.model

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def value(self) -> nn.Module | None:
        """The value model, where there is one."""
        return self._value.model if self._value else None

    def drop_gradients(self) -> None:
        """Forget what `forward_backward` has added up."""
        for trained in self._trained.values():
            trained.optimizer.drop_gradients()

    def missing_state_bytes(self) -> int:
        """What the optimizers will allocate at their first step."""
        return sum(each.optimizer.missing_state_bytes() for each in self._trained.values())

    def identity(self) -> dict[str, Any]:
        return dict(self._identity)

    @torch.no_grad()
    def score(self, name: str, batch: Batch) -> Batch:
        scores_N = torch.zeros(len(batch.tokens_N), dtype=torch.float32)
        live = contextlib.nullcontext(self.model)
        with self.reference() if name == "reference" else live as model:
            for rows in micro_batches(batch, self._micro_batch_tokens):
                micro = batch.select(rows).to(self._device)
                if name == "value":
                    assert self._value is not None, "the run loads what the algorithm needs"
                    found_N = forward_values(self._value.model, micro)
                else:
                    found_N = forward_logprobs(model, micro, self._temperature).logprobs_N
                scores_N[batch.places(rows)] = found_N.cpu()
        # Each rank filled in its own sequences.
        ranks.sum_tensor(scores_N)
        if name == "value":
            return replace(batch, values_N=scores_N)
        if name == "old":
            return replace(batch, old_logprobs_N=scores_N)
        return replace(batch, reference_logprobs_N=scores_N)

    @torch.no_grad()
    def rewards(self, batch: Batch) -> Tensor:
        """The scores that the reward model it trains gives to sequences now. Shape B."""
        scores_B = torch.zeros(batch.num_sequences, dtype=torch.float32)
        for rows in micro_batches(batch, self._micro_batch_tokens):
            scores_B[rows] = forward_scores(self.model, batch.select(rows).to(self._device)).cpu()
        return ranks.sum_tensor(scores_B)

    def forward_backward(self, minibatch: Batch) -> tuple[Sums, Tensor]:
        sums = Sums()
        logprobs_N = torch.zeros(len(minibatch.tokens_N), dtype=torch.float32)
        for rows in micro_batches(minibatch, self._micro_batch_tokens):
            micro = minibatch.select(rows).to(self._device)
            output = self._forward(micro)
            logprobs_N[minibatch.places(rows)] = output.logprobs_N.detach().cpu()
            sums.add("loss", _backward(micro, self._algorithm.loss(micro, output), sums))
            if output.entropy_N is not None:
                _add_mean(sums, "policy/entropy", output.entropy_N, micro.learned_N)
            if self._value is not None:
                assert isinstance(self._algorithm, ActorCritic)
                output = output._replace(values_N=forward_values(self._value.model, micro))
                _backward(micro, self._algorithm.value_loss(micro, output), sums)
        return _sum_metrics_over_ranks(sums), ranks.sum_tensor(logprobs_N)

    def step(self) -> dict[str, float]:
        norms: dict[str, float] = {}
        for name, trained in self._trained.items():
            for master in trained.optimizer.masters:
                if master.grad is None:
                    # A rank without sequences joins with zeros, or the others would wait forever.
                    master.grad = torch.zeros_like(master)
                ranks.sum_tensor(master.grad)
            norms[f"optim/{name}grad_norm"] = trained.optimizer.clip(trained.max_grad_norm)
        if not all(math.isfinite(norm) for norm in norms.values()):
            self.drop_gradients()
            return norms
        rates = {
            f"optim/{name}learning_rate": trained.optimizer.step(self.version)
            for name, trained in self._trained.items()
        }
        self.version += 1
        return norms | rates

    def save(self, directory: Path) -> None:
        for name, trained in self._trained.items():
            self._save(trained, directory, name)
        self._export_verified = True

    def load(self, directory: Path) -> None:
        for name, trained in self._trained.items():
            model, state = trained.model, directory / f"{name}{_STATE}"
            if has_adapter(model):
                # The weights below it are those that the run started from, and stay so.
                load_adapter(model, directory / f"{name}adapter")
            else:
                with quiet_libraries():
                    stored = load_like(model, directory / f"{name}model", dtype_name(model))
                model.load_state_dict(stored.state_dict())
            trained.optimizer.restore(load_file(state))
            with safe_open(state, "pt") as file:
                self.version = int(file.metadata()["version"])

    def _forward(self, micro: Batch) -> Output:
        if not has_score(self.model):
            return forward_logprobs(self.model, micro, self._temperature)
        nothing_N = torch.zeros(len(micro.tokens_N), device=self._device)
        return Output(nothing_N, scores_B=forward_scores(self.model, micro))

    def _save(self, trained: Trained, directory: Path, name: str) -> None:
        model: Any = trained.model
        export = directory / f"{name}model"
        if has_adapter(model):
            save_adapter(model, directory / f"{name}adapter")
        with quiet_libraries(), merged(model):
            model.save_pretrained(export)
            self.tokenizer.save_pretrained(export)
            if not self._export_verified:
                # Names and tensors are the same at every later save.
                verify_export(model, export, dtype_name(model))
                foreign = foreign_names(export, str(model.name_or_path))
                if foreign:
                    warn(
                        f"{len(foreign)} tensors of the export have names that the checkpoint it "
                        f"started from does not have, {foreign[0]} among them. Other engines may "
                        "not load it."
                    )
        reached("checkpoint/model")
        tensors = {k: v.cpu().contiguous() for k, v in trained.optimizer.tensors().items()}
        save_file(tensors, directory / f"{name}{_STATE}", metadata={"version": str(self.version)})
        reached("checkpoint/optimizer")


def micro_batches(batch: Batch, num_tokens: int) -> Iterator[Tensor]:
    """Indices of this rank's sequences: so many tokens at a time, or one sequence or pair."""
    atoms = [(row,) for row in range(batch.num_sequences)]
    if batch.pair_B is not None:
        atoms = list(zip(*(rows.tolist() for rows in batch.pairs), strict=True))
    lengths = [sum(int(batch.lengths_B[row]) for row in atom) for atom in atoms]
    # Sorted by length and dealt out in turn: ranks get like work, micro-batches little waste.
    order = sorted(range(len(atoms)), key=lambda i: -lengths[i])
    rows: list[int] = []
    taken = 0
    for i in order[ranks.rank() :: ranks.world_size()]:
        if rows and taken + lengths[i] > num_tokens:
            yield torch.tensor(rows)
            rows, taken = [], 0
        rows += atoms[i]
        taken += lengths[i]
    if rows:
        yield torch.tensor(rows)


def _backward(micro: Batch, loss: Loss, sums: Sums) -> float:
    """Add the gradient of a weighted loss, and its metrics. Returns the loss."""
    weights = micro.weights_N if loss.per == "token" else micro.weights_B
    assert weights is not None, "the loop weighs the minibatch before any split"
    total = (loss.values * weights).sum()
    total.backward()
    for name, values_N in loss.metrics_N.items():
        _add_mean(sums, name, values_N, micro.learned_N)
    counted_B = micro.chosen_B
    if counted_B is None:
        counted_B = torch.ones_like(micro.lengths_B, dtype=torch.bool)
    for name, values_B in loss.metrics_B.items():
        _add_mean(sums, name, values_B, counted_B)
    return float(total.detach())


def _add_mean(sums: Sums, name: str, values: Tensor, counted: Tensor) -> None:
    sums.add(name, float(values[counted].double().sum()), int(counted.sum()))


def _start_hash(model: nn.Module) -> str:
    """Of the weights that a model was loaded with, below an adapter."""
    with without_adapter(model):
        return weights_hash(model)


def dtype_name(model: nn.Module) -> DType:
    """What the policy computes in."""
    return "float32" if next(model.parameters()).dtype == torch.float32 else "bfloat16"


def _sum_metrics_over_ranks(sums: Sums) -> Sums:
    whole = Sums()
    for part in ranks.gather(sums):
        for name, total in part.total.items():
            whole.add(name, total, part.count[name])
    # The loss is a sum over ranks and micro-batches already, not a mean of their parts.
    whole.count["loss"] = 1.0
    return whole
