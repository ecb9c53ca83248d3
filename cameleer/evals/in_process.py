"""A checkpoint that answers in this process, through our own engine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import nn

from cameleer.batch import Batch
from cameleer.data.chat import ChatTemplate, rendered, with_template
from cameleer.errors import ModelError, RecipeError
from cameleer.evals.base import Instance, cut_at_stop
from cameleer.evals.model import Answer, Question, num_shared, unpredicted
from cameleer.log import quiet_libraries
from cameleer.models.heads import fit_to_tokenizer
from cameleer.models.load import (
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
    weights_hash,
)
from cameleer.models.logprobs import forward_logprobs
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.types import Completion, DType

_CPU_SLOTS, _MOST_SLOTS = 64, 1024
_MEMORY_SHARE = 0.8
"""Of the memory that is free, what keys and values may take."""
_FORWARD_TOKENS = 8192


class InProcess:
    """A model and its tokenizer as an evaluated `Model`."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        identity: dict[str, Any],
        num_slots: int | None = None,
    ) -> None:
        """
        Args:
            num_slots: Answers decoded together. None: what the memory holds.
        """
        self.name = name
        self.context: int | None = getattr(_config(model), "max_position_embeddings", None)
        self._model, self._tokenizer = model, tokenizer
        self._identity, self._num_slots = identity, num_slots

    @classmethod
    def load(
        cls,
        source: str,
        *,
        dtype: DType,
        device: str,
        chat_template: ChatTemplate = "tokenizer",
        num_slots: int | None = None,
    ) -> Self:
        """From a Hugging Face directory or hub id. Raises ModelError for what it cannot be."""
        if device == "cuda" and not torch.cuda.is_available():
            raise RecipeError(
                "--device is cuda, and torch finds no CUDA device here. Give --device cpu, or run "
                "where there is a GPU and a CUDA build of torch."
            )
        with quiet_libraries():
            tokenizer = load_tokenizer(source)
            check_vocabulary(tokenizer, load_config(source), source)
            if chat_template != "tokenizer" or tokenizer.chat_template:
                with_template(tokenizer, chat_template, source)
            model = load_model(source, dtype, device)
        identity = {
            "kind": "checkpoint",
            "weights": weights_hash(model),
            "dtype": dtype,
            "device": device,
            "template": tokenizer.chat_template or "",
        }
        # In training nobody samples the padding that was added for it; nor does anybody here.
        fit_to_tokenizer(model, tokenizer)
        return cls(model, tokenizer, name=source, identity=identity, num_slots=num_slots)

    def identity(self) -> dict[str, Any]:
        return self._identity

    def prompt(self, instance: Instance) -> tuple[str, int | None]:
        text = self._text(instance)
        return text, len(self._tokens(text))

    def generate(
        self,
        questions: Sequence[Question],
        done: Callable[[int, Answer], None],
        *,
        temperature: float,
        seed: int,
    ) -> None:
        if not questions:
            return
        # All at once, for the tokenizer then uses every core while the GPU waits.
        texts = [self._text(question.instance) for question in questions]
        prompts = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        requests = [
            Request(
                question.instance.id,
                tuple(tokens),
                question.sample,
                question.max_tokens,
                question.stop,
            )
            for question, tokens in zip(questions, prompts, strict=True)
        ]
        longest = max(len(r.tokens) + (r.max_tokens or 0) for r in requests)
        engine = TorchEngine(self._model, self._tokenizer, num_slots=self._slots(longest))

        def tell(index: int, completion: Completion) -> None:
            text = cut_at_stop(completion.text, questions[index].stop)
            done(index, Answer(text, len(completion.tokens), completion.finish_reason))

        sampling = Sampling(
            max_tokens=max(question.max_tokens for question in questions), temperature=temperature
        )
        engine.generate(requests, sampling, seed=seed, step=0, done=tell)

    @torch.no_grad()
    def loglikelihoods(
        self, instances: Sequence[Instance], done: Callable[[int, list[float]], None]
    ) -> None:
        device = next(self._model.parameters()).device
        for index, instance in enumerate(instances):
            alone, rows = self._rows(instance)
            found: list[float] = []
            for some in _within(rows, _FORWARD_TOKENS):
                starts = [num_shared(alone, row) for row in some]
                if 0 in starts:
                    raise unpredicted(instance)
                batch = Batch(
                    tokens_N=torch.tensor([t for row in some for t in row]),
                    lengths_B=torch.tensor([len(row) for row in some]),
                    mask_N=torch.tensor(
                        [
                            place >= start
                            for row, start in zip(some, starts, strict=True)
                            for place in range(len(row))
                        ]
                    ),
                ).to(device)
                logprobs_N = forward_logprobs(self._model, batch, 1.0).logprobs_N
                found += [float(x.sum()) for x in logprobs_N.split([len(row) for row in some])]
            if any(map(math.isnan, found)):
                raise ModelError(
                    f"{self.name} gives log-probabilities that are not numbers to the choices of "
                    f"{instance.id}. Its weights are damaged, or too large for their dtype."
                )
            done(index, found)

    def _rows(self, instance: Instance) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """The prompt's tokens, and those of the prompt with each of its choices."""
        text = self._text(instance)
        # Tokenized together, as the model would have read them; a choice begins where the tokens
        # part from those of the prompt alone.
        rows = [self._tokens(text + choice) for choice in instance.choices]
        longest = max(map(len, rows), default=0)
        if self.context is not None and longest > self.context:
            raise ModelError(
                f"{self.name} was made for {self.context:,} tokens, and a choice of {instance.id} "
                f"ends at {longest:,}. Take a model with more context, or leave this benchmark out."
            )
        return self._tokens(text), rows

    def _text(self, instance: Instance) -> str:
        if isinstance(instance.prompt, str):
            return instance.prompt + instance.prefix
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer of {self.name} has no chat template, and {instance.id} is asked as "
                "a chat. Give --chat-template tulu if the model was trained on that one; a base "
                "model has no score in this formulation."
            )
        return rendered(self._tokenizer, instance.prompt) + instance.prefix

    def _tokens(self, text: str) -> tuple[int, ...]:
        # A BOS is there only where the template writes one, as in training.
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _slots(self, longest: int) -> int:
        """How many sequences of so many tokens are decoded together."""
        if self._num_slots is not None:
            return self._num_slots
        weight = next(self._model.parameters())
        config = _config(self._model)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        token_bytes = 2 * config.num_hidden_layers * heads * width * weight.element_size()
        if weight.is_cuda:
            most, (free, _) = _MOST_SLOTS, torch.cuda.mem_get_info()
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        else:
            most = _CPU_SLOTS
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(1, min(most, int(_MEMORY_SHARE * free / (token_bytes * longest))))


def _config(model: nn.Module) -> Any:
    return model.config


def _within(rows: Sequence[tuple[int, ...]], limit: int) -> list[list[tuple[int, ...]]]:
    """Rows in their order, in parts of at most `limit` tokens or of one row."""
    parts: list[list[tuple[int, ...]]] = []
    for row in rows:
        if not parts or sum(map(len, parts[-1])) + len(row) > limit:
            parts.append([])
        parts[-1].append(row)
    return parts
