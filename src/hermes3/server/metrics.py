"""What happened so far, in Prometheus' text form, under the names that dashboards made for vLLM look for.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
Names: https://docs.vllm.ai/en/latest/usage/metrics.html
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from hermes3.llm import Delta
from hermes3.llm.load import Load

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

_SPENT = (
    *("vllm:prompt_tokens", "vllm:generation_tokens", "vllm:prefix_cache_queries", "vllm:prefix_cache_hits"),
    *("hermes3:forced_tokens", "hermes3:mask_seconds", "hermes3:mask_wait_seconds"),
)


class Histogram:
    """Counts by upper bound, cumulated when they are written."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, label: str) -> Iterator[str]:
        """Samples of the family ``name``."""
        total = 0
        for bound, count in zip([*self._bounds, "+Inf"], self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{label},le="{bound}"}} {total}'
        yield f"{name}_sum{{{label}}} {self._sum:.6f}"
        yield f"{name}_count{{{label}}} {total}"


class Metrics:
    """Counts of one server, kept by its event loop."""

    def __init__(self, model: str) -> None:
        escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        self._label = f'model_name="{escaped}"'
        self._finished: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()
        self._spent = dict.fromkeys(_SPENT, 0.0)  # by ended answers
        self._histograms = {
            "vllm:time_to_first_token_seconds": Histogram(_SECONDS),
            "vllm:request_time_per_output_token_seconds": Histogram(_SECONDS),
            "vllm:e2e_request_latency_seconds": Histogram(_SECONDS),
            "vllm:request_queue_time_seconds": Histogram(_SECONDS),
            "vllm:request_prefill_time_seconds": Histogram(_SECONDS),
            "vllm:request_decode_time_seconds": Histogram(_SECONDS),
            "vllm:request_prompt_tokens": Histogram(_TOKENS),
            "vllm:request_generation_tokens": Histogram(_TOKENS),
        }

    def ended(self, last: Delta | None) -> None:
        """Count an answer: its last delta, or None where it was given up or failed."""
        if last is None or last.usage is None or last.timings is None:
            self._finished["abort"] += 1
            return
        usage, timings = last.usage, last.timings
        self._finished["abort" if last.finish_reason == "cancelled" else str(last.finish_reason)] += 1
        self._spent["vllm:prompt_tokens"] += usage.prompt_tokens
        self._spent["vllm:generation_tokens"] += usage.completion_tokens
        self._spent["vllm:prefix_cache_queries"] += usage.prompt_tokens
        self._spent["vllm:prefix_cache_hits"] += usage.cached_tokens
        self._spent["hermes3:forced_tokens"] += usage.forced_tokens
        self._spent["hermes3:mask_seconds"] += timings.mask_s
        self._spent["hermes3:mask_wait_seconds"] += timings.mask_wait_s
        seen = {
            "vllm:time_to_first_token_seconds": timings.prefill_s,
            "vllm:e2e_request_latency_seconds": timings.prefill_s + timings.decode_s,
            "vllm:request_queue_time_seconds": timings.queue_s,
            "vllm:request_prefill_time_seconds": timings.prefill_s - timings.queue_s,
            "vllm:request_decode_time_seconds": timings.decode_s,
            "vllm:request_prompt_tokens": usage.prompt_tokens,
            "vllm:request_generation_tokens": usage.completion_tokens,
        }
        if usage.completion_tokens > 1:
            each = timings.decode_s / (usage.completion_tokens - 1)
            seen["vllm:request_time_per_output_token_seconds"] = each
        for name, value in seen.items():
            self._histograms[name].observe(value)

    def refused(self, status: int) -> None:
        """Count a request that got no answer."""
        self._refused[status] += 1

    def text(self, load: Load) -> str:
        """The whole page, with the gauges of this moment."""
        return "\n".join(self._lines(load)) + "\n"

    def _lines(self, load: Load) -> Iterator[str]:
        used = 1 - load.n_free_kv_tokens / load.n_kv_tokens
        gauges = {
            "vllm:num_requests_running": load.n_running,
            "vllm:num_requests_waiting": load.n_waiting,
            "vllm:kv_cache_usage_perc": round(used, 6),
            "hermes3:stalled_seconds": round(load.stalled_s, 3),
        }
        for name, value in gauges.items():
            yield f"# TYPE {name} gauge"
            yield f"{name}{{{self._label}}} {value}"
        counted = {
            **{name: self._spent[name] for name in _SPENT},
            "vllm:spec_decode_num_drafts": load.n_drafts,
            "vllm:spec_decode_num_draft_tokens": load.n_drafted,
            "vllm:spec_decode_num_accepted_tokens": load.n_accepted,
            "hermes3:computed_tokens": load.n_computed,
        }
        for name, count in counted.items():
            yield f"# TYPE {name}_total counter"
            yield f"{name}_total{{{self._label}}} {round(count, 6)}"
        yield "# TYPE vllm:request_success_total counter"
        for reason in sorted({"stop", "length", "abort", *self._finished}):
            count = self._finished[reason]
            yield f'vllm:request_success_total{{{self._label},finished_reason="{reason}"}} {count}'
        yield "# TYPE hermes3:requests_refused_total counter"
        for status, count in sorted(self._refused.items()):
            yield f'hermes3:requests_refused_total{{{self._label},status="{status}"}} {count}'
        for name, histogram in self._histograms.items():
            yield f"# TYPE {name} histogram"
            yield from histogram.lines(name, self._label)
