"""The script that plays vLLM's part in ``test_vllm.py``, held against vLLM itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import pytest

from hermes3.engine.grammar import GrammarVocabulary
from hermes3.engine.sampling import MAX_LOGPROBS, SamplingParams
from hermes3.engine.vllm.asked import grammar_arguments, sampling_arguments
from hermes3.engine.vllm.options import VllmOptions
from hermes3.engine.vllm.tether import Tether
from tests.engine import fake_vllm

pytestmark = pytest.mark.usefixtures("vllm_installed")


def of_vllm(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"vllm.{module}"), name)


def parameters(call: Any) -> set[str]:
    return set(inspect.signature(call).parameters)


def test_the_script_has_vllms_signatures() -> None:
    real = of_vllm("v1.engine.async_llm", "AsyncLLM")
    for name in ("generate", "shutdown"):
        assert parameters(getattr(fake_vllm.AsyncLLM, name)) <= parameters(getattr(real, name))
    assert {"engine_args", "stat_loggers"} <= parameters(real.from_engine_args)
    assert isinstance(real.errored, property)
    base = of_vllm("v1.metrics.loggers", "StatLoggerBase")
    told = {"self", "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx"}
    assert parameters(base.record) == told
    names = {field.name for field in dataclasses.fields(of_vllm("v1.metrics.stats", "SchedulerStats"))}
    assert {"num_running_reqs", "num_waiting_reqs", "kv_cache_usage"} <= names
    assert {"queued_ts", "scheduled_ts"} <= {
        field.name for field in dataclasses.fields(of_vllm("v1.metrics.stats", "RequestStateStats"))
    }
    assert {"metrics", "num_cached_tokens", "outputs"} <= parameters(of_vllm("outputs", "RequestOutput"))
    iteration = of_vllm("v1.metrics.stats", "IterationStats")()
    assert (iteration.num_generation_tokens, iteration.prompt_token_stats.computed) == (0, 0)
    assert issubclass(of_vllm("exceptions", "VLLMValidationError"), of_vllm("exceptions", "VLLMClientError"))


def test_every_parameter_is_vllms() -> None:
    params = SamplingParams(
        temperature=0.5, top_k=4, top_p=0.9, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.3,
        frequency_penalty=-0.4, logit_bias={5: -100.0}, seed=-1, ignore_eos=True, logprobs=3, max_tokens=9,
        stop_ids=frozenset({2}),
    )  # fmt: skip
    given = sampling_arguments(params, None, 100)
    made = of_vllm("sampling_params", "SamplingParams")(**given)
    assert {name: getattr(made, name) for name in given} == given, "vLLM changes what it is told"
    fields = {field.name for field in dataclasses.fields(fake_vllm.SamplingParams)}
    assert fields <= set(made.__struct_fields__)
    assert fields == set(given) | {"detokenize", "output_kind", "structured_outputs"}


def test_greedy_stays_greedy() -> None:
    given = sampling_arguments(SamplingParams(temperature=0, max_tokens=1), None, 100)
    assert of_vllm("sampling_params", "SamplingParams")(**given).sampling_type.name == "GREEDY"


def test_options_are_vllms() -> None:
    options = VllmOptions(
        max_model_len=64, max_num_seqs=2, tensor_parallel_size=2, pipeline_parallel_size=3,
        distributed_executor_backend="ray", dtype="float32", gpu_memory_utilization=0.5, enforce_eager=True,
    )  # fmt: skip
    arguments = of_vllm("engine.arg_utils", "AsyncEngineArgs")(
        model="m", structured_outputs_config={"backend": "guidance"}, max_logprobs=MAX_LOGPROBS,
        logprobs_mode="raw_logprobs", disable_log_stats=True, additional_config={"hermes3": Tether()},
        **options.arguments(),
    )  # fmt: skip
    assert {name: getattr(arguments, name) for name in options.arguments()} == options.arguments()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("lark", 'start: "a" | %json {"type": "integer", "x-guidance": {"whitespace_pattern": " ?"}}'),
        ("lark", 'start[capture]: "a ::= b"'),
        ("regex", "[a-f]{3}"),
        ("json_schema", '{"type": "object", "properties": {"start": {"type": "string"}}}'),
    ],
)
def test_its_backend_takes_our_grammars(kind: Any, text: str) -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    vocabulary = GrammarVocabulary(tokens, control_ids=[], end_ids=[0], encode=list, n_vocab=256)
    grammar = vocabulary.compile(kind, text)
    made = of_vllm("sampling_params", "StructuredOutputsParams")(**grammar_arguments(grammar))
    params = of_vllm("sampling_params", "SamplingParams")(structured_outputs=made)
    of_vllm("v1.structured_output.backend_guidance", "validate_guidance_grammar")(params)
    vocabulary.close()
