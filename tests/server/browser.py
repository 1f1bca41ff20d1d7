"""A headless Chromium for the tests of the page; whatever its console or its policies complain of is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REPORT_VIOLATIONS = """document.addEventListener('securitypolicyviolation', event =>
    console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`))"""


@contextmanager
def browser_at(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page at the server's address, in a profile of its own.

    Attributes:
        complaints: of the console and of policies, errors of the script, dialogs, requests to elsewhere.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)

    def send(self, text: str) -> None:
        self.page.fill("#ask", text)
        self.page.press("#ask", "Enter")

    def texts(self, selector: str) -> list[str]:
        return [each.strip() for each in self.page.locator(selector).all_inner_texts()]


@contextmanager
def visiting(browser: Browser, address: str, **context: object) -> Iterator[Visit]:
    with browser.new_context(**context) as profile:  # type: ignore[arg-type]
        page = profile.new_page()
        page.set_default_timeout(15_000)
        visit = Visit(page)

        def hear(text: str) -> None:
            visit.complaints.append(text)

        def see(url: str) -> None:
            if not url.startswith((address, "data:", "blob:")):
                hear(f"asked {url}")

        page.on("console", lambda message: hear(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: hear(f"{error}\n{error.stack}"))
        page.on("dialog", lambda dialog: (hear(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: see(request.url))
        page.add_init_script(REPORT_VIOLATIONS)
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        yield visit
