"""CIFAR-10 and CIFAR-100, binary or parquet (not the pickles), to class folders of PNGs.

A record of the binary format is 1 label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100; the
fine one counts), then 3,072 bytes of pixels: the red, green and blue planes of 32 x 32, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..artefacts import write_atomically
from ..errors import BlissError, UsageError
from .cifar_parquet import PARTS, parquet_files, read_pictures

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
    summary = "".join(f"{part}\t{count}\n" for part, count in written.items())
    write_atomically(target / "counts.tsv", lambda out: out.write(summary.encode()))
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
