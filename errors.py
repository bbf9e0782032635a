"""The errors a user can meet, each with the exit code the command line gives it.

Every message has three parts, in this order: what was given, what was needed, what to do.
They are separate arguments so that none can be forgotten, and so that tests can name the part
they check.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

_MORE_FILES = (
    "a higher limit on open files, or fewer of them open at once",
    "Raise the limit with `ulimit -n 4096`, or give fewer --workers, "
    "then run the same command again",
)


def causes(error: BaseException | None, implicit: bool = False) -> Iterator[BaseException]:
    """An error and what caused it, each once; with `implicit`, also what it was raised during.

    Causes can form a circle: FAISS names the error that its callback raised as its cause, and
    whoever raises that error again names FAISS's.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if implicit else None)


def too_many_files(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is the system's limit on open files."""
    limits = (errno.EMFILE, errno.ENFILE)
    return any(isinstance(each, OSError) and each.errno in limits for each in causes(error))


class BlissError(Exception):
    """A run that cannot go on: bad data, a full disk, artefacts that do not fit together.

    Parameters are the three sentences of the message, without trailing full stops.
    """

    exit_code = 1

    def __init__(self, given: str, needed: str, remedy: str) -> None:
        super().__init__(given, needed, remedy)
        self.given, self.needed, self.remedy = given, needed, remedy

    def __str__(self) -> str:
        # Whatever file was being read or written, none is damaged then.
        needed, remedy = _MORE_FILES if too_many_files(self) else (self.needed, self.remedy)
        return f"{self.given}. Needed: {needed}. {remedy}."


def out_of_files(given: str) -> BlissError:
    """The error for the system's limit on open files."""
    return BlissError(given, *_MORE_FILES)


class UsageError(BlissError):
    """A request that cannot be met as it was worded: a wrong name, path, column or option."""

    exit_code = 2


class NotNamed(UsageError):
    """Something that only an artefact names, which is used on the user's own word alone.

    `options` name it on the command line, which prints its whole command with them; `call` does so
    in Python.
    """

    def __init__(self, given: str, needed: str, options: Sequence[str], call: str) -> None:
        super().__init__(given, needed, f"If you trust it, {call}")
        self.options = tuple(options)
        self.args = (given, needed, self.options, call)

    def for_command(self, command: Sequence[str]) -> str:
        """The message of a command line, whose words are `command`."""
        end = list(command).index("--") if "--" in command else len(command)
        again = shlex.join([*command[:end], *self.options, *command[end:]])
        return f"{self.given}. Needed: {self.needed}. If you trust it, run: {again}"


class ModelNotNamed(NotNamed):
    """A model that only an artefact names, which is not loaded."""

    def __init__(self, given: str, needed: str, options: Sequence[str]) -> None:
        values = ", ".join(repr(value) for value in options[1::2])
        super().__init__(given, needed, options, f"pass ModelChoice({values})")
        self.args = (given, needed, self.options)


class AddressNotNamed(NotNamed):
    """An address that only an artefact names, which is not contacted."""

    def __init__(self, given: str, needed: str, options: Sequence[str], call: str) -> None:
        super().__init__(given, needed, options, f"call {call}")
        self.args = (given, needed, self.options, call)


class FolderInUse(BlissError):
    """Another run is working in the folder."""


class TooManyFailures(BlissError):
    """More unreadable images than `--fail-on` allows."""

    exit_code = 3


class TooManyFlagged(BlissError):
    """More flagged images than `--fail-on` allows."""

    exit_code = 4


_NOT_YOURS = ("a folder that you may write in", "Choose another folder, or change its permissions")
_NO_ROOM = (
    "a folder that can be written, with room on its disk",
    "Free some space or choose another folder",
)
_REMEDIES = {
    errno.EACCES: _NOT_YOURS,
    errno.EPERM: _NOT_YOURS,
    errno.EROFS: ("a folder on a disk that is not read-only", "Choose a folder on another disk"),
    errno.EISDIR: ("no folder of that name", "Choose another name, or move the folder away"),
}


NO_HOME = Path(os.devnull, "no home folder")
"""Stands for the home folder of a user who has none."""


def unwritable(path: Path, error: OSError, kept: str = "finished parts are kept") -> BlissError:
    """The error for an output that the system would not write, with the remedy for its reason.

    UsageError where a file is in the way or a name is too long: another name is needed then.
    """
    if error.errno == errno.ENAMETOOLONG:
        return name_too_long(path)
    if NO_HOME in path.parents:
        return UsageError(
            "this user has no home folder to keep files in",
            "a folder for the cache and one for settings",
            "Set BLISS_CACHE and BLISS_CONFIG, or HOME",
        )
    if too_many_files(error):
        return out_of_files(f"could not write {path}: {error.strerror or error}")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        for place in (path, *path.parents):
            if os.path.lexists(place) and not place.is_dir():
                return UsageError(
                    f"{place} is {'a file' if place.is_file() else 'no folder'}",
                    "a folder, or the name of a new one, to write in",
                    "Name a folder for the output, or move what is there away",
                )
    needed, remedy = _REMEDIES.get(error.errno or 0, _NO_ROOM)
    return BlissError(
        f"could not write {path}: {error.strerror or error}",
        needed,
        f"{remedy}, then run the same command again: {kept}",
    )


def name_too_long(path: object) -> UsageError:
    """The error for a path of which the system says that it, or a name in it, is too long."""
    whole = os.fsencode(path) if isinstance(path, str | bytes | Path) else b""
    name = max(whole.split(os.fsencode(os.sep)), key=len)
    what, long = ("path", whole) if len(whole) > 4095 else ("name", name)
    shown = long.decode(errors="replace")[:40]
    return UsageError(
        f"the {what} {shown}… of {len(long):,} bytes is too long",
        "names of at most 255 bytes in a path of at most 4,095, on most systems",
        "Give a shorter one",
    )
