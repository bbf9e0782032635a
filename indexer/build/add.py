"""Append captions to a finished index as new parts; existing parts are not written again.

The new parts are built in `INDEX/adding/` like those of any index, by a plan that knows the
captions of the index, removed ones included. They are then linked into place under the next
numbers, and the manifest that names them replaces the old one: until then the index is unchanged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...artefacts import BUILDING, check_checksum, digest, read_json
from ...corpora import CAPTION_PROMPT, PAPER_PROMPT, CaptionRules, TextSource, preset_named
from ...errors import BlissError, UsageError
from ...progress import Progress
from ..encode.encoder import Encoder, check_same_model
from ..search.captions import CaptionIndex
from ..search.index import open_index
from ..store.manifest import (
    IndexFolder,
    checked_names,
    count_problems,
    files_of_part,
    type_problems,
)
from ..store.parts import (
    Described,
    begin_building,
    describe_sources,
    differing_fields,
    in_current_terms,
    request_of,
    without_names,
)
from ..vectors.layout import metadata_file
from .finish import ADDING, finish_addition
from .parts import CaptionJob, copying_job, encoding_job, missing_parts, open_text_embeddings
from .plan import KnownCaptions


@dataclass(frozen=True)
class AddOptions:
    """How captions are added."""

    prompts: tuple[str, ...] | None = None
    """Templates; by default those of the index, or of the corpus."""
    licences: tuple[str, ...] = ()
    overwrite: bool = False
    """Delete what an interrupted addition of other captions left."""


@dataclass(frozen=True)
class Added:
    """The result of an addition."""

    folder: Path
    counts: Mapping[str, int]
    """What became of the texts of all new sources together."""
    before: bool
    """Whether it had been done before, so that nothing changed now."""

    @cached_property
    def index(self) -> CaptionIndex:
        """The index with them; errors as of `open_index`, which do not undo the addition."""
        try:
            return open_index(self.folder)
        except (BlissError, OSError) as error:
            raise BlissError(
                f"the captions were added, but {self.folder} could not be opened: {error}",
                "an index that can be read",
                "Nothing needs to be added again: see `bliss index verify`",
            ) from error


NO_OPTIONS = AddOptions()


def add_captions(
    folder: str | Path,
    sources: Sequence[TextSource],
    encoder: Encoder,
    options: AddOptions = NO_OPTIONS,
    progress: Progress = lambda what, done, total: None,
) -> Added:
    """Embed the captions of `sources` that an index does not have, or continue an interrupted run.

    A caption that was removed from the index stays removed. Raises UsageError where no caption is
    new or where an addition of other captions was interrupted, BlissError where `encoder` is not
    the model of the index, the index is damaged, or the disk cannot be written.
    """
    folder = Path(folder)

    def job(manifest: Mapping[str, Any]) -> CaptionJob:
        check_same_model(manifest["model"], str(folder), encoder.facts, "the model given")
        prompts = options.prompts or shared_prompts(manifest["sources"])
        described = describe_sources(sources, prompts, options.licences)
        named = without_names(described, [source["name"] for source in manifest["sources"]])
        return encoding_job(sources, named, encoder, progress)

    return _add(folder, job, options, progress)


def add_embeddings(
    folder: str | Path,
    embeddings: str | Path,
    column: str | None = None,
    options: AddOptions = NO_OPTIONS,
    progress: Progress = lambda what, done, total: None,
) -> Added:
    """`add_captions` for existing text embeddings in clip-retrieval's layout.

    They must come from the model of the index: only their dimension can be checked.
    """
    folder = Path(folder)
    texts = open_text_embeddings(Path(embeddings), column)

    def job(manifest: Mapping[str, Any]) -> CaptionJob:
        facts = {"dimension": texts.folder.dimension}
        check_same_model(manifest["model"], str(folder), facts, str(embeddings))
        taken = [source["name"] for source in manifest["sources"]]
        return copying_job(texts, options.licences, facts, progress, taken)

    return _add(folder, job, options, progress)


def _add(
    folder: Path,
    make_job: Callable[[Mapping[str, Any]], CaptionJob],
    options: AddOptions,
    progress: Progress,
) -> Added:
    with IndexFolder.locked(folder) as opened:
        manifest = opened.manifest.to_json()
        rules, part_rows = _rules_and_part_rows(folder, manifest)
        previous = _without_last_addition(manifest)
        if previous is not None:
            last = manifest["additions"][-1]
            if digest(_request(previous, make_job(previous))) == last["request"]:
                shutil.rmtree(folder / ADDING, ignore_errors=True)
                return Added(folder, last["counts"], before=True)
        job, adding = make_job(manifest), folder / ADDING
        request = _request(manifest, job)
        _begin(adding, request, job, options.overwrite)

        def known() -> list[KnownCaptions]:
            return [KnownCaptions(_metadata(folder, manifest))] if rules.deduplicate else []

        plan = job.plan(adding / "plan", rules, part_rows, progress, known)
        if not plan.count:
            shutil.rmtree(adding, ignore_errors=True)
            raise UsageError(
                f"every caption given is already in {folder}, or was removed from it",
                "at least one that is new",
                "Give other captions; `bliss index remove --undo` brings removed ones back",
            )
        job.make_parts(adding, plan, missing_parts(adding, plan), manifest["dtype"], progress)
        counts = finish_addition(
            folder, manifest, plan, job.described, digest(request), job.truncated(plan)
        )
        return Added(folder, counts, before=False)


def _rules_and_part_rows(folder: Path, manifest: Mapping[str, Any]) -> tuple[CaptionRules, int]:
    """The caption rules and the part size of the index, whose manifest is checked."""
    problems = type_problems(manifest) or count_problems(manifest)
    request = manifest["request"] if not problems else {}
    try:
        if not problems:
            checked_names(manifest, str(folder))
            rules, part_rows = CaptionRules(**request["rules"]), request["part_rows"]
            if isinstance(part_rows, int) and part_rows > 0:
                return rules, part_rows
        problems = problems or ["'request' is not as bliss writes it"]
    except (KeyError, TypeError, UsageError):
        problems = ["'request' lacks the caption rules or the part size"]
    raise BlissError(
        f"the manifest of {folder} is invalid: {problems[0]}",
        "the manifest as bliss wrote it",
        "Restore it from a backup, or build the index again",
    )


def _without_last_addition(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest before the last addition, as far as a request depends on it."""
    if not manifest.get("additions"):
        return None
    last = manifest["additions"][-1]
    return {
        **manifest,
        "parts": manifest["parts"][: last["first_part"]],
        "sources": manifest["sources"][: last["first_source"]],
    }


def _request(manifest: Mapping[str, Any], job: CaptionJob) -> dict[str, Any]:
    """What must be the same to continue: the stored rows of the index, and what is added."""
    names = [n for p, rows in enumerate(manifest["parts"]) if rows for n in files_of_part(p)]
    stored = {name: manifest["checksums"].get(name) for name in names}
    return {"index": digest(stored), "sources": request_of(job.described), **job.identity}


def _begin(adding: Path, request: dict[str, Any], job: CaptionJob, overwrite: bool) -> None:
    """Start the addition or continue it; remains of a finished one are deleted."""
    if (adding / BUILDING).is_file():
        try:
            before = read_json(adding / BUILDING).get("request")
            before = in_current_terms(before) if isinstance(before, dict) else {}
        except BlissError:
            before = {}
        if before.get("index") != request["index"]:
            shutil.rmtree(adding, ignore_errors=True)
        elif before != request and not overwrite:
            raise UsageError(
                f"an addition of other captions to {adding.parent} was interrupted "
                f"({', '.join(differing_fields(before, request))} differ)",
                "the same command, to finish it",
                "Run that command again first, or pass --overwrite to delete what it did",
            )
    elif adding.is_dir():
        shutil.rmtree(adding, ignore_errors=True)
    begin_building(adding, request, overwrite, {"sources": job.described})


def _metadata(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """The checked files with the captions of the index."""
    names = [metadata_file(p) for p, rows in enumerate(manifest["parts"]) if rows]
    for name in names:
        check_checksum(folder, name, manifest)
    return [folder / name for name in names]


def shared_prompts(sources: Sequence[Described]) -> list[str] | None:
    """The prompts an index was asked to have; None where each source has its corpus's own.

    Those of a corpus are either of two, or its preset's: any others were asked for.
    """
    prompts: list[str] = sources[0]["prompts"]
    if not prompts or any(each["prompts"] != prompts for each in sources):
        return None
    presets = [preset_named(each["name"].partition("#")[0]) for each in sources]
    own = [CAPTION_PROMPT, PAPER_PROMPT, *(preset.prompt for preset in presets if preset)]
    return None if len(prompts) == 1 and prompts[0] in own else prompts
