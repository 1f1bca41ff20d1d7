"""Batch files: exactly one answer a line, whatever happens in between."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from hermes3.errors import FormatError, Hermes3Error, RequestError
from hermes3.llm import LLM
from hermes3.server.app import create_app
from hermes3.server.batch import PATIENCE_S, Outcome, answer_all, application, check
from tests.cli.program import ROOT, command, hermes3
from tests.llm.fakes import fake_llm, saying

MAX = 1 << 20


def request(name: str, content: str = "Hello", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "fake", "messages": messages, "max_tokens": 8, **body}}  # fmt: skip


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def answers(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert max(Counter(line["custom_id"] for line in lines).values(), default=1) == 1
    return {line["custom_id"]: line["response"] for line in lines}


def answered(llm: LLM, source: Path, target: Path, at_once: int = 3) -> tuple[Outcome, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    app = create_app(llm, served_model_name="fake")
    names = check(source, MAX)
    work = answer_all(
        app, source, names, target, at_once=at_once, max_bytes=MAX, told=lambda n, bad: told.append((n, bad))
    )
    return asyncio.run(work), told


def test_one_answer_a_line(tmp_path: Path) -> None:
    lines = [request(f"r{i}") for i in range(7)]
    lines += [request("bad", temperature=-1), request("stream", stream=True), request("other", model="gpt")]
    lines.append({"custom_id": "text", "method": "POST", "url": "/v1/completions",
                  "body": {"model": "fake", "prompt": "a"}})  # fmt: skip
    llm, _ = fake_llm(saying("Good."))
    with llm:
        outcome, told = answered(llm, written(tmp_path / "in", lines), tmp_path / "out")
    assert outcome == Outcome(11, 0, 3)
    assert [n for n, _ in told] == list(range(12))
    found = answers(tmp_path / "out")
    assert found.keys() == {line["custom_id"] for line in lines}
    chat = ChatCompletion.model_validate(found["r3"]["body"])
    assert (found["r3"]["status_code"], chat.choices[0].message.content) == (200, "Good.")
    assert found["r3"]["request_id"] == chat.id
    assert found["text"]["body"]["choices"][0]["text"] == "Good."
    refused = {name: (found[name]["status_code"], found[name]["body"]["error"]["param"]) for name in
               ("bad", "stream", "other")}  # fmt: skip
    assert refused == {"bad": (400, "temperature"), "stream": (400, "stream"), "other": (404, "model")}


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    lines = [request(f"r{i}") for i in range(9)]
    source, target = written(tmp_path / "in", lines), tmp_path / "out"
    llm, _ = fake_llm(saying("Good."))
    with llm:
        answered(llm, written(tmp_path / "first", lines[:4]), target)
        whole = target.read_bytes()
        target.write_bytes(whole + b'{"custom_id": "r5", "resp')  # killed within a line
        outcome, told = answered(llm, source, target)
        assert (outcome, told[0]) == (Outcome(9, 4, 0), (4, 0))
        assert target.read_bytes().startswith(whole)
        assert answers(target).keys() == {line["custom_id"] for line in lines}
        before = target.read_bytes()
        assert answered(llm, source, target)[0] == Outcome(9, 9, 0)
        assert target.read_bytes() == before


def test_an_engine_that_fails_ends_the_run_and_keeps_the_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    llm, _ = fake_llm(saying("Good."))
    source, target = written(tmp_path / "in", [request(f"r{i}") for i in range(4)]), tmp_path / "out"
    with llm:
        answered(llm, written(tmp_path / "first", [request("r0")]), target)
        llm._worker._failure = Hermes3Error("out of memory")
        with pytest.raises(Hermes3Error, match="out of memory"):
            answered(llm, source, target)
    assert answers(target).keys() == {"r0"}
    gc.collect()
    assert "never retrieved" not in caplog.text  # the errors of those beside the first that failed


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        (json.dumps(request("")), "custom_id is '', it must be a text"),
        (json.dumps(request("first")), "custom_id 'first' is line 1's"),
        (json.dumps({**request("x"), "method": "GET"}), "method is 'GET', it must be 'POST'"),
        (json.dumps({**request("x"), "url": "/v1/embeddings"}), "url is '/v1/embeddings', it must be one of"),
        (json.dumps({**request("x"), "body": "hello"}), "body is 'hello', it must be an object"),
        (json.dumps({**request("x"), "metadata": {}}), "has the unknown field 'metadata'"),
    ],
)
def test_bad_lines_are_told_before_anything_is_computed(tmp_path: Path, line: str, why: str) -> None:
    source = tmp_path / "in"
    source.write_text(f"{json.dumps(request('first'))}\n\n{line}\n")
    with pytest.raises(FormatError, match="line 3: ") as error:
        check(source, MAX)
    assert why in str(error.value)


def test_lines_have_a_limit(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="line 1 is longer than 100 bytes"):
        check(written(tmp_path / "in", [request("r", "x" * 100)]), 100)
    with pytest.raises(RequestError, match="cannot be read"):
        check(tmp_path / "nothing", 100)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"custom_id": "another"}, "custom_id 'another' is not among the requests"),
        ({"custom_id": "r"}, "custom_id 'r' is answered twice"),
        (["r"], "line 2 is no answer"),
    ],
)
def test_answers_to_something_else_are_left_alone(tmp_path: Path, answer: Any, why: str) -> None:
    target = written(tmp_path / "out", [{"custom_id": "r"}, answer])
    before = target.read_bytes()
    llm, _ = fake_llm(saying("Good."))
    with llm, pytest.raises(FormatError, match=why):
        answered(llm, written(tmp_path / "in", [request("r"), request("s")]), target)
    assert target.read_bytes() == before


def test_a_batch_waits_for_a_machine_that_stands_still(tmp_path: Path) -> None:
    """One that sleeps for minutes, or is measured on: a server would have given its answers up by then."""
    llm, _ = fake_llm(saying("Good."), n_ctx=100_000)
    source, target = written(tmp_path / "in", [request(f"r{i}") for i in range(3)]), tmp_path / "out"
    with llm:
        app = application(llm, "fake", 2)
        llm._worker._moved -= PATIENCE_S / 2  # the engine brought nothing for so long
        llm._worker._is_stepping = True
        assert llm.load().stalled_s > PATIENCE_S / 3
        told = {"at_once": 2, "max_bytes": MAX, "told": lambda *_: None}
        assert asyncio.run(answer_all(app, source, check(source, MAX), target, **told)) == Outcome(3, 0, 0)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    import fcntl

    target = tmp_path / "out"
    llm, _ = fake_llm(saying("Good."))
    with llm, target.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="is being written by another run"):
            answered(llm, written(tmp_path / "in", [request("r")]), target)


def test_killed_in_the_middle(smol_gguf: Path, tmp_path: Path) -> None:
    lines = [request(f"r{i}", f"Count to {i}.", model="m", max_tokens=40, temperature=0) for i in range(12)]
    source, target = written(tmp_path / "in", lines), tmp_path / "out"
    words = ("batch", str(source), str(target), "--model", str(smol_gguf), "--ctx", "256", "--at-once", "2")
    words += ("--served-model-name", "m")
    with subprocess.Popen(command(*words), cwd=ROOT, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not target.exists() or target.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    n_before = target.read_bytes().count(b"\n")
    assert 3 <= n_before < 12
    done = hermes3(*words)
    assert done.returncode == 0, done.stderr
    assert f"12 lines answered, {n_before} of them by an earlier run" in done.stderr
    found = answers(target)
    assert found.keys() == {line["custom_id"] for line in lines}
    with LLM(smol_gguf, n_ctx=256) as llm:
        alone = llm.chat(lines[7]["body"]["messages"], temperature=0, max_tokens=40)
    assert found["r7"]["body"]["choices"][0]["message"]["content"] == alone.text


def test_the_requests_are_not_overwritten(tmp_path: Path) -> None:
    source = written(tmp_path / "in", [request("r")])
    done = hermes3("batch", str(source), str(source))
    assert (done.returncode, "name another one" in done.stderr) == (2, True)
