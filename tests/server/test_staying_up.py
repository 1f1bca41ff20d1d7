"""Bounds, progress, cancelling and draining: what lets a server run without anybody looking."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hermes3 import LLM
from hermes3.errors import Hermes3Error
from hermes3.server.app import create_app
from hermes3.server.limits import Limits
from tests.llm.fakes import FakeEngine, fake_llm, saying
from tests.server.live import live

TEXT = {"model": "fake", "prompt": "hi"}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
PATHS = (
    ("/v1/completions", TEXT, "max_tokens"),
    ("/v1/chat/completions", CHAT, "max_tokens"),
    ("/v1/responses", {"model": "fake", "input": "hi"}, "max_output_tokens"),
    ("/v1/messages", CHAT, "max_tokens"),
)
SPENT = {
    *("queue_s", "prefill_s", "prefill_tokens_per_s", "decode_s", "decode_tokens_per_s"),
    *("mask_s", "mask_wait_s", "cached_tokens", "forced_tokens", "drafted_tokens", "accepted_tokens"),
}


@contextmanager
def serving(script=None, limits: Limits | None = None, **engine) -> Iterator[tuple[httpx.Client, FakeEngine]]:
    llm, fake = fake_llm(script or saying("x" * 500), **engine)
    with (
        llm,
        live(create_app(llm, limits=limits)) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client, fake


def wait_for(what: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextmanager
def in_background(client: httpx.Client, n: int, **more) -> Iterator[list[httpx.Response]]:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(client.post("/v1/completions", json={**TEXT, "max_tokens": 400, **more}))

    threads = [threading.Thread(target=ask) for _ in range(n)]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join()


def test_a_full_queue_says_when_to_come_back() -> None:
    with serving(limits=Limits(max_requests=3)) as (client, engine):
        engine.go.clear()
        with in_background(client, 3) as answers:
            wait_for(lambda: len(engine.running) == 3)
            refused = client.post("/v1/completions", json=TEXT)
            engine.go.set()
        assert [answer.status_code for answer in answers] == [200] * 3
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["code"], "3 answers are in work" in error["message"]) == ("overloaded", True)
        # one of three answers of 402 tokens must end, at a rate of 20 per second until it is measured
        assert 10 <= int(refused.headers["retry-after"]) <= 600
        assert client.post("/v1/completions", json=TEXT).status_code == 200


def test_the_queue_is_bounded_by_tokens() -> None:
    with serving(limits=Limits(max_queued_tokens=500)) as (client, engine):
        engine.go.clear()
        with in_background(client, 1):
            wait_for(lambda: len(engine.running) == 1)
            large = client.post("/v1/completions", json={**TEXT, "max_tokens": 200})
            assert large.status_code == 429
            assert int(large.headers["retry-after"]) >= 5  # 104 tokens too many
            engine.go.set()
        never = client.post("/v1/completions", json={**TEXT, "max_tokens": 600})
        assert (never.status_code, never.json()["error"]["code"]) == (400, "request_too_large")


def test_headers_are_bounded() -> None:
    with serving(limits=Limits(max_headers=20, max_header_bytes=4000)) as (client, _):
        for headers in ({f"x-{i}": "1" for i in range(30)}, {"x-long": "y" * 5000}):
            answer = client.get("/health", headers=headers)
            assert answer.status_code == 431
            assert "the server takes 20 of 4000" in answer.json()["error"]["message"]
        assert client.get("/health").status_code == 200


def test_a_chat_answer_has_an_end_by_default() -> None:
    seen = []
    with serving(
        lambda ids, params: seen.append(params.max_tokens) or [97] * 400, Limits(max_tokens_default=30)
    ) as (client, _):
        answer = client.post("/v1/chat/completions", json=CHAT).json()
        assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (30, "length")
        long = [{"role": "user", "content": "x" * 965}]
        client.post("/v1/chat/completions", json={**CHAT, "messages": long})
    assert seen[0] == 30
    assert seen[1] < 30  # the room that the context leaves


def test_ready_is_about_progress_and_a_wedged_step_is_ended() -> None:
    limits = Limits(stall_s=0.3, watchdog_s=0.9)
    with serving(limits=limits) as (client, engine):
        assert client.get("/ready").status_code == 200
        engine.go.clear()  # the step does not return
        with in_background(client, 1) as answers:
            wait_for(lambda: client.get("/ready").status_code == 503, 2)
            assert "brought nothing" in client.get("/ready").json()["reason"]
            assert client.get("/health").status_code == 200  # slow, and not yet given up
            late = client.post("/v1/completions", json=TEXT)
            assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert answers[0].status_code == 503
        assert "given up" in answers[0].json()["error"]["message"]
        assert client.get("/health").status_code == 503
        engine.go.set()  # it returned after all
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert client.post("/v1/completions", json=TEXT).status_code == 200


def test_ready_stays_green_while_tokens_come() -> None:
    with serving(limits=Limits(stall_s=0.2), step_s=0.01) as (client, engine):
        with in_background(client, 1) as answers:
            wait_for(lambda: bool(engine.running))
            while not answers:
                assert client.get("/ready").status_code == 200
        assert engine.n_steps * 0.01 > 0.4


def test_a_silent_stream_is_kept_open_with_progress() -> None:
    with serving(limits=Limits(ping_s=0.05)) as (client, engine):
        engine.go.clear()
        with client.stream("POST", "/v1/completions", json={**TEXT, "stream": True}) as answer:
            lines = answer.iter_lines()
            comments = (line for line in lines if line.startswith(":"))
            (own,), seen = engine.running, []
            for started, n_computed in ((None, 0), (1.0, 1), (1.0, 2)):
                own.started, own.n_computed = started, n_computed
                next(comments)  # the one that was under way
                seen.append(next(comments))
            engine.go.set()
            assert [line for line in lines if line.startswith("data:")][-1] == "data: [DONE]"
    assert seen == [
        ": in the queue behind 0; the prompt has 2 tokens",
        ": 1 of 2 tokens of the prompt are read",
        ": 0 tokens are written",
    ]


def test_timings_are_on_every_path() -> None:
    with serving(step_s=0.002) as (client, _):
        for path, body, most in PATHS:
            whole = client.post(path, json={**body, most: 20}).json()
            stream = client.post(path, json={**body, most: 20, "stream": True}).text
            events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
            told = [event.get("response", event) for event in events]
            (streamed,) = [body["timings"] for body in told if "timings" in body]
            for timings in (whole["timings"], streamed):
                assert set(timings) == SPENT
                assert timings["prefill_s"] > 0.001
                assert 0 <= timings["queue_s"] < timings["prefill_s"]
                assert 19 * 0.002 < timings["decode_s"] < 5
                assert timings["cached_tokens"] == 0


def test_metrics() -> None:
    with serving() as (client, engine):
        engine.go.clear()
        with in_background(client, 2):
            wait_for(lambda: len(engine.running) == 2)
            running = samples(client)
            engine.go.set()
        client.post("/v1/completions", json={**TEXT, "colour": "red"})
        done = samples(client)
    assert running["vllm:num_requests_running"] == 2
    assert (done["vllm:num_requests_running"], done["vllm:kv_cache_usage_perc"]) == (0, 0)
    assert (done["vllm:prompt_tokens_total"], done["vllm:generation_tokens_total"]) == (4, 800)
    assert done["vllm:request_success_total/length"] == 2
    assert done["vllm:request_generation_tokens_bucket/256"] == 0
    assert done["vllm:request_generation_tokens_bucket/1024"] == 2
    assert done["vllm:time_to_first_token_seconds_count"] == 2
    assert done["hermes3:requests_refused_total/400"] == 1


def samples(client: httpx.Client) -> dict[str, float]:
    """By name, with the label that tells samples of a family apart; read by Prometheus' own parser."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        assert sample.labels.pop("model_name") == "fake"
        rest = [value.removesuffix(".0") for value in sample.labels.values()]
        found["/".join([sample.name, *rest])] = sample.value
    return found


def test_metrics_need_the_key_and_the_probes_do_not() -> None:
    llm, _ = fake_llm()
    with llm, live(create_app(llm, api_keys=["k"])) as address:
        found = {path: httpx.get(address + path).status_code for path in ("/health", "/ready", "/metrics")}
    assert found == {"/health": 200, "/ready": 200, "/metrics": 401}


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_pages(smol_gguf: Path, stream: bool) -> None:
    """Counted at the engine: the step after the cancel has none of the answer's pages any more."""
    with LLM(smol_gguf, n_ctx=2048) as llm, live(create_app(llm, served_model_name="smol")) as address:
        full = llm.load().n_free_kv_tokens
        body = {"model": "smol", "prompt": "word " * 400, "max_tokens": 1500, "ignore_eos": True}
        raw = json.dumps({**body, "stream": stream}).encode()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n"
            client.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + raw)
            wait_for(lambda: llm.load().n_generated > 2, 30)
            assert llm.load().n_free_kv_tokens < full - 400
        left_at = time.monotonic()
        wait_for(lambda: llm.load().n_running == 0)
        assert time.monotonic() - left_at < 2.0
        n_generated = llm.load().n_generated
        assert n_generated < 1500
        assert llm.load().n_free_kv_tokens == full
        time.sleep(0.2)
        assert llm.load().n_generated == n_generated  # nothing runs on unseen


def test_limits_from_settings() -> None:
    limits = Limits.of(["drain_s=2.5", "max_requests=3", "max_requests=4"])
    assert limits == Limits(drain_s=2.5, max_requests=4)


@pytest.mark.parametrize(
    "setting", ["colour=1", "drain_s", "drain_s=0", "drain_s=nan", "drain_s=inf", "max_requests=1.5"]
)
def test_bad_limits_are_named(setting: str) -> None:
    with pytest.raises(Hermes3Error, match=setting.partition("=")[0]):
        Limits.of([setting])
