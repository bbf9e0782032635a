"""CIFAR as Hugging Face keeps it: parquet files of encoded pictures and numbered labels.

A row has a struct column `img` or `image` whose `bytes` are a PNG, and an integer column
`fine_label` (CIFAR-100) or `label`. The class names stand in the schema's metadata, under
`huggingface`, as JSON: info.features.<label column>.names.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..corpora.parquet_pages import parquet_batches
from ..errors import BlissError

PARTS = ("train", "test")
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label")
ROWS_AT_ONCE = 1024
MOST_PIXELS = 1 << 16
"""Of one picture: those of CIFAR have 1,024."""


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each part below `folder`, by file or folder names that begin with the part."""
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    for path in sorted(folder.rglob("*.parquet")):
        for part in PARTS:
            if path.name.startswith(part) or path.parent.name.startswith(part):
                found[part].append(path)
    return found


def read_pictures(path: Path) -> Iterator[tuple[np.ndarray, str]]:
    """uint8 [height, width, 3] and the class name of every row, in order.

    Raises BlissError, naming the file, for another schema, a label without a name, or bytes that
    are no picture.
    """
    try:
        with open(path, "rb") as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
            image, label, names = _columns(path, file.schema_arrow)
            row = 0
            batches = (
                batch
                for group in range(file.num_row_groups)
                for batch in parquet_batches(file, opened, [image, label], ROWS_AT_ONCE, group)
            )
            for batch in batches:
                pictures = batch.column(image).field("bytes").to_pylist()
                for content, number in zip(pictures, batch.column(label).to_pylist(), strict=True):
                    if number is None or not 0 <= number < len(names):
                        raise BlissError(
                            f"{path} has the label {number} in row {row}",
                            f"0 to {len(names) - 1}",
                            "Download it again",
                        )
                    yield _pixels(content, path, row), names[number]
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise BlissError(
            f"{path} could not be read ({error})", "a parquet file", "Download it again"
        ) from error


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str, list[str]]:
    """The picture column, the label column and the class names."""
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    names = None
    try:
        facts = json.loads((schema.metadata or {})[b"huggingface"])
        names = facts["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        pass
    holds_bytes = image is not None and (
        pa.types.is_struct(schema.field(image).type)
        and schema.field(image).type.get_field_index("bytes") >= 0
    )
    if image is None or label is None or not holds_bytes or not isinstance(names, list):
        raise BlissError(
            f"{path} has the columns {', '.join(schema.names)}"
            + ("" if isinstance(names, list) else " and no class names"),
            "a column img or image with bytes, fine_label or label, and the labels' names in the "
            "schema's metadata, as Hugging Face writes them",
            "Download the parquet files of CIFAR-10 or CIFAR-100 again",
        )
    return image, label, names


def _pixels(content: bytes | None, path: Path, row: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content or b"")) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError("it is no picture of CIFAR")
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise BlissError(
            f"{path} has no readable picture in row {row}", "a PNG", "Download it again"
        ) from error
