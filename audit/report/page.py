"""Pages that load nothing and run nothing untrusted: `report.html` of a run, and pages of cards.

Data and pictures are in script elements of types that no browser runs, with `<`, `>` and `&`
escaped; the page's script reads them and shows text as text only. The content security policy lets
only this script and style run (by their SHA-256) and no request leave the page. A page of cards,
pictures beside texts, has no script at all.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import html
import json
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked
from ...artefacts import write_text
from ...errors import BlissError, UsageError
from ...indexer import ModelChoice
from ...safe_text import counted, visible_text
from ...scorer import Reference
from ..folder import RunFolder, located, open_run
from ..models import Say
from ..questions.explain import map_run
from ..review.photographs import check_addresses
from .groups_and_map import group_run, save_groups
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
    page = page_html(data, shelf.encoded)
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
    write_text(path, page)
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
    shown = np.array([image["row"] for image in images], np.int64)
    positions = np.searchsorted(run.rows, shown)
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
    if not path.is_file() or not path.stat().st_size:
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


CARD_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}p.note{color:#555}
section.card{display:flex;gap:1rem;border-top:1px solid #ccc;padding:.8rem 0;flex-wrap:wrap}
section.card>div{flex:1 1 20rem}
.row{display:flex;gap:.5rem;flex-wrap:wrap}
figure{margin:0;max-width:12rem}figure img{max-width:12rem;max-height:12rem;display:block}
figure .none{width:9rem;padding:2rem .5rem;background:#eee;color:#555;font-size:.8rem}
figcaption{font-size:.8rem;color:#555;overflow-wrap:anywhere}
b.bad{color:#a02000}b.good{color:#006b3c}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}figure .none{background:#333;
color:#bbb}p.note,figcaption{color:#aaa}b.bad{color:#ff8a65}b.good{color:#69d29b}}
"""


def safe(text: object) -> str:
    """Text for the page, with invisible characters shown and nothing that is HTML."""
    return html.escape(visible_text(str(text)))


def figure(shelf: PictureShelf, collection: str, row: int, below: str) -> str:
    """One picture that `shelf` was filled with, or why there is none, with a text below."""
    number = shelf.number(collection, row)
    if number is None:
        reason = shelf.reason(collection, row) or "no picture"
        shown = f'<div class="none">{safe(reason)}</div>'
    else:
        shown = f'<img alt="" src="data:image/webp;base64,{shelf.encoded[number]}">'
    return f"<figure>{shown}<figcaption>{safe(below)}</figcaption></figure>"


def card(pictures: Iterable[str], text: str) -> str:
    """A section of pictures with their text, which is HTML already."""
    return f'<section class="card"><div class="row">{"".join(pictures)}</div><div>{text}</div>\
</section>'


def save_page(path: Path, title: str, notes: Sequence[str], body: str) -> Path:
    """Write the page: a title, a line for each note, and a body of HTML."""
    policy = f"default-src 'none'; img-src data:; style-src '{source_hash(CARD_STYLE)}'"
    text = "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{safe(title)}</title><style>{CARD_STYLE}</style></head><body>",
            f"<h1>{safe(title)}</h1>",
            *(f'<p class="note">{safe(note)}</p>' for note in notes),
            body,
            "</body></html>\n",
        )
    )
    write_text(path, text)
    return path
