"""`hermes3 call`: a question that the model may call functions for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hermes3.cli import status
from hermes3.cli.call_screen import CallScreen, call_text, question
from hermes3.cli.chat import ChatOptions, asked, check_sampling, messages_of, open_llm
from hermes3.cli.failure import UsageError
from hermes3.errors import Hermes3Error, RequestError

if TYPE_CHECKING:
    from hermes3.agent import Action, Run
    from hermes3.agent.files import Found
    from hermes3.agent.servers import ServerConfig
    from hermes3.llm import LLM
    from hermes3.prompt.messages import Tool, ToolCall


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What the command line asks for.

    Attributes:
        chat: prompt, model and sampling.
        tools: files of tools.
        choice: "auto", "required", "none" or a function's name.
        yes: what writes runs without asking.
    """

    chat: ChatOptions
    tools: Sequence[Path]
    choice: str
    depth: int
    timeout_s: float
    yes: bool
    print_calls: bool
    reasoning: bool
    retry: bool
    parallel: bool
    trace: Path | None
    replay: Path | None


def run(options: CallOptions) -> None:
    """Answer, running what the model calls.

    Raises:
        UsageError: options that mean nothing together, or outside their limits.
        Hermes3Error: the model or the tools cannot be had, or the prompt cannot be honoured.
        KeyboardInterrupt: Ctrl-C.
    """
    check_sampling(options.chat.sampling)
    if not options.tools and options.replay is None:
        raise UsageError("no tools: name a file of functions with --tools, or a trace with --replay")
    prompt = options.chat.prompt
    if prompt is not None or options.replay is None:  # a replay waits for no pipe
        prompt, _ = asked(prompt)
    if prompt is None and options.replay is None:
        raise UsageError("nothing to answer: give a PROMPT, or pipe some text in")
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # what functions print is no answer
        from hermes3.agent.files import tools_in

        try:
            found = [tools_in(path) for path in options.tools]
        except RequestError as error:
            raise UsageError(str(error)) from error
        if options.replay is not None:
            _replay(options, prompt, found, out)
        else:
            _live(options, prompt or "", found, out)


def _live(options: CallOptions, prompt: str, found: Sequence[Found], out: TextIO) -> None:
    messages = messages_of(options.chat.system, prompt)
    described = [tool for each in found for tool in each.tools]
    if described and not options.print_calls and not sys.stdin.isatty():
        raise UsageError(
            f"nothing runs {described[0].name}, and no terminal is there to ask for its results; "
            "--print-calls prints the calls instead"
        )
    with ExitStack() as stack:
        actions = [action for each in found for action in each.actions]
        actions += _started([server for each in found for server in each.servers], stack)
        actions += [_by_hand(tool) for tool in described]
        _check_names(actions, options.choice)
        llm = stack.enter_context(open_llm(options.chat))
        if options.print_calls:
            _print_calls(llm, messages, [action.tool for action in actions], options, out)
            return
        from hermes3.agent import Agent

        screen = CallScreen(out)
        agent = Agent(
            llm,
            actions,
            depth=options.depth,
            timeout_s=options.timeout_s,
            ask=False if options.yes else screen.allows,
            tool_choice=_choice(options.choice),
            reasoning=options.reasoning,
            on_uncompilable="retry" if options.retry else "refuse",
            parallel_tool_calls=options.parallel,
            **options.chat.sampling,
        )
        with written(options.trace, agent.start(messages)) as events:
            screen.show(events)


def _started(configs: Sequence[ServerConfig], stack: ExitStack) -> list[Action]:
    """The tools of MCP servers, which end with the stack.

    Raises:
        UsageError: two have the same name.
        Hermes3Error: one does not start.
    """
    if not configs:
        return []
    from hermes3.agent.servers import Servers

    names = [config.name for config in configs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"the MCP server {min(twice)} is there twice in --tools")
    with status.Line() as line:
        line.show(f"starting MCP servers: {', '.join(names)}")
        return stack.enter_context(Servers(configs)).actions


def _replay(options: CallOptions, prompt: str | None, found: Sequence[Found], out: TextIO) -> None:
    """Play a trace again; what is given beside it must be what it was made with."""
    from hermes3.agent import Trace, replay

    if any(each.servers for each in found):
        raise UsageError("a replay starts no MCP servers: leave their file out of --tools")
    tools: list[Tool] = [tool for each in found for tool in (*(a.tool for a in each.actions), *each.tools)]
    trace = Trace.load(options.replay or "")
    messages = None if prompt is None else messages_of(options.chat.system, prompt)
    with written(options.trace, replay(trace, messages, tools if options.tools else None)) as events:
        CallScreen(out).show(events)


@contextmanager
def written(path: Path | None, run: Run) -> Iterator[Iterator[Any]]:
    """The events of a run, whose trace is written to a file as it grows.

    Raises:
        UsageError: the file is there already and holds something else than a trace.
        Hermes3Error: it cannot be written.
    """
    if path is None:
        try:
            yield run
        finally:
            run.close()
        return
    from hermes3.agent.trace import line_of

    def events() -> Iterator[Any]:
        n_written = 0
        while True:
            event = next(run, None)
            file.write("".join(map(line_of, run.trace.records[n_written:])))
            file.flush()
            n_written = len(run.trace.records)
            if event is None:
                return
            yield event

    if path.exists() and path.stat().st_size and not path.read_bytes()[:18] == b'{"event": "begin",':
        raise UsageError(f"{path} is there already and is no trace; it stays as it is")
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise Hermes3Error(f"the trace {path} cannot be written: {error.strerror}") from error
    with file:
        try:
            yield events()
        finally:
            run.close()


def _check_names(actions: Sequence[Action], choice: str) -> None:
    """Refuse before a model is loaded what could not be honoured anyway."""
    names = [action.tool.name for action in actions]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"{min(twice)} is there twice in --tools; names must differ")
    if choice not in ("auto", "required", "none", *names):
        raise UsageError(
            f"--tool-choice is {choice!r}; it must be auto, required, none or one of {', '.join(names)}"
        )


def _choice(name: str) -> Any:
    if name in ("auto", "required", "none"):
        return name
    return {"type": "function", "function": {"name": name}}


def _by_hand(tool: Tool) -> Action:
    """A tool without a function: the user is asked for its results."""
    from hermes3.agent import Action

    def result(**arguments: Any) -> str:
        given = question(f"result of {call_text(tool.name, arguments)}: ")
        if given is None:
            raise EOFError("the user gave no result")
        return given

    return Action(tool, result, is_attended=True)


def _print_calls(
    llm: LLM, messages: list[dict[str, str]], tools: Sequence[Tool], options: CallOptions, out: TextIO
) -> None:
    """The calls of the first answer, a line of JSON each; text beside them goes to standard error."""
    reply = llm.chat(
        messages,
        tools=tools,
        tool_choice=_choice(options.choice),
        reasoning=options.reasoning,
        on_uncompilable="retry" if options.retry else "refuse",
        parallel_tool_calls=options.parallel,
        **options.chat.sampling,
    )
    if reply.text:
        status.note(reply.text)
    for call in reply.tool_calls:
        print(_line(call), file=out, flush=True)
    if reply.finish_reason == "length":
        what = "the answer was cut at the limit of max_tokens or of the context"
        raise Hermes3Error(f"{what}; what came whole is printed")


def _line(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
