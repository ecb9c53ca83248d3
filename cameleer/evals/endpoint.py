"""A model behind an OpenAI-compatible endpoint, such as vLLM's, SGLang's or a vendor's."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from cameleer.endpoint_client import JSON, Client, Request
from cameleer.errors import ModelError
from cameleer.evals.base import Instance, cut_at_stop
from cameleer.evals.model import Answer, Question, num_shared, unpredicted
from cameleer.types import FinishReason

_CHAT, _TEXT = "chat/completions", "completions"
_MAX_STOP = 4
"""Stop strings that OpenAI's interface takes. The answer is cut here at any further ones."""
_PIECES = (
    "The quick brown fox (born 1987) paid $3,141.59; naïve Größe, 東京 и Москва.\n"
    "def f(x):\n\treturn {x: x ** 2}  # unbelievably antidisestablishmentarian\n"
)
"""A text that different tokenizers split into different numbers of tokens."""


class Endpoint:
    """Asks for answers over HTTP.

    With a tokenizer, prompts are rendered and tokenized here and sent as token ids, which vLLM and
    SGLang take: no server adds a second BOS to them. Without one, plain texts are tokenized by the
    server, messages go to the chat route with the server's template, and what needs the exact text
    is refused: log-probabilities, and a beginning of the assistant's turn, because a server that
    does not continue a turn begins another one and does not say so.

    What is not sent has the server's defaults. vLLM takes some of them, such as a repetition
    penalty, from the model's generation_config.json, unless it was started with
    ``--generation-config vllm``.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        tokenizer: str | None = None,
        context: int | None = None,
        concurrency: int = 16,
        timeout_s: float = 600.0,
        retries: int = 4,
        backoff_s: float = 1.0,
        sends_seed: bool = True,
        api_key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        """
        Args:
            url: The base that OpenAI's clients take; ``/v1`` where it has no path. A
                ``user:password@`` in it is sent as basic authentication, and never shown.
            model: The model's name there.
            tokenizer: Directory or hub id of the model's tokenizer, with its chat template.
            context: Tokens of prompt and answer together. None takes what the server says.
            concurrency: Requests in flight.
            timeout_s: For one request, its time in the server's queue included.
            retries: Of a request that found the server busy, failing or away.
            backoff_s: Pause before the first retry, doubled for each further one. A Retry-After
                of the server lengthens it; one above ``timeout_s`` is not waited for.
            sends_seed: False for a server that refuses ``seed``.
            api_key_variable: The environment variable with the key. It may be unset.

        Raises ModelError where the endpoint cannot be reached or refuses the key, or where the
        tokenizer is not the model's.
        """
        self.name = model
        self._sends_seed = sends_seed
        self._client = Client(
            url,
            model,
            concurrency=concurrency,
            timeout_s=timeout_s,
            retries=retries,
            backoff_s=backoff_s,
            key_variable=api_key_variable,
        )
        entry = next((each for each in self._client.models if each.get("id") == model), {})
        self._served = {key: entry[key] for key in ("id", "root", "max_model_len") if key in entry}
        self.context: int | None = context or self._served.get("max_model_len")
        self._tokenizer: Any = None
        if tokenizer is not None:
            from cameleer.models.load import load_tokenizer

            self._tokenizer = load_tokenizer(tokenizer)
            self._check_tokenizer(tokenizer)

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "endpoint",
            "url": self._client.url,
            "model": self.name,
            "served": self._served,
            "prompts": "text" if self._tokenizer is None else "token ids",
        }

    def prompt(self, instance: Instance) -> tuple[str, int | None]:
        """Without a tokenizer, messages are shown as JSON, and no length is known."""
        text = self._text(instance)
        return text, None if self._tokenizer is None else len(self._ids(text))

    def generate(
        self,
        questions: Sequence[Question],
        done: Callable[[int, Answer], None],
        *,
        temperature: float,
        seed: int,
    ) -> None:
        """`done` is called on this thread.

        What a content filter left of an answer is an answer. Once a request is refused or has
        failed too often no further ones are sent; those in flight are still taken. Where the
        server counts no tokens the tokenizer does, and without one the count is 0.
        """
        requests = []
        for question in questions:
            settings: JSON = {"max_tokens": question.max_tokens, "temperature": temperature}
            if temperature:
                # Greedy answers do not depend on it, and some servers refuse the two together.
                settings["top_p"] = 1.0
            if question.stop:
                settings["stop"] = question.stop[:_MAX_STOP]
            if self._sends_seed:
                settings["seed"] = _seed(seed, question)
            requests.append(self._request(question.instance, settings))

        def take(index: int, reply: JSON) -> None:
            done(index, self._answer(reply, questions[index].stop))

        self._client.ask_all(requests, take)

    def loglikelihoods(
        self, instances: Sequence[Instance], done: Callable[[int, list[float]], None]
    ) -> None:
        """A token that holds a prompt's end and a choice's beginning is counted as the choice's."""
        # One token is generated, because not every server takes 0 of them.
        asked: JSON = {"max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        requests, places, starts = [], [], []
        for index, instance in enumerate(instances):
            text = self._text(instance)
            before = self._ids(text)
            for choice, continuation in enumerate(instance.choices):
                ids = self._ids(text + continuation)
                body = {"model": self.name, "prompt": ids, **asked}
                requests.append(Request(instance.id, _TEXT, body))
                places.append((index, choice))
                starts.append(num_shared(before, ids))
                if not starts[-1]:
                    raise unpredicted(instance)
        sums: list[dict[int, float]] = [{} for _ in instances]

        def take(number: int, reply: JSON) -> None:
            logprobs = self._prompt_logprobs(reply, len(requests[number].body["prompt"]))
            index, choice = places[number]
            sums[index][choice] = math.fsum(logprobs[starts[number] :])
            if len(sums[index]) == len(instances[index].choices):
                done(index, [sums[index][i] for i in range(len(sums[index]))])

        self._client.ask_all(requests, take)

    def _text(self, instance: Instance) -> str:
        """The prompt for people, which is what the model reads wherever that is known."""
        if self._tokenizer is None and instance.choices:
            raise ModelError(
                f"{instance.id} is answered by the log-probabilities of its choices, whose tokens "
                f"only a tokenizer can tell from those of the prompt. Give that of {self.name}."
            )
        if isinstance(instance.prompt, str):
            return instance.prompt + instance.prefix
        if self._tokenizer is not None:
            return self._rendered(instance) + instance.prefix
        if instance.prefix:
            raise ModelError(
                f"{instance.id} begins the assistant's turn with {instance.prefix[:40]!r}, and a "
                "chat endpoint that does not continue a turn would answer another question "
                f"without saying so. Give the tokenizer of {self.name}, and prompts are rendered "
                "here; an endpoint that has only the chat route cannot run this benchmark."
            )
        return json.dumps(instance.prompt, ensure_ascii=False, sort_keys=True)

    def _rendered(self, instance: Instance) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer given for {self.name} has no chat template, and {instance.id} is a "
                "chat. Save the template with the tokenizer."
            )
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(instance.prompt), tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ModelError(
                f"The chat template of {self.name} refuses {instance.id}: {error}. Mend the "
                "template that is saved with the tokenizer."
            ) from error
        return text

    def _ids(self, text: str) -> list[int]:
        # A template writes the BOS that its model wants.
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _request(self, instance: Instance, settings: JSON) -> Request:
        text = self._text(instance)
        route, prompt = _TEXT, JSON(prompt=text)
        if self._tokenizer is not None:
            prompt = {"prompt": self._ids(text)}
        elif not isinstance(instance.prompt, str):
            route, prompt = _CHAT, {"messages": instance.prompt}
        return Request(instance.id, route, {"model": self.name, **prompt, **settings})

    def _check_tokenizer(self, source: str) -> None:
        """Raises ModelError where the server splits a text otherwise: our ids would be noise."""
        body = {"model": self.name, "prompt": _PIECES, "max_tokens": 1, "temperature": 0.0}
        theirs = _usage(self._client.ask(_TEXT, body), "prompt_tokens")
        ours = len(self._ids(_PIECES))
        # The server may add a BOS and an EOS. One that counts nothing is trusted.
        if theirs is not None and not ours <= theirs <= ours + 2:
            raise ModelError(
                f"The tokenizer {source} splits a text into {ours} tokens, {self._client.where} "
                f"into {theirs}: it is not the model's, which would read noise. Give the one that "
                "the server loads."
            )

    def _answer(self, reply: JSON, stop: Sequence[str]) -> Answer:
        choice = self._only_choice(reply)
        message = choice.get("message")
        # A chat's content is None where all was spent on reasoning.
        said = (message.get("content") or "") if isinstance(message, dict) else choice.get("text")
        if not isinstance(said, str):
            raise ModelError(
                f"{self._client.where} answered without a text: its choice holds "
                f"{', '.join(sorted(choice)) or 'nothing'}. It is not OpenAI-compatible."
            )
        text = cut_at_stop(said, stop)
        num_tokens = _usage(reply, "completion_tokens")
        if num_tokens is None:
            num_tokens = 0 if self._tokenizer is None else len(self._ids(said))
        reason = "stop" if len(text) < len(said) else self._finish_reason(choice)
        return Answer(text, num_tokens, reason)

    def _finish_reason(self, choice: JSON) -> FinishReason:
        match choice.get("finish_reason"):
            case "length":
                return "length"
            case "content_filter":
                return "stop"
            case "stop":
                # vLLM's and SGLang's names for what was met: a stop string, or a token's id.
                met = choice.get("stop_reason", choice.get("matched_stop"))
                return "stop" if isinstance(met, str) else "eos"
            case other:
                raise ModelError(
                    f"{self._client.where} gave an answer the finish_reason {other!r}, so whether "
                    "it is whole cannot be told. It has to be 'stop', 'length' or "
                    "'content_filter'."
                )

    def _prompt_logprobs(self, reply: JSON, num_tokens: int) -> list[float]:
        """One of each prompt token. The first, which nothing predicts, is NaN."""
        logprobs = self._only_choice(reply).get("logprobs")
        found = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
        found = found if isinstance(found, list) else []
        predicted = found[1:num_tokens]
        # The token that was generated may be among them.
        whole = num_tokens <= len(found) <= num_tokens + 1
        if not whole or not all(isinstance(p, float | int) and math.isfinite(p) for p in predicted):
            raise ModelError(
                f"{self._client.where} was asked for the log-probabilities of {num_tokens} prompt "
                f"tokens (echo=true, logprobs=1) and gave {len(found)}"
                f"{', not all of them numbers' * whole}. This benchmark needs them: use a server "
                "that gives them, such as vLLM or SGLang, or load the model itself."
            )
        return [math.nan, *predicted]

    def _only_choice(self, reply: JSON) -> JSON:
        choices = reply["choices"]
        if len(choices) != 1 or not isinstance(choices[0], dict):
            raise ModelError(
                f"{self._client.where} was asked for one answer and gave {len(choices)}. Mend the "
                "server, or use another."
            )
        return dict(choices[0])


def _seed(seed: int, question: Question) -> int:
    """Depends on the question alone, not on what is asked beside it."""
    key = f"{seed} {question.instance.id} {question.sample}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") >> 1


def _usage(reply: JSON, field: str) -> int | None:
    usage = reply.get("usage")
    count = usage.get(field) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None
