"""Scored groups as parquet: one row a completion, written for people and read back for replay."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cameleer.batch import Batch
from cameleer.errors import RunError
from cameleer.files import reached
from cameleer.types import Completion, Group, Prompt, Score

_SCORE = pa.struct(
    [
        ("verifier", pa.string()),
        ("truth", pa.string()),
        ("value", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("sample", pa.int32()),
        ("version", pa.int32()),
        ("finish_reason", pa.string()),
        ("text", pa.string()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("scores", pa.list_(_SCORE)),
        ("reward", pa.float32()),
        ("advantage", pa.float32()),
    ]
)
"""`reward` is null where no verdict was reached, `advantage` where none was computed yet.

`advantage` is that of the last token: of GRPO's all sampled tokens have the same, of PPO's each has
its own. A truth that is no text is JSON."""


def path_of(directory: Path, step: int) -> Path:
    """Where a run keeps the rollouts of a step."""
    return directory / "rollouts" / f"step_{step:06d}.parquet"


def write(path: Path, step: int, groups: Sequence[Group], batch: Batch | None = None) -> None:
    """Write the completions of a step, whole or not at all.

    Args:
        batch: What became of them; None for groups that wait for their step.
    """
    rewards: Sequence[float | None] = []
    advantages: Sequence[float | None] = []
    if batch is not None:
        assert batch.rewards_B is not None and batch.scored_B is not None
        found = zip(batch.rewards_B.tolist(), batch.scored_B.tolist(), strict=True)
        rewards = [reward if scored else None for reward, scored in found]
        if batch.advantages_N is not None:
            advantages = batch.advantages_N[batch.lengths_B.cumsum(0) - 1].tolist()
    rows = [
        {
            "step": step,
            "prompt_id": group.prompt.id,
            "source": group.prompt.source,
            "sample": sample,
            "version": completion.version,
            "finish_reason": completion.finish_reason,
            "text": completion.text,
            "prompt_tokens": group.prompt.tokens,
            "tokens": completion.tokens,
            "logprobs": completion.logprobs,
            "scores": [
                {
                    "verifier": check.verifier,
                    "truth": _text(check.truth),
                    "value": score.value,
                    "status": score.status,
                    "reason": score.reason,
                }
                for check, score in zip(group.prompt.checks, verdicts, strict=True)
            ],
        }
        for group in groups
        for sample, (completion, verdicts) in enumerate(
            zip(group.completions, group.scores, strict=True)
        )
    ]
    for row, reward, advantage in itertools.zip_longest(rows, rewards, advantages):
        row |= {"reward": reward, "advantage": advantage}
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")
    reached("rollouts/aside")
    os.replace(partial, path)


def _text(truth: Any) -> str:
    text = truth if isinstance(truth, str) else json.dumps(truth, ensure_ascii=False)
    # Half a character, which a ground truth may hold, is no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


def read(path: Path, prompts: Mapping[str, Prompt]) -> list[Group]:
    """The groups that `write` was given.

    Args:
        prompts: The run's prompts by id, which know the checks that the file does not.

    Raises:
        RunError: The file is not there or damaged, or belongs to other prompts.
    """
    families: list[list[dict[str, Any]]] = []
    for row in read_rows(path):
        # The first sibling begins a group; a small data set may ask a prompt twice in a step.
        if row["sample"] == 0:
            families.append([])
        families[-1].append(row)
    groups = []
    for siblings in families:
        prompt_id = siblings[0]["prompt_id"]
        prompt = prompts.get(prompt_id)
        if prompt is None or list(prompt.tokens) != siblings[0]["prompt_tokens"]:
            raise RunError(
                f"{path} answers the prompt {prompt_id}, which the run's data does not have, or "
                "has with other words. Put the data, tokenizer and template of the run back."
            )
        completions = tuple(
            Completion(
                tuple(row["tokens"]),
                row["text"],
                tuple(row["logprobs"]),
                row["finish_reason"],
                row["version"],
            )
            for row in siblings
        )
        scores = tuple(
            tuple(Score(s["value"], s["status"], s["reason"]) for s in row["scores"])
            for row in siblings
        )
        groups.append(Group(prompt, completions, scores))
    return groups


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one step's file. Raises RunError where it is absent or damaged."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).strip().split("\n")[0]
        raise RunError(
            f"Cannot read the rollouts {path}: {why}. Only this step's completions are affected; "
            "resuming needs checkpoints alone."
        ) from error
    return rows
