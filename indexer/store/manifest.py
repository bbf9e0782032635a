"""The manifest of a caption index: what it says, whether it can be right, and how it changes.

`IndexManifest` reads `manifest.json` into fields; `IndexFolder` is a folder with its manifest, and
the only writer of it. The names of the files that an index may hold are here too. What a manifest
holds beside these fields is kept as it is.

`artefacts.FORMAT_VERSION` is raised when an older version of bliss-audit would misread a folder: a
field it uses changes its meaning, or files it reads change. A new field that an older version may
ignore does not raise it, and a reader takes an absent one for its default. A version reads the
format version it writes, and refuses others with the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...artefacts import (
    LOCK,
    MANIFEST,
    check_checksum,
    is_count,
    misfit,
    only_run_in,
    read_manifest,
    write_json,
)
from ...corpora import is_remote
from ...errors import BlissError, UsageError
from ..vectors.layout import caption_files, metadata_file, vector_file

KIND = "caption-index"
HOW_TO_BUILD = (
    "Make one with `bliss index build CORPUS -o DIR`, "
    "or with `bliss index build --embeddings DIR -o NEW` from precomputed embeddings"
)
_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_NAMES = re.compile(
    rf"text_emb/text_emb_{_NUMBER}\.npy|metadata/metadata_{_NUMBER}\.parquet|"
    rf"captions/captions_{_NUMBER}\.bin|captions/offsets_{_NUMBER}\.npy|"
    rf"removed(?:_[2-9]|_[1-9][0-9]{{1,8}})?\.npy|search/[A-Za-z0-9_][A-Za-z0-9_.,-]{{0,99}}\.(?:faiss|npy|json)"
)
UNLISTED = (MANIFEST, LOCK, "build.log.jsonl", "text.index")
"""Files that may be in the folder without being in its checksums."""


def local_folder(given: str | Path) -> Path:
    """`given` as a folder on this machine; UsageError for an address."""
    if is_remote(str(given)):
        raise UsageError(
            f"{given} is not a folder on this machine",
            "one, as an index is changed and checked in place",
            "Copy it here, or build the index here with another -o",
        )
    return Path(given)


def files_of_part(number: int) -> tuple[str, ...]:
    """The names a part with rows must have: vectors, metadata, captions and their offsets."""
    return vector_file("text", number), metadata_file(number), *caption_files(number)


def part_of(name: str) -> int | None:
    """The number of the part a file belongs to, or None."""
    found = re.fullmatch(rf"[a-z_]+/[a-z_]+_({_NUMBER})\.(?:npy|parquet|bin)", name)
    return int(found[1]) if found and name in files_of_part(int(found[1])) else None


def foreign_names(names: Iterable[object]) -> list[str]:
    """Those of `names` that are not file names of an index."""
    return [str(n) for n in names if not (isinstance(n, str) and _NAMES.fullmatch(n))]


def checked_names(manifest: Mapping[str, Any], where: str) -> list[str]:
    """The files a manifest lists, sorted; BlissError unless all are file names of an index."""
    strange = foreign_names(manifest["checksums"])
    if strange:
        raise BlissError(
            f"the manifest of {where} lists {strange[0]!r}",
            "only files that a caption index has, inside its folder",
            "Do not use it: it was not written by bliss",
        )
    return sorted(manifest["checksums"])


def files_below(folder: Path) -> list[str]:
    """Every file in the folder, by name relative to it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                  if not path.is_dir() or path.is_symlink())  # fmt: skip


DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class IndexSource:
    """One source of the captions."""

    name: str
    licence: str | None
    rows: int
    """Stored rows from it."""
    prompts: tuple[str, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class IndexManifest:
    """What the manifest of a finished index says; its types are sound."""

    parts: tuple[int, ...]
    """Rows of each part."""
    model: Mapping[str, Any]
    """The facts of the model its vectors come from."""
    dimension: int
    dtype: str
    """Of the stored vectors: float16 or float32."""
    sources: tuple[IndexSource, ...]
    checksums: Mapping[str, str]
    """File name -> SHA-256."""
    search: Mapping[str, Any]
    """How it is searched: {"kind": "exact"}, or the facts of a structure (see `stored_kind`)."""
    removed: Mapping[str, Any] | None
    """The file, count and log of removed rows (see `removed_rows`); None where none is removed."""
    content: Mapping[str, Any]
    """All of manifest.json."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> IndexManifest:
        """The manifest with this content; BlissError naming a field bliss did not write so."""
        for name, sound in _field_checks(content).items():
            if not sound:
                raise unusable(where, name)
        sources = [
            IndexSource(s["name"], s.get("licence"), s["rows"], tuple(s["prompts"]), s["counts"])
            for s in content["sources"]
        ]
        return cls(
            tuple(content["parts"]),
            content["model"],
            content["model"]["dimension"],
            content["dtype"],
            tuple(sources),
            content["checksums"],
            content.get("search", {"kind": "exact"}),
            content.get("removed", {}),  # {}: edited away, which `removed_rows` refuses
            content,
        )

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return dict(self.content)

    @property
    def stored_count(self) -> int:
        """Stored rows of all parts, removed ones too."""
        return sum(self.parts)


@dataclass(frozen=True)
class IndexFolder:
    """The folder of a finished index and its manifest."""

    path: Path
    manifest: IndexManifest

    @classmethod
    def open(cls, path: Path) -> IndexFolder:
        """Read the manifest; BlissError where `path` is not a finished index."""
        content = read_manifest(path, KIND, HOW_TO_BUILD)
        return cls(path, IndexManifest.from_json(content, f"{path / MANIFEST}"))

    @classmethod
    @contextmanager
    def locked(cls, path: Path) -> Iterator[IndexFolder]:
        """The folder while nobody else may change it; BlissError where another run works in it."""
        cls.open(path)  # before a lock makes the folder
        with only_run_in(path):
            yield cls.open(path)

    def check(self, name: str) -> None:
        """Raise BlissError where a file is missing or differs from its checksum."""
        check_checksum(self.path, name, self.manifest.content)

    def with_fields(self, **changed: Any) -> IndexFolder:
        """The same folder, its manifest with other fields; nothing is written."""
        content = {**self.manifest.content, **changed}
        return replace(self, manifest=IndexManifest.from_json(content, f"{self.path / MANIFEST}"))

    def write_manifest(self) -> None:
        """Replace manifest.json."""
        write_json(self.path / MANIFEST, self.manifest.content)


def unusable(where: str, name: str) -> BlissError:
    """The error for a field that bliss did not write so."""
    return BlissError(
        f"{where} has no usable '{name}'",
        "the manifest as bliss wrote it",
        "Restore it from a backup or build the folder again",
    )


_COUNTS = {"read": is_count, "kept": is_count, "*": is_count}
_FIELDS: Mapping[str, Any] = {
    "parts": lambda parts: bool(parts) and misfit(parts, [is_count]) is None,
    "checksums": {"*": lambda text: isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text)},
    "model": {"dimension": lambda value: is_count(value) and value > 0},
    "dtype": lambda name: name in DTYPES,
    "sources": [
        {"name": str, "licence?": (str, type(None)), "corpus": dict, "prompts": [str],
         "rows": is_count, "counts": _COUNTS}
    ],
}  # fmt: skip
"""The fields that every use of an index needs, as `misfit` checks them."""


def _field_checks(content: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each of them is sound."""
    return {name: misfit(content[name], form) is None for name, form in _FIELDS.items()}


def type_problems(content: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields themselves; where there is anything, do not use them."""
    search = content.get("search")
    checks = {
        **_field_checks(content),
        "counts": misfit(content["counts"], _COUNTS) is None,
        "search": isinstance(search, dict) and isinstance(search.get("kind"), str),
        "removed": "removed" in content,
        "request": isinstance(content.get("request"), dict),
    }
    checks["sources"] = checks["sources"] and bool(content["sources"])
    return [f"'{name}' is not as bliss writes it" for name, sound in checks.items() if not sound]


def count_problems(manifest: Mapping[str, Any]) -> list[str]:
    """What in the counts of a manifest of sound types does not add up."""
    found = []
    parts, sources, counts = manifest["parts"], manifest["sources"], manifest["counts"]
    if manifest["count"] != sum(parts):
        found.append(f"'count' is {manifest['count']:,} and the parts hold {sum(parts):,} rows")
    rows = sum(source["rows"] for source in sources)
    if rows != sum(parts):
        found.append(f"the sources account for {rows:,} rows of {sum(parts):,}")
    names = {name for source in sources for name in source["counts"]}
    for name in sorted({*names, *counts}):
        total = sum(source["counts"].get(name, 0) for source in sources)
        if counts.get(name, 0) != total:
            found.append(f"{name} is {counts.get(name, 0):,} in all and {total:,} by source")
    for source in sources:
        account = source["counts"]
        rest = sum(value for name, value in account.items() if name != "read")
        if account["read"] != rest:
            found.append(f"{source['name']}: {account['read']:,} texts were read, {rest:,} told of")
        stored = account["kept"] + account.get("near_duplicate", 0)
        if stored != source["rows"]:
            found.append(f"{source['name']}: {stored:,} were stored, {source['rows']:,} rows named")
    covered = manifest["search"].get("rows", 0)
    if not is_count(covered) or covered > sum(parts):
        found.append(f"the search structure covers {covered!r} of {sum(parts):,} rows")
    return found


def name_problems(manifest: Mapping[str, Any]) -> list[str]:
    """Files it lists that no index has, and files its parts need that it does not list."""
    listed = manifest["checksums"]
    found = [f"it lists {name!r}, which is no file of an index" for name in foreign_names(listed)]
    wanted = {
        name for number, rows in enumerate(manifest["parts"]) if rows
        for name in files_of_part(number)
    }  # fmt: skip
    found += [f"it does not list {name}" for name in sorted(wanted - set(listed))]
    in_parts = {n for n in listed if n.startswith(("text_emb/", "metadata/", "captions/"))}
    found += [f"it lists {name}, of a part it does not have" for name in sorted(in_parts - wanted)]
    file = manifest["search"].get("file")
    if file is not None and file not in listed:
        found.append(f"its search structure is {file!r}, which it does not list")
    return found
