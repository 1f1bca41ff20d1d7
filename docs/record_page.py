"""Takes the README's pictures of the chat page: a real server, a real browser, `smol`.

    python docs/record_page.py            # writes docs/page-call.png and docs/page-json.png
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
SIZE = {"width": 1080, "height": 660}
PLACE = {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}}
TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": PLACE, "required": ["city"]}}
TOWN = {"name": {"type": "string"}, "country": {"type": "string"}, "capital": {"type": "boolean"}}
SCHEMA = {"type": "object", "properties": TOWN, "required": list(TOWN), "additionalProperties": False}


def asks(page: Page, text: str, ready: str, **settings: str) -> None:
    page.keyboard.press("Alt+s")
    page.fill("[name=temperature]", "0")
    page.fill("[name=max_tokens]", "100")
    page.uncheck("[name=parallel]")
    for name, value in settings.items():
        field = page.locator(f"[name={name}]")
        if field.evaluate("each => each.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
    page.keyboard.press("Escape")
    page.fill("#ask", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(ready)
    page.wait_for_selector("#stop", state="hidden")


def call(page: Page) -> None:
    tools = json.dumps([{"type": "function", "function": TOOL}], indent=1)
    asks(page, "What is the weather in Paris?", ".result", tools=tools, tool_choice="required")
    page.fill(".result textarea", '{"sky": "rain", "degrees": 11}')


def answer(page: Page) -> None:
    asks(page, "Where is the Eiffel Tower?", ".md p")
    asks(page, "Tell me about Lisbon.", ".json", format="json_schema", schema=json.dumps(SCHEMA, indent=1))


def record(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, scheme, act in (("call", "light", call), ("json", "dark", answer)):
            page = browser.new_page(viewport=SIZE, color_scheme=scheme)
            page.goto(address)
            page.wait_for_selector("#model option", state="attached")
            act(page)
            page.screenshot(path=HERE / f"page-{name}.png")
        browser.close()


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ["-c", "from hermes3.cli import main; main()", "serve", "--model", "smol", "--port", str(port)]
    with subprocess.Popen([sys.executable, *serve]) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    httpx.get(f"{address}/ready").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            record(address)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
