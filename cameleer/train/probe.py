"""The longest batch first: what does not fit in memory fails in the first minute.

Before training, the engine decodes in all slots at the full length, and the learner runs forward
and backward on the longest possible micro-batch. Nothing of it stays: the gradient is dropped, no
weight, counter or random state changes, and completions are the same to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cameleer.batch import Batch
from cameleer.errors import TrainingError
from cameleer.models.heads import forward_values, has_score
from cameleer.models.logprobs import forward_logprobs
from cameleer.recipe import Recipe
from cameleer.rollout.engine import Request, RolloutEngine, Sampling
from cameleer.train.torch_learner import TorchLearner

_CPU_OPERATIONS = 2e11
"""On a CPU only runs are probed whose probe is a matter of seconds."""


def worth_probing(recipe: Recipe, num_parameters: int, longest: int) -> bool:
    """On a CUDA device always. A CPU's memory is rarely what ends a run, and its time is dear."""
    num_tokens = max(longest, recipe.runtime.micro_batch_tokens)
    return recipe.runtime.device == "cuda" or 6 * num_parameters * num_tokens < _CPU_OPERATIONS


def probe(
    recipe: Recipe,
    engine: RolloutEngine | None,
    learner: TorchLearner,
    longest: int,
    max_tokens: int,
) -> None:
    """Raises TrainingError where the longest batch does not fit, with the setting to lower.

    Args:
        longest: Tokens of the longest possible sequence.
        max_tokens: Those of them that are sampled or trained.
    """
    if recipe.rollout and engine:
        with _naming("engine", f"rollout.num_slots={recipe.rollout.num_slots}"):
            probe_engine(engine, recipe.rollout.num_slots, longest)
    size = recipe.runtime.micro_batch_tokens
    setting = f"runtime.micro_batch_tokens={size}"
    if longest > size:
        setting = "rollout.max_tokens or max_prompt_tokens" if recipe.rollout else "max_tokens"
    with _naming("learner", setting):
        probe_learner(learner, longest, max_tokens, size)
    if learner.device.type == "cuda":
        torch.cuda.empty_cache()


def probe_engine(engine: RolloutEngine, num_slots: int, longest: int) -> None:
    """Two tokens in every slot, after prompts as long as the longest sequence."""
    # Siblings share one prefill, so it costs little more than the memory.
    requests = [Request("probe", _tokens(longest - 2), sample) for sample in range(num_slots)]
    engine.generate(requests, Sampling(max_tokens=2), seed=0, step=0)


def probe_learner(learner: TorchLearner, longest: int, max_tokens: int, size: int) -> None:
    """Forward and backward of the longest micro-batch, with a gradient of zero."""
    lengths = [longest] * max(1, size // longest)
    if size - sum(lengths) > 1:
        lengths.append(size - sum(lengths))
    mask = [i >= max(1, n - max_tokens) for n in lengths for i in range(n)]
    batch = Batch(
        tokens_N=torch.tensor([t for n in lengths for t in _tokens(n)]),
        lengths_B=torch.tensor(lengths),
        mask_N=torch.tensor(mask),
    ).to(learner.device)
    # The moments of AdamW exist from the second step on.
    moments = torch.empty(learner.missing_state_bytes(), dtype=torch.uint8, device=learner.device)
    try:
        for model in filter(None, (learner.model, learner.value)):
            (_outputs(model, batch).sum() * 0).backward()
        if learner.has_reference:
            with torch.no_grad(), learner.reference() as reference:
                forward_logprobs(reference, batch, 1.0)
    finally:
        learner.drop_gradients()
        del moments


def _outputs(model: nn.Module, batch: Batch) -> Tensor:
    if has_score(model):
        return forward_values(model, batch)
    return forward_logprobs(model, batch, 1.0).logprobs_N


def _tokens(count: int) -> tuple[int, ...]:
    # Ids that every vocabulary has.
    return tuple(i % 8 for i in range(count))


@contextlib.contextmanager
def _naming(who: str, setting: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error).strip().split("\n")[0]
        if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in text:
            raise
        raise TrainingError(
            f"The longest possible batch does not fit in memory, in the {who}: {text} Lower "
            f"{setting}. Nothing was trained."
        ) from error
