"""AdamW over float32 master weights, whatever the policy computes in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cameleer.recipe import Schedule


class MasterAdamW:
    """Keeps float32 weights and gradients; the module holds their rounding.

    At a learning rate of 5e-7 almost every bfloat16 update would round to nothing. For a float32
    module the master weights are the module's own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        warmup_steps: int,
        schedule: Schedule = "constant",
        num_updates: int = 0,
    ) -> None:
        """
        Args:
            warmup_steps: The rate rises linearly to `lr` over so many updates.
            schedule: What it does then, until the last of `num_updates`.
        """
        self._names: list[str] = []
        self._modules: list[Tensor] = []
        self.masters: list[Tensor] = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            master: Tensor = parameter
            if parameter.dtype != torch.float32:
                master = parameter.detach().to(torch.float32).requires_grad_()
                # Dozens of micro-batches lose small terms in bfloat16, so they add up in float32.
                parameter.grad_dtype = torch.float32
                parameter.register_post_accumulate_grad_hook(_gathers_for(master))
            self._names.append(name)
            self._modules.append(parameter)
            self.masters.append(master)
        self._adam = torch.optim.AdamW(
            self.masters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
        )
        self._lr, self._warmup_steps = lr, warmup_steps
        self._schedule, self._num_updates = schedule, num_updates

    def learning_rate(self, step: int) -> float:
        """The rate of the update that follows `step` updates.

        The shapes are those of transformers' schedulers, but that the first update of a warm-up has
        a rate above 0.
        """
        if step < self._warmup_steps:
            return self._lr * (step + 1) / self._warmup_steps
        if self._schedule == "constant":
            return self._lr
        left = max(0, self._num_updates - step) / max(1, self._num_updates - self._warmup_steps)
        if self._schedule == "linear":
            return self._lr * left
        return self._lr * (1 - math.cos(math.pi * left)) / 2

    def clip(self, max_grad_norm: float) -> float:
        """Scale the gradients gathered so far to a norm of at most this. Returns what it was."""
        return float(nn.utils.clip_grad_norm_(self.masters, max_grad_norm))

    def step(self, step: int) -> float:
        """The update that follows `step` updates. Returns its learning rate."""
        lr = self.learning_rate(step)
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        self.publish()
        self.drop_gradients()
        return lr

    @torch.no_grad()
    def publish(self) -> None:
        """Round the master weights into the module."""
        pairs = zip(self._modules, self.masters, strict=True)
        rounded = [(module, master) for module, master in pairs if module is not master]
        if rounded:
            torch._foreach_copy_([module for module, _ in rounded], [m for _, m in rounded])

    def drop_gradients(self) -> None:
        """Forget the gradients gathered so far."""
        for tensor in (*self._modules, *self.masters):
            tensor.grad = None

    def missing_state_bytes(self) -> int:
        """Of the two moments, which do not exist before the first step."""
        return 0 if self._adam.state else sum(8 * master.numel() for master in self.masters)

    def tensors(self) -> dict[str, Tensor]:
        """Moments by name, and master weights where the module holds only their rounding."""
        found: dict[str, Tensor] = {}
        for name, module, master in zip(self._names, self._modules, self.masters, strict=True):
            if module is not master:
                found[f"master.{name}"] = master.detach()
            for key, value in self._adam.state.get(master, {}).items():
                found[f"{key}.{name}"] = value
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave, into a module that holds the weights of that moment."""
        for name, module, master in zip(self._names, self._modules, self.masters, strict=True):
            if module is not master:
                master.copy_(tensors[f"master.{name}"])
            state: dict[str, Any] = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}.{name}" in tensors:
                    state[key] = tensors[f"{key}.{name}"].to(master.device).clone()
            if state:
                self._adam.state[master] = state
        self.publish()


def _gathers_for(master: Tensor) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad
        else:
            master.grad += parameter.grad
        # torch.compile cannot read a parameter beside a gradient of another type.
        parameter.grad = None

    return hook
