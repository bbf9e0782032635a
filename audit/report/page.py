"""The page as one HTML text: nothing in it is loaded from elsewhere, nothing untrusted runs.

Data and pictures lie in script elements of types that no browser runs, with `<`, `>` and `&`
escaped; the page's script reads them and shows text as text only. The content security policy lets
only this very script and style run (by their SHA-256) and no request leave the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = (
    "elements.js",
    "state.js",
    "decisions.js",
    "charts.js",
    "overview.js",
    "evidence.js",
    "gallery.js",
    "review.js",
    "groups.js",
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
            "img-src data:",
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
