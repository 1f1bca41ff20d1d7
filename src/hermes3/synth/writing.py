"""One conversation: the user's requests, the assistant's answers and calls, the results of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hermes3.errors import RequestError
from hermes3.prompt.json_text import json_text
from hermes3.prompt.messages import Message, Tool, ToolCall
from hermes3.prompt.tools import to_openai
from hermes3.synth.tasks import Settings, Task, openai_tools
from hermes3.synth.teacher import RejectedError, Teacher
from hermes3.train.data.tools import CallCheck

MAX_ROUNDS = 5  # of calls for one request, as in Hermes-Function-Calling

REQUEST = """\
Write one message that a user could send to an assistant that has these functions:
{tools}

The message asks for something that needs one or several of them, and holds all values that they need. Be \
specific. This is message {number} of many: choose what the others will not. Answer with the message alone."""
FOLLOW_UP = """\
Here is a conversation between a user and an assistant:

{said}

Write what the user says next: one natural message that goes on from it. Answer with the message alone."""
RESULT = """\
You stand in for this function:
{tool}

It is called with these arguments:
{arguments}

Answer with the JSON that it returns, and nothing else."""


async def written(task: Task, teacher: Teacher, settings: Settings) -> list[Message]:
    """A whole conversation.

    Raises:
        RejectedError: it is no good.
        UnansweredError, Hermes3Error: as ``Teacher.answer``.
    """
    writing = _Writing(task, teacher, CallCheck(task.tools))
    if task.system is not None:
        writing.messages.append(Message("system", task.system))
    for turn in range(settings.turns):
        writing.messages.append(Message("user", await writing.request(turn)))
        await writing.reply()
    return writing.messages


@dataclass(slots=True)
class _Writing:
    task: Task
    teacher: Teacher
    check: CallCheck
    messages: list[Message] = field(default_factory=list)
    n_steps: int = 0
    n_calls: int = 0

    async def request(self, turn: int) -> str:
        """What the user says."""
        task = self.task
        if turn:
            asked = FOLLOW_UP.format(said=_transcript(self.messages))
        elif task.prompt is not None:
            return task.prompt
        else:
            tools = "\n".join(json_text(each, "tools") for each in openai_tools(task.tools))
            asked = REQUEST.format(tools=tools, number=task.number + 1)
        return await self._said(asked)

    async def reply(self) -> None:
        """What the assistant answers, after as many rounds of calls as it wants."""
        for _ in range(MAX_ROUNDS):
            answer = await self.teacher.answer(self.messages, self.task.tools, self._seed())
            calls = tuple(self._named(call) for call in answer.calls)
            text = answer.text.strip()
            self.messages.append(Message("assistant", text if text or not calls else None, calls))
            if not calls:
                return
            try:
                self.check(calls, "the answer")
            except RequestError as error:
                raise RejectedError(str(error)) from error
            for call in calls:
                result = await self._said(_result_of(call, self.task.tools))
                self.messages.append(Message("tool", result, tool_call_id=call.id))
        raise RejectedError(f"calls went on for {MAX_ROUNDS} rounds without an answer")

    async def _said(self, asked: str) -> str:
        """What the teacher says in another role than the assistant's."""
        answer = await self.teacher.answer([Message("user", asked)], (), self._seed())
        text = answer.text.strip()
        if not text:
            raise RejectedError("the teacher wrote an empty turn")
        return text

    def _seed(self) -> int:
        self.n_steps += 1
        return self.task.seed(self.n_steps)

    def _named(self, call: ToolCall) -> ToolCall:
        """The call with an id that is the same in every run."""
        self.n_calls += 1
        return replace(call, id=f"call_{self.n_calls}")


def _result_of(call: ToolCall, tools: Sequence[Tool]) -> str:
    tool = next(tool for tool in tools if tool.name == call.name)
    arguments = json_text(dict(call.arguments), "arguments")
    return RESULT.format(tool=json_text(to_openai(tool), "tool"), arguments=arguments)


def _transcript(messages: Sequence[Message]) -> str:
    """What user and assistant said to each other."""
    said = [message for message in messages if message.role in ("user", "assistant") and message.content]
    return "\n\n".join(f"{message.role}: {message.content}" for message in said)
