"""Build a caption index: from corpora and a model, or from existing embeddings.

The row plan comes first (indexer/build/plan.py), then its parts, each stored while the next one is
encoded, then the manifest. The same request continues where an earlier run stopped. Damaged
parts are built again, and used if they come out the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked, checked_fields
from ...artefacts import MANIFEST, link_file, only_run_in, sha256_of
from ...corpora import CaptionRules, TextSource
from ...errors import BlissError, UsageError
from ...progress import Progress, no_progress
from ..encode.encoder import Encoder
from ..images.embedding import EmbeddingEngine
from ..search.captions import CaptionIndex
from ..search.index import open_index
from ..search.structures import write_flat_index
from ..store.manifest import DTYPES, IndexFolder, checked_names, part_of
from ..store.parts import begin_building, describe_sources, drop_records, is_finished, request_of
from ..vectors.rows import load_vectors
from .finish import finish_index
from .parts import CaptionJob, copying_job, encoding_job, missing_parts, open_text_embeddings

REPAIRING = "repairing"
"""The folder, within the index, in which parts are built again."""


@checked_fields
@dataclass(frozen=True)
class IndexOptions:
    """How captions become an index."""

    rules: CaptionRules = field(default_factory=CaptionRules)
    prompts: tuple[str, ...] | None = None
    """Templates whose embeddings are averaged; by default those of each corpus."""
    dtype: str | None = None
    """float16 or float32; by default float16, or float32 for existing embeddings in float32."""
    part_rows: int = 32_768
    near_duplicates: float | None = None
    """Remove captions whose embedding has at least this cosine with one that is kept before."""
    licences: tuple[str, ...] = ()
    """One licence for all sources, or `NAME=LICENCE` for each."""
    export: bool = False
    """Also write `text.index`, for other programs that use FAISS."""
    repair: bool = False
    """Check a finished index and make its damaged parts again."""
    overwrite: bool = False
    engine: EmbeddingEngine | None = None
    """Where to encode; None: in this process."""

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(
                f"dtype '{self.dtype}' was given", f"one of {', '.join(DTYPES)}", "Correct --dtype"
            )
        if self.part_rows < 1:
            raise UsageError(
                f"parts of {self.part_rows} rows were requested", "at least 1 row", "Request more"
            )
        if self.near_duplicates is not None and not 0 < self.near_duplicates < 1:
            raise UsageError(
                f"a cosine of {self.near_duplicates} was given for near duplicates",
                "a cosine above 0 and below 1",
                "Correct --near-duplicates; equal captions are removed without it",
            )


NO_OPTIONS = IndexOptions()


def damaged_parts(folder: Path) -> dict[int, list[str]]:
    """The files of each part that are missing or have changed; BlissError for other files."""
    opened = IndexFolder.open(folder)
    found: dict[int, list[str]] = {}
    for name in checked_names(opened.manifest.content, str(folder)):
        try:
            opened.check(name)
        except BlissError:
            number = part_of(name)
            if number is None:
                raise
            found.setdefault(number, []).append(name)
    return found


def check_planned(folder: Path, damaged: Mapping[int, Sequence[str]], parts: int) -> None:
    """Raise BlissError where a damaged part was added later by `bliss index add`."""
    later = [number for number in damaged if number >= parts]
    if later:
        shutil.rmtree(folder / REPAIRING, ignore_errors=True)
        raise BlissError(
            f"part {later[0]} of {folder}, which was added to the index later, is damaged",
            "parts of the corpora given here",
            "Restore it from a backup, `bliss index pull` it again, or build with --overwrite",
        )


def put_back(folder: Path, damaged: Mapping[int, Sequence[str]]) -> None:
    """Replace damaged files by those that were built again.

    Raises BlissError, and replaces none, unless each has the checksum in the manifest: files are
    reproduced on the machine and with the thread settings that built the index.
    """
    checksums, made = IndexFolder.open(folder).manifest.checksums, folder / REPAIRING
    names = [name for number in sorted(damaged) for name in damaged[number]]
    for name in names:
        if not (made / name).is_file() or sha256_of(made / name) != checksums[name]:
            shutil.rmtree(made, ignore_errors=True)
            raise BlissError(
                f"{name} of {folder} came out different when built again",
                "the machine, library versions and thread settings that made the index",
                "Repair it there, restore it from a backup, or build with --overwrite",
            )
    for name in names:
        link_file(made / name, folder / name)
    shutil.rmtree(made, ignore_errors=True)


@checked
def build_index(
    sources: TextSource | Sequence[TextSource],
    encoder: Encoder,
    folder: str | Path,
    options: IndexOptions = NO_OPTIONS,
    progress: Progress = no_progress,
) -> CaptionIndex:
    """Embed the captions of one or several sources into `folder`, or continue where a run stopped.

    Of equal captions in several sources the first is kept. Raises UsageError where the
    folder belongs to another request, BlissError for a corpus without usable text, a disk that
    cannot be written (finished parts are kept) or a folder that another run is working in.
    """
    every = tuple(sources) if isinstance(sources, Sequence) else (sources,)
    described = describe_sources(every, options.prompts, options.licences)
    job = encoding_job(every, described, encoder, progress, options.engine)
    facts = {"model": dict(encoder.facts), "dtype": options.dtype or "float16"}
    return _build(job, Path(folder), options, facts, progress)


@checked
def index_embeddings(
    folder: str | Path,
    output: str | Path,
    column: str | None = None,
    options: IndexOptions = NO_OPTIONS,
    progress: Progress = no_progress,
) -> CaptionIndex:
    """Index precomputed text embeddings in clip-retrieval's layout; no model is needed.

    `column` of the metadata holds the captions. Vectors are normalised, and the number of those
    that were not of unit length is stored; zero and non-finite ones are left out and listed as
    failures.
    """
    if options.prompts is not None:
        raise UsageError(
            "prompts were given with --embeddings",
            "no prompts: the texts are already embedded",
            "Leave --prompt out",
        )
    texts = open_text_embeddings(Path(folder), column)
    first = load_vectors(texts.folder.vectors[0])
    dtype = options.dtype or ("float16" if first.dtype == np.float16 else "float32")
    model = {"model": None, "weights_sha256": None, "dimension": texts.folder.dimension}
    job = copying_job(texts, options.licences, {}, progress)
    return _build(job, Path(output), options, {"model": model, "dtype": dtype}, progress)


def _build(
    job: CaptionJob,
    folder: Path,
    options: IndexOptions,
    facts: Mapping[str, Any],
    progress: Progress,
) -> CaptionIndex:
    """`facts` are model and dtype, as in the manifest."""
    request = {
        "sources": request_of(job.described),
        "rules": asdict(options.rules),
        "dtype": facts["dtype"],
        "part_rows": options.part_rows,
        "near_duplicates": options.near_duplicates,
        **job.identity,
    }
    facts = {**facts, "sources": job.described}
    with only_run_in(folder):
        # Without a finished plan there is nothing to lose.
        begun = any((folder / name).exists() for name in (MANIFEST, "plan/plan.json"))
        begin_building(folder, request, options.overwrite or not begun, facts)
        if is_finished(folder):
            drop_records(folder)
            if options.repair:
                _repair(job, folder, options, request, facts, progress)
        else:
            plan = job.plan(folder / "plan", options.rules, options.part_rows, progress)
            job.make_parts(folder, plan, missing_parts(folder, plan), facts["dtype"], progress)
            finish_index(folder, plan, progress, job.truncated(plan))
        index = open_index(folder)
        if options.export and not (folder / "text.index").is_file():
            write_flat_index(folder / "text.index", index.vectors, index.model["dimension"])
    return index


def _repair(
    job: CaptionJob,
    folder: Path,
    options: IndexOptions,
    request: Mapping[str, Any],
    facts: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Make the damaged parts of a finished index again, in a folder in it, and move them in."""
    damaged = damaged_parts(folder)
    if not damaged:
        return
    making = folder / REPAIRING
    begin_building(making, request, True, facts)
    plan = job.plan(making / "plan", options.rules, options.part_rows, progress)
    check_planned(folder, damaged, len(plan.parts))
    wanted = [p for p in missing_parts(making, plan) if p in damaged]
    job.make_parts(making, plan, wanted, facts["dtype"], progress)
    put_back(folder, damaged)
