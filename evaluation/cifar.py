"""CIFAR-10 and CIFAR-100, binary or parquet (not the pickles), to class folders of PNGs.

A record of the binary format is 1 label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100; the
fine one counts), then 3,072 bytes of pixels: the red, green and blue planes of 32 x 32, row by row.
A row of Hugging Face's parquet files has a struct column `img` or `image` whose `bytes` are a PNG,
and an integer column `fine_label` (CIFAR-100) or `label`. The class names are in the schema's
metadata, under `huggingface`, as JSON: info.features.<label column>.names.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ..artefacts import write_text
from ..corpora import parquet_batches
from ..errors import BlissError, UsageError
from ..tables import open_table

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Layout:
    """Which files a data set has and how its records begin."""

    names: str
    label_bytes: int
    parts: dict[str, tuple[str, ...]]


LAYOUTS = (
    Layout(
        "batches.meta.txt",
        1,
        {
            "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test": ("test_batch.bin",),
        },
    ),
    Layout("fine_label_names.txt", 2, {"train": ("train.bin",), "test": ("test.bin",)}),
)


def unpack_cifar(source: str | Path, target: str | Path) -> dict[str, int]:
    """Write `target/train/<class>/<number>.png` and `target/test/…`; images written in each.

    `source` is the unpacked `cifar-10-batches-bin` or `cifar-100-binary` folder, or one with the
    parquet files `train-….parquet` and `test-….parquet` in it. Raises UsageError where it is
    neither, or where `target` already holds something; BlissError for a broken file.
    """
    source, target = Path(source), Path(target)
    layout = next((one for one in LAYOUTS if (source / one.names).is_file()), None)
    parquet = parquet_files(source)
    if layout is None and not all(parquet.values()):
        raise UsageError(
            f"{source} holds neither {LAYOUTS[0].names} nor {LAYOUTS[1].names} "
            "nor train and test parquet files",
            "an unpacked cifar-10-batches-bin or cifar-100-binary folder, or the parquet files",
            "Unpack the binary version of the data set, not the Python one",
        )
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty", "a new folder", "Choose another one")
    written = {}
    for part in PARTS:
        pictures = (
            _binary_pictures(source, layout, part)
            if layout
            else (picture for path in parquet[part] for picture in read_pictures(path))
        )
        written[part] = 0
        for pixels, name in pictures:
            if name in ("", ".", "..") or Path(name).name != name:
                raise BlissError(
                    f"{source} has a class called {name!r}",
                    "names that can name a folder",
                    "Download it again, from another place",
                )
            path = target / part / name / f"{written[part]:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            written[part] += 1
    write_text(target / "counts.tsv", "".join(f"{p}\t{count}\n" for p, count in written.items()))
    return written


def _binary_pictures(source: Path, layout: Layout, part: str) -> Iterator[tuple[np.ndarray, str]]:
    names = (source / layout.names).read_text(encoding="utf-8").split()
    for file in layout.parts[part]:
        pixels, labels = read_records(source / file, layout.label_bytes, len(names))
        yield from zip(pixels, (names[label] for label in labels.tolist()), strict=True)


def read_records(path: Path, label_bytes: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 32, 32, 3] pixels and int64 [n] labels of one file."""
    if not path.is_file():
        raise BlissError(f"{path} is missing", "every file of the data set", "Unpack it again")
    raw = np.fromfile(path, np.uint8)
    record = label_bytes + PIXELS
    if len(raw) == 0 or len(raw) % record:
        raise BlissError(
            f"{path} has {len(raw)} bytes", f"records of {record} bytes", "Download it again"
        )
    rows = raw.reshape(-1, record)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise BlissError(
            f"{path} has the label {labels.max()}", f"0 to {classes - 1}", "Download it again"
        )
    planes = rows[:, label_bytes:].reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


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
        with open(path, "rb") as opened, open_table(opened) as file:
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
    except (KeyError, TypeError, ValueError, RecursionError):
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
