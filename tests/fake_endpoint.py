"""An OpenAI-compatible server that answers by script, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Reply:
    body: Any
    """JSON, or bytes to send as they are."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drop: bool = False
    """Close the connection without a word."""


class Server(ThreadingHTTPServer):
    """Hands every POST to `answer`, with how often that body came before, and keeps it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[Asked, int], Reply] = lambda asked, nth: said(asked, "yes")
        self.models = Reply({"data": [{"id": "m", "root": "org/m", "max_model_len": 100}]})
        self.num_lists = 0
        """How often it was asked for its models."""
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self) -> list[Any]:
        """What was asked for, in the order in which it came."""
        return [a.body["prompt"] if "prompt" in a.body else a.body["messages"] for a in self.asked]

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the script."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self.server.num_lists += 1
        self.give(self.server.models)

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, body, dict(self.headers))
        with server.lock:
            nth = sum(a.body == body for a in server.asked)
            server.asked.append(asked)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        reply = server.answer(asked, nth)
        time.sleep(reply.delay_s)
        with server.lock:
            server.at_once -= 1
        self.give(reply)

    def give(self, reply: Reply) -> None:
        if reply.drop:
            return
        raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(raw)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


def said(asked: Asked, text: str | None, reason: str | None = "stop", **choice: Any) -> Reply:
    """A server's reply of the asked route's shape; prompts are counted in words."""
    chat = asked.path.endswith("/chat/completions")
    prompt = asked.body.get("prompt", "")
    usage = {
        "prompt_tokens": len(prompt.split() if isinstance(prompt, str) else prompt),
        "completion_tokens": len((text or "").split()) + 1,
    }
    choice |= {"message": {"content": text}} if chat else {"text": text}
    return Reply({"choices": [{"finish_reason": reason, **choice}], "usage": usage})


def failed(status: int, message: str = "no", **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message}}, status, names)
