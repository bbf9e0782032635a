"""Build a caption index: from corpora and a model, or from embeddings made elsewhere.

First the row plan (indexer/build/plan.py), then its parts, each stored while the next one is
encoded, then the manifest. The same request continues wherever an earlier run stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import MANIFEST
from ...corpora.sources import TextSource
from ...distributed.cluster import RayEngine
from ...distributed.texts import ray_parts
from ...errors import UsageError
from ...progress import Progress, no_progress
from ..encode.encoder import IDENTITY, Encoder
from ..search.index import CaptionIndex, open_index
from ..search.structures import write_flat_index
from ..store.lock import only_run_in, wait_to_run_in
from ..store.parts import begin_building, drop_records, is_finished
from ..store.sources import Described, describe_sources, request_of
from ..upkeep.repair import REPAIRING, check_planned, damaged_parts, put_back
from ..vectors.layout import load_vectors
from .finish import finish_index
from .options import NO_OPTIONS, IndexOptions
from .parts import (
    Encode,
    encoded_parts,
    given_parts,
    make_parts,
    missing_parts,
    open_text_embeddings,
    truncated_captions,
)
from .plan import RowPlan, make_plan, open_plan
from .rates import timed
from .shards import Shard, no_part_text, refuse_while_shards_run, running_shard


@dataclass(frozen=True)
class _Job:
    """One building: what is asked for, and where its vectors come from."""

    sources: tuple[TextSource, ...]
    folder: Path
    options: IndexOptions
    request: dict[str, Any]
    """What must be the same to go on with it."""
    facts: dict[str, Any]
    """model, dtype and sources, as the manifest states them."""
    encode: Encode
    truncated: Callable[[RowPlan], list[int | None] | None] = lambda plan: None
    """Captions of each source that the model's token limit cuts, where known."""


def build_index(
    sources: TextSource | Sequence[TextSource],
    encoder: Encoder,
    folder: str | Path,
    options: IndexOptions = NO_OPTIONS,
    progress: Progress = no_progress,
) -> CaptionIndex:
    """Embed the captions of one or several sources into `folder`, or go on where a run stopped.

    Of captions that are equal in several sources the first stays. Raises UsageError where the
    folder belongs to another request, BlissError for a corpus without usable text, a disk that
    cannot be written (finished parts stay) or a folder that another run is working in.
    """
    return _build(_encoding_job(sources, encoder, folder, options, progress), progress)


def build_shard(
    sources: TextSource | Sequence[TextSource],
    encoder: Encoder,
    folder: str | Path,
    options: IndexOptions,
    shard: Shard,
    progress: Progress = no_progress,
) -> tuple[int, ...]:
    """Make one shard's parts of the index that `build_index` would make; `merge_index` ends it.

    Several shards may work in one folder at once: the first makes the plan, the others wait for it.
    Returns the numbers of the parts that are still missing, all shards together.
    """
    job = _encoding_job(sources, encoder, folder, options, progress)
    with ExitStack() as running:
        with wait_to_run_in(job.folder, lambda why: progress(why, 0, 0)):
            _begin(job)
            if is_finished(job.folder):
                return ()
            running.enter_context(running_shard(job.folder, shard))
            plan = _plan(job, progress)
        missing = missing_parts(job.folder, plan)
        idle = no_part_text(shard, len(plan.parts))
        if idle:
            progress(idle, 0, 0)
            return missing
        wanted = [p for p in missing if p % shard.count == shard.number]
        make_parts(job.folder, plan, wanted, job.encode, job.facts["dtype"], progress)
        return missing_parts(job.folder, plan)


def index_embeddings(
    folder: str | Path,
    output: str | Path,
    column: str | None = None,
    options: IndexOptions = NO_OPTIONS,
    progress: Progress = no_progress,
) -> CaptionIndex:
    """Index precomputed text embeddings in clip-retrieval's layout; no model is needed.

    `column` of the metadata holds the captions. Vectors are normalised and the number that
    needed it is reported; zero and non-finite ones are left out and listed as failures.
    """
    if options.prompts is not None:
        raise UsageError(
            "prompts were given with --embeddings",
            "no prompts: the texts are embedded already",
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
        lambda plan, numbers, _: given_parts(plan, numbers, texts, progress),
    )
    return _build(job, progress)


def _encoding_job(
    sources: TextSource | Sequence[TextSource],
    encoder: Encoder,
    folder: str | Path,
    options: IndexOptions,
    progress: Progress,
) -> _Job:
    every = tuple(sources) if isinstance(sources, Sequence) else (sources,)
    dtype = options.dtype or "float16"
    described = describe_sources(every, options.prompts, options.licences)
    identity = {name: encoder.facts[name] for name in (*IDENTITY, "precision")}
    return _Job(
        every,
        Path(folder),
        options,
        {"sources": request_of(described), **_settings(options, dtype), **identity},
        {"model": dict(encoder.facts), "dtype": dtype, "sources": described},
        _encoding(encoder, described, options.engine, progress),
        lambda plan: truncated_captions(plan, encoder, described),
    )


def _encoding(
    encoder: Encoder, described: Sequence[Described], engine: RayEngine | None, progress: Progress
) -> Encode:
    if engine is None:
        return lambda plan, numbers, rates: encoded_parts(
            plan, numbers, encoder, described, progress, rates
        )
    return lambda plan, numbers, _: ray_parts(plan, numbers, encoder, described, engine, progress)


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
        refuse_while_shards_run(folder)
        _begin(job)
        if is_finished(folder):
            drop_records(folder)
            if job.options.repair:
                _repair(job, progress)
        else:
            plan = _plan(job, progress)
            missing = missing_parts(folder, plan)
            make_parts(folder, plan, missing, job.encode, job.facts["dtype"], progress)
            finish_index(folder, plan, progress, job.truncated(plan))
        index = open_index(folder)
        if job.options.export and not (folder / "text.index").is_file():
            write_flat_index(folder / "text.index", index.vectors, index.model["dimension"])
    return index


def _begin(job: _Job) -> None:
    """Start the folder or go on with it; where no plan was finished there is nothing to lose."""
    folder = job.folder
    begun = any((folder / name).exists() for name in (MANIFEST, "plan/plan.json"))
    begin_building(folder, job.request, job.options.overwrite or not begun, job.facts)


def _repair(job: _Job, progress: Progress) -> None:
    """Make the damaged parts of a finished index again, beside it, and put them in place."""
    damaged = damaged_parts(job.folder)
    if not damaged:
        return
    beside = replace(job, folder=job.folder / REPAIRING)
    begin_building(beside.folder, job.request, True, job.facts)
    plan = _plan(beside, progress)
    check_planned(job.folder, damaged, len(plan.parts))
    wanted = [p for p in missing_parts(beside.folder, plan) if p in damaged]
    make_parts(beside.folder, plan, wanted, job.encode, job.facts["dtype"], progress)
    put_back(job.folder, damaged)


def _plan(job: _Job, progress: Progress) -> RowPlan:
    """The row plan, made if it is not there."""
    folder = job.folder / "plan"
    plan = open_plan(folder)
    if plan is None:
        with timed(job.folder, "plan") as facts:
            expected = [described["corpus"] for described in job.facts["sources"]]
            plan = make_plan(
                job.sources,
                job.options.rules,
                folder,
                job.options.part_rows,
                expected,
                lambda read: progress("texts read", read, 0),
            )
            facts["rows"] = sum(counts["read"] for counts in plan.counts)
    return plan
