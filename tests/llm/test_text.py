"""Stop strings: the same text whatever the pieces, and never a character of the stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes3.llm.text import AnswerText, StopMatcher
from tests.llm.fakes import FakeTokenizer

WORDS = st.text("ab\n", max_size=12)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def cut_by_hand(text: str, stops: list[str]) -> str:
    """Character by character: as soon as a stop string is complete, what stood before the longest such."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(st.lists(WORDS, max_size=8), STOPS)
def test_same_as_character_by_character(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = "".join([*map(matcher.push, pieces), matcher.flush()])
    text = "".join(pieces)
    assert shown == cut_by_hand(text, stops)
    assert (matcher.found is not None) == any(stop in text for stop in stops)
    assert matcher.found is None or matcher.found in stops


@given(st.lists(WORDS, max_size=8), STOPS)
def test_shows_all_that_no_stop_can_reach(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for end, piece in enumerate(pieces, 1):
        shown += matcher.push(piece)
        if matcher.found is None:
            held = "".join(pieces[:end])[len(shown) :]
            assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@given(st.text("ab🦙ü", max_size=12), STOPS, st.data())
def test_forced_tokens_are_found_in_what_is_shown(text: str, stops: list[str], data: st.DataObject) -> None:
    """However it is cut: a character counts by the byte that made it whole."""
    answer, shown, found = AnswerText(FakeTokenizer().stream_decoder(), stops), "", []
    ends = [len(text[: n + 1].encode()) - 1 for n in range(len(text))]
    flags = [data.draw(st.booleans()) for _ in text.encode()]

    def note() -> None:
        spans = answer.forced()
        assert list(spans) == sorted(spans)
        found.extend(at for start, end in spans for at in range(n_noted + start, n_noted + end))

    n_noted = 0
    for byte, is_forced in zip(text.encode(), flags, strict=True):
        shown += answer.push(byte, None, is_forced=is_forced)
        if data.draw(st.booleans()):
            note()
            n_noted = len(shown)
    shown += answer.flush()
    note()
    assert found == [at for at in range(len(shown)) if flags[ends[at]]]


@pytest.mark.parametrize(
    ("stops", "text"), [([], "Grüße 🦙!"), (["🦙"], "Grüße "), (["ße"], "Grü"), (["!!"], "Grüße 🦙!")]
)
def test_answer_text(stops: list[str], text: str) -> None:
    answer = AnswerText(FakeTokenizer().stream_decoder(), stops)
    shown = [answer.push(byte, None) for byte in "Grüße 🦙!".encode()]
    assert "".join(shown) + answer.flush() == text
    assert "\ufffd" not in "".join(shown)
