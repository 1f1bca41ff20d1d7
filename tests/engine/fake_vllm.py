"""What the adapter imports of vLLM, as a script plays it: same names, same signatures, no processes.

``test_vllm_real.py`` holds the signatures against vLLM's own where that is installed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

HANG, FAIL, REFUSE, DIE, VANISH = "hang", "fail", "refuse", "die", "vanish"  # in a script, instead of an id
Script = Callable[[list[int], Any], list[Any]]


class VLLMClientError(Exception):
    """As ``vllm.exceptions`` has it."""

    parameter = "temperature"


class RequestOutputKind(Enum):
    CUMULATIVE, DELTA, FINAL_ONLY = range(3)


@dataclass
class StructuredOutputsParams:
    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


@dataclass(kw_only=True)
class SamplingParams:
    """Those of vLLM's fields that the adapter may use; another one is a TypeError."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None


class AsyncEngineArgs:
    def __init__(self, **given: Any) -> None:
        self.given = given


@dataclass
class Logprob:
    logprob: float
    rank: int


@dataclass
class AsyncLLM:
    """Says what its script says, an id an output, or several where the script has a list."""

    script: Script
    arguments: AsyncEngineArgs | None = None
    listeners: list[Any] = field(default_factory=list)
    asked: list[tuple[list[int], SamplingParams, str]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    running: int = 0
    errored: bool = False
    is_shut: bool = False
    n_ctx: int = 500
    n_vocab: int = 258
    n_cached: int = 3

    @property
    def vllm_config(self) -> Any:
        return SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=self.n_ctx, get_vocab_size=lambda: self.n_vocab),
            cache_config=SimpleNamespace(num_gpu_blocks=100, block_size=16),
        )

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str
    ) -> AsyncIterator[Any]:
        self.asked.append((prompt["prompt_token_ids"], sampling_params, request_id))
        self.running += 1
        try:
            async for output in self._outputs(prompt["prompt_token_ids"], sampling_params):
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        finally:
            self.running -= 1

    async def _outputs(self, ids: list[int], params: SamplingParams) -> AsyncIterator[Any]:
        n = 0
        for step in self.script(ids, params):
            await asyncio.sleep(0)
            if step == HANG:
                await asyncio.sleep(3600)
            elif step == FAIL:
                raise RuntimeError("a tensor is amiss")
            elif step == REFUSE:
                raise VLLMClientError("too hot")
            elif step == DIE:
                self.errored = True
                raise RuntimeError("EngineCore encountered an issue")
            elif step == VANISH:
                return
            new = step if isinstance(step, list) else [step]
            n += len(new)
            reason = self._reason(new[-1], n, params)
            self._tell(len(new), is_over=reason is not None)
            yield self._output(new, reason, params)
            if reason is not None:
                return
        yield self._output([], "abort", params)

    def _reason(self, token: int, n: int, params: SamplingParams) -> str | None:
        if token in (params.stop_token_ids or ()):
            return "stop"
        return "length" if n == params.max_tokens else None

    def _output(self, ids: list[int], reason: str | None, params: SamplingParams) -> Any:
        logprobs = None
        if params.logprobs is not None:
            logprobs = [{i: Logprob(-0.5, 2), 7: Logprob(-0.25, 1), 8: Logprob(-3.0, 3)} for i in ids]
        one = SimpleNamespace(index=0, token_ids=ids, logprobs=logprobs, finish_reason=reason)
        stats = SimpleNamespace(queued_ts=5.0, scheduled_ts=5.25)
        return SimpleNamespace(outputs=[one], num_cached_tokens=self.n_cached, metrics=stats)

    def _tell(self, n_new: int, *, is_over: bool) -> None:
        scheduler = SimpleNamespace(num_running_reqs=1, num_waiting_reqs=0, kv_cache_usage=0.25)
        prompt = SimpleNamespace(computed=0)
        iteration = SimpleNamespace(num_generation_tokens=n_new, prompt_token_stats=prompt)
        for listener in self.listeners:
            listener.record(scheduler, iteration, mm_cache_stats=None, engine_idx=0)

    def shutdown(self, timeout: float | None = None) -> None:
        self.is_shut = True


def install(monkeypatch: pytest.MonkeyPatch, script: Script, **given: Any) -> AsyncLLM:
    """Put it where vLLM would be; what is returned is the engine that will be made."""
    made = AsyncLLM(script, **given)

    def from_engine_args(arguments: AsyncEngineArgs, stat_loggers: list[Any]) -> AsyncLLM:
        if "unheard_of" in str(arguments.given["model"]):
            raise ValueError("no such architecture")
        made.arguments = arguments
        made.listeners = [make(made.vllm_config, 0) for make in stat_loggers]
        for listener in made.listeners:
            listener.log_engine_initialized()
        return made

    modules = {
        "vllm": {},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": AsyncEngineArgs},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": SimpleNamespace(from_engine_args=from_engine_args)},
        "vllm.exceptions": {"VLLMClientError": VLLMClientError},
        "vllm.sampling_params": {
            "RequestOutputKind": RequestOutputKind,
            "SamplingParams": SamplingParams,
            "StructuredOutputsParams": StructuredOutputsParams,
        },
    }
    for name, names in modules.items():
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]  # find_spec looks at it
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    return made
