"""JSON over HTTP, many requests at a time, with retries. It alone knows the key."""

from __future__ import annotations

import base64
import email.utils
import http.client
import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from cameleer.errors import ModelError

JSON: TypeAlias = dict[str, Any]

_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_MAX_REPLY_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Request:
    origin: str
    """The instance that it is for, in errors."""
    route: str
    body: JSON


class Client:
    """An endpoint's routes, and what it lists as its models."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        concurrency: int,
        timeout_s: float,
        retries: int,
        backoff_s: float,
        key_variable: str,
    ) -> None:
        if concurrency < 1 or retries < 0 or timeout_s <= 0:
            raise ModelError(
                "An endpoint needs a concurrency of 1 or more, 0 or more retries and a positive "
                f"timeout; these are {concurrency}, {retries} and {timeout_s:g} s."
            )
        self.url, login = split_login(url)
        self.where = f"{model} at {self.url}"
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._retries, self._backoff_s = retries, backoff_s
        self._key_variable = key_variable
        self._headers, self._secrets = _authorization(key_variable, login)
        self._opener = urllib.request.build_opener(_AnyStatus)
        self.models: list[JSON] = []
        """Empty where the server has no list."""
        self.models = self._list_models()

    def ask_all(self, requests: Sequence[Request], take: Callable[[int, JSON], None]) -> None:
        """Call `take` with each request's index and reply, on this thread, as replies come.

        Raises the first ModelError, of a request or of `take`, once those in flight are taken.
        """
        waiting: SimpleQueue[int] = SimpleQueue()
        for index in range(len(requests)):
            waiting.put(index)
        arrived: SimpleQueue[tuple[int, JSON | Exception] | None] = SimpleQueue()
        halt = threading.Event()

        def work() -> None:
            while not halt.is_set():
                try:
                    index = waiting.get_nowait()
                except Empty:
                    break
                try:
                    reply = self.ask(requests[index].route, requests[index].body, halt)
                    arrived.put((index, reply))
                except Exception as error:
                    halt.set()
                    arrived.put((index, error))
            arrived.put(None)

        working = min(self._concurrency, len(requests))
        for _ in range(working):
            # A daemon: an interrupt does not wait for the slowest answer.
            threading.Thread(target=work, daemon=True).start()
        num_taken = 0
        failures: list[tuple[str, ModelError]] = []
        try:
            while working:
                if (item := arrived.get()) is None:
                    working -= 1
                    continue
                index, reply = item
                try:
                    if isinstance(reply, Exception):
                        raise reply
                    take(index, reply)
                    num_taken += 1
                except ModelError as error:
                    halt.set()
                    failures.append((requests[index].origin, error))
        finally:
            halt.set()
        if failures:
            origin, failure = failures[0]
            raise ModelError(
                f"{origin}: {failure} {num_taken:,} of {len(requests):,} requests are answered; "
                "the same command goes on from there."
            ) from failure

    def ask(
        self, route: str, body: JSON | None = None, halt: threading.Event | None = None
    ) -> JSON:
        """The reply, after as many retries as are allowed; after none once `halt` is set."""
        halt = halt or threading.Event()
        tries = 0
        while True:
            tries += 1
            try:
                return self._send(route, body)
            except _PassingError as error:
                pause_s = max(self._backoff_s * 2 ** (tries - 1), error.wait_s)
                # A halt ends the pause.
                if tries > self._retries or error.wait_s > self._timeout_s or halt.wait(pause_s):
                    wish = f", and asks to wait {error.wait_s:,.0f} s" if error.wait_s else ""
                    raise ModelError(
                        f"{self.where}/{route} {error}{wish} (attempt {tries} of "
                        f"{self._retries + 1}). See that the server is up and not overloaded."
                    ) from error

    def _send(self, route: str, body: JSON | None) -> JSON:
        deadline = time.monotonic() + self._timeout_s
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{route}", data, self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                raw = _read(response, deadline)
        except TimeoutError as error:
            raise _PassingError(f"gave no whole answer in {self._timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(f"failed ({error or type(error).__name__})") from error
        try:
            reply = json.loads(raw)
        except (ValueError, RecursionError):
            reply = raw.decode("utf-8", "replace")
        status, fits = response.status, isinstance(reply, dict)
        if status == 200 and fits and isinstance(reply.get("choices" if body else "data"), list):
            return dict(reply)
        told = f"answered {status}: {self._without_secrets(_message(reply))}"
        # Some gateways put errors of the server behind them into a 200.
        if status == 200 or status in _TRANSIENT:
            raise _PassingError(told, _retry_after(response.headers.get("Retry-After")))
        raise _RefusedError(status, f"{self.where}/{route} {told}. {self._mend(status, told)}")

    def _mend(self, status: int, told: str) -> str:
        if status in (401, 403):
            return f"Set {self._key_variable} to a key that may use it."
        if status == 404:
            names = ", ".join(str(each.get("id")) for each in self.models[:20])
            return (
                f"Check the model's name (the server lists {names or 'none'}), and that the URL is "
                "the base of an API that has this route."
            )
        if status == 400 and re.search(r"context|too long|max_model_len", told, re.IGNORECASE):
            return (
                "If prompt and answer are too long for the model, give its context and its "
                "tokenizer, so that the answer gets the room that is left."
            )
        return "It would be refused again: mend what the server names."

    def _list_models(self) -> list[JSON]:
        try:
            listed = self.ask("models")["data"]
        except _RefusedError as error:
            # A server that fails may have a list, and the model's identity depends on it.
            if error.status == 401:
                raise
            return []
        return [each for each in listed if isinstance(each, dict)]

    def _without_secrets(self, text: str) -> str:
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        return text


class _PassingError(Exception):
    """What may not happen again."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        """Seconds that the server asked to wait."""


class _RefusedError(ModelError):
    """What would be refused again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Returns any status as it is, and so follows no redirect, which would take the key along."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response


def _read(response: Any, deadline: float) -> bytes:
    """All of a reply. The socket's timeout is for each piece, and pieces can go on for ever."""
    raw = bytearray()
    while piece := response.read1(2**16):
        raw += piece
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(raw) > _MAX_REPLY_BYTES:
            raise _PassingError(f"sent more than {_MAX_REPLY_BYTES:,} bytes")
    return bytes(raw)


def split_login(url: str) -> tuple[str, str]:
    """The base URL that may be shown, and its ``user:password``, or nothing."""
    shown = re.split("[?#]", url.rpartition("@")[2])[0]
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # No number as the port, half an IPv6 address.
        usable = False
    if not usable or "@" in parts.path or parts.query or parts.fragment or re.search("[^!-~]", url):
        raise ModelError(
            f"{shown!r} is not the base URL of an endpoint. Give one such as "
            "http://localhost:8000/v1, without '?' or '#'. Keys belong into the environment."
        )
    login, _, host = parts.netloc.rpartition("@")
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{host}{path}", unquote(login)


def _authorization(key_variable: str, login: str) -> tuple[dict[str, str], list[str]]:
    """Headers of every request, and the strings in them that must not be shown."""
    headers = {"Content-Type": "application/json"}
    key = os.environ.get(key_variable, "").strip()
    if login:
        basic = base64.b64encode(login.encode()).decode()
        return headers | {"Authorization": f"Basic {basic}"}, [
            basic,
            login,
            login.partition(":")[2],
        ]
    if not (key.isascii() and key.isprintable()):
        raise ModelError(
            f"{key_variable} holds characters that no key has. Set it to the key alone."
        )
    return headers | ({"Authorization": f"Bearer {key}"} if key else {}), [key]


def _retry_after(value: str | None) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date; 0 where it is neither."""
    if value is None or re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value or 0)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _message(reply: Any) -> str:
    """What an error's body says, in any of the usual shapes."""
    inner = reply.get("error", reply) if isinstance(reply, dict) else reply
    if isinstance(inner, dict):
        inner = inner.get("message") or inner.get("detail") or inner
    text = inner.strip() if isinstance(inner, str) else json.dumps(inner)
    return text[:500].rstrip(".") or "nothing"
