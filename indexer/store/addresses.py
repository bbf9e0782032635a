"""Caption indexes at addresses (s3://, gs://, memory://, file://), through a local cache.

An index is built in the cache and copied to the address when it is finished, its manifest last. To
open one, its files are copied into the cache once and compared with their checksums. The folder in
the cache is named by the SHA-256 of the manifest, so that a new index at an address gets its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ...artefacts import (
    MANIFEST,
    check_checksum,
    digest,
    read_json,
    read_manifest,
    wait_to_run_in,
    write_atomically,
    write_json,
)
from ...corpora import (
    copy_here,
    delete_file,
    find_below,
    is_remote,
    read_file,
    write_file,
)
from ...errors import BlissError, UsageError
from ..encode.tokens import cache_folder
from .manifest import KIND, UNLISTED, checked_names, foreign_names

Progress = Callable[[str, int, int], None]
Built = TypeVar("Built")
MOST_MANIFEST = 1 << 30
HOW_TO_BUILD = "Check the address; make one with `bliss index build CORPUS -o ADDRESS`"


def folder_of(given: str | Path) -> Path:
    """The index folder on this machine for a path or an address; errors as of `local_index`."""
    return local_index(str(given)) if is_remote(str(given)) else Path(given)


def local_index(address: str) -> Path:
    """The cached copy of the index at an address, which is made if there is none.

    Raises BlissError where there is no finished index, it lists files that are not an index's, a
    file does not match its checksum, or the address cannot be reached (finished copies stay).
    """
    address = _checked(address)
    content = _remote_manifest(address)
    if content is None:
        raise BlissError(
            f"{address} holds no manifest.json", "a finished caption-index folder", HOW_TO_BUILD
        )
    folder = _cached(content)
    if (folder / MANIFEST).is_file():
        return folder
    beside = folder.with_name(f".{folder.name}.fetching")
    with _named(beside, address), wait_to_run_in(beside, lambda why: None):
        if (folder / MANIFEST).is_file():  # another run fetched it meanwhile
            return folder
        write_atomically(beside / "listed" / MANIFEST, lambda file: file.write(content))
        manifest = read_manifest(beside / "listed", KIND, HOW_TO_BUILD)
        for name in checked_names(manifest, address):
            try:
                check_checksum(beside, name, manifest)
            except BlissError:  # not here yet
                copy = partial(copy_here, f"{address}/{name}")
                write_atomically(beside / name, copy)
                check_checksum(beside, name, manifest)
        shutil.rmtree(beside / "listed")
        write_atomically(beside / MANIFEST, lambda file: file.write(content))
    os.replace(beside, folder)
    return folder


def check_output(output: str, options: Sequence[str]) -> None:
    """UsageError for an incomplete address, or one given with options that need a local folder."""
    if is_remote(output):
        _checked(output)
    if is_remote(output) and options:
        raise UsageError(
            f"--{options[0]} was given with the address {output}",
            "a folder on this machine",
            "Build there first, then copy the folder",
        )


def build_to(
    output: str, overwrite: bool, build: Callable[[Path], Built], progress: Progress
) -> Built:
    """Call `build(folder)`; for an address with a folder in the cache, which is copied there.

    Where the address has an index, `build` gets a copy of it and may refuse another request;
    `overwrite` replaces it. Returns the result of `build` for the finished copy. Raises UsageError
    where the address holds other files, BlissError where it cannot be written: what was built
    stays in the cache for the next run.
    """
    if not is_remote(output):
        return build(Path(output))
    address = _checked(output)
    there = _remote_manifest(address)
    work = cache_folder() / "outputs" / digest({"address": address})
    if there is not None and not overwrite:
        copy = local_index(address)
        with _named(copy, address):
            return build(copy)
    _refuse_others(address)
    with _named(work, address):
        build(work)
        content = (work / MANIFEST).read_bytes()
        if there is not None and there != content:
            delete_file(f"{address}/{MANIFEST}")
        _copy_out(work, address, progress)
        folder = _cached(content)
        if (folder / MANIFEST).is_file():
            shutil.rmtree(work)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(work, folder)
    _sent(work).unlink(missing_ok=True)
    with _named(folder, address):
        return build(folder)


def _checked(address: str) -> str:
    """An address without slashes at its end; UsageError where nothing else is behind its scheme.

    `s3://` without its slashes would be a folder `s3:` on this machine.
    """
    scheme, _, place = address.partition("://")
    if not place.strip("/"):
        raise UsageError(
            f"{address} names no place for an index",
            "an address such as s3://bucket/folder",
            "Say what is behind it, or give a folder on this machine",
        )
    return f"{scheme}://{place.rstrip('/')}"


def _copy_out(work: Path, address: str, progress: Progress) -> None:
    """Copy the files of a finished index, except those that were copied before."""
    manifest = read_manifest(work, KIND, HOW_TO_BUILD)
    names = checked_names(manifest, str(work))
    sent = read_json(_sent(work)) if _sent(work).is_file() else {}
    there = {name.removeprefix(f"{address}/") for name in _below(address)}
    for number, name in enumerate(names):
        progress("files copied", number, len(names))
        if sent.get(name) != manifest["checksums"][name] or name not in there:
            check_checksum(work, name, manifest)
            write_file(f"{address}/{name}", work / name)
            sent[name] = manifest["checksums"][name]
            write_json(_sent(work), sent)
    write_file(f"{address}/{MANIFEST}", work / MANIFEST)
    progress("files copied", len(names), len(names))
    for name in there - {*names}:
        if not foreign_names([name]):
            delete_file(f"{address}/{name}")


def _refuse_others(address: str) -> None:
    names = [name.removeprefix(f"{address}/") for name in _below(address)]
    others = [name for name in foreign_names(names) if name not in UNLISTED]
    if others:
        raise UsageError(
            f"{address} holds files that bliss did not put there ({others[0]})",
            "an empty or new place for the index",
            "Choose another one",
        )


def _below(address: str) -> list[str]:
    """Every file below an address, spelt as the address is; [] where it does not exist."""
    found = find_below(address)
    inside = "/" + address.partition("://")[2].strip("/") + "/"
    # File systems spell their own addresses in several ways: only what lies below counts.
    return [f"{address}/{each.partition(inside)[2]}" for each in found if inside in each]


def _remote_manifest(address: str) -> bytes | None:
    try:
        return read_file(f"{address}/{MANIFEST}", MOST_MANIFEST)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise BlissError(
            f"{address} may not be read ({error})", "an address you may use", "Log in, or ask"
        ) from error


def _cached(content: bytes) -> Path:
    """The folder of the index with this manifest."""
    return cache_folder() / "indexes" / hashlib.sha256(content).hexdigest()[:32]


def _sent(work: Path) -> Path:
    """The record of the files that were copied."""
    return work.with_name(f"{work.name}.sent.json")


@contextmanager
def _named(folder: Path, address: str) -> Iterator[None]:
    """Name the address instead of the folder of the cache in errors, but of a full cache."""
    try:
        yield
    except BlissError as error:
        if isinstance(error.__cause__, OSError) and str(folder) in error.given:
            raise type(error)(
                f"{error.given} (this is the cache, for {address})",
                error.needed,
                f"{error.remedy}; BLISS_CACHE names another folder for the cache",
            ) from error.__cause__
        words: list[Any] = [
            text.replace(str(folder), address) for text in (error.given, error.needed, error.remedy)
        ]
        raise type(error)(*words) from error
