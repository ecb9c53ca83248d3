"""Prompts to answer and conversations to imitate, from the sources of a recipe."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from cameleer.data.chat import conversation_tokens, prompt_tokens
from cameleer.data.formats import conversation, json_of, naming, question
from cameleer.data.mixture import Tally
from cameleer.data.prepared import Rendered, prepare
from cameleer.data.sources import Row, Source
from cameleer.errors import DataError
from cameleer.types import Check, Message, Prompt

if TYPE_CHECKING:
    import pyarrow as pa

TOO_LONG = "longer than the limit of prompt tokens"
NOTHING_LEFT = "nothing to train within the length limit"


@dataclass(frozen=True)
class Prompts:
    """The prompts of a recipe, and what became of the other rows."""

    prompts: tuple[Prompt, ...]
    sources: tuple[Tally, ...] = ()
    places: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """By prompt id: which source it is of, and its ``file:line``."""

    @property
    def too_long(self) -> int:
        return sum(tally.dropped.get(TOO_LONG, 0) for tally in self.sources)


@dataclass(frozen=True)
class Example:
    """A conversation as token ids, with the tokens to train."""

    tokens: tuple[int, ...]
    mask: tuple[bool, ...]
    source: str


@dataclass(frozen=True)
class Examples:
    """What a recipe without rollouts learns from, and what became of the other rows."""

    items: Sequence[tuple[Example, ...]]
    """One sequence each, or two: the chosen and the rejected of a pair."""
    sources: tuple[Tally, ...] = ()

    @property
    def sequences(self) -> Iterator[Example]:
        return (example for item in self.items for example in item)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max((tally.longest for tally in self.sources), default=0)

    @property
    def longest_trained(self) -> int:
        """Most trained tokens of one sequence."""
        return max((tally.longest_trained for tally in self.sources), default=0)


class Packed(Sequence[tuple[Example, ...]]):
    """Items that stay packed, in memory or on the disk, until they are asked for."""

    def __init__(self, tables: Sequence[pa.Table], sequences_per_item: int) -> None:
        """Of tables that `cameleer.data.prepared.prepare` returned."""
        import pyarrow as pa

        table = pa.concat_tables(tables)
        self._tokens, self._mask = table.column("tokens"), table.column("mask")
        self._note = table.column("note")
        self._width = sequences_per_item

    def __len__(self) -> int:
        return len(self._tokens) // self._width

    @overload
    def __getitem__(self, index: int) -> tuple[Example, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[Example, ...]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Example, ...] | list[tuple[Example, ...]]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        start = places * self._width
        return tuple(self._example(row) for row in range(start, start + self._width))

    def _example(self, row: int) -> Example:
        tokens = self._tokens[row].values.to_numpy()
        mask = self._mask[row].values.to_numpy(zero_copy_only=False)
        return Example(tuple(tokens.tolist()), tuple(mask.tolist()), self._note[row].as_py())


def load_prompts(
    sources: Sequence[Source],
    tokenizer: Any,
    *,
    max_tokens: int,
    seed: int = 0,
    cache: Path | None = None,
) -> Prompts:
    """Read, check and render the prompts of all sources. Longer ones than the limit are dropped.

    Args:
        seed: Of the rows that are drawn where a source has a share or count.
        cache: Directory of prepared data; see `cameleer.data.prepared`.
    """

    def render(row: Row, source: Source) -> Rendered | str:
        messages, checks, name = question(row, source)
        with naming(row):
            tokens = prompt_tokens(tokenizer, messages)
        if len(tokens) > max_tokens:
            return TOO_LONG
        truths = [(check.verifier, check.truth) for check in checks]
        note = json_of([name, row.origin, messages, truths], row)
        return Rendered(((tokens, [False] * len(tokens)),), note)

    found = prepare(
        sources, render, kind="prompts",
        tokenizer=tokenizer, max_tokens=max_tokens, seed=seed, cache=cache,
    )  # fmt: skip
    prompts: list[Prompt] = []
    places: dict[str, tuple[int, str]] = {}
    for place, (table, _) in enumerate(found):
        columns = (table.column(name).to_pylist() for name in ("number", "tokens", "note"))
        for number, tokens, note in zip(*columns, strict=True):
            name, origin, messages, truths = json.loads(note)
            # The place keeps two sources of the same name apart.
            prompt_id = f"{name}/{place}:{number}" if len(sources) > 1 else f"{name}:{number}"
            checks = tuple(Check(verifier, truth) for verifier, truth in truths)
            prompts.append(Prompt(prompt_id, name, tuple(messages), tuple(tokens), checks))
            places[prompt_id] = (place, origin)
    tallies = tuple(tally for _, tally in found)
    if not prompts:
        raise DataError(
            f"No prompt of at most {max_tokens:,} tokens is left ({reasons(tallies)}). Raise "
            "rollout.max_prompt_tokens, set few_shot=False on the sources, or mend the rows."
        )
    return Prompts(tuple(prompts), tallies, places)


def load_examples(
    sources: Sequence[Source],
    tokenizer: Any,
    *,
    max_tokens: int,
    seed: int = 0,
    cache: Path | None = None,
) -> Examples:
    """Read and render the conversations of all sources; longer ones are cut at `max_tokens`.

    Conversations of which nothing is left to train are dropped and counted, as in Tulu 3's filter.
    `seed` and `cache` are those of `load_prompts`.
    """

    def render(row: Row, source: Source) -> Rendered | str:
        messages, name = conversation(row, source)
        with naming(row):
            tokens, mask = conversation_tokens(tokenizer, messages)
        if not any(mask):
            return "no assistant's turn"
        if not any(mask[:max_tokens]):
            return NOTHING_LEFT
        cut = (tokens[:max_tokens], mask[:max_tokens])
        return Rendered((cut,), name, truncated=len(tokens) > max_tokens)

    found = prepare(
        sources, render, kind="examples",
        tokenizer=tokenizer, max_tokens=max_tokens, seed=seed, cache=cache,
    )  # fmt: skip
    return examples_of(found, 1, "No conversation has an assistant turn to train")


def examples_of(
    found: Sequence[tuple[pa.Table, Tally]], sequences_per_item: int, nothing: str
) -> Examples:
    """What `prepare` found, as items. Raises DataError where it found nothing, which it says."""
    tallies = tuple(tally for _, tally in found)
    items = Packed([table for table, _ in found], sequences_per_item)
    if not items:
        raise DataError(
            f"{nothing} within the length limit ({reasons(tallies)}). Raise max_tokens, or mend "
            "the rows."
        )
    return Examples(items, tallies)


def reasons(tallies: Sequence[Tally]) -> str:
    """What was dropped and why, for people."""
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally.dropped)
    return "; ".join(f"{count:,} dropped: {why}" for why, count in total.items()) or "none dropped"


def order(count: int, seed: int, start: int, length: int) -> list[int]:
    """Which of `count` rows stand at places `start` to `start + length` of an endless shuffle.

    Each pass through the rows has a permutation of its own; nothing is dropped at its end. A pure
    function, so the place is all that a resume has to know.
    """
    rows = []
    for place in range(start, start + length):
        epoch, within = divmod(place, count)
        rows.append(int(_permutation(count, seed, epoch)[within]))
    return rows


def check_truths(
    found: Prompts, verifiers: Mapping[str, Any], sources: Sequence[Source]
) -> Prompts:
    """The prompts whose ground truths can be read, where their sources may skip the others.

    Their truths are as their verifiers read them (`truth_for`). Where there are no verifiers at
    all, a reward model alone rates, and no prompt keeps its checks.

    Raises DataError for a truth of another source, and for a verifier that nobody knows.
    """
    prompts = found.prompts
    if not verifiers:
        return replace(found, prompts=tuple(replace(prompt, checks=()) for prompt in prompts))
    unknown = Counter(
        name for prompt in prompts for name in {c.verifier for c in prompt.checks} - set(verifiers)
    )
    for name, count in unknown.most_common(1):
        raise DataError(
            f"{count:,} of {len(prompts):,} prompts name the verifier '{name}', which the recipe "
            f"does not have (it has {', '.join(sorted(verifiers))}). Add it to "
            "`verifiers`, or drop these rows."
        )
    unreadable = {}
    for prompt in prompts:
        for check in prompt.checks:
            verifier = verifiers[check.verifier]
            problem = verifier.validate(truth_for(verifier, prompt.messages, check.truth))
            if problem:
                unreadable[prompt.id] = (prompt, check, problem)
    left = tuple(_as_read(prompt, verifiers) for prompt in prompts if prompt.id not in unreadable)
    if not unreadable:
        return replace(found, prompts=left)
    fatal = [
        bad for name, bad in unreadable.items()
        if sources[found.places[name][0]].bad_rows == "error"
    ]  # fmt: skip
    if fatal or len(unreadable) == len(prompts):
        prompt, check, problem = (fatal or list(unreadable.values()))[0]
        raise DataError(
            f"{len(unreadable):,} of {len(prompts):,} ground truths cannot be read. The first is "
            f"{found.places[prompt.id][1]}, {check.verifier}: {str(check.truth)[:80]!r} "
            f"({problem}). Nothing could ever be right there; mend or drop these rows, or set "
            "Source(bad_rows='skip')."
        )
    tallies = [replace(tally, dropped=dict(tally.dropped)) for tally in found.sources]
    for prompt, check, _ in unreadable.values():
        tally = tallies[found.places[prompt.id][0]]
        tally.kept -= 1
        tally.tokens -= len(prompt.tokens)
        tally.drop(f"a ground truth that {check.verifier} cannot read")
    return replace(found, prompts=left, sources=tuple(tallies))


def truth_for(verifier: Any, messages: Sequence[Message], truth: Any) -> Any:
    """A row's ground truth, with the question where the verifier reads that.

    The question of one turn is its text; of several it is all of them, each after its role.
    """
    if not getattr(verifier, "reads_question", False):
        return truth
    turns = [f"{message['role']}: {message['content']}" for message in messages]
    question = "\n\n".join(turns) if len(messages) != 1 else messages[0]["content"]
    return {"question": question, "reference": truth}


def _as_read(prompt: Prompt, verifiers: Mapping[str, Any]) -> Prompt:
    checks = tuple(
        replace(check, truth=truth_for(verifiers[check.verifier], prompt.messages, check.truth))
        for check in prompt.checks
    )
    return replace(prompt, checks=checks)


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
