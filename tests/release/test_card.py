"""The model card says what the run's files say, and what they do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import curate, dpo, grpo, held_out, sft
from huggingface_hub import ModelCard
from made_runs import made, made_evaluation, made_ladder

from cameleer.data.sources import Source
from cameleer.recipe import Eval, HeldOut, Model, Recipe
from cameleer.recipe_files import to_json
from cameleer.release.card import Released, card
from cameleer.release.terms import Term, is_hub_id, is_path, shown, terms, united
from cameleer.release.verify import Verified
from cameleer.report.stages import Stage, ancestors, read_tree

VERIFIED = Verified("the checkpoint", 4, 100, 1e-6, 1e-4, 64)
LINES = [{"step": i, "loss": 1.0, "time/step": 1.5} for i in range(1, 5)]


def of(stage: Stage, step: int = 4, **changes: Any) -> Released:
    found = Released(
        stages=tuple(ancestors(stage)),
        stage=stage,
        step=step,
        name="a-model",
        is_reward_model=False,
        curves={},
        recipe=stage.recipe,
        verified=VERIFIED,
    )
    return replace(found, **changes)


def one_run(root: Path, recipe: Recipe | dict[str, Any], **more: Any) -> Stage:
    return read_tree(made(root / "run", LINES, recipe=recipe, **more)).stages[0]


def header(text: str) -> dict[str, Any]:
    _, fields, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(fields)
    return found


def cells(text: str, label: str) -> list[list[str]]:
    """The rows of tables that begin with a label."""
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    return [row[1:] for row in rows if row and row[0] == label]


TALLY = {"sha256": "5e1f", "rows": 1234, "taken": 1000, "tokens": 56000, "trained_tokens": 7000}
TALLY |= {"truncated": 2, "dropped": {"unknown role": 3, "no answer": 4}}


@pytest.fixture
def ladder(tmp_path: Path) -> Stage:
    """SFT from a base of the hub, then GRPO, with licences, data of the hub and of a file."""
    root = tmp_path / "l"
    base = Model(source="owner/base", license="llama3.1")
    data = (Source(path="owner/chats", format="chat", revision="abc", count=100),)
    first = sft(Path("x"), root, model=base, data=data, heldout=held_out(100))
    last = grpo(Path("stage:sft"), root, data=(Source(path="/home/me/secret/mine.jsonl"),))
    made_ladder(root, first, last)
    lines = [{"step": 0, "heldout/accuracy": 0.25, "heldout/num_prompts": 100}, *LINES]
    made(root / "sft", lines, recipe=first, manifest={"examples": 64, "examples_truncated": 3})
    cut = [{**line, "finish/length": 0.125} for line in LINES]
    made(root / "grpo", cut, recipe=last, manifest={"data": [TALLY]})
    made_evaluation(root / "grpo", 4, gsm8k=0.5)
    return read_tree(root).stages[1]


def test_the_header_is_what_the_hub_reads(ladder: Stage, tiny: Path, tmp_path: Path):
    text = card(of(ladder), tiny)
    assert header(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "not-fully-stated",
        "base_model": "owner/base",
        "datasets": ["owner/chats"],
        "tags": ["cameleer", "sft", "grpo"],
    }
    (tmp_path / "README.md").write_text(text)
    assert ModelCard.load(tmp_path / "README.md").data.base_model == "owner/base"


def test_unknown_terms_are_said_to_be_unknown(ladder: Stage, tiny: Path):
    text = card(of(ladder), tiny)
    assert cells(text, "`owner/base`") == [["model", "llama3.1"]]
    assert cells(text, "`owner/chats`") == [["data", "not stated"]]
    assert "The terms of `owner/chats`, `mine.jsonl` were not stated" in text


def test_known_terms_are_united(tmp_path: Path, tiny: Path):
    def with_terms(of_model: str, of_data: str) -> dict[str, Any]:
        recipe = to_json(sft(Path("owner/base"), tmp_path))
        recipe["model"]["license"], recipe["data"][0]["license"] = of_model, of_data
        return header(card(of(one_run(tmp_path, recipe)), tiny))

    assert with_terms("mit", "MIT")["license"] == "mit"
    found = with_terms("Llama 3.1 Community", "odc-by")
    assert (found["license"], found["license_name"]) == ("other", "llama-3.1-community-and-odc-by")
    assert with_terms("mit", "")["license_name"] == "not-fully-stated"


KEPT = "1,000 of 1,234, 56,000 tokens, 7,000 trained, 2 cut, 7 left out"


def test_data_is_named_with_rows_checksum_and_part(ladder: Stage, tiny: Path):
    text = card(of(ladder), tiny)
    (chats, totals) = cells(text, "sft")
    assert chats == ["`owner/chats` (train, revision abc, 100 rows)", "not recorded",
                     "none: no local file", "not stated"]  # fmt: skip
    assert totals[0] == "prompts used: 64; examples used: 64"
    assert cells(text, "grpo")[0] == ["`mine.jsonl` (train)", KEPT, "`5e1f`", "not stated"]
    assert "/home/me" not in text


def test_a_function_s_rows_have_no_checksum(tmp_path: Path, tiny: Path):
    stage = one_run(
        tmp_path, sft(Path("a/b"), tmp_path), manifest={"data": [TALLY | {"sha256": ""}]}
    )
    assert cells(card(of(stage), tiny), "run")[0][2] == "none: no local file"


def test_the_scores_of_all_stages_are_in_the_card(ladder: Stage, tiny: Path):
    text = card(of(ladder), tiny)
    assert "|  | start | sft, step 0 | grpo |" in text
    assert cells(text, "gsm8k (100 of 200), exact") == [["–", "–", "50.0 (42.0 to 58.0)"]]
    assert "only a part of a benchmark was asked" in text
    assert "12.5 % of the last step's answers were cut off at 8 tokens." in text
    assert "Safety, bias and truthfulness were not measured" in text


def test_a_run_or_ladder_that_measured_nothing_says_so(tmp_path: Path, tiny: Path):
    alone = one_run(tmp_path, sft(Path("a/b"), tmp_path))
    for stage in (alone, with_pairs(tmp_path / "l")):
        text = card(of(stage), tiny)
        evaluation = text.split("## Evaluation\n\n")[1].split("\n\n")[0]
        assert evaluation.startswith("Nothing was measured: no stage has a score")
        assert "No ability of these weights was measured." in text


def with_pairs(root: Path) -> Stage:
    """DPO on pairs of answers of an SFT policy, in a ladder."""
    pairs = Source(path="stage:pairs", format="preference")
    stages = (
        to_json(sft(Path("owner/base"), root)),
        to_json(curate(root)),
        to_json(dpo(Path("stage:sft"), root, data=(pairs,))),
    )
    made_ladder(root, *stages)
    made(root / "sft", LINES, recipe=stages[0])
    counts = {"pairs": 12, "right": 31, "all answers equally wrong": 4}
    made(root / "pairs", recipe=stages[1], manifest={"prompts": 40, "counts": counts})
    made(root / "dpo", LINES, recipe=stages[2])
    return read_tree(root).stages[2]


def test_a_stage_that_made_data_is_in_the_card(tmp_path: Path, tiny: Path):
    text = card(of(with_pairs(tmp_path / "l")), tiny)
    assert "from `owner/base` by\nSFT (`sft`) → Curate (`pairs`) → DPO (`dpo`)." in text
    data = text.split("## Training data\n")[1].split("## Hyperparameters")[0]
    assert "|  | pairs |\n" in data
    assert cells(data, "Policy") == [["sft"]] and cells(data, "Questions") == [["40"]]
    assert cells(data, "Pairs made") == [["12"]] and cells(data, "Right answers made") == [["31"]]
    assert "made on the way" not in card(of(one_run(tmp_path, sft(Path("a/b"), tmp_path))), tiny)


def test_a_held_out_file_is_named_by_its_last_part(tmp_path: Path, tiny: Path):
    mine = Source(path="/home/me/secret/held.jsonl", format="gsm8k")
    recipe = sft(Path("a/b"), tmp_path, heldout=HeldOut(sources=(mine,)))
    made(tmp_path / "run", [{"step": 4, "heldout/accuracy": 0.5, "heldout/num_prompts": 10}],
         recipe=recipe)  # fmt: skip
    text = card(of(read_tree(tmp_path / "run").stages[0]), tiny)
    assert cells(text, "held out: held.jsonl (500, greedy, GSM8K), accuracy")
    assert "/home/me" not in text


def test_an_earlier_checkpoint_is_not_called_the_last(tmp_path: Path, tiny: Path):
    stage = one_run(tmp_path, sft(Path("a/b"), tmp_path))
    assert "after step 4, its last" in card(of(stage), tiny)
    text = card(of(stage, step=2), tiny)
    assert "after step 2, of the 4 planned" in text
    assert "these are not its last weights: step 2 of 4." in text


def test_a_base_that_is_no_hub_id_is_not_in_the_header(tmp_path: Path, tiny: Path):
    for source in ("cameleer.models.tiny:arithmetic_llama", str(tiny)):
        text = card(of(one_run(tmp_path, sft(Path(source), tmp_path))), tiny)
        assert "base_model" not in header(text)
        assert f"`{source.rpartition('/')[2]}`" in text


def test_parameters_are_counted(tiny: Path, tmp_path: Path):
    # 20 x 64 embeddings; a layer: 4 x 64^2 attention, 3 x 64 x 192 MLP, 2 norms of 64; a last norm.
    assert 20 * 64 + 2 * (4 * 64**2 + 3 * 64 * 192 + 2 * 64) + 64 == 108_096
    text = card(of(one_run(tmp_path, sft(Path("a/b"), tmp_path))), tiny)
    assert "A language model of 0.1 M parameters (F32)" in text


def test_a_recipe_of_cameleer_s_own_classes_has_its_command(tmp_path: Path, tiny: Path):
    text = card(of(one_run(tmp_path, sft(Path("a/b"), tmp_path))), tiny)
    assert "$ cameleer run recipe.json --name sft" in text
    text = card(of(one_run(tmp_path, grpo(Path("a/b"), tmp_path))), tiny)
    assert "It uses code of fakes.py, which is not part of Cameleer" in text
    assert "cameleer run recipe.json" not in text and "Put these" not in text
    # A recipe.json may not import what its data or benchmarks name either.
    for where in ("/home/me/mine.py:rows", "lad/mine.py:rows"):
        data = (Source(path=where, format="chat"),)
        text = card(of(one_run(tmp_path, sft(Path("a/b"), tmp_path, data=data))), tiny)
        assert "It uses code of mine.py, which is not part of Cameleer" in text
        assert "cameleer run recipe.json" not in text and "lad/" not in text


def test_what_a_recipe_reads_from_files_is_to_be_put_there_first(tmp_path: Path, tiny: Path):
    data = (Source(path="lad/mine.jsonl", format="chat"), Source(path="a/b", format="chat"))
    start = Path("runs/lad/s1/checkpoints/step_250/model")
    recipe = sft(start, tmp_path, data=data, evals=Eval(data="~/sets"))
    text = card(of(one_run(tmp_path, recipe)), tiny)
    _, listed = text.split("Put these into the directory first that it runs in:\n\n")
    assert listed.partition("\n\n")[0].splitlines() == [
        "- `s1-step_250`, `checkpoints/step_250/model` of the run `s1`",
        "- `mine.jsonl`",
        "- `sets`",
    ]
    assert "cameleer run recipe.json" in text
    assert "lad/" not in text
    alike = (Source(path="a/x.jsonl", format="chat"), Source(path="b/x.jsonl", format="chat"))
    text = card(of(one_run(tmp_path, sft(start, tmp_path, data=alike))), tiny)
    assert "- `x.jsonl`: 2 of this name, which need names of their own in `recipe.json`" in text
    whole = card(of(one_run(tmp_path, sft(Path("a/b"), tmp_path))), tiny)
    assert "Put these" not in whole


def test_the_run_s_texts_stay_in_their_cells_and_are_no_html(tmp_path: Path, tiny: Path):
    recipe = to_json(sft(Path("a/b"), tmp_path))
    recipe["data"][0] |= {"path": "x|y`z\n# Title <img src=x onerror=y>", "license": "|<script>"}
    text = card(of(one_run(tmp_path, recipe, manifest={"python": "<b>|"})), tiny)
    assert "<img" not in text and "<script" not in text and "\n# Title" not in text
    assert "x\\|y'z # Title &lt;img" in text


def test_a_reward_model_is_told_how_to_score(tmp_path: Path, tiny: Path):
    text = card(of(one_run(tmp_path, dpo(Path("a/b"), tmp_path)), is_reward_model=True), tiny)
    assert header(text)["pipeline_tag"] == "text-classification"
    assert text.count("AutoModelForSequenceClassification") == 2 and "generate(" not in text


def test_terms_of_what_a_stage_made_are_those_of_what_made_it(ladder: Stage):
    assert terms(ancestors(ladder)) == [
        Term("owner/base", "model", "llama3.1"),
        Term("owner/chats", "data", ""),
        Term("mine.jsonl", "data", ""),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/gsm8k", True),
        ("allenai/Llama-3.1-Tulu-3-8B-DPO", True),
        ("./data/rows", False),
        ("data/train.jsonl", False),
        ("/abs/olute", False),
        ("module:function", False),
        ("gsm8k", False),
        ("a/b/c", False),
    ],
)
def test_hub_ids_are_told_from_paths(name: str, expected: bool):
    assert is_hub_id(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/abs/olute/", "olute"),
        ("~/sets/a.jsonl", "a.jsonl"),
        ("lad/mine.jsonl", "mine.jsonl"),
        ("lad/mine.py:rows", "mine.py:rows"),
        ("runs/lad/s1/checkpoints/step_250/model", "s1-step_250"),
        ("/runs/s1/checkpoints/step_40/model/", "s1-step_40"),
        ("a/b/c", "c"),
    ],
)
def test_paths_are_shown_by_what_they_end_with(name: str, expected: str):
    assert is_path(name) and shown(name) == expected


@pytest.mark.parametrize(
    "name", ["openai/gsm8k", "gpt2", "stage:pairs/right", "cameleer.models.tiny:arithmetic_llama"]
)
def test_what_is_no_path_is_shown_whole(name: str):
    assert not is_path(name) and shown(name) == name


def test_nothing_at_all_is_not_stated():
    assert united([])["license"] == "other"


def test_a_lineage_of_one_has_no_dashes(tmp_path: Path, tiny: Path):
    text = card(of(one_run(tmp_path, sft(Path("a/b"), tmp_path))), tiny)
    rows = text.split("## Hyperparameters")[1].split("## Licence")[0]
    assert "| – |" not in rows


def test_verification_is_stated_with_its_numbers(ladder: Stage, tiny: Path):
    text = card(of(ladder), tiny)
    assert "logits within 1.0e-06 of the checkpoint on 4 prompts, 100 tokens (float32" in text
    assert json.dumps("cameleer") in text
