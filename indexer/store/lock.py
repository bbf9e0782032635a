"""One run at a time in an output folder: a file lock, which ends with the process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from ...artefacts import LOCK as LOCK
from ...artefacts import delete_abandoned, lock_file
from ...errors import FolderInUse, unwritable


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
        file = _lock(path)
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


def _lock(path: Path) -> IO[bytes]:
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
