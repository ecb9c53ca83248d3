"""A checkpoint in this process answers as transformers does, one question at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_llama
from small_evals import CHATTY, SUMS, write_sums
from transformers import AutoModelForCausalLM, AutoTokenizer

from cameleer.errors import ModelError, RecipeError
from cameleer.evals import in_process
from cameleer.evals.base import Instance
from cameleer.evals.in_process import InProcess
from cameleer.evals.model import Answer, Model, Question
from cameleer.evals.runner import evaluate
from cameleer.evals.store import read_rows
from cameleer.log import quiet_libraries
from cameleer.models.heads import fit_to_tokenizer

CHAT = Instance("sums:0", ({"role": "user", "content": "Ida has 3 pens"},), "6", prefix="Ida has")
PLAIN = Instance("sums:1", "Leo buys 1", "6", choices=(" more", " pens and 2 nuts", "3", " ."))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(directory: Path) -> InProcess:
    return InProcess.load(str(directory), dtype="float32", device="cpu", num_slots=3)


@pytest.fixture(scope="module")
def plain(directory: Path) -> tuple[Any, Any]:
    """The same model and tokenizer as transformers loads them."""
    with quiet_libraries():
        return (
            AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager"),
            AutoTokenizer.from_pretrained(directory),
        )


def answers(model: InProcess, questions: Sequence[Question], **options: Any) -> list[Answer]:
    found: dict[int, Answer] = {}
    model.generate(questions, found.__setitem__, **{"temperature": 0.0, "seed": 0, **options})
    return [found[place] for place in range(len(questions))]


def loglikelihoods(model: InProcess, *instances: Instance) -> list[list[float]]:
    found: dict[int, list[float]] = {}
    model.loglikelihoods(instances, found.__setitem__)
    return [found[place] for place in range(len(instances))]


@torch.no_grad()
def direct(plain: tuple[Any, Any], instance: Instance, text: str) -> list[float]:
    """Each choice by itself: the whole sequence, and the tokens in which it parts from the text."""
    model, tokenizer = plain
    alone = tokenizer(text, add_special_tokens=False)["input_ids"]
    sums = []
    for choice in instance.choices:
        row = tokenizer(text + choice, add_special_tokens=False)["input_ids"]
        begin = next(i for i in range(len(row)) if row[: i + 1] != alone[: i + 1])
        logprobs = model(torch.tensor([row])).logits[0].log_softmax(-1)
        sums.append(sum(float(logprobs[i - 1, row[i]]) for i in range(begin, len(row))))
    return sums


def test_a_checkpoint_is_a_model(model: InProcess):
    assert isinstance(model, Model) and model.context == 128
    assert model.identity()["kind"] == "checkpoint"


@pytest.mark.parametrize("limit", [1, 12, 8192])
def test_log_likelihoods_are_those_of_each_choice_by_itself(
    limit: int, model: InProcess, plain: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(in_process, "_FORWARD_TOKENS", limit)
    chat = replace(CHAT, choices=(" 3", " 4 pens", " 12 ."))
    found = loglikelihoods(model, chat, PLAIN)
    text = "<|user|>\nIda has 3 pens\n<|assistant|>\nIda has"
    assert model.prompt(chat) == (text, 8)
    assert found[0] == pytest.approx(direct(plain, chat, text), abs=1e-4)
    assert found[1] == pytest.approx(direct(plain, PLAIN, "Leo buys 1"), abs=1e-4)
    # "1" and "3" are one token together, which comes after "Leo buys".
    other = Instance("sums:2", "Leo buys", "6", choices=(" 13",))
    assert found[1][2] == pytest.approx(loglikelihoods(model, other)[0][0], abs=1e-4)


def test_greedy_answers_are_those_of_transformers(model: InProcess, plain: tuple[Any, Any]):
    reference, tokenizer = plain
    instances = [PLAIN, CHAT, replace(PLAIN, prompt="Mia finds 5 figs . How many figs")]
    found = answers(model, [Question(instance, 0, 20, ()) for instance in instances])
    for instance, answer in zip(instances, found, strict=True):
        text = model.prompt(instance)[0]
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        out = reference.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
        )[0, ids.shape[1] :]
        assert answer.text == tokenizer.decode(out, skip_special_tokens=True)
        assert answer.num_tokens == len(out)
        assert answer.finish_reason == ("eos" if out[-1] == tokenizer.eos_token_id else "length")


def test_an_answer_is_cut_before_its_stop_string_and_counts_its_tokens(model: InProcess):
    (whole,) = answers(model, [Question(PLAIN, 0, 20, ())])
    words = whole.text.split(" ")
    stop = words[4]
    begin = words.index(stop)
    (cut,) = answers(model, [Question(PLAIN, 0, 20, ("never said", stop))])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop" and cut.num_tokens <= begin + 1


def test_samples_of_a_question_differ_and_come_again(model: InProcess):
    questions = [Question(CHAT, sample, 8, ()) for sample in range(4)]
    first = answers(model, questions, temperature=1.0)
    assert len({answer.text for answer in first}) == 4
    assert answers(model, questions[2:3], temperature=1.0) == first[2:3]
    assert answers(model, questions, temperature=1.0, seed=1) != first


def test_a_choice_beyond_the_context_is_refused(model: InProcess):
    long = replace(PLAIN, id="sums:9", choices=(" 1", " 1" * 126))
    done: list[int] = []
    with pytest.raises(ModelError, match=r"for 128 tokens, and a choice of sums:9 ends at 129"):
        model.loglikelihoods([PLAIN, long], lambda place, _: done.append(place))
    assert done == [0]
    assert len(loglikelihoods(model, replace(long, choices=(" 1" * 125,)))[0]) == 1


def test_a_choice_that_nothing_predicts_is_refused(model: InProcess):
    with pytest.raises(ModelError, match="prompt of sums:1 has no tokens"):
        loglikelihoods(model, replace(PLAIN, prompt=""))


def test_log_likelihoods_that_are_not_numbers_are_refused(directory: Path):
    broken = InProcess.load(str(directory), dtype="float32", device="cpu")
    with torch.no_grad():
        broken._model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"not numbers to the choices of sums:1\. Its weights"):
        loglikelihoods(broken, PLAIN)


def test_a_model_without_a_chat_template_continues_texts_only(directory: Path):
    base = InProcess.load(str(directory), dtype="float32", device="cpu")
    base._tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"has no chat template, and sums:0 is asked as a chat"):
        base.prompt(CHAT)
    assert base.prompt(PLAIN) == ("Leo buys 1", 3)
    assert answers(base, [Question(PLAIN, 0, 4, ())])[0].num_tokens <= 4


def test_cuda_where_there_is_none_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"finds no CUDA device here\. Give --device cpu"):
        InProcess.load(str(directory), dtype="float32", device="cuda")


def test_an_evaluation_does_not_depend_on_the_slots(tmp_path: Path):
    directory = tiny_llama(tmp_path / "model", max_tokens=30)
    data = write_sums(tmp_path / "data", choices=lambda n: [" 3", " 12 pens"] if n == 2 else [])
    rows = []
    for num_slots in (1, 5, None):
        model = InProcess.load(str(directory), dtype="float32", device="cpu", num_slots=num_slots)
        evaluate(model, [replace(CHATTY, max_tokens=200)], tmp_path / f"{num_slots}", data=data)
        rows.append(read_rows(tmp_path / f"{num_slots}", "sums"))
    said = [[row["output"] for row in each if row["instance"] != "sums:2"] for each in rows]
    assert said[0] == said[1] == said[2] and len(set(said[0])) == 14
    # The prompt has 11 tokens, and the context 30.
    cut = [row["num_tokens"] for row in rows[0] if row["finish_reason"] == "length"]
    assert set(cut) == {19}
    weighed = [row["num_tokens"] for row in rows[0] if row["instance"] == "sums:2"]
    assert weighed == [0, 0]


def test_a_context_too_short_for_the_template_is_refused(tmp_path: Path):
    small = tiny_llama(tmp_path / "small", max_tokens=11)
    model = InProcess.load(str(small), dtype="float32", device="cpu")
    with pytest.raises(ModelError, match=r"made for 11 tokens, and the prompt of sums:0 has 11"):
        evaluate(model, [SUMS], tmp_path / "out", data=write_sums(tmp_path / "data"))


@pytest.mark.parametrize("sign", [1, -1])
def test_padding_that_training_added_has_no_probability(tmp_path: Path, sign: int):
    source = tiny_llama(tmp_path / "tiny")
    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(source)
        trained = AutoModelForCausalLM.from_pretrained(source)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    fit_to_tokenizer(trained, tokenizer)
    with torch.no_grad():
        # With one of the signs it would be all that is ever said.
        trained.get_output_embeddings().weight[tokenizer.pad_token_id :] = sign * 1e3
    trained.save_pretrained(tmp_path / "trained")
    tokenizer.save_pretrained(tmp_path / "trained")
    loaded = InProcess.load(str(tmp_path / "trained"), dtype="float32", device="cpu", num_slots=3)
    (choices,) = loglikelihoods(loaded, PLAIN)
    assert min(choices) > -40
