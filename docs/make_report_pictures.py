"""Write docs/report/*.png, the report of a rendered collection: python docs/make_report_pictures.py

Needs Chromium and playwright, as tests/browser does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from blissaudit.cli import run
from blissaudit.demo.run import write_corpus
from blissaudit.demo.scenes import KINDS, render_scene, sample_scene
from PIL import Image, ImageFilter, ImageOps
from playwright.sync_api import Browser, Page, sync_playwright

PICTURES = Path(__file__).resolve().parent / "report"
NORMAL = ("apple", "boat", "cup", "fish", "house", "key")
EACH, STRAYS, SWAPS = 40, (8, 6, 5, 3, 2, 1), 12
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]


def render(folder: Path) -> None:
    """Class folders of NORMAL with every kind of error: strays, swaps, copies, bad pictures."""
    rng = np.random.default_rng(5)
    others = [kind for kind in KINDS if kind not in NORMAL]
    shown = [(name, name) for name in NORMAL for _ in range(EACH)]
    flat = [kind for kind, count in zip(others, STRAYS, strict=False) for _ in range(count)]
    shown += [(NORMAL[at % len(NORMAL)], kind) for at, kind in enumerate(flat)]
    shown += [(NORMAL[at % 6], NORMAL[(at + 1 + at % 3) % 6]) for at in range(SWAPS)]
    for number, (name, kind) in enumerate(shown):
        path = folder / name / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        render_scene(sample_scene(rng, kind), 256).save(path, quality=90)
    for number, name in enumerate(NORMAL):
        first = folder / name / f"{number * EACH:04d}.jpg"
        shutil.copy(first, folder / name / f"{first.stem}-copy.jpg")
        with Image.open(folder / name / f"{number * EACH + 1:04d}.jpg") as picture:
            ImageOps.mirror(picture).resize((200, 200)).save(folder / name / f"small-{number}.jpg")
    with Image.open(folder / "cup" / f"{2 * EACH + 5:04d}.jpg") as picture:
        picture.point(lambda value: value // 6).save(folder / "cup" / "dark.jpg")
        picture.filter(ImageFilter.GaussianBlur(9)).save(folder / "cup" / "blurred.jpg")
    Image.new("RGB", (256, 256), (240, 240, 240)).save(folder / "key" / "blank.jpg")
    (folder / "cup" / "empty.jpg").write_bytes(b"")
    (folder / "fish" / "cut.jpg").write_bytes(
        (folder / "fish" / f"{3 * EACH:04d}.jpg").read_bytes()[:1500]
    )


def open_page(browser: Browser, page: Path, view: str, size: tuple[int, int], scheme: str) -> Page:
    """The report's page at one view, size (pixels) and colour scheme."""
    opened = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    opened.goto(f"{page.resolve().as_uri()}#{view}")
    opened.wait_for_selector("#main h2")
    return opened


def save_picture(page: Page, name: str) -> None:
    """Photograph the page into docs/report."""
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    pixels.save(path, optimize=True)


def save_pictures(report: Path) -> None:
    """Photograph the views of a report."""
    with sync_playwright() as driver:
        chromium = shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for view in ("overview", "labels"):
            save_picture(open_page(browser, report, view, (1280, 860), "light"), view)
        page = open_page(browser, report, "gallery", (1280, 860), "light")
        page.locator("#field-sort").select_option("worst")
        page.locator("#cards .frame").first.focus()
        for key in ("r", "r", "k"):
            page.keyboard.press(key)
        page.locator("#cards .frame").first.focus()
        page.evaluate("scrollTo(0, 180)")
        save_picture(page, "gallery")
        dark = open_page(browser, report, "gallery", (1280, 860), "dark")
        dark.locator("#cards .frame").nth(4).click()
        save_picture(dark, "image-dark")
        save_picture(open_page(browser, report, "overview", (390, 844), "light"), "phone")
        browser.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp())
    os.chdir(root)  # so that no path of this machine is in a picture
    render(Path("drawings/train"))
    write_corpus(Path("captions.txt"), 0)
    audit = ["audit", "drawings/train", "--corpus", "captions.txt"]
    audit += ["--model", "demo", "--score", "bliss"]
    assert run([*audit, "--flag", "25", "--output", "run", "--quiet"]) == 0
    report = Path("run/report.html")
    save_pictures(report)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
