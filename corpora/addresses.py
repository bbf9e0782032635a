"""Files by path or address: brace ranges, wildcards, opening through fsspec, change detection."""

from __future__ import annotations

import glob
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ..errors import BlissError, UsageError

MAX_SHARDS = 100_000

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def is_remote(spec: str) -> bool:
    """Whether `spec` is an address such as s3://bucket/a.tar and not a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", spec) is not None


def expand(spec: str) -> list[str]:
    """Every file that `spec` names: {000..012} and {a,b} written out, then * and ? matched.

    Ranges keep their order, matches are sorted; a pattern that is a file's whole name is that
    file. UsageError where a pattern matches nothing or there are more than MAX_SHARDS.
    """
    if not is_remote(spec) and os.path.lexists(spec):
        return [spec]
    found: list[str] = []
    signs = "*" if _is_web(spec) else "*?["  # a web address may hold a query
    for address in _written_out(spec):
        matches = _matches(address) if any(sign in address for sign in signs) else [address]
        if not matches:
            raise UsageError(f"{address} matches no file", "at least one", "Check the pattern")
        found += matches
    return found


def _written_out(spec: str) -> list[str]:
    """`spec` with its braces written out, as a shell does it."""
    choices: list[list[str]] = []
    total, end = 1, 0
    for match in _RANGE.finditer(spec):
        choices.append([spec[end : match.start()]])
        end = match.end()
        if match[3] is not None:
            choices.append(match[3].split(","))
        else:
            first, last, width = int(match[1]), int(match[2]), len(match[1])
            if abs(last - first) >= MAX_SHARDS:
                total = MAX_SHARDS + 1
                break
            step = 1 if last >= first else -1
            choices.append([f"{n:0{width}d}" for n in range(first, last + step, step)])
        total *= len(choices[-1])
    if total > MAX_SHARDS:
        raise UsageError(f"{spec} names too many files", f"at most {MAX_SHARDS:,}", "Give fewer")
    return ["".join(parts) for parts in itertools.product(*choices, [spec[end:]])]


def _matches(pattern: str) -> list[str]:
    if not is_remote(pattern):
        return sorted(glob.glob(pattern), key=os.fsencode)
    with reachable(pattern):
        fs, path = file_system(pattern)
        return sorted(str(fs.unstrip_protocol(found)) for found in fs.glob(path))


def find_below(address: str) -> list[str]:
    """Every file below a remote folder, as full addresses, sorted; BlissError if unreachable."""
    with reachable(address):
        fs, path = file_system(address)
        return sorted(str(fs.unstrip_protocol(found)) for found in fs.find(path))


def is_remote_folder(address: str) -> bool:
    """Whether a remote address is a folder; BlissError where it cannot be reached."""
    with reachable(address):
        fs, path = file_system(address)
        return bool(fs.isdir(path))


def open_file(address: str, read_ahead: bool = True) -> IO[bytes]:
    """A local or remote file, opened for reading; BlissError where that fails.

    Without `read_ahead` only what is read is fetched: for readers that seek, such as parquet's,
    since fsspec fetches 5 MiB at each place otherwise.
    """
    with reachable(address):
        if not is_remote(address):
            return open(address, "rb")
        fs, path = file_system(address)
        how = {} if read_ahead else {"cache_type": "none"}
        opened: IO[bytes] = fs.open(path, "rb", **how)
        return opened


def read_file(address: str, most: int) -> bytes:
    """At most `most` bytes of a file; FileNotFoundError and PermissionError are passed on."""
    with reachable(address, passed=(FileNotFoundError, PermissionError)):
        fs, path = file_system(address)
        with fs.open(path, "rb") as file:
            data: bytes = file.read(most)
            return data


def write_file(address: str, file: Path) -> None:
    """Copy a local file to an address, whole or not at all; BlissError where that fails."""
    with reachable(address, action="written"):
        fs, path = file_system(address)
        # Disks show a file while it is written; object stores do not, and cannot rename.
        shown = f"{path}.part" if "file" in fs.protocol else path
        try:
            fs.put_file(str(file), shown)
        except FileNotFoundError:
            parent = path.rpartition("/")[0]
            # No more than two: the rest may be a network folder that has gone.
            for folder in (parent.rpartition("/")[0], parent):
                with suppress(FileExistsError):
                    fs.makedir(folder, create_parents=False)
            fs.put_file(str(file), shown)
        if shown != path:
            fs.mv(shown, path)


def delete_file(address: str) -> None:
    """Delete a file, if it is there; BlissError where that fails."""
    with reachable(address, action="written"):
        fs, path = file_system(address)
        with suppress(FileNotFoundError):
            fs.rm_file(path)


def copy_here(address: str, file: IO[bytes]) -> None:
    """Copy what is at an address into an open file; BlissError where that fails."""
    with reachable(address):
        fs, path = file_system(address)
        with fs.open(path, "rb") as opened:
            shutil.copyfileobj(opened, file, 1 << 20)


@contextmanager
def reachable(
    address: str, passed: tuple[type[Exception], ...] = (), action: str = "read"
) -> Iterator[None]:
    """Turn whatever a file system raises into a BlissError that names the address.

    Errors of `passed` types are left as they are; `action` is what was tried. A missing package
    is a UsageError.
    """
    try:
        yield
    except (BlissError, *passed):  # type: ignore[misc]
        raise
    except ImportError as error:
        raise UsageError(
            f"{address} needs a package that is not installed ({error})",
            "the fsspec package for this kind of address",
            "Install it, for example s3fs for s3://, gcsfs for gs://, aiohttp for https://, "
            "or copy the files here",
        ) from error
    except Exception as error:
        raise unreachable(address, error, action) from error


def unreachable(address: str, error: Exception, action: str = "read") -> BlissError:
    """The BlissError for a source that could not be read for a reason of its system."""
    told: object = getattr(error, "strerror", None) or error
    if told is error and isinstance(error, FileNotFoundError):  # says but the address
        told = error.__cause__ or "it is not there"
    lines = str(told).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return BlissError(
        f"{address} could not be {action} ({reason})",
        f"files that can be found, reached and {action}",
        "Check the name, the network and the permissions, then run the same command again: "
        "finished parts are kept",
    )


def base_name(address: str) -> str:
    """The last part of a path or address, without the query of a web address."""
    path = urlsplit(address).path if _is_web(address) else address
    return path.rstrip("/").rpartition("/")[2]


def suffix_of(address: str) -> str:
    """The suffix of a path or address in lower case, such as .csv; empty where there is none."""
    return os.path.splitext(base_name(address))[1].lower()


def text_suffix(address: str) -> str:
    """`suffix_of` a text file without its compression: .jsonl for a.jsonl.gz and its synonyms."""
    name = base_name(address)
    suffix = suffix_of(name[:-3] if is_gzip(address) else name)
    return ".jsonl" if suffix in (".jsonlines", ".ndjson") else suffix


def is_gzip(address: str) -> bool:
    """Whether a file is compressed with gzip, by its name."""
    return base_name(address).lower().endswith(".gz")


def as_local(spec: str) -> str:
    """The path in a file:// address, or any other spec as it is."""
    if not spec.startswith("file://"):
        return spec
    return str(file_system(spec)[1])


def _is_web(spec: str) -> bool:
    return spec.startswith(("http://", "https://"))


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address and the path in it; UsageError where there is none."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(address)
    except ValueError as error:
        raise UsageError(
            f"{address} is no address that fsspec knows ({error})",
            "a local path, or s3://, gs://, https:// and the like",
            "Check the part before ://",
        ) from error
    return fs, path


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
    """The stamp of each file, read anew.

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
