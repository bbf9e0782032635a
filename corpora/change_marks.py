"""Marks of change: what tells that a file, local or remote, became another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..errors import BlissError
from .addresses import file_system, is_remote, reachable

_MARKS = (
    *("size", "ETag", "etag", "md5Hash", "Content-MD5", "mtime", "LastModified", "last_modified"),
    *("Last-Modified", "updated", "created"),
    *("blob_id", "xet_hash"),
)


def stamp(address: str) -> str:
    """What changes when a file does: its size and time of change, or what the remote says."""
    if not is_remote(address):
        try:
            facts = os.stat(address)
        except (OSError, ValueError):
            return "unreadable"
        return f"{facts.st_size} {facts.st_mtime_ns}"
    with reachable(address):
        fs, path = file_system(address)
        info: dict[str, Any] = fs.info(path)
    return " ".join(f"{name}={info[name]}" for name in _MARKS if info.get(name) is not None)


def marks_of(addresses: Sequence[str]) -> tuple[str, ...]:
    """The stamp of each file, asked for anew.

    BlissError where a file is not there, or a remote tells neither a version nor a time of
    change: a size alone would not show that the content became another.
    """
    return tuple(map(_mark, addresses))


def _mark(address: str) -> str:
    if is_remote(address):
        with reachable(address):
            file_system(address)[0].invalidate_cache()
    mark = stamp(address)
    if mark == "unreadable":
        with reachable(address):
            os.stat(address)
    if is_remote(address) and not mark.removeprefix("size=").strip("0123456789"):
        raise BlissError(
            f"the system of {address} gives neither a version (an ETag) nor a time of change",
            "one of these, to notice when the content becomes another",
            "Copy the file to this machine and give its path",
        )
    return mark


def check_unchanged(addresses: Sequence[str], marks: Sequence[str]) -> None:
    """BlissError naming the first file whose stamp is no longer the one of `marks`."""
    for address, before, now in zip(addresses, marks, marks_of(addresses), strict=True):
        if now != before:
            raise BlissError(
                f"{address} was changed while it was in use",
                "files that stay as they are until the run has ended",
                "Run the same command again when they are complete",
            )
