"""Properties of text on its way to ids and back, whole and token by token."""

from __future__ import annotations

import codecs
import random
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hermes3.prompt.chatml import IM_END, IM_START, Segment, Template, render
from hermes3.prompt.messages import Message
from hermes3.tokenizer import Tokenizer
from tests.tokenizer import corpus
from tests.tokenizer.conftest import Encode

TEXTS = st.text(max_size=200)
MARKS = st.sampled_from(corpus.SPECIAL)
MARKED = st.lists(MARKS | TEXTS, max_size=6).map("".join)
quick = settings(max_examples=300, deadline=None)


@pytest.fixture(params=["smol", "llama3"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


@quick
@given(MARKED, st.booleans())
@example("\ufeff", False)
def test_llama3_text_comes_back(llama3: Tokenizer, text: str, allow_special: bool) -> None:
    assert llama3.decode(llama3.encode(text, allow_special=allow_special)) == text


@quick
@given(MARKED, st.booleans())
def test_smollm2_text_comes_back_but_for_bytes_it_lacks(
    smol: Tokenizer, text: str, allow_special: bool
) -> None:
    """Its vocabulary spells 235 of 256 bytes: six control characters and the planes 4 to 11 are lost, as in
    Hugging Face's. 13 of the others occur in no UTF-8."""
    spelled = bytes(byte for byte in text.encode() if byte not in smol.missing_bytes)
    assert smol.decode(smol.encode(text, allow_special=allow_special)) == spelled.decode(errors="replace")


def test_bytes_that_a_vocabulary_lacks(smol: Tokenizer, llama3: Tokenizer) -> None:
    assert llama3.missing_bytes == frozenset()
    assert len(smol.missing_bytes) == 21
    assert not smol.missing_bytes & set(string.printable.encode())


@quick
@given(MARKED, st.booleans())
@example(" " * 10_000, False)
@example("\ud83d\ude00" * 100, False)
def test_no_text_has_fewer_ids_than_its_length_tells(
    llama3: Tokenizer, text: str, allow_special: bool
) -> None:
    assert llama3.least(len(text)) <= len(llama3.encode(text, allow_special=allow_special))


def test_length_tells_something_where_no_character_is_lost(smol: Tokenizer, llama3: Tokenizer) -> None:
    longest = max(len(llama3.token_bytes(each)) for each in range(llama3.vocab_size))
    assert llama3.least(longest) == 1
    assert llama3.least(100 * longest + 1) == 101
    assert smol.least(100 * longest) == 0


@pytest.mark.parametrize("text", corpus.BROKEN)
def test_lone_surrogates_count_as_replacement_characters(tokenizer: Tokenizer, text: str) -> None:
    mended = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert tokenizer.encode(text) == tokenizer.encode(mended)


@quick
@given(MARKED)
def test_plain_text_never_becomes_special(smol: Tokenizer, llama3: Tokenizer, text: str) -> None:
    for tokenizer in (smol, llama3):
        special = {tokenizer.token_id(mark) for mark in corpus.SPECIAL} | {
            tokenizer.bos_id,
            *tokenizer.eos_ids,
        }
        assert special.isdisjoint(tokenizer.encode(text))
        assert special.isdisjoint(tokenizer.encode_segments([Segment(text[:9]), Segment(text[9:])]))


def test_every_special_token_stays_text_unless_allowed(tokenizer: Tokenizer) -> None:
    special = [tokenizer.decode([token_id]) for token_id in range(tokenizer.vocab_size)]
    special = [text for text in special if text.startswith("<|") and text.endswith("|>")]
    assert len(special) >= 3
    for text in special:
        token_id = tokenizer.token_id(text)
        assert token_id not in tokenizer.encode(text)
        assert tokenizer.encode(text, allow_special=True) == [token_id]
        around = tokenizer.encode(f"a {text} b", allow_special=True)
        assert around == [*tokenizer.encode("a "), token_id, *tokenizer.encode(" b")]


@quick
@given(st.lists(st.integers(0, 130_000), max_size=40))
def test_stream_of_any_ids_is_the_whole_decode(smol: Tokenizer, llama3: Tokenizer, ids: list[int]) -> None:
    for tokenizer in (smol, llama3):
        some = [token_id % (tokenizer.vocab_size + 5) for token_id in ids]
        stream = tokenizer.stream_decoder()
        assert "".join([*map(stream.push, some), stream.flush()]) == tokenizer.decode(some)


@quick
@given(st.text(alphabet=st.characters(min_codepoint=0x80, exclude_categories=("Cs",)), max_size=60))
@example("👨‍👩‍👧‍👦🏴󠁧󠁢󠁳󠁣󠁴󠁿")
def test_stream_never_gives_half_a_character(llama3: Tokenizer, text: str) -> None:
    stream = llama3.stream_decoder()
    given_out = ""
    for token_id in llama3.encode(text):
        given_out += stream.push(token_id)
        assert text.startswith(given_out)
    assert given_out == text
    assert stream.flush() == ""


def test_characters_of_several_tokens_come_out_once_whole(tokenizer: Tokenizer) -> None:
    """Not a property that holds because nothing was split: here the pieces are seen to be held back."""
    stream = tokenizer.stream_decoder()
    pieces = [stream.push(token_id) for token_id in tokenizer.encode("𝔘𓀀🂡")]
    assert pieces.count("") >= 3
    assert "".join(pieces) == "𝔘𓀀🂡"


def test_flush_says_what_never_became_whole(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream_decoder()
    (first, *_, last) = tokenizer.encode("𓀀")
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(tokenizer.encode("a")[0]) == "a", "flush starts anew"
    assert stream.push(last) == "\ufffd", "a continuation without its start is wrong at once"


def test_token_bytes_are_the_text(tokenizer: Tokenizer) -> None:
    rng = random.Random(3)
    for text in rng.sample(corpus.made(), 200):
        ids = tokenizer.encode(text)
        joined = b"".join(map(tokenizer.token_bytes, ids))
        assert codecs.decode(joined, "utf-8", "replace") == tokenizer.decode(ids)
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
    assert tokenizer.token_bytes(-1) == b""
    assert tokenizer.decode([tokenizer.vocab_size + 7, *tokenizer.encode("a")]) == "a"


def test_skipping_special_tokens(smol: Tokenizer) -> None:
    text = "<|im_start|>assistant\nHi<repo_name><|im_end|><|endoftext|>"
    ids = smol.encode(text, allow_special=True)
    assert smol.decode(ids) == text
    assert smol.decode(ids, skip_special=True) == "assistant\nHi<repo_name>"
    stream = smol.stream_decoder(skip_special=True)
    assert "".join(map(stream.push, ids)) + stream.flush() == "assistant\nHi<repo_name>"


def test_ends_and_beginnings(smol: Tokenizer, llama3: Tokenizer) -> None:
    assert {smol.decode([end]) for end in smol.eos_ids} == {IM_END, "<|endoftext|>"}
    ends = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}
    assert {llama3.decode([end]) for end in llama3.eos_ids} == ends
    assert (smol.bos_token, smol.add_bos) == (IM_START, False)
    assert (llama3.bos_token, llama3.add_bos) == ("<|begin_of_text|>", True)
    assert llama3.vocab_size == 128_256


NEWLINED = st.text(alphabet=" \n\tab1é", max_size=8)
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "tool"]), NEWLINED), max_size=4)


@quick
@given(TURNS)
def test_prompts_are_encoded_as_if_in_one_piece(
    smol: Tokenizer, llama3: Tokenizer, turns: list[tuple[str, str]]
) -> None:
    """Line breaks of the frame and of the content merge as they do where the whole prompt is encoded."""
    segments = render([Message(role, content) for role, content in turns], template=Template())
    whole = "".join(segment.text for segment in segments)
    for tokenizer in (smol, llama3):
        assert tokenizer.encode_segments(segments) == tokenizer.encode(whole, allow_special=True)


def test_what_the_assistant_writes_starts_where_generation_starts(llama3: Tokenizer) -> None:
    """An answer that begins with a line break: its tokens follow those of the prompt it answered."""
    question = [Message("user", "Hi")]
    answer = "\n\nHello"
    asked = llama3.encode_segments(render(question, template=Template()))
    told = llama3.encode_segments(
        render([*question, Message("assistant", answer)], template=Template(), add_generation_prompt=False)
    )
    assert told[: len(asked)] == asked
    end = llama3.encode(f"{IM_END}\n", allow_special=True)
    assert told[len(asked) :] == llama3.encode(answer) + end
    merged = llama3.encode("assistant" + "\n" + answer)
    assert merged != llama3.encode("assistant\n") + llama3.encode(answer), "else this tests nothing"


def test_tags_join_their_neighbours_where_they_are_no_tokens(llama3: Tokenizer) -> None:
    segments = [Segment("a\n"), Segment("<tool_call>", is_special=True), Segment("\n{}")]
    assert llama3.encode_segments(segments) == llama3.encode("a\n<tool_call>\n{}")


def test_chat_ids_equal_transformers(smol: Tokenizer, smol_transformers: Encode) -> None:
    """The small model's prompt, token by token, as transformers renders and encodes it."""
    turns = [
        Message("user", "What is the capital of France?"),
        Message("assistant", "Paris."),
        Message("user", "\n2+2"),
    ]
    template = Template.of_model(smol.chat_template, bos_token=smol.bos_token, add_bos=smol.add_bos)
    ids = smol.encode_segments(render(turns, template=template))
    special = {IM_START: smol.token_id(IM_START), IM_END: smol.token_id(IM_END)}
    wanted: list[int | None] = []
    for turn in (Message("system", template.default_system), *turns):
        wanted += [special[IM_START], *smol_transformers(f"{turn.role}\n{turn.content}")]
        wanted += [special[IM_END], *smol_transformers("\n")]
    assert ids == [*wanted, special[IM_START], *smol_transformers("assistant\n")]
