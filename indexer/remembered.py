"""Finished folders that later commands may take over instead of making them again.

`CACHE/image-embeddings/` holds a small file for every finished folder of image embeddings: where
it is and what it was made of. What it says is never trusted: a folder that has gone, or whose
manifest or checksums no longer fit, is passed over. Nothing large lies in the cache; files are
hard links of those in the folder that is found, or copies where its disk is another one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..artefacts import (
    MANIFEST,
    check_checksum,
    digest,
    read_json,
    read_manifest,
    write_atomically,
    write_json,
)
from ..errors import BlissError
from .embedded_images import KIND
from .parts import drop_records, files_of

IMAGES = "image-embeddings"
IGNORED = "Make it again"


def remember_images(cache: Path, folder: Path, spec: str) -> None:
    """Note that `folder` holds the finished embeddings of the collection `spec`.

    A cache that cannot be written only means that they will be made again elsewhere.
    """
    with suppress(BlissError, OSError):
        request = read_manifest(folder, KIND, IGNORED)["request"]
        remember(
            cache / IMAGES / _settings(request),
            folder,
            {"request": request, "collection": collection_name(spec)},
        )


def take_over_images(
    cache: Path, folder: Path, request: Mapping[str, Any], spec: str
) -> Path | None:
    """Fill `folder` with embeddings that were made of `spec` elsewhere for this very `request`.

    Returns where they were, or None where there are none that are whole; `folder` is then as it
    was, but for files that its next part will replace.
    """
    for found, facts in remembered(cache / IMAGES / _settings(request), folder):
        # Files of another collection may have the same names, sizes and times, and other content.
        if (facts.get("request"), facts.get("collection")) != (
            dict(request),
            collection_name(spec),
        ):
            continue
        with suppress(BlissError, OSError, KeyError, TypeError):
            manifest = read_manifest(found, KIND, IGNORED)
            if manifest["request"] != dict(request):
                continue
            take_over(found, folder, image_files(manifest), manifest)
            drop_records(folder)
            return found
    return None


def earlier_folder(cache: Path, folder: Path, request: Mapping[str, Any], spec: str) -> Path | None:
    """Where an earlier state of the collection `spec`, or what looks like a copy of it, was
    embedded in the same way, if anywhere; only their content tells which images are the same."""
    for found, facts in remembered(cache / IMAGES / _settings(request), folder):
        same = facts.get("collection") == collection_name(spec)
        if same or facts.get("request") == dict(request):
            with suppress(BlissError, AttributeError):
                # It may have been made again in another way since it was noted.
                if _settings(read_manifest(found, KIND, IGNORED)["request"]) == _settings(request):
                    return found
    return None


def collection_name(spec: str) -> str:
    """What a collection is known by: its path from the root where it is one."""
    return os.path.abspath(spec) if os.path.exists(spec) else spec


def image_files(manifest: Mapping[str, Any]) -> list[str]:
    """The files of finished image embeddings; the names in their manifest are not trusted."""
    numbers = [number for number, rows in enumerate(manifest["parts"]) if rows]
    return [name for number in numbers for name in files_of("img", number)]


def remember(where: Path, folder: Path, facts: Mapping[str, Any]) -> None:
    """Note below `where` that `folder` is there and what `facts` say of it."""
    real = os.path.realpath(folder)
    write_json(where / f"{digest({'folder': real})}.json", {**facts, "folder": real})


def remembered(where: Path, itself: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Finished folders noted below `where`, the last noted first, with what was said of them.

    Notes of folders without a manifest are dropped; `itself` is not among them.
    """
    notes = [(path.stat().st_mtime_ns, path) for path in where.glob("*.json")]
    for _, path in sorted(notes, reverse=True):
        with suppress(BlissError, OSError, KeyError, TypeError):
            facts = read_json(path)
            folder = Path(facts["folder"])
            if not (folder / MANIFEST).is_file():
                path.unlink()
            elif os.path.realpath(itself) != str(folder):
                yield folder, facts


def take_over(
    source: Path, folder: Path, names: Sequence[str], manifest: Mapping[str, Any]
) -> None:
    """Link or copy the files `names` of `source` into `folder`, check them, write `manifest`.

    Raises BlissError where one of them is missing or not as the manifest says.
    """
    for name in names:
        link_or_copy(source / name, folder / name)
        check_checksum(folder, name, manifest)
    write_json(folder / MANIFEST, manifest)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the system gives no link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:
        with open(source, "rb") as file:
            write_atomically(target, lambda copy: shutil.copyfileobj(file, copy))
    finally:
        # Renaming onto a link of the same file does nothing and leaves the temporary there.
        temporary.unlink(missing_ok=True)


def _settings(request: Mapping[str, Any]) -> str:
    """All of a request but the state of its images."""
    return digest({name: value for name, value in request.items() if name != "images"})
