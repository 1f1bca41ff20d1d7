"""lm-eval's model class over the hall, registered there as ``hermes3``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from hermes3.errors import RequestError
from hermes3.eval.journal import Journal, fingerprint, key_of
from hermes3.llm import LLM, Answering
from hermes3.prompt.chatml import render, text_of
from hermes3.prompt.messages import parse_messages

log = logging.getLogger(__name__)

DEFAULT_MAX_GEN_TOKS = 256  # as lm-eval's own hf model
_N_ANSWERS = 64  # generated at a time
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # what do_sample may name

Ids = list[int]


Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """An answer that had to keep to a form: its text, its calls as (name, arguments), how many broke."""

    text: str
    calls: Sequence[tuple[str, dict[str, Any]]]
    n_broken: int


@dataclass(slots=True)
class Counters:
    """What scoring has done.

    Attributes:
        n_requests: log-likelihoods asked for, those found in the journal included.
        n_found: how many of them were in the journal.
        n_given: positions of the others, each request for itself.
        n_computed: positions that went through the model.
        n_scored: rows of logits.
        n_truncated: requests whose context was cut on the left to fit.
    """

    n_requests: int = 0
    n_found: int = 0
    n_given: int = 0
    n_computed: int = 0
    n_scored: int = 0
    n_truncated: int = 0


@register_model("hermes3")
class Hermes3LM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A model of ours for lm-eval.

    Args:
        pretrained: as ``LLM``'s model: a short name, a path, or hf:owner/repo[:file]; or an ``LLM``.
        max_length: tokens of context; None for the hall's default.
        add_bos_token: whether texts begin with BOS; None for what the model's files say.
        journal: a file for answers, read at the start, so that a run goes on where it was.
        batch_size: takes what lm-eval's program always gives, 1 or "auto": steps are cut by tokens here.
        device: "cpu" or None; "cuda:0", which lm-eval's program gives where nobody named one, is taken for
            cpu, with a warning.

    Attributes:
        counters: what scoring has done.

    Raises:
        RequestError: another batch size or device, or a journal of another model.
    """

    def __init__(
        self,
        pretrained: str | LLM,
        *,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        journal: str | Path | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if str(batch_size) not in ("1", "auto"):
            raise RequestError(
                f"batch_size is {batch_size!r}; there is 1 or auto: steps are cut by tokens",
                param="batch_size",
            )
        if device == "cuda:0":
            log.warning("hermes3 computes on the CPU; device cuda:0 is not used")
        elif device not in (None, "cpu"):
            raise RequestError(f"device is {device!r}, there is cpu", param="device")
        self.llm = pretrained if isinstance(pretrained, LLM) else LLM(pretrained, n_ctx=max_length)
        self.counters = Counters()
        tokenizer = self.llm.tokenizer
        has_bos = tokenizer.add_bos if add_bos_token is None else add_bos_token
        self._bos = tokenizer.bos_id if has_bos else None
        if has_bos and self._bos is None:
            raise RequestError("add_bos_token=True, but the vocabulary has none", param="add_bos_token")
        self._journal = None if journal is None else Journal(Path(journal), fingerprint(self.llm.path))
        self._ints = list(range(tokenizer.vocab_size))  # one object for each id, however often it comes
        self._last: tuple[str, Ids] = "", []

    @property
    def eot_token_id(self) -> int:
        return min(self.llm.tokenizer.eos_ids)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by: BOS, or the end token where there is none."""
        bos = self.llm.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        return self.llm.n_ctx

    @property
    def tokenizer_name(self) -> str:
        return self.llm.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The model's own template, for lm-eval's records."""
        if isinstance(chat_template, str):
            raise RequestError(f"chat_template is {chat_template!r}, there is the model's own alone")
        return self.llm.tokenizer.chat_template or "ChatML"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; without a generation prompt its last turn stays open, to be continued."""
        messages = parse_messages(chat_history)
        text = text_of(
            render(messages, template=self.llm.template, add_generation_prompt=add_generation_prompt)
        )
        return text if add_generation_prompt else text.removesuffix("<|im_end|>\n")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> Ids:
        """Ids of a text; special tokens in it count, as with Hugging Face's tokenizers."""
        if add_special_tokens is None and string == self._last[0]:
            return self._last[1]  # one context after the other has several continuations
        ids = [self._ints[i] for i in self.llm.tokenizer.encode(string, allow_special=True)]
        if self._bos is None or add_special_tokens is False or ids[:1] == [self._bos]:
            return ids
        return [self._bos, *ids]

    def _encode_pair(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        pair: tuple[Ids, Ids] = super()._encode_pair(context, continuation)
        self._last = context.rstrip(), pair[0]
        return pair

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, Ids, Ids]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        return self._scored(pairs, disable_tqdm)

    def _fitted(self, context: Ids, continuation: Ids) -> tuple[Ids, Ids]:
        """Cuts a context on the left, as lm-eval's hf model does, where the two exceed the model's length."""
        excess = len(context) + len(continuation) - self.max_length - 1
        if excess <= 0:
            return context, continuation
        if excess >= len(context):
            raise RequestError(
                f"a continuation has {len(continuation)} tokens, the context holds {self.max_length}: load "
                "the model with a larger max_length",
                param="max_length",
            )
        self.counters.n_truncated += 1
        return context[excess:], continuation

    def _scored(self, pairs: list[tuple[Ids, Ids]], is_quiet: bool) -> list[tuple[float, bool]]:
        found = {} if self._journal is None else self._journal.answers
        keys = [key_of("score", *pair) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in found}
        names = list(new)
        scoring = self.llm.score(list(new.values()))
        answers: dict[str, tuple[float, bool]] = {}
        with tqdm(total=scoring.n_positions, desc="Positions", unit="pos", disable=is_quiet) as bar:
            for score in scoring:
                key = names[score.request]
                answers[key] = score.logprob, score.is_greedy
                if self._journal is not None:
                    self._journal.add(key, answers[key])
                bar.update(scoring.n_computed - bar.n)
        counters = self.counters
        counters.n_requests += len(pairs)
        counters.n_found += sum(key not in new for key in keys)
        counters.n_given += scoring.n_given
        counters.n_computed += scoring.n_computed
        counters.n_scored += scoring.n_scored
        return [answers[key] if key in answers else (found[key][0], found[key][1]) for key in keys]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of max_length, each token predicted once."""
        pairs, owners = [], []
        for index, request in enumerate(requests):
            (text,) = request.args
            ids = self.tok_encode(text)
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                pairs.append(make_disjoint_window(window))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._scored(pairs, disable_tqdm), strict=True):
            totals[owner] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to a stop string or an end token; sampled where a task says ``do_sample``."""
        answers: list[str] = []
        jobs = (self._job(*request.args) for request in requests)
        with tqdm(total=len(requests), desc="Answers", unit="", disable=disable_tqdm) as bar:
            while batch := list(islice(jobs, _N_ANSWERS)):
                answers += self.generated(batch)
                bar.update(len(batch))
        return answers

    def _job(self, context: str, given: dict[str, Any]) -> tuple[Ids, dict[str, Any]]:
        sampling = sampling_of(given)
        ids = self.tok_encode(context) or [self.prefix_token_id]
        room = self.max_length - sampling["max_tokens"]
        if room < 1:
            raise RequestError(
                f"max_gen_toks is {sampling['max_tokens']}, the context holds {self.max_length}",
                param="max_length",
            )
        if len(ids) > room:
            self.counters.n_truncated += 1
        return ids[-room:], sampling

    def generated(self, jobs: list[tuple[Ids, dict[str, Any]]]) -> Iterator[str]:
        """Answers to prompts, each with the hall's sampling arguments, all at once, in their order."""
        found = {} if self._journal is None else self._journal.answers
        keys = [key_of("generate", ids, repr(sorted(sampling.items()))) for ids, sampling in jobs]
        streams = {
            key: self.llm.complete(ids, stream=True, **sampling)
            for key, (ids, sampling) in zip(keys, jobs, strict=True)
            if key not in found or sampling["temperature"]
        }
        answers = {}
        for key, stream in streams.items():
            answers[key] = stream.reply().text
            if self._journal is not None:
                self._journal.add(key, answers[key])
        return (answers[key] if key in answers else str(found[key]) for key in keys)

    def chosen(self, jobs: Sequence[tuple[Messages, Answering]], *, max_tokens: int) -> Iterator[Chosen]:
        """Greedy answers to conversations that have to keep to a form, all at once, in their order.

        Raises:
            RequestError: a form that cannot be honoured, a schema that does not compile for example.
        """
        found = {} if self._journal is None else self._journal.answers
        prepared = [self.llm.prepare(messages, **asked) for messages, asked in jobs]
        keys = [
            key_of("chosen", each.ids, repr(asked), str(max_tokens))
            for each, (_, asked) in zip(prepared, jobs, strict=True)
        ]
        streams = {
            key: self.llm.start(each, max_tokens=max_tokens, temperature=0.0)
            for key, each in zip(keys, prepared, strict=True)
            if key not in found
        }
        answers = {}
        for key, stream in streams.items():
            reply = stream.reply()
            calls = [(call.name, call.arguments) for call in reply.tool_calls]
            answers[key] = [reply.text, calls, len(reply.broken_calls)]
            if self._journal is not None:
                self._journal.add(key, answers[key])
        return (Chosen(*(answers[key] if key in answers else found[key])) for key in keys)


def sampling_of(given: dict[str, Any]) -> dict[str, Any]:
    """The hall's arguments for what a task's ``generation_kwargs`` ask for.

    Raises:
        RequestError: something asked for that is not done here.
    """
    asked = dict(given)
    until = asked.pop("until", None) or []
    stop = [until] if isinstance(until, str) else list(until)
    most = asked.pop("max_gen_toks", asked.pop("max_new_tokens", DEFAULT_MAX_GEN_TOKS))
    does_sample = asked.pop("do_sample", False)
    named = {name: asked.pop(name) for name in _SAMPLING if name in asked}
    if asked:
        raise RequestError(
            f"generation_kwargs ask for {', '.join(sorted(asked))}; there are until, max_gen_toks, do_sample "
            f"and {', '.join(_SAMPLING)}",
            param="generation_kwargs",
        )
    if not does_sample:
        named = {name: value for name, value in named.items() if name == "repetition_penalty"}
    temperature = named.pop("temperature", 1.0) if does_sample else 0.0
    stop = [text for text in stop if text]
    return {"stop": stop, "max_tokens": int(most), "temperature": temperature, **named}


def silence() -> None:
    """Keeps lm-eval's talk about its own doings off the terminal; warnings stay."""
    for name in ("lm_eval", "datasets", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
