"""Stages of a ladder start from what earlier ones ended with, and are not made twice."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import curate, dpo, grpo, ppo, reward_model, sft
from safetensors.torch import load_file

from cameleer.cli import main
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.errors import ModelError, RecipeError, RunError
from cameleer.files import read_json, read_lines
from cameleer.recipe import Ladder, Model, RewardTerm
from cameleer.train.check import check
from cameleer.train.ladder import notices, placed_stages

PAIRS = (Source(path="stage:pairs", format="preference"),)


def all_rungs(model: Path, root: Path) -> Ladder:
    start = Model(source="stage:sft")
    stages = (
        sft(model, root, num_steps=60),
        curate(root),
        dpo(model, root, model=start, data=PAIRS),
        reward_model(model, root, name="rm", model=start, data=PAIRS),
        ppo(
            model,
            root,
            model=Model(source="stage:dpo"),
            value_model=Model(source="stage:rm"),
            reward_model=RewardTerm(source="stage:rm", weight=0.1),
        ),
        grpo(model, root, model=Model(source="stage:dpo")),
    )
    return Ladder(name="ladder", stages=stages)


def weights(directory: Path, step: int, name: str = "model") -> dict[str, Any]:
    return load_file(directory / f"checkpoints/step_{step}/{name}/model.safetensors")


def test_every_rung_begins_where_the_recipe_says(model: Path, tmp_path: Path):
    ladder = all_rungs(model, tmp_path)
    directories = run(ladder)
    assert [d.name for d in directories] == ["sft", "pairs", "dpo", "rm", "ppo", "grpo"]
    started = {
        d.name: read_json(d / "manifest.json")["weights"] for d in directories if d.name != "pairs"
    }
    assert started["dpo"]["policy"] == started["dpo"]["reference"]
    assert started["ppo"]["policy"] == started["grpo"]["policy"] != started["dpo"]["policy"]
    assert started["ppo"]["value model"] == started["ppo"]["reward model"]
    pairs = list(read_lines(tmp_path / "ladder/pairs/pairs.jsonl"))
    manifest = read_json(tmp_path / "ladder/pairs/manifest.json")
    assert manifest["counts"]["pairs"] == len(pairs) > 4
    assert manifest["weights"]["policy"] == started["dpo"]["policy"]
    (data,) = manifest["data"]
    assert (data["rows"], data["kept"], data["name"]) == (64, 64, "arithmetic")
    assert data["tokens"] > 64 * data["longest"] / 2
    assert {row["rewards"][0] > row["rewards"][1] for row in pairs} == {True}


def test_a_ladder_goes_on_at_the_stage_it_stopped_in(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ladder = all_rungs(model, tmp_path)
    run(ladder)
    root, kept = tmp_path / "ladder", tmp_path / "kept"
    shutil.copytree(root, kept)
    # As if the machine had died in the second part of the answers, and nothing later were there.
    for name in ("dpo", "rm", "ppo", "grpo"):
        shutil.rmtree(root / name)
    for name in ("manifest.json", "pairs.jsonl", "right.jsonl"):
        (root / "pairs" / name).unlink()
    written = (root / "pairs/rollouts/step_000001.parquet").stat().st_mtime_ns
    capsys.readouterr()
    run(ladder, resume=True)
    told = capsys.readouterr().out
    assert "sft is complete" in told and "pairs is complete" not in told
    assert (root / "pairs/rollouts/step_000001.parquet").stat().st_mtime_ns == written
    assert (root / "pairs/pairs.jsonl").read_bytes() == (kept / "pairs/pairs.jsonl").read_bytes()
    for stage in ("dpo", "rm", "ppo", "grpo"):
        ours, theirs = weights(root / stage, 4), weights(kept / stage, 4)
        assert all(bool((ours[k] == theirs[k]).all()) for k in theirs), stage
    run(ladder, resume=True)
    assert "pairs is complete" in capsys.readouterr().out


def test_a_curate_stage_is_not_gone_on_with_otherwise(model: Path, tmp_path: Path):
    stages = (sft(model, tmp_path, num_steps=2), curate(tmp_path))
    run(Ladder(name="ladder", stages=stages))
    before = (tmp_path / "ladder/recipe.json").read_bytes()
    other = Ladder(name="ladder", stages=(stages[0], replace(stages[1], seed=5)))
    with pytest.raises(RunError, match="was made by another stage"):
        run(other, resume=True)
    assert (tmp_path / "ladder/recipe.json").read_bytes() == before, "it is of the stages there"


def test_stages_made_from_another_model_are_not_gone_on_with(model: Path, tmp_path: Path):
    first = sft(model, tmp_path, num_steps=60)
    start = Model(source="stage:sft")
    stages = (curate(tmp_path), dpo(model, tmp_path, model=start, data=PAIRS))
    run(Ladder(name="ladder", stages=(first, *stages)))
    root = tmp_path / "ladder"
    # The first stage is made anew, otherwise: what was made from it is of another ladder.
    shutil.rmtree(root / "sft")
    first = replace(first, optim=replace(first.optim, learning_rate=3e-3))
    ladder = Ladder(name="ladder", stages=(first, *stages))
    with pytest.raises(RunError, match=r"sft would be made anew .* of the old one came pairs"):
        run(ladder, resume=True)
    assert not (root / "sft").exists(), "it is said before anything is trained"
    run(Ladder(name="other", stages=(first,)))
    shutil.copytree(tmp_path / "other/sft", root / "sft")
    with pytest.raises(RunError, match=r"pairs was made from another model .* Delete it"):
        run(ladder, resume=True)
    # Half of the answers count as much.
    (root / "pairs/manifest.json").unlink()
    with pytest.raises(RunError, match=r"pairs was made from another model"):
        run(ladder, resume=True)
    shutil.rmtree(root / "pairs")
    with pytest.raises(RunError, match=r"dpo was made from another model"):
        run(ladder, resume=True)
    shutil.rmtree(root / "dpo")
    run(ladder, resume=True)
    made = read_json(root / "pairs/manifest.json")["weights"]["policy"]
    assert read_json(root / "dpo/manifest.json")["weights"]["policy"] == made


@pytest.mark.parametrize("source", ["some/rm", "runs/absent", "runs/rm/checkpoints/step_1/model"])
def test_check_says_no_of_a_reward_model_that_is_not_there(
    source: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = grpo(model, tmp_path, reward_model=RewardTerm(source=source))
    check(replace(recipe, output=replace(recipe.output, directory=".")))
    told = capsys.readouterr().out
    assert "makes it" not in told and f"{source}" in told


def test_all_that_came_of_a_stage_that_is_made_anew_is_named_at_once(model: Path, tmp_path: Path):
    first = sft(model, tmp_path, num_steps=2)
    start = Model(source="stage:sft")
    second = sft(model, tmp_path, name="second", model=start, num_steps=2)
    third = sft(model, tmp_path, name="third", model=Model(source="stage:second"), num_steps=2)
    run(Ladder(name="ladder", stages=(first, second, third)))
    shutil.rmtree(tmp_path / "ladder/sft")
    first = replace(first, optim=replace(first.optim, learning_rate=3e-3))
    with pytest.raises(RunError, match=r"of the old one came second, third\. Set its fields back"):
        run(Ladder(name="ladder", stages=(first, second, third)), resume=True)


def test_a_stage_that_never_began_may_be_dropped(model: Path, tmp_path: Path):
    stages = (sft(model, tmp_path, num_steps=2), sft(model, tmp_path, name="other", num_steps=2))
    run(Ladder(name="ladder", stages=stages))
    shutil.rmtree(tmp_path / "ladder/other")
    run(Ladder(name="ladder", stages=stages[:1]), resume=True)


def test_what_to_do_next_is_a_command_that_works(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "ends_with_pairs.py"
    file.write_text(
        "from pathlib import Path\n"
        "from fakes import curate, sft\n"
        "from cameleer.recipe import Ladder\n"
        "def ladder():\n"
        f"    root, model = Path({str(tmp_path)!r}), Path({str(model)!r})\n"
        "    return Ladder(name='ladder', stages=(sft(model, root, num_steps=2), curate(root)))\n"
    )
    assert main(["run", f"{file}:ladder"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("next: cameleer "))
    assert main(line.removeprefix("next: cameleer ").split()) == 0
    assert (tmp_path / "ladder/sft/release/model.safetensors").exists()


def test_a_ladder_loses_no_stage(model: Path, tmp_path: Path):
    stages = (sft(model, tmp_path, num_steps=2), sft(model, tmp_path, name="other", num_steps=2))
    run(Ladder(name="ladder", stages=stages))
    with pytest.raises(RunError, match=r"stages sft, other, and is to go on without other"):
        run(Ladder(name="ladder", stages=stages[:1]), resume=True)
    third = sft(model, tmp_path, name="third", num_steps=2)
    run(Ladder(name="ladder", stages=(*stages, third)), resume=True)
    assert (tmp_path / "ladder/third/checkpoints/step_2").exists()


def test_what_a_curate_stage_made_is_made_again_where_it_was_lost(model: Path, tmp_path: Path):
    ladder = Ladder(name="ladder", stages=(sft(model, tmp_path, num_steps=60), curate(tmp_path)))
    run(ladder)
    made = tmp_path / "ladder/pairs/pairs.jsonl"
    before = made.read_bytes()
    made.unlink()
    run(ladder, resume=True)
    assert before and made.read_bytes() == before


def test_a_first_stage_made_anew_as_it_was_leaves_the_others(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stages = (sft(model, tmp_path, num_steps=60), curate(tmp_path))
    run(Ladder(name="ladder", stages=stages))
    shutil.rmtree(tmp_path / "ladder/sft")
    run(Ladder(name="ladder", stages=stages), resume=True)
    assert "pairs is complete" in capsys.readouterr().out


def test_a_reward_model_adds_to_what_the_verifiers_of_a_curate_stage_give(
    model: Path, tmp_path: Path
):
    stages = (
        sft(model, tmp_path, num_steps=60),
        curate(tmp_path),
        reward_model(
            model, tmp_path, name="rm", data=(Source(path="stage:pairs", format="preference"),)
        ),
        curate(tmp_path, name="rated", reward_model=RewardTerm(source="stage:rm", weight=10.0)),
    )
    run(Ladder(name="ladder", stages=stages))
    rows = list(read_lines(tmp_path / "ladder/rated/pairs.jsonl"))
    # A verdict gives 0 or 1; only a model gives what lies between.
    assert any(reward % 1 for row in rows for reward in row["rewards"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Model(source="stage:stf")}, r"names stage:stf, and before it come sft, pairs"),
        ({"model": Model(source="stage:dpo")}, r"names stage:dpo, and before it come sft, pairs"),
        ({"model": Model(source="stage:pairs")}, "names stage:pairs as a model, and pairs makes"),
        (
            {"data": (Source(path="stage:sft", format="preference"),)},
            "names stage:sft as data, and sft makes a model",
        ),
    ],
)
def test_a_stage_that_is_not_there_is_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    stages = (sft(model, tmp_path), curate(tmp_path), dpo(model, tmp_path, **changes))
    with pytest.raises(RecipeError, match=message):
        Ladder(name="ladder", stages=stages).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Model(source="stage:rm")}, "stage:rm as its policy, and rm makes a reward mod"),
        (
            {"reward_model": RewardTerm(source="stage:sft")},
            "stage:sft as its reward model, and sft makes a policy",
        ),
    ],
)
def test_a_reward_model_is_no_policy_and_a_policy_no_reward_model(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    first = (sft(model, tmp_path), reward_model(model, tmp_path, name="rm"))
    with pytest.raises(RecipeError, match=message):
        Ladder(name="ladder", stages=(*first, grpo(model, tmp_path, **changes))).validate()
    with pytest.raises(RecipeError, match=message):
        Ladder(name="ladder", stages=(*first, curate(tmp_path, **changes))).validate()


def test_a_reward_model_is_not_trained_as_a_policy(model: Path, tmp_path: Path):
    (rm,) = run(reward_model(model, tmp_path, num_steps=1))
    source = rm / "checkpoints/step_1/model"
    with pytest.raises(ModelError, match=r"is a reward model \(Llama\w+\), and a policy is"):
        run(sft(source, tmp_path))


def test_check_tells_a_reward_model_that_is_none_before_the_ladder_has_climbed_to_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first = (sft(model, tmp_path, num_steps=1), reward_model(model, tmp_path, name="rm"))
    for source, expected, said in (
        (str(model), 1, f"{model} is no reward model (LlamaForCausalLM). Name the checkpoint of"),
        ("stage:rm", 0, "reward not checked: stage rm makes it"),
    ):
        for make in (grpo, curate):
            last = make(*((model, tmp_path) if make is grpo else (tmp_path,)), reward_model=None)
            last = replace(
                last, model=Model(source="stage:sft"), reward_model=RewardTerm(source=source)
            )
            assert check(Ladder(name="ladder", stages=(*first, last))) == expected
            assert said in " ".join(capsys.readouterr().out.split())


def test_a_stage_that_climbs_from_nothing_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stages = (sft(model, tmp_path, num_steps=1), grpo(model, tmp_path, num_steps=1))
    ladder = Ladder(name="ladder", stages=stages)
    said = f"Stage grpo starts from {model}, not from what an earlier stage ended with. If it"
    assert check(ladder) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    run(ladder)
    assert 'Model(source="stage:sft")' in " ".join(capsys.readouterr().out.split())
    chained = (stages[0], replace(stages[1], model=Model(source="stage:sft")))
    assert list(notices(Ladder(name="ladder", stages=chained))) == []


def test_a_recipe_of_its_own_names_no_stage(model: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match="names stage:sft, which a ladder alone has"):
        run(grpo(model, tmp_path, model=Model(source="stage:sft")))


def test_check_looks_at_every_stage_before_any_has_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert check(all_rungs(model, tmp_path)) == 0
    told = capsys.readouterr().out
    assert told.count("not checked: stage pairs makes it") == 2
    assert "up to 40 questions x 4 answers" in told


def test_evaluations_come_before_the_first_stage_and_after_each(model: Path, tmp_path: Path):
    from cameleer.recipe import Eval

    ladder = replace(all_rungs(model, tmp_path), evals=Eval(benchmarks=("gsm8k",)))
    placed = {stage.name: getattr(stage, "evals", None) for stage in placed_stages(ladder)}
    assert placed["sft"].at_start and not placed["dpo"].at_start and not placed["grpo"].at_start
    assert placed["rm"] is None and placed["pairs"] is None
