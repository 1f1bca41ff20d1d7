"""schemathesis over /openapi.json with all of its checks: what is documented is what happens.

It runs as its own program, as anybody would run it. That every request which the document allows is taken
cannot hold: which fields exclude each other, or what a grammar compiles to, is no JSON Schema; so 400 counts
as an answer to such a request. HERMES3_SCHEMATHESIS is the long test's number of examples for each
operation.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hermes3.server.app import create_app
from hermes3.server.deadlines import timed
from hermes3.server.limits import Limits
from hermes3.server.openapi import document
from tests.llm.fakes import fake_llm
from tests.server.live import live

HANG_S = 240.0  # a busy machine may stand still for a minute
LIMITS = Limits(max_requests=1024, stall_s=HANG_S, watchdog_s=HANG_S)
HTTP = timed(head_s=HANG_S, body_s=LIMITS.body_s, send_s=HANG_S)  # as `serve` has it
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "404"]
"""


def run(folder: Path, n_examples: int, phases: str) -> int:
    """How many cases were tried; all of them passed."""
    (folder / "config.toml").write_text(CONFIG)
    given = document(asks_for_keys=True)
    for schema in given["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):  # or nearly all is refused for the name
            names = ["fake"] if "model" in schema.get("required", ()) else ["fake", None]
            schema["properties"]["model"] = {"enum": names}
    (folder / "openapi.json").write_text(json.dumps(given))
    llm, _ = fake_llm(n_ctx=1000, is_obedient=True)
    with llm, live(create_app(llm, api_keys=["k"], limits=LIMITS), http=HTTP, ws="none") as address:
        options = ["--url", address, "-H", "Authorization: Bearer k", "--max-examples", str(n_examples)]
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "config.toml", "run",
                   "openapi.json", *options, "--phases", phases, "--no-color", "--seed", "1",
                   "--continue-on-failure", "--request-timeout", str(HANG_S)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None, done.stdout[-2000:]
    print(found[0])
    return int(found[1])


def test_what_is_documented_is_what_happens(tmp_path: Path) -> None:
    assert run(tmp_path, 4, "fuzzing") >= 60


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_cases(tmp_path: Path) -> None:
    n_examples = int(os.environ.get("HERMES3_SCHEMATHESIS", 500))
    assert run(tmp_path, n_examples, "examples,coverage,fuzzing,stateful") >= 10 * n_examples
