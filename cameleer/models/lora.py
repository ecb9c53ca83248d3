"""Low-rank adapters (LoRA, arXiv:2106.09685), put into a model's linear layers by peft.

The model stays the transformers module that it was, with peft's layers around some of its own. So
everything that reads it goes on to, and its own weights are there to be had: as the reference
policy, and as what an adapter is merged into when the whole model is saved.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cameleer.errors import ModelError, nearest
from cameleer.models.heads import has_score

_ADAPTER = "default"
"""peft's name for an adapter that is the only one."""
_FILE = "adapter_model.safetensors"


def add_adapter(
    model: Any,
    *,
    rank: int,
    alpha: float,
    targets: Literal["all-linear"] | Sequence[str],
    rslora: bool,
    seed: int,
) -> None:
    """Freeze a model's weights, and give its layers updates of low rank that are trained instead.

    A layer computes W x + s B A x, where s is alpha / rank, or alpha / sqrt(rank) for rsLoRA
    (arXiv:2312.03732). A is drawn from U(-1, 1) / sqrt(width of x), as peft begins, and B is 0: the
    model computes what it did. The `score` of a model of one number is trained as a whole.

    Raises:
        ModelError: A target names no linear layer of the decoder, or peft cannot adapt it.
    """
    peft = _import_peft()
    names = _all_linear(model) if targets == "all-linear" else _found(model, targets)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=names, use_rslora=rslora, lora_dropout=0.0
    )
    try:
        # Its draws are replaced, and must not move the generator that others draw from.
        with torch.random.fork_rng(devices=[]):
            peft.inject_adapter_in_model(config, model, _ADAPTER)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"peft cannot adapt the layers {', '.join(names)} of a {type(model).__name__}: "
            f"{str(error).strip()} Name others in lora.targets."
        ) from error
    if has_score(model):
        model.score.requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in _adapted(model):
        weight = layer.lora_A[_ADAPTER].weight
        if not weight.is_meta:
            drawn = torch.rand(weight.shape, generator=generator, device="cpu") * 2 - 1
            weight.data.copy_(drawn / weight.shape[1] ** 0.5)


def has_adapter(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


@contextlib.contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """The model that an adapter was added to, for a while: its layers, names and numbers."""
    with _replaced(model, lambda layer: layer.base_layer):
        yield


@contextlib.contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """The model with its adapter merged into the weights, for a while, to be saved and not to run.

    The merged weights are on the CPU, and in bfloat16 rounded once: small updates are lost in that.
    """
    with torch.no_grad(), _replaced(model, _merged):
        yield


def save_adapter(model: Any, directory: Path) -> None:
    """Write what is trained in peft's format, for ``PeftModel.from_pretrained``."""
    config = copy.copy(model.peft_config[_ADAPTER])
    config.base_model_name_or_path = model.name_or_path
    config.task_type = "SEQ_CLS" if has_score(model) else "CAUSAL_LM"
    config.modules_to_save = ["score"] if has_score(model) else None
    config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    config.save_pretrained(str(directory))
    tensors = {name: p.detach().cpu().contiguous() for name, p in _trained(model)}
    save_file(tensors, directory / _FILE, metadata={"format": "pt"})


@torch.no_grad()
def load_adapter(model: Any, directory: Path) -> None:
    """Take back what `save_adapter` wrote."""
    stored = load_file(directory / _FILE)
    for name, parameter in _trained(model):
        parameter.copy_(stored[name])


def _trained(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The adapter, and a head of one number, by their names in peft's files."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}", parameter


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    if not has_adapter(model):
        return []
    kind = _import_peft().tuners.lora.LoraLayer
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]


@contextlib.contextmanager
def _replaced(model: nn.Module, instead: Callable[[Any], nn.Module]) -> Iterator[None]:
    layers = _adapted(model)
    try:
        for name, layer in layers:
            model.set_submodule(name, instead(layer))
        yield
    finally:
        for name, layer in layers:
            model.set_submodule(name, layer)


def _merged(layer: Any) -> nn.Linear:
    base, a, b = layer.base_layer, layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    weight = base.weight.float() + layer.scaling[_ADAPTER] * (b.float() @ a.float())
    found = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    found.weight = nn.Parameter(weight.to(base.weight.dtype).cpu(), requires_grad=False)
    found.bias = base.bias
    return found


def _linear_layers(model: Any) -> list[str]:
    """Names of the decoder's, below an output head or a score."""
    body = model.base_model
    return [name for name, module in body.named_modules() if isinstance(module, nn.Linear)]


def _all_linear(model: Any) -> list[str]:
    names = sorted({name.rpartition(".")[2] for name in _linear_layers(model)})
    for name, parameter in model.base_model.named_parameters():
        if parameter.ndim > 2:
            raise ModelError(
                f"A {type(model).__name__} keeps the weights of several layers in one, {name} of "
                f"shape {tuple(parameter.shape)}, which LoRA does not reach: 'all-linear' would "
                f"leave its experts as they are. Say which layers to adapt, of {', '.join(names)}: "
                "lora.targets=(…,)."
            )
    if not names:
        raise ModelError(
            f"A {type(model).__name__} has no linear layers of torch's, which is what LoRA adapts. "
            "Use another model, or train it whole (lora=None)."
        )
    return names


def _found(model: Any, targets: Sequence[str]) -> list[str]:
    layers = _linear_layers(model)
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise ModelError(
                f"lora.targets names {target!r}, and no linear layer of the {type(model).__name__} "
                f"is called that.{nearest(target, known)} It has {', '.join(known)}."
            )
    return list(targets)


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ModelError(
            "The recipe's model has `lora`, and the package peft is not installed. Install it with "
            "`pip install 'cameleer[lora]'`."
        ) from error
    return peft
