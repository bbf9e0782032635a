"""A finished audit's folder, read back: settings, chosen columns, failures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..artefacts import FORMAT_VERSION, check_checksum, read_json
from ..csv_cells import cell_text
from ..errors import BlissError, UsageError
from ..indexer.embedded_images import Failure
from ..indexer.vectors.layout import read_parquet
from .outputs import FAILURES, RUN, SCORES

ROWS_AT_ONCE = 4_096


@dataclass(frozen=True)
class RunFolder:
    """The folder of a finished audit of n images; nothing large is held."""

    folder: Path
    facts: Mapping[str, Any]
    """What `run.json` says."""

    @property
    def source(self) -> str:
        """The collection, as the audit was given it."""
        return str(self.facts["images"]["source"])

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that `scores.parquet` has."""
        with open(self.folder / SCORES, "rb") as file:
            return frozenset(pq.read_schema(file).names)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Those of the named columns that there are, of all n images."""
        return read_parquet(self.folder / SCORES, [name for name in names if name in self.names])

    def images(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """All columns of the images at `positions` of the table, in that order."""
        order = np.argsort(positions, kind="stable")
        wanted = np.asarray(positions, np.int64)[order]
        taken, first = [], 0
        with open(self.folder / SCORES, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
                here = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
                taken += batch.take(pa.array(here)).to_pylist()
                first += len(batch)
        found: list[dict[str, Any]] = [{}] * len(wanted)
        for place, row in zip(order, taken, strict=True):
            found[place] = row
        return found

    def failures(self) -> list[Failure]:
        """What `failures.csv` lists."""
        with open(self.folder / FAILURES, encoding="utf-8", newline="") as file:
            return [
                Failure(int(line["row"]), cell_text(line["path"]), cell_text(line["reason"]))
                for line in csv.DictReader(file)
            ]


def open_run(folder: str | Path) -> RunFolder:
    """The run in `folder`; UsageError where there is none, BlissError where a file has changed."""
    folder = Path(folder)
    if not (folder / RUN).is_file():
        state = f"has no {RUN}" if folder.is_dir() else "does not exist"
        raise UsageError(
            f"{folder} {state}",
            "the output folder of a finished `bliss audit`",
            "Give the folder that --output named",
        )
    facts = read_json(folder / RUN)
    if facts.get("kind") != "audit" or facts.get("format_version") != FORMAT_VERSION:
        raise BlissError(
            f"{folder / RUN} is a {facts.get('kind')} of format version "
            f"{facts.get('format_version')}",
            f"an audit of version {FORMAT_VERSION}",
            "Run the audit again with this version of bliss-audit",
        )
    for name in (SCORES, FAILURES):
        check_checksum(folder, name, facts)
    return RunFolder(folder, facts)
