"""The agent: ask the model, run what it calls, tell it the results, until it answers.

loop.py       Agent, and the rounds of one run
events.py     what happens in a run, as it happens
action.py     a tool and what runs it; arguments.py its arguments, checked and in their own types
running.py    calls side by side, each within its time; results.py what comes of them, as text
trace.py      a run written down; recorded.py plays it again without running anything
files.py      tools out of files; servers.py tools of MCP servers
"""

from hermes3.agent.action import Action, ToolError, writes
from hermes3.agent.events import Answer, Calling, Event, Outcome, Result, Said
from hermes3.agent.loop import Agent, Run, replay
from hermes3.agent.trace import Trace

__all__ = [
    "Action",
    "Agent",
    "Answer",
    "Calling",
    "Event",
    "Outcome",
    "Result",
    "Run",
    "Said",
    "ToolError",
    "Trace",
    "replay",
    "writes",
]
