"""The hall over the real engine and a small model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hermes3 import LLM
from hermes3.errors import ContextLengthError, Hermes3Error, RequestError
from tests.engines import opened, own_alone

PARIS = [{"role": "user", "content": "Where is the Eiffel Tower?"}]  # a greedy answer far from any tie
QUESTIONS = [f"Tell me something about the number {number}." for number in range(6)]


@pytest.fixture(scope="module")
def smol(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with opened(smol_gguf, tmp_path_factory.mktemp("model"), 2048) as llm:
        yield llm


def test_it_knows_paris(smol: LLM) -> None:
    reply = smol.chat(PARIS, temperature=0)
    assert "Paris" in reply.text
    assert reply.finish_reason == "stop"
    assert "<|im_end|>" not in reply.text
    assert (smol.name, smol.n_ctx) == ("SmolLM2-135M-Instruct.Q4_1", 2048)


def test_streamed_is_unstreamed(smol: LLM) -> None:
    given = {"temperature": 1.5, "seed": 5, "max_tokens": 60, "logprobs": 3}
    deltas = list(smol.chat(PARIS, stream=True, **given))
    reply = smol.chat(PARIS, **given)
    assert len(deltas) > 20
    assert "".join(delta.text for delta in deltas) == reply.text
    assert tuple(entry for delta in deltas for entry in delta.logprobs) == reply.logprobs
    assert b"".join(entry.bytes for entry in reply.logprobs).decode("utf-8", "replace") == reply.text


def test_logprobs_are_those_of_the_model(smol: LLM) -> None:
    greedy = smol.chat(PARIS, temperature=0, max_tokens=8, logprobs=5)
    for entry in greedy.logprobs:
        assert (entry.id, entry.logprob) == (entry.top[0].id, entry.top[0].logprob)
        assert [top.logprob for top in entry.top] == sorted((top.logprob for top in entry.top), reverse=True)
        assert sum(math.exp(top.logprob) for top in entry.top) <= 1


def test_seeds_reproduce_whatever_else_runs(smol: LLM) -> None:
    def ask(number: int) -> str:
        return smol.chat(QUESTIONS[number], seed=number, max_tokens=40).text

    alone = [ask(number) for number in range(len(QUESTIONS))]
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        assert list(pool.map(ask, range(len(QUESTIONS)))) == alone
    batch = [reply.text for reply in smol.chat_batch(QUESTIONS, seed=0, max_tokens=40)]
    assert batch[0] == alone[0]
    assert batch == [smol.chat(question, seed=0, max_tokens=40).text for question in QUESTIONS]
    assert len({smol.chat(QUESTIONS[0], max_tokens=40).text for _ in range(3)}) == 3  # without a seed


def test_stop_strings_across_tokens(smol: LLM) -> None:
    whole = smol.chat(PARIS, temperature=0).text
    middle = len(whole) // 2
    stop = whole[middle : middle + 9]
    reply = smol.chat(PARIS, temperature=0, stop=[stop])
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finish_reason == "stop"


def test_leaving_early_and_going_on(smol: LLM) -> None:
    with smol.chat(PARIS, stream=True, ignore_eos=True) as stream:
        next(stream)
    assert "Paris" in smol.chat(PARIS, temperature=0).text


def test_completion(smol: LLM) -> None:
    given = {"temperature": 0, "max_tokens": 12}
    text = smol.complete("The capital of France is", **given)
    assert "Paris" in text.text
    assert smol.complete(smol.encode("The capital of France is"), **given).text == text.text
    assert text.usage.completion_tokens <= 12


def test_context(smol: LLM) -> None:
    with pytest.raises(ContextLengthError, match=r"prompt has \d{4} tokens, the context holds 2048"):
        smol.chat("word " * 2100)
    filled = smol.complete("word " * 2030, ignore_eos=True)
    assert filled.finish_reason == "length"
    assert filled.usage.total_tokens == 2048


def test_default_system_prompt_of_the_models_own_template(smol: LLM) -> None:
    text = smol.tokenizer.decode(smol.encode_chat(PARIS))
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nWhere is the Eiffel Tower?<|im_end|>\n<|im_start|>assistant\n")


@own_alone
def test_bos_can_be_chosen(smol_gguf: Path) -> None:
    with LLM(smol_gguf, n_ctx=64, bos=True) as llm:
        assert llm.encode("x")[0] == llm.tokenizer.bos_id
        assert llm.template.bos == llm.tokenizer.bos_token
    with LLM(smol_gguf, n_ctx=64, bos=False) as llm:
        assert llm.template.bos is None


def test_sampling_beyond_the_vocabulary_is_refused(smol: LLM) -> None:
    with pytest.raises(RequestError) as caught:
        smol.chat("x", logit_bias={smol.tokenizer.vocab_size: 1.0})
    assert caught.value.param == "logit_bias"


@own_alone
def test_scores_of_texts(smol_gguf: Path) -> None:
    with LLM(smol_gguf, n_ctx=256) as llm:
        context = llm.encode("The capital of France is")
        right, wrong = llm.encode(" Paris"), llm.encode(" Berlin")
        scoring = llm.score([(context, wrong), (context, right)])
        scores = sorted(scoring)
        answer = llm.complete(context, max_tokens=1, temperature=0, logprobs=0)
    assert [score.is_greedy for score in scores] == [False, answer.text == " Paris"]
    assert scores[1].logprob > scores[0].logprob
    assert scoring.n_computed == len(context)
    assert scoring.n_scored == 1
    with pytest.raises(Hermes3Error, match="closed"):
        llm.score([(context, right)])


@own_alone
def test_a_system_turn_outlives_the_process(smol_gguf: Path, tmp_path: Path) -> None:
    """The second hall reads what the first one computed, and gives the same answer."""
    system = {"role": "system", "content": "Answer in one word. " * 40}
    texts, cached = [], []
    for folder in (tmp_path, tmp_path, None):
        with LLM(smol_gguf, n_ctx=1024, prefix_folder=folder) as llm:
            reply = llm.chat([system, *PARIS], temperature=0, max_tokens=20)
            llm.chat(PARIS, max_tokens=1)  # has a system turn, too, of the model's own template
        texts.append(reply.text)
        cached.append(reply.usage.cached_tokens)
    assert texts[0] == texts[1] == texts[2]
    assert cached == [0, 192, 0]
    assert len(list(tmp_path.glob("*.prefix"))) == 1
