"""compatcanary (npm), a scanner of servers that call themselves OpenAI-compatible: 100 of 100."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from hermes3.server.app import create_app
from tests.llm.fakes import fake_llm, saying
from tests.server.live import live

N_PROBES = 7  # of the modern profile


@pytest.mark.long
def test_all_points(compatcanary: list[str]) -> None:
    llm, _ = fake_llm(saying("CANARY_OK"), n_ctx=4000, is_obedient=True)
    environment = {name: each for name, each in os.environ.items() if not name.startswith("OPENAI_")}
    with llm, live(create_app(llm, served_model_name="house")) as address:
        asked = ["--base-url", f"{address}/v1", "--model", "house", "--profile", "modern"]
        done = subprocess.run(
            [*compatcanary, "scan", *asked, "--timeout", "200000", "--format", "json", "--fail-on", "any"],
            capture_output=True, text=True, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [each["status"] for each in report["results"]] == ["pass"] * N_PROBES, report
    assert report["score"] == 100
