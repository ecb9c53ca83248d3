"""The command ``cameleer data mix``: what the sources of a recipe come to, in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cameleer.data.chat import with_template
from cameleer.data.mixture import Tally
from cameleer.data.prompts import check_truths
from cameleer.data.sources import Source
from cameleer.log import console, quiet_libraries
from cameleer.recipe import Curate, Ladder, Recipe
from cameleer.train.ladder import from_the_start, placed_stages


def mix(recipe: Recipe | Ladder) -> int:
    """Print a table for each stage, prepared as its training would."""
    recipe.validate()
    for stage in _stages(recipe):
        missing = [source.path for source in stage.data if source.path.startswith("stage:")]
        if missing:
            console.print(f"[bold]{stage.name}[/]: ", end="")
            console.print(f"{', '.join(missing)} is not there before the run.", markup=False)
            continue
        tallies = _tallies(stage)
        # Numbers that wrap are not to be read: a narrow window breaks lines instead.
        console.print(table(stage.name, stage.data, tallies), width=max(console.width, 110))
        for source, tally in zip(stage.data, tallies, strict=True):
            for reason, count in tally.dropped.items():
                line = f"{_name(source)}: {count:,} dropped: {reason}"
                console.print(line, markup=False)
    return 0


def _stages(recipe: Recipe | Ladder) -> Iterator[Recipe | Curate]:
    """With models that are there already, and with what stages made, where they have run."""
    if isinstance(recipe, Recipe):
        yield recipe
        return
    for stage, placed in zip(from_the_start(recipe), placed_stages(recipe), strict=True):
        sources = zip(stage.data, placed.data, strict=True)
        data = tuple(made if Path(made.path).exists() else asked for asked, made in sources)
        yield replace(stage, data=data)


def table(title: str, sources: Sequence[Source], tallies: Sequence[Tally]) -> Table:
    """A row a source: its rows, and its shares of all tokens and of those that are trained."""
    found = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    found.add_column("source", overflow="fold", min_width=20)
    for name in ("rows", "taken", "kept", "cut", "tokens", "share", "trained", "share"):
        found.add_column(name, justify="right", no_wrap=True)
    tokens = sum(tally.tokens for tally in tallies)
    trained = sum(tally.trained_tokens for tally in tallies)
    for source, tally in zip(sources, tallies, strict=True):
        found.add_row(
            Text(_name(source)),
            *(f"{n:,}" for n in (tally.rows, tally.taken, tally.kept, tally.truncated)),
            f"{tally.tokens:,}",
            _share(tally.tokens, tokens),
            f"{tally.trained_tokens:,}" if trained else "-",
            _share(tally.trained_tokens, trained),
        )
    return found


def _tallies(stage: Recipe | Curate) -> tuple[Tally, ...]:
    from cameleer.models.load import load_tokenizer
    from cameleer.train.inputs import checked_prompts, read_data, resolve

    with quiet_libraries():
        source = resolve(stage.model.source)
        tokenizer = with_template(load_tokenizer(source), stage.model.chat_template, source)
        if isinstance(stage, Curate):
            limit = stage.rollout.max_prompt_tokens
            found = checked_prompts(stage.data, stage.verifiers, tokenizer, limit, stage.seed)
            return found.sources
        prompts, examples = read_data(stage, tokenizer)
    if stage.rollout:
        prompts = check_truths(prompts, stage.verifiers, stage.data)
    return prompts.sources or examples.sources


def _name(source: Source) -> str:
    return source.name or source.path


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
