"""Whole runs with an endpoint whose answers are known."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hermes3.train.data.conversation import Conversation
from hermes3.train.data.files import DataFile, Sample
from tests.cli.program import ROOT, inside
from tests.synth.endpoint import Request, called, endpoint

INTEGER = {"type": "integer"}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": INTEGER, "b": INTEGER}, "required": ["a", "b"],
}}}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def words(request: Request) -> str:
    """Twelve words that depend on all that was asked."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return " ".join(digest[i : i + 5] for i in range(0, 60, 5))


def answers(request: Request) -> dict[str, Any] | int:
    """An answer by what the last message says."""
    asked = request["messages"][-1]["content"]
    special: dict[str, dict[str, Any] | int] = {
        "refuse": {"content": "I'm sorry, but I can't assist with that."},
        "empty": {"content": "  "},
        "long": {"content": "and so on", "finish_reason": "length"},
        "bad": 400,
        "same": {"content": "one answer for all who ask the same in this way, whatever they want"},
    }
    return special.get(asked.split()[0], {"content": words(request)})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def seeds(path: Path, *prompts: str) -> str:
    path.write_text("\n".join(prompts) + "\n")
    return str(path)


def synth(out: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return inside("data", "synth", str(out), "--base-url", url, "--model", "teacher", *arguments)


def test_prompts_become_rows_and_the_others_are_named(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    prompts = ("tell me a", "refuse", "empty", "long", "bad", "same", "same", "tell me b")
    file = seeds(tmp_path / "s.txt", *prompts)
    with endpoint(answers) as server:
        done = synth(out, server.url, "--seeds", file)
    assert done.returncode == 0, done.stderr
    rows = lines(out)
    assert [row["messages"][0]["content"] for row in rows] == ["tell me a", "same", "tell me b"]
    provenance = rows[0]["provenance"]
    assert (provenance["teacher"], provenance["source"], provenance["number"]) == ("teacher", "s.txt:1", 0)
    reasons = [row["reason"] for row in lines(tmp_path / "new.dropped.jsonl")]
    for reason, said in zip(reasons, ("refusal", "empty", "cut at 1024 tokens", "refuses it"), strict=True):
        assert said in reason
    assert "3 conversations" in done.stderr
    assert "4 dropped, each with its reason" in done.stderr
    assert server.requests[0]["seed"] != server.requests[1]["seed"]
    assert all(isinstance(item, Sample) for item in DataFile(out))


def test_near_repetitions_are_dropped(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    text = "a long answer of many words that stays the same but for one thing at its very end, which is "

    def alike(request: Request) -> dict[str, Any]:
        return {"content": text + words(request).split()[0]}

    with endpoint(alike) as server:
        synth(out, server.url, "--seeds", seeds(tmp_path / "s.txt", "tell"), "-n", "5")
    (row,) = lines(out)
    dropped = [each["reason"] for each in lines(tmp_path / "new.dropped.jsonl")]
    assert len(dropped) == 4
    assert all(reason.startswith(f"resembles {row['provenance']['id']} (0.") for reason in dropped)


def tools_script(request: Request) -> dict[str, Any]:
    """Writes requests, calls add, stands in for it, answers; some of its calls are wrong."""
    last = request["messages"][-1]
    if "tools" in request:
        number = int(request["messages"][0]["content"].split()[1])
        wrong = [called("add", a="one", b=2), called("sub", a=1, b=2), called("add", a=number)]
        if last["role"] == "user":
            return wrong[number - 1] if number <= len(wrong) else called("add", a=number, b=number)
        return {"content": f"The sum is {last['content']}. {words(request)}"}
    if last["content"].startswith("Write one message"):
        number = last["content"].split("This is message ")[1].split()[0]
        return {"content": f"Add {number} and {number}. {words(request)}"}
    if last["content"].startswith("You stand in"):
        arguments = json.loads(last["content"].split("arguments:\n")[1].split("\n")[0])
        return {"content": str(arguments["a"] + arguments["b"])}
    return {"content": f"And {words(request).split()[0]} more?"}


def test_calls_are_valid_and_answered(tmp_path: Path) -> None:
    out, tools = tmp_path / "calls.jsonl", tmp_path / "tools.json"
    tools.write_text(json.dumps([ADD]))
    with endpoint(tools_script) as server:
        done = synth(out, server.url, "--tools", str(tools), "-n", "6")
    assert done.returncode == 0, done.stderr
    samples = [item.value for item in DataFile(out) if isinstance(item, Sample)]
    assert len(samples) == 3
    for number, sample in enumerate(samples, 4):
        assert isinstance(sample, Conversation)
        assert [message.role for message in sample.messages] == ["user", "assistant", "tool", "assistant"]
        assert sample.messages[1].tool_calls[0].arguments == {"a": number, "b": number}
        assert sample.messages[2].content == str(2 * number)
    reasons = [row["reason"] for row in lines(tmp_path / "calls.dropped.jsonl")]
    assert ["'one' is not of type 'integer'" in reasons[0], "'sub', which is not among" in reasons[1],
            "'b' is a required property" in reasons[2]] == [True] * 3  # fmt: skip


def test_several_turns(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    with endpoint(answers) as server:
        synth(out, server.url, "--seeds", seeds(tmp_path / "s.txt", "tell me a"), "--turns", "3")
    (row,) = lines(out)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 3
    follow_up = server.requests[1]["messages"][0]["content"]
    assert "user: tell me a" in follow_up
    assert f"assistant: {row['messages'][1]['content']}" in follow_up


def test_busy_endpoints_are_asked_again_and_no_more_at_once_than_said(tmp_path: Path) -> None:
    n_refused = 0

    def busy(request: Request) -> dict[str, Any] | int:
        nonlocal n_refused
        time.sleep(0.01)
        if n_refused < 6:
            n_refused += 1
            return 429 if n_refused % 2 else 500
        return answers(request)

    out, file = tmp_path / "new.jsonl", seeds(tmp_path / "s.txt", *(f"tell {i}" for i in range(20)))
    with endpoint(busy) as server:
        done = synth(out, server.url, "--seeds", file, "--concurrency", "3", "--retries", "8")
    assert done.returncode == 0, done.stderr
    assert len(lines(out)) == 20
    assert server.most <= 3
    assert len(server.requests) == 26


def test_an_endpoint_that_is_down_ends_the_run_and_the_next_goes_on(tmp_path: Path) -> None:
    is_down = False

    def sometimes(request: Request) -> dict[str, Any] | int:
        return 503 if is_down and request["messages"][0]["content"] != "tell 0" else answers(request)

    out, file = tmp_path / "new.jsonl", seeds(tmp_path / "s.txt", *(f"tell {i}" for i in range(30)))
    with endpoint(sometimes) as server:
        is_down = True
        done = synth(out, server.url, "--seeds", file, "--retries", "0")
        assert done.returncode == 1
        assert "10 in a row got no answer" in done.stderr
        assert [row["messages"][0]["content"] for row in lines(out)] == ["tell 0"]
        is_down = False
        done = synth(out, server.url, "--seeds", file)
    assert done.returncode == 0
    assert "30 conversations, 1 of them by an earlier run" in done.stderr
    assert [row["messages"][0]["content"] for row in lines(out)] == [f"tell {i}" for i in range(30)]


def test_a_wrong_key_ends_the_run_at_once(tmp_path: Path) -> None:
    with endpoint(lambda request: 401) as server:
        done = synth(tmp_path / "o.jsonl", server.url, "--seeds", seeds(tmp_path / "s.txt", *"abcdefghijklm"))
    assert done.returncode == 1
    assert "will not answer" in done.stderr
    assert "check --base-url, --model and the key" in done.stderr
    assert len(server.requests) <= 8  # those begun before the first refusal came


def slow(request: Request) -> dict[str, Any] | int:
    time.sleep(0.02 + int(words(request)[:2], 16) / 4000)  # later ones overtake earlier ones
    return answers(request)


def killed_after(command: list[str], out: Path, n_bytes: int) -> bool:
    """Run until the file has grown by so much, then kill; whether it came to that."""
    code = "from hermes3.cli import main; main()"
    before = out.stat().st_size if out.exists() else 0
    process = subprocess.Popen([sys.executable, "-c", code, *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if out.exists() and out.stat().st_size > before + n_bytes:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("n_kills", [1, pytest.param(4, marks=pytest.mark.long)])
def test_killed_and_resumed_is_the_same_set(tmp_path: Path, n_kills: int) -> None:
    prompts = [f"{'same' if i % 5 == 0 else 'refuse' if i % 7 == 0 else 'tell'} {i}" for i in range(30)]
    options = ["--seeds", seeds(tmp_path / "s.txt", *prompts), "-n", "3", "--concurrency", "4"]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    with endpoint(slow) as server:
        assert synth(whole, server.url, *options).returncode == 0
        command = ["data", "synth", str(killed), "--base-url", server.url, "--model", "teacher", *options]
        for _ in range(n_kills):
            assert killed_after(command, killed, whole.stat().st_size // 6)
            with killed.open("ab") as file:
                file.write(b'{"messages": [{"role": "us')  # as if killed in the middle of a line
        done = synth(killed, server.url, *options)
    assert done.returncode == 0
    assert "by an earlier run" in done.stderr
    assert killed.read_bytes() == whole.read_bytes()
    dropped = [path.with_name(f"{path.stem}.dropped.jsonl").read_bytes() for path in (whole, killed)]
    assert dropped[0] == dropped[1]
    ids = [row["provenance"]["id"] for row in lines(killed)]
    assert len(ids) == len(set(ids)) > 40


def test_files_of_other_runs_are_not_touched(tmp_path: Path) -> None:
    out, file = tmp_path / "new.jsonl", seeds(tmp_path / "s.txt", "tell")
    with endpoint(answers) as server:
        assert synth(out, server.url, "--seeds", file).returncode == 0
        before = out.read_bytes()
        done = synth(out, server.url, "--seeds", file, "--temperature", "0.1")
        assert (done.returncode, "1 rows of other prompts, tools, teacher" in done.stderr) == (1, True)
        out.write_text('{"messages": []}\n')
        done = synth(out, server.url, "--seeds", file)
        assert (done.returncode, "holds rows without provenance" in done.stderr) == (1, True)
        out.write_bytes(before)
        done = synth(out, server.url, "--seeds", file, "-n", "2")
    assert done.returncode == 0
    assert out.read_bytes().startswith(before)
    assert len(lines(out)) == 2


ENDPOINT = ["--seeds", "s.txt", "--base-url", "http://x/v1"]
WRONG = [
    ([], "nothing to write from: give --seeds FILE"),
    (["--seeds", "s.txt", "--retries", "3"], "--retries is for endpoints"),
    (ENDPOINT, "--base-url needs --model"),
    ([*ENDPOINT, "--model", "m", "--threads", "1"], "for our own engine"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=range(len(WRONG)))
def test_options_that_do_not_go_together(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = inside("data", "synth", str(tmp_path / "o.jsonl"), *arguments)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


BAD_SEEDS = [
    ("s.jsonl", '{"question": "Q"}', "s.jsonl:1: a seed has a prompt"),
    ("s.jsonl", '{"prompt": "Q", "tools": [{"name": 7}]}', "s.jsonl:1: tools"),
    ("s.jsonl", "[1]", "is a number; a row is an object"),
    ("s.txt", "", "there are no seed prompts"),
    ("t.jsonl", '{"tools": []}', "the set of tools is empty"),
]


@pytest.mark.parametrize(("name", "text", "said"), BAD_SEEDS, ids=range(len(BAD_SEEDS)))
def test_bad_seeds_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    option = "--tools" if name.startswith("t") else "--seeds"
    done = synth(tmp_path / "o.jsonl", "http://127.0.0.1:9/v1", option, str(tmp_path / name))
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="flock")
def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    import fcntl

    out, file = tmp_path / "new.jsonl", seeds(tmp_path / "s.txt", "tell")
    handle = os.open(out, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with endpoint(answers) as server:
        done = synth(out, server.url, "--seeds", file)
    os.close(handle)
    assert (done.returncode, "is being written by another process" in done.stderr) == (1, True)
