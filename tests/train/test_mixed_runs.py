"""Mixtures in runs: prepared once, counted in the manifest, and the same to the bit."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import curate, dpo, grpo, on_the_hub, preferences, sft
from train.test_resume import assert_equal_to_the_bit, in_two_parts, same_metrics

from cameleer.cli import main
from cameleer.curate.mix import mix
from cameleer.data import prepared
from cameleer.data.datasets.arithmetic import problems
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.errors import RunError
from cameleer.files import read_json, write_json
from cameleer.recipe import Ladder, Recipe
from cameleer.recipe_files import to_json
from cameleer.train.ladder import placed_stages

COMMIT = "0123456789abcdef" * 2 + "01234567"


def with_files(kind: Any, model: Path, root: Path) -> Recipe:
    """A recipe whose rows are in two files, of which it takes parts."""
    recipe: Recipe = kind(model, root)
    make = preferences if kind is dpo else problems
    data = []
    for number, part in enumerate(({"share": 0.5}, {"count": 20})):
        path = root.parent / f"{kind.__name__}{number}.jsonl"
        rows = itertools.islice(make("train"), 40 * number, 40 * number + 40)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data.append(Source(path=str(path), format=recipe.data[0].format, name=f"{number}", **part))
    return replace(recipe, data=tuple(data))


def made_again(*_: Any, **__: Any) -> None:
    raise AssertionError("rows were rendered again")


@pytest.mark.parametrize("kind", [sft, dpo, grpo])
def test_a_run_from_prepared_rows_is_the_same_to_the_bit(
    kind: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CAMELEER_CACHE", str(tmp_path / "cache"))
    (plain,) = run(with_files(kind, model, tmp_path / "plain"))
    assert not (tmp_path / "cache").exists(), "40 rows are prepared in a moment"
    monkeypatch.setattr(prepared, "_SMALL", 0)
    (made,) = run(with_files(kind, model, tmp_path / "made"))
    assert len(list((tmp_path / "cache" / "prepared").glob("*.arrow"))) == 2
    monkeypatch.setattr(prepared, "_make", made_again)
    (read,) = run(with_files(kind, model, tmp_path / "read"))
    for other in (made, read):
        assert_equal_to_the_bit(plain / "checkpoints/step_4", other / "checkpoints/step_4")
        assert same_metrics(plain) == same_metrics(other)
        for name in ("data", "run"):
            assert (
                read_json(plain / "manifest.json")[name]
                == (read_json(other / "manifest.json")[name])
            )


def test_a_resumed_mixture_is_the_same_run(model: Path, tmp_path: Path):
    (whole,) = run(with_files(sft, model, tmp_path / "whole"))
    parts = in_two_parts(with_files(sft, model, tmp_path / "parts"), 2)
    assert_equal_to_the_bit(whole / "checkpoints/step_4", parts / "checkpoints/step_4")


def test_the_manifest_counts_each_source(model: Path, tmp_path: Path):
    recipe = with_files(sft, model, tmp_path / "runs")
    (directory,) = run(recipe)
    one, other = read_json(directory / "manifest.json")["data"]
    assert (one["rows"], one["taken"], one["kept"], one["share"]) == (40, 20, 20, 0.5)
    assert (other["rows"], other["taken"], other["kept"], other["count"]) == (40, 20, 20, 20)
    for entry in (one, other):
        assert 0 < entry["trained_tokens"] < entry["tokens"] and entry["dropped"] == {}
        assert len(entry["sha256"]) == 64


def test_another_seed_draws_other_rows(model: Path, tmp_path: Path):
    counts = []
    for seed in (1, 2):
        (directory,) = run(
            replace(with_files(sft, model, tmp_path / f"{seed}"), seed=seed, num_steps=1)
        )
        counts.append(read_json(directory / "manifest.json")["data"][0]["tokens"])
    assert counts[0] != counts[1]


def test_a_data_set_that_the_hub_changed_is_another_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = list(itertools.islice(problems("train"), 16))
    on_the_hub(monkeypatch, tmp_path / "hub", "nobody/sums", COMMIT, rows)
    source = Source(path="nobody/sums", format="gsm8k")
    (directory,) = run(sft(model, tmp_path, data=(source,), num_steps=2))
    manifest = read_json(directory / "manifest.json")
    assert manifest["data"][0]["commit"] == COMMIT
    recipe = sft(model, tmp_path, data=(source,))
    # Where either commit is not known, nothing is different.
    unknown = {**manifest["data"][0], "commit": ""}
    write_json(directory / "manifest.json", {**manifest, "data": [unknown]})
    run(replace(recipe, num_steps=3), resume=True)
    moved = {**manifest["data"][0], "commit": "f" * 40}
    write_json(directory / "manifest.json", {**manifest, "data": [moved]})
    with pytest.raises(RunError, match=r"nobody/sums is at commit 0123456789ab .* was at ffffffff"):
        run(recipe, resume=True)


def stored(recipe: Recipe | Ladder, root: Path) -> str:
    path = root / "stored.json"
    path.write_text(json.dumps(to_json(recipe)))
    return str(path)


def test_check_and_run_show_what_each_source_comes_to(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = with_files(sft, model, tmp_path / "runs")
    reference = stored(recipe, tmp_path)
    Path(recipe.data[0].path).write_text('{"question": "?"}\n' * 4)
    assert main(["check", reference]) == 1
    assert "sft0.jsonl:" in capsys.readouterr().out
    with Path(recipe.data[0].path).open("a") as file:
        file.write(json.dumps(next(problems("train"))) + "\n")
    skip = ["--data.0.bad-rows", "skip", "--data.0.share", "1"]
    for command in ("check", "run"):
        assert main([command, reference, *skip]) == 0
        told = capsys.readouterr().out
        assert "21 examples (4 dropped: no answer)" in told
        assert "0: 5 taken of 5 rows, 1 kept, " in told
        assert "1: 20 taken of 40 rows, 20 kept, " in told


def test_the_mixture_is_a_table(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = with_files(sft, model, tmp_path / "runs")
    with Path(recipe.data[0].path).open("a") as file:
        file.write("{broken\n")
    fields = ["--data.0.bad-rows", "skip", "--data.0.share", "2", "--max-tokens", "30"]
    assert main(["data", "mix", stored(recipe, tmp_path), *fields]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in told.splitlines() if "%" in line}
    assert lines["0"][1:4] == ["41", "82", "80"] and lines["1"][1:4] == ["40", "20", "20"]
    assert int(lines["0"][4]) > 0, "some are cut at 30 tokens"
    shares = [[float(x[:-1]) for x in line if x.endswith("%")] for line in lines.values()]
    assert [round(a + b) for a, b in zip(*shares, strict=True)] == [100, 100]
    assert "0: 2 dropped: not valid JSON" in told


def test_what_an_earlier_stage_has_yet_to_make_is_told_apart(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first = with_files(sft, model, tmp_path / "runs")
    pairs = Source(path="stage:pairs", format="preference")
    second = replace(dpo(model, tmp_path), data=(pairs,))
    asked = curate(tmp_path)
    third = replace(first, name="again", model=replace(first.model, source="stage:sft"))
    assert mix(Ladder(name="all", stages=(first, asked, second, third))) == 0
    told = capsys.readouterr().out
    assert "dpo: stage:pairs is not there before the run." in told
    # Questions of a Curate stage, and the rows of a stage that starts from another's policy.
    assert "pairs" in told and "again" in told
    made = tmp_path / "all" / "pairs" / "pairs.jsonl"
    made.parent.mkdir(parents=True)
    made.write_text(json.dumps({"prompt": "Hi", "chosen": "5", "rejected": "6"}) + "\n")
    ladder = Ladder(name="all", stages=(first, asked, second, third))
    assert placed_stages(ladder)[2].data[0].path == str(made)
    assert mix(ladder) == 0
    told = capsys.readouterr().out
    assert "not there" not in told and "dpo" in told
