"""The command, as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import tiny_llama

from cameleer.cli import main
from cameleer.report.curve import read_metrics

MINE = '''
"""A recipe of a user's own, with a verifier of their own."""

from dataclasses import dataclass, replace
from typing import ClassVar

from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.sft import SFT
from cameleer.data.sources import Source
from cameleer.recipe import HeldOut, Ladder, Model, Optim, Output, Recipe, Rollout
from cameleer.types import Score


@dataclass(frozen=True)
class Short:
    limit: int = 6
    isolated: ClassVar[bool] = %(isolated)s

    def score(self, text, truth):
        return Score(float(len(text.split()) <= self.limit), reason=f"over {self.limit}")

    def validate(self, truth):
        return None


def rows(split):
    for n in range(20):
        more = 1 if split == "train" else 2
        yield {"question": f"{n} + {more} = ?", "answer": f"#### {n + more}"}


DATA = (Source(path="%(module)s:rows", format="gsm8k", name="sums"),)
MODEL = Model(source="%(model)s")
TEST = (Source(path="%(module)s:rows", format="gsm8k", name="sums", split="test"),)
HELD_OUT = HeldOut(sources=TEST, num_prompts=4)
OUTPUT = Output(directory="%(root)s", save_every=2, sample_every=0)


def grpo():
    return Recipe(
        name="grpo",
        model=MODEL,
        algorithm=GRPO(),
        data=DATA,
        optim=Optim(learning_rate=1e-3),
        num_steps=2,
        rollout=Rollout(num_prompts=2, group_size=4, max_tokens=8),
        verifiers={"gsm8k": Short()},
        heldout=HELD_OUT,
        output=OUTPUT,
    )


def ladder():
    sft = Recipe(
        name="sft",
        model=MODEL,
        algorithm=SFT(),
        data=DATA,
        optim=Optim(learning_rate=1e-3),
        num_steps=2,
        batch_size=4,
        output=OUTPUT,
    )
    then = replace(grpo(), model=Model(source="stage:sft"))
    return Ladder(name="both", stages=(sft, then))
'''

ENVIRONMENT = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(Path.cwd())}
"""Where the hub would be nobody listens."""


def cameleer(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cameleer.cli", *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def mine(tmp_path: Path, request: pytest.FixtureRequest) -> SimpleNamespace:
    """A recipe file of a user's own, whose module name no other test has."""
    module = "mine_" + re.sub(r"\W", "_", request.node.name)
    path = tmp_path / f"{module}.py"
    model, root = tiny_llama(tmp_path / "model"), tmp_path / "runs"
    # Workers that import a recipe file import torch, which takes seconds.
    names = {"module": module, "model": model, "root": root, "isolated": False}
    path.write_text(MINE % names)
    return SimpleNamespace(recipe=f"{path}:grpo", ladder=f"{path}:ladder", root=root, path=path)


def stored(directory: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads((directory / "recipe.json").read_text())
    return value


def test_help_shows_the_commands_and_examples(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as status:
        main(["--help"])
    assert status.value.code == 0
    said = capsys.readouterr().out
    assert "cameleer run quickstart" in said and "check" in said and "recipes" in said


def test_recipes_are_listed_with_their_purpose(capsys: pytest.CaptureFixture[str]):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "quickstart",
        "smollm2_135m",
        "smollm2_135m_gsm8k",
        "smollm2_135m_sft_grpo",
        "tulu3_8b",
        "tulu3_70b",
        "tulu3_405b",
        "tulu31_8b",
    ]
    assert lines[-1].split(maxsplit=1)[1].startswith("GRPO from the DPO model on GSM8K, MATH and ")


def test_the_card_s_recipe_is_checked_without_weights_or_network(tmp_path: Path):
    began = time.monotonic()
    found = cameleer("check", "tulu31_8b", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert time.monotonic() - began < 30, "ten seconds where nothing else runs"
    assert "1,474,560 episodes, 3,840 updates" in found.stdout
    assert "gsm8k, ifeval, math" in found.stdout
    said = " ".join(found.stdout.split())
    assert "model not checked: allenai/Llama-3.1-Tulu-3-8B-DPO is on the hub" in said
    assert "data not checked: allenai/RLVR-GSM-MATH-IF-Mixed-Constraints is on the hub" in said
    assert list(tmp_path.iterdir()) == []


def test_the_quickstart_checks_out(tmp_path: Path):
    found = cameleer("check", "quickstart", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "runs/quickstart/sft\n" in found.stdout and "runs/quickstart/grpo\n" in found.stdout
    assert "20,000 examples" in found.stdout
    # What DPO and the reward model learn from is yet to be made.
    assert found.stdout.count("not checked") == found.stdout.count("stage pairs makes it") == 2
    assert found.stderr == ""


def test_check_counts_what_is_to_mend(mine: SimpleNamespace, capsys: pytest.CaptureFixture[str]):
    arguments = ["--rollout.group-size", "1", "--rollout.max-tokens", "500"]
    assert main(["check", mine.recipe, *arguments]) == 1
    said = capsys.readouterr().out
    assert "rollout.group_size is 1" in said
    assert "was made for 128" in said
    assert said.endswith("2 to mend before training.\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # Too many parts for the hub, so it is what reads the model that says so, as in a run.
        ("nowhere/run/checkpoints/step_9/model", "Cannot read the configuration of model 'nowhere"),
        ("weights/modle", "weights/modle does not exist. Did you mean 'model'?"),
        ("tiny.josnl", "tiny.josnl does not exist. Did you mean 'tiny.jsonl'?"),
    ],
)
def test_a_mistyped_path_is_to_be_mended_without_a_network_too(
    mine: SimpleNamespace, tmp_path: Path, name: str, said: str
):
    (tmp_path / "weights/model").mkdir(parents=True)
    (tmp_path / "tiny.jsonl").touch()
    found = cameleer("check", mine.recipe, "--model.source", name, cwd=tmp_path)
    assert found.returncode == 1 and "Traceback" not in found.stderr, found.stderr
    shown = " ".join(found.stdout.split())
    assert f"no model {said}" in shown and "is on the hub" not in shown


def test_check_says_when_the_directory_is_taken(
    mine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    (mine.root / "grpo").mkdir(parents=True)
    (mine.root / "grpo/notes.txt").touch()
    assert main(["check", mine.recipe]) == 0
    assert "grpo exists already: run needs --resume, or another --name" in capsys.readouterr().out


def test_a_users_recipe_and_verifier_run_from_a_file(mine: SimpleNamespace):
    mine.path.write_text(mine.path.read_text().replace("= False", "= True"))
    one_worker = ("--runtime.num-verifier-workers", "1")
    found = cameleer("run", mine.recipe, "--num-steps", "3", "--algorithm.beta", "0.5", *one_worker)
    assert found.returncode == 0, found.stdout + found.stderr
    *_, line, last = found.stdout.splitlines()
    assert re.fullmatch(r"held-out accuracy: \d\.\d\d -> \d\.\d\d \(4 problems\)", line)
    directory = mine.root / "grpo"
    assert last == f"next: cameleer release {directory}"
    assert [line["step"] for line in read_metrics(directory)] == [0, 1, 2, 3]
    assert read_metrics(directory)[1]["status/scored"] == 8
    assert stored(directory)["num_steps"] == 3
    assert stored(directory)["algorithm"]["beta"] == 0.5  # type: ignore[index]
    assert (directory / "learning_curve.svg").exists()
    assert f"report: {directory / 'report.html'}\n" in found.stdout
    assert (directory / "report.html").exists()
    assert found.stderr == ""


def test_a_users_recipe_json_says_to_run_the_file_that_made_it(
    mine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", mine.recipe]) == 0
    capsys.readouterr()
    assert main(["run", str(mine.root / "grpo/recipe.json"), "--name", "again"]) == 1
    said = capsys.readouterr().out
    assert f"names the class {mine.path}:Short" in said
    assert "run the Python file that made it instead" in said


def test_a_ladder_runs_and_a_finished_one_has_nothing_left_to_do(
    mine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", mine.ladder, "--stages.sft.num-steps", "3"]) == 0
    said = capsys.readouterr().out
    grpo = mine.root / "both/grpo"
    assert "A ladder of 2 stages" in (mine.root / "both/report.html").read_text()
    start = stored(grpo)["model"]["source"]  # type: ignore[index]
    assert start == str(mine.root / "both/sft/checkpoints/step_3/model")
    manifest = json.loads((grpo / "manifest.json").read_text())
    assert manifest["weights"]["policy"] == manifest["weights"]["reference"]
    before = read_metrics(grpo)
    assert main(["run", mine.ladder, "--stages.sft.num-steps", "3", "--resume"]) == 0
    again = capsys.readouterr().out
    assert "sft is complete\ngrpo is complete\n" in again
    assert again.splitlines()[-1] == said.splitlines()[-1]
    assert read_metrics(grpo) == before


def test_a_ladder_goes_on_where_it_stopped_between_stages(
    mine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cameleer.distributed.launch.train_online", interrupt)
        assert main(["run", mine.ladder]) == 130
    assert "stopped" in capsys.readouterr().out
    # As if it had been killed before the second stage made its directory.
    for path in sorted((mine.root / "both/grpo").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (mine.root / "both/grpo").rmdir()
    trained = (mine.root / "both/sft/checkpoints/step_2/model/model.safetensors").read_bytes()
    assert main(["run", mine.ladder, "--resume"]) == 0
    assert "sft is complete" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(mine.root / "both/grpo")] == [0, 1, 2]
    kept = (mine.root / "both/sft/checkpoints/step_2/model/model.safetensors").read_bytes()
    assert kept == trained


def test_a_ladder_resumed_with_another_first_stage_is_refused(
    mine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", mine.ladder]) == 0
    before = (mine.root / "both/recipe.json").read_bytes()
    capsys.readouterr()
    changes = ["--stages.sft.optim.learning-rate", "0.5"]
    assert main(["run", mine.ladder, "--resume", *changes]) == 1
    assert "optim.learning_rate=0.001, and is to go on with 0.5" in capsys.readouterr().out
    assert (mine.root / "both/recipe.json").read_bytes() == before


@pytest.mark.parametrize("which", ["recipe", "ladder"])
def test_nothing_to_resume_is_an_error(
    mine: SimpleNamespace, capsys: pytest.CaptureFixture[str], which: str
):
    assert main(["run", getattr(mine, which), "--resume"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("RunError: ")
    assert said.endswith("holds no run to resume. Start it without --resume.\n")
    assert not mine.root.exists()


def test_a_mistake_is_one_line_without_a_traceback(tmp_path: Path):
    found = cameleer("run", "quickstrat", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stdout == (
        "RecipeError: There is no recipe 'quickstrat'. Did you mean 'quickstart'? `cameleer "
        "recipes` lists them; your own are named file.py:function.\n"
    )
    assert found.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "status"), [(["run"], 2), (["check"], 2), (["run", "--help"], 0)]
)
def test_a_command_without_a_recipe_shows_what_there_is(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == status
    assert "cameleer run my_recipe.py:function" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["runn", "quickstart"], ["recipes", "quickstart"]])
def test_what_is_no_command_is_refused(arguments: list[str]):
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
