"""Embeddings on disk in clip-retrieval's layout, written part by part and resumable.

`FOLDER/text_emb/text_emb_3.npy` (or `img_emb/img_emb_3.npy`) holds the vectors of part 3,
`FOLDER/metadata/metadata_3.parquet` a row for each of them, and `FOLDER/captions/` the captions
again, as UTF-8 bytes with offsets, to be read by row. The source rows of a part do not depend on
interruptions. `FOLDER/parts/part_3.json` is written after the files of part 3 and marks it as
whole; `building.json` holds the request, so that the same command continues and another one is
refused; `manifest.json` is written last.

What was encoded of an unfinished part is stored every half minute, so that little is lost: a part
is written once all of it is encoded, which takes a slow encoder minutes. Until then its batches are
in `journal/`, each under a digest of what it was made of. The same command forms the same batches
again and finds their vectors there, so a part has the same bytes either way.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...artefacts import (
    BUILDING,
    FIELDS,
    LOCK,
    MANIFEST,
    check_checksum,
    read_array,
    read_json,
    seal,
    sha256_of,
    write_array,
    write_atomically,
    write_json,
)
from ...corpora import CAPTION_PROMPT, TextSource, check_prompts
from ...errors import BlissError, UsageError
from ..vectors.layout import caption_files, metadata_file, vector_file
from ..vectors.rows import OPEN_FILES, by_part, part_starts
from .manifest import IndexFolder

Described = Mapping[str, Any]
"""name, licence (or None), corpus (the facts of its TextSource) and prompts of one source."""


def describe_sources(
    sources: Sequence[TextSource], prompts: Sequence[str] | None, licences: Sequence[str]
) -> list[dict[str, Any]]:
    """A Described for each source; without `prompts` each has its corpus's own.

    `licences` hold one text for all sources, or `NAME=TEXT` for each; a source that none of them
    names has the licence of its preset or card, if any. UsageError where they name no source or two
    name the same one, or where there is no source.
    """
    if not sources:
        raise UsageError("no corpus was given", "at least one", "Name a corpus")
    names = _names(sources)
    stated = _licences(names, licences)
    facts = [source.facts() for source in sources]
    return [
        {
            "name": name,
            "licence": stated.get(name, source.licence),
            "corpus": fact,
            "prompts": list(check_prompts(prompts or (source.default_prompt,))),
        }
        for name, source, fact in zip(names, sources, facts, strict=True)
    ]


def request_of(described: Sequence[Described]) -> list[dict[str, Any]]:
    """The sources as a request states them: flat, so that a changed field has a short name."""
    return [
        {**each["corpus"], **{name: each[name] for name in ("name", "licence", "prompts")}}
        for each in described
    ]


def in_current_terms(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request, perhaps of an earlier version, in the terms of this version.

    Lines of a key, a tab and a text had the schemes `keyed-captions:` and `keyed-words:`.
    """
    sources = request.get("sources")
    if not isinstance(sources, list):
        return dict(request)
    return {**request, "sources": [_in_current_terms(source) for source in sources]}


def _in_current_terms(source: Any) -> Any:
    if not isinstance(source, Mapping) or source.get("kind") != "keyed-lines":
        return source
    scheme = str(source.get("spec")).partition(":")[0]
    current = {
        **source,
        "kind": "text-file",
        "column": "2",
        "delimiter": "\t",
        "header": "no",
        **{name: str(source.get(name)).removeprefix(f"{scheme}:") for name in ("spec", "name")},
    }
    return {**current, "split_cells": ","} if scheme == "keyed-words" else current


def encoding_prompts(
    described: Sequence[Described],
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The prompts that captions are encoded in, and a template of each source to apply first.

    The templates are None unless the sources have different prompts, which are then single
    templates, the defaults of their corpora.
    """
    prompts = [tuple(each["prompts"]) for each in described]
    if len(set(prompts)) == 1:
        return prompts[0], None
    return (CAPTION_PROMPT,), tuple(template for (template,) in prompts)


def without_names(described: Sequence[Described], taken: Sequence[str]) -> list[dict[str, Any]]:
    """The same sources with names that are not `taken`: NAME#2 where NAME is."""
    names = list(taken)
    for each in described:
        names.append(_free_name(each["name"], names))
    renamed = zip(described, names[len(taken) :], strict=True)
    return [{**each, "name": name} for each, name in renamed]


def _free_name(name: str, taken: Sequence[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def _names(sources: Sequence[TextSource]) -> list[str]:
    """The preset or spec of each source; the second with the same name is NAME#2."""
    names: list[str] = []
    for source in sources:
        names.append(_free_name(source.preset or source.spec, names))
    return names


def _licences(names: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        named = [name for name in names if text.startswith(f"{name}=")]
        if not named and ("=" in text or len(given) > 1):
            raise UsageError(
                f"the licence {text!r} names no source",
                f"NAME=TEXT with one of {', '.join(names)}, or one text for all sources",
                "Name the source it is of",
            )
        for name in named or names:
            if name in found:
                raise UsageError(
                    f"two licences were given for {name}", "one", "Leave one of them out"
                )
            found[name] = text.removeprefix(f"{name}=") if named else text
    return found


JOURNAL = "journal"
JOURNAL_SECONDS = 30.0
"""How much work may be unwritten, beside the batch that is being encoded."""
BUILDING_FOLDERS = ("parts", "plan", "shards", "near", JOURNAL)
OUR_FOLDERS = (
    *BUILDING_FOLDERS,
    *"text_emb img_emb metadata captions search earlier adding repairing".split(),
)
OUR_FILES = (MANIFEST, BUILDING, "removed*.npy", "text.index", "build.log.jsonl")
"""Patterns of the files that bliss writes into such a folder."""
_NONE = object()


@dataclass(frozen=True)
class Part:
    """One part to be written: vectors [m, d], a metadata row for each, and failures."""

    vectors: np.ndarray
    metadata: pa.Table
    failures: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, int] | None = None
    record: Mapping[str, Any] | None = None
    """Further fields of its record."""


def begin_building(
    folder: Path,
    request: Mapping[str, Any],
    overwrite: bool,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Start a folder for `request`, or continue one that was started for the same request.

    `overwrite` deletes what bliss wrote there for another request; `facts` are stored with the
    request until the folder is finished. Raises UsageError where the folder was started for another
    request, naming the fields that differ, or holds files that bliss did not write.
    """
    for name in (MANIFEST, BUILDING):
        if not (folder / name).is_file():
            continue
        before = _request_of(folder / name, overwrite)
        if name == MANIFEST and _is_foreign(folder / name):
            raise _not_ours(folder)
        if before == dict(request):
            break
        if in_current_terms(before) == dict(request):
            return  # begun by an earlier version: its own words stay beside its parts
        if overwrite:
            _empty(folder)
            break
        raise UsageError(
            f"{folder} was made with other settings "
            f"({', '.join(differing_fields(before, request))} differ)",
            "the same settings to continue it, or an empty folder",
            "Choose another output folder, or pass --overwrite to make this one again",
        )
    else:
        there = folder.iterdir() if folder.is_dir() else ()
        if any(path.suffix != ".tmp" and path.name != LOCK for path in there):
            raise _not_ours(folder)
    if not (folder / MANIFEST).is_file():
        write_json(folder / BUILDING, {"request": dict(request), "facts": dict(facts or {})})


def differing_fields(before: Any, after: Any, name: str = "") -> list[str]:
    """The fields in which two requests differ, as `rules.max_characters` or `sources[0].name`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            field
            for key in sorted({*before, *after})
            for field in differing_fields(
                before.get(key, _NONE), after.get(key, _NONE), f"{name}.{key}" if name else key
            )
        ]
    lists = isinstance(before, list) and isinstance(after, list)
    if lists and any(isinstance(each, Mapping) for each in (*before, *after)):
        return [
            field
            for number, (one, other) in enumerate(zip_longest(before, after, fillvalue=_NONE))
            for field in differing_fields(one, other, f"{name}[{number}]")
        ]
    return [] if before == after else [name]


def _is_foreign(path: Path) -> bool:
    """Whether a manifest is whole and of another program, which may have folders of these names."""
    try:
        return read_json(path).get("kind") not in FIELDS
    except BlissError:
        return False


def _not_ours(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} holds files that bliss did not put there",
        "an empty or new output folder",
        "Choose another one",
    )


def _request_of(path: Path, overwrite: bool) -> dict[str, Any]:
    """The request a folder was started for; with `overwrite`, {} where it cannot be read."""
    try:
        before = read_json(path).get("request")
    except BlissError:
        if not overwrite:
            raise
        before = None
    return before if isinstance(before, dict) else {}


def is_finished(folder: Path) -> bool:
    """Whether the manifest, written last, is there."""
    return (folder / MANIFEST).is_file()


def write_part(folder: Path, kind: str, number: int, part: Part) -> None:
    """Write one part; its record is written last and marks it as whole."""
    if len(part.vectors):
        write_array(folder / vector_file(kind, number), part.vectors)
        write_atomically(
            folder / metadata_file(number), lambda file: pq.write_table(part.metadata, file)
        )
        if kind == "text":
            write_captions(folder, number, part.metadata["caption"].to_pylist())
    files = files_of(kind, number) if len(part.vectors) else ()
    write_json(
        folder / f"parts/part_{number}.json",
        {
            **(part.record or {}),
            "rows": len(part.vectors),
            "checksums": {name: sha256_of(folder / name) for name in files},
            "failures": list(part.failures),
            "counts": dict(part.counts or {}),
        },
    )


def finished_part(folder: Path, number: int) -> dict[str, Any] | None:
    """The record of a whole part, or None where it is missing or its files have changed."""
    path = folder / f"parts/part_{number}.json"
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        for name in record["checksums"]:
            check_checksum(folder, name, record)
    except (BlissError, KeyError, TypeError, AttributeError):
        return None
    return record


def finished_parts(folder: Path) -> frozenset[int]:
    """The numbers of all whole parts of an unfinished folder."""
    numbers = [int(path.stem.removeprefix("part_")) for path in (folder / "parts").glob("*.json")]
    return frozenset(n for n in numbers if finished_part(folder, n) is not None)


def finish_building(folder: Path, kind: str, part_count: int, facts: Mapping[str, Any]) -> None:
    """Write the manifest of all parts, then delete their records.

    `facts` must name the artefact's "kind"; "files" may list further files to checksum.
    """
    records = [read_json(folder / f"parts/part_{p}.json") for p in range(part_count)]
    begun = read_json(folder / BUILDING)
    rest = dict(facts)
    checksums = {name: sha256_of(folder / name) for name in rest.pop("files", ())}
    counts: dict[str, int] = {}
    for record in records:
        # Not computed again: what has changed since must not pass for whole.
        checksums |= record["checksums"]
        for name, value in record["counts"].items():
            counts[name] = counts.get(name, 0) + value
    seal(
        folder,
        rest.pop("kind"),
        checksums,
        {
            "request": begun["request"],
            "parts": [record["rows"] for record in records],
            "failures": [failure for record in records for failure in record["failures"]],
            "vector_kind": kind,
            **counts,
            **rest,
        },
    )
    drop_records(folder)


def drop_records(folder: Path) -> None:
    """Delete what a finished folder does not need, and files of interrupted writes."""
    for name in BUILDING_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / BUILDING).unlink(missing_ok=True)
    for pattern in (".*.tmp", "*/.*.tmp"):
        for path in folder.glob(pattern):
            if path.is_file():  # of a version that put them beside the file itself
                path.unlink(missing_ok=True)


def files_of(kind: str, number: int) -> tuple[str, ...]:
    """Names of all files of a part that has rows."""
    captions = caption_files(number) if kind == "text" else ()
    return vector_file(kind, number), metadata_file(number), *captions


def _empty(folder: Path) -> None:
    """Delete the files that bliss writes into such a folder."""
    for name in OUR_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in OUR_FILES:
        for path in folder.glob(name):
            path.unlink(missing_ok=True)


def write_captions(folder: Path, number: int, captions: Sequence[str]) -> None:
    """Write the captions of one part, in row order."""
    encoded = [caption.encode("utf-8", "backslashreplace") for caption in captions]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    texts, starts = caption_files(number)
    write_atomically(folder / texts, lambda file: file.writelines(encoded))
    write_array(folder / starts, offsets)


class StoredCaptions:
    """The captions of the stored rows of an index folder; a part is opened when it is needed."""

    def __init__(self, folder: IndexFolder) -> None:
        self.folder = folder
        self.starts = part_starts(folder.manifest.parts)
        self._part = lru_cache(OPEN_FILES)(self._map_part)
        self._checked: set[int] = set()

    def __reduce__(self) -> tuple[type[StoredCaptions], tuple[IndexFolder]]:
        return StoredCaptions, (self.folder,)

    def __getitem__(self, rows: np.ndarray) -> list[str]:
        """The captions of stored rows int64 [u]; BlissError where a file is missing or changed."""
        found = [""] * len(rows)
        for number, places, here in by_part(self.starts, np.asarray(rows)):
            texts, offsets = self._part(number)
            for place, start, stop in zip(places, offsets[here], offsets[here + 1], strict=True):
                found[place] = bytes(texts[start:stop]).decode("utf-8", "replace")
        return found

    def _map_part(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8, all captions of a part one after another; int64 [m + 1], where each begins."""
        texts, starts = caption_files(number)
        if number not in self._checked:
            for name in (texts, starts):
                self.folder.check(name)
        remedy = "Restore the file or build the index again"
        offsets = read_array(self.folder.path / starts, mapped=True, remedy=remedy)
        rows, path = int(self.starts[number + 1] - self.starts[number]), self.folder.path / texts
        if offsets.shape != (rows + 1,) or offsets.dtype != np.int64:
            raise BlissError(
                f"{self.folder.path / starts} holds an array of shape {offsets.shape} and type "
                f"{offsets.dtype}",
                f"{rows + 1:,} whole numbers, where each caption of its part begins and ends",
                remedy,
            )
        if number not in self._checked:
            size = path.stat().st_size
            if offsets[0] != 0 or offsets[-1] != size or (offsets[1:] < offsets[:-1]).any():
                given = f"{self.folder.path / starts} does not fit {path}"
                raise BlissError(given, "the files as bliss wrote them", remedy)
        self._checked.add(number)
        mapped = np.memmap(path, np.uint8, "r") if offsets[-1] else np.zeros(0, np.uint8)
        return mapped, offsets


class Journal:
    """The journal in `folder`, where the parts of one request are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / JOURNAL
        self._files: list[Path] = []
        """Those with batches of the current part."""
        self._found: dict[str, np.ndarray] | None = None
        self._new: list[tuple[str, np.ndarray]] = []
        self._since = monotonic()

    def vectors(self, content: bytes, encode: Callable[[], np.ndarray]) -> np.ndarray:
        """[b, d]: what is stored for a batch of this content, or else what `encode` returns."""
        if self._found is None:
            self._found = self._read()
        name = hashlib.sha256(content).hexdigest()
        found = self._found.pop(name, None)
        if found is not None:
            return found
        made = encode()
        self._new.append((name, np.asarray(made)))
        if monotonic() - self._since >= JOURNAL_SECONDS:
            self._write()
        return made

    def end_part(self) -> list[Path]:
        """Begin the next part; returns the files to delete once this one is stored."""
        files, self._files = self._files, []
        self._new.clear()
        self._since = monotonic()
        return files

    def _write(self) -> None:
        """Store the new batches in a file; without room for it the run goes on."""
        path = self.folder / f"{secrets.token_hex(8)}.npz"
        names, batches = zip(*self._new, strict=True)
        rows = [len(batch) for batch in batches]
        with suppress(BlissError):
            write_atomically(
                path,
                lambda file: np.savez(
                    file, names=np.array(names), rows=rows, vectors=np.concatenate(batches)
                ),
            )
            self._files.append(path)
        self._new.clear()
        self._since = monotonic()

    def _read(self) -> dict[str, np.ndarray]:
        """Every stored batch by its name; files that cannot be read are as good as none."""
        found: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npz")):
            self._files.append(path)
            with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                with np.load(path, allow_pickle=False) as stored:
                    batches = np.split(stored["vectors"], np.cumsum(stored["rows"])[:-1])
                    found |= zip(stored["names"].tolist(), batches, strict=True)
        return found


def delete_files(files: list[Path]) -> None:
    """Delete files that are no longer needed, where that is possible."""
    for path in files:
        with suppress(OSError):
            path.unlink(missing_ok=True)
