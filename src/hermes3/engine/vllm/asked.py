"""What is asked of an answer, in the words of vLLM's ``SamplingParams``; what those cannot say is refused.

https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html, as of vLLM 0.32
"""

from __future__ import annotations

import json
import re
from typing import Any

from hermes3.engine.arguments import check_end
from hermes3.engine.grammar import WHITESPACE, Grammar
from hermes3.engine.sampling import SamplingParams
from hermes3.errors import RequestError

MIN_TEMPERATURE = 0.01  # vLLM raises what lies between 0 and this to it, with a line in its log
_SEEDS = 1 << 63  # vLLM takes -1 for no seed, and signed 64 bits at most
# How llguidance tells Lark from GBNF where vLLM hands it a grammar (llguidance.gbnf_to_lark.is_lark_syntax).
_LARK = re.compile(r"(?m)^\s*(%llguidance\b|start\s*:)")


def sampling_arguments(params: SamplingParams, grammar: Grammar | None, n_vocab: int) -> dict[str, Any]:
    """Keyword arguments of vLLM's ``SamplingParams``, less those of its output's form and of the grammar.

    min_p stands before top_k and top_p there, after them in our own engine.

    Raises:
        RequestError: something that vLLM would change, ignore or fail at; ``param`` names it.
    """
    if 0 < params.temperature < MIN_TEMPERATURE:
        raise RequestError(
            f"temperature is {params.temperature}; vLLM takes 0, or {MIN_TEMPERATURE} and more",
            param="temperature",
        )
    check_end(ignore_eos=params.ignore_eos, is_bound=grammar is not None)
    if grammar is not None and params.logprobs is not None:
        why = "vLLM masks before it takes them, so that they are not the model's own; leave one out"
        raise RequestError(f"logprobs beside a grammar ({grammar.param}): {why}", param="logprobs")
    for name, ids in (("logit_bias", params.logit_bias), ("stop_ids", params.stop_ids)):
        if outside := [token for token in ids if token >= n_vocab]:
            last = n_vocab - 1
            raise RequestError(f"{name} names id {outside[0]}, the vocabulary ends at {last}", param=name)
    # vLLM refuses a top_p of 0, which leaves the likeliest token, as a top_k of 1 does.
    top_p, top_k = (params.top_p, min(params.top_k, n_vocab)) if params.top_p > 0 else (1.0, 1)
    return {
        "temperature": params.temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": dict(params.logit_bias) or None,
        "seed": None if params.seed is None else params.seed % _SEEDS,
        "max_tokens": params.max_tokens,
        "stop_token_ids": sorted(params.stop_ids),
        "ignore_eos": params.ignore_eos,
        "logprobs": params.logprobs,
    }


def grammar_arguments(grammar: Grammar) -> dict[str, str]:
    """Keyword arguments of vLLM's ``StructuredOutputsParams``, for its backend "guidance"."""
    if grammar.kind == "regex":
        return {"regex": grammar.text}
    text = grammar.text
    if grammar.kind == "json_schema":
        schema = {**json.loads(text), "x-guidance": {"whitespace_pattern": WHITESPACE}}
        text = f"start: %json {json.dumps(schema)}"
    return {"grammar": text if _LARK.search(text) else f"%llguidance {{}}\n{text}"}
