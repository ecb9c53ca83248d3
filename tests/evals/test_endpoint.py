"""Endpoints against a server that answers by script, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Asked, Handler, Reply, Server, failed, said

from cameleer.errors import ModelError
from cameleer.evals.base import Instance
from cameleer.evals.endpoint import Endpoint
from cameleer.evals.model import Answer, Model, Question

KEY = "sk-never-to-be-shown"


def sums_of(model: Endpoint, instance: Instance) -> list[float]:
    found: dict[int, list[float]] = {}
    model.loglikelihoods([instance], found.__setitem__)
    return found[0]


def chat(name: str = "a", **fields: Any) -> Instance:
    return Instance(f"bench:{name}", ({"role": "user", "content": name},), None, **fields)


def text(name: str = "a", **fields: Any) -> Instance:
    return Instance(f"bench:{name}", name, None, **fields)


def question(instance: Instance, sample: int = 0, stop: tuple[str, ...] = ()) -> Question:
    return Question(instance, sample, 20, stop)


def endpoint(server: Server, **options: Any) -> Endpoint:
    fast: dict[str, Any] = {"timeout_s": 5.0, "backoff_s": 0.001}
    return Endpoint(server.url, "m", **fast | options)


def answers_of(
    model: Endpoint, questions: list[Question], *, temperature: float = 0.0, seed: int = 0
) -> list[Answer]:
    found: dict[int, Answer] = {}
    taking = threading.current_thread()

    def done(index: int, answer: Answer) -> None:
        assert index not in found, f"question {index} was answered twice"
        assert threading.current_thread() is taking
        found[index] = answer

    model.generate(questions, done, temperature=temperature, seed=seed)
    return [found[index] for index in range(len(questions))]


def answer_of(server: Server, reply: Callable[[Asked], Reply], **asked: Any) -> Answer:
    server.answer = lambda request, nth: reply(request)
    return answers_of(endpoint(server), [question(chat(), **asked)])[0]


# What is asked


def test_messages_go_to_the_chat_route_and_texts_to_the_other(server: Server):
    model = endpoint(server, concurrency=1)
    assert isinstance(model, Model)
    answers_of(model, [question(chat("a"), stop=("\n",)), question(text("b", prefix=" c"))], seed=1)
    first, second = server.asked
    assert first.path == "/v1/chat/completions"
    assert first.body["messages"] == [{"role": "user", "content": "a"}]
    assert {key: first.body[key] for key in ("model", "max_tokens", "temperature", "stop")} == {
        "model": "m",
        "max_tokens": 20,
        "temperature": 0.0,
        "stop": ["\n"],
    }
    assert second.path == "/v1/completions"
    assert second.body["prompt"] == "b c"
    assert "stop" not in second.body


def test_only_sampled_answers_turn_the_servers_nucleus_off(server: Server):
    model = endpoint(server)
    answers_of(model, [question(text())], temperature=0.0)
    answers_of(model, [question(text())], temperature=0.8)
    greedy, sampled = (a.body for a in server.asked)
    assert "top_p" not in greedy
    assert sampled["top_p"] == 1.0 and sampled["temperature"] == 0.8


def test_a_seed_depends_on_run_instance_and_sample_and_on_nothing_beside(server: Server):
    def seeds(names: str, *, seed: int) -> dict[tuple[str, int], int]:
        server.asked.clear()
        questions = [question(text(name), sample) for name in names for sample in (0, 1)]
        answers_of(endpoint(server, concurrency=1), questions, temperature=1.0, seed=seed)
        keys = [(q.instance.id, q.sample) for q in questions]
        return dict(zip(keys, (a.body["seed"] for a in server.asked), strict=True))

    some, more, others = seeds("ab", seed=0), seeds("cba", seed=0), seeds("ab", seed=1)
    assert some.items() <= more.items()
    assert len({*more.values(), *others.values()}) == 10
    assert all(0 <= seed < 2**31 for seed in more.values())


def test_a_server_that_refuses_seeds_gets_none(server: Server):
    answers_of(endpoint(server, sends_seed=False), [question(text())])
    assert "seed" not in server.asked[0].body


def test_with_a_tokenizer_prompts_are_rendered_here_and_sent_as_ids(server: Server, tiny: Path):
    model = endpoint(server, tokenizer=str(tiny))
    server.asked.clear()
    instance = chat("one", prefix="two three")
    # Ids of save_tiny_llama: six special tokens, then the words.
    ids = [4, 14, 5, 15, 16]
    assert model.prompt(instance) == ("<|user|>\none\n<|assistant|>\ntwo three", 5)
    answers_of(model, [question(instance), question(text("a b"))])
    assert sorted(server.prompts) == sorted([ids, [6, 7]])
    assert {a.path for a in server.asked} == {"/v1/completions"}


def test_only_the_template_writes_a_bos(server: Server, tiny: Path, tmp_path: Path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    assert tokenizer("a")["input_ids"] == [1, 6]
    tokenizer.save_pretrained(tmp_path)
    answers_of(endpoint(server, tokenizer=str(tmp_path)), [question(text("a"))])
    assert server.prompts[-1] == [6]


def test_a_tokenizer_that_is_not_the_models_is_refused(server: Server, tiny: Path):
    def counted(extra: int) -> Callable[[Asked, int], Reply]:
        def answer(asked: Asked, nth: int) -> Reply:
            reply = said(asked, "yes")
            reply.body["usage"]["prompt_tokens"] += extra
            return reply

        return answer

    for extra, fits in ((-1, False), (0, True), (1, True), (2, True), (3, False)):
        server.answer = counted(extra)
        if fits:
            endpoint(server, tokenizer=str(tiny))
        else:
            with pytest.raises(ModelError, match="it is not the model's"):
                endpoint(server, tokenizer=str(tiny))
    server.answer = lambda asked, nth: Reply({"choices": [{"text": ""}]})
    endpoint(server, tokenizer=str(tiny))


def test_a_tokenizer_without_a_template_cannot_render_a_chat(
    server: Server, tiny: Path, tmp_path: Path
):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    model = endpoint(server, tokenizer=str(tmp_path))
    with pytest.raises(ModelError, match="no chat template"):
        model.prompt(chat())
    assert model.prompt(text("a b")) == ("a b", 2)


def test_a_template_that_refuses_an_instance_is_named(server: Server, tiny: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"refuses bench:a: no users here"):
        endpoint(server, tokenizer=str(tmp_path)).prompt(chat())


def test_the_beginning_of_a_turn_is_refused_where_it_cannot_be_sent(server: Server):
    model = endpoint(server)
    with pytest.raises(ModelError, match=r"bench:b begins the assistant's turn with 'Answer:'"):
        answers_of(model, [question(chat("a")), question(chat("b", prefix="Answer:"))])
    assert server.asked == []
    with pytest.raises(ModelError, match="Give the tokenizer of m"):
        model.prompt(chat(prefix="Answer:"))


def test_prompts_without_a_tokenizer_are_told_apart(server: Server):
    model = endpoint(server)
    shown, length = model.prompt(chat("é"))
    assert json.loads(shown) == [{"role": "user", "content": "é"}] and length is None
    assert model.prompt(text("b", prefix="c")) == ("bc", None)


def test_identity_and_context_are_what_the_server_says(server: Server):
    model = endpoint(server)
    assert model.context == 100
    assert endpoint(server, context=64).context == 64
    assert model.identity() == {
        "kind": "endpoint",
        "url": server.url,
        "model": "m",
        "served": {"id": "m", "root": "org/m", "max_model_len": 100},
        "prompts": "text",
    }
    bare = Endpoint(server.url.removesuffix("/v1"), "other", backoff_s=0.001)
    assert bare.identity()["url"] == server.url
    assert bare.identity()["served"] == {} and bare.context is None


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_server_without_a_list_of_models_is_asked_all_the_same(server: Server, status: int):
    server.models = failed(status)
    model = endpoint(server)
    assert model.identity()["served"] == {} and model.context is None
    assert answers_of(model, [question(chat())])[0].text == "yes"


# What comes back


def test_an_answer_is_its_text_its_tokens_and_its_end(server: Server):
    answer = answer_of(server, lambda asked: said(asked, "one two", stop_reason=None))
    assert answer == Answer("one two", 3, "eos")


@pytest.mark.parametrize(
    ("reason", "extra", "expected"),
    [
        ("length", {}, "length"),
        ("stop", {}, "eos"),
        ("stop", {"stop_reason": "END"}, "stop"),
        ("stop", {"stop_reason": 151645}, "eos"),
        ("stop", {"matched_stop": "END"}, "stop"),
        ("stop", {"matched_stop": 2}, "eos"),
        ("content_filter", {}, "stop"),
    ],
)
def test_ends_of_answers(server: Server, reason: str, extra: dict[str, Any], expected: str):
    answer = answer_of(server, lambda asked: said(asked, "x", reason, **extra))
    assert (answer.text, answer.finish_reason) == ("x", expected)


@pytest.mark.parametrize("reason", [None, "tool_calls", "abort"])
def test_an_answer_that_may_not_be_whole_is_an_error(server: Server, reason: str | None):
    with pytest.raises(ModelError, match=f"bench:a: m at .* finish_reason {reason!r}"):
        answer_of(server, lambda asked: said(asked, "x", reason))


def test_a_stop_string_that_the_server_includes_is_cut_off(server: Server):
    answer = answer_of(server, lambda asked: said(asked, "x\nQ: y"), stop=("Q:", "\n"))
    assert answer == Answer("x", 4, "stop")


def test_stop_strings_beyond_four_are_cut_at_here(server: Server):
    stop = ("1", "2", "3", "4", "5")
    answer = answer_of(server, lambda asked: said(asked, "x5y", "length"), stop=stop)
    assert server.asked[0].body["stop"] == ["1", "2", "3", "4"]
    # The server went on to its limit; the answer ended before.
    assert answer == Answer("x", 2, "stop")


@pytest.mark.parametrize("nothing", ["", None])
def test_an_empty_answer_is_an_answer(server: Server, nothing: str | None):
    assert answer_of(server, lambda asked: said(asked, nothing, "length")) == Answer(
        "", 1, "length"
    )


def test_tokens_that_the_server_does_not_count_are_counted_here(server: Server, tiny: Path):
    def uncounted(asked: Asked, nth: int = 0) -> Reply:
        reply = said(asked, "a b a")
        del reply.body["usage"]
        return reply

    assert answer_of(server, uncounted).num_tokens == 0
    model = endpoint(server, tokenizer=str(tiny))
    assert answers_of(model, [question(chat())])[0].num_tokens == 3


def test_two_choices_are_refused(server: Server):
    def twice(asked: Asked) -> Reply:
        reply = said(asked, "x")
        reply.body["choices"] *= 2
        return reply

    with pytest.raises(ModelError, match="asked for one answer and gave 2"):
        answer_of(server, twice)


@pytest.mark.parametrize("choice", [{}, {"text": None}, {"text": 1}, {"message": {"content": [1]}}])
def test_a_reply_without_a_text_is_refused(server: Server, choice: dict[str, Any]):
    choice["finish_reason"] = "stop"
    with pytest.raises(ModelError, match="answered without a text"):
        answer_of(server, lambda asked: Reply({"choices": [choice]}))


# In any order, never too many, none twice


def test_answers_belong_to_their_questions_in_whatever_order_they_come(server: Server):
    names = [f"{i}" for i in range(30)]
    server.answer = lambda asked, nth: replace(
        said(asked, asked.body["prompt"] * 2), delay_s=0.002 * (6 - int(asked.body["prompt"]) % 7)
    )
    for concurrency in (1, 8):
        model = endpoint(server, concurrency=concurrency)
        answers = answers_of(model, [question(text(name)) for name in names])
        assert [answer.text for answer in answers] == [name * 2 for name in names]


def test_no_more_requests_are_in_flight_than_allowed(server: Server):
    five = threading.Barrier(5)

    def answer(asked: Asked, nth: int) -> Reply:
        five.wait(5)
        return said(asked, "x")

    server.answer = answer
    answers_of(endpoint(server, concurrency=5), [question(text(f"{i}")) for i in range(20)])
    assert server.most_at_once == 5
    assert len(server.asked) == 20


def test_answers_are_handed_over_before_all_are_there(server: Server):
    handed = threading.Event()

    def answer(asked: Asked, nth: int) -> Reply:
        if asked.body["prompt"] == "late":
            assert handed.wait(5), "the first answer was kept back"
        return said(asked, "x")

    server.answer = answer
    endpoint(server).generate(
        [question(text("late")), question(text("early"))],
        lambda index, _: handed.set(),
        temperature=0.0,
        seed=0,
    )
    assert handed.is_set()


def test_nothing_is_asked_where_nothing_is_left(server: Server):
    assert answers_of(endpoint(server), []) == []
    assert server.asked == []


def test_after_an_error_only_the_rest_is_asked_again(server: Server):
    questions = [question(text(f"{i}")) for i in range(12)]

    def answer(asked: Asked, nth: int) -> Reply:
        broken = asked.body["prompt"] == "5"
        return failed(500) if broken else replace(said(asked, "x"), delay_s=0.03)

    server.answer = answer
    found: dict[int, Answer] = {}
    with pytest.raises(ModelError) as caught:
        endpoint(server, concurrency=3, retries=0).generate(
            questions, found.__setitem__, temperature=0.0, seed=0
        )
    # Those in flight beside the one that failed were taken, and no others were sent.
    assert {f"{i}" for i in found} == set(server.prompts) - {"5"}
    assert len(found) < 11
    assert f"{len(found)} of 12 requests are answered; the same command goes on" in str(
        caught.value
    )

    server.answer = lambda asked, nth: said(asked, "x")
    rest = [q for i, q in enumerate(questions) if i not in found]
    answers_of(endpoint(server), rest)
    assert sorted(server.prompts) == sorted([*(q.instance.prompt for q in questions), "5"])


def test_nothing_more_is_asked_of_a_server_whose_answers_are_of_no_use(server: Server):
    server.answer = lambda asked, nth: replace(said(asked, "x", "abort"), delay_s=0.01)
    with pytest.raises(ModelError, match=r"bench:0: .* 0 of 100 requests"):
        answers_of(endpoint(server, concurrency=1), [question(text(f"{i}")) for i in range(100)])
    assert len(server.asked) < 50


def test_an_error_of_whoever_takes_the_answers_rises(server: Server):
    def done(index: int, answer: Answer) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        endpoint(server).generate([question(text())], done, temperature=0.0, seed=0)


# Failures


@pytest.mark.parametrize(
    "failure",
    [
        *(failed(status) for status in (429, 500, 502, 503, 504)),
        Reply(b"<html>"),
        Reply(b'{"choices": [', headers={"Content-Length": "100"}),
        Reply({"error": {"message": "upstream is away"}}),
        Reply([]),
        Reply({}, drop=True),
    ],
    ids=lambda reply: str(reply.status if reply.status != 200 else reply.body or "closed"),
)
def test_what_may_pass_is_tried_again(server: Server, failure: Reply):
    server.answer = lambda asked, nth: failure if nth < 2 else said(asked, "x")
    assert answers_of(endpoint(server, retries=2), [question(chat())])[0].text == "x"
    assert len(server.asked) == 3


def test_an_answer_that_takes_too_long_is_asked_again(server: Server):
    server.answer = lambda asked, nth: replace(said(asked, "x"), delay_s=2.0 * (nth == 0))
    assert answers_of(endpoint(server, timeout_s=0.3), [question(chat())])[0].text == "x"
    assert len(server.asked) == 2


def test_an_answer_that_trickles_for_ever_is_cut_off(server: Server):
    def trickle(handler: Handler, reply: Reply) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" ")
            time.sleep(0.01)

    model = endpoint(server, timeout_s=0.1, retries=0)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "give", trickle)
        with pytest.raises(ModelError, match=r"gave no whole answer in 0.1 s \(attempt 1 of 1\)"):
            answers_of(model, [question(chat())])
    assert time.monotonic() - began < 5


def test_a_server_that_fails_for_ever_is_given_up(server: Server):
    server.answer = lambda asked, nth: failed(500, "out of order")
    with pytest.raises(ModelError) as caught:
        answers_of(endpoint(server, retries=3), [question(chat())])
    assert str(caught.value) == (
        f"bench:a: m at {server.url}/chat/completions answered 500: out of order (attempt 4 of 4). "
        "See that the server is up and not overloaded. 0 of 1 requests are answered; the same "
        "command goes on from there."
    )
    assert len(server.asked) == 4


def test_the_pause_doubles(server: Server):
    times: list[float] = []

    def answer(asked: Asked, nth: int) -> Reply:
        times.append(time.monotonic())
        return failed(503)

    server.answer = answer
    with pytest.raises(ModelError):
        answers_of(endpoint(server, retries=2, backoff_s=0.1), [question(chat())])
    assert times[1] - times[0] >= 0.1
    assert times[2] - times[1] >= 0.2


@pytest.mark.parametrize("wait", ["0.2", "date"])
def test_a_server_that_asks_to_wait_is_waited_for(server: Server, wait: str):
    times: list[float] = []

    def answer(asked: Asked, nth: int) -> Reply:
        times.append(time.time())
        # A date has whole seconds: the next but one is more than one away.
        wish = formatdate(int(times[0]) + 2, usegmt=True) if wait == "date" else wait
        return said(asked, "x") if nth else failed(429, Retry_After=wish)

    server.answer = answer
    answers_of(endpoint(server), [question(chat())])
    assert times[1] >= (int(times[0]) + 2 if wait == "date" else times[0] + 0.2)


def test_a_wait_longer_than_an_answer_may_take_is_not_waited_for(server: Server):
    server.answer = lambda asked, nth: failed(429, "quota", Retry_After="86400")
    with pytest.raises(ModelError, match=r"429: quota, and asks to wait 86,400 s \(attempt 1 of 5"):
        answers_of(endpoint(server), [question(chat())])


def test_a_retry_after_that_cannot_be_read_is_passed_over(server: Server):
    server.answer = lambda asked, nth: said(asked, "x") if nth else failed(429, Retry_After="soon")
    assert answers_of(endpoint(server), [question(chat())])[0].text == "x"


def test_an_error_ends_the_pauses_of_others(server: Server):
    def answer(asked: Asked, nth: int) -> Reply:
        if asked.body["prompt"] == "waits":
            return failed(503)
        return replace(failed(400, "bad"), delay_s=0.1)

    server.answer = answer
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"bench:refused: .* 400: bad"):
        answers_of(
            endpoint(server, backoff_s=30), [question(text("waits")), question(text("refused"))]
        )
    assert time.monotonic() - began < 5


def test_a_server_that_is_away_is_named(server: Server):
    url = server.url
    server.server_close()
    with pytest.raises(ModelError, match=rf"m at {url}/models failed \(.*refused.*attempt 2 of 2"):
        Endpoint(url, "m", retries=1, backoff_s=0.001)


def test_a_refused_request_is_not_tried_again(server: Server):
    server.answer = lambda asked, nth: failed(422, "temperature is 1 here")
    with pytest.raises(
        ModelError, match=r"answered 422: temperature is 1 here\. It would be refused"
    ):
        answers_of(endpoint(server), [question(chat())])
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.answer = lambda asked, nth: Reply(b"", 307, {"Location": server.url + "/elsewhere"})
    with pytest.raises(ModelError, match="answered 307: nothing"):
        answers_of(endpoint(server), [question(chat())])
    assert len(server.asked) == 1


def test_a_model_that_is_not_there_is_told_from_those_that_are(server: Server):
    server.models = Reply({"data": [{"id": "x-7b"}, {"id": "y-8b"}]})
    server.answer = lambda asked, nth: failed(404, "no model m")
    with pytest.raises(ModelError, match=r"404: no model m. .*\(the server lists x-7b, y-8b\)"):
        answers_of(endpoint(server), [question(chat())])


def test_a_prompt_that_is_too_long_names_instance_and_mend(server: Server):
    told = "This model's maximum context length is 100 tokens."
    server.answer = lambda asked, nth: failed(400, told)
    with pytest.raises(
        ModelError, match=rf"bench:a: .*{told}.* give its context and its tokenizer"
    ):
        answers_of(endpoint(server), [question(chat())])


@pytest.mark.parametrize(
    "body",
    [{"message": "why."}, {"detail": "why"}, {"error": "why"}, b"why", {"object": {"a": "why"}}],
)
def test_a_servers_reason_is_found_in_any_shape(server: Server, body: Any):
    server.answer = lambda asked, nth: Reply(body, 400)
    with pytest.raises(ModelError, match=r"answered 400: [^.]*why[^.]*\. It would"):
        answers_of(endpoint(server), [question(chat())])


# Keys


def test_a_key_is_sent_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    server.answer = lambda asked, nth: failed(400, f"what is {KEY}?")
    model = endpoint(server, api_key_variable="MY_KEY")
    with pytest.raises(ModelError) as caught:
        answers_of(model, [question(chat())])
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "what is ***?" in str(caught.value)
    for shown in (repr(model), str(model.identity()), model.name, *chain_of(caught.value)):
        assert KEY not in shown


def test_a_password_in_the_url_is_sent_and_never_shown(server: Server):
    server.answer = lambda asked, nth: failed(500, "me:p@ss, p@ss and bWU6cEBzcw==")
    url = server.url.replace("http://", "http://me:p%40ss@")
    model = Endpoint(url, "m", retries=0)
    with pytest.raises(ModelError) as caught:
        answers_of(model, [question(chat())])
    # base64 of me:p@ss
    assert server.asked[0].headers["Authorization"] == "Basic bWU6cEBzcw=="
    assert model.identity()["url"] == server.url
    for shown in (repr(model), str(model.identity()), *chain_of(caught.value)):
        assert not any(secret in shown for secret in ("p@ss", "p%40ss", "bWU6cEBzcw=="))


def chain_of(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error} {error!r}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("answer_is_refused", [False, True])
def test_a_refused_key_names_its_variable(
    server: Server, monkeypatch: pytest.MonkeyPatch, answer_is_refused: bool
):
    monkeypatch.setenv("MY_KEY", KEY)
    refusal = failed(401, f"Incorrect API key provided: {KEY}")
    if answer_is_refused:
        server.answer = lambda asked, nth: refusal
    else:
        server.models = refusal
    with pytest.raises(ModelError, match="Set MY_KEY to a key") as caught:
        answers_of(endpoint(server, api_key_variable="MY_KEY"), [question(chat())])
    assert not any(KEY in shown for shown in chain_of(caught.value))


def test_a_key_with_a_line_in_it_is_refused_unshown(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nexport MORE=1")
    with pytest.raises(ModelError, match="OPENAI_API_KEY holds characters") as caught:
        endpoint(server)
    assert not any(KEY in shown for shown in chain_of(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        "http://[::1/v1",
        "http://host/v1?key=secret",
        "http://host/v1#secret",
        "http://me:secret/x@host/v1",
        "http://me:80/secret@host/v1",
        "http://me:secret@",
        "http://host/v 1",
        "http://host/é",
    ],
)
def test_what_is_no_base_url_is_refused_without_showing_secrets(url: str):
    with pytest.raises(ModelError, match="is not the base URL of an endpoint") as caught:
        Endpoint(url, "m")
    assert not any("secret" in shown for shown in chain_of(caught.value))


@pytest.mark.parametrize("option", [{"concurrency": 0}, {"retries": -1}, {"timeout_s": 0.0}])
def test_options_that_cannot_work_are_refused(server: Server, option: dict[str, Any]):
    with pytest.raises(ModelError, match="An endpoint needs"):
        endpoint(server, **option)


# Log-probabilities


def scored(asked: Asked, nth: int = 0, generated: int = 1) -> Reply:
    """Each prompt token has minus a tenth of its id, and the generated one -99."""
    prompt = asked.body["prompt"]
    reply = said(asked, "x")
    if isinstance(prompt, list):
        logprobs = [None, *(-i / 10 for i in prompt[1:]), *[-99.0] * generated]
        reply.body["choices"][0]["logprobs"] = {"token_logprobs": logprobs}
    return reply


CHOICES = chat("one", choices=("two", "three a b", "b"))


@pytest.mark.parametrize("generated", [0, 1])
def test_log_probabilities_by_hand(server: Server, tiny: Path, generated: int):
    server.answer = lambda asked, nth: scored(asked, nth, generated)
    # Ids: a 6, b 7, two 15, three 16. So 1.5; 1.6 + 0.6 + 0.7; 0.7.
    sums = sums_of(endpoint(server, tokenizer=str(tiny)), CHOICES)
    assert sums == pytest.approx([-1.5, -2.9, -0.7], abs=1e-12)
    bodies = [a.body for a in server.asked if isinstance(a.body["prompt"], list)]
    assert [4, 14, 5, 15] in [body["prompt"] for body in bodies]
    assert all(body["echo"] and body["logprobs"] == 1 for body in bodies)


def test_a_token_across_the_boundary_counts_as_the_choices(server: Server, tiny: Path):
    server.answer = scored
    model = endpoint(server, tokenizer=str(tiny))
    # "on" alone is unknown, and "one" (14) a word: it begins where the two texts part.
    assert sums_of(model, text("a on", choices=("e two",))) == pytest.approx([-2.9])


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"token_logprobs": None},
        {"token_logprobs": [-0.5]},
        {"token_logprobs": [None, -0.1, -0.2, None, -0.3]},
        {"token_logprobs": [None, -0.1, -0.2, float("nan"), -0.3]},
        {"token_logprobs": [None, -0.1, -0.2, -0.3, -0.4, -0.5]},
        {"content": [{"token": "x", "logprob": -0.5}]},
    ],
)
def test_dropped_log_probabilities_are_an_error(server: Server, tiny: Path, logprobs: Any):
    model = endpoint(server, tokenizer=str(tiny))
    server.answer = lambda asked, nth: said(asked, "x", logprobs=logprobs)
    with pytest.raises(ModelError, match="log-probabilities of 4 prompt tokens"):
        sums_of(model, chat("one", choices=("two",)))


def test_choices_need_a_tokenizer_and_a_prompt(server: Server, tiny: Path):
    with pytest.raises(ModelError, match="bench:one is answered by the log-probabilities"):
        endpoint(server).prompt(CHOICES)
    with pytest.raises(ModelError, match="Give that of m"):
        sums_of(endpoint(server), CHOICES)
    with pytest.raises(ModelError, match="has no tokens"):
        sums_of(endpoint(server, tokenizer=str(tiny)), text("", choices=("a",)))
