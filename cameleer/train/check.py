"""All that can be known wrong before training, without loading weights."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

from cameleer.data.prompts import check_truths, load_prompts
from cameleer.data.sources import Source, is_local
from cameleer.errors import CameleerError, RecipeError, nearest
from cameleer.log import console, quiet_libraries
from cameleer.recipe import Curate, Ladder, Recipe, stage_sources
from cameleer.recipe_types import type_problems
from cameleer.train.guards import notices, refuse_full_disk, refuse_output, refuse_undecided
from cameleer.train.ladder import from_the_start, placed_stages
from cameleer.train.ladder import notices as ladder_notices


class NotCheckedError(Exception):
    """What a check would have needed is not here. Its message says what that is."""


def check(recipe: Recipe | Ladder) -> int:
    """Print what holds, what does not and what could not be looked at. Returns the exit status."""
    for problem in type_problems(recipe):
        # Nothing else can be looked at.
        raise RecipeError(problem)
    _look_only_where_there_is_something()
    if isinstance(recipe, Ladder):
        recipe.validate_names()
        for notice in ladder_notices(recipe):
            console.print("note: ", end="")
            console.print(notice, markup=False)
    failures, made = 0, _made(recipe)
    for stage, placed in _to_check(recipe):
        if isinstance(recipe, Ladder):
            console.print(f"[bold]{stage.name}[/]")
        if isinstance(stage, Curate):
            failures += sum(_report(name, look, stage) for name, look in _CURATE_CHECKS.items())
            failures += _report("data", partial(_questions, made=made), stage)
        else:
            failures += sum(_report(name, look, stage) for name, look in _CHECKS.items())
            failures += _report("data", partial(_data, made=made), stage)
            failures += _report("evals", _evals, stage)
        if placed.reward_model:
            failures += _report("reward", partial(_reward, made=made), placed)
    if failures:
        console.print(f"{failures} to mend before training.")
    return 1 if failures else 0


def _to_check(recipe: Recipe | Ladder) -> list[tuple[Recipe | Curate, Recipe | Curate]]:
    """The stages where they will run, with models that are there already, and with their own."""
    if isinstance(recipe, Recipe):
        return [(recipe, recipe)]
    found: list[tuple[Recipe | Curate, Recipe | Curate]] = []
    for placed, started in zip(placed_stages(recipe), from_the_start(recipe), strict=True):
        stage = dataclasses.replace(placed, model=started.model, reward_model=started.reward_model)
        if isinstance(stage, Recipe) and isinstance(started, Recipe):
            stage = dataclasses.replace(stage, value_model=started.value_model)
        found.append((stage, placed))
    return found


def _made(recipe: Recipe | Ladder) -> dict[str, str]:
    """The stages that make what is not there yet, by its path."""
    if isinstance(recipe, Recipe):
        return {}
    found: dict[str, str] = {}
    for asked, placed in zip(recipe.stages, placed_stages(recipe), strict=True):
        named = [
            (a.path, p.path)
            for a, p in zip(stage_sources(asked), stage_sources(placed), strict=True)
        ]
        if asked.reward_model and placed.reward_model:
            named.append((asked.reward_model.source, placed.reward_model.source))
        for reference, path in named:
            if reference.startswith("stage:") and not Path(path).exists():
                found[path] = reference.removeprefix("stage:").partition("/")[0]
    return found


S = TypeVar("S", bound=Recipe | Curate)


def _report(name: str, look: Callable[[S], str], recipe: S) -> int:
    try:
        found = look(recipe)
    except NotCheckedError as reason:
        console.print(f"  [yellow]--[/]  {name:<10} not checked: {reason}")
        return 0
    except CameleerError as error:
        console.print(f"  [red]no[/]  {name:<10} ", end="")
        console.print(str(error), markup=False)
        return 1
    console.print(f"  [green]ok[/]  {name:<10} ", end="")
    # Tokens such as [/INST] are not markup.
    console.print(found, markup=False)
    return 0


def _fields(recipe: Recipe) -> str:
    recipe.validate()
    rollout = recipe.rollout
    if rollout is None:
        return f"{type(recipe.algorithm).__name__}, {recipe.num_steps:,} x {recipe.batch_size}"
    episodes = rollout.num_prompts * rollout.group_size
    return (
        f"{type(recipe.algorithm).__name__}, {recipe.num_steps:,} steps of {rollout.num_prompts} "
        f"prompts x {rollout.group_size}: {recipe.num_steps * episodes:,} episodes, "
        f"{recipe.num_updates:,} updates"
    )


def _verifiers(recipe: Recipe | Curate) -> str:
    from cameleer.verifiers.isolate import VerifierPool

    if not recipe.verifiers:
        return "none"
    with VerifierPool(recipe.verifiers, num_workers=1) as pool:
        refuse_undecided(pool)
    return ", ".join(sorted(recipe.verifiers))


def _engine(recipe: Recipe | Curate) -> str:
    from cameleer.rollout.engine import engine_class

    if recipe.rollout is None:
        return "none"
    engine_class(recipe.rollout.engine)
    return recipe.rollout.engine


def _output(recipe: Recipe) -> str:
    from cameleer.train.sinks import require_sinks

    require_sinks(recipe.output.sinks)
    directory = recipe.directory
    refuse_output(directory)
    if directory.exists() and any(directory.iterdir()):
        return f"{directory} exists already: run needs --resume, or another --name"
    return f"{directory}"


def _disk(recipe: Recipe) -> str:
    from cameleer.train.inputs import checkpoint_size

    _need_model(recipe)
    size = checkpoint_size(recipe)
    refuse_full_disk(recipe, size)
    return f"room for checkpoints of {size / 1e9:,.2f} GB"


def _device(recipe: Recipe | Curate) -> str:
    import torch

    if recipe.runtime.device == "cuda" and not torch.cuda.is_available():
        raise NotCheckedError("runtime.device is cuda, and there is none on this machine")
    return recipe.runtime.device


def _model(recipe: Recipe | Curate) -> str:
    from cameleer.data.chat import with_template
    from cameleer.models.load import check_vocabulary, load_config, load_tokenizer
    from cameleer.train.inputs import resolve

    _need_model(recipe)
    with quiet_libraries():
        source = resolve(recipe.model.source)
        config, tokenizer = load_config(source), load_tokenizer(source)
    check_vocabulary(tokenizer, config, source)
    with_template(tokenizer, recipe.model.chat_template, source)
    return f"{config.model_type}, {config.vocab_size:,} tokens, EOS {tokenizer.eos_token}"


def _data(recipe: Recipe, made: Mapping[str, str]) -> str:
    from cameleer.train.inputs import described, per_source, read_inputs

    _need_data(stage_sources(recipe), made)
    try:
        _need_model(recipe)
    except NotCheckedError:
        return _data_without_tokenizer(recipe)
    with quiet_libraries():
        inputs = read_inputs(recipe)
    found = notices(recipe, inputs.longest, inputs.tokenizer)
    told = "".join(f"\n      note: {notice}" for notice in found)
    lines = "".join(f"\n      {line}" for line in per_source(recipe.data, inputs.tallies))
    if not recipe.rollout:
        return f"{described(inputs.examples)}{lines}{told}"
    longest = max(len(p.tokens) for p in inputs.prompts.prompts)
    return f"{described(inputs.prompts)}, the longest of {longest:,} tokens{lines}{told}"


def _data_without_tokenizer(recipe: Recipe) -> str:
    """Rows, verifiers and truths can be checked where the model's tokenizer is out of reach."""

    from cameleer.train.inputs import described

    class _Words:
        def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> list[int]:
            return [0] * sum(len(m["content"].split()) for m in messages)

    if recipe.rollout is None:
        raise NotCheckedError("the tokenizer is on the hub, which cannot be reached from here")
    found = load_prompts(recipe.data, _Words(), max_tokens=2**31, seed=recipe.seed)
    found = check_truths(found, recipe.verifiers, recipe.data)
    return f"{described(found)}; lengths not checked: no tokenizer here"


def _reward(recipe: Recipe | Curate, made: Mapping[str, str]) -> str:
    from cameleer.models.load import load_config
    from cameleer.train.guards import refuse_no_scorer
    from cameleer.train.inputs import resolve

    assert recipe.reward_model is not None
    source = recipe.reward_model.source
    if source in made:
        raise NotCheckedError(f"stage {made[source]} makes it")
    _need_model_at(source)
    source = resolve(source)
    with quiet_libraries():
        refuse_no_scorer(load_config(source), source)
    return source


def _evals(recipe: Recipe) -> str:
    from cameleer.evals.suite import benchmarks
    from cameleer.train.evaluation import check_data

    if recipe.evals is None:
        return "none"
    for benchmark in benchmarks(",".join(recipe.evals.benchmarks)):
        for source in benchmark.sources:
            _need_the_hub(source.path, bool(recipe.evals.data))
    with quiet_libraries():
        found = check_data(recipe.evals)
    return ", ".join(f"{name} ({count:,})" for name, count in found.items())


def _curate(stage: Curate) -> str:
    stage.validate()
    rollout = stage.rollout
    return f"up to {rollout.num_prompts:,} questions x {rollout.group_size} answers"


def _questions(stage: Curate, made: Mapping[str, str]) -> str:
    from cameleer.data.chat import with_template
    from cameleer.models.load import load_tokenizer
    from cameleer.train.inputs import checked_prompts, resolve

    _need_data(stage.data, made)
    _need_model(stage)
    with quiet_libraries():
        source = resolve(stage.model.source)
        tokenizer = load_tokenizer(source)
        with_template(tokenizer, stage.model.chat_template, source)
        limit = stage.rollout.max_prompt_tokens
        found = checked_prompts(stage.data, stage.verifiers, tokenizer, limit, stage.seed)
    return f"{len(found.prompts):,} prompts; {found.too_long:,} dropped as too long"


_CURATE_CHECKS: dict[str, Callable[[Curate], str]] = {
    "stage": _curate,
    "verifiers": _verifiers,
    "engine": _engine,
    "device": _device,
    "model": _model,
}
_CHECKS: dict[str, Callable[[Recipe], str]] = {
    "recipe": _fields,
    "verifiers": _verifiers,
    "engine": _engine,
    "device": _device,
    "output": _output,
    "model": _model,
    "disk": _disk,
}


def _need_data(sources: Sequence[Source], made: Mapping[str, str]) -> None:
    for source in sources:
        if source.path in made:
            raise NotCheckedError(f"stage {made[source.path]} makes it")
        _need_the_hub(source.path, is_local(source.path))


def _need_model(recipe: Recipe | Curate) -> None:
    from cameleer.train.inputs import other_models

    _need_model_at(recipe.model.source)
    if isinstance(recipe, Recipe):
        for source in other_models(recipe).values():
            _need_model_at(source)


def _need_model_at(source: str) -> None:
    local = Path(source).exists() or ":" in source or source.startswith((".", "/"))
    _need_the_hub(source, local)


def _need_the_hub(name: str, local: bool) -> None:
    """Raises CameleerError for what looks like a path of this machine, and is not there."""
    if local or os.environ.get("HF_HUB_OFFLINE") != "1":
        return
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        known = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return  # No hub id, so a path: whatever reads it says what is wrong.
    if isinstance(known, str):
        return
    path = Path(name)
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings)
    if path.parent.is_dir() and (path.parent != Path() or (path.suffix and hint)):
        raise CameleerError(
            f"{name} does not exist.{hint} Paths are taken from the directory the command runs in; "
            "were it a name on the hub, that cannot be reached from here."
        )
    raise NotCheckedError(f"{name} is on the hub, which cannot be reached from here")


def _look_only_where_there_is_something() -> None:
    """Without a network the hub's client would try for minutes."""
    from huggingface_hub import constants

    address = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        # The client has read the variable when it was imported; worker processes read it anew.
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"
