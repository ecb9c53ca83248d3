"""Models of one number: reward models, the value models of PPO, and the `<pad>` that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from cameleer.batch import Batch
from cameleer.errors import ModelError
from cameleer.models.attention import Packed, packed_hidden, positions
from cameleer.models.load import load_config, load_model, load_weights
from cameleer.types import DType

HEAD = "score.weight"
"""The only weights of a model of one number that a language model does not have."""


def load_scorer(source: str, dtype: DType, device: str, *, seed: int | None = None) -> Any:
    """A transformers model for sequence classification with one label, as `load_model` makes one.

    Args:
        seed: Of the head, where the checkpoint is a language model's and has none: its weights are
            drawn from N(0, 1 / (hidden size + 1)), as Tulu 3's reward model began
            (allenai/open-instruct@3f37c29d). None refuses such a checkpoint.
    """
    config = load_config(source)
    config.num_labels = 1
    model, missing = load_weights(
        AutoModelForSequenceClassification, source, config, dtype, device, may_lack=(HEAD,)
    )
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{source} is a {config.model_type}, whose {type(model).__name__} has no linear "
            "`score` on top, which Cameleer reads. Use a Llama, Qwen or Mistral."
        )
    if HEAD in missing:
        if seed is None:
            raise ModelError(
                f"{source} is no reward model: its weights have no {HEAD}. Name the checkpoint of "
                "a RewardModel run, or another AutoModelForSequenceClassification of one label."
            )
        generator = torch.Generator().manual_seed(seed)
        std = (head.in_features + 1) ** -0.5
        drawn = torch.randn(head.weight.shape, generator=generator) * std
        with torch.no_grad():
            head.weight.copy_(drawn)
    return model


def load_like(model: nn.Module, source: str | Path, dtype: DType) -> Any:
    """What was saved of a model, on the CPU."""
    load = load_scorer if has_score(model) else load_model
    return load(str(source), dtype, "cpu")


def has_score(model: nn.Module) -> bool:
    """True for a model of one number, False for a language model."""
    return isinstance(getattr(model, "score", None), nn.Linear)


def forward_scores(model: nn.Module, batch: Batch) -> Tensor:
    """A reward model's score of each sequence, float32: at its last masked token. Shape B.

    Of a conversation that is the end-of-sequence token of the last answer; what a chat template
    puts behind it is not read.
    """
    device = batch.tokens_N.device
    places_N = torch.arange(len(batch.tokens_N), device=device)
    sequence_N = batch.per_token(torch.arange(batch.num_sequences, device=device))
    last_B = torch.full((batch.num_sequences,), -1, device=device).scatter_reduce(
        0, sequence_N[batch.mask_N], places_N[batch.mask_N], "amax"
    )
    assert (last_B >= 0).all(), "every sequence has a token to be scored at"
    return _scores(model, batch, last_B)


def forward_values(model: nn.Module, batch: Batch) -> Tensor:
    """V(t_<i) of each masked token, float32, read where the token is predicted. Shape N."""
    masked = batch.mask_N.nonzero().squeeze(1)
    zeros_N = torch.zeros(len(batch.tokens_N), dtype=torch.float32, device=masked.device)
    return zeros_N.index_copy(0, masked, _scores(model, batch, masked - 1))


def _scores(model: nn.Module, batch: Batch, places: Tensor) -> Tensor:
    lengths, device = batch.lengths_B.tolist(), batch.tokens_N.device
    layout = Packed(lengths, device)
    hidden_ND = packed_hidden(model, batch.tokens_N, positions(lengths, device), layout)
    head: Any = model.score
    # In bfloat16 a score would come in steps of a hundredth of itself.
    bias = None if head.bias is None else head.bias.float()
    found = nn.functional.linear(hidden_ND[places].float(), head.weight.float(), bias)
    return found.squeeze(1)


# Padding: Cameleer's rows have none, other programs' do.


def add_pad_token(tokenizer: Any, *, apart_from_eos: bool = False) -> None:
    """Give a tokenizer without a padding token ``<pad>``, as Tulu 3's training did.

    Args:
        apart_from_eos: Also where it pads with its end-of-sequence token: transformers scores a
            sequence at its last token that is not padding.
    """
    pad = tokenizer.pad_token_id
    if pad is None or (apart_from_eos and pad == tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": "<pad>"})


@torch.no_grad()
def fit_to_tokenizer(model: Any, tokenizer: Any) -> None:
    """Add rows for tokens that the model has none for, a multiple of 8, and keep `<pad>` unsampled.

    A new row is the mean of the old ones. Where padding is the last token of a vocabulary, its row
    and those behind it are left out of the distribution over tokens.
    """
    pad, old = tokenizer.pad_token_id, model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=8, mean_resizing=False)
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            if embedding is not None:
                embedding.weight[old:] = embedding.weight[:old].float().mean(0)
                if getattr(embedding, "bias", None) is not None:
                    embedding.bias[old:] = embedding.bias[:old].float().mean(0)
    model.config.pad_token_id = pad
    head = model.get_output_embeddings()
    if head is not None and pad == len(tokenizer) - 1 and pad != tokenizer.eos_token_id:
        head.num_sampled = pad
