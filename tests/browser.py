"""Opens pages in a real browser: Debian's chromium, driven by playwright. Tests that use it are marked extras."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CAMERA = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
"""Options of a browser whose camera shows a pattern."""


@contextmanager
def chromium(*options: str) -> Iterator[Any]:
    """A browser. Skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium here")
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", *options]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(page: Path, width: int = 1280, dark: bool = False) -> Iterator[Any]:
    """A page from the disk. Fails where it has an error, asks for anything but itself, or is wider than the window."""
    problems: list[str] = []
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        tab.on("console", lambda message: problems.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
        tab.on("request", lambda request: problems.append(request.url) if _leads_elsewhere(request.url, page) else None)
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        yield tab
    assert problems == []


def _leads_elsewhere(url: str, page: Path) -> bool:
    return url != page.as_uri() and not url.startswith("data:")


@contextmanager
def visited(url: str, width: int = 1280) -> Iterator[Any]:
    """A page of a server, in a browser with a camera. Fails where it has an error or asks another server."""
    problems: list[str] = []
    server = url[: url.index("/", len("http://"))]
    with chromium(*CAMERA) as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, permissions=["camera"])
        tab = context.new_page()
        tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
        ours = (server, "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(ours) else problems.append(request.url))
        tab.goto(url)
        yield tab
        context.close()
    assert problems == []
