"""FAISS structures for approximate search: made, written, read and searched.

The only file that imports faiss; indexer/search/gpu.py gets it from here. The checksum of a
structure that an index has is compared before FAISS reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...artefacts import check_checksum, write_atomically
from ...errors import BlissError, UsageError
from ..vectors.unit_rows import Rows, blocks_of
from .kinds import EXACT, EXAMPLES, Kind, check_asked, check_parameters, read_kind, sample_size

SEED = 0
ADDED_AT_ONCE = 16_384
MAPPED_BYTES = 1 << 30
"""Files of this size and more are memory-mapped where FAISS can."""


def library() -> Any:
    """The faiss module, whose own annotations lack much of what it has."""
    import faiss

    return faiss


def new_structure(kind: Kind, dimension: int) -> Any:
    """An empty FAISS index for inner products; UsageError with FAISS's reason where it has none."""
    faiss = library()

    try:
        made = faiss.index_factory(dimension, kind.name, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(
            f"kind of search '{kind.name}' was asked for, which FAISS does not make for "
            f"{dimension} dimensions: {reason(error)}",
            EXAMPLES,
            "Spell it as FAISS spells it",
        ) from error
    return made


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
    """Train without FAISS's warnings of few vectors, which `search_kinds.training_note` words.

    And without ordering a product quantizer's centroids for a Hamming search ("polysemous"),
    which nobody here does: it takes seconds a piece, and a search finds the same either way.
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
    """FAISS with so many threads, and then with as many as before; None leaves it alone."""
    faiss = library()

    before = faiss.omp_get_max_threads()
    if threads is not None:
        faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def write_structure(structure: Any, file: IO[bytes]) -> None:
    """Write a structure to an open file as FAISS's bytes; OSError where the disk is full."""
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
    """Write a FAISS IndexFlatIP file of all texts, for other programs; we never read it back."""
    faiss = library()

    index = faiss.IndexFlatIP(dimension)
    for _, block in blocks_of(texts):
        index.add(block)
    write_atomically(path, lambda file: file.write(faiss.serialize_index(index).tobytes()))


def read_structure(path: Path, remedy: str) -> Any:
    """The structure of a file whose checksum was found right; BlissError with `remedy` else."""
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
            queries, wanted, params=_search_parameters(self.index, parameters, wanted, selector)
        )
        return rows if selected is None or selector else drop_unselected(rows, selected)

    def load(self) -> FaissStructure:
        """Itself."""
        return self


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
    """What FAISS complains of, without its C++ place."""
    text = re.split(r"\.(?:cpp|cu|cuh|h):\d+: ", str(error))[-1]
    return text.rsplit("failed: ", 1)[-1].strip().rstrip(".")


def version() -> str:
    """FAISS's version."""
    faiss = library()

    return str(faiss.__version__)


FOLDER = "search"


@dataclass(frozen=True)
class StoredStructure:
    """The structure that a manifest names; checked and read by `load`."""

    folder: Path
    manifest: Mapping[str, Any]
    kind: Kind
    parameters: Mapping[str, int]

    def load(self) -> FaissStructure:
        """Raises BlissError, saying how to make it again, where its file is missing or changed."""
        search, dimension = self.manifest["search"], self.manifest["model"]["dimension"]
        check_structure(self.folder, self.manifest)
        remedy = how_to_make_again(self.folder, self.kind.name)
        index = read_structure(self.folder / search["file"], remedy)
        if (index.ntotal, index.d) != (search["rows"], dimension):
            raise BlissError(
                f"{self.folder / search['file']} holds {index.ntotal:,} vectors of {index.d}",
                f"{search['rows']:,} of {dimension}",
                remedy,
            )
        return FaissStructure(index, self.kind, self.parameters)


def open_structure(
    folder: Path,
    manifest: Mapping[str, Any],
    kind: Kind,
    parameters: Mapping[str, int] | None = None,
) -> StoredStructure:
    """The structure of `kind` that a manifest names, with `parameters` in place of stored ones."""
    check_asked(kind, parameters or {})
    chosen = check_parameters(kind, {**manifest["search"]["parameters"], **(parameters or {})})
    return StoredStructure(folder, manifest, kind, chosen)


def stored_kind(folder: Path, manifest: Mapping[str, Any]) -> Kind | None:
    """The kind of search a manifest names, None for exact; BlissError where it says nonsense."""
    search = manifest.get("search", {"kind": EXACT})
    if isinstance(search, dict) and search.get("kind") == EXACT:
        return None
    try:
        kind = read_kind(search["kind"])
        check_parameters(kind, search["parameters"])
        rows, file = search["rows"], search["file"]
        usable = isinstance(rows, int) and 0 < rows <= sum(manifest["parts"])
        usable = usable and isinstance(file, str) and file.startswith(f"{FOLDER}/")
    except (UsageError, KeyError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise BlissError(
            f"the manifest of {folder} does not say how the index is searched",
            "the manifest as bliss wrote it",
            how_to_make_again(folder, EXACT),
        )
    return kind


def check_structure(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise BlissError where a structure's file is missing or its bytes have changed."""
    search = manifest["search"]
    try:
        check_checksum(folder, search["file"], manifest)
    except BlissError as error:
        raise BlissError(
            error.given, error.needed, how_to_make_again(folder, search["kind"])
        ) from error


def how_to_make_again(folder: Path, kind: str) -> str:
    """The command that makes a kind's structure from the vectors."""
    return f"Make it again from the index's vectors with `bliss index kind {folder} {kind}`"
