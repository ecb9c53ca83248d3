"""What is known to go wrong, refused or told at the start, as far as it needs no training to see.

`cameleer check` and `run` both come through here. Checks of single fields are in `cameleer.recipe`,
those of checkpoints in `cameleer.models.load`, those of rows in `cameleer.data`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cameleer.data.chat import reads_the_clock
from cameleer.data.prompts import Example, Examples, Prompts, truth_for
from cameleer.errors import DataError, ModelError, RecipeError, RunError
from cameleer.recipe import Curate, Model, Recipe
from cameleer.types import Message, Prompt
from cameleer.verifiers.isolate import VerifierPool


def refuse_overlap(
    prompts: Prompts, examples: Examples, heldout: Prompts, heldout_pairs: Examples
) -> None:
    """Raises DataError where a held-out question is also trained on.

    Prompts are compared by their words. Of examples only ids are known: what stands before the
    first trained token is the question.
    """
    trained = {_words(p) for p in prompts.prompts}
    asked = {p.tokens for p in heldout.prompts} | {_asked(e) for e in heldout_pairs.sequences}
    # Of examples there may be too many to hold all their questions.
    imitated = {_asked(example) for example in examples.sequences if asked} & asked
    both = [_question(p) for p in heldout.prompts if _words(p) in trained or p.tokens in imitated]
    both += [f"pair {i}" for i, (e, _) in enumerate(heldout_pairs.items) if _asked(e) in imitated]
    if both:
        count = len(heldout.prompts) + len(heldout_pairs.items)
        raise DataError(
            f"{len(both):,} of {count:,} held-out questions are also in the training data, the "
            f"first {both[0]!r}: accuracy on them would measure memory. Point heldout.sources at "
            "another split, or drop these rows from `data`."
        )


def refuse_unchecked(heldout: Prompts) -> None:
    """Raises DataError for questions of which nobody could say whether an answer is right."""
    unchecked = [prompt.id for prompt in heldout.prompts if not prompt.checks]
    if unchecked:
        raise DataError(
            f"{len(unchecked):,} of {len(heldout.prompts):,} held-out questions have no check, the "
            f"first at {heldout.places[unchecked[0]][1]}: held-out questions need a ground truth, "
            "and the recipe `verifiers` that read it. Add them, or remove `heldout`."
        )


def _asked(example: Example) -> tuple[int, ...]:
    return example.tokens[: example.mask.index(True)]


def refuse_scorer(config: Any, recipe: Recipe, source: str) -> None:
    """Raises ModelError where a reward model would be trained as a policy, with another head."""
    kinds = getattr(config, "architectures", None) or ()
    if recipe.algorithm.trains == "policy" and any("SequenceClassification" in k for k in kinds):
        raise ModelError(
            f"{source} is a reward model ({', '.join(kinds)}), and a policy is a language model. "
            "Name the one that it was made from."
        )


def refuse_no_scorer(config: Any, source: str) -> None:
    """Raises ModelError where a language model would be asked for a reward."""
    kinds = getattr(config, "architectures", None) or ()
    if kinds and not any("SequenceClassification" in k for k in kinds):
        raise ModelError(
            f"{source} is no reward model ({', '.join(kinds)}). Name the checkpoint of a "
            "RewardModel run, or another AutoModelForSequenceClassification of one label."
        )


def refuse_device(recipe: Recipe | Curate) -> None:
    """Raises RecipeError for a CUDA device or a C compiler that is not there."""
    import torch

    if recipe.runtime.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "runtime.device is 'cuda', and torch finds no CUDA device here. Set --runtime.device "
            "cpu, or run where there is a GPU and a CUDA build of torch."
        )
    if isinstance(recipe, Recipe) and recipe.fuses and not _c_compiler():
        raise RecipeError(
            "runtime.compile fuses kernels with torch.compile, which needs a C compiler, and there "
            "is neither gcc nor clang here, nor is CC set. Install one, or set "
            "--runtime.compile false."
        )


def _c_compiler() -> str | None:
    """As Triton finds it."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def refuse_output(directory: Path) -> None:
    """Raises RunError where a run's directory could not be written."""
    existing = _existing(directory)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise RunError(
            f"{directory} cannot be written: {existing} is "
            f"{'not a directory' if not existing.is_dir() else 'not writable'} "
            f"({error.strerror}). Set output.directory to one that is."
        ) from error


def refuse_full_disk(recipe: Recipe, one: int, *, resume: bool = False) -> None:
    """Raises RunError where the run's checkpoints would not fit beside each other.

    A resumed run needs room for one more; the others it has.

    Args:
        one: Bytes of a checkpoint.
    """
    saves = math.ceil(recipe.num_steps / recipe.output.save_every)
    # The oldest is deleted after the newest is complete.
    kept = min(recipe.output.keep_last + 1, saves) if recipe.output.keep_last else saves
    count = 1 if resume else kept
    free = shutil.disk_usage(_existing(recipe.directory)).free
    if count * one > free:
        raise RunError(
            f"{recipe.directory} needs {_gigabytes(count * one)} for {count} checkpoints of "
            f"{_gigabytes(one)} (weights, moments of AdamW), and {_gigabytes(free)} are free. Free "
            "some, set output.directory to a larger disk, or lower output.keep_last."
        )


def refuse_undecided(pool: VerifierPool, *, judges_only: bool = False) -> None:
    """Raises RecipeError for a verifier of a pool that reaches no verdict on an empty answer.

    Args:
        judges_only: Ask those that read the question. They may hang on a server, and a run sees
            that it is up before it samples a step.
    """
    tasks = [(name, "", truth_for(each, _TRIAL, "")) for name, each in pool.verifiers.items()]
    if judges_only:
        tasks = [task for task in tasks if task[2]]
    for (name, _, truth), score in zip(tasks, pool.score_all(tasks), strict=True):
        if score.status == "undecided":
            mend = "Every verifier has to reach a verdict on any text."
            if truth:
                mend = "A judge has to be up, and to end with a score as its prompt asks."
            raise RecipeError(
                f"The verifier '{name}' fails on an empty answer ({score.reason}). {mend}"
            )


_TRIAL: tuple[Message, ...] = ({"role": "user", "content": "What is 2 + 3?"},)


def checkpoint_bytes(model: Model, num_parameters: int, num_trained: int) -> int:
    """Weights, an adapter besides, AdamW's two moments, and float32 weights of bfloat16 ones."""
    width, state = (4, 8) if model.dtype == "float32" else (2, 12)
    saved = num_parameters + (num_trained if model.lora else 0)
    return saved * width + num_trained * state


def count_parameters(model: Model, config: Any, *, scores: bool = False) -> tuple[int, int]:
    """Of the model that a configuration describes, without allocating it: all, and those trained.

    Args:
        scores: It is a model of one number.

    Raises:
        ModelError: There is no such model, or LoRA cannot adapt it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from cameleer.models.lora import add_adapter

    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    if scores:
        config = copy.copy(config)
        config.num_labels = 1
    with torch.device("meta"):
        try:
            empty = kind.from_config(config)
        except ValueError as error:
            what = "model of one number" if scores else "causal language model"
            raise ModelError(
                f"transformers has no {what} of type {config.model_type}, which {model.source} is. "
                "Use a decoder such as a Llama, Qwen or OLMo."
            ) from error
        whole = sum(p.numel() for p in empty.parameters())
        if model.lora:
            add_adapter(empty, **dataclasses.asdict(model.lora), seed=0)
        return whole, sum(p.numel() for p in empty.parameters() if p.requires_grad)


def notices(recipe: Recipe, longest: int, tokenizer: Any) -> Iterator[str]:
    """What works, and not as its user may think.

    Args:
        longest: Tokens of the longest sequence that the run can meet.
    """
    if reads_the_clock(tokenizer):
        yield (
            f"The chat template of {recipe.model.source} writes today's date: resumed on another "
            "day, the same rows are other tokens, and this is not the same run to the bit. Write a "
            "date into the template, or set model.chat_template to 'tulu'."
        )
    runtime = recipe.runtime
    if longest > runtime.micro_batch_tokens:
        yield (
            f"The longest possible sequence has {longest:,} tokens, more than "
            f"runtime.micro_batch_tokens={runtime.micro_batch_tokens:,}. It goes through alone, "
            "and memory has to suffice for it."
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores and runtime.num_threads > cores:
        yield (
            f"runtime.num_threads is {runtime.num_threads}, and there are {cores} cores here: "
            "threads that share a core wait for each other."
        )
    cut = recipe.reward.without_eos
    if recipe.rollout and recipe.rollout.stop and cut is not None:
        yield (
            f"An answer that ends at one of rollout.stop has no end-of-sequence token, and gets "
            f"reward.without_eos={cut:g} whatever its score. Set that to None to reward it."
        )
    if recipe.reward_model and not recipe.verifiers and cut is not None:
        yield (
            f"A cut answer gets reward.without_eos={cut:g}, and one that ends gets the reward "
            "model's score, which may be lower: then the policy learns not to end. Set it below "
            "the scores, or to None."
        )


def _words(prompt: Prompt) -> tuple[str, ...]:
    return tuple(message["content"] for message in prompt.messages)


def _question(prompt: Prompt) -> str:
    text = " ".join(prompt.messages[-1]["content"].split())
    return text if len(text) <= 60 else text[:60] + "…"


def _existing(path: Path) -> Path:
    """The path, or what of it exists already."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
