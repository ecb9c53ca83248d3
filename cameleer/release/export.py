"""A run's checkpoint as a Hugging Face directory: whole and verified, or not there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cameleer.errors import RunError, nearest
from cameleer.files import checksums, read_json, sync, unwritable, write_json
from cameleer.models.load import load_tokenizer
from cameleer.release.card import Released, card
from cameleer.release.record import FORMAT, RECORD, compare_files, read_record
from cameleer.release.terms import CODE_FIELDS, PATH_FIELDS, shown
from cameleer.release.verify import Verified, verify_checkpoint
from cameleer.report.curve import draw_curve
from cameleer.report.stages import Stage, Tree, ancestors, read_tree
from cameleer.train import checkpoint


@dataclass(frozen=True)
class Chosen:
    """The checkpoint to release."""

    tree: Tree
    stage: Stage
    step: int
    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"


def release(
    directory: Path,
    *,
    stage: str | None = None,
    step: int | None = None,
    output: Path | None = None,
) -> tuple[Path, Verified]:
    """Write a checkpoint's release, and hold it against the checkpoint before it gets its name.

    Args:
        directory: Of a run or ladder.
        stage: Which of a ladder's; the last one otherwise.
        step: Which checkpoint; the newest whole one otherwise.
        output: Where to. ``directory/release``, or ``directory/STAGE/release`` for a named stage.

    Raises:
        RunError: There is no such checkpoint, the place is taken by something else, or what was
            written is not the checkpoint. Nothing is left behind then.
    """
    chosen = choose(directory, stage, step)
    output = output or (chosen.stage.directory if stage else directory) / "release"
    _refuse_taken(output, chosen)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        verified = _fill(partial, chosen)
        sync(*partial.rglob("*"), partial)
        _put(partial, output)
    except OSError as error:
        raise unwritable(output, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output, verified


def choose(directory: Path, stage: str | None, step: int | None) -> Chosen:
    """Raises RunError where there is no such stage, or no whole checkpoint of it."""
    tree = read_tree(directory)
    names = [each.name for each in tree.stages]
    if stage is not None and (not tree.is_ladder or stage not in names):
        has = f"has the stages {', '.join(names)}" if tree.is_ladder else "is one run, no ladder"
        raise RunError(f"{directory} {has}; there is no '{stage}'.{nearest(stage, names)}")
    of = tree.find(stage) if stage else tree.stages[-1]
    assert of is not None, "the name was looked for"
    root = of.directory / "checkpoints"
    saved = of.checkpoints()
    if not saved or (step is not None and step not in saved):
        others = [each.name for each in tree.stages if each.checkpoints() and each is not of]
        raise RunError(
            f"{of.directory} has no checkpoint{f' of step {step}' if step is not None else ''}"
            + (f"; it has {', '.join(map(str, saved))}" if saved else "")
            + (f". Name another stage with --stage: {', '.join(others)}" if others else "")
            + "."
        )
    path, state = checkpoint.latest(root, up_to=step)
    if step is not None and state["step"] != step:
        raise RunError(f"{root / f'step_{step}'} is damaged. Name another step of {saved}.")
    return Chosen(tree, of, int(state["step"]), path)


def is_reward_model(model: Path) -> bool:
    """Whether a checkpoint's model gives a score instead of text."""
    names = read_json(model / "config.json").get("architectures") or [""]
    return str(names[0]).endswith("ForSequenceClassification")


def _fill(partial: Path, chosen: Chosen) -> Verified:
    for path in sorted(chosen.model.iterdir()):
        shutil.copyfile(path, partial / path.name)
    is_reward = is_reward_model(chosen.model)
    if is_reward:
        (partial / "generation_config.json").unlink(missing_ok=True)
    else:
        write_json(partial / "generation_config.json", _generation(chosen))
    verified = verify_checkpoint(partial, chosen.model, chosen.stage)
    lineage = ancestors(chosen.stage)
    curves = {}
    for each in lineage:
        if each.metrics and each.is_training:
            curves[each.name] = f"curve_{each.name}.png"
            draw_curve(each.directory, partial / curves[each.name])
    whole = chosen.stage.directory.parent / "recipe.json"
    in_ladder = len(lineage) > 1 and whole.is_file()
    recipe = read_json(whole) if in_ladder else chosen.stage.recipe
    write_json(partial / "recipe.json", _without_paths(recipe))
    written = Released(
        stages=tuple(lineage),
        stage=chosen.stage,
        step=chosen.step,
        name=_name(chosen),
        is_reward_model=is_reward,
        curves=curves,
        recipe=recipe,
        verified=verified,
    )
    (partial / "README.md").write_text(card(written, partial), encoding="utf-8")
    record = {
        "format": FORMAT,
        **_identity(chosen),
        "step": chosen.step,
        "verified": asdict(verified),
        "files": checksums(partial),
    }
    write_json(partial / RECORD, record)
    return verified


def _name(chosen: Chosen) -> str:
    """What the card calls it: the run, and its stage where a ladder has several."""
    above = chosen.stage.directory.resolve().parent
    name = chosen.stage.name
    return f"{above.name}-{name}" if (above / "recipe.json").is_file() else name


def _identity(chosen: Chosen) -> dict[str, str]:
    return {"run": str(chosen.stage.manifest.get("run", "")), "stage": chosen.stage.name}


def _generation(chosen: Chosen) -> dict[str, Any]:
    """What transformers' generate reads: which token ends an answer, and how training sampled."""
    tokenizer = load_tokenizer(str(chosen.model))
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    found = {"eos_token_id": eos, "pad_token_id": eos if pad is None else pad}
    if tokenizer.bos_token_id is not None:
        found["bos_token_id"] = tokenizer.bos_token_id
    rollout = chosen.stage.recipe.get("rollout")
    if rollout:
        found |= {"do_sample": True, "temperature": rollout["temperature"]}
    return found


def _refuse_taken(output: Path, chosen: Chosen) -> None:
    """Raises RunError where a place holds anything but an untouched release of the same run."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        record = read_record(output)
    except RunError:
        raise RunError(
            f"{output} exists and is no release of Cameleer's. Name another --output, or move it."
        ) from None
    if {"run": record.run, "stage": record.stage} != _identity(chosen):
        raise RunError(
            f"{output} is the release of another run (stage {record.stage}). Name another "
            "--output, or move it."
        )
    found = compare_files(output, record)
    changed = sorted((*found.absent, *found.changed, *found.added))
    if changed:
        raise RunError(
            f"{output} was changed since it was released ({', '.join(changed[:3])}), and would be "
            "overwritten. Name another --output, or move it."
        )


def _put(partial: Path, output: Path) -> None:
    """Give a release its name; the one before goes only once the new one stands."""
    earlier = output.with_name(f".{output.name}.{os.getpid()}.earlier")
    if output.exists():
        os.rename(output, earlier)
    try:
        os.rename(partial, output)
    except OSError:
        if earlier.exists():
            os.rename(earlier, output)
        raise
    sync(output.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def _without_paths(value: Any, field: str = "") -> Any:
    """A recipe that says nothing of the machine it ran on: paths are as the card shows them."""
    if isinstance(value, Mapping):
        return {key: _without_paths(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, field) for item in value]
    if not isinstance(value, str):
        return value
    # A relative directory says nothing of the machine, and the recipe goes on writing there. Stop
    # strings may begin as paths do.
    is_elsewhere = field == "directory" and value.startswith(("/", "~"))
    is_elsewhere |= field != "stop" and _ABSOLUTE.match(value) is not None
    return shown(value) if is_elsewhere or field in (*PATH_FIELDS, *CODE_FIELDS) else value


_ABSOLUTE = re.compile(r"(?:/|~/)[^/\s]+/[^/\s]")
