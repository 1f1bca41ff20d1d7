"""What reaches the page from models, files, storage and servers stays text, whatever it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from tests.server.browser import Visit, visiting
from tests.server.live import live
from tests.server.scripted import Model, calls, refuses, says

# Of OWASP's filter evasion cheat sheet and of Markdown renderers' advisories. Any that ran would call alert.
EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<math><mtext></mtext><script>alert(1)</script></math>",
    "<style>@import 'http://evil.example/x.css';</style>",
    "<link rel=stylesheet href=http://evil.example/x.css>",
    "<base href=http://evil.example/>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<form action=javascript:alert(1)><button>x</button></form>",
    "<a href='javascript:alert(1)'>x</a>",
    "<details open ontoggle=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "'\"><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "{{constructor.constructor('alert(1)')()}}",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example/x)",
    "[x](blob:http://evil.example/1)",
    "[x](https://evil.example/\"onmouseover=alert(1)\")",
    "![x](http://evil.example/track.png)",
    "![x](javascript:alert(1))",
    "<javascript:alert(1)>",
    "https://evil.example/<script>alert(1)</script>",
    "`<img src=x onerror=alert(1)>`",
    "```html\n<img src=x onerror=alert(1)>\n```",
    "```<script>alert(1)</script>\nx\n```",
    "| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <svg onload=alert(1)> | 2 |",
    "# <img src=x onerror=alert(1)>",
    "> <img src=x onerror=alert(1)>",
    "- <img src=x onerror=alert(1)>",
    "**<img src=x onerror=alert(1)>**",
    "__proto__",
]  # fmt: skip
ALLOWED = {
    "A", "BLOCKQUOTE", "BUTTON", "CODE", "DEL", "DIV", "EM", "H3", "H4", "H5", "H6", "HEADER", "HR",
    "LI", "OL", "P", "PRE", "SPAN", "STRONG", "TABLE", "TD", "TH", "TR", "UL",
}  # fmt: skip
ATTRIBUTES = {
    "a": {"href", "title", "target", "rel"},
    "pre": {"tabindex", "aria-label"},
    "div": {"class", "tabindex"},
    "button": {"type", "class"},
    "ol": {"start"},
    "span": {"class"},
}


def check_markup(visit: Visit) -> None:
    """Answers hold nothing but the list of elements, and no attribute that was not meant."""
    found = visit.page.evaluate(
        "[...document.querySelectorAll('.md *')]"
        ".map(each => [each.tagName, each.getAttributeNames(), each.href || ''])"
    )
    assert found
    for tag, names, address in found:
        assert tag in ALLOWED
        assert set(names) <= ATTRIBUTES.get(tag.lower(), set()), (tag, names)
        assert address.startswith(("http://", "https://")) == (tag == "A")
    for anchor in visit.page.locator(".md a").all():
        assert anchor.get_attribute("rel") == "noopener noreferrer nofollow"
        assert anchor.get_attribute("target") == "_blank"


def check_calm(visit: Visit) -> None:
    """What would run by itself has had its time."""
    visit.page.wait_for_timeout(100)
    active = "script, iframe, img, svg, link, base, style, meta[http-equiv]"
    assert visit.page.locator(active).count() == 3  # the page's own script, style and icon
    assert visit.page.evaluate("({}).polluted") is None


def test_answers_stay_text(visit: Visit, model: Model) -> None:
    model.answers = [says(*(f"{text}\n\n" for text in EVIL)), says(*(char for char in "\n\n".join(EVIL)))]
    for _ in model.answers[:]:
        visit.send("Go")
        expect(visit.page.locator(".turn:last-child")).to_contain_text("250 tokens")
    check_markup(visit)
    check_calm(visit)
    shown = visit.page.locator(".md").first.inner_text()
    for text in ("<script>alert(1)</script>", "[x](javascript:alert(1))", "<iframe src=javascript:alert(1)>"):
        assert text in shown


def test_calls_and_errors_stay_text(visit: Visit, model: Model) -> None:
    evil = "\n".join(EVIL)
    call = calls(evil, json.dumps({evil: evil}))
    model.answers = [call, says("x"), refuses(400, evil), [{"error": {"message": evil}}]]
    visit.send(evil)
    expect(visit.page.locator(".call strong")).to_contain_text("<script>alert(1)</script>")
    visit.page.fill(".result textarea", evil)
    visit.page.click("text=Approve and answer")
    expect(visit.page.locator(".turn:last-child")).to_contain_text("250 tokens")
    for _ in range(2):
        visit.send(evil)
        expect(visit.page.locator(".turn:last-child .trouble")).to_contain_text("<svg onload=alert(1)>")
    visit.page.keyboard.press("Alt+m")
    expect(visit.page.locator("#chatml")).to_contain_text("<iframe")
    check_calm(visit)


def conversation(**more: Any) -> dict[str, Any]:
    return {"title": "t", "messages": [{"role": "user", "content": "hi"}], **more}


def bring(visit: Visit, tmp_path: Path, raw: object) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    visit.page.set_input_files("#file", path)


def test_imported_conversations_stay_text(visit: Visit, tmp_path: Path) -> None:
    evil = "\n\n".join(EVIL)
    call = {"id": evil, "type": "function", "function": {"name": evil, "arguments": json.dumps({evil: 1})}}
    about = {"finish": evil, "verdict": evil, "prompt": 3, "error": {"message": evil, "detail": evil}}
    said = {"role": "assistant", "content": evil, "reasoning_content": evil, "about": about}
    said["tool_calls"] = [call]
    json_said = {"role": "assistant", "content": evil, "about": {"format": evil, "verdict": evil}}
    tool = {"role": "tool", "tool_call_id": evil, "name": evil, "content": evil}
    settings = dict.fromkeys(("system", "tools", "schema", "format", "tool_choice", "temperature"), evil)
    messages = [{"role": "user", "content": evil}, said, tool, json_said]
    raw = json.dumps({"conversations": [conversation(title=evil, messages=messages, settings=settings)]})
    bring(visit, tmp_path, raw.replace('"title"', '"__proto__": {"polluted": 1}, "id": "../x", "title"', 1))
    expect(visit.page.locator(".said")).to_contain_text("<script>")
    visit.page.keyboard.press("Alt+s")
    check_markup(visit)
    check_calm(visit)
    visit.page.reload()
    expect(visit.page.locator(".said")).to_contain_text("<script>")
    check_calm(visit)


BAD_FILES = [
    ("{", "JSON"),
    (None, "conversations[0] is not a conversation"),
    ([1], "conversations[0] is not a conversation"),
    ([conversation(), conversation(messages=[{"role": "king"}])], "conversations[1].messages[0].role is not"),
    ([conversation(messages=[{"role": "user", "content": {}}])], "messages[0].content is not a string"),
    ([conversation(messages=[None])], "role is not user"),
    ([conversation(title=5)], "conversations[0].title is not a string"),
    ([conversation(settings={"parallel": "yes"})], "settings.parallel is not a boolean"),
    ([conversation(messages=[{"role": "assistant", "tool_calls": {}}])], "tool_calls is not a list"),
    ([conversation(messages=[{"role": "assistant", "about": {"rate": "9"}}])], "about.rate is not a number"),
    ([conversation()] * 201, "more than 200 conversations"),
]


def test_bad_files_are_refused_whole_with_the_place(visit: Visit, tmp_path: Path) -> None:
    kept = "[chats.size, Object.keys(localStorage).filter(key => key.startsWith(PREFIX)).length]"
    for raw, why in BAD_FILES:
        bring(visit, tmp_path, raw)
        expect(visit.page.locator("#banner")).to_contain_text(".json was not imported")
        expect(visit.page.locator("#banner")).to_contain_text(why)
        assert visit.page.evaluate(kept) == [0, 0]


def test_export_and_import_are_inverse(visit: Visit, model: Model, tmp_path: Path) -> None:
    page = visit.page
    model.answers = [calls("get_weather", '{"city": "Paris"}'), says("Rain 🦙.")]
    visit.send("Weather?")
    page.fill(".result textarea", "rain")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".md")).to_contain_text(["", "Rain 🦙."])
    expect(page.locator(".turn:last-child")).to_contain_text("250 tokens")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "out.json")
    one = "JSON.stringify([chat.messages, chat.settings, chat.title])"
    before = page.evaluate(one)
    page.get_by_role("button", name="Delete Weather?").click()
    page.set_input_files("#file", tmp_path / "out.json")
    expect(page.locator("#toast")).to_contain_text("1 imported")
    assert page.evaluate(one) == before
    expect(page.locator(".call")).to_contain_text("answered")


def test_hostile_names_of_models_stay_text(browser: Browser) -> None:
    model = Model(name="<img src=x onerror=alert(1)>\"'")
    with live(model.app()) as address, visiting(browser, address) as visit:
        expect(visit.page.locator("#model")).to_have_value(model.name)
        check_calm(visit)
        assert visit.complaints == []


def test_storage_that_was_meddled_with_is_told_and_left(visit: Visit) -> None:
    page = visit.page
    odd = json.dumps({"messages": [], "title": "odd"})
    for name, text in (("bad", '{"messages": 5}'), ('"><img src=x onerror=alert(1)>', odd)):
        page.evaluate("([name, text]) => { localStorage['hermes3.chat.' + name] = text; }", [name, text])
    page.reload()
    expect(page.locator("#banner")).to_contain_text("1 of the kept conversations cannot be read")
    assert visit.texts("#chats .pick") == ["odd"]
    assert page.evaluate("localStorage['hermes3.chat.bad']") == '{"messages": 5}'
    check_calm(visit)


def test_full_storage_is_told_and_nothing_is_lost(visit: Visit, model: Model) -> None:
    page = visit.page
    page.evaluate(
        "for (let n = 5e6, i = 0; n >= 10; n /= 2)"
        "try { localStorage['rest' + i++] = 'x'.repeat(n); } catch { /* half of it next */ }"
    )
    model.answers = [says("The answer " * 50)]
    visit.send("Hi")
    expect(page.locator(".turn:last-child")).to_contain_text("250 tokens")
    expect(page.locator("#banner")).to_contain_text("This browser did not keep the conversation")
    assert visit.texts("#chats .pick") == ["Hi"]


def test_two_tabs_do_not_overwrite_each_other(visit: Visit, model: Model) -> None:
    model.answers = [says("one"), says("two")]
    other = visit.page.context.new_page()
    other.goto(visit.page.url)
    visit.send("First")
    expect(other.locator("#chats .pick")).to_have_text(["First"])
    other.fill("#ask", "Second")
    other.press("#ask", "Enter")
    expect(visit.page.locator("#chats .pick")).to_have_text(["Second", "First"])
    other.get_by_role("button", name="Delete First").click()
    expect(visit.page.locator("#chats .pick")).to_have_text(["Second"])
    model.answers = [says("three")]
    visit.send("Still here")  # where it is open nothing is lost: it is kept again
    expect(other.locator("#chats .pick")).to_have_text(["First", "Second"])
