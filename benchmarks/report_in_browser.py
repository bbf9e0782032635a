"""The report of 5,000 rendered images: what it costs, and how it feels in a real browser.

Needs Chromium (apt-get install chromium) and pip install playwright axe-playwright-python; says so
and does nothing where they are missing. Also runs tests/browser and gives their outcome.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from blissaudit.audit.folder import save_audit
from blissaudit.audit.report.page import save_report
from blissaudit.audit.request import AuditRequest, run_audit
from blissaudit.demo.run import write_corpus
from blissaudit.demo.scenes import KINDS, render_scene, sample_scene
from blissaudit.indexer.encode.encoder import ModelChoice
from measuring import Report, begin, peak_extra, verdict

CLAIM = "one self-contained page of 5,000 images that answers within a twentieth of a second"
IMAGES, STRAY_SHARE, PIXELS = 5000, 0.05, 128
TARGET = 0.05
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TESTS = Path(__file__).resolve().parent.parent / "tests" / "browser"
DRAWN = """(act) => new Promise((done) => {
  const start = performance.now();
  act();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""
ACTS = {
    "next page of 48": "[...document.querySelectorAll('#pages button')]"
    ".find((each) => each.textContent === 'Next').click()",
    "search as typed": "const box = document.getElementById('search');"
    "box.value = box.value ? '' : 'photo'; box.dispatchEvent(new Event('input'))",
    "filter by class": "const box = document.getElementById('field-class');"
    "box.selectedIndex = box.selectedIndex ? 0 : 1; box.dispatchEvent(new Event('change'))",
    "sort": "const box = document.getElementById('field-sort');"
    "box.selectedIndex = box.selectedIndex ? 0 : 1; box.dispatchEvent(new Event('change'))",
    "keep by key": "document.querySelector('#cards .frame').dispatchEvent("
    "new KeyboardEvent('keydown', {key: 'k', bubbles: true}))",
    "select by key": "document.querySelector('#cards .frame').dispatchEvent("
    "new KeyboardEvent('keydown', {key: 'x', bubbles: true}))",
    "open": "document.querySelector('#cards .frame').click()",
    "next": "document.body.dispatchEvent("
    "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))",
    "close": "document.getElementById('review').close()",
}
OPENED = "document.getElementById('review').open || document.querySelector('#cards .frame').click()"
BEFORE = {
    "open": "document.getElementById('review').close()",
    "next": OPENED,
    "close": OPENED,
}
"""What is done before an act, untimed."""
ON_THE_MAP = {
    "colour the map": "const box = document.getElementById('field-colour');"
    "box.selectedIndex = (box.selectedIndex + 1) % 4; box.dispatchEvent(new Event('change'))",
    "point on the map": "const box = document.getElementById('map').getBoundingClientRect();"
    "window.turn = (window.turn ?? 0) + 1;"
    "document.getElementById('map').dispatchEvent(new PointerEvent('pointermove',"
    "{clientX: box.left + 20 * window.turn, clientY: box.top + 150}))",
}


def render(folder: Path) -> None:
    """IMAGES pictures in six class folders, STRAY_SHARE of them of other kinds."""
    rng = np.random.default_rng(7)
    normal, others = KINDS[:6], KINDS[6:]
    for number in range(IMAGES):
        filed = normal[number % len(normal)]
        kind = others[number % len(others)] if rng.random() < STRAY_SHARE else filed
        path = folder / filed / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        render_scene(sample_scene(rng, kind), PIXELS).save(path)


def write_reports(report: Report, root: Path) -> Path:
    """Audit, then time the page of 1,000 and of all images; where the larger one is."""
    render(root / "images")
    request = AuditRequest(
        images=str(root / "images"),
        corpus=str(write_corpus(root / "captions.txt", 0)),
        output=str(root / "run"),
        model=ModelChoice("demo"),
    )
    start = time.perf_counter()
    save_audit(run_audit(request), request.settings, request.output, {"command": "audit"})
    audit = time.perf_counter() - start
    report.say(f"audit of {IMAGES:,} images without its page: {audit:.1f} s")
    path = root / "run" / "report.html"
    for images in (1000, IMAGES):
        seconds = []
        for _ in range(report.runs):
            start = time.perf_counter()
            save_report(request.output, images=images)
            seconds.append(time.perf_counter() - start)
        taken = statistics.median(seconds)
        report.say(
            f"page of {images:,} images: {taken:.1f} s ({taken / audit:.2f} of the audit), "
            f"{path.stat().st_size / 1e6:.1f} MB"
        )
    peak = peak_extra(lambda: save_report(request.output, images=IMAGES))
    if peak is not None:
        report.say(f"peak extra memory while writing the larger: {peak / 2**20:.0f} MiB")
    return path


def time_page(report: Report, browser: Any, path: Path, size: str) -> None:
    """Load the gallery and time each act until its result is drawn; the median of 15."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    start = time.perf_counter()
    page.goto(f"{path.as_uri()}#gallery")
    page.wait_for_selector("#cards .card")
    report.say(f"{size}: opened on the gallery in {time.perf_counter() - start:.2f} s")
    slowest = 0.0
    for view, acts in (("gallery", ACTS), ("map", ON_THE_MAP)):
        page.evaluate(f"location.hash = '{view}'")
        page.wait_for_selector(f"main.view-{view}")
        for name, act in acts.items():
            taken = []
            for _ in range(15):
                if name in BEFORE:
                    page.evaluate(BEFORE[name])
                page.wait_for_timeout(150)  # what the act before left to be drawn
                taken.append(page.evaluate(f"({DRAWN})(() => {{ {act} }})") / 1000)
            report.say(f"  {name:<17} {1000 * statistics.median(taken):6.1f} ms")
            slowest = max(slowest, statistics.median(taken))
    outside = [url for url in requests if not url.startswith(("file:", "data:"))]
    report.say(f"  requests that left the page: {len(outside)}")
    report.say(verdict(f"slowest act on the {size}, seconds", slowest, TARGET, at_least=False))
    context.close()


def run_browser_tests(report: Report) -> int:
    """The outcome of tests/browser, in one line."""
    command = [sys.executable, "-m", "pytest", "--import-mode=importlib", "-rs", str(TESTS)]
    done = subprocess.run(
        [*command, "-o", "addopts=", "-p", "no:cacheprovider"], capture_output=True, text=True
    )
    report.say("tests/browser: " + done.stdout.strip().splitlines()[-1].strip("= "))
    return done.returncode


def main() -> int:
    report = begin("report_in_browser", CLAIM, runs=3)
    chromium = shutil.which("chromium")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print("not run: needs Chromium and playwright")
        return 0
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        path = write_reports(report, Path(folder))
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            report.say(f"Chromium {browser.version}")
            for size in SIZES:
                time_page(report, browser, path, size)
            browser.close()
    status = run_browser_tests(report)
    report.finish()
    return status


if __name__ == "__main__":
    sys.exit(main())
