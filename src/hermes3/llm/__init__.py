"""The hall: messages in, text out. Chat, server, agent and evaluation all enter by it.

hall.py      LLM; choice.py which engine it stands on
options.py   what a caller may ask
worker.py    the thread that drives the engine
request.py   one answer: ids in, deltas out; text.py its decoding and stop strings
form.py      what an answer may look like; grammar_text.py and grammars.py what holds it to that
checks.py    schemas that no grammar can be made of; retrying.py asks again where they are not satisfied
reading.py   its text taken apart: text, thoughts, calls
streams.py   what the caller holds, async_stream.py what a task holds; reply.py what they get
"""

from hermes3.llm.choice import EngineChoice, on_vllm
from hermes3.llm.hall import LLM, Conversation, Prompt
from hermes3.llm.options import Answering, ChatOptions, Sampling
from hermes3.llm.parts import Parts
from hermes3.llm.prepared import Prepared
from hermes3.llm.reply import Delta, FinishReason, Reply, Timings, TokenLogprob, ToolCallDelta, Usage
from hermes3.llm.streams import Stream

__all__ = [
    "LLM",
    "Answering",
    "ChatOptions",
    "Conversation",
    "Delta",
    "EngineChoice",
    "FinishReason",
    "Parts",
    "Prepared",
    "Prompt",
    "Reply",
    "Sampling",
    "Stream",
    "Timings",
    "TokenLogprob",
    "ToolCallDelta",
    "Usage",
    "on_vllm",
]
