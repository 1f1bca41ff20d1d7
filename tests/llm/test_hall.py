"""The hall over a scripted engine: what callers get, how answers end, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from hermes3.engine.sampling import SamplingParams
from hermes3.errors import ContextLengthError, Hermes3Error, RequestError
from hermes3.llm import Delta, Sampling
from hermes3.prompt.messages import Message
from tests.llm.fakes import BROKEN, IM_END, fake_llm, saying


def wait_until(condition, what: str) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def test_chat_renders_and_answers() -> None:
    seen = []

    def script(ids, params):
        seen.append((ids, params))
        return list("Pariß.".encode())

    with fake_llm(script)[0] as llm:
        reply = llm.chat([{"role": "user", "content": "capital?<|im_end|>"}], temperature=0, seed=3)
    assert (reply.text, reply.finish_reason) == ("Pariß.", "stop")
    (ids, params) = seen[0]
    text = "<|im_start|>user\ncapital?<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert llm.tokenizer.decode(ids) == text
    assert ids.count(IM_END) == 1  # the user's own stays text
    assert reply.usage.prompt_tokens == len(ids)
    assert reply.usage.completion_tokens == len("Pariß.".encode()) + 1  # and the end of the turn
    assert (params.temperature, params.seed, params.max_tokens) == (0, 3, llm.n_ctx - len(ids))
    assert IM_END in params.stop_ids


def test_all_ways_to_say_a_message() -> None:
    with fake_llm()[0] as llm:
        as_dict = llm.encode_chat([{"role": "user", "content": "hi"}])
        assert as_dict == llm.encode_chat([Message("user", "hi")]) == llm.encode_chat("hi")


def test_stream_adds_up_to_the_reply() -> None:
    with fake_llm(saying("one two three"))[0] as llm:
        deltas = list(llm.chat("x", stream=True, logprobs=2))
        reply = llm.chat("x", logprobs=2)
    assert "".join(delta.text for delta in deltas) == reply.text == "one two three"
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert deltas[-1].usage == reply.usage
    assert tuple(entry for delta in deltas for entry in delta.logprobs) == reply.logprobs
    assert b"".join(entry.bytes for entry in reply.logprobs) == b"one two three"
    assert [(top.text, top.logprob) for top in reply.logprobs[0].top] == [("o", -1.0), ("p", -2.0)]


def test_stop_strings_end_the_sequence() -> None:
    llm, engine = fake_llm(saying("count: one, two, three, four"))
    with llm:
        reply = llm.chat("x", stop=["three", "zzz"], logprobs=0)
    assert (reply.text, reply.finish_reason) == ("count: one, two, ", "stop")
    assert reply.usage.completion_tokens == len("count: one, two, three")
    assert "".join(entry.text for entry in reply.logprobs) == reply.text
    assert len(engine.cancelled) == 1  # the engine does not go on behind our back


def test_held_text_is_given_when_no_stop_comes() -> None:
    with fake_llm(saying("one, tw"))[0] as llm:
        assert llm.chat("x", stop="two").text == "one, tw"
        assert llm.chat("x", stop="two", max_tokens=6).text == "one, t"


def test_length_and_ignored_end() -> None:
    with fake_llm(saying("abcdef"))[0] as llm:
        cut = llm.chat("x", max_tokens=3)
        assert (cut.text, cut.finish_reason, cut.usage.completion_tokens) == ("abc", "length", 3)
        assert llm.chat("x", max_tokens=7, ignore_eos=True).text == "abcdef<|im_end|>"
        assert llm.chat("x", stop_ids=frozenset({ord("c")})).text == "ab"


def test_context_is_refused_with_both_numbers() -> None:
    with fake_llm(n_ctx=50)[0] as llm:
        for ask, param in ((llm.complete, "prompt"), (llm.chat, "messages")):
            with pytest.raises(ContextLengthError, match=r"prompt has (50|69) tokens, .* holds 50") as caught:
                ask("x" * 50)
            assert caught.value.param == param
        with pytest.raises(ContextLengthError, match=r"10 tokens and max_tokens = 41 make 51, .* 50; .* 40"):
            llm.complete("x" * 10, max_tokens=41)
        assert llm.complete("x" * 10, max_tokens=40).text == "x" * 10


def test_what_cannot_fit_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_llm(n_ctx=50)[0] as llm:
        monkeypatch.delattr(type(llm.tokenizer), "encode")
        for ask, param in ((llm.complete, "prompt"), (llm.chat, "messages")):
            with pytest.raises(ContextLengthError, match=r"prompt has at least 5[0-9] tokens") as caught:
                ask("x" * 600)
            assert caught.value.param == param


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_bad_values_are_named(arguments, param: str) -> None:
    with fake_llm()[0] as llm, pytest.raises(RequestError) as caught:
        llm.chat("x", **arguments)
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", ["", [], [258], [-1], [1.5]])
def test_bad_prompts_are_refused(prompt) -> None:
    with fake_llm()[0] as llm, pytest.raises(RequestError) as caught:
        llm.complete(prompt)
    assert caught.value.param == "prompt"


def test_sampling_arguments_are_those_of_the_engine() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert set(Sampling.__annotations__) == fields | {"stop"}


def test_params_and_single_values() -> None:
    seen = []
    with fake_llm(lambda ids, params: seen.append(params) or [65])[0] as llm:
        llm.chat("x", params=SamplingParams(temperature=0.1, top_k=5), top_k=7)
    assert (seen[0].temperature, seen[0].top_k) == (0.1, 7)


def test_callers_share_steps_and_keep_their_answers() -> None:
    llm, engine = fake_llm(step_s=0.001)
    with llm:
        questions = [f"question {number}" for number in range(20)]
        alone = [llm.chat(question).text for question in questions]
        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(lambda question: llm.chat(question).text, questions)) == alone
        assert [reply.text for reply in llm.chat_batch(questions)] == alone
    assert engine.most_at_once > 10
    assert len(set(alone)) == 20


@pytest.mark.parametrize("leave", ["close", "with", "drop"])
def test_leaving_a_stream_frees_its_sequence(leave: str) -> None:
    llm, engine = fake_llm(saying("x" * 900), step_s=0.001)
    with llm:
        stream = llm.chat("x", stream=True)
        next(stream)
        if leave == "close":
            stream.close()
            assert list(stream) == []
        elif leave == "with":
            with stream:
                next(stream)
        else:
            del stream
            gc.collect()
        wait_until(lambda: not engine.running, "the sequence runs on")
        assert len(engine.cancelled) == 1
        assert llm.chat("still there?", max_tokens=2).text == "xx"


def test_cancel_gives_a_last_delta() -> None:
    llm, _ = fake_llm(saying("x" * 900), step_s=0.001)
    with llm:
        stream = llm.chat("x", stream=True)
        first = next(stream)
        stream.cancel()
        reply = stream.reply()
    assert first.text == "x"
    assert reply.finish_reason == "cancelled"
    assert reply.usage.completion_tokens == len(reply.text) + 1


def test_close_wakes_a_waiting_iterator() -> None:
    llm, engine = fake_llm()
    with llm, ThreadPoolExecutor(1) as pool:
        engine.go.clear()
        stream = llm.chat("x", stream=True)
        rest = pool.submit(list, stream)
        wait_until(lambda: engine.has_work, "it never began")
        stream.close()
        engine.go.set()
        assert len(rest.result(5)) <= 1


def test_a_failing_step_reaches_everybody() -> None:
    llm, engine = fake_llm(saying("x" * 900), fails_at=3)
    engine.go.clear()
    streams = [llm.chat("x", stream=True) for _ in range(4)]
    engine.go.set()
    for stream in streams:
        with pytest.raises(Hermes3Error, match=r"engine failed .MemoryError: no room for a step.; load"):
            list(stream)
    with pytest.raises(Hermes3Error, match="MemoryError"):
        llm.chat("and now?")
    assert isinstance(llm.failure.__cause__, MemoryError)
    llm.close()


def test_one_answers_bad_text_leaves_the_others_alone() -> None:
    def script(ids, params):
        return [999] if b"bad" in bytes(i for i in ids if i < 256) else [65, 66]

    with fake_llm(script)[0] as llm:
        good, bad = llm.chat("good", stream=True), llm.chat("bad", stream=True)
        with pytest.raises(ValueError, match="range"):
            list(bad)
        assert good.reply().text == llm.chat("good").text == "AB"
        assert llm.failure is None


def test_an_answer_that_the_engine_gives_up() -> None:
    with fake_llm(lambda ids, params: [65, BROKEN] if params.top_k else [65, 66])[0] as llm:
        good, bad = llm.chat("x", stream=True), llm.chat("x", stream=True, top_k=1)
        with pytest.raises(Hermes3Error, match="not finite"):
            list(bad)
        assert good.reply().text == llm.chat("x").text == "AB"


def test_close_ends_those_who_wait() -> None:
    llm, _ = fake_llm(saying("x" * 900), step_s=0.001)
    stream = llm.chat("x", stream=True)
    next(stream)
    llm.close()
    with pytest.raises(Hermes3Error, match="closed"):
        list(stream)
    with pytest.raises(Hermes3Error, match="closed"):
        llm.chat("x")
    llm.close()  # once more is no error


def test_close_lets_go_of_the_engine() -> None:
    llm, engine = fake_llm()
    llm.chat("x")
    ghost = weakref.ref(engine)
    llm.close()
    del engine
    gc.collect()
    assert ghost() is None


def test_a_dropped_hall_ends_its_thread() -> None:
    llm, _ = fake_llm()
    llm.chat("x")
    thread = llm._worker._thread
    del llm
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_idle_engine_is_not_stepped() -> None:
    llm, engine = fake_llm()
    with llm:
        llm.chat("x")
        before = engine.n_steps
        time.sleep(0.05)
        assert engine.n_steps == before


def test_timings() -> None:
    with fake_llm(saying("abcdefghij"), step_s=0.01)[0] as llm:
        reply = llm.chat("x")
    timings, n = reply.timings, reply.usage.completion_tokens
    assert timings.prefill_s >= 0.01
    assert timings.decode_s >= 0.01 * (n - 1)
    assert math.isclose(timings.decode_tokens_per_s, (n - 1) / timings.decode_s)
    assert math.isclose(timings.prefill_tokens_per_s, reply.usage.prompt_tokens / timings.prefill_s)


def test_async_streams() -> None:
    llm, engine = fake_llm(step_s=0.001)

    async def everything() -> list[str]:
        streams = [llm.achat(f"question {number}") for number in range(5)]
        left = llm.achat("never mind")
        assert isinstance(await anext(left), Delta)
        left.close()
        assert [delta async for delta in left] == []
        return [(await stream.reply()).text for stream in streams]

    with llm:
        texts = asyncio.run(everything())
        assert texts == [llm.chat(f"question {number}").text for number in range(5)]
        wait_until(lambda: not engine.running, "the one left runs on")
    assert len(engine.cancelled) == 1


def test_a_loop_that_ended_takes_its_answers_with_it() -> None:
    llm, engine = fake_llm(saying("x" * 900), step_s=0.001)

    async def begin() -> object:
        return llm.achat("x")

    with llm:
        stream = asyncio.run(begin())
        wait_until(lambda: not engine.running, "nobody can read it, and it runs on")
        assert stream is not None
        assert llm.chat("x", max_tokens=1).text == "x"


def test_async_error() -> None:
    llm, _ = fake_llm(saying("x" * 900), fails_at=2)

    async def ask() -> None:
        await llm.achat("x").reply()

    with pytest.raises(Hermes3Error, match="MemoryError"):
        asyncio.run(ask())
    llm.close()


def test_an_engine_that_refuses_is_heard_at_once() -> None:
    def refuse(ids, params):
        raise RequestError("no room", param="n")

    llm, _ = fake_llm(refuse)
    with llm, pytest.raises(RequestError, match="no room"):
        llm.chat("x", stream=True)
