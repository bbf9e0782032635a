"""Write `report.html` for a finished run: one page that loads nothing and runs nothing untrusted.

Data and pictures are in script elements of types that no browser runs, with `<`, `>` and `&`
escaped; the page's script reads them and shows text as text only. The content security policy lets
only this script and style run (by their SHA-256) and no request leave the page.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import html
import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked
from ...artefacts import write_atomically
from ...errors import BlissError, UsageError
from ...indexer import ModelChoice
from ...safe_text import counted
from ...scorer import Reference
from ..folder import RunFolder, located, open_run
from ..models import Say
from ..questions.explain import map_run
from ..review.photographs import check_addresses
from .grouping import group_run, save_groups
from .page_data import page_data
from .thumbnails import PictureShelf

REPORT = "report.html"
IMAGES_SHOWN = 1000


@checked
def save_report(  # noqa: PLR0913 - keyword-only options
    run_folder: str | Path,
    output: str | Path | None = None,
    images: int = IMAGES_SHOWN,
    *,
    keep_pictures: bool = False,
    heatmaps: ModelChoice | None = None,
    reference: Reference | None = None,
    say: Say = lambda line: None,
) -> Path:
    """Write the page of the run in `run_folder` and its `groups.json`; where the page is.

    `output` is the page's file (default `report.html` in the run's folder), `images` how many of
    the most anomalous images are shown one by one. Pictures are looked for where the audit found
    them, and a relative folder also in the folders around the run; the page says where one is
    missing, and `say` is given their number. With `heatmaps`, the images shown pass through that
    model again, by default the run's own, and get maps of their scores (`map_run`, also for
    `reference`); `say` is given how many, and why not more. Raises UsageError where there is no run
    or it names an address that the user has not named, BlissError where its files have changed or
    the page cannot be written, and with `keep_pictures` where a page with pictures would be
    replaced by one without any.
    """
    if images < 1:
        raise UsageError(f"{images} images were asked for", "1 or more", "Correct --top")
    run = open_run(run_folder)
    check_addresses(run)
    grouping = group_run(run)
    if output is None:  # with another place for the page, the run may be read-only
        save_groups(grouping, run)
    shelf = PictureShelf()
    path = Path(output) if output else run.folder / REPORT
    with _collector_paused():
        data = page_data(run, grouping, images, shelf, path)
    if heatmaps is not None:
        _add_maps(data["images"], run, heatmaps, reference, say)
    page = page_html(data, shelf.encoded).encode("utf-8")
    missing = [image for image in data["images"] if image["picture"] is None]
    where = located(run.source, run.folder)
    if missing and not shelf.encoded and keep_pictures and _has_pictures(path):
        raise BlissError(
            f"none of the {counted(len(missing), 'picture')} was found in {where} (the first: "
            f"{missing[0]['path']}: {missing[0].get('no_picture')}), and {path} has pictures",
            "the images where the audit found them",
            "Run this in the folder in which the audit ran, or write the page without pictures to "
            "another file with --output",
        )
    if missing:
        total = len(data["images"])
        say(f"not found in {where}: {len(missing):,} of {counted(total, 'picture')}")
    write_atomically(path, lambda file: file.write(page))
    return path


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without searches for cyclic garbage, of which there is none: one of all objects of a process
    with torch takes half a second."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _add_maps(
    images: Sequence[dict[str, Any]],
    run: RunFolder,
    model: ModelChoice,
    reference: Reference | None,
    say: Say,
) -> None:
    """Give `map` to the images that can have one, and say how many and why not more."""
    rows = run.columns(["row"])["row"].to_numpy()
    order = np.argsort(rows, kind="stable")
    shown = np.array([image["row"] for image in images], np.int64)
    positions = order[np.searchsorted(rows[order], shown)]
    try:
        made = map_run(run, positions, model, say, reference)
    except BlissError as error:
        say(f"no heatmaps: {error}")
        return
    for image in images:
        if image["row"] in made.maps:
            image["map"] = made.maps[image["row"]]
    say(made.text())


def _has_pictures(path: Path) -> bool:
    """Whether there is a page at `path` with a picture."""
    if not path.is_file():
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as page:
        return page.find(b'id="picture-0"') >= 0


HERE = Path(__file__).parent
SCRIPTS = (
    "elements.js",
    "state.js",
    "decisions.js",
    "charts.js",
    "evidence.js",
    "copies.js",
    "labels.js",
    "summary.js",
    "gallery.js",
    "review.js",
    "map.js",
    "start.js",
)
"""The parts of the page's script, in the order they are put together."""


def page_html(data: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """The whole page for `data` (see `page_data`) and base64 WebP `pictures` by number."""
    script = page_script()
    style = (HERE / "page.css").read_text(encoding="utf-8")
    parts = {
        "policy": policy(script, style),
        "title": html.escape(str(data["title"])),
        "style": style,
        "data": json_for_html(data),
        "pictures": "\n".join(
            f'<script type="text/plain" id="picture-{number}">{picture}</script>'
            for number, picture in enumerate(pictures)
        ),
        "script": script,
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def page_script() -> str:
    """The page's script: its parts inside one function, so that nothing of it is global."""
    parts = [(HERE / "script" / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return "(() => {\n'use strict';\n" + "\n".join(parts) + "\n})();\n"


def policy(script: str, style: str) -> str:
    """The content security policy for one script and one style."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{source_hash(script)}'",
            f"style-src '{source_hash(style)}'",
            "img-src data: file:",
            "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def source_hash(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def json_for_html(data: Mapping[str, Any]) -> str:
    """JSON in ASCII in which no character means anything to an HTML parser."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
