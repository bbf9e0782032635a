"""Finished folders that later commands may take over instead of making them again.

`CACHE/image-embeddings/` holds a small file for every finished folder of image embeddings: where
it is and what it was made of. What it says is never trusted: a folder that has gone, or whose
manifest or checksums no longer fit, is passed over. Nothing large lies in the cache; files are
hard links of those in the folder that is found, or copies where its disk is another one.

Embeddings of an earlier state of a collection, found again by the content of each image.

When images are added, removed or renamed, the finished parts are moved to `earlier/` and the
collection is cut into parts anew; an image whose SHA-256 is known takes its vector from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import (
    MANIFEST,
    check_checksum,
    digest,
    read_json,
    read_manifest,
    write_atomically,
    write_json,
)
from ...errors import BlissError
from ..store.parts import (
    BUILDING,
    drop_records,
    files_of,
    finished_part,
    metadata_file,
    vector_file,
)
from ..vectors.layout import load_vectors, read_parquet
from .embedded import KIND

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


EARLIER = "earlier"


@dataclass(frozen=True)
class EarlierImages:
    """The unit rows of m images that were embedded before."""

    hashes: np.ndarray
    """S32 [m], SHA-256 of their files, sorted."""
    places: np.ndarray
    """int64 [m, 2], the number of a file of vectors and the row in it."""
    vectors: tuple[np.ndarray, ...]
    exif_rotated: tuple[np.ndarray, ...]
    """bool, for each file of vectors which images EXIF turned."""

    def knows(self, sha256: str) -> bool:
        """Whether the image with this content was embedded before."""
        return self._position(sha256) >= 0

    def find(self, sha256: str) -> tuple[np.ndarray, bool]:
        """float32 [d], the vector of an image that is known, and whether EXIF turned it."""
        file, row = self.places[self._position(sha256)]
        return np.array(self.vectors[file][row]), bool(self.exif_rotated[file][row])

    def _position(self, sha256: str) -> int:
        wanted = np.array(bytes.fromhex(sha256), "S32")
        at = int(np.searchsorted(self.hashes, wanted))
        return at if at < len(self.hashes) and self.hashes[at] == wanted else -1


def set_aside(folder: Path, request: Mapping[str, Any]) -> None:
    """Move the finished parts of `folder` to earlier/ if only its images were others.

    Nothing happens where it was begun for the same request, or for one that differs in more. It
    may be interrupted at any moment and called again.
    """
    begun = next((n for n in (MANIFEST, BUILDING) if (folder / n).is_file()), None)
    before = _request(folder / begun) if begun else {}
    differing = {name for name in {*before, *request} if before.get(name) != request.get(name)}
    if differing != {"images"}:
        return
    for number, checksums in list(_finished_parts(folder)):
        name = f"{digest({'images': before['images']})}_{number}"
        moved = {
            vector_file("img", number): f"{name}.npy",
            metadata_file(number): f"{name}.parquet",
        }
        record = {"checksums": {new: checksums[old] for old, new in moved.items()}}
        write_json(folder / EARLIER / f"{name}.json", record)
        for old, new in moved.items():
            os.replace(folder / old, folder / EARLIER / new)
    for name in ("parts", "img_emb", "metadata"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / BUILDING, {"request": dict(request)})
    (folder / MANIFEST).unlink(missing_ok=True)


def open_earlier(folder: Path, elsewhere: Path | None = None) -> EarlierImages:
    """What earlier/ holds and is whole, and the finished parts of the folder `elsewhere`."""
    found = [*_set_aside_parts(folder), *(_parts_of(elsewhere) if elsewhere else ())]
    hashes: list[np.ndarray] = [np.zeros(0, "S32")]
    places: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    vectors: list[np.ndarray] = []
    turned: list[np.ndarray] = []
    for part, metadata in found:
        table = read_parquet(metadata, ["sha256", "exif_rotated"])
        known = table["sha256"].to_pylist()
        turned.append(np.array(table["exif_rotated"].to_pylist(), bool))
        hashes.append(np.array([bytes.fromhex(value) for value in known], "S32"))
        places.append(np.stack([np.full(len(known), len(vectors)), np.arange(len(known))], axis=1))
        vectors.append(load_vectors(part))
    joined = np.concatenate(hashes)
    order = np.argsort(joined, kind="stable")
    return EarlierImages(
        joined[order], np.concatenate(places)[order], tuple(vectors), tuple(turned)
    )


def _set_aside_parts(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(vectors, metadata) of every whole part in earlier/."""
    for record in sorted((folder / EARLIER).glob("*.json")):
        names = (f"{record.stem}.npy", f"{record.stem}.parquet")
        with suppress(BlissError):
            if _are_whole(record.parent, names, read_json(record)):
                yield record.with_suffix(".npy"), record.with_suffix(".parquet")


def _parts_of(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(vectors, metadata) of every whole part of another, finished folder."""
    for number, checksums in _finished_parts(folder):
        names = (vector_file("img", number), metadata_file(number))
        if _are_whole(folder, names, {"checksums": checksums}):
            yield folder / names[0], folder / names[1]


def _are_whole(folder: Path, names: Iterable[str], facts: Mapping[str, Any]) -> bool:
    """Whether those files fit their checksums: images of others are embedded again."""
    try:
        for name in names:
            check_checksum(folder, name, facts)
    except (BlissError, AttributeError):
        return False
    return True


def forget_earlier(folder: Path) -> None:
    """Delete earlier/ when everything is embedded."""
    shutil.rmtree(folder / EARLIER, ignore_errors=True)


def _request(path: Path) -> dict[str, Any]:
    try:
        before = read_json(path).get("request")
    except BlissError:
        return {}
    return before if isinstance(before, dict) else {}


def _finished_parts(folder: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(number, checksums) of every finished part with vectors; what they are is checked later."""
    if (folder / MANIFEST).is_file():
        manifest = read_json(folder / MANIFEST)
        for number, rows in enumerate(manifest.get("parts", ())):
            names = (vector_file("img", number), metadata_file(number))
            if rows and all((folder / name).is_file() for name in names):
                yield number, manifest["checksums"]
        return
    for path in sorted((folder / "parts").glob("part_*.json")):
        number = int(path.stem.removeprefix("part_"))
        record = finished_part(folder, number)
        if record is not None and record["rows"]:
            yield number, record["checksums"]
