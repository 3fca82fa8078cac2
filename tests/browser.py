"""Opens pages in a real browser: Debian's chromium, driven by playwright. Tests that use it are marked extras."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def opened(page: Path, width: int = 1280, dark: bool = False) -> Iterator[Any]:
    """A page from the disk. Fails where it has an error, asks for anything but itself, or is wider than the window."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium here")
    problems: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        tab.on("console", lambda message: problems.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
        tab.on("request", lambda request: problems.append(request.url) if _leads_elsewhere(request.url, page) else None)
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        yield tab
        browser.close()
    assert problems == []


def _leads_elsewhere(url: str, page: Path) -> bool:
    return url != page.as_uri() and not url.startswith("data:")
