"""Engines broken on purpose: each is refused, with the cause named. Healthy ones pass."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import grpo, tiny_llama
from torch import Tensor, nn

from cameleer.algorithms.grpo import GRPO
from cameleer.distributed.launch import run
from cameleer.errors import TrainingError
from cameleer.log import quiet_libraries
from cameleer.models.load import load_model
from cameleer.recipe import Model, Optim, Recipe, Rollout
from cameleer.report.curve import read_metrics
from cameleer.rollout import steps
from cameleer.rollout.engine import Request, RolloutEngine, Sampling
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.train.collect import assemble, collect
from cameleer.train.online import train_online
from cameleer.train.parity import Answers, Gap, Parity, canary, own_gap
from cameleer.train.run import Run
from cameleer.types import Completion
from cameleer.verifiers.isolate import VerifierPool

TEMPERATURE = 0.7
SAMPLING = Sampling(max_tokens=32, temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with larger weights: one that prefers some words, as trained ones do."""
    directory = tiny_llama(tmp_path_factory.mktemp("sharp") / "llama")
    model = load_model(str(directory), "float32", "cpu")
    perturb(model, 0.2)
    with quiet_libraries():
        model.save_pretrained(directory)
    return directory


def perturb(model: nn.Module, size: float) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def recipe_of(model: Path, root: Path, /, **changes: Any) -> Recipe:
    rollout = Rollout(num_prompts=4, group_size=4, max_tokens=16, temperature=TEMPERATURE)
    return replace(grpo(model, root, rollout=rollout), **changes)


class Broken:
    """An engine with a fault: in what it is asked, or in what it answers."""

    def __init__(
        self,
        engine: RolloutEngine,
        asked: Callable[[Request], Request] = lambda request: request,
        answered: Callable[[Completion], Completion] = lambda completion: completion,
        **sampling: Any,
    ) -> None:
        self._engine, self._asked, self._answered = engine, asked, answered
        self._sampling = sampling
        self.version = engine.version

    def load(self, version: int) -> None:
        self._engine.load(version)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, seed: int, step: int
    ) -> list[Completion]:
        found = self._engine.generate(
            [self._asked(r) for r in requests],
            replace(sampling, **self._sampling),
            seed=seed,
            step=step,
        )
        return [self._answered(completion) for completion in found]


def later(completion: Completion) -> Completion:
    return replace(completion, logprobs=(*completion.logprobs[1:], 0.0))


def earlier(completion: Completion) -> Completion:
    return replace(completion, logprobs=(0.0, *completion.logprobs[:-1]))


def older(completion: Completion) -> Completion:
    logprobs = tuple(x - 0.01 for x in completion.logprobs)
    return replace(completion, version=completion.version - 1, logprobs=logprobs)


def without_header(request: Request) -> Request:
    return replace(request, tokens=request.tokens[:-1])


def without_first(request: Request) -> Request:
    return replace(request, tokens=request.tokens[1:])


def other_weights(model: nn.Module, tokenizer: Any, size: float) -> TorchEngine:
    other = copy.deepcopy(model)
    perturb(other, size)
    return TorchEngine(other, tokenizer)


def refusal(started: Run, engine: RolloutEngine) -> str:
    started.engine = engine
    with pytest.raises(TrainingError) as error, started:
        raise AssertionError("the run was not refused")
    assert not started.recipe.directory.exists(), "a refused run must not be in the way"
    return str(error.value)


@pytest.mark.parametrize(
    ("fault", "cause", "hint"),
    [
        ({"answered": later}, "one-token shift", "the learner's of the token after it"),
        ({"answered": earlier}, "one-token shift", "the learner's of the token before it"),
        ({"temperature": 1.0}, "temperature", "those at temperature 1, and the learner's at 0.7."),
        ({"temperature": 0.35}, "temperature", "those at temperature 0.35, and"),
        ({"asked": without_header}, "template", "the prompt without its generation prompt."),
        ({"asked": without_first}, "template", "the prompt without its first token."),
        ({"answered": older}, "stale weights", "with the weights after -1 updates, and the "),
    ],
)
def test_a_broken_engine_is_refused_and_its_fault_named(
    sharp: Path, tmp_path: Path, fault: dict[str, Any], cause: str, hint: str
):
    started = Run(recipe_of(sharp, tmp_path), resume=False)
    message = refusal(started, Broken(started.engine, **fault))
    assert f"Likely cause: {cause}: " in message
    assert hint in message


def keep_likeliest(what: str, logits_SV: Tensor) -> Tensor:
    """Other logits as minus infinity, as samplers with these settings make them."""
    ordered = logits_SV.sort(-1, descending=True)
    p_SV = ordered.values.softmax(-1)
    before_SV = p_SV.cumsum(-1) - p_SV
    kept_SV = {
        "top-k 5": torch.arange(p_SV.shape[1]).expand_as(p_SV) < 5,
        "top-p 0.9": before_SV < 0.9,
        "min-p 0.1": p_SV >= 0.1 * p_SV[:, :1],
    }[what]
    dropped_SV = torch.empty_like(kept_SV).scatter_(1, ordered.indices, ~kept_SV)
    return logits_SV.masked_fill(dropped_SV, -torch.inf)


@pytest.mark.parametrize("what", ["top-k 5", "top-p 0.9", "min-p 0.1"])
def test_an_engine_that_keeps_the_likeliest_tokens_only_is_refused(
    sharp: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
):
    sample = steps.sample_tokens
    monkeypatch.setattr(
        steps, "sample_tokens", lambda logits, u: sample(keep_likeliest(what, logits), u)
    )
    started = Run(recipe_of(sharp, tmp_path), resume=False)
    message = refusal(started, started.engine)
    assert f"Likely cause: truncation: the engine samples from part of the distribution, as {what}"\
        in message  # fmt: skip


def test_an_engine_of_other_weights_is_refused(sharp: Path, tmp_path: Path):
    started = Run(recipe_of(sharp, tmp_path), resume=False)
    learner = started.learner
    message = refusal(started, other_weights(learner.model, learner.tokenizer, 0.05))
    assert "Likely cause: stale weights: neither a shift, nor a temperature" in message


def test_an_engine_left_with_the_first_weights_is_found_out_by_the_reference(
    sharp: Path, tmp_path: Path
):
    started = Run(recipe_of(sharp, tmp_path, algorithm=GRPO(beta=0.1)), resume=False)
    engine = other_weights(started.learner.model, started.learner.tokenizer, 0.0)
    perturb(started.learner.model, 0.05)
    message = refusal(started, engine)
    assert "stale weights: the engine's numbers are those of the weights that the run" in message


def test_an_engine_that_rounds_more_than_the_learner_is_refused(sharp: Path, tmp_path: Path):
    started = Run(recipe_of(sharp, tmp_path), resume=False)
    rounded = copy.deepcopy(started.learner.model).bfloat16()
    message = refusal(started, TorchEngine(rounded, started.learner.tokenizer))
    assert "Likely cause: precision: the gap has the size of bfloat16's rounding" in message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_healthy_engine_passes_and_the_run_keeps_the_numbers(
    sharp: Path, tmp_path: Path, dtype: Any
):
    recipe = recipe_of(sharp, tmp_path, model=Model(source=str(sharp), dtype=dtype), num_steps=2)
    (directory,) = run(recipe)
    run(replace(recipe, num_steps=3), resume=True)
    first, second = (json.loads(x) for x in (directory / "parity.jsonl").read_text().splitlines())
    assert (first["step"], second["step"]) == (0, 2)
    for line in (first, second):
        assert line["dtype"] == dtype
        if dtype == "float32":
            assert line["num_tokens"] >= 4 and line["max"] < 1e-4 and line["floor_mean"] is None
        else:
            assert line["num_tokens"] >= 512
            assert 0 < line["mean"] <= 1.2 * line["floor_mean"]
    assert all(line["engine/drift"] == 0 for line in read_metrics(directory))


def test_the_floor_is_rounding_only(sharp: Path):
    # In float32 decoding and forward differ in the last digits; in bfloat16 by 2^-9 of logits.
    found = {}
    for dtype in ("float32", "bfloat16"):
        started = Run(recipe_of(sharp, Path("unused"), model=Model(source=str(sharp), dtype=dtype)),
                      resume=False)  # fmt: skip
        answers = canary(started.engine, started.prompts, SAMPLING, seed=1, enough=64)
        gap_M = own_gap(started.learner.model, answers, TEMPERATURE)
        assert len(gap_M) == sum(answers.lengths)
        found[dtype] = float(gap_M.mean())
    assert 0 < found["float32"] < 1e-5
    assert 1e-4 < found["bfloat16"] < 0.1


def test_the_floor_leaves_the_model_as_it_was(sharp: Path, tmp_path: Path):
    started = Run(recipe_of(sharp, tmp_path), resume=False)
    answers = canary(started.engine, started.prompts, SAMPLING, seed=1, enough=64)
    before = started.learner.score("old", answers.batch()).old_logprobs_N
    own_gap(started.learner.model, answers, TEMPERATURE)
    assert torch.equal(started.learner.score("old", answers.batch()).old_logprobs_N, before)


@pytest.mark.parametrize(
    ("gap", "holds"),
    [
        (Gap(dtype="float32", num_tokens=8, mean=1e-6, max=9e-5), True),
        (Gap(dtype="float32", num_tokens=8, mean=1e-6, max=1e-4), False),
        (Gap(dtype="float32", num_tokens=8, mean=torch.nan, max=torch.nan), False),
        # 1.2 * 0.01 = 0.012
        (Gap(dtype="bfloat16", num_tokens=8, mean=0.0119, max=1.0, floor_mean=0.01), True),
        (Gap(dtype="bfloat16", num_tokens=8, mean=0.0121, max=0.1, floor_mean=0.01), False),
        # Where bfloat16 rounds nothing at all, what passes for float32 passes.
        (Gap(dtype="bfloat16", num_tokens=8, mean=1e-6, max=9e-5, floor_mean=0.0), True),
    ],
)
def test_what_gap_is_allowed(gap: Gap, holds: bool):
    assert gap.holds == holds


def test_a_canary_goes_on_until_it_has_enough_tokens(sharp: Path, tmp_path: Path):
    started = Run(recipe_of(sharp, tmp_path), resume=False)

    def short(completion: Completion) -> Completion:
        return replace(completion, tokens=completion.tokens[:3], logprobs=completion.logprobs[:3])

    engine = Broken(started.engine, answered=short)
    answers = canary(engine, started.prompts, SAMPLING, seed=1, enough=100)
    assert sum(answers.lengths) >= 100
    asked = list(zip((p.id for p in answers.prompts), answers.completions, strict=True))
    assert len(set(asked)) > 0.9 * len(asked), "siblings have noise of their own"


def drifting(root: Path, sharp: Path, fault: Callable[[Run, int], RolloutEngine | None]) -> Run:
    """A run whose engine is replaced once so many steps have been made."""
    started = Run(recipe_of(sharp, root, optim=Optim(learning_rate=1e-3)), resume=False)
    end_step = started.end_step

    def end_and_break(step: int, *args: Any, **kwargs: Any) -> None:
        end_step(step, *args, **kwargs)
        engine = fault(started, step)
        if engine:
            started.engine = engine

    started.end_step = end_and_break  # type: ignore[method-assign]
    with started:
        train_online(started)
    return started


def test_a_drift_is_warned_of_once_with_its_cause_and_again_after_it_was_gone(
    sharp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    healthy: list[RolloutEngine] = []

    def fault(started: Run, step: int) -> RolloutEngine | None:
        healthy.append(started.engine)
        return {1: Broken(started.engine, temperature=1.0), 3: healthy[0]}.get(step)

    started = drifting(tmp_path, sharp, fault)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("drift apart") == 1
    assert "warning Step 2: engine and learner drift apart, by max " in said
    assert "Likely cause: temperature: the engine's log-probabilities are those at temperature 1" \
        in said  # fmt: skip
    lines = read_metrics(started.recipe.directory)
    assert [line["engine/drift"] for line in lines] == [0, 1, 1, 0]
    assert started.parity._drifting is False


def test_weights_that_are_no_longer_published_are_a_drift(
    sharp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def fault(started: Run, step: int) -> RolloutEngine | None:
        if step > 1:
            return None
        engine = other_weights(started.learner.model, started.learner.tokenizer, 0.0)
        engine.load(started.learner.version)
        return engine

    started = drifting(tmp_path, sharp, fault)
    said = " ".join(capsys.readouterr().out.split())
    # The copy is right in step 2. In step 3 it has the weights of before, and claims new ones.
    assert "Step 3: engine and learner drift apart" in said
    assert "Likely cause: stale weights" in said
    lines = read_metrics(started.recipe.directory)
    assert [line["engine/drift"] for line in lines] == [0, 0, 1, 1]


@pytest.mark.parametrize("on_policy", [True, False])
def test_tokens_of_older_weights_are_a_drift_only_where_all_have_to_be_new(
    sharp: Path, tmp_path: Path, on_policy: bool
):
    said: list[str] = []
    started = Run(recipe_of(sharp, tmp_path), resume=False)
    parity = Parity(started.learner, TEMPERATURE, said.append, on_policy=on_policy)
    with VerifierPool(dict(started.recipe.verifiers), num_workers=1) as pool:
        groups = collect(
            started.engine,
            pool,
            started.prompts[:2],
            Sampling(max_tokens=4, temperature=TEMPERATURE),
            group_size=2,
            seed=0,
            step=1,
        )
    started.learner.version = 3
    batch = started.learner.score("old", assemble(groups, started.recipe.reward))
    found = parity.step(4, groups, batch, started.learner.version)
    if on_policy:
        assert found["engine/drift"] == 1
        (warning,) = said
        assert "stale weights: the engine sampled with the weights after 0 updates, and the "\
            "learner has made 3." in warning  # fmt: skip
    else:
        assert found == {} and said == []


def test_answers_are_put_after_other_prompts():
    answers = Answers((), (Completion((7, 8), "", (-1.0, -2.0), "eos", 0),))
    batch = answers.batch([(5, 6)])
    assert batch.tokens_N.tolist() == [5, 6, 7, 8]
    assert batch.mask_N.tolist() == [False, False, True, True]
