"""The command line. The top floor: nothing uses it.

    app.py        the commands; options.py what they take: nothing heavier than typer
    failure.py    errors become one line and an exit code
    status.py     what goes to standard error: notes, the bar of a download, tokens per second
    models.py     which model is meant, and where it is
    screen.py     what a terminal is sent: whole words, no control characters
    chat.py       one question, one answer; or the way into session.py
    session.py    the interactive session; commands.py its slash commands
    asking.py     the commands call and json, which are call.py and json_mode.py; call_screen.py shows a run
    data/         data check, data show, data synth
    pull.py  serve.py  compare.py  bench.py  doctor/      one command each; convert.py: convert and quantize
    roofline.py   what bench compares with

Standard output carries answers and results alone. Exit codes: 0 done, 1 an error (one line on standard
error), 2 wrong usage, 130 Ctrl-C, 141 the reader of standard output went away.
"""

from __future__ import annotations

from hermes3.cli.app import app


def main() -> None:
    """Entry point of the `hermes3` program; ends the process."""
    app(prog_name="hermes3")
