"""The page's readers: Markdown as nodes, JSON while it is written; held against json and jsonschema."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from playwright.sync_api import Browser

from tests.server.browser import Visit, visiting
from tests.server.live import live
from tests.server.scripted import Model


@pytest.fixture(scope="module")
def opened(browser: Browser) -> Iterator[Visit]:
    with live(Model().app()) as address, visiting(browser, address) as visit:
        yield visit
        assert visit.complaints == []


MARKDOWN = [
    ("a *b* **c** `e*f*` ~~g~~", "<p>a <em>b</em> <strong>c</strong> <code>e*f*</code> <del>g</del></p>"),
    ("***d***", "<p><strong><em>d</em></strong></p>"),
    ("snake_case_name and _so_ 2 * 3 * 4", "<p>snake_case_name and <em>so</em> 2 * 3 * 4</p>"),
    ("# One\n## Two ##\n####### no", "<h3>One</h3><h4>Two</h4><p>####### no</p>"),
    ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
    ("- a\n- b\n  - c", "<ul><li>a</li><li><p>b</p><ul><li>c</li></ul></li></ul>"),
    ("- a\n\n1. x\n2. y", "<ul><li>a</li></ul><ol><li>x</li><li>y</li></ol>"),
    ("3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'),
    ("> a\n> - b", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>"),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    ("**open", "<p>**open</p>"),
    ("\\*a\\* <b>c</b> &amp;", "<p>*a* &lt;b&gt;c&lt;/b&gt; &amp;amp;</p>"),
    (
        "| a | b |\n|--|:-:|\n| 1 | 2 |",
        '<div class="scrolls" tabindex="0"><table><tr><th>a</th><th>b</th></tr>'
        "<tr><td>1</td><td>2</td></tr></table></div>",
    ),
    ("[x](ftp://a.b) [y](/z)", "<p>[x](ftp://a.b) [y](/z)</p>"),
]
MADE = "source => { const box = el('div'); markdown(box, source); "


@pytest.mark.parametrize(("source", "expected"), MARKDOWN)
def test_markdown(opened: Visit, source: str, expected: str) -> None:
    assert opened.page.evaluate(MADE + "return box.innerHTML; }", source) == expected


def test_links(opened: Visit) -> None:
    source = "[a](https://x.y/z) (see http://x.y/a_(b)). https://x.y/?q=1&r=2, <https://x.y>"
    script = MADE + "return [...box.querySelectorAll('a')].map(each => each.href); }"
    found = opened.page.evaluate(script, source)
    assert found == ["https://x.y/z", "http://x.y/a_(b)", "https://x.y/?q=1&r=2", "https://x.y/"]


def test_code_keeps_its_text(opened: Visit) -> None:
    source = "1. x\n\n   ```py\n   if a:\n       b\n   ```\n\n~~~\n```\n~~~\n\n```js\nopen"
    script = MADE + (
        "return [...box.querySelectorAll('.block')]"
        ".map(each => ['span', 'code'].map(name => each.querySelector(name).textContent)); }"
    )
    assert opened.page.evaluate(script, source) == [["py", "if a:\n    b"], ["text", "```"], ["js", "open"]]


def test_streamed_markdown_is_the_same_as_whole(opened: Visit) -> None:
    source = "\n\n".join(text for text, _ in MARKDOWN)
    script = """source => {
        const whole = el('div'), grown = el('div');
        markdown(whole, source);
        for (let end = 0; end <= source.length; end++) markdown(grown, source.slice(0, end));
        return [whole.innerHTML === grown.innerHTML, whole.childNodes.length];
    }"""
    assert opened.page.evaluate(script, source)[0] is True


@pytest.mark.parametrize(
    "piece",
    ["*", "**", "_a", "`", "[", "[a](", "![", "<", ">", "> ", "- ", "  - ", "1. ", "#", "|", "|-", "~~", "\\",
     "http://", "a*b ", "*a **b ", "```\n", "- - ", "\n", "[x](http://a.b) ", " ", "\t- "],
)  # fmt: skip
def test_no_text_takes_long(opened: Visit, piece: str) -> None:
    script = "text => { const began = now(); markdown(el('div'), text); return now() - began; }"
    assert opened.page.evaluate(script, (piece * 60_000)[:60_000]) < 2500
    assert opened.page.evaluate(script, ((piece + "\n") * 60_000)[:60_000]) < 2500


HOPELESS = ["{a", '{"a" 1', "[1 2", "[01", '{"a":1,,', "nulx", "}", "[}", '"\\x', '"\n', "{} x", "[1,]", "-a"]


def some_json(source: random.Random, depth: int = 0) -> Any:
    kind = source.randrange(9 if depth < 4 else 6)
    if kind < 6:
        texts = ["", "x", '"', "\\", "é🦙", "\n\t", "{[,:]}", "true", "\u2028", "a" * 30]
        numbers = [source.uniform(-1e6, 1e6), source.randrange(-99, 99)]
        return [None, True, False, *numbers, source.choice(texts)][kind]
    if kind == 6:
        return [some_json(source, depth + 1) for _ in range(source.randrange(4))]
    return {source.choice("abcdefé\"\\"): some_json(source, depth + 1) for _ in range(source.randrange(4))}


def states(visit: Visit, texts: list[str]) -> list[str]:
    """'whole', 'open' or 'bad' for each."""
    state = "text => { try { return soFar(text).isOpen ? 'open' : 'whole'; } catch { return 'bad'; } }"
    return visit.page.evaluate(f"texts => texts.map({state})", texts)


def test_every_beginning_of_json_is_valid_so_far(opened: Visit) -> None:
    source = random.Random(7)
    for _ in range(40):
        value, is_ascii, indent = some_json(source), source.random() < 0.5, source.choice([None, 1])
        text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
        *beginnings, whole = states(opened, [text[:end] for end in range(len(text) + 1)])
        assert whole == "whole"
        assert "bad" not in beginnings


def test_what_is_no_json_is_bad(opened: Visit) -> None:
    """A text spoilt at one place is whole exactly where Python's parser takes it."""
    source, texts = random.Random(8), []
    for _ in range(600):
        text = json.dumps(some_json(source))
        at = source.randrange(len(text) + 1)
        texts.append(text[:at] + source.choice('{}[]",:0-etn\\') + text[at + source.randrange(2) :])
    for text, state in zip(texts, states(opened, texts), strict=True):
        try:
            json.loads(text, parse_constant=lambda name: 1 / 0)
            assert state == "whole", text
        except (ValueError, ZeroDivisionError):
            assert state != "whole", text
    assert states(opened, HOPELESS) == ["bad"] * len(HOPELESS)


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "kind"],
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["red", "green", 5, {"a": [1]}]},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "list": {"type": "array", "items": {"allOf": [{"type": ["integer", "string"]}]}},
        "fixed": {"const": "x"},
    },
}


def some_instance(source: random.Random, depth: int = 0) -> Any:
    kind = source.choice(["red", "green", "blue", 5, {"a": [1]}, {"a": []}])
    made: dict[str, Any] = {"name": source.choice(["", "abc", "d", 5]), "kind": kind}
    if source.random() < 0.2:
        del made[source.choice(["name", "kind"])]
    if source.random() < 0.5 and depth < 3:
        made["next"] = source.choice([None, some_instance(source, depth + 1), 5])
    if source.random() < 0.5:
        made["list"] = [source.choice([1, 2, "a", "b", 1.5, None]) for _ in range(source.randrange(3))]
    made |= source.choice([{}, {}, {}, {"fixed": "x"}, {"fixed": "y"}, {"more": 1}])
    return made


def test_fits_are_those_of_jsonschema(opened: Visit) -> None:
    """Whole instances as jsonschema judges them; of those that fit, every beginning fits."""
    source, validator = random.Random(9), jsonschema.Draft202012Validator(SCHEMA)
    instances = [some_instance(source) for _ in range(300)]
    fault = "text => { const { value, isOpen } = soFar(text); return misfit(schema, value, isOpen).fault; }"
    script = f"([schema, texts]) => texts.map({fault})"
    faults = opened.page.evaluate(script, [SCHEMA, [json.dumps(each) for each in instances]])
    expected = [validator.is_valid(each) for each in instances]
    assert [fault == "" for fault in faults] == expected
    assert 30 < sum(expected) < 270
    for each in [each for each, fits in zip(instances, expected, strict=True) if fits][:30]:
        text = json.dumps(each)
        beginnings = [text[:end] for end in range(1, len(text))]
        assert set(opened.page.evaluate(script, [SCHEMA, beginnings])) == {""}


def test_a_schema_that_never_ends_ends(opened: Visit) -> None:
    began = time.monotonic()
    same = [{"$ref": "#"}] * 9
    for schema in ({"$ref": "#"}, {"anyOf": same}, {"allOf": same}, {"items": {"$ref": "#/x"}}):
        opened.page.evaluate("schema => misfit(schema, [[1], 2], false)", schema)
    assert time.monotonic() - began < 5


def test_pretty_json_is_the_same_json(opened: Visit) -> None:
    source = random.Random(10)
    for _ in range(60):
        text = json.dumps(some_json(source), indent=source.choice([None, 1]))
        pretty = opened.page.evaluate("text => pretty(text).join('')", text)
        assert json.loads(pretty) == json.loads(text)
    begun = '{"n":12345678901234567890,"a":[],"b":"{,}'
    assert opened.page.evaluate("text => pretty(text).join('')", begun) == (
        '{\n  "n": 12345678901234567890,\n  "a": [],\n  "b": "{,}'
    )
