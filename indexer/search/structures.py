"""FAISS structures for approximate search: made, written, read and searched.

The only file that imports faiss; indexer/search/gpu.py gets it from here. The checksum of a
structure that an index has is compared before FAISS reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...artefacts import write_atomically
from ...errors import BlissError, UsageError
from ..store.manifest import IndexFolder
from ..vectors.unit_rows import Rows, blocks_of
from .kinds import (
    BY_IMAGES,
    EXACT,
    EXAMPLES,
    Kind,
    check_limits,
    check_parameters,
    read_kind,
    sample_size,
)

SEED = 0
ADDED_AT_ONCE = 16_384
MAPPED_BYTES = 1 << 30
"""Files of this size and more are memory-mapped where FAISS can."""


def library() -> Any:
    """The faiss module, whose own annotations lack much of what it has."""
    import faiss

    return faiss


def new_structure(kind: Kind, dimension: int, transform: Any = None) -> Any:
    """An empty FAISS index for inner products; UsageError with FAISS's reason where it has none.

    `transform` is that of `image_transform`, for a kind that is laid out by images.
    """
    faiss = library()

    try:
        made = faiss.index_factory(dimension, kind.factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(
            f"kind of search '{kind.name}' was asked for, which FAISS does not make for "
            f"{dimension} dimensions: {reason(error)}",
            EXAMPLES,
            "Spell it as FAISS spells it",
        ) from error
    if transform is None:
        return made
    made.cp.niter, made.cp.max_points_per_centroid = BRIEFLY
    return faiss.IndexPreTransform(transform, made)


SHRINKAGE = 0.8
BRIEFLY = 6, 64
"""Iterations over so many texts of each list: enough for lists that are laid out by images, by
benchmarks/ivf_training.py."""


def image_transform(texts: Rows, images: np.ndarray) -> Any:
    """How unit rows `images` [n, d] lay out texts [M, d]: t becomes C^½ (t − mean text).

    C is the images' second moment, shrunk by SHRINKAGE towards the same for all directions. The
    lists of an inverted file then part the texts along the directions in which these images differ.
    A query q is asked as C^-½ q (`AskedByImages`): inner products change by a constant for each
    query.
    """
    faiss = library()

    dimension = images.shape[1]
    rows = images.astype(np.float64)
    moment = rows.T @ rows / max(1, len(rows))
    moment *= dimension / max(np.trace(moment), 1e-300)
    moment = (1 - SHRINKAGE) * moment + SHRINKAGE * np.eye(dimension)
    values, directions = np.linalg.eigh(moment)
    root = (directions * np.sqrt(values)) @ directions.T
    total = np.zeros(dimension)
    for _, block in blocks_of(texts):
        total += block.sum(axis=0, dtype=np.float64)
    transform = faiss.LinearTransform(dimension, dimension, True)
    faiss.copy_array_to_vector(root.astype(np.float32).ravel(), transform.A)
    shift = -root @ (total / max(1, len(texts)))
    faiss.copy_array_to_vector(shift.astype(np.float32), transform.b)
    transform.is_trained = True
    return transform


class AskedByImages:
    """What a structure laid out by images is asked in place of queries.

    The structure multiplies what it is asked by C^½ and adds its shift, as it does with texts.
    """

    def __init__(self, structure: Any) -> None:
        faiss = library()
        transform = faiss.downcast_VectorTransform(structure.chain.at(0))
        dimension = transform.d_in
        root = faiss.vector_to_array(transform.A).reshape(dimension, dimension).astype(np.float64)
        inverse = np.linalg.inv(root)
        self.matrix = (inverse @ inverse).T
        self.shift = -inverse @ faiss.vector_to_array(transform.b).astype(np.float64)

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        """float32 [n, d] for queries [n, d]."""
        return (queries @ self.matrix + self.shift).astype(np.float32)


def fill_structure(structure: Any, kind: Kind, vectors: Rows, threads: int | None) -> None:
    """Train on a seeded sample, then add every vector in row order, block by block.

    A graph is built by one thread unless `threads` says otherwise: with more, its links depend
    on which thread came first.
    """
    dimension = structure.d
    chosen = threads or (1 if kind.links or kind.coarse_graph else None)
    with faiss_threads(chosen):
        try:
            if not structure.is_trained:
                size = sample_size(kind, len(vectors))
                rng = np.random.default_rng(SEED)
                rows = np.sort(rng.choice(len(vectors), size, replace=False))
                sample = np.ascontiguousarray(vectors[rows])
                with _plain_training(structure):
                    structure.train(sample)
            for _, block in blocks_of(vectors):
                for start in range(0, len(block), ADDED_AT_ONCE):
                    structure.add(np.ascontiguousarray(block[start : start + ADDED_AT_ONCE]))
        except RuntimeError as error:
            raise UsageError(
                f"FAISS cannot build {kind.name} over {len(vectors):,} vectors of {dimension} "
                f"dimensions: {reason(error)}",
                "a kind that fits them",
                "Ask for fewer lists or a smaller code, or for exact search",
            ) from error


@contextmanager
def _plain_training(structure: Any) -> Iterator[None]:
    """Train without FAISS's warnings of few vectors, for which there is `kinds.training_note`.

    Also without ordering a product quantizer's centroids for Hamming search ("polysemous"
    training), which is slow and does not change what a search here finds.
    """
    faiss = library()

    rotations = []
    if isinstance(structure, faiss.IndexPreTransform):
        each = [faiss.downcast_VectorTransform(structure.chain.at(n))
                for n in range(structure.chain.size())]  # fmt: skip
        rotations = [step for step in each if isinstance(step, faiss.OPQMatrix) and not step.pq]
        structure = faiss.downcast_index(structure.index)
    if isinstance(structure, faiss.IndexHNSW | faiss.IndexRefine):
        below = structure.storage if hasattr(structure, "storage") else structure.base_index
        structure = faiss.downcast_index(below)
    if hasattr(structure, "do_polysemous_training"):
        structure.do_polysemous_training = False
    for part in (structure, *(getattr(structure, name, None) for name in ("pq", "rq"))):
        if hasattr(part, "cp"):
            part.cp.min_points_per_centroid = 1
    quantizers = []
    for step in rotations:
        quantizers.append(faiss.ProductQuantizer(step.d_out, step.M, 8))
        quantizers[-1].cp.min_points_per_centroid = 1
        step.pq = quantizers[-1]
    try:
        yield
    finally:
        for step in rotations:
            step.pq = None


@contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """Run FAISS with this many threads, restored afterwards; None changes nothing."""
    faiss = library()

    before = faiss.omp_get_max_threads()
    if threads is not None:
        faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def write_structure(structure: Any, file: IO[bytes]) -> None:
    """Serialise a structure to an open file; OSError where the disk is full."""
    faiss = library()

    failed: list[OSError] = []

    def write(data: bytes) -> None:
        try:
            file.write(data)
        except OSError as error:
            failed.append(error)
            raise

    try:
        faiss.write_index(structure, faiss.PyCallbackIOWriter(write))
    except (RuntimeError, OSError, SystemError) as error:
        raise failed[0] if failed else OSError(reason(error)) from error


def write_flat_index(path: Path, texts: Rows, dimension: int) -> None:
    """Write a FAISS IndexFlatIP file of all texts, for other programs; it is never read here."""
    faiss = library()

    index = faiss.IndexFlatIP(dimension)
    for _, block in blocks_of(texts):
        index.add(block)
    write_atomically(path, lambda file: file.write(faiss.serialize_index(index).tobytes()))


def read_structure(path: Path, remedy: str) -> Any:
    """Read a structure whose checksum was verified; BlissError with `remedy` where FAISS fails."""
    faiss = library()

    large = path.stat().st_size >= MAPPED_BYTES
    for flags in (faiss.IO_FLAG_MMAP_IFC, 0) if large else (0,):
        try:
            return faiss.read_index(str(path), flags)
        except RuntimeError as error:
            failed = error
    raise BlissError(
        f"{path} could not be read: {reason(failed)}", "a search structure of this FAISS", remedy
    )


class FaissStructure:
    """A structure on the CPU (see `searchers.Structure`), which is its own source."""

    def __init__(self, index: Any, kind: Kind, parameters: Mapping[str, int]) -> None:
        self.index, self.parameters = index, parameters
        self.asked = AskedByImages(index) if kind.by_images else np.asarray
        self.rows = self.most = int(index.ntotal)
        self.lists, self.selects = kind.lists, takes_selection(index)

    def propose(
        self,
        queries: np.ndarray,
        wanted: int,
        parameters: Mapping[str, int],
        selected: np.ndarray | None,
    ) -> np.ndarray:
        """See `Structure`. Where FAISS takes no selection for this kind, rows are dropped after."""
        selector = None
        if selected is not None and self.selects:
            selector = library().IDSelectorBitmap(selected)
        _, rows = self.index.search(
            self.asked(queries),
            wanted,
            params=_search_parameters(self.index, parameters, wanted, selector),
        )
        return rows if selected is None or selector else drop_unselected(rows, selected)


def drop_unselected(rows: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Rows [n, w] with -1 in place of those whose bit is not set in `selected`."""
    found = np.maximum(rows, 0)
    shown = (selected[found >> 3] >> (found & 7).astype(np.uint8)) & 1
    return np.where((rows >= 0) & (shown == 1), rows, -1)


def takes_selection(structure: Any) -> bool:
    """Whether FAISS can leave rows out while it searches this structure."""
    faiss = library()

    if isinstance(structure, faiss.IndexPreTransform):
        return takes_selection(faiss.downcast_index(structure.index))
    if isinstance(structure, faiss.IndexAdditiveQuantizer | faiss.IndexIVFAdditiveQuantizer):
        return False
    return not isinstance(structure, faiss.IndexPQ | faiss.IndexFastScan) or isinstance(
        structure, faiss.IndexIVF
    )


def _search_parameters(
    structure: Any, parameters: Mapping[str, int], wanted: int, selector: Any
) -> Any:
    """FAISS's object for the parameters of one search; None where the kind takes none."""
    faiss = library()

    sel = {} if selector is None else {"sel": selector}
    if isinstance(structure, faiss.IndexPreTransform):
        inner = faiss.downcast_index(structure.index)
        under = _search_parameters(inner, parameters, wanted, selector)
        return None if under is None else faiss.SearchParametersPreTransform(index_params=under)
    if isinstance(structure, faiss.IndexIVF):
        options = {"nprobe": parameters["nprobe"], **sel}
        if "quantizer_efSearch" in parameters:
            breadth = max(parameters["quantizer_efSearch"], parameters["nprobe"])
            options["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=breadth)
        if isinstance(structure, faiss.IndexIVFRaBitQ | faiss.IndexIVFRaBitQFastScan):
            return faiss.IVFRaBitQSearchParameters(**options, **_bits(parameters))
        return faiss.SearchParametersIVF(**options)
    if isinstance(structure, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(parameters["efSearch"], wanted), **sel)
    if isinstance(structure, faiss.IndexRaBitQ):
        return faiss.RaBitQSearchParameters(**_bits(parameters), **sel)
    return faiss.SearchParameters(**sel) if sel else None


def _bits(parameters: Mapping[str, int]) -> dict[str, int]:
    return {"qb": parameters["qb"]} if "qb" in parameters else {}


def reason(error: BaseException) -> str:
    """FAISS's error message without its C++ location."""
    text = re.split(r"\.(?:cpp|cu|cuh|h):\d+: ", str(error))[-1]
    return text.rsplit("failed: ", 1)[-1].strip().rstrip(".")


def version() -> str:
    faiss = library()

    return str(faiss.__version__)


FOLDER = "search"


@dataclass(frozen=True)
class StoredStructure:
    """The structure of an index, as its manifest states it; checked and read by `load`."""

    folder: IndexFolder
    kind: Kind
    parameters: Mapping[str, int]
    file: str
    rows: int
    """It covers the stored rows below this one."""
    threads: int | None
    """What it was built with; None: FAISS's own choice, or 1 for a graph."""

    @property
    def path(self) -> Path:
        return self.folder.path / self.file

    @property
    def remedy(self) -> str:
        """How to make it again."""
        return how_to_make_again(self.folder.path, self.kind.name)

    def check(self) -> None:
        """Raise BlissError where its file is missing or has changed."""
        try:
            self.folder.check(self.file)
        except BlissError as error:
            raise BlissError(error.given, error.needed, self.remedy) from error

    def load(self) -> FaissStructure:
        """Raises BlissError, saying how to make it again, where its file is not what it was."""
        self.check()
        index, dimension = read_structure(self.path, self.remedy), self.folder.manifest.dimension
        if (index.ntotal, index.d) != (self.rows, dimension):
            raise BlissError(
                f"{self.path} holds {index.ntotal:,} vectors of {index.d}",
                f"{self.rows:,} of {dimension}",
                self.remedy,
            )
        return FaissStructure(index, self.kind, self.parameters)

    def with_parameters(self, parameters: Mapping[str, int] | None) -> StoredStructure:
        """The same searched with `parameters` in place of stored ones; UsageError for others."""
        check_limits(self.kind, parameters or {})
        chosen = check_parameters(self.kind, {**self.parameters, **(parameters or {})})
        return replace(self, parameters=chosen)


def stored_structure(folder: IndexFolder) -> StoredStructure | None:
    """The structure that a manifest names, None for exact search; BlissError for nonsense."""
    search: Any = folder.manifest.search
    if isinstance(search, dict) and search.get("kind") == EXACT:
        return None
    try:
        kind, rows, file = read_kind(search["kind"]), search["rows"], search["file"]
        check_parameters(kind, search["parameters"])
        usable = isinstance(rows, int) and 0 < rows <= folder.manifest.stored_count
        usable = usable and isinstance(file, str) and file.startswith(f"{FOLDER}/")
    except (UsageError, KeyError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise BlissError(
            f"the manifest of {folder.path} does not say how the index is searched",
            "the manifest as bliss wrote it",
            how_to_make_again(folder.path, EXACT),
        )
    return StoredStructure(folder, kind, search["parameters"], file, rows, search.get("threads"))


def how_to_make_again(folder: Path, kind: str) -> str:
    """The remedy: the command that builds a structure again."""
    if kind.startswith(BY_IMAGES):
        return f"Make it again with `bliss index tune {folder} --images DIR --kind {kind}`"
    return f"Make it again from the index's vectors with `bliss index kind {folder} {kind}`"
