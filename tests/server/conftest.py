"""The page in a browser, with a scripted model behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.server.browser import Visit, browser_at, visiting
from tests.server.live import live
from tests.server.scripted import Model


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    """One for a module: while it is open, its event loop takes the thread from asyncio.run."""
    with browser_at(chromium) as opened:
        yield opened


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def visit(browser: Browser, model: Model) -> Iterator[Visit]:
    """A first visit; at the end nothing may have been complained of."""
    with live(model.app()) as address, visiting(browser, address) as visit:
        yield visit
        model.go.set()
        refused = "Failed to load resource: the server responded with a status of"  # the browser's own line
        assert [text for text in visit.complaints if not text.startswith(refused)] == []
