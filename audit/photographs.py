"""The images behind the rows of a finished audit, to look at them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..corpora.image_opening import open_images
from ..corpora.image_source import ImageOptions, ImageSource
from ..indexer.embedded_images import list_photographs

_OPTIONS = {
    "image_column": "image_column",
    "label_column": "label_column",
    "labels": "labels",
    "images_config": "config",
    "images_split": "split",
    "images_revision": "revision",
}


def open_photographs(request: Mapping[str, Any]) -> ImageSource | None:
    """The collection that a run read, its rows numbered as the column `row` of its scores.

    `request` is what `run.json` holds under that name. `read_image_bytes(source, rows)` then gives
    the encoded images of any rows in one pass. None where the request names no collection, as when
    the audit was called from Python with another one. Errors as `open_images`.
    """
    if request.get("images"):
        options = {field: request.get(name) for name, field in _OPTIONS.items()}
        return open_images(request["images"], ImageOptions(**options))
    if request.get("embeddings"):
        return list_photographs(request["embeddings"], request.get("image_root"))
    return None
