"""The settings that are measured: each structure built once, searched with every parameter."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from ..indexer.caption_index import CaptionIndex, search, with_structure
from ..indexer.nearest import Hits
from ..indexer.search.install import MadeStructure, make_structure
from ..indexer.search_kinds import candidate_settings, default_parameters, read_kind
from .index_tuning import EXACT, Candidate

PROBES = tuple(2**power for power in range(10))
BREADTHS = (32, 64, 128, 256, 512)

Setting = tuple[str, Mapping[str, int]]


@dataclass(frozen=True)
class MadeStructures:
    """Structures over one index by kind, on disk, so that what was measured can be installed."""

    folder: Path
    made: dict[str, MadeStructure] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """What building each took."""


def settings_of(kinds: Sequence[str], count: int, dimension: int) -> list[Setting]:
    """What to measure for M = `count` vectors: of the kinds named, or of those worth a try.

    A kind that was named and is not among those is tried with its default parameters, and with
    other breadths of search where it has one. Exact search is always measured and not listed.
    UsageError for a kind that is unknown.
    """
    usual: list[Setting] = [s for s in candidate_settings(count, dimension) if s[0] != EXACT]
    if not kinds:
        return usual
    found: list[Setting] = []
    for kind in dict.fromkeys(kinds):
        if kind != EXACT:
            found += [s for s in usual if s[0] == kind] or _breadths(kind)
    return found


def _breadths(name: str) -> list[Setting]:
    kind = read_kind(name)
    plain = default_parameters(kind)
    if kind.lists:
        return [(name, {**plain, "nprobe": n}) for n in PROBES if n <= kind.lists]
    if kind.links:
        return [(name, {**plain, "efSearch": n}) for n in BREADTHS]
    return [(name, plain)]


@dataclass(frozen=True)
class Candidates:
    """Each setting ready to be searched with; a structure is built when its first one comes."""

    index: CaptionIndex
    settings: Sequence[Setting]
    keep: MadeStructures

    def __len__(self) -> int:
        return len(self.settings)

    def __iter__(self) -> Iterator[Candidate]:
        index = self.index
        for kind, group in groupby(self.settings, key=lambda setting: setting[0]):
            if kind not in self.keep.made:
                start = time.perf_counter()
                path = self.keep.folder / f"{len(self.keep.made)}.faiss"
                made = make_structure(index.stored, index.model["dimension"], kind, path)
                self.keep.made[kind] = made
                self.keep.seconds[kind] = time.perf_counter() - start
            for _, parameters in group:
                yield _candidate(index, self.keep, kind, parameters)


def _candidate(
    index: CaptionIndex, keep: MadeStructures, kind: str, parameters: Mapping[str, int]
) -> Candidate:
    made = keep.made[kind]
    opened: list[CaptionIndex] = []

    def find(queries: np.ndarray, k: int) -> Hits:
        # Read at the first search, so that its memory is counted with it.
        if not opened:
            opened.append(with_structure(index, made, parameters))
        return search(opened[0], queries, k)

    return Candidate(kind, parameters, find, made.bytes, keep.seconds[kind])
