"""Names of the files of a caption index: which it may hold, and which its parts must have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...artefacts import MANIFEST
from ...corpora import is_remote
from ...errors import BlissError, UsageError
from .lock import LOCK

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


def vector_file(kind: str, number: int) -> str:
    """Name of a part's vectors; `kind` is "text" or "img"."""
    return f"{kind}_emb/{kind}_emb_{number}.npy"


def metadata_file(number: int) -> str:
    """Name of a part's metadata."""
    return f"metadata/metadata_{number}.parquet"


def caption_files(number: int) -> tuple[str, str]:
    """Names of the captions of a part and of their offsets."""
    return f"captions/captions_{number}.bin", f"captions/offsets_{number}.npy"


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
