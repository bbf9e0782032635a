"""The output folder of an audit: written by `save_audit`, read back by `open_run`.

`scores.parquet` and `scores.csv` hold one row an image, `issues.parquet` and `issues.csv` one an
issue, `copies.parquet` and `quality.parquet` what was found of these, `failures.csv` what could not
be read, `label_issues.csv` and `dropped.csv` the answers to --question mislabel and --robust;
`run.json` comes last, with settings, counts and the checksums of the others. No cell of a csv file
is a formula.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..arguments import checked
from ..artefacts import (
    FORMAT_VERSION,
    MODEL,
    check_checksum,
    check_fields,
    is_count,
    is_size,
    lacking,
    read_json,
    sha256_of,
    write_atomically,
    write_json,
    write_text,
)
from ..errors import BlissError, UsageError
from ..indexer import Failure, numbers_of, parquet_schema, ranks, read_parquet
from ..safe_text import (
    any_cell,
    cell_text,
    csv_lines,
    csv_text,
    entry_cell,
    joined_cells,
    text_cell,
)
from ..scorer import HiddenTexts
from ..tables import file_batches
from .decisions import decision_facts
from .fitting.robust import refit_facts
from .issues import issue_counts, issues_table, worst_issues
from .result import AuditedImage, AuditResult
from .retrieval import HITS
from .run import AuditSettings

SCORES, FAILURES, RUN = "scores.parquet", "failures.csv", "run.json"
SCORES_CSV, ISSUES, ISSUES_CSV = "scores.csv", "issues.parquet", "issues.csv"
COPIES, QUALITY = "copies.parquet", "quality.parquet"
LABELS_CSV, DROPPED = "label_issues.csv", "dropped.csv"
RESULTS = (SCORES, FAILURES, SCORES_CSV, ISSUES, ISSUES_CSV, COPIES, QUALITY, LABELS_CSV, DROPPED,
           "report.html", "groups.json")  # fmt: skip
HOW = (
    "batch_size", "device", "engine", "max_failures", "output", "overwrite", "ray_actors",
    "ray_address", "strict", "workers",
)  # fmt: skip
"""Options that change how an audit runs, not its result."""
DECIDING = (
    "contamination", "empirical_null", "fail_on", "fdr", "flag", "keep", "per_class", "top",
)  # fmt: skip
"""Options that only change the decision on the same scores: they may differ between runs."""
TOP = 20
"""Images shown, and compared by --robust, unless --top is given."""
LABEL_COLUMNS = (
    "row",
    "path",
    "is_label_issue",
    "label_quality",
    "given_label",
    "predicted_label",
    "margin",
    "cosine_margin",
)
ROWS_AT_ONCE, ROWS_READ = 1000, 4096
"""Rows of a csv file written, and of `scores.parquet` read, at once."""
LIBRARIES = ("bliss-audit", "numpy", "pyarrow", "pillow", "torch", "open_clip_torch")


RUN_FIELDS: Mapping[str, Any] = {
    "request?": dict,
    "settings": {"k": is_size, "weight": (int, float)},
    "images": {"source": str, "listed": is_count, "scored": is_count, "failed": is_count},
    "model": MODEL,
    "index": {"count": is_count, "sources": [{"name": str}], "checksums": {"*": str}},
    "reference": {"images": [is_count], "calibration_images": is_count},
    "libraries": {"bliss-audit": str},
    "decision?": (dict, type(None)),
    "robust?": (dict, type(None)),
    "checksums": {"*": str},
}
"""What readers of `run.json` use, as `artefacts.misfit` checks it."""


_KINDS: Mapping[str, Callable[[pa.DataType], bool]] = {
    **dict.fromkeys(("row", "rank"), pa.types.is_integer),
    **dict.fromkeys(("path", "label", "nearest_class"), pa.types.is_string),
    "score": pa.types.is_floating,
    "captions": pa.types.is_list,
}
"""Columns of `scores.parquet` that its readers count on."""


def check_output(folder: str | Path, request: Mapping[str, Any]) -> None:
    """Raise UsageError where `folder` holds the results of another request, naming what differs, or
    files that would be replaced and that no audit wrote: one searches before it writes any."""
    path = Path(folder) / RUN
    if not path.is_file():
        theirs = sorted(name for name in RESULTS if (Path(folder) / name).exists())
        if theirs and request.get("command") == "audit" and not (Path(folder) / HITS).is_dir():
            raise UsageError(
                f"{folder} holds {' and '.join(theirs[:2])}, which no audit wrote",
                "a new folder, or that of an audit",
                "Choose another --output, or pass --overwrite to replace them",
            )
        return
    run = read_json(path)
    before = run.get("request")
    differs = differing_options(before if isinstance(before, dict) else {}, request, Path(folder))
    if request.get("robust") is False and not run.get("robust"):
        differs.discard("robust")  # no image was left out then either
    differing = sorted(differs - {*HOW, *DECIDING})
    if differing:
        raise UsageError(
            f"{folder} holds {'an audit' if run.get('kind') == 'audit' else 'results'} made with "
            f"other settings ({', '.join(differing)} differ)",
            "the same settings, or another folder",
            "Choose another --output, or pass --overwrite to replace it",
        )


def differing_options(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> set[str]:
    """The options, by their names of today, that two requests of runs in `folder` differ in."""
    before, now = current_names(before), current_names(now)
    names = {*before, *now}
    return {name for name in names if not _same(before.get(name), now.get(name), folder)}


def _same(before: object, now: object, folder: Path) -> bool:
    """Whether two values of an option are equal, or name the same existing files or folders."""
    if before == now:
        return True
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return all(_same(one, other, folder) for one, other in zip(before, now, strict=True))
    if not (isinstance(before, str) and isinstance(now, str)):
        return False
    with suppress(OSError, ValueError):
        return os.path.samefile(located(before, folder), located(now, folder))
    return False


def located(path: str, folder: Path) -> str:
    """A path that a run in `folder` was given, where it exists now.

    A relative one that is not in the current folder is looked for in the folders around the run.
    """
    try:
        if os.path.isabs(path) or os.path.lexists(path):
            return path
        around = folder.resolve().parents
        return next((str(each / path) for each in around if (each / path).exists()), path)
    except (OSError, ValueError):
        return path


def current_names(request: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded request under the names that options have now, whichever version recorded it."""
    made = dict(request)
    for old, new in (("weight", "lambda"), ("label", "class_prompt")):
        if old in made:
            made[new] = made.pop(old)
    search = [made.pop("search_kind", None), *sorted(made.pop("search_set", ()))]
    device = made.pop("search_device", None)
    search += [f"device={device}" if device and device != "cpu" else None]
    search += ["shards" if made.pop("search_shards", False) else None]
    trained = [made.pop("head", None), made.pop("clipn", None), *made.get("trained", ())]
    cosine = made.pop("exclude_near_labels", None)
    exclude = ["label-words"] * bool(made.pop("exclude_label_words", False))
    exclude += [] if cosine is None else [f"near-labels={cosine:g}"]
    merged = {
        "search": made.get("search") or ",".join(filter(None, search)),
        "exclude": sorted(made.get("exclude", exclude)),
        "trained": sorted(filter(None, trained)),
    }
    made |= {name: value for name, value in merged.items() if value}
    if "leave-one-out" in made.pop("p_values", ()):  # per-class only changes the decision
        made["p_values"] = "leave-one-out"
    # What ranks the images: the other questions only add issues, and are answered again.
    questions = made.pop("question", "")
    questions = [questions] if isinstance(questions, str) else questions
    if "mislabel" in questions and "stray" not in questions:
        made["question"] = "mislabel"
    for spec, prefix in (("images" if "images" in made else "test", "images_"), ("corpus", "")):
        parts = [made.pop(f"{prefix}{part}", None) for part in ("revision", "config", "split")]
        if isinstance(made.get(spec), str):
            made[spec] += f"@{parts[0]}" if parts[0] else ""
            made[spec] += f":{'/'.join(filter(None, parts[1:]))}" if any(parts[1:]) else ""
    return made


@checked
def save_audit(
    result: AuditResult, settings: AuditSettings, folder: str | Path, request: Mapping[str, Any]
) -> None:
    """Write the files of a run; `run.json` comes last and holds the others' checksums.

    `request` is what was run (command and options). Raises BlissError when the folder cannot be
    written.
    """
    folder = Path(folder)
    write_atomically(folder / SCORES, lambda file: _write_tables(result, file))
    write_failures(folder, result.images.failures)
    write_atomically(
        folder / SCORES_CSV,
        lambda file: write_scores_csv(
            parquet_schema(folder / SCORES).names,
            file_batches(folder / SCORES, ROWS_AT_ONCE),
            file.write,
        ),
    )
    issues = issues_table(result) if result.issues is None else result.issues
    _write_parquet(issues, folder / ISSUES)
    write_atomically(
        folder / ISSUES_CSV,
        lambda file: write_scores_csv(
            issues.column_names, issues.to_batches(ROWS_AT_ONCE), file.write
        ),
    )
    written = [SCORES, FAILURES, SCORES_CSV, ISSUES, ISSUES_CSV]
    for name, table in ((COPIES, result.copies), (QUALITY, result.quality)):
        if table is not None:
            _write_parquet(table, folder / name)
            written.append(name)
    if result.ranked_by_labels:
        write_atomically(folder / LABELS_CSV, lambda file: write_labels_csv(result, file.write))
        written.append(LABELS_CSV)
    if result.refit is not None:
        lines = [("path", "given_label", "better_label"), *result.refit.table]
        write_text(folder / DROPPED, csv_text(lines))
        written.append(DROPPED)
    for name in {COPIES, QUALITY, LABELS_CSV, DROPPED} - set(written):
        (folder / name).unlink(missing_ok=True)  # another question's, from an earlier run
    facts = run_facts(result, settings, request)
    facts["checksums"] = {name: sha256_of(folder / name) for name in written}
    write_json(folder / RUN, facts)
    if result.hits is not None:
        result.hits.delete_unused()


def _write_tables(result: AuditResult, file: IO[bytes]) -> None:
    """Parquet, a row group for each block of images."""
    blocks = result.tables()
    first = next(blocks)
    with pq.ParquetWriter(file, first.schema) as writer:
        for block in itertools.chain([first], blocks):
            writer.write_table(block)


def _write_parquet(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda file: pq.write_table(table, file))


def write_labels_csv(result: AuditResult, write: Callable[[bytes], object]) -> None:
    """Write UTF-8 CSV of LABEL_COLUMNS, one line an image in the collection's order.

    Images without a label among the classes are not in it; no cell is a formula.
    """
    labels = result.labels
    assert labels is not None
    classes = result.reference.classes
    lines: list[tuple[object, ...]] = [LABEL_COLUMNS]
    quality, issue = labels.quality, labels.is_issue
    for i, (row, path) in enumerate(zip(result.images.rows, result.images.paths, strict=True)):
        if labels.given[i] >= 0:
            lines.append(
                (
                    int(row),
                    path,
                    bool(issue[i]),
                    float(quality[i]),
                    classes[labels.given[i]],
                    classes[labels.predicted[i]],
                    float(labels.margin[i]),
                    float(labels.cosine_margin[i]),
                )
            )
        if (i + 1) % ROWS_AT_ONCE == 0:
            write(csv_text(lines).encode("utf-8"))
            lines.clear()
    write(csv_text(lines).encode("utf-8"))


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """Write `failures.csv`: row, path and reason; no cell is a formula."""
    lines = ((failure.row, failure.path, failure.reason) for failure in failures)
    write_text(folder / FAILURES, csv_text([("row", "path", "reason"), *lines]))


def run_facts(
    result: AuditResult, settings: AuditSettings, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything needed to repeat the run except checksums; nothing from the environment."""
    index, reference = result.index.manifest, result.reference
    return {
        "format_version": FORMAT_VERSION,
        "kind": "audit",
        "request": json.loads(json.dumps(dict(request), default=str)),
        "settings": {
            "k": settings.k,
            "weight": settings.weight if result.refit is None else result.refit.weight,
            "score": result.score_name,
            "prompts": list(settings.words.prompts),
            "normal": list(settings.words.normal),
            "labels": dict(settings.words.labels),
            "exclude_near_labels": settings.exclude.cosine,
            "exclude_label_words": settings.exclude.words,
        },
        "images": {
            **count_facts(result),
            "source": result.images.source,
            "fingerprint": result.images.fingerprint,
        },
        "model": dict(result.images.model),
        "index": {
            "folder": str(result.index.folder),
            "count": result.index.count,
            "sources": index["sources"],
            "prompts": index.get("prompts"),
            "model": index["model"],
            "checksums": index["checksums"],
            **({"indexes": index["indexes"]} if "indexes" in index else {}),
            **({} if result.hidden is None else {"hidden": hidden_facts(result.hidden)}),
        },
        "reference": {
            "classes": list(reference.classes),
            "prompts": list(reference.prompts),
            "images": reference.moments.counts.tolist(),
            "calibration_images": reference.calibration_count,
            **({"fingerprint": result.clean} if result.clean else {}),
            **({"set_aside": dict(reference.set_aside)} if reference.set_aside else {}),
        },
        **answer_facts(result, int(request.get("top", TOP))),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "python": platform.python_version(),
    }


@cache
def _version(name: str) -> str:
    """The version of a library, which is read from its files once."""
    return version(name)


def hidden_facts(hidden: HiddenTexts) -> dict[str, Any]:
    """How many captions were hidden for being too like a label, and the first of them."""
    return {
        "count": hidden.count,
        "near_labels": hidden.near,
        "label_words": hidden.worded,
        "near_examples": [asdict(each) for each in hidden.near_examples],
        "worded_examples": [asdict(each) for each in hidden.worded_examples],
    }


def save_answer(
    folder: Path,
    kind: str,
    request: Mapping[str, Any],
    facts: Mapping[str, Any],
    written: Sequence[str],
) -> list[Path]:
    """Write `run.json` of another question than an audit, with the checksums of the files written.

    Returns all files, `run.json` last.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "request": dict(request),
        **facts,
        "libraries": {name: _version(name) for name in ("bliss-audit", "numpy", "pyarrow")},
        "python": platform.python_version(),
        "checksums": {name: sha256_of(folder / name) for name in written},
    }
    write_json(folder / RUN, content)
    return [folder / name for name in (*written, RUN)]


def answer_facts(result: AuditResult, top: int) -> dict[str, Any]:
    """What ranked the images, the decision, the issues and, with --robust, the refit."""
    refit = refit_facts(result, top)
    return {
        "question": "mislabel" if result.ranked_by_labels else "stray",
        **({} if result.issues is None else {"issues": issue_counts(result.issues)}),
        "decision": None if result.decision is None else decision_facts(result.decision),
        **({} if refit is None else {"robust": refit}),
        **({} if result.learnt is None else {"bliss_plus": dict(result.learnt)}),
    }


def count_facts(result: AuditResult) -> dict[str, int]:
    """How many images were listed, scored and unreadable, and what else is counted of them."""
    images = result.images
    aside = dict.fromkeys(result.reference.set_aside, 0)
    return {
        "listed": len(images.rows) + len(images.failures),
        "scored": len(images.rows),
        "failed": len(images.failures),
        "left_out": len(np.unique(result.left_out.images)),
        "set_aside": int((numbers_of(images.labels, aside) >= 0).sum()),
        "copies": len(images.hashes) - 1 - int(ranks(images.hashes).max(initial=-1)),
        "exif_rotated": images.exif_rotated,
        "normalised": images.normalised,
    }


def json_summary(result: AuditResult, top: int) -> dict[str, Any]:
    """The worst images and the counts as JSON-like values, for `--json`."""
    return {
        "counts": count_facts(result),
        "classes": list(result.reference.classes),
        **answer_facts(result, top),
        **({} if result.hidden is None else {"hidden_captions": hidden_facts(result.hidden)}),
        "failures": [asdict(failure) for failure in result.images.failures],
        "read_first": [result.images.paths[i] for i in result.first_order[:top].tolist()],
        "worst_issues": {} if result.issues is None else worst_issues(result.issues),
        "worst": [
            {
                "path": image.path,
                "label": image.label,
                "score": image.score,
                "nearest_class": image.nearest,
                "ics": image.ics,
                "ets": image.ets,
                "p": image.p,
                "q": image.q,
                "flagged": image.flagged,
                **label_values(image),
                "captions": [
                    {
                        **{"caption": c.text, "similarity": c.similarity, "z": c.pull},
                        **({"origin": c.origin, "licence": c.licence} if c.origin else {}),
                    }
                    for c in image.captions
                ],
            }
            for image in result.worst(top)
        ],
    }


def label_values(image: AuditedImage) -> dict[str, Any]:
    """The predicted label, quality and margin of an image whose label was questioned."""
    if image.margin is None:
        return {}
    return {
        "predicted_label": image.predicted,
        "label_quality": image.label_quality,
        "margin": image.margin,
    }


def write_scores_csv(
    names: Sequence[str], batches: Iterable[pa.RecordBatch], write: Callable[[bytes], object]
) -> None:
    """Write the table as UTF-8 CSV with a header, a batch of rows at a time.

    Booleans are true and false; everything else is as `csv_text` writes it.
    """
    write(csv_text([names]).encode("utf-8"))
    for batch in batches:
        cells = zip(*map(_cells, batch.columns), strict=True)
        write(csv_lines(cells).encode("utf-8"))


def _cells(column: pa.Array) -> list[object]:
    """The cells of a column, as `any_cell` makes them; each distinct text is looked at once."""
    kind = column.type
    if pa.types.is_string(kind):
        return _taken(column, text_cell, "")
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return ["" if value is None else value for value in column.to_pylist()]
    if pa.types.is_list(kind):
        entries = column.flatten()
        if pa.types.is_string(kind.value_type):
            return _joined(column, _taken(entries, entry_cell, "None"), numbers=False)
        if pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type):
            return _joined(column, [str(entry) for entry in entries.to_pylist()], numbers=True)
    return [
        str(value).lower() if isinstance(value, bool) else any_cell(value)
        for value in column.to_pylist()
    ]


def _joined(column: pa.Array, cells: list[Any], numbers: bool) -> list[object]:
    """One cell for each list of a column, from the cells of all their entries."""
    following = iter(cells)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
    return [joined_cells(list(itertools.islice(following, length)), numbers) for length in lengths]


def _taken(column: pa.Array, cell: Callable[[str], str], null: str) -> list[Any]:
    """The cell of each text of a column."""
    encoded = column.dictionary_encode()
    cells = [*map(cell, encoded.dictionary.to_pylist()), null]
    return [cells[at] for at in pc.fill_null(encoded.indices, len(cells) - 1).to_pylist()]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a finished audit of n images; nothing large is held."""

    folder: Path
    facts: Mapping[str, Any]
    """What `run.json` says."""
    opened: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What was read for this run and compared with it, by name."""

    @property
    def source(self) -> str:
        """The collection, as the audit was given it."""
        return str(self.facts["images"]["source"])

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that `scores.parquet` has."""
        schema = parquet_schema(self.folder / SCORES)
        for name, is_kind in _KINDS.items():
            if schema.names.count(name) != 1 or not is_kind(schema.field(name).type):
                raise BlissError(
                    f"{self.folder / SCORES} has no usable column '{name}'",
                    "the table as bliss wrote it",
                    "Run the audit again",
                )
        return frozenset(schema.names)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """The named columns that exist, for all n images."""
        return read_parquet(self.folder / SCORES, [name for name in names if name in self.names])

    @property
    def rows(self) -> np.ndarray:
        """int64 [n], the source row of each image, ascending."""
        return self.columns(["row"])["row"].to_numpy()

    def flagged(self) -> np.ndarray | None:
        """bool [n], the flagged images; None in runs that have no such column."""
        if "flagged" not in self.names:
            return None
        column = self.columns(["flagged"])["flagged"]
        return column.to_numpy(zero_copy_only=False).astype(bool)

    def images(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """All columns of the images at `positions` of the table, in that order."""
        order = np.argsort(positions, kind="stable")
        wanted = np.asarray(positions, np.int64)[order]
        taken, first = [], 0
        for batch in file_batches(self.folder / SCORES, ROWS_READ):
            here = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
            taken += batch.take(pa.array(here)).to_pylist()
            first += len(batch)
        found: list[dict[str, Any]] = [{}] * len(wanted)
        for place, row in zip(order, taken, strict=True):
            found[place] = row
        return found

    def failures(self) -> list[Failure]:
        """What `failures.csv` lists."""
        return read_failures(self.folder)

    def found(self, name: str) -> list[dict[str, Any]] | None:
        """The rows of `issues.parquet` and the like, None where the run has no such table."""
        if name not in self.facts["checksums"]:
            return None
        check_checksum(self.folder, name, self.facts)
        return read_parquet(self.folder / name).to_pylist()

    @property
    def ranked_by_labels(self) -> bool:
        """Whether the margins of the labels ranked the images."""
        asked = self.facts.get("request", {}).get("question", "stray")
        return self.facts.get("question", asked) == "mislabel"


def read_failures(folder: Path) -> list[Failure]:
    """What `failures.csv` in a folder lists."""
    with open(folder / FAILURES, encoding="utf-8", newline="") as file:
        return [
            Failure(int(line["row"]), cell_text(line["path"]), cell_text(line["reason"]))
            for line in csv.DictReader(file)
        ]


def open_run(folder: str | Path) -> RunFolder:
    """The run in `folder`; UsageError where there is none, BlissError where a file has changed."""
    folder = Path(folder)
    if not (folder / RUN).is_file():
        raise UsageError(
            lacking(folder, RUN),
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
    check_fields(facts, RUN_FIELDS, folder / RUN)
    for name in (SCORES, FAILURES):
        check_checksum(folder, name, facts)
    return RunFolder(folder, facts)
