"""Atomic files, the manifests of finished folders, and the locks of folders that runs work in.

Every artefact (caption index, image embeddings, reference, audit) is a folder with a
`manifest.json`. Files are written in a temporary folder, fsynced and renamed, so that an
interrupted write changes no finished file; the manifest is written last and lists their checksums.

A temporary folder, `.bliss-*.tmp` beside what is written, holds a file that its owner keeps locked.
A lock ends with its process, on any machine that shares the disk: what a killed run leaves is
deleted by the next one that writes there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from .errors import NO_HOME, BlissError, FolderInUse, unwritable

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BUILDING = "building.json"
"""The request of a folder that is not finished."""
LOCK = ".bliss.lock"
"""In a folder that a run works in; see `only_run_in`."""
_TEMPORARY = (".bliss-", ".tmp")
"""How the name of a temporary folder begins and ends."""
_LOCK = "lock"
_CLEARED: set[Path] = set()
"""Folders from which this process has deleted abandoned temporary folders."""


def is_count(value: object) -> bool:
    """Whether a value from JSON is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_size(value: object) -> bool:
    """Whether it is a whole number from 1 to 2^31."""
    return isinstance(value, int) and is_count(value) and 0 < value <= 1 << 31


_NAME = (str, type(None))
_ENCODER: Mapping[str, Any] = {
    "model?": _NAME,
    "pretrained?": _NAME,
    "weights_sha256?": _NAME,
    "precision?": _NAME,
    "preprocessing?": (dict, type(None)),
}
MODEL: Mapping[str, Any] = {"dimension": is_size, **_ENCODER}
"""The facts of a model, as `misfit` checks them."""
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "caption-index": {
        "parts": list, "failures": [dict], "model": MODEL, "count": is_count, "counts": dict,
        "sources": list, "dtype": str,
    },
    "image-embeddings": {
        "parts": [is_count], "model": MODEL, "exif_rotated?": is_count,
        "failures": [{"row": is_count, "path": str, "reason": str}],
    },
    "clipn": {"model": dict, "weights": str},
    "reference": {"classes": [str], "prompts": [str],
                  "model": {"dimension?": is_size, **_ENCODER}},
    "oecl-head": {"model": dict, "counts": dict, "settings": dict},
}  # fmt: skip
"""What `misfit` checks in the manifest of each kind besides its checksums."""


def home_folder(below: str) -> Path:
    """A folder below the user's home; where the system knows no home, one that cannot be made.

    Nothing is found there then and nothing kept, instead of in a folder called `~`.
    """
    found = os.path.expanduser(f"~/{below}")
    return NO_HOME / below if found.startswith("~") else Path(found)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a temporary file, fsync it, and rename it to `path`.

    Raises BlissError naming the path and the system's reason when the disk is full or the folder
    cannot be written (UsageError where a file is in its place); whatever was at `path` before is
    then still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as folder:
            with open(folder / path.name, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            _rename(folder / path.name, path)
    except OSError as error:
        raise unwritable(path, error) from error


def _rename(source: Path, target: Path) -> None:
    """Rename a file, durably where folders can be synced; an OSError means that it was not."""
    os.replace(source, target)
    with suppress(OSError):  # the file is there, and may be named in what is written next
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in `parent`, or in the system's temporary folder; deleted at the end.

    Folders that killed processes left in `parent` are deleted before the first one that a process
    makes there. Raises OSError where the folder cannot be made.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    if parent not in _CLEARED:
        delete_abandoned(parent)
        _CLEARED.add(parent)
    while True:
        folder = Path(tempfile.mkdtemp(_TEMPORARY[1], _TEMPORARY[0], parent))
        try:
            file = open(folder / _LOCK, "xb")
        except FileNotFoundError:  # deleted before it was locked
            continue
        except OSError:
            folder.rmdir()
            raise
        if lock_file(file) is not False and (folder / _LOCK).exists():
            break
        file.close()
    with file:
        try:
            yield folder
        finally:
            with suppress(OSError):  # it vanished or became read-only
                _delete_folder(folder)


def delete_abandoned(folder: Path, levels: int = 0) -> None:
    """Delete temporary folders whose owners have ended, in `folder` and that many levels below.

    Others stay, and all on a file system without locks. What cannot be deleted stays, too.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            path = Path(entry.path)
            if entry.name.startswith(_TEMPORARY[0]) and entry.name.endswith(_TEMPORARY[1]):
                with suppress(OSError):
                    _delete_if_abandoned(path)
            elif levels:
                delete_abandoned(path, levels - 1)


def _delete_if_abandoned(folder: Path) -> None:
    if os.lstat(folder).st_uid != os.geteuid():  # the system's temporary folder is everybody's
        return
    try:
        file = open(folder / _LOCK, "r+b")
    except FileNotFoundError:
        folder.rmdir()  # a folder with content has a lock file
        return
    with file:
        if lock_file(file) is True:
            _delete_folder(folder)


def _delete_folder(folder: Path) -> None:
    """Delete a temporary folder, its lock file last."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()
    (folder / _LOCK).unlink()
    folder.rmdir()


def lock_file(file: IO[bytes]) -> bool | None:
    """Lock an open file until it is closed or the process ends.

    True where it is locked now, False where another has it, None where the file system or the
    operating system has no such locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network drives have none
        return None
    return True


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one `.npy` file atomically, never with pickled objects."""
    write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))


def read_array(path: Path, mapped: bool = False, remedy: str = "Restore it") -> np.ndarray:
    """The array of an `.npy` file, in memory or mapped; BlissError where it is none."""
    try:
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":  # np.load also takes archives
                raise ValueError("it does not begin as a .npy file")
        array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        return array
    except (
        OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError,
        RecursionError, TokenError,
    ) as error:  # fmt: skip
        raise BlissError(
            f"{path} could not be read ({error or type(error).__name__})",
            "a whole .npy file",
            remedy,
        ) from error


def link_file(source: Path, target: Path) -> None:
    """Link `target` to a finished file, replacing it; where links are not possible, copy.

    Raises BlissError where the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent) as folder:
            try:
                os.link(source, folder / target.name)
            except OSError:  # a system without links, or another disk
                with open(source, "rb") as file:
                    write_atomically(target, lambda copy: shutil.copyfileobj(file, copy))
                return
            _rename(folder / target.name, target)
    except OSError as error:
        raise unwritable(target, error) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically; lone surrogates, which it cannot hold, as Python writes them."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON atomically; the same content gives the same bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; BlissError with the path and reason where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BlissError(
            f"{path} could not be read ({error})",
            "a JSON file that bliss wrote",
            "Restore the file or build the folder again",
        ) from error
    if not isinstance(content, dict):
        raise BlissError(
            f"{path} holds a {type(content).__name__}", "a JSON object", "Build the folder again"
        )
    return content


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Mapping[str, Any]) -> str:
    """A short, stable fingerprint of JSON-like content: SHA-256 of its sorted form."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_manifest(folder: Path, kind: str, files: Iterable[str], **facts: Any) -> None:
    """Write `folder/manifest.json`: format version, kind, facts, and a checksum for each file.

    `files` are names relative to `folder`. Call it last: a folder with a manifest is finished.
    """
    seal(folder, kind, {name: sha256_of(folder / name) for name in files}, facts)


def seal(folder: Path, kind: str, checksums: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose checksums were computed when its files were written."""
    write_json(
        folder / MANIFEST,
        {"format_version": FORMAT_VERSION, "kind": kind, **facts, "checksums": dict(checksums)},
    )


def lacking(folder: Path, name: str) -> str:
    """What to say where there is no such file: the folder has none, is a file, or is not there."""
    if folder.is_dir():
        return f"{folder} has no {name}"
    return f"{folder} {'is no folder' if os.path.lexists(folder) else 'does not exist'}"


def _a(kind: str) -> str:
    return f"{'an' if kind.startswith(tuple('aeio')) else 'a'} {kind}"


def read_manifest(folder: Path, kind: str, do: str) -> dict[str, Any]:
    """The manifest of a finished `kind` folder; `do` is the remedy where there is none.

    Raises BlissError where there is no folder or manifest, for another kind or format version, and
    where a field of FIELDS is missing or has another type.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BlissError(lacking(folder, MANIFEST), f"a finished {kind} folder", do)
    manifest = read_json(path)
    if manifest.get("kind") != kind:
        found = str(manifest.get("kind"))
        raise BlissError(f"{folder} is {_a(found)} folder", f"{_a(kind)} folder", do)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BlissError(
            f"{folder} has format version {manifest.get('format_version')}",
            f"version {FORMAT_VERSION}",
            "Use the bliss-audit version that wrote it, or build it again",
        )
    check_fields(manifest, {**FIELDS.get(kind, {}), "checksums": {"*": str}}, path)
    return manifest


def check_fields(content: Mapping[str, Any], fields: Mapping[str, Any], path: Path) -> None:
    """Raise BlissError naming the first field of a JSON file that is not as bliss writes it."""
    wrong = misfit(content, fields)
    if wrong is not None:
        raise BlissError(
            f"{path} has no usable '{wrong}'",
            f"{'the manifest' if path.name == MANIFEST else path.name} as bliss wrote it",
            "Restore it from a backup or build the folder again",
        )


def misfit(value: Any, form: Any, name: str = "") -> str | None:
    """The name of the first value from JSON that does not have its form; None where all have.

    A form is a type or several, a function that says whether a value is sound, a list with the
    form of every entry, or a dict of forms by key: "key?" may be absent, "*" are all keys.

        >>> form = {"parts": [is_count], "model": {"name?": str}}
        >>> misfit({"parts": [3, -1], "model": {}}, form)
        'parts[1]'
    """
    if isinstance(form, Mapping):
        if not isinstance(value, dict):
            return name
        for key, inner in form.items():
            plain = key.removesuffix("?")
            for each in value if key == "*" else [plain]:
                if each in value or plain == key:
                    found = misfit(value.get(each), inner, f"{name}.{each}" if name else each)
                    if found is not None:
                        return found
        return None
    if isinstance(form, list):
        if not isinstance(value, list):
            return name
        wrong = (misfit(each, form[0], f"{name}[{at}]") for at, each in enumerate(value))
        return next((each for each in wrong if each is not None), None)
    sound = isinstance(value, form) if isinstance(form, type | tuple) else form(value)
    return None if sound else name


def check_checksum(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Raise BlissError where file `name` is missing from `folder` or differs from its checksum."""
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise BlissError(
            f"the manifest of {folder} names a file outside it ({name})",
            "names of files inside the folder",
            "Restore the manifest from a backup or build the folder again",
        )
    path = folder / name
    checksums = manifest.get("checksums")
    expected = checksums.get(name) if isinstance(checksums, Mapping) else None
    if not path.is_file():
        problem = f"{path} is missing"
    elif expected is None:
        problem = f"{path} is not listed in its manifest"
    elif sha256_of(path) != expected:
        problem = f"{path} does not match the checksum in its manifest"
    else:
        return
    writer = _writer_of(folder)
    if writer is not None:
        raise BlissError(
            f"{problem}: process {writer} is writing in {folder}",
            "a folder that no other run changes meanwhile",
            "Run the same command again once the other one has ended",
        )
    raise BlissError(
        problem, "the file as bliss wrote it", "Restore it from a backup or build the folder again"
    )


def _writer_of(folder: Path) -> str | None:
    """The process that has locked a folder, if it is another one than this."""
    with suppress(OSError), open(folder / LOCK, "rb") as file:
        holder = file.read(20).decode("ascii", "replace").strip()
        if holder != str(os.getpid()) and lock_file(file) is False:
            return holder or "unknown"
    return None


def register(entries: Path, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write an entry for `folder` with `facts` to the folder `entries`."""
    real = os.path.realpath(folder)
    write_json(entries / f"{digest({'folder': real})}.json", {**facts, "folder": real})


def registered(entries: Path, exclude: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Finished folders and their facts, the newest entry first, without the folder `exclude`.

    Entries of folders without a manifest are deleted.
    """
    files = [(path.stat().st_mtime_ns, path) for path in entries.glob("*.json")]
    for _, path in sorted(files, reverse=True):
        with suppress(BlissError, OSError, KeyError, TypeError):
            facts = read_json(path)
            folder = Path(facts["folder"])
            if not (folder / MANIFEST).is_file():
                path.unlink()
            elif os.path.realpath(exclude) != str(folder):
                yield folder, facts


def reuse_files(
    source: Path, folder: Path, names: Sequence[str], manifest: Mapping[str, Any]
) -> None:
    """Link or copy the files `names` of `source` into `folder`, check them, write `manifest`.

    Raises BlissError where one of them is missing or does not match the manifest.
    """
    for name in names:
        link_file(source / name, folder / name)
        check_checksum(folder, name, manifest)
    write_json(folder / MANIFEST, manifest)


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Lock an output folder, which is created if needed, while this process works in it.

    Temporary folders that killed runs left in it are deleted. The lock ends with the process,
    however it ends. Raises FolderInUse, naming the process, where another run has it, BlissError
    where the folder cannot be written.
    """
    path = folder / LOCK
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_lock(path)
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        try:
            delete_abandoned(folder, levels=2)
            yield
        finally:
            with suppress(OSError):  # its folder vanished or turned read-only
                path.unlink(missing_ok=True)
            if new:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


@contextmanager
def wait_to_run_in(folder: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """`only_run_in`, once no other run has the lock; `notify` is told once why this one waits."""
    with ExitStack() as held:
        waiting = False
        while True:
            try:
                held.enter_context(only_run_in(folder))
                break
            except FolderInUse as error:
                if not waiting:
                    notify(f"waiting: {error.given}")
                waiting = True
                time.sleep(0.2)
        yield


def _open_lock(path: Path) -> IO[bytes]:
    """Open `path` and lock it; again where the file was removed meanwhile."""
    while True:
        file = open(path, "a+b")
        try:
            if lock_file(file) is False:
                file.seek(0)
                holder = file.read(20).decode("ascii", "replace").strip() or "unknown"
                raise FolderInUse(
                    f"another bliss run (process {holder}) is working in {path.parent}",
                    "one run at a time in an output folder",
                    "Wait until it has ended, or choose another output folder",
                )
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                file.truncate(0)
                file.write(str(os.getpid()).encode())
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()
