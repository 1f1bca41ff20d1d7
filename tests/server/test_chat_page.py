"""The page as its users work with it: asking, stopping, editing, calls, JSON, settings, what is kept."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Browser, expect

from hermes3.engine.sampling import SamplingParams
from hermes3.server.app import create_app
from tests.llm.fakes import fake_llm, saying
from tests.server.browser import Visit, visiting
from tests.server.live import live
from tests.server.scripted import CUT, HOLD, Model, calls, refuses, says

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
ASKED = "What is the weather in Paris?"
USER, TURN = ".user .said", ".turn:not(.user)"


def set_field(visit: Visit, name: str, value: str) -> None:
    if visit.page.locator("#settings").is_hidden():
        visit.page.keyboard.press("Alt+s")
    visit.page.fill(f"[name={name}]", value)


def test_text_streams_and_is_counted(visit: Visit, model: Model) -> None:
    model.answers = [[*says("Good ", "morning."), HOLD, *says(" It is *late*.")]]
    visit.send("Hello")
    page = visit.page
    expect(page.locator(TURN)).to_contain_text("Good morning.")
    expect(page.locator("#stop")).to_be_visible()
    model.go.set()
    expect(page.locator(".md em")).to_have_text("late")
    expect(page.locator(TURN)).to_contain_text("250 tokens · 31.3 tokens/s · first after 0.25 s · prompt 700")
    expect(page.locator(TURN)).to_contain_text("12 forced by the grammar")
    expect(page.locator("#context")).to_contain_text("950 of 1,000 tokens")
    expect(page.locator("#spoken")).to_contain_text("It is *late*.")
    (asked,) = model.requests
    assert asked["messages"] == [{"role": "user", "content": "Hello"}]
    assert (asked["model"], asked["stream"]) == ("scripted", True)
    assert set(asked) == {"model", "messages", "stream", "stream_options"}


def test_stop_hangs_up_and_keeps_what_came(visit: Visit, model: Model) -> None:
    model.answers = [[*says("One, two"), HOLD], says("three")]
    visit.send("Count")
    expect(visit.page.locator(TURN)).to_contain_text("One, two")
    visit.page.click("#stop")
    expect(visit.page.locator(TURN)).to_contain_text("stopped")
    visit.send("Go on")
    expect(visit.page.locator(TURN).last).to_contain_text("three")
    assert model.requests[1]["messages"][1] == {"role": "assistant", "content": "One, two"}
    assert model.n_left == 1


def test_edit_regenerate_and_undo(visit: Visit, model: Model) -> None:
    page, model.answers = visit.page, [says(text) for text in ("first", "second", "third", "fourth")]
    visit.send("One")
    expect(page.locator(TURN)).to_contain_text("first")
    visit.send("Two")
    expect(page.locator(TURN)).to_have_count(2)
    page.get_by_role("button", name="Regenerate").first.click()
    expect(page.locator(TURN)).to_have_count(1)
    expect(page.locator(TURN)).to_contain_text("third")
    page.click("#undo")
    assert visit.texts(USER) == ["One", "Two"]
    page.get_by_role("button", name="Edit").first.click()
    page.fill("[aria-label='Edit the message']", "Uno")
    page.keyboard.press("Enter")
    expect(page.locator(TURN)).to_contain_text("fourth")
    assert visit.texts(USER) == ["Uno"]
    assert [len(asked["messages"]) for asked in model.requests] == [1, 3, 1, 1]
    assert model.requests[3]["messages"] == [{"role": "user", "content": "Uno"}]


def test_a_call_is_shown_as_it_grows_approved_and_answered(visit: Visit, model: Model) -> None:
    page, call = visit.page, calls("get_weather", '{"city"', ': "Par', 'is"}')
    other = calls("get_weather", "{}", index=1)
    model.answers = [[*call[:3], HOLD, *call[3:], *other], says("It is raining.")]
    set_field(visit, "tools", json.dumps(TOOLS))
    page.select_option("[name=tool_choice]", "required")
    page.uncheck("[name=parallel]")
    visit.send("Weather?")
    card = page.locator(".call").first
    expect(card).to_contain_text('{\n  "city": "Par')
    expect(card).to_contain_text("is being written")
    model.go.set()
    expect(card).to_contain_text("waits for you")
    visit.send("And now?")  # not before the calls are answered
    expect(page.locator("#state")).to_contain_text("Answer the function call first")
    page.fill(".call >> nth=0 >> textarea", '{"rain": true}')
    card.get_by_role("button", name="Approve and answer").click()
    assert len(model.requests) == 1
    page.locator(".call").nth(1).get_by_role("button", name="Decline").click()
    expect(page.locator(".md p")).to_have_text("It is raining.")
    first, second = model.requests
    assert first["tools"] == TOOLS
    assert (first["tool_choice"], first["parallel_tool_calls"]) == ("required", False)
    said, *results = second["messages"][1:]
    assert said["content"] is None
    assert said["tool_calls"][0] == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    assert results[0] == {
        "role": "tool",
        "content": '{"rain": true}',
        "tool_call_id": "call_0",
        "name": "get_weather",
    }
    assert "declined" in results[1]["content"]


def test_a_call_that_was_cut_off_is_not_made(visit: Visit, model: Model) -> None:
    model.answers = [[*calls("get_weather", '{"city": "Pa'), CUT], says("fine")]
    visit.send("Weather?")
    expect(visit.page.locator(".call")).to_contain_text("cut off, it cannot be made")
    expect(visit.page.locator(".trouble")).to_contain_text("ended before the answer did")
    visit.send("Never mind")
    expect(visit.page.locator(TURN).last).to_contain_text("fine")
    assert [each["role"] for each in model.requests[1]["messages"]] == ["user", "user"]


def test_calls_that_cannot_be_made_are_told(visit: Visit, model: Model) -> None:
    broken = {"index": None, "error": "no function is named", "raw": "<tool_call>{}</tool_call>"}
    model.answers = [[*says("So: "), {"broken_tool_calls": [broken]}]]
    visit.send("Weather?")
    expect(visit.page.locator(".trouble")).to_contain_text("A call cannot be made: no function is named")
    expect(visit.page.locator(".trouble")).to_contain_text("<tool_call>{}</tool_call>")


def test_json_is_judged_while_it_comes(visit: Visit, model: Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    model.answers = [[*says('{"n"', ": 1"), HOLD, *says("2}")], says('{"n": "x"}'), [*says('{"n": 1'), CUT]]
    visit.page.keyboard.press("Alt+s")
    visit.page.select_option("[name=format]", "json_schema")
    set_field(visit, "schema", json.dumps(schema))
    visit.send("JSON")
    block = visit.page.locator(".json")
    expect(block.locator(".good")).to_have_text("✓ valid so far, fits the schema")
    model.go.set()
    expect(block.locator(".good")).to_have_text("✓ valid JSON, fits the schema")
    expect(block.locator("pre")).to_have_text('{\n  "n": 12\n}')
    visit.send("again")
    expect(block.last.locator(".bad")).to_contain_text("at /n stands string, not integer")
    visit.send("again")
    expect(block.last.locator(".bad")).to_have_text("✗ cut off before its end")
    assert model.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }


def test_what_the_grammar_forced_is_shaded(visit: Visit, model: Model) -> None:
    """Spans count characters of their chunk; in UTF-16, as the page has it, 😀 is two."""
    page = visit.page
    first = {"content": '{"a😀": "b', "forced_spans": [[0, 7]]}
    model.answers = [[first, *says("ü😀"), {"content": '", "n": 1}', "forced_spans": [[0, 7], [9, 10]]}]]
    page.keyboard.press("Alt+s")
    page.select_option("[name=format]", "json_object")
    visit.send("JSON")
    expect(page.locator(".json pre")).to_have_text('{\n  "a😀": "bü😀",\n  "n": 1\n}')
    expect(page.locator(TURN)).to_contain_text("12 forced by the grammar (shaded)")
    assert page.locator("mark").all_inner_texts() == ["{", '"a😀":', '",', '"n":', "}"]
    page.reload()
    assert page.locator("mark").all_inner_texts()[1] == '"a😀":', "it is kept"
    assert model.requests[0]["forced_spans"] is True
    page.keyboard.press("Alt+s")
    page.check("[name=reasoning]")
    model.answers = [says("{}")]
    visit.send("JSON")
    expect(page.locator(".json")).to_have_count(2)
    assert "forced_spans" not in model.requests[1], "the server refuses it beside thoughts"


def test_settings_are_sent_as_they_are_and_wrong_ones_are_not(visit: Visit, model: Model) -> None:
    given = {"temperature": "0.25", "max_tokens": "40", "seed": "7", "min_p": "0.05", "stop": "END\n###"}
    model.answers = [[{"reasoning_content": "Hm."}, *says("Aye.")]]
    set_field(visit, "system", "Be brief.")
    visit.page.check("[name=reasoning]")
    for name, value in {**given, "top_k": "3.5"}.items():
        set_field(visit, name, value)
    visit.send("Hi")
    expect(visit.page.locator("#banner")).to_contain_text('top_k is "3.5"')
    expect(visit.page.locator("[name=top_k]")).to_be_focused()
    set_field(visit, "top_k", "")
    visit.send("Hi")
    expect(visit.page.locator(TURN)).to_contain_text("Aye.")
    expect(visit.page.locator(".thoughts div")).to_have_text("Hm.")
    (asked,) = model.requests
    assert asked["reasoning"] is True
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    sent = {name: asked[name] for name in given}
    assert sent == {
        "temperature": 0.25,
        "max_tokens": 40,
        "seed": 7,
        "min_p": 0.05,
        "stop": ["END", "###"],
    }
    assert "top_k" not in asked


def test_errors_come_in_the_servers_words(visit: Visit, model: Model) -> None:
    page = visit.page
    model.answers = [
        refuses(429, "Twelve are in work, come back.", **{"retry-after": "9"}),
        [*says("half"), {"error": {"message": "The engine gave up.", "code": "engine_error"}}],
        says("whole"),
    ]
    visit.send("Hi")
    expect(page.locator(".trouble")).to_contain_text("Twelve are in work, come back.")
    expect(page.locator(".trouble")).to_contain_text(
        "429 · invalid_value · tools · the server asks to wait 9 s"
    )
    page.click("text=Try again")
    expect(page.locator(".trouble")).to_contain_text("The engine gave up.")
    expect(page.locator(".md")).to_contain_text("half")
    page.click("text=Try again")
    expect(page.locator(".md")).to_have_text("whole")
    expect(page.locator(".trouble")).to_have_count(0)


def test_conversations_outlive_the_page(visit: Visit, model: Model) -> None:
    page = visit.page
    model.answers = [says("alpha"), [*says("beta"), HOLD]]
    visit.send("First")
    expect(page.locator(TURN)).to_contain_text("alpha")
    page.keyboard.press("Alt+n")
    visit.send("Second")
    expect(page.locator(TURN)).to_contain_text("beta")
    page.reload()
    assert visit.texts("#chats .pick") == ["Second", "First"]
    expect(page.locator(TURN)).to_contain_text("beta")
    expect(page.locator(TURN)).to_contain_text("interrupted")
    page.click("#chats .pick >> text=First")
    assert visit.texts(USER) == ["First"]
    page.get_by_role("button", name="Delete First").click()
    assert visit.texts("#chats .pick") == ["Second"]
    page.click("#undo")
    page.reload()
    assert visit.texts("#chats .pick") == ["Second", "First"]


def test_by_keyboard_alone(visit: Visit, model: Model) -> None:
    keys, page = visit.page.keyboard, visit.page
    model.answers = [calls("get_weather", "{}"), says("Sunny."), says("Once more."), [*says("Long"), HOLD]]
    keys.type("Weather?")
    keys.press("Enter")
    expect(page.locator(".result textarea")).to_be_focused()
    keys.type("sun")
    keys.press("Control+Enter")
    expect(page.locator(".md p")).to_have_text("Sunny.")
    keys.press("Alt+l")
    expect(page.locator("#ask")).to_be_focused()
    keys.press("Alt+u")
    keys.press("End")
    keys.type(" please")
    keys.press("Enter")
    expect(page.locator(".md p")).to_have_text("Once more.")
    keys.press("Alt+r")
    expect(page.locator(".md p")).to_have_text("Long")
    keys.press("Escape")
    expect(page.locator(TURN)).to_contain_text("stopped")
    keys.press("Alt+s")
    expect(page.locator("[name=system]")).to_be_focused()
    keys.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    keys.press("Alt+h")
    expect(page.locator("#help")).to_contain_text("Regenerate the last answer")
    keys.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    keys.press("Alt+m")
    expect(page.locator("#chatml")).to_contain_text("please")
    keys.press("Escape")
    seen = set()
    for _ in range(40):  # whatever can be used is reached, and its focus can be seen
        keys.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert page.evaluate(
            "[document.activeElement, document.activeElement.parentElement].some(each =>"
            "each === document.body || getComputedStyle(each).outlineStyle !== 'none'"
            "|| getComputedStyle(each).boxShadow !== 'none')"
        ), seen
    assert {"new", "export", "import", "theme", "keys", "menu", "title", "prompt", "adjust", "ask"} <= seen
    assert {"Edit", "Copy", "Regenerate", "Approve and answer"} & seen == {"Edit", "Copy", "Regenerate"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen(browser: Browser, model: Model, scheme: str) -> None:
    model.answers = [[*says("| a | b |\n|-|-|\n| 1 | 2 |\n\n```\n" + "x" * 300 + "\n```\n" + "y" * 300)]]
    with live(model.app()) as address:
        size = {"width": 360, "height": 640}
        with visiting(browser, address, viewport=size, color_scheme=scheme) as visit:
            page = visit.page
            expect(page.locator("#side")).to_be_hidden()
            visit.send("z" * 200)
            expect(page.locator("table")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            assert page.evaluate("$('scroll').scrollWidth <= $('scroll').clientWidth")
            for control in ("#menu", "#adjust", "#prompt", "#send", "#model"):
                box = page.locator(control).bounding_box()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= 360
            page.keyboard.press("Alt+s")
            expect(page.locator("#settled")).to_be_in_viewport()
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, ground[4:-1].split(","))) > 380) == (scheme == "light")
            assert visit.complaints == []


def test_with_the_real_routes_and_a_key(browser: Browser) -> None:
    llm, engine = fake_llm(saying("Hello **there**."), step_s=0.001)
    app = create_app(llm, api_keys=["secret"], served_model_name="house/model")
    with llm, live(app) as address, browser.new_context() as profile:
        page = profile.new_page()
        page.goto(address)
        expect(page.locator("#banner")).to_contain_text("Send one of the server's API keys")
        expect(page.locator("[name=key]")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#banner")).to_be_visible()
        page.fill("[name=key]", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_value("house/model")
        expect(page.locator("#settings")).to_be_hidden()
        page.fill("#ask", "<|im_end|>")
        page.keyboard.press("Enter")
        expect(page.locator(".md strong")).to_have_text("there")
        expect(page.locator(TURN)).to_contain_text("tokens/s")
        page.click("#prompt")
        expect(page.locator("#chatml")).to_contain_text("<|im_start|>user\n<|im_end|><|im_end|>\n")
        kept = page.evaluate("JSON.stringify(localStorage)")
        assert "Hello" in kept
        assert "secret" not in kept
    assert engine.n_running == 0


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def test_a_call_over_the_real_routes(browser: Browser) -> None:
    def script(ids: list[int], params: SamplingParams) -> list[int]:
        has_result = b"<tool_response>" in bytes(i for i in ids if i < 256)
        return list((f"{ASKED}: rain." if has_result else CALL).encode())

    llm, _ = fake_llm(script, n_ctx=8000)
    with llm, live(create_app(llm)) as address, visiting(browser, address) as visit:
        set_field(visit, "tools", json.dumps(TOOLS))
        visit.send(ASKED)
        page = visit.page
        expect(page.locator(".call")).to_contain_text('{\n  "city": "Paris"\n}')
        page.fill(".result textarea", '{"rain": true}')
        page.click("text=Approve and answer")
        expect(page.locator(".turn:last-child .md")).to_have_text(f"{ASKED}: rain.")
        page.keyboard.press("Alt+m")
        rendered = page.locator("#chatml")
        for part in ("<tools>", '"name": "get_weather"', CALL.partition("\n")[0], "<tool_response>"):
            expect(rendered).to_contain_text(part)
        assert visit.complaints == []
