"""What a verifier is: a function from a completion's text and a ground truth to a verdict."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from cameleer.types import Score


@runtime_checkable
class Verifier(Protocol):
    """Decides whether a completion is right.

    An implementation is a frozen dataclass at the top level of a module, so that it can be pickled,
    and a pure function of its arguments: no clock, no randomness, no state, no import of torch. It
    then gives the same verdict in-process and in a `VerifierPool`. The exception is a model that is
    asked for its opinion (`cameleer.verifiers.judge.Judge`).

    Four attributes are optional:

    * ``isolated``, a class variable: False says that `score` needs time linear in the text, can
      neither hang nor crash, and may run in the process that trains. Without it, True is assumed.
    * ``reads_question``, a class variable: True says that the truth it reads is the mapping
      ``{"question": text, "reference": truth}`` of the prompt's text and the row's ground truth.
    * ``warm_up()``, called once in each worker before the limits apply: the place for slow imports.
    * ``check_installed()``, which raises RecipeError where a package it needs is absent. Verifiers
      that are constants of a module have it, since refusing to be made would break the import.
    """

    def score(self, text: str, truth: Any) -> Score:
        """Hold the text of a completion against the ground truth.

        Returns:
            A `Score` of status ``scored``, or ``invalid`` where `validate` refuses the truth. A
            verifier never says ``undecided``: it raises, or runs into a limit of its pool.
        """
        ...

    def validate(self, truth: Any) -> str | None:
        """None when the ground truth is readable, else the reason, as a phrase: ``it is empty``.

        Called for every prompt before training starts, so it must be cheap.
        """
        ...


def brief(text: Any, limit: int = 60) -> str:
    """A text quoted on one line for a `Score.reason`, its middle left out when it is long."""
    if not isinstance(text, str):
        return f"of type {type(text).__name__}"
    text = " ".join(text[: 4 * limit].split())
    return f"'{text}'" if len(text) <= limit else f"'{text[: limit - 12]}…{text[-11:]}'"
