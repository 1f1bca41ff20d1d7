"""`hermes3 call`: what is run, where each part goes, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.agent.scripted import calling, results_in
from tests.cli.program import SCRIPTED, hermes3, inside, terminal, with_script

TOOLS = '''
from hermes3 import writes

def weather(city: str) -> dict:
    """The weather to come."""
    print("looking")
    return {"city": city, "sun": True}

@writes
def delete(path: str) -> str:
    """Delete a file."""
    return f"{path} is gone"
'''
OPENAI = {
    "type": "function",
    "function": {"name": "rate", "parameters": {"type": "object", "properties": {}}},
}
BERN = calling("weather", city="Bern")


@pytest.fixture
def tools(tmp_path: Path) -> str:
    (tmp_path / "tools.py").write_text(TOOLS)
    return str(tmp_path / "tools.py")


@pytest.fixture
def openai(tmp_path: Path) -> str:
    (tmp_path / "tools.json").write_text(json.dumps([OPENAI]))
    return str(tmp_path / "tools.json")


def test_calls_on_standard_error_the_answer_on_standard_output(
    tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = with_script(monkeypatch, f"I look.\n{BERN}", "Sunny.")
    done = inside("call", "--tools", tools, "-s", "Be brief.", "-t", "0", "Will it rain?")
    assert (done.returncode, done.stdout) == (0, "Sunny.\n")
    lines = done.stderr.splitlines()
    assert lines == [
        "I look.",
        '→ weather(city="Bern")',
        "looking",
        '← weather: {"city": "Bern", "sun": true}',
    ]
    assert prompts[0].startswith("system\nBe brief.\nYou are a function calling AI model.")
    assert results_in(prompts[1]) == [{"name": "weather", "content": {"city": "Bern", "sun": True}}]


def test_what_writes_needs_somebody_to_allow_it(tools: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = with_script(monkeypatch, calling("delete", path="x"), "Done.")
    done = inside("call", "--tools", tools, "Delete x.")
    assert (done.returncode, done.stdout) == (0, "Done.\n")
    assert "nobody is there to allow it (--yes runs it without asking)" in done.stderr
    assert "did not allow" in str(results_in(prompts[1]))
    prompts = with_script(monkeypatch, calling("delete", path="x"), "Done.")
    inside("call", "--tools", tools, "--yes", "Delete x.")
    assert results_in(prompts[1]) == [{"name": "delete", "content": "x is gone"}]


def test_a_trace_and_its_replay(tools: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "run.jsonl")
    with_script(monkeypatch, BERN, "Sunny.")
    first = inside("call", "--tools", tools, "--trace", path, "Will it rain?")
    assert json.loads(Path(path).read_text().splitlines()[-1])["text"] == "Sunny."
    monkeypatch.undo()
    again = inside("call", "--replay", path)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert again.stderr == first.stderr.replace("looking\n", "")  # nothing ran
    assert inside("call", "--replay", path, "--tools", tools, "Will it rain?").returncode == 0
    other = inside("call", "--replay", path, "--tools", tools, "Will it snow?")
    assert (other.returncode, other.stdout) == (1, "")
    assert "error: message 1 is not the one of the trace" in other.stderr


def test_calls_alone(openai: str, tools: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_script(monkeypatch, f"{calling('rate')}\n{BERN}")
    done = inside(
        "call", "--tools", openai, "--tools", tools, "--print-calls", "--tool-choice", "required", "x"
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"name": "rate", "arguments": {}},
        {"name": "weather", "arguments": {"city": "Bern"}},
    ]
    with_script(monkeypatch, f"{calling('rate')}\n{BERN}")
    cut = inside("call", "--tools", openai, "--tools", tools, "--print-calls", "-n", "80", "x")
    assert cut.returncode == 1
    assert "what came whole is printed" in cut.stderr
    assert json.loads(cut.stdout)["name"] == "rate"


def test_one_call_an_answer(tools: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the option its grammar is over after one."""
    given = ("call", "--tools", tools, "--print-calls", "x")
    with_script(monkeypatch, f"{BERN}\n{BERN}")
    assert len(inside(*given).stdout.splitlines()) == 2
    with_script(monkeypatch, f"{BERN}\n{BERN}")
    assert len(inside(*given, "--no-parallel").stdout.splitlines()) == 1


def test_a_schema_that_no_grammar_can_be_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "none-such", "maxLength": 3}}}
    (tmp_path / "odd.json").write_text(json.dumps([{"type": "function", "function": {
        "name": "odd", "parameters": odd}}]))  # fmt: skip
    given = ("call", "--tools", str(tmp_path / "odd.json"), "--print-calls", "x")
    with_script(monkeypatch, "x")
    refused = inside(*given)
    assert refused.returncode == 1
    assert "tools[0].function.parameters cannot be compiled" in refused.stderr
    assert "on_uncompilable='retry'" in refused.stderr
    with_script(monkeypatch, calling("odd", a="long"), calling("odd", a="ab"))
    assert json.loads(inside(*given, "--retry").stdout) == {"name": "odd", "arguments": {"a": "ab"}}


def test_the_depth_and_a_cut_are_told(tools: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_script(monkeypatch, BERN, "Enough.")
    assert (
        "the rounds of --depth were used up" in inside("call", "--tools", tools, "--depth", "1", "x").stderr
    )
    with_script(monkeypatch, "word " * 50)
    assert "cut at the limit" in inside("call", "--tools", tools, "-n", "9", "x").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "no tools: name a file of functions with --tools"),
        (["--tools", "TOOLS"], "nothing to answer"),
        (["--tools", "OPENAI", "x"], "nothing runs rate, and no terminal is there to ask for its results"),
        (
            ["--tools", "TOOLS", "--tool-choice", "rain", "x"],
            "it must be auto, required, none or one of weather, del",
        ),
        (["--tools", "TOOLS", "--tools", "TOOLS", "x"], "delete is there twice in --tools"),
        (["--tools", "TOOLS", "--depth", "0", "x"], "--depth"),
        (["--tools", "TOOLS", "--timeout", "0", "x"], "--timeout"),
        (["--tools", "TOOLS", "-t", "200", "x"], "--temperature is 200.0"),
        (
            ["--tools", "TOOLS", "--trace", "TOOLS", "x"],
            "is there already and is no trace; it stays as it is",
        ),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, tools: str, openai: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_script(monkeypatch, "x")
    done = inside("call", *({"TOOLS": tools, "OPENAI": openai}.get(word, word) for word in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert Path(tools).read_text() == TOOLS


def answers(*texts: str) -> str:
    return "\n".join(map(json.dumps, texts))


def test_on_a_terminal_it_asks(tools: str, openai: str) -> None:
    calls = "\n".join([calling("delete", path="a\x1b[2J"), calling("rate"), calling("delete", path="b")])
    script = answers(f"I look.\n{calls}", "Done, \x1b[2Jand gone.")
    given = ["call", "--tools", tools, "--tools", openai, "Tidy up."]
    with terminal(*given, program=SCRIPTED, HERMES3_TEST_ANSWERS=script) as shown:
        shown.expect(r"I look\.\n")
        shown.expect(r'delete\(path="a\\u001b\[2J"\) changes something\. Run it\? \[y\]es, \[n\]o, \[a\]ll: ')
        shown.say("n")
        shown.expect(r"← 1 delete: Error: the user did not allow this call")
        shown.expect(r'delete\(path="b"\) changes something')
        shown.say("y")
        shown.expect(r"result of rate\(\): ")
        shown.say('{"eur": 1.1}')
        shown.expect(r'← 2 rate: \{"eur": 1.1\}')
        shown.expect(r"← 3 delete: b is gone")
        shown.expect(r"Done, ␛\[2Jand gone\.\n")
        assert shown.finish() == 0


def test_ctrl_c_while_a_function_runs(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        'import time\n\ndef wait() -> None:\n    """Wait."""\n    print("in it")\n    time.sleep(60)\n'
    )
    given = ["call", "--tools", str(tmp_path / "slow.py"), "Wait."]
    with terminal(*given, program=SCRIPTED, HERMES3_TEST_ANSWERS=answers(calling("wait"))) as shown:
        shown.expect("in it")
        shown.press("\x03")
        assert shown.finish() == 130
        assert "Traceback" not in shown.text


def test_mcp_servers(tmp_path: Path, tools: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Path(__file__).parent.parent / "agent" / "mcp_server.py"
    entry = {"command": sys.executable, "args": [str(server), "stdio"]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"tests": entry}}))
    given = ["call", "--tools", str(tmp_path / "mcp.json")]
    with_script(monkeypatch, calling("where", place={"city": "Bern"}), "There.")
    done = inside(*given, "--tools", tools, "Where is Bern?")
    assert (done.returncode, done.stdout) == (0, "There.\n"), done.stderr
    assert '← where: {"city": "Bern", "country": "CH"}' in done.stderr
    (tmp_path / "bad.json").write_text(json.dumps({"mcpServers": {"x": {"command": "/no/such"}}}))
    bad = inside("call", "--tools", str(tmp_path / "bad.json"), "x")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "error: the MCP server x does not start" in bad.stderr
    assert "is there twice" in inside(*given, *given[1:], "x").stderr
    (tmp_path / "bad.json").write_text('{"mcpServers": {"x": {"command": "y", "alwaysAllow": []}}}')
    assert inside("call", "--tools", str(tmp_path / "bad.json"), "x").returncode == 2


def test_the_answer_is_wrapped_from_the_margin(tools: str) -> None:
    """After text, calls and results it begins on a line of its own."""
    script = answers(f"{'word ' * 15}\n{calling('weather', city='Bern')}", "word " * 40)
    with terminal("call", "--tools", tools, "x", program=SCRIPTED, HERMES3_TEST_ANSWERS=script) as shown:
        assert shown.finish() == 0
    lines = [line.strip() for line in shown.text.partition("← weather")[2].splitlines()[1:]]
    assert [len(line.split()) for line in lines if line] == [20, 20]


def test_thoughts_stand_on_their_own_lines(tools: str) -> None:
    script = answers("<scratch_pad>\nI \x1b[2J think.\n</scratch_pad>\nSo be it.")
    given = ["call", "--tools", tools, "--reasoning", "x"]
    with terminal(*given, program=SCRIPTED, HERMES3_TEST_ANSWERS=script) as shown:
        assert shown.finish() == 0
    assert [line for line in shown.text.splitlines() if line] == ["I ␛[2J think.", "So be it."]
    done = hermes3(*given, program=SCRIPTED, HERMES3_TEST_ANSWERS=script)
    assert (done.stdout, done.stderr) == ("So be it.\n", "I \x1b[2J think.\n")
