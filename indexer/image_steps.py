"""What is done to pieces of images: decoded in a process that may hang or crash, then encoded."""

from __future__ import annotations

import functools
import subprocess
import threading
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ..corpora.image_source import ImageItem
from .decode_process import (
    Asked,
    Outcome,
    Processes,
    Recognised,
    decode_one,
    end_process,
    start_process,
    watch,
)
from .encode.worker_encoders import WorkerEncoder, load_for_worker
from .images.decoding import Decoded, Undecodable
from .pieces import Step

TOLD = ("row", "path", "label", "problem", "sha256", "exif_rotated")
"""Columns that stay from decoding to the end; `sha256` is null where there is a problem."""


@dataclass
class _Decoder:
    """One decoding process of this process, started when it is needed."""

    processes: Processes = field(default_factory=Processes)
    running: subprocess.Popen[bytes] | None = None

    def decode(self, item: ImageItem, asked: Asked) -> Outcome:
        process = self.running or start_process(self.processes)
        outcome, usable = decode_one(process, item, asked, self.processes)
        if not usable:
            end_process(process, self.processes)
        self.running = process if usable else None
        return outcome


@functools.lru_cache(maxsize=1)
def own_decoder() -> _Decoder:
    """Kept for the life of this process, whose end it does not outlive."""
    decoder = _Decoder()
    threading.Thread(target=watch, args=(decoder.processes,), daemon=True).start()
    return decoder


def decode_items(asked: Asked, items: pa.Table) -> pa.Table:
    """A table of `image_pieces.ITEMS` with pixels (uint8 bytes) in place of the images.

    `pixels` is null where there is a problem and where the content is known.
    """
    rows, pixels = [], []
    for row in items.to_pylist():
        item = ImageItem(row["row"], row["path"], row["label"], data=row["data"])
        made = None if row["problem"] else own_decoder().decode(item, asked)
        if isinstance(made, Undecodable):
            row["problem"] = made.reason
        elif made is not None:
            row["sha256"] = made.sha256
            row["exif_rotated"] = made.exif_rotated if isinstance(made, Decoded) else None
        pixels.append(made.pixels.tobytes() if isinstance(made, Decoded) else None)
        rows.append({name: row.get(name) for name in TOLD})
    kinds = [pa.int64(), *[pa.string()] * 4, pa.bool_()]
    table = pa.Table.from_pylist(rows, pa.schema(list(zip(TOLD, kinds, strict=True))))
    return table.append_column("pixels", pa.array(pixels, pa.large_binary()))


def image_encoder(wanted: WorkerEncoder) -> Step:
    """What an encoding actor does to decoded images: `vector` (float32 bytes) replaces `pixels`."""
    encoder = load_for_worker(wanted)
    height, width = encoder.preprocessing.size

    def encode(table: pa.Table) -> pa.Table:
        column = table["pixels"]
        places = [i for i in range(len(table)) if column[i].is_valid]
        vectors: list[bytes | None] = [None] * len(table)
        for start in range(0, len(places), encoder.batch_size):
            some = places[start : start + encoder.batch_size]
            batch = np.stack([np.frombuffer(column[i].as_buffer(), np.uint8) for i in some])
            made = encoder.encode_images(batch.reshape(len(some), height, width, 3))
            for place, vector in zip(some, made, strict=True):
                vectors[place] = np.asarray(vector, np.float32).tobytes()
        return table.drop_columns("pixels").append_column("vector", pa.array(vectors, pa.binary()))

    return encode


def outcomes(table: pa.Table) -> list[tuple[ImageItem, Outcome]]:
    """What `decode_images` would have said of each row, with its vector in place of the pixels."""
    found: list[tuple[ImageItem, Outcome]] = []
    for row in table.to_pylist():
        item = ImageItem(row["row"], row["path"], row["label"], problem=row["problem"] or "")
        if item.problem:
            found.append((item, Undecodable(item.row, item.problem)))
        elif row["vector"] is None:
            found.append((item, Recognised(item.row, row["sha256"])))
        else:
            vector = np.frombuffer(row["vector"], np.float32)
            found.append((item, Decoded(item.row, vector, row["sha256"], row["exif_rotated"])))
    return found
