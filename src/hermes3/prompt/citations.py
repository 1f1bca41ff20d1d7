"""Citations in an answer from retrieved documents: ``<co: doc_id>what the document says</co>``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# One id or several between commas, as in Cohere's grounded answers, which the tag comes from; their closing
# tag repeats the ids, <co: 0,1>...</co: 0,1>. An id has 200 characters at most.
_TAG = re.compile(r"<(/?)co(?::([^<>\n]{1,200}))?>")


@dataclass(frozen=True, slots=True)
class Citation:
    """A stretch of the answer, and the documents that it rests on.

    Attributes:
        start, end: where it stands in the text without tags, in characters: ``text[start:end]``.
        text: the stretch itself.
        documents: ids of the documents.
        span: where it stands in the text with the tags, between its own.
    """

    start: int
    end: int
    text: str
    documents: tuple[str, ...]
    span: tuple[int, int] = field(default=(0, 0), compare=False)


def parse_citations(text: str) -> tuple[str, list[Citation]]:
    """The text without its citations' tags, and the citations, by where they start, outer ones first.

    Citations may hold and cross each other. A tag that has no partner stays in the text. Linear in the text.
    """
    tags = [*_TAG.finditer(text)]
    partner = _partners(tags)
    pieces: list[str] = []
    n_chars = 0
    read_to = 0
    starts: dict[int, int] = {}  # opening tag -> where its citation starts in the text without tags
    spans: list[tuple[int, int, str, tuple[int, int]]] = []
    for index, tag in enumerate(tags):
        if index not in partner:
            continue
        pieces.append(text[read_to : tag.start()])
        n_chars += len(pieces[-1])
        read_to = tag.end()
        if tag[1]:
            opening = tags[partner[index]]
            spans.append((starts[partner[index]], n_chars, opening[2], (opening.end(), tag.start())))
        else:
            starts[index] = n_chars
    plain = "".join([*pieces, text[read_to:]])
    spans.sort(key=lambda span: (span[0], -span[1]))
    return plain, [
        Citation(start, end, plain[start:end], _ids(ids), span) for start, end, ids, span in spans
    ]


def _partners(tags: list[re.Match[str]]) -> dict[int, int]:
    """Pairs of opening and closing tags, by their indexes, both ways.

    ``</co>`` closes the last that is open, ``</co: ids>`` the last with these ids.
    """
    partner: dict[int, int] = {}
    opened: list[int] = []
    opened_by_ids: dict[tuple[str, ...], list[int]] = {}
    for index, tag in enumerate(tags):
        ids = _ids(tag[2] or "")
        if not tag[1]:
            if ids:
                opened.append(index)
                opened_by_ids.setdefault(ids, []).append(index)
            continue
        candidates = opened_by_ids.get(ids, []) if ids else opened
        while candidates and candidates[-1] in partner:
            candidates.pop()
        if candidates:
            other = candidates.pop()
            partner[index], partner[other] = other, index
    return partner


def _ids(text: str) -> tuple[str, ...]:
    return tuple(stripped for part in text.split(",") if (stripped := part.strip()))
