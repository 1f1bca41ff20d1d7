"""/v1/explain: what a request would come to, held against what it then comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from hermes3.llm import LLM
from hermes3.server.app import create_app
from tests.llm.fakes import fake_llm, saying
from tests.server.live import live

TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_what_it_says_is_what_happens(smol_gguf: Path) -> None:
    body = {"model": "smol", "messages": [{"role": "user", "content": "word " * 80}], "max_tokens": 20}
    body |= {"tools": [TOOL], "tool_choice": "required"}
    with (
        LLM(smol_gguf, n_ctx=1024) as llm,
        live(create_app(llm, served_model_name="smol")) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        first = http.post("/v1/explain", json=body).json()
        assert (first["cached_tokens"], first["max_tokens"]) == (0, 20)
        assert first["estimated_s"] == {"waiting": 0, "prefill": None, "decode": None}
        assert first["prompt"] == http.post("/apply-template", json={
            "messages": body["messages"], "tools": [TOOL]}).json()["prompt"]  # fmt: skip
        assert "weather" in first["grammar"]["text"]
        usage = http.post("/v1/chat/completions", json=body).json()["usage"]
        assert usage["prompt_tokens"] == first["prompt_tokens"]
        again = http.post("/v1/explain", json=body).json()
        usage = http.post("/v1/chat/completions", json=body).json()["usage"]
        n_cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert 100 < again["cached_tokens"] <= n_cached < again["cached_tokens"] + 32, "forced ids"
        assert 0 < again["estimated_s"]["decode"] < 60
        assert 0 < again["estimated_s"]["prefill"] < 60


def test_why_not_is_said() -> None:
    llm, engine = fake_llm(saying("Yes."))
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "king"}}}
    body = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
    with llm, live(create_app(llm)) as address:
        refused = httpx.post(f"{address}/v1/explain", json={**body, "response_format": bad})
        assert (refused.status_code, engine.n_steps) == (400, 0)
        assert "king" in refused.json()["error"]["message"]
        assert httpx.post(f"{address}/v1/explain", json=body).json()["grammar"] is None
