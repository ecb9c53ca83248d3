"""The model card, written from a run's own files. It says what they do not know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from cameleer.release.hyperparameters import hyperparameters
from cameleer.release.markdown import bullets, named, plain, side_by_side, tabular
from cameleer.release.terms import (
    CHECKPOINT,
    CODE_FIELDS,
    PATH_FIELDS,
    is_hub_id,
    is_path,
    shown,
    terms,
    united,
)
from cameleer.release.training_data import training_data
from cameleer.release.verify import Verified
from cameleer.report.scores import Table, score_table
from cameleer.report.stages import Stage, parent_of, sources_of


@dataclass(frozen=True)
class Released:
    """What a card is about."""

    stages: tuple[Stage, ...]
    """All that the weights came from, the released one last."""
    stage: Stage
    step: int
    name: str
    is_reward_model: bool
    curves: Mapping[str, str]
    """Pictures beside the card, by stage."""
    recipe: Mapping[str, Any]
    """The one that made all stages: the ladder's, or the run's."""
    verified: Verified

    @property
    def base(self) -> str:
        """The first model of all: a hub id, directory or function."""
        for stage in self.stages:
            for role, record in sources_of(stage.recipe):
                name = str(record.get("source") or "")
                if role in ("model", "policy") and name and parent_of(stage, name) is None:
                    return shown(name)
        return ""

    @property
    def trained(self) -> list[Stage]:
        return [stage for stage in self.stages if stage.is_training]


def card(released: Released, directory: Path) -> str:
    """README.md. `directory` holds the weights, whose parameters are counted."""
    parts = [
        _header(released),
        f"# {plain(released.name)}\n",
        *_introduction(released, directory),
        "## Use\n",
        _use(released),
        *_scores(released),
        *_curves(released),
        "## Training data\n",
        *training_data(released.stages),
        "## Hyperparameters\n",
        _hyperparameters(released),
        "## Licence\n",
        *_licence(released),
        "## Limitations\n",
        bullets(_limitations(released)),
        "## Made with\n",
        *_made(released),
    ]
    return "\n".join(parts)


def _header(released: Released) -> str:
    """The hub's metadata. JSON's strings and lists are YAML's too."""
    found = terms(released.stages)
    fields: dict[str, Any] = {"library_name": "transformers"}
    fields["pipeline_tag"] = (
        "text-classification" if released.is_reward_model else "text-generation"
    )
    fields |= united(found)
    if is_hub_id(released.base):
        fields["base_model"] = released.base
    datasets = [term.what for term in found if term.role == "data" and is_hub_id(term.what)]
    if datasets:
        fields["datasets"] = list(dict.fromkeys(datasets))
    fields["tags"] = ["cameleer", *dict.fromkeys(s.algorithm.lower() for s in released.trained)]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def _introduction(released: Released, directory: Path) -> Iterator[str]:
    stage = released.stage
    count, dtype = _size(directory)
    steps = " → ".join(f"{s.algorithm} (`{plain(s.name)}`)" for s in released.stages)
    kind = "A reward model" if released.is_reward_model else "A language model"
    size = f"{count / 1e6:,.1f} M parameters ({dtype})"
    yield f"{kind} of {size}, made from {named(released.base)} by"
    state = (
        "its last" if released.step == stage.num_steps else f"of the {stage.num_steps:,} planned"
    )
    yield f"{steps}. These are the weights after step {released.step:,}, {state}.\n"


def _use(released: Released) -> str:
    if released.is_reward_model:
        return _USE_REWARD
    rollout = released.stage.recipe.get("rollout")
    note = (
        f"`generation_config.json` samples at temperature {rollout['temperature']:g}, as training "
        "did; pass `do_sample=False` for greedy answers."
        if rollout
        else "Training sampled nothing, so `generation_config.json` names no temperature."
    )
    return f"{_USE_POLICY}\n{note} The chat template is the tokenizer's own, in this directory.\n"


_USE_POLICY = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
messages = [{"role": "user", "content": "What is 2 + 2?"}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""
_USE_REWARD = """The score of a conversation is read at its last token. Higher is better, and only
differences between answers to the same question mean something.

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
messages = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
]
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits[0, 0].item())
```

Where a template writes anything after the end-of-sequence token, cut the row behind that token: it
was the last one in training.
"""


def _scores(released: Released) -> Iterator[str]:
    table = _table_of(released)
    yield "## Evaluation\n"
    if not table.rows:
        yield "Nothing was measured: no stage has a score, on a benchmark or on held-out data.\n"
        return
    yield "Percent, with intervals of 95 %.\n"
    rows = [
        [
            f"{plain(row.label)}, {plain(row.metric)}",
            *("–" if s is None else f"{s.percent} ({s.span})" for s in row.scores),
        ]
        for row in table.rows
    ]
    yield tabular(["", *map(plain, table.columns)], rows)
    yield from (f"{plain(note)}\n" for note in table.notes)


def _table_of(released: Released) -> Table:
    """Scores, with held-out files by the last part of their paths."""
    table = score_table(released.stages, steps={released.stage.name: released.step})
    held_out = [(s.recipe.get("heldout") or {}).get("sources", ()) for s in released.stages]
    paths = [source["path"] for sources in held_out for source in sources]

    def cut(label: str) -> str:
        for path in filter(is_path, paths):
            label = label.replace(path, shown(path))
        return label

    return replace(table, rows=tuple(replace(r, label=cut(r.label)) for r in table.rows))


def _curves(released: Released) -> Iterator[str]:
    if released.curves:
        yield "## Learning curves\n"
    for stage, picture in released.curves.items():
        yield f"![Metrics of {plain(stage)} by step]({picture})\n"


def _hyperparameters(released: Released) -> str:
    heads = [f"{stage.name} ({stage.algorithm})" for stage in released.trained]
    return side_by_side(heads, [hyperparameters(stage) for stage in released.trained])


def _licence(released: Released) -> Iterator[str]:
    found = terms(released.stages)
    yield "These weights come from the following, whose terms hold together.\n"
    rows = [[named(t.what), t.role, plain(t.license or "not stated")] for t in found]
    yield tabular(["what", "role", "licence"], rows)
    if unknown := [term for term in found if not term.license]:
        names = ", ".join(named(term.what) for term in unknown)
        yield (
            f"The terms of {names} were not stated in the recipe, and are **unknown** "
            "to this card. Look them up before you use or pass on these weights.\n"
        )


def _limitations(released: Released) -> Iterator[str]:
    table = _table_of(released)
    measured = [row.label for row in table.rows if row.label != "average" and row.scores[-1]]
    if measured:
        yield f"Measured: {plain('; '.join(measured))}. No other ability was measured."
    else:
        yield "No ability of these weights was measured."
    yield "Safety, bias and truthfulness were not measured, unless a row above names them."
    if any(" of " in row.label.partition("(")[2] for row in table.rows):
        yield "Where a row says so, only a part of a benchmark was asked."
    if released.step < released.stage.num_steps:
        yield (
            f"Training was not finished, or these are not its last weights: step {released.step:,} "
            f"of {released.stage.num_steps:,}."
        )
    seeds = sorted({str(s.manifest["seed"]) for s in released.trained if "seed" in s.manifest})
    if seeds:
        yield f"One run, seed {', '.join(seeds)}: how much another seed would change is not known."
    shares = [m["finish/length"] for m in released.stage.metrics if "finish/length" in m]
    if shares and (share := shares[-1]):
        limit = released.stage.recipe["rollout"]["max_tokens"]
        yield f"{100 * share:.1f} % of the last step's answers were cut off at {limit:,} tokens."


def _made(released: Released) -> Iterator[str]:
    manifest = released.stage.manifest
    packages = manifest.get("packages") or {}
    yield (
        f"Cameleer {plain(packages.get('cameleer', 'of unknown version'))}, commit "
        f"`{plain(manifest.get('commit') or 'unknown')}`. `recipe.json` beside this card is the "
        "recipe, with local paths cut to their last part, and checkpoints named by run and step.\n"
    )
    if own := sorted(_own_code(released.recipe)):
        yield (
            f"It uses code of {plain(', '.join(own))}, which is not part of Cameleer, and is made "
            "again with `cameleer run FILE.py:FUNCTION` from there.\n"
        )
    else:
        if needed := list(_needed(released.recipe)):
            yield f"Put these into the directory first that it runs in:\n\n{bullets(needed)}"
        yield f"```console\n$ cameleer run recipe.json --name {_again(released)}\n```\n"
    gpus = manifest.get("gpus") or []
    hardware = f"{len(gpus)} x {gpus[0]}" if gpus else f"CPU, {manifest.get('machine', 'unknown')}"
    facts = [
        ["hardware", plain(hardware)],
        ["processes", plain(manifest.get("world_size", "unknown"))],
        ["Python", plain(manifest.get("python", "unknown"))],
        *([name, plain(version)] for name, version in packages.items() if name != "cameleer"),
        *([f"seconds in steps of {s.name}", f"{s.seconds:,.0f}"] for s in released.trained),
    ]
    yield tabular(["", ""], facts)
    yield f"Verified when it was released: {released.verified}.\n"


def _again(released: Released) -> str:
    name = str(released.recipe.get("name", "again"))
    return name if name.isidentifier() else "again"


def _needed(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Models and data that a recipe names by a path, and what they are."""
    paths: dict[str, set[str]] = {}
    for field, name in _texts(recipe):
        if field in PATH_FIELDS and is_path(name):
            paths.setdefault(shown(name), set()).add(name)
    for name, alike in paths.items():
        what = ""
        if found := CHECKPOINT.fullmatch(min(alike)):
            what = f", `checkpoints/{found[2]}/model` of the run `{plain(found[1])}`"
        if len(alike) > 1:
            what += f": {len(alike)} of this name, which need names of their own in `recipe.json`"
        yield f"`{plain(name)}`{what}"


def _own_code(recipe: Mapping[str, Any]) -> set[str]:
    """The files and modules of a user's own that a recipe names, which its JSON may not import."""
    fields = (*PATH_FIELDS, *CODE_FIELDS)
    named = (name for field, name in _texts(recipe) if field in fields and ":" in name)
    foreign = (name for name in named if not name.startswith(("cameleer.", "stage:")))
    return {shown(name).rpartition(":")[0] for name in foreign}


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a recipe, with the field that each stands in."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, field)
    elif isinstance(value, str):
        yield field, value


def _size(directory: Path) -> tuple[int, str]:
    """Parameters in the safetensors files, and what most of them are stored as."""
    by_dtype: dict[str, int] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 It is no mapping.
                part = file.get_slice(name)
                size = 1
                for length in part.get_shape():
                    size *= length
                by_dtype[part.get_dtype()] = by_dtype.get(part.get_dtype(), 0) + size
    return sum(by_dtype.values()), max(by_dtype, key=by_dtype.__getitem__, default="no weights")
