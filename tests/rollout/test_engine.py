"""An engine by its name: what is none is refused before it is asked for anything."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cameleer.errors import RecipeError
from cameleer.rollout.engine import RolloutEngine, engine_class, make_engine
from cameleer.rollout.torch_engine import TorchEngine


class Deaf:
    """Generates, and does not hear of new weights."""

    version = 0

    def __init__(self, model: Any, tokenizer: Any, *, num_slots: int) -> None: ...

    def generate(self) -> None: ...


class NeedsMore:
    def __init__(self, model: Any, tokenizer: Any, address: str, *, num_slots: int) -> None: ...


def test_the_engine_of_a_recipe_that_names_none_is_ours():
    from cameleer.recipe import Rollout

    assert engine_class(Rollout.engine) is TorchEngine


def test_an_engine_is_made_for_the_model_with_the_slots_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch,
):
    given: list[Any] = []

    def make(model: Any, tokenizer: Any, *, num_slots: int) -> TorchEngine:
        given.extend((model, tokenizer, num_slots))
        return TorchEngine.__new__(TorchEngine)

    monkeypatch.setitem(globals(), "make", make)
    with pytest.raises(RecipeError, match="it has no version"):
        make_engine(f"{__name__}:make", "the model", "the tokenizer", num_slots=3)
    assert given == ["the model", "the tokenizer", 3]
    engine = make_engine(f"{__name__}:TorchEngine", "the model", "the tokenizer", num_slots=3)
    assert isinstance(engine, RolloutEngine)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Deaf", "which is no RolloutEngine: it has no load, release. See cameleer.rollout.engine"),
        ("NeedsMore", "takes other arguments than (model, tokenizer, num_slots=…): missing a"),
        ("__doc__", "which is no class. Name a `RolloutEngine`, as module:class or file.py:CLASS"),
        ("NeedMore", f"{__name__} has no 'NeedMore'. Did you mean 'NeedsMore'?"),
    ],
)
def test_what_is_no_engine_is_refused(name: str, message: str):
    reference = f"{__name__}:{name}"
    with pytest.raises(RecipeError, match=re.escape(message)) as error:
        make_engine(reference, "model", "tokenizer", num_slots=1)
    assert str(error.value).startswith(f"rollout.engine names {reference}")
