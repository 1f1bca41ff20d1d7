"""`hermes3 json`: an answer that is a valid object, always."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hermes3.cli import status
from hermes3.cli.chat import ChatOptions, asked, check_sampling, messages_of, open_llm
from hermes3.cli.failure import UsageError
from hermes3.cli.screen import on_screen
from hermes3.errors import FormatError, Hermes3Error


def run(options: ChatOptions, schema: str | None, reasoning: bool, retry: bool) -> None:
    """Print an object that satisfies the schema, or nothing.

    Raises:
        UsageError: nothing to answer, or a sampling option outside its limits.
        Hermes3Error: the model or the schema cannot be had; the answer was cut, or its class refuses it.
        KeyboardInterrupt: Ctrl-C.
    """
    check_sampling(options.sampling)
    prompt, _ = asked(options.prompt)
    if prompt is None:
        raise UsageError("nothing to answer: give a PROMPT, or pipe some text in")
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # what the schema's file prints is no answer
        wanted = _response_format(schema)
        with open_llm(options) as llm:
            reply = llm.chat(
                messages_of(options.system, prompt),
                response_format=wanted,
                reasoning=reasoning,
                on_uncompilable="retry" if retry else "refuse",
                **options.sampling,
            )
    if reply.reasoning:
        status.note(reply.reasoning)
    if options.show_stats:
        status.note(f"({status.stats_line(reply)})")
    if reply.finish_reason != "stop":
        raise Hermes3Error(
            f"the object was cut at the limit of max_tokens or of the context; what came: {reply.text}"
        )
    print(on_screen(out)(reply.text), file=out, flush=True)


def _response_format(schema: str | None) -> Any:
    """What the hall is asked for: any object, a schema out of a file, or a class out of a Python file."""
    from hermes3.agent.files import json_in, named

    if schema is None:
        return {"type": "json_object"}
    if schema.rpartition(":")[0].endswith(".py"):
        return named(schema)
    raw = json_in(Path(schema))
    if not isinstance(raw, Mapping):
        raise FormatError(f"{schema} holds no JSON Schema: it must be an object")
    if raw.get("type") in ("json_schema", "json_object") and "properties" not in raw:
        return raw
    return {"type": "json_schema", "json_schema": {"name": Path(schema).stem or "schema", "schema": raw}}
