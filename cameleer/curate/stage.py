"""Answers of a policy to many questions, rated: the Curate stage of a ladder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cameleer.curate.pairs import Curated, curate
from cameleer.data.chat import with_template
from cameleer.data.prompts import order
from cameleer.errors import RunError
from cameleer.files import make_directory, read_json, write_json, write_lines
from cameleer.log import console, quiet_libraries
from cameleer.models.heads import fit_to_tokenizer, load_scorer
from cameleer.models.load import (
    check_same_tokens,
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
    weights_hash,
)
from cameleer.recipe import Curate, Reward
from cameleer.recipe_files import to_json
from cameleer.rollout.engine import RolloutEngine, Sampling, make_engine
from cameleer.train import ranks, rollouts
from cameleer.train.collect import Clock, assemble, collect
from cameleer.train.guards import refuse_device, refuse_undecided
from cameleer.train.inputs import checked_prompts, fingerprint, resolve
from cameleer.train.model_reward import ModelReward
from cameleer.train.origins import origins, refuse_other_origins
from cameleer.train.recorder import environment
from cameleer.types import Group, Prompt
from cameleer.verifiers.isolate import VerifierPool

_MADE = ("manifest.json", "pairs.jsonl", "right.jsonl")
_AT_ONCE = 256
"""Questions answered between two writes."""


def curate_stage(stage: Curate) -> Path:
    """Fill the stage's directory, or finish what a killed run left there. Returns it.

    Raises RunError where it holds another stage's answers, or another model's.
    """
    directory = stage.directory
    if ranks.is_main():
        if (directory / "recipe.json").exists():
            refuse_changed_stage(stage)
            refuse_other_origins(stage, read_json(directory / "origins.json"))
        else:
            files = {"recipe.json": to_json(stage), "origins.json": origins(stage)}
            make_directory(directory, files)
        (directory / "rollouts").mkdir(exist_ok=True)
    ranks.barrier()
    if all((directory / name).exists() for name in _MADE):
        console.print(f"{stage.name} is complete")
        return directory
    found, manifest = answered(stage, directory)
    if ranks.is_main():
        write_lines(directory / "pairs.jsonl", found.pairs)
        write_lines(directory / "right.jsonl", found.right)
        counts = {"pairs": len(found.pairs), "right": len(found.right), **found.dropped}
        write_json(directory / "manifest.json", {**environment(), **manifest, "counts": counts})
        tell(found, str(directory))
    ranks.barrier()
    return directory


def refuse_changed_stage(stage: Curate) -> None:
    """Raises RunError where the stage's directory holds the answers of another."""
    if read_json(stage.directory / "recipe.json") != to_json(stage):
        raise RunError(
            f"{stage.directory} was made by another stage. Set its fields back, or start another "
            "ladder with --name OTHER."
        )


def answered(stage: Curate, directory: Path | None = None) -> tuple[Curated, dict[str, Any]]:
    """The pairs and right answers of a stage, and what it was made from.

    Args:
        directory: Keeps the answers, and those that are there already are not made again.
    """
    refuse_device(stage)
    torch.set_num_threads(stage.runtime.num_threads)
    source = resolve(stage.model.source)
    with quiet_libraries():
        tokenizer = load_tokenizer(source)
        check_vocabulary(tokenizer, load_config(source), source)
        with_template(tokenizer, stage.model.chat_template, source)
        limit = stage.rollout.max_prompt_tokens
        prompts = checked_prompts(stage.data, stage.verifiers, tokenizer, limit, stage.seed)
        model = load_model(source, stage.model.dtype, stage.runtime.device)
        judge = _judge(stage, tokenizer)
    fit_to_tokenizer(model, tokenizer)
    count = min(stage.rollout.num_prompts, len(prompts.prompts))
    chosen = [prompts.prompts[i] for i in order(len(prompts.prompts), stage.seed, 0, count)]
    if ranks.is_main():
        console.print(
            f"[bold]{stage.name}[/]: {count:,} questions, {stage.rollout.group_size} answers each"
        )
    found, dropped, clock = Curated(), Counter[str](), Clock()
    rollout = stage.rollout
    engine = make_engine(rollout.engine, model, tokenizer, num_slots=rollout.num_slots)
    workers = stage.runtime.num_verifier_workers
    with VerifierPool(dict(stage.verifiers), num_workers=workers) as pool:
        refuse_undecided(pool, judges_only=True)
        for step, some in _parts(chosen):
            path = rollouts.path_of(directory, step) if directory else None
            groups = _collected(stage, engine, pool, some, step, path, clock)
            batch = assemble(groups, Reward(correct=1.0, without_eos=None))
            if judge:
                batch, _ = judge.add(batch, groups, None)
            if path and ranks.is_main() and not path.exists():
                rollouts.write(path, step, groups, batch)
            assert batch.rewards_B is not None
            part = curate(groups, batch.rewards_B.tolist(), seed=stage.seed)
            found.pairs += part.pairs
            found.right += part.right
            found.num_rated += part.num_rated
            dropped.update(part.dropped)
    found.dropped = dict(dropped)
    manifest = {
        "seed": stage.seed,
        "weights": {"policy": weights_hash(model), "reward model": judge.hash if judge else None},
        "data": [
            {**asdict(tally), **fingerprint(source)}
            for tally, source in zip(prompts.sources, stage.data, strict=True)
        ],
        "prompts": count,
        "prompts_too_long": prompts.too_long,
        **clock.metrics(),
    }
    return found, manifest


def tell(found: Curated, where: str) -> None:
    """What came of it, on the console."""
    counts = {"right": len(found.right) - found.num_rated, "best-rated": found.num_rated}
    kinds = [f"{n:,} {kind}" for kind, n in counts.items() if n] or ["0 right"]
    text = f"{len(found.pairs):,} pairs and {' and '.join(kinds)} answers -> {where}"
    console.print(text, markup=False)
    for reason, count in found.dropped.items():
        console.print(f"{count:,} questions without a pair: {reason}", markup=False)


def _judge(stage: Curate, tokenizer: Any) -> ModelReward | None:
    term = stage.reward_model
    if term is None:
        return None
    source = resolve(term.source)
    check_same_tokens(tokenizer, load_tokenizer(source), source, "reward model")
    model = load_scorer(source, term.dtype, stage.runtime.device)
    return ModelReward(term, model, stage.runtime.micro_batch_tokens)


def _parts(prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[Prompt]]]:
    """Numbers from 1, and the questions that are answered together."""
    for step, start in enumerate(range(0, len(prompts), _AT_ONCE), start=1):
        yield step, list(prompts[start : start + _AT_ONCE])


def _collected(
    stage: Curate,
    engine: RolloutEngine,
    pool: VerifierPool,
    prompts: Sequence[Prompt],
    step: int,
    path: Path | None,
    clock: Clock,
) -> list[Group]:
    there = ranks.gather(bool(path and path.exists()))[0]
    if there and path:
        return rollouts.read(path, {prompt.id: prompt for prompt in prompts})
    rollout = stage.rollout
    return collect(
        engine,
        pool,
        prompts,
        Sampling(max_tokens=rollout.max_tokens, temperature=rollout.temperature, stop=rollout.stop),
        group_size=rollout.group_size,
        seed=stage.seed,
        step=step,
        clock=clock,
    )
