"""Loading checkpoints and tokenizers, and refusing what would train wrongly."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cameleer.errors import ModelError
from cameleer.models import attention
from cameleer.types import DType

_CHANGES_LOGITS = (
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
)
"""Config fields of heads that are more than one matrix product."""


def load_config(source: str) -> Any:
    """The model's configuration, from a directory or hub id. Weights are not touched."""
    directory = Path(source)
    if source.endswith(".gguf") or (
        directory.is_dir() and not (directory / "config.json").exists()
    ):
        found = (
            ", ".join(sorted(p.name for p in directory.iterdir())[:5]) if directory.is_dir() else ""
        )
        raise ModelError(
            f"{source} is not a Hugging Face checkpoint: it has no config.json"
            + (f" (it holds {found})" if found else "")
            + ". Point model.source at a directory with config.json, *.safetensors and tokenizer "
            "files; convert GGUF weights first, as cameleer/models/smollm2.py does."
        )
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Cannot read the configuration of model {source!r}: {_first_line(error)} "
            "Check the path or hub id, and that the hub can be reached."
        ) from error
    for field in _CHANGES_LOGITS:
        if getattr(config, field, None) not in (None, 1.0):
            raise ModelError(
                f"{source} has {field}={getattr(config, field)}, which Cameleer's output head does "
                "not apply: its log-probabilities would be wrong. This model is not supported yet."
            )
    return config


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a directory or hub id."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Cannot read a tokenizer from {source!r}: {_first_line(error)} "
            "Save one there with tokenizer.save_pretrained."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {source} has no eos_token: nothing could end an answer."
        )
    return tokenizer


def load_model(source: str, dtype: DType, device: str) -> Any:
    """The policy: eval mode, no dropout, attention of ours. Safetensors only."""
    model, _ = load_weights(AutoModelForCausalLM, source, load_config(source), dtype, device)
    return model


def load_weights(
    kind: Any,
    source: str,
    config: Any,
    dtype: DType,
    device: str,
    *,
    may_lack: Collection[str] = (),
) -> tuple[Any, set[str]]:
    """A model of one of transformers' Auto classes, as Cameleer runs it.

    Returns:
        The model, and which weights of `may_lack` the checkpoint does not have.
    """
    directory = Path(source)
    if directory.is_dir() and not any(directory.glob("*.safetensors")):
        raise ModelError(
            f"{source} has no *.safetensors file. Pickled weights can run code and are not loaded; "
            "save the model once with save_pretrained(..., safe_serialization=True)."
        )
    try:
        model, found = kind.from_pretrained(
            source,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention.NAME,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # It would tell them apart only in its log.
        )
    except KeyError as error:
        raise ModelError(
            f"{source} is a {config.model_type}, whose attention knows only implementations of its "
            "own. Use a decoder of transformers that takes any, such as a Llama, Qwen or OLMo."
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"Cannot load the weights of {source!r}: {_first_line(error)}") from error
    missing = set(found["missing_keys"])
    lacked = sorted(missing - set(may_lack))
    if lacked:
        raise ModelError(
            f"{source} lacks {len(lacked)} of the model's weights, {lacked[0]} among them: "
            "transformers drew them at random. Save the whole causal language model there."
        )
    for name, stored, expected in sorted(found["mismatched_keys"]):
        raise ModelError(
            f"{source} holds {name} of shape {tuple(stored)}, and its config.json makes it "
            f"{tuple(expected)}. Weights and configuration are not of one model."
        )
    without_dropout(model)
    model = model.to(device).eval()
    _check_packing(model, source)
    return model, missing


@torch.no_grad()
def _check_packing(model: nn.Module, source: str) -> None:
    """Raises ModelError where a sequence of a packed row would see the one before it.

    Recurrent layers, and attention that does not go through transformers' AttentionInterface, know
    nothing of our layout. Other numbers in the first sequence must not change the second.
    """
    device = next(model.parameters()).device
    lengths = [4, 4]
    row = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8], device=device)
    other = torch.tensor([9, 8, 7, 6, 5, 6, 7, 8], device=device)
    layout, places = attention.Packed(lengths, device), attention.positions(lengths, device)
    try:
        first, second = (
            attention.packed_hidden(model, tokens, places, layout)[4:] for tokens in (row, other)
        )
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"{source} cannot run on packed rows, as Cameleer runs models: {_first_line(error)} "
            "Use a decoder whose layers are all full attention, such as a Llama, Qwen or OLMo."
        ) from error
    # Equal shapes round equally, except in the routing of experts.
    noise = 16 * torch.finfo(first.dtype).eps * float(first.abs().max())
    if not float((first - second).abs().max()) <= noise:
        raise ModelError(
            f"{source} is a {type(model).__name__}, which lets a sequence of a packed row see the "
            "one before it: some of its layers are recurrent, or have an attention of their own. "
            "Use a decoder whose layers are all full attention, such as a Llama, Qwen or OLMo."
        )


def without_dropout(model: nn.Module) -> None:
    """Dropout off for good: a ratio of two forwards would be noise otherwise."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 Modules type attributes as tensors.


def check_vocabulary(tokenizer: Any, config: Any, source: str) -> None:
    """Raises ModelError where the tokenizer can produce ids that the model has no row for."""
    rows, highest = config.vocab_size, max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"Tokenizer and model of {source} do not fit: the tokenizer has ids up to {highest}, "
            f"the model has {rows} embeddings. Use the tokenizer the model was trained with, or "
            "resize the embeddings and save the model before training."
        )


def check_same_tokens(tokenizer: Any, other: Any, source: str, what: str) -> None:
    """Raises ModelError where another model would read other tokens in the policy's ids."""
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    # Padding, which one of the two may have been given, is read by neither.
    for token in sorted(ours.keys() - {tokenizer.pad_token}, key=ours.__getitem__):
        if theirs.get(token) != ours[token]:
            raise ModelError(
                f"The {what} {source} reads the policy's token ids, and has another vocabulary: "
                f"{token!r} is {ours[token]} to the policy and {theirs.get(token)} to it. Name one "
                "with the policy's tokenizer."
            )


def weights_hash(model: nn.Module) -> str:
    """Identifies a policy: sha256 over names, shapes and bytes of its parameters."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        flat = parameter.detach().cpu().reshape(-1)  # A scalar cannot be viewed as bytes.
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
