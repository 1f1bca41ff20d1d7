"""The commands `call` and `json`: what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hermes3.cli import options
from hermes3.cli.failure import exit_codes


def call(
    prompt: options.Prompt = None,
    tools: options.Tools = None,
    model: options.Model = None,
    system: options.System = None,
    tool_choice: options.ToolChoice = "auto",
    depth: options.Depth = 5,
    timeout: options.Timeout = 60.0,
    yes: options.Yes = False,
    print_calls: options.PrintCalls = False,
    reasoning: options.Reasoning = False,
    retry: options.Retry = False,
    no_parallel: options.NoParallel = False,
    trace: options.TraceFile = None,
    replay: options.ReplayFile = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    ctx: options.Ctx = None,
    threads: options.Threads = None,
    bos: options.Bos = None,
    prefix_folder: options.PrefixFolder = None,
) -> None:
    """Ask a question that the model may call functions for.

    Tools come from files: the public functions with docstrings of a Python file (or its TOOLS), OpenAI's
    tools as JSON, whose results you are asked for, or MCP servers in the usual mcpServers form. Calls cannot
    be malformed. They and their results are shown on standard error, the answer goes to standard output.
    What is marked as writing (`from hermes3 import writes`, or by an MCP server) is asked about first. A tool
    whose schema no grammar can be made of is refused; with --retry its calls are held against the schema, and
    asked for up to three times before anything runs.

    \b
    Examples:
      hermes3 call --tools my_tools.py "Will it rain in Paris?"
      hermes3 call --tools servers.json --tools my_tools.py --depth 10 "Tidy up my notes."
      hermes3 call --tools tools.json --print-calls --tool-choice required "Rain in Paris?" | jq .arguments
      hermes3 call --tools my_tools.py --trace run.jsonl "Will it rain?"
      hermes3 call --replay run.jsonl         the same again; nothing runs, no model is needed
    """
    sampling = _given(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed,
        repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, max_tokens=max_tokens, stop=stop or None,
    )  # fmt: skip
    with exit_codes():
        from hermes3.cli.call import CallOptions, run
        from hermes3.cli.chat import ChatOptions

        chat = ChatOptions(prompt, model, system, sampling, ctx, threads, bos, False, prefix_folder)
        files: list[Path] = tools or []
        asked = CallOptions(
            chat,
            tools=files,
            choice=tool_choice,
            depth=depth,
            timeout_s=timeout,
            yes=yes,
            print_calls=print_calls,
            reasoning=reasoning,
            retry=retry,
            parallel=not no_parallel,
            trace=trace,
            replay=replay,
        )
        run(asked)


def json_object(
    prompt: options.Prompt = None,
    schema: options.SchemaFile = None,
    model: options.Model = None,
    system: options.System = None,
    reasoning: options.Reasoning = False,
    retry: options.Retry = False,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    ctx: options.Ctx = None,
    threads: options.Threads = None,
    bos: options.Bos = None,
    prefix_folder: options.PrefixFolder = None,
    stats: options.Stats = False,
) -> None:
    """Answer with a JSON object that satisfies a schema, always.

    The schema is a JSON file, or a pydantic model or dataclass in a Python file; without one the answer is
    any object. Nothing else goes to standard output. An object that the limit of --max-tokens or of the
    context cut is an error, and what came of it is told on standard error. A schema that no grammar can be
    made of is refused; with --retry answers are held against it, and asked for up to three times.

    \b
    Examples:
      hermes3 json --schema person.json "Jane Doe is 43." | jq .age
      hermes3 json --schema models.py:Person "Jane Doe is 43."
      hermes3 json --schema invoice.json "What is to be paid, and when?" < invoice.txt
    """
    sampling = _given(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed,
        repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, max_tokens=max_tokens,
    )  # fmt: skip
    with exit_codes():
        from hermes3.cli.chat import ChatOptions
        from hermes3.cli.json_mode import run

        chat = ChatOptions(prompt, model, system, sampling, ctx, threads, bos, stats, prefix_folder)
        run(chat, schema, reasoning, retry)


def _given(**sampling: Any) -> dict[str, Any]:
    """What was given of it."""
    return {name: value for name, value in sampling.items() if value is not None}
