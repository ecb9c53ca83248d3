"""Fused kernels for what lies between the matrix products of a model, by torch.compile.

A layer of a transformers decoder launches dozens of kernels that read and write every activation to
do next to nothing with it: on a small model they take longer than the matrix products.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def fuse_layers(model: nn.Module) -> None:
    """Compile each decoder layer in place, once for all of them and for all lengths of rows.

    Compiling happens at the first forward and backward. Weights, names and hooks stay as they are.
    Of a model whose attention is torch's flash attention; rectangles would depend on the lengths.
    """
    # Epsilons and an adapter's scaling are constants then: a third of the time to compile.
    torch._dynamo.config.specialize_float = True
    for layer in _layers(model):
        layer.compile(dynamic=True)


def is_fused(model: nn.Module) -> bool:
    return any(layer._compiled_call_impl is not None for layer in _layers(model))


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose kernels are fused, for tensors of all sizes."""
    return torch.compile(function, dynamic=True)


def unfused() -> contextlib.AbstractContextManager[object]:
    """What torch.compile was asked for, as it was written, for a while."""
    eager: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """What transformers lets be recomputed one by one: the layers of its decoders."""
    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
