"""A headless Chromium (Debian's, never a download) for the tests of the registry's page.

Whatever the browser complains of fails the test: errors and warnings on its console, which is where
violations of the page's policy are told, exceptions, and requests to anywhere else.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

__all__ = ["DESK", "PATIENCE", "PHONE", "SHOTS", "SMALL", "chromium", "opened"]

PATIENCE = 60_000
DESK: ViewportSize = {"width": 1280, "height": 860}
PHONE: ViewportSize = {"width": 390, "height": 844}
SMALL: ViewportSize = {"width": 320, "height": 568}
SHOTS = Path(__file__).parents[3] / ".cache" / "page"
_FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage""".split()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """With a profile of its own, gone afterwards."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program is not None, "tools/system-packages test installs chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            headless=True,
            args=_FLAGS,
            timeout=PATIENCE,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, address: str, *, allow: str = "", **more: Any) -> Iterator[Page]:
    """A page of a fresh profile. ``allow``: a complaint that has this pattern is none."""
    complaints: list[str] = []
    origin = f"http://{address}"

    def complain(text: str) -> None:
        if not (allow and re.search(allow, text)):
            complaints.append(text)

    context = browser.new_context(
        base_url=origin, viewport=more.pop("viewport", DESK), reduced_motion="reduce", **more
    )
    context.set_default_timeout(PATIENCE)
    context.on(
        "console",
        lambda said: complain(said.text) if said.type in ("error", "warning") else None,
    )
    context.on("weberror", lambda raised: complain(str(raised.error)))
    context.on(
        "request",
        lambda asked: None if asked.url.startswith(origin + "/") else complain(asked.url),
    )
    page = context.new_page()
    yield page
    context.close()
    assert not complaints, complaints
