"""Build a caption index: from corpora and a model, or from existing embeddings.

The row plan comes first (indexer/build/plan.py), then its parts, each stored while the next one is
encoded, then the manifest. The same request continues where an earlier run stopped. Damaged
parts are built again, and used if they come out the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked, checked_fields
from ...artefacts import MANIFEST, link_file, only_run_in, sha256_of
from ...corpora import CaptionRules, TextSource
from ...errors import BlissError, UsageError
from ...progress import Progress, no_progress
from ..encode.encoder import IDENTITY, Encoder
from ..images.embedding import EmbeddingEngine
from ..search.captions import CaptionIndex
from ..search.index import open_index
from ..search.structures import write_flat_index
from ..store.manifest import DTYPES, IndexFolder, checked_names, part_of
from ..store.parts import (
    Described,
    begin_building,
    describe_sources,
    drop_records,
    is_finished,
    request_of,
)
from ..vectors.rows import load_vectors
from .finish import finish_index
from .parts import (
    COPYING,
    PROGRESS,
    Encode,
    embedded_parts,
    encoded_parts,
    make_parts,
    missing_parts,
    open_text_embeddings,
    truncated_captions,
)
from .plan import RowPlan, make_plan, open_plan

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


@dataclass(frozen=True)
class _Job:
    """One build: what is requested, and where its vectors come from."""

    sources: tuple[TextSource, ...]
    folder: Path
    options: IndexOptions
    request: dict[str, Any]
    """What must be the same for the build to be continued."""
    facts: dict[str, Any]
    """model, dtype and sources, as in the manifest."""
    encode: Encode
    truncated: Callable[[RowPlan], list[int | None] | None] = lambda plan: None
    """How many captions of each source the model's token limit cuts, where known."""
    doing: str = PROGRESS
    """What is done with its captions, for messages."""


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
    return _build(_encoding_job(sources, encoder, folder, options, progress), progress)


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
    described = [
        {**each, "prompts": []} for each in describe_sources([texts], None, options.licences)
    ]
    job = _Job(
        (texts,),
        Path(output),
        options,
        {"sources": request_of(described), **_settings(options, dtype)},
        {"model": model, "dtype": dtype, "sources": described},
        lambda plan, numbers: embedded_parts(plan, numbers, texts, progress),
        doing=COPYING,
    )
    return _build(job, progress)


def _encoding_job(
    sources: TextSource | Sequence[TextSource],
    encoder: Encoder,
    folder: str | Path,
    options: IndexOptions,
    progress: Progress,
) -> _Job:
    all_sources = tuple(sources) if isinstance(sources, Sequence) else (sources,)
    dtype = options.dtype or "float16"
    described = describe_sources(all_sources, options.prompts, options.licences)
    identity = {name: encoder.facts[name] for name in (*IDENTITY, "precision")}
    return _Job(
        all_sources,
        Path(folder),
        options,
        {"sources": request_of(described), **_settings(options, dtype), **identity},
        {"model": dict(encoder.facts), "dtype": dtype, "sources": described},
        _encoding(encoder, described, options.engine, progress),
        lambda plan: truncated_captions(plan, encoder, described),
    )


def _encoding(
    encoder: Encoder,
    described: Sequence[Described],
    engine: EmbeddingEngine | None,
    progress: Progress,
) -> Encode:
    encode = encoded_parts if engine is None else engine.encode_captions
    return lambda plan, numbers: encode(plan, numbers, encoder, described, progress)


def _settings(options: IndexOptions, dtype: str) -> dict[str, Any]:
    return {
        "rules": asdict(options.rules),
        "dtype": dtype,
        "part_rows": options.part_rows,
        "near_duplicates": options.near_duplicates,
    }


def _build(job: _Job, progress: Progress) -> CaptionIndex:
    folder = job.folder
    with only_run_in(folder):
        _begin(job)
        if is_finished(folder):
            drop_records(folder)
            if job.options.repair:
                _repair(job, progress)
        else:
            plan = _plan(job, progress)
            missing = missing_parts(folder, plan)
            make_parts(
                folder, plan, missing, job.encode, job.facts["dtype"], progress, doing=job.doing
            )
            finish_index(folder, plan, progress, job.truncated(plan))
        index = open_index(folder)
        if job.options.export and not (folder / "text.index").is_file():
            write_flat_index(folder / "text.index", index.vectors, index.model["dimension"])
    return index


def _begin(job: _Job) -> None:
    """Start the folder or continue it; without a finished plan there is nothing to lose."""
    folder = job.folder
    begun = any((folder / name).exists() for name in (MANIFEST, "plan/plan.json"))
    begin_building(folder, job.request, job.options.overwrite or not begun, job.facts)


def _repair(job: _Job, progress: Progress) -> None:
    """Make the damaged parts of a finished index again, in a folder in it, and move them in."""
    damaged = damaged_parts(job.folder)
    if not damaged:
        return
    repairing = replace(job, folder=job.folder / REPAIRING)
    begin_building(repairing.folder, job.request, True, job.facts)
    plan = _plan(repairing, progress)
    check_planned(job.folder, damaged, len(plan.parts))
    wanted = [p for p in missing_parts(repairing.folder, plan) if p in damaged]
    make_parts(
        repairing.folder, plan, wanted, job.encode, job.facts["dtype"], progress, doing=job.doing
    )
    put_back(job.folder, damaged)


def _plan(job: _Job, progress: Progress) -> RowPlan:
    """The row plan, made if it does not exist."""
    folder = job.folder / "plan"
    plan = open_plan(folder)
    if plan is None:
        plan = make_plan(
            job.sources,
            job.options.rules,
            folder,
            job.options.part_rows,
            [described["corpus"] for described in job.facts["sources"]],
            lambda read: progress("texts read", read, 0),
        )
    return plan
