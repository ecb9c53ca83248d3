"""The pages of docs/add: each ends in files that do what it says."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from fakes import read_rows

from cameleer.algorithms.normalize import Normalize
from cameleer.batch import Batch, Output
from cameleer.cli import main
from cameleer.data.sources import Source
from cameleer.errors import DataError
from cameleer.models.tiny import arithmetic_llama
from cameleer.report.curve import read_metrics
from cameleer.train.rollouts import read_rows as read_rollouts
from cameleer.user_files import find

PAGES = Path(__file__).resolve().parents[1] / "docs" / "add"
ONE_THREAD = ("--runtime.num-threads", "1", "--runtime.num-verifier-workers", "1")

pytestmark = pytest.mark.usefixtures("own_directory")


def written(page: str) -> list[str]:
    """Writes the files of a page to the working directory, as its reader would."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    files: list[tuple[str, str]] = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", text, re.DOTALL)
    for code, name in files:
        Path(name).write_text(code, encoding="utf-8")
    return [name for _, name in files]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def run(recipe: str, *changes: str) -> None:
    assert main(["run", recipe, *ONE_THREAD, *changes]) == 0


def verdicts(directory: str) -> list[dict[str, Any]]:
    rows = read_rollouts(Path(directory) / "rollouts/step_000001.parquet")
    return [score for row in rows for score in row["scores"]]


def test_the_algorithm_of_the_page_learns():
    assert written("algorithm") == ["my_algorithm.py"]
    run("my_algorithm.py:recipe", "--algorithm.at-least", "9")
    recipe = json.loads(Path("runs/imitate_the_best/recipe.json").read_text())
    assert recipe["algorithm"] == {
        "class": f"{Path('my_algorithm.py').resolve()}:ImitateTheBest",
        "at_least": 9.0,
    }
    steps = read_metrics(Path("runs/imitate_the_best"))
    rates = [step["verifiable_rate"] for step in steps]
    # Three seeds gave 0.03 to 0.06, and then 0.21 to 0.25.
    assert len(rates) == 15 and sum(rates[-5:]) > 2 * sum(rates[:5])
    assert steps[-1]["best/nll"] == pytest.approx(steps[-1]["loss"])


def test_the_algorithm_of_the_page_imitates_the_best_alone():
    written("algorithm")
    kind = find("my_algorithm.py:ImitateTheBest")
    algorithm = kind()
    batch = Batch(
        tokens_N=torch.arange(15),
        lengths_B=torch.full((5,), 3),
        mask_N=torch.tensor([False, True, True] * 5),
        group_B=torch.tensor([0, 0, 0, 1, 1]),
        # The last has no verdict, and its sibling is no better than 0.
        rewards_B=torch.tensor([10.0, 5.0, 10.0, 0.0, 10.0]),
        scored_B=torch.tensor([True, True, True, True, False]),
    )
    batch = algorithm.advantages(batch)
    imitated = torch.tensor([0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0])
    assert torch.equal(batch.advantages_N, imitated.float())
    # Four tokens are imitated, of log p -2 each: their mean is the loss.
    loss = algorithm.loss(batch, Output(logprobs_N=torch.full((15,), -2.0)))
    weights_N = Normalize.parse("token").weights(batch)
    assert torch.equal(weights_N, imitated / 4)
    assert (loss.values * weights_N).sum() == 2
    assert kind(at_least=11).advantages(batch).left_out_B.all()


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("20 - 3 = 17 . 17 + 1 = 18 . #### 18", 1, "ends in 18"),
        ("3 - 20 = -17 . -17 + 35 = 18", 0, "17 + 35 is not 18"),
        ("20 - 3 = 17 . 17 + 1 = 19", 0, "17 + 1 is not 19"),
        ("20 - 3 = 17 . 17 + 2 = 19", 0, "ends in 19"),
        ("20 - 2 = 18", 0, "1 steps of 2"),
        ("#### 18", 0, "0 steps of 2"),
        (f"1 + 1 = 2 . {'9' * 5000} + 1 = 18", 0, "1 steps of 2"),
    ],
)
def test_the_verifier_of_the_page_judges_every_step(text: str, value: float, reason: str):
    written("verifier")
    score = find("my_verifier.py:Steps")(at_least=2).score(text, "18")
    assert (score.value, score.status, score.reason) == (value, "scored", reason)


def test_the_verifier_of_the_page_runs_in_workers_that_have_no_torch(
    capsys: pytest.CaptureFixture[str],
):
    assert written("verifier") == ["my_verifier.py", "my_recipe.py"]
    assert main(["check", "my_recipe.py:recipe"]) == 0
    assert "ok verifiers gsm8k" in said(capsys)
    run("my_recipe.py:recipe")
    found = verdicts("runs/steps")
    assert len(found) == 16
    assert {(v["verifier"], v["status"], v["reason"]) for v in found} == {
        ("gsm8k", "scored", "0 steps of 3")
    }
    code = "import sys, my_verifier; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_truth_that_the_verifier_of_the_page_cannot_read_is_told_before_training(
    capsys: pytest.CaptureFixture[str],
):
    written("verifier")
    Path("rows.jsonl").write_text('{"question": "1 + 1 ?", "answer": "#### two"}\n')
    one = ["--data.0.path", "rows.jsonl", "--data.0.count", "1"]
    assert main(["check", "my_recipe.py:recipe", *one]) == 1
    assert "rows.jsonl:1, gsm8k: 'two' (it is no whole number)" in said(capsys)


def test_the_judge_of_the_page_is_made_without_its_server():
    page = (PAGES / "verifier.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from .*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    judge = found["verifiers"]["quality"]
    assert (judge.lowest, judge.highest, judge.reads_question) == (1, 10, True)


def test_the_data_set_of_the_page_teaches(capsys: pytest.CaptureFixture[str]):
    assert written("dataset") == ["my_data.py"]
    assert main(["check", "my_data.py:recipe"]) == 0
    assert "ok data 1,000 examples" in said(capsys)
    show = ["data", "show", str(arithmetic_llama()), "my_data.py:demonstrations"]
    assert main([*show, "--format", "chat", "--count", "1"]) == 0
    shown = said(capsys)
    page = (PAGES / "dataset.md").read_text(encoding="utf-8")
    row = re.search(r"^<\|user\|>.*$", page, re.MULTILINE)
    assert row and row[0] in shown and "chat:0: 23 tokens, 9 of them trained" in shown
    run("my_data.py:recipe")
    steps = read_metrics(Path("runs/pens"))
    losses = [step["loss"] for step in steps if "loss" in step]
    # A guess among the model's 79 words costs log 79 = 4.4; 0.5 was left after three seeds.
    assert losses[0] == pytest.approx(math.log(79), abs=0.3) and losses[-1] < 1
    accuracies = [step["heldout/accuracy"] for step in steps if "heldout/accuracy" in step]
    assert accuracies[0] == 0 and accuracies[-1] > 0.1, "three seeds gave 0.30, 0.36 and 0.30"


def test_the_data_set_of_the_page_is_the_same_each_time_and_knows_its_splits():
    written("dataset")
    source = Source(path="my_data.py:questions", split="test")
    assert read_rows(source) == read_rows(source)
    with pytest.raises(DataError, match="The pens have no split 'dev', only train and test"):
        read_rows(Source(path="my_data.py:questions", split="dev"))


def test_the_engine_of_the_page_samples_what_the_torch_engine_does(
    capsys: pytest.CaptureFixture[str],
):
    assert written("engine") == ["my_engine.py"]
    assert main(["check", "my_engine.py:recipe"]) == 0
    assert "ok engine my_engine.py:OneByOne" in said(capsys)
    assert main(["check", "my_engine.py:recipe", "--rollout.engine", "my_engine.py:recipe"]) == 1
    assert "no engine rollout.engine names my_engine.py:recipe" in said(capsys)
    # With a stop string that many words have, so that answers end in more than one way.
    run("my_engine.py:recipe", "--rollout.stop", "1")
    ours = ("--rollout.engine", "cameleer.rollout.torch_engine:TorchEngine", "--name", "ours")
    run("my_engine.py:recipe", "--rollout.stop", "1", *ours)
    ends = set()
    for step in (1, 2):
        theirs, ours_ = (
            read_rollouts(Path(f"runs/{name}/rollouts/step_{step:06d}.parquet"))
            for name in ("one_by_one", "ours")
        )
        for one, other in zip(theirs, ours_, strict=True):
            assert one.pop("logprobs") == pytest.approx(other.pop("logprobs"), abs=1e-4)
            assert one == other
            ends.add(one["finish_reason"])
    assert ends >= {"stop", "length"}


def test_the_wrong_engine_of_the_page_is_refused_as_it_says(capsys: pytest.CaptureFixture[str]):
    written("engine")
    page = (PAGES / "engine.md").read_text(encoding="utf-8")
    command, message = re.findall(r"\$ cameleer (.*)\n(TrainingError: [^`]*)```", page)[0]
    assert main([*command.split(), *ONE_THREAD]) == 1
    # The size of the gap is the machine's; what was found out is not.
    number = re.compile(r"\d\.\de-\d\d nats")
    assert number.sub("", said(capsys)) == number.sub("", " ".join(message.split()))
    assert not Path("runs").exists()


def test_the_benchmark_of_the_page_scores_a_model(capsys: pytest.CaptureFixture[str]):
    assert written("benchmark") == ["my_benchmark.py"]
    asked = ["--benchmarks", "my_benchmark.py:BENCHMARK", "--output", "out", "--threads", "1"]
    assert main(["eval", str(arithmetic_llama()), *asked, "--temperature", "1"]) == 0
    assert "pens: 40 of 40 asked" in said(capsys)
    rows = pq.read_table("out/pens.parquet").to_pylist()
    results = json.loads(Path("out/results.json").read_text())["benchmarks"]["pens"]["metrics"]
    numbers = [any(word.isdigit() for word in row["output"].split()) for row in rows]
    assert results["says_a_number"]["value"] == pytest.approx(sum(numbers) / 40)
    # Twelve random words of 79, of which 31 are numbers: all but always one is.
    assert 0.9 < sum(numbers) / 40 <= 1
    right = [row for row in rows if row["scores"][0]["value"] == 1]
    assert results["correct"]["value"] == len(right) / 40 and len(right) < 20
