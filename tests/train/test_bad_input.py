"""What a user gets wrong is said before training, with the place and the remedy."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import grpo, sft, tiny_llama

from cameleer.algorithms.grpo import GRPO
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.errors import CameleerError, DataError, ModelError, RecipeError, RunError
from cameleer.recipe import (
    Ladder,
    Model,
    Optim,
    Output,
    Recipe,
    RewardTerm,
    Rollout,
    Runtime,
)
from cameleer.train.guards import refuse_device
from cameleer.verifiers.gsm8k import GSM8K

GOOD = '{"question": "How many apples ?", "answer": "3 + 4 = 7 . #### 7"}\n'


def refusal(recipe: Recipe | Ladder) -> str:
    """The message of the error that a run ends with, before it leaves anything behind."""
    with pytest.raises(CameleerError) as error:
        run(recipe)
    if isinstance(recipe, Recipe):
        assert not recipe.directory.exists(), "a refused run must not be in the next one's way"
    return str(error.value)


def with_rows(model: Path, root: Path, text: str, **source: Any) -> Recipe:
    rows = root / "rows.jsonl"
    rows.write_text(text, encoding="utf-8")
    data = (Source(path=str(rows), **{"format": "gsm8k", **source}),)
    return grpo(model, root / "runs", data=data, verifiers={"gsm8k": GSM8K()})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD + "{oops\n", "rows.jsonl:2: not valid JSON (Expecting property name"),
        (GOOD + "\n[1, 2]\n", "rows.jsonl:3: a list where a JSON object is expected."),
        (
            GOOD + '{"question": "?", "target": "7"}\n',
            "rows.jsonl:2: the row has no answer, which format 'gsm8k' needs "
            "(it has question, target).",
        ),
        (
            GOOD + '{"question": "?", "answer": "it is 7"}\n',
            "rows.jsonl:2: the answer has no '#### ' line, which holds GSM8K's final number.",
        ),
        ("", "rows.jsonl has no rows. Training needs at least one."),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(model: Path, tmp_path: Path, rows: str, message: str):
    assert message in refusal(with_rows(model, tmp_path, rows))


def test_a_truth_that_cannot_be_read_is_named_by_file_and_line(model: Path, tmp_path: Path):
    rows = GOOD + '{"question": "?", "answer": "#### seven"}\n'
    message = refusal(with_rows(model, tmp_path, rows))
    assert message.startswith("1 of 2 ground truths cannot be read. The first is ")
    assert "rows.jsonl:2, gsm8k: 'seven'" in message


def test_an_unknown_verifier_is_counted(model: Path, tmp_path: Path):
    row = {"messages": [{"role": "user", "content": "?"}], "ground_truth": "7"}
    names = ["gsm8k", "math_500", "math_500"]
    rows = "".join(json.dumps({**row, "dataset": name}) + "\n" for name in names)
    assert refusal(with_rows(model, tmp_path, rows, format="rlvr")) == (
        "2 of 3 prompts name the verifier 'math_500', which the recipe does not have (it has "
        "gsm8k). Add it to `verifiers`, or drop these rows."
    )


def test_a_file_that_is_not_there_is_named_with_the_nearest(model: Path, tmp_path: Path):
    recipe = with_rows(model, tmp_path, GOOD)
    wrong = replace(recipe.data[0], path=str(tmp_path / "row.jsonl"))
    message = refusal(replace(recipe, data=(wrong,)))
    assert "row.jsonl does not exist. Did you mean 'rows.jsonl'?" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rollout": Rollout(num_prompts=4, group_size=1, max_tokens=8)},
            "GRPO compares completions of the same prompt, and rollout.group_size is 1. Set it to "
            "2 or more (Tulu 3.1 used 16), or use PPO.",
        ),
        (
            {"rollout": Rollout(num_prompts=4, group_size=4, max_tokens=8, max_refills=-1)},
            "rollout.max_refills is -1; it counts rounds",
        ),
        (
            {"rollout": Rollout(num_prompts=4, group_size=4, max_tokens=8, max_refills=2)},
            "Set algorithm.drop_equal_groups, which GRPO has, or max_refills=0",
        ),
        (
            {
                "rollout": Rollout(num_prompts=4, group_size=4, max_tokens=8, max_refills=2),
                "algorithm": GRPO(drop_equal_groups=True),
                "reward_model": RewardTerm(source="no model"),
            },
            "there would be nothing to replace",
        ),
        (
            {"rollout": Rollout(num_prompts=4, group_size=4, max_tokens=8, temperature=0.0)},
            "rollout.temperature is 0.0: all siblings would be equal",
        ),
        ({"num_minibatches": 5}, "num_minibatches is 5, but a step has only 4 groups to divide."),
        (
            {"num_minibatches": 17, "split": "sequence"},
            "num_minibatches is 17, but a step has only 16 completions to divide.",
        ),
        ({"num_steps": 0}, "num_steps is 0, so nothing would be trained."),
        ({"data": ()}, "The recipe has no `data`."),
        ({"seed": -1}, "seed is -1; give a whole number from 0 on."),
        (
            {"data": (Source(path="rows.jsonl", share=0.5, count=3),)},
            "rows.jsonl has a share (0.5) and a count (3). Give one of them.",
        ),
        (
            {"data": (Source(path="rows.jsonl", share=math.nan),)},
            "data.0.share is not a number (NaN).",
        ),
        ({"verifiers": {}}, "The recipe has neither `verifiers` nor"),
        ({"name": "a/b"}, "name is 'a/b', and has to be usable as a directory's name."),
        ({"normalize": "tokens"}, "normalize is 'tokens', and has to be one of token, sequence"),
        (
            {"optim": Optim(learning_rate=0.0)},
            "optim.learning_rate is 0.0; it has to be above 0 and finite.",
        ),
        (
            {"optim": Optim(learning_rate=1.0, max_grad_norm=0.0)},
            "optim.max_grad_norm is 0.0, which would scale every gradient to nothing.",
        ),
        ({"output": Output(save_every=0)}, "output.save_every"),
        ({"output": Output(keep_last=-1)}, "output.keep_last is -1"),
        ({"rollout": None}, "The recipe has neither `rollout` (reinforcement learning) nor"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    # The first minibatch count is the fixture's; without rollouts it has to be 1.
    changes = {"num_minibatches": 1, **changes}
    with pytest.raises(RecipeError) as error:
        run(grpo(model, tmp_path, **changes))
    assert message in str(error.value)


def test_imitation_refuses_what_only_rollouts_have(model: Path, tmp_path: Path):
    message = refusal(sft(model, tmp_path, num_epochs=3))
    assert "num_epochs 3, which divide and repeat rollouts" in message


def test_stages_of_one_name_are_refused(model: Path, tmp_path: Path):
    stage = sft(model, tmp_path)
    with pytest.raises(RecipeError, match="names have to differ"):
        Ladder(name="both", stages=(stage, stage)).validate()


def test_a_sequence_longer_than_the_model_is_refused(tmp_path: Path):
    short = tiny_llama(tmp_path / "short", max_tokens=40)
    rollout = Rollout(num_prompts=4, group_size=4, max_tokens=30)
    message = refusal(grpo(short, tmp_path, rollout=rollout))
    assert "tokens (its prompt, and 30 of rollout.max_tokens), and" in message
    assert f"{short} was made for 40. Lower max_prompt_tokens or max_tokens." in message


def test_an_example_longer_than_the_model_is_refused(tmp_path: Path):
    short = tiny_llama(tmp_path / "short", max_tokens=40)
    message = refusal(sft(short, tmp_path))
    assert f"tokens, and {short} was made for 40. Lower max_tokens." in message


def test_a_sequence_longer_than_a_sliding_window_is_refused(model: Path, tmp_path: Path):
    sliding = tmp_path / "sliding"
    shutil.copytree(model, sliding)
    config = json.loads((sliding / "config.json").read_text())
    # The longest prompt of the arithmetic problems is 28 tokens, and 8 are sampled.
    (sliding / "config.json").write_text(json.dumps({**config, "sliding_window": 20}))
    message = refusal(grpo(sliding, tmp_path))
    assert f"{sliding} attends to the last 20 only, which is not implemented." in message


def test_all_prompts_too_long_is_an_error(model: Path, tmp_path: Path):
    rollout = Rollout(num_prompts=4, group_size=4, max_tokens=8, max_prompt_tokens=5)
    message = refusal(grpo(model, tmp_path, rollout=rollout))
    assert message.startswith("No prompt of at most 5 tokens is left (64 dropped: longer than ")


def without_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def with_too_few_embeddings(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 50}))


def without_config(model: Path) -> None:
    (model / "config.json").unlink()


def with_pickled_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_template, "has no chat template, so prompts cannot be rendered. Set "
            "model.chat_template to 'tulu'"),
        (with_too_few_embeddings, "do not fit: the tokenizer has ids up to "),
        (without_config, "is not a Hugging Face checkpoint: it has no config.json (it holds "),
        (with_pickled_weights, "has no *.safetensors file. Pickled weights can run code"),
    ],
)  # fmt: skip
def test_a_model_that_would_train_wrongly_is_refused(
    model: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    damage(broken)
    with pytest.raises(ModelError) as error:
        run(grpo(broken, tmp_path))
    assert message in str(error.value) and str(broken) in str(error.value)
    assert not (tmp_path / "grpo").exists()


def test_a_model_function_that_cannot_be_imported_is_named(model: Path, tmp_path: Path):
    message = refusal(grpo(model, tmp_path, model=Model(source="cameleer.models.tiny:camel")))
    assert message.startswith(
        "model.source names cameleer.models.tiny:camel: cameleer.models.tiny has"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_is_not_there_is_missed_before_anything_is_loaded(tmp_path: Path):
    recipe = grpo(tmp_path / "no model", tmp_path, runtime=Runtime(device="cuda"))
    assert refusal(recipe) == (
        "runtime.device is 'cuda', and torch finds no CUDA device here. Set --runtime.device cpu, "
        "or run where there is a GPU and a CUDA build of torch."
    )


def test_a_gpu_without_a_c_compiler_is_told_where_kernels_would_be_fused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tiny_llama(tmp_path / "model")
    bfloat16 = Model(source=str(model), dtype="bfloat16")
    recipe = sft(model, tmp_path, model=bfloat16, runtime=Runtime(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(RecipeError, match=r"neither gcc nor clang .* --runtime\.compile false"):
        refuse_device(recipe)
    refuse_device(replace(recipe, runtime=Runtime(device="cuda", compile=False)))
    refuse_device(grpo(model, tmp_path, model=bfloat16, runtime=Runtime(device="cuda")))
    monkeypatch.setenv("CC", "cc")
    refuse_device(recipe)


def test_a_verifier_that_workers_cannot_import_leaves_no_directory(model: Path, tmp_path: Path):
    class Local(GSM8K):
        isolated = True

    message = refusal(grpo(model, tmp_path, verifiers={"gsm8k": Local()}))
    assert message.startswith("A verifier worker did not start: Can't pickle local object")
    assert "defined at the top level of a module that can be imported" in message


@pytest.mark.parametrize("kind", ["recipe", "ladder"])
def test_a_directory_that_exists_is_not_written_to(model: Path, tmp_path: Path, kind: str):
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo/notes.txt").write_text("precious")
    recipe: Recipe | Ladder = grpo(model, tmp_path)
    if kind == "ladder":
        recipe = Ladder(name="grpo", stages=(sft(model, tmp_path),))
    with pytest.raises(RunError) as error:
        run(recipe)
    assert str(error.value) == (
        f"{tmp_path}/grpo exists already. Continue it with --resume, start another with --name "
        "OTHER, or delete it."
    )
    assert [p.name for p in (tmp_path / "grpo").iterdir()] == ["notes.txt"]


def test_errors_a_user_can_mend_are_value_errors():
    for kind in (RecipeError, DataError, ModelError, RunError):
        assert issubclass(kind, ValueError)
