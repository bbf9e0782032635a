"""Write docs/report/{explain,pairs,drift}.png: python docs/make_answer_pictures.py

Needs Chromium and playwright, as tests/browser does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from blissaudit.demo.run import write_corpus
from blissaudit.demo.scenes import KINDS, caption, render_scene, sample_scene, with_article
from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).resolve().parent / "report"
SIDE, SEED = 256, 7
NORMAL, STRAYS = ("apple", "boat", "house"), ("clock", "umbrella", "key")
PLACES = ("in a meadow", "at night", "on the sand")
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]


def bliss(*words: object) -> None:
    """Run a command; CalledProcessError where it fails."""
    command = [sys.executable, "-m", "blissaudit", *map(str, words), "-q"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def draw(path: Path, kind: str | None, rng: np.random.Generator) -> str:
    """Save a scene, of any kind where none is named; a caption of it."""
    scene = sample_scene(rng, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    render_scene(scene, SIDE).save(path)
    return caption(scene, rng)


def four(path: Path, kinds: tuple[str, ...], rng: np.random.Generator) -> None:
    """Save a picture of four scenes of one thing each."""
    page = Image.new("RGB", (SIDE, SIDE))
    for place, kind in enumerate(kinds):
        scene = render_scene(replace(sample_scene(rng, kind), count=1), SIDE // 2)
        page.paste(scene, (place % 2 * SIDE // 2, place // 2 * SIDE // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def maps(rng: np.random.Generator) -> None:
    """Pictures of three things of a class and one stray, beside the maps of their scores."""
    for name in NORMAL:
        for number in range(40):
            draw(Path(f"normal/{name}/{number}.png"), name, rng)
    images = []
    for place, (name, stray) in enumerate(zip(NORMAL, STRAYS, strict=True)):
        kinds = [name] * 4
        kinds[place] = stray
        images.append(Path(f"four/{name}/{stray}.png"))
        four(images[-1], tuple(kinds), rng)
    bliss("reference", "fit", "normal", "--model", "demo", "-o", "reference")
    for number, image in enumerate(images):
        bliss("explain", image, "--reference", "reference", "--index", "index",
              "--class", NORMAL[number], "-o", f"maps{number}")  # fmt: skip
    drawn = [Image.open(f"maps{number}/0001.png") for number in range(len(images))]
    width = drawn[0].width
    height = max(each.height for each in drawn)
    page = Image.new("RGB", (len(images) * (width + 12) - 12, SIDE + 12 + height), "white")
    for number, (image, over) in enumerate(zip(images, drawn, strict=True)):
        page.paste(Image.open(image), (number * (width + 12), 0))
        page.paste(over, (number * (width + 12), SIDE + 12))
    page.save(PICTURES / "explain.png", optimize=True)


def pairs(rng: np.random.Generator) -> None:
    """The page of 60 pairs, six of whose captions were swapped."""
    words = [draw(Path(f"pairs/{number:02d}.png"), None, rng) for number in range(60)]
    swapped = rng.choice(60, 6, replace=False)
    for to, source in zip(swapped, np.roll(swapped, 1), strict=True):
        Path(f"pairs/{to:02d}.txt").write_text(words[source])
    for number, text in enumerate(words):
        if number not in swapped:
            Path(f"pairs/{number:02d}.txt").write_text(text)
    bliss("pairs", "pairs", "--index", "index", "--shown", 6, "-o", "checked")


def drift(rng: np.random.Generator) -> None:
    """The page of two collections, the second with 14 umbrellas."""
    for side, count in (("2023", 120), ("2024", 106)):
        for number in range(count):
            draw(Path(f"{side}/{number:03d}.png"), NORMAL[number % 3], rng)
    for number in range(14):
        draw(Path(f"2024/{200 + number}.png"), "umbrella", rng)
    lines = [f"{kind} {where}" for kind in map(with_article, KINDS) for where in ("", *PLACES)]
    Path("kinds.txt").write_text("\n".join(lines))
    bliss("index", "build", "kinds.txt", "--model", "demo", "-o", "kinds")
    bliss("drift", "2023", "2024", "--index", "kinds", "--shown", 4, "-o", "changed")


def main() -> None:
    root = Path(tempfile.mkdtemp())
    os.chdir(root)  # so that no path of this machine is in a picture
    write_corpus(Path("captions.txt"), 0)
    bliss("index", "build", "captions.txt", "--model", "demo", "-o", "index")
    rng = np.random.default_rng(SEED)
    for make in (maps, pairs, drift):
        make(rng)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, folder in (("pairs", "checked"), ("drift", "changed")):
            page = browser.new_page(viewport={"width": 900, "height": 760}, color_scheme="light")
            page.goto((root / folder / "report.html").as_uri())
            path = PICTURES / f"{name}.png"
            page.screenshot(path=path)
            with Image.open(path) as shot:
                pixels = shot.convert("RGB").quantize(128)
            pixels.save(path, optimize=True)
        browser.close()
    os.chdir("/")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
