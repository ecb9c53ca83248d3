"""Pairs from a policy's own answers: which count, which is preferred, what is said of the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import completion, one_prompt, tiny_llama

from cameleer.cli import main
from cameleer.curate import pairs
from cameleer.curate.command import coloured
from cameleer.curate.pairs import Curated
from cameleer.data.prompts import Example
from cameleer.recipe import Reward
from cameleer.train.collect import assemble
from cameleer.types import Check, Completion, Group, Score

WRONG, RIGHT, UNDECIDED = Score(0.0), Score(1.0), Score(0.0, "undecided")


def answer(text: str, finish_reason: Any = "eos") -> Completion:
    return replace(completion(3, finish_reason), text=text)


def group(*answers: tuple[Completion, Score], number: int = 1) -> Group:
    return Group(
        one_prompt(number), tuple(a for a, _ in answers), tuple((score,) for _, score in answers)
    )


def curate(groups: Sequence[Group], *, seed: int) -> Curated:
    """With the rewards that a stage without a reward model gives."""
    rewards = assemble(groups, Reward(correct=1.0, without_eos=None)).rewards_B
    assert rewards is not None
    return pairs.curate(groups, rewards.tolist(), seed=seed)


def test_a_right_answer_is_preferred_to_a_wrong_one():
    found = curate([group((answer("no"), WRONG), (answer(" yes\n"), RIGHT))], seed=0)
    (pair,) = found.pairs
    assert pair["prompt"] == [{"role": "user", "content": "?"}]
    assert pair["chosen"] == [{"role": "assistant", "content": "yes"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "no"}]
    assert pair["rewards"] == [1.0, 0.0] and pair["id"] == "arithmetic:1"
    (row,) = found.right
    assert row["messages"] == [*pair["prompt"], *pair["chosen"]]


def test_shares_of_a_score_are_compared_by_weight():
    prompt = replace(one_prompt(1), checks=(Check("a", "", 1.0), Check("b", "", 3.0)))
    scores = ((Score(1.0), Score(0.0)), (Score(0.0), Score(0.5)))
    found = curate([Group(prompt, (answer("one"), answer("other")), scores)], seed=0)
    # 1 * 1 + 3 * 0 = 1 and 1 * 0 + 3 * 0.5 = 1.5; all right would be 4.
    assert found.pairs[0]["rewards"] == [1.5, 1.0] and not found.right


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([(answer("a"), WRONG), (answer("b"), WRONG)], "all answers equally wrong"),
        ([(answer("a"), RIGHT), (answer("b"), RIGHT)], "all answers equally right"),
        # A cut answer, an undecided one, an empty one, and one that is there twice.
        ([(answer("a", "length"), WRONG), (answer("b"), RIGHT)], "all answers equally right"),
        ([(answer("a"), UNDECIDED), (answer("b"), RIGHT)], "all answers equally right"),
        ([(answer(" "), WRONG), (answer("b"), RIGHT)], "all answers equally right"),
        (
            [(answer("a"), UNDECIDED), (answer("b", "stop"), RIGHT)],
            "no answer ended with a verdict",
        ),
    ],
)
def test_a_question_without_contrast_gives_no_pair_and_is_counted(answers: Any, reason: str):
    found = curate([group(*answers)], seed=0)
    assert not found.pairs
    ((said, count),) = found.dropped.items()
    assert said.startswith(reason) and count == 1


def test_without_checks_the_best_rated_answer_is_the_one_to_imitate():
    prompt = replace(one_prompt(1), checks=())
    answers = (answer("fair"), answer("good"), answer("bad"), answer("cut", "length"))
    found = pairs.curate([Group(prompt, answers, ((),) * 4)], [-1.0, -0.5, -3.0, 9.0], seed=0)
    assert [row["messages"][-1]["content"] for row in found.right] == ["good"]
    assert found.num_rated == 1 and found.pairs[0]["rewards"] == [-0.5, -3.0]
    alike = pairs.curate([Group(prompt, answers[:2], ((), ()))], [1.0, 1.0], seed=0)
    assert alike.dropped == {"all answers equally rated": 1}


def test_the_seed_draws_among_equals():
    answers = [(answer(f"right {i}"), RIGHT) for i in range(5)]
    answers += [(answer(f"wrong {i}"), WRONG) for i in range(5)]
    groups = [group(*answers)]
    drawn = {json.dumps(curate(groups, seed=seed).pairs) for seed in range(12)}
    assert len(drawn) > 5
    assert curate(groups, seed=3) == curate(groups, seed=3)


def test_the_command_writes_what_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = str(tiny_llama(tmp_path / "model"))
    # The tiny model answers at random: any word but the truth is wrong, and some are right.
    rows = [{"question": f"Tom has {n} cups .", "answer": f"#### {n}"} for n in range(1, 9)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made, right = tmp_path / "pairs.jsonl", tmp_path / "right.jsonl"
    command = ["data", "pairs", model, str(questions), "--format", "gsm8k", "--output", str(made)]
    options = ["--right", str(right), "--samples", "64", "--max-tokens", "60", "--threads", "1"]
    assert main([*command, *options]) == 0
    told = capsys.readouterr().out
    count = len(made.read_text().splitlines())
    assert f"{count:,} pairs and " in told and f"-> {made}, {right}" in told and count > 0
    assert main(["data", "show", model, str(made), "--format", "preference"]) == 0
    shown = capsys.readouterr().out
    assert "chosen" in shown and "⟦" in shown and "<eos>⟧" in shown
    # A second run does not overwrite the first.
    assert main([*command, *options]) == 1
    assert "exists already" in capsys.readouterr().out


def test_rows_are_shown_as_the_model_sees_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = str(tiny_llama(tmp_path / "model"))
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "Tom"}, {"role": "assistant", "content": "14 + 5"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[:1]}))
    assert main(["data", "show", model, str(rows), "--format", "chat"]) == 0
    shown = capsys.readouterr().out
    assert "⟦14 + 5 <eos>⟧" in shown and "Tom" in shown.partition("⟦")[0]
    assert "1 left out: no assistant's turn" in shown
    labelled = {"messages": turns[:1], "ground_truth": "19", "dataset": "gsm8k"}
    rows.write_text(json.dumps(labelled))
    assert main(["data", "show", model, str(rows), "--format", "rlvr"]) == 0
    assert "gsm8k 19" in capsys.readouterr().out
    # What would steer the terminal is shown.
    rows.write_text(json.dumps({**labelled, "ground_truth": "19\x1b[31m\x9b\r"}))
    assert main(["data", "show", model, str(rows), "--format", "rlvr"]) == 0
    assert "gsm8k 19␛[31m\ufffd␍" in capsys.readouterr().out


def test_trained_text_stands_between_brackets_and_steers_no_terminal():
    class Letters:
        def decode(self, tokens: list[int]) -> str:
            return "".join(map(chr, tokens))

    talk = Example((97, 10, 98, 27), (False, False, True, True), "chat")
    assert str(coloured(talk, Letters())) == "a\n⟦b␛⟧"
