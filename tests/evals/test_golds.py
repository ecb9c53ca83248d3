"""What each metric says of answers that are known to be right, and of drawn answers to IFEval."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
from verifiers.google_answers import answer

from cameleer.data.sources import rows_of_file
from cameleer.evals.base import Instance, Metric, load
from cameleer.evals.suite import SUITE


def golds(name: str, data: Path) -> list[tuple[str, Instance]]:
    """The worked solutions, and their instances."""
    benchmark = SUITE[name]
    column = benchmark.columns[-1]
    rows = rows_of_file(data / benchmark.file)
    texts = [row.fields[column] for row in rows]
    return list(zip(texts, load(benchmark, data), strict=True))


def metric(name: str, wanted: str) -> Metric:
    return next(each for each in SUITE[name].metrics if each.name == wanted)


def num_right(found: Metric, cases: list[tuple[str, Instance]]) -> int:
    scores = [found.verifier.score(text, instance.truth) for text, instance in cases]
    assert {score.status for score in scores} == {"scored"}
    return sum(score.value == 1 for score in scores)


@pytest.mark.parametrize("name", ["exact_match", "correct"])
def test_every_solution_of_gsm8k_is_right(name: str, shared_data: Path):
    cases = golds("gsm8k", shared_data)
    stated = [(f" … So the answer is {each.truth}.", each) for _, each in cases]
    assert (
        num_right(metric("gsm8k", name), cases) == num_right(metric("gsm8k", name), stated) == 1319
    )


def test_another_questions_solution_is_seldom_right(shared_data: Path):
    cases = golds("gsm8k", shared_data)
    shifted = [(text, each) for (text, _), (_, each) in itertools.pairwise(cases)]
    assert num_right(metric("gsm8k", "exact_match"), shifted) < 0.02 * len(shifted)


def test_every_solution_of_math_is_right_by_the_flexible_rule(shared_data: Path):
    assert num_right(metric("math", "flex"), golds("math", shared_data)) == 5000


def test_math_verify_finds_the_answers_of_solutions(shared_data: Path):
    # Of all 5,000 solutions 4,992; those that box two answers are not right.
    cases = golds("math", shared_data)[::10]
    assert num_right(metric("math", "math_verify"), cases) >= len(cases) - 2


def test_the_strict_rule_reads_19_of_20_truths_and_only_in_its_sentence(shared_data: Path):
    # Of all 5,000 it is 4,736; the others are words, intervals, matrices and the like.
    cases = golds("math", shared_data)[::25]
    sentence = "Final Answer: The final answer is ${}$. I hope it is correct."
    stated = [(sentence.format(each.truth), each) for _, each in cases]
    assert num_right(metric("math", "strict"), cases) == 0
    assert 0.92 < num_right(metric("math", "strict"), stated) / len(stated) < 0.97


def test_the_four_accuracies_of_ifeval_are_those_of_another_harness(shared_data: Path):
    rows = list(rows_of_file(shared_data / SUITE["ifeval"].file))
    rng, kept = random.Random(2311), Counter[str]()
    for row, instance in zip(rows, load(SUITE["ifeval"], shared_data), strict=True):
        if any(each.get("letter") in ("#", "!") for each in row.fields["kwargs"]):
            continue  # Google's code counts a letter at random there.
        instructions = zip(row.fields["instruction_id_list"], row.fields["kwargs"], strict=True)
        text = "Sure:\n" + answer(rng, *rng.choice(list(instructions)))
        kept["prompts"] += 1
        kept["instructions"] += instance.num_parts
        for each in SUITE["ifeval"].metrics:
            score = each.verifier.score(text, instance.truth).value
            kept[each.name] += int(score) if each.whole else round(score * instance.num_parts)
    # Counted by lm_eval/tasks/ifeval/utils.py of lm-evaluation-harness 0.4.3 on these answers.
    assert kept == {
        "prompts": 539,
        "instructions": 830,
        "prompt_level_loose_acc": 190,
        "inst_level_loose_acc": 378,
        "prompt_level_strict_acc": 120,
        "inst_level_strict_acc": 276,
    }
