"""The learner in plain PyTorch: one process, or ranks that hold the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cameleer.algorithms import Algorithm
from cameleer.batch import Batch
from cameleer.files import reached
from cameleer.log import quiet_libraries
from cameleer.models.export import foreign_names, verify_export
from cameleer.models.load import load_model, weights_hash
from cameleer.models.logprobs import forward_logprobs
from cameleer.train import ranks
from cameleer.train.console import warn
from cameleer.train.learner import Sums
from cameleer.train.optimizer import MasterAdamW
from cameleer.types import DType

_STATE = "optimizer.safetensors"


class TorchLearner:
    """Runs the algorithm's loss over micro-batches of at most so many tokens.

    Under torchrun every rank takes its share of the sequences, and gradients are summed: the
    weights were computed for the whole minibatch, so nothing is left to average.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        algorithm: Algorithm,
        optimizer: MasterAdamW,
        *,
        temperature: float,
        max_grad_norm: float,
        micro_batch_tokens: int,
        load_reference: Callable[[], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            load_reference: Loads the frozen reference policy; None where no algorithm needs one.
        """
        self.version = 0
        self.model = model
        self.tokenizer = tokenizer
        self._algorithm = algorithm
        self._optimizer = optimizer
        self._temperature = temperature
        self._max_grad_norm = max_grad_norm
        self._micro_batch_tokens = micro_batch_tokens
        self._reference = load_reference() if load_reference else None
        self._policy_hash = weights_hash(model)
        self._reference_hash = weights_hash(self._reference) if self._reference else None
        self._device = next(model.parameters()).device
        self._export_verified = False

    @property
    def reference(self) -> nn.Module | None:
        """The frozen policy that the KL penalty holds on to."""
        return self._reference

    @property
    def device(self) -> torch.device:
        return self._device

    def drop_gradients(self) -> None:
        """Forget what `forward_backward` has added up."""
        self._optimizer.drop_gradients()

    def missing_state_bytes(self) -> int:
        """What the optimizer will allocate at its first step."""
        return self._optimizer.missing_state_bytes()

    def identity(self) -> dict[str, Any]:
        return {"policy": self._policy_hash, "reference": self._reference_hash}

    @torch.no_grad()
    def score(self, name: str, batch: Batch) -> Batch:
        model = {"old": self.model, "reference": self._reference}[name]
        assert model is not None, "the run loads the reference when the algorithm needs it"
        logprobs_N = torch.zeros(len(batch.tokens_N), dtype=torch.float32)
        for rows in self._micro_batches(batch):
            micro = batch.select(rows).to(self._device)
            found = forward_logprobs(model, micro, self._temperature)
            logprobs_N[batch.places(rows)] = found.logprobs_N.cpu()
        # Each rank filled in its own sequences.
        ranks.sum_tensor(logprobs_N)
        if name == "old":
            return replace(batch, old_logprobs_N=logprobs_N)
        return replace(batch, reference_logprobs_N=logprobs_N)

    def forward_backward(self, minibatch: Batch) -> tuple[Sums, Tensor]:
        sums = Sums()
        logprobs_N = torch.zeros(len(minibatch.tokens_N), dtype=torch.float32)
        for rows in self._micro_batches(minibatch):
            micro = minibatch.select(rows).to(self._device)
            output = forward_logprobs(self.model, micro, self._temperature)
            logprobs_N[minibatch.places(rows)] = output.logprobs_N.detach().cpu()
            loss = self._algorithm.loss(micro, output)
            weights = micro.weights_N if loss.per == "token" else micro.weights_B
            assert weights is not None, "the loop weighs the minibatch before any split"
            total = (loss.values * weights).sum()
            total.backward()
            sums.add("loss", float(total.detach()))
            assert output.entropy_N is not None
            metrics_N = {"policy/entropy": output.entropy_N, **loss.metrics_N}
            for name, values_N in metrics_N.items():
                _add_mean(sums, name, values_N, micro.learned_N)
            counted_B = micro.chosen_B
            if counted_B is None:
                counted_B = torch.ones_like(micro.lengths_B, dtype=torch.bool)
            for name, values_B in loss.metrics_B.items():
                _add_mean(sums, name, values_B, counted_B)
        return _sum_metrics_over_ranks(sums), ranks.sum_tensor(logprobs_N)

    def step(self) -> dict[str, float]:
        for master in self._optimizer.masters:
            if master.grad is None:
                # A rank without sequences joins with zeros, or the others would wait forever.
                master.grad = torch.zeros_like(master)
            ranks.sum_tensor(master.grad)
        metrics = self._optimizer.step(self.version, self._max_grad_norm)
        self.version += 1
        return metrics

    def save(self, directory: Path) -> None:
        with quiet_libraries():
            self.model.save_pretrained(directory / "model")  # type: ignore[operator]
            self.tokenizer.save_pretrained(directory / "model")
            if not self._export_verified:
                # Names and tensors are the same at every later save.
                verify_export(self.model, directory / "model", dtype_name(self.model))
                foreign = foreign_names(directory / "model", str(self.model.name_or_path))
                if foreign:
                    warn(
                        f"{len(foreign)} tensors of the export have names that the checkpoint it "
                        f"started from does not have, {foreign[0]} among them. Other engines may "
                        "not load it."
                    )
                self._export_verified = True
        reached("checkpoint/model")
        tensors = {k: v.cpu().contiguous() for k, v in self._optimizer.tensors().items()}
        save_file(tensors, directory / _STATE, metadata={"version": str(self.version)})
        reached("checkpoint/optimizer")

    def load(self, directory: Path) -> None:
        with quiet_libraries():
            stored = load_model(str(directory / "model"), dtype_name(self.model), "cpu")
        self.model.load_state_dict(stored.state_dict())
        self._optimizer.restore(load_file(directory / _STATE))
        with safe_open(directory / _STATE, "pt") as file:
            self.version = int(file.metadata()["version"])

    def _micro_batches(self, batch: Batch) -> Iterator[Tensor]:
        """Indices of this rank's sequences, a micro-batch at a time."""
        atoms = [(row,) for row in range(batch.num_sequences)]
        if batch.pair_B is not None:
            atoms = list(zip(*(rows.tolist() for rows in batch.pairs), strict=True))
        lengths = [sum(int(batch.lengths_B[row]) for row in atom) for atom in atoms]
        # Sorted by length and dealt out in turn: ranks get like work, micro-batches little waste.
        order = sorted(range(len(atoms)), key=lambda i: -lengths[i])
        rows: list[int] = []
        num_tokens = 0
        for i in order[ranks.rank() :: ranks.world_size()]:
            if rows and num_tokens + lengths[i] > self._micro_batch_tokens:
                yield torch.tensor(rows)
                rows, num_tokens = [], 0
            rows += atoms[i]
            num_tokens += lengths[i]
        if rows:
            yield torch.tensor(rows)


def _add_mean(sums: Sums, name: str, values: Tensor, counted: Tensor) -> None:
    sums.add(name, float(values[counted].double().sum()), int(counted.sum()))


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
