"""A small static page of pictures beside texts: no script, nothing loaded, one file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...artefacts import write_atomically
from ...safe_text import visible_text
from .page import source_hash
from .thumbnails import PictureShelf

STYLE = """
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
    policy = f"default-src 'none'; img-src data:; style-src '{source_hash(STYLE)}'"
    text = "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{safe(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{safe(title)}</h1>",
            *(f'<p class="note">{safe(note)}</p>' for note in notes),
            body,
            "</body></html>\n",
        )
    )
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    return path
