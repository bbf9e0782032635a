"""A real browser for the report's page; the tests say why they are skipped where there is none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SIZES = {"desktop": (1280, 860), "phone": (390, 844), "wide": (2560, 1300)}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("BLISS_BROWSER") == "required"


def missing(what: str) -> NoReturn:
    """Skip, or fail where the browser tests are required, because `what` is not installed."""
    (pytest.fail if REQUIRED else pytest.skip)(f"the browser tests need: {what}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; gone when the module ends, as later tests expect."""
    try:
        import playwright.sync_api as playwright
    except ImportError:
        missing("pip install playwright")
    if CHROMIUM is None:
        missing("apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Watched:
    """One open page and everything it did that it must not do."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.trouble: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("console", lambda message: self.trouble.append(message.text))
        page.on("dialog", self._dialog)
        page.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )

    def _dialog(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.trouble.append(f"dialog: {dialog.message}")
        dialog.accept()

    def outside(self) -> list[str]:
        """Requests for anything but the page's own file and what lies in it."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]

    def status(self) -> str:
        """What the live region says."""
        return self.page.locator("#status").inner_text()


Open = Callable[..., Watched]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """`open_page(path, view, size, scheme)`: the page at `path`, offline and watched."""
    contexts = []

    def opened(
        path: Path, view: str = "overview", size: str = "desktop", scheme: str = "light"
    ) -> Watched:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            offline=True,
            accept_downloads=True,
            has_touch=size == "phone",
        )
        contexts.append(context)
        watched = Watched(context.new_page())
        watched.page.set_default_timeout(10_000)
        watched.page.goto(f"{path.resolve().as_uri()}#{view}")
        watched.page.wait_for_selector("#main h2")
        return watched

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def serious() -> Callable[[Any], list[str]]:
    """`serious(page)`: what axe-core calls a serious or critical violation on it."""
    try:
        import axe_playwright_python as axe
    except ImportError:
        missing("pip install axe-playwright-python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def violations(page: Any) -> list[str]:
        page.evaluate(f"() => {{ {source} }}")
        found = page.evaluate("async () => (await axe.run()).violations")
        return [
            f"{each['id']}: {json.dumps([node['target'] for node in each['nodes'][:5]])}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    return violations
