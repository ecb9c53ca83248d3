"""A Llama small enough to learn arithmetic on a CPU in a minute, with a vocabulary of words."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from cameleer.data.chat import TULU
from cameleer.log import quiet_libraries


def cache_directory() -> Path:
    """Where made and converted models are kept: CAMELEER_CACHE, or ~/.cache/cameleer."""
    return Path(os.environ.get("CAMELEER_CACHE", Path.home() / ".cache" / "cameleer"))


def save_tiny_llama(
    directory: Path,
    words: Sequence[str],
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    max_tokens: int = 256,
    seed: int = 0,
) -> Path:
    """Write a Llama of random weights, and a tokenizer that splits at blanks, to a directory.

    The template is Tulu 3's. Texts may use the given words and its role tags; any other word
    becomes ``<unk>``.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=TULU,
        clean_up_tokenization_spaces=False,
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, hidden_size // 32),
        num_key_value_heads=max(1, hidden_size // 32),
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def arithmetic_llama() -> Path:
    """The quickstart's model: 0.9 M random parameters, 79 tokens. Made once, then cached."""
    from cameleer.data.datasets.arithmetic import vocabulary

    words = vocabulary()
    key = hashlib.sha256("\n".join([*words, torch.__version__]).encode()).hexdigest()[:12]
    directory = cache_directory() / f"arithmetic-llama-{key}"
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch, quiet_libraries():
            made = save_tiny_llama(Path(scratch) / "model", words)
            # Whole or not at all; another rank that was first has made the same.
            with contextlib.suppress(OSError):
                os.rename(made, directory)
    return directory
