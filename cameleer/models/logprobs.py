"""Log-probabilities of tokens, a chunk at a time: logits of a whole batch never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cameleer.batch import Batch, Output
from cameleer.models.attention import Packed, packed_hidden, positions
from cameleer.models.fuse import compiled, is_fused

CHUNK_BYTES = {"cpu": 128 * 2**20, "cuda": 2**30}
"""Float32 logits held at once, by device: 680 tokens on a CPU at a vocabulary of 49,152."""


def forward_logprobs(model: nn.Module, batch: Batch, temperature: float) -> Output:
    """Log-probabilities and entropies of the masked tokens, in one packed forward.

    Only masked tokens reach the output head, so a long prompt costs no logits.

    Args:
        temperature: Divides the logits, as it did when the tokens were sampled.
    """
    lengths = batch.lengths_B.tolist()
    device = batch.tokens_N.device
    layout = Packed(lengths, device)
    hidden_ND = packed_hidden(model, batch.tokens_N, positions(lengths, device), layout)
    starts_B = batch.lengths_B.cumsum(0) - batch.lengths_B
    assert not batch.mask_N[starts_B].any(), "nothing predicts the first token of a sequence"
    masked = batch.mask_N.nonzero().squeeze(1)
    head = model.get_output_embeddings()  # type: ignore[operator]
    weight_VD, bias_V = head.weight, head.bias
    if (rows := getattr(head, "num_sampled", None)) is not None:
        weight_VD, bias_V = weight_VD[:rows], None if bias_V is None else bias_V[:rows]
    # Token i is predicted from the hidden state at i - 1.
    logprobs, entropies = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_ND[masked - 1],
        weight_VD,
        bias_V,
        batch.tokens_N[masked],
        temperature,
        is_fused(model),
    )
    zeros_N = torch.zeros(len(batch.tokens_N), dtype=torch.float32, device=device)
    return Output(
        logprobs_N=zeros_N.index_copy(0, masked, logprobs),
        entropy_N=zeros_N.index_copy(0, masked, entropies),
    )


def scaled_logits(hidden: Tensor, head: nn.Module, temperature: float) -> Tensor:
    """Float32 logits at the temperature, without rows that nobody samples. [M, D] -> [M, V]."""
    logits: Tensor = head(hidden)[:, : getattr(head, "num_sampled", None)].float()
    return logits if temperature == 1 else logits.div_(temperature)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias)[token]; logits are computed anew in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        tokens_M: Tensor,
        temperature: float,
        fused: bool = False,
    ) -> tuple[Tensor, Tensor]:
        measure = compiled(_measure_in_one_pass) if fused else _measure
        chunk = max(1, CHUNK_BYTES[weight_VD.device.type] // (4 * weight_VD.shape[0]))
        parts = [
            measure(nn.functional.linear(hidden, weight_VD, bias_V), tokens, temperature)
            for hidden, tokens in zip(hidden_MD.split(chunk), tokens_M.split(chunk), strict=True)
        ]
        logprobs_M, entropy_M, norm_M = (torch.cat(several) for several in zip(*parts, strict=True))
        ctx.save_for_backward(hidden_MD, weight_VD, bias_V, tokens_M, norm_M)
        ctx.temperature, ctx.chunk, ctx.fused = temperature, chunk, fused
        ctx.mark_non_differentiable(entropy_M)
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, bias_V, tokens_M, norm_M = ctx.saved_tensors
        differentiate = compiled(_differentiate_in_one_pass) if ctx.fused else _differentiate
        grad_hidden = torch.empty_like(hidden_MD)
        # Chunks add up in float32, whatever the weights are in.
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
        if bias_V is not None and ctx.needs_input_grad[2]:
            grad_bias = torch.zeros(len(bias_V), dtype=torch.float32, device=weight_VD.device)
        for start in range(0, len(tokens_M), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = nn.functional.linear(hidden_MD[part], weight_VD, bias_V)
            grad = differentiate(
                logits, tokens_M[part], norm_M[part], grad_M[part], ctx.temperature
            )
            if grad_bias is not None:
                grad_bias += grad.sum(0, dtype=torch.float32)
            grad = grad.to(weight_VD.dtype)
            grad_hidden[part] = grad @ weight_VD
            if grad_weight is None:
                continue
            if weight_VD.dtype == torch.float32:
                grad_weight.addmm_(grad.T, hidden_MD[part])
            else:
                grad_weight += grad.T @ hidden_MD[part]
        weight_grad = None if grad_weight is None else grad_weight.to(weight_VD.dtype)
        bias_grad = None if grad_bias is None else grad_bias.to(bias_V.dtype)
        return grad_hidden, weight_grad, bias_grad, None, None, None


def _measure(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of tokens, entropies and log-normalisers: [M, V] -> [M] each."""
    logits = _scaled(logits, temperature)
    norm = logits.logsumexp(-1)
    all_logprobs = logits.sub_(norm[:, None])
    # A probability of 0 meets a finite logarithm. log Z - E[logit] would cancel to noise, even
    # below 0, where a policy is sure of itself.
    entropies = -torch.linalg.vecdot(all_logprobs.exp(), all_logprobs)
    return all_logprobs.gather(1, tokens[:, None]).squeeze(1), entropies, norm


def _differentiate(
    logits: Tensor, tokens: Tensor, norm: Tensor, grad: Tensor, temperature: float
) -> Tensor:
    """The gradient of the logits, from that of the log-probabilities: [M] -> [M, V]."""
    # d logprob / d logit = onehot - p
    found = _scaled(logits, temperature).sub_(norm[:, None]).exp_().mul_(-grad[:, None])
    return found.scatter_add_(1, tokens[:, None], grad[:, None]).div_(temperature)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.float()
    return logits.div_(temperature) if temperature != 1.0 else logits


# The same for torch.compile: nothing in place, and no scatter.


def _measure_in_one_pass(
    logits: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    scaled = logits.float() / temperature
    norm = scaled.logsumexp(-1)
    all_logprobs = scaled - norm[:, None]
    entropies = -(all_logprobs.exp() * all_logprobs).sum(-1)
    return scaled.gather(1, tokens[:, None]).squeeze(1) - norm, entropies, norm


def _differentiate_in_one_pass(
    logits: Tensor, tokens: Tensor, norm: Tensor, grad: Tensor, temperature: float
) -> Tensor:
    p = (logits.float() / temperature - norm[:, None]).exp()
    is_token = torch.arange(logits.shape[1], device=logits.device) == tokens[:, None]
    return ((is_token.float() - p) * (grad / temperature)[:, None]).to(logits.dtype)
