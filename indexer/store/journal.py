"""What was encoded of an unfinished part: stored every half minute, so that little is lost.

A part is written once all of it is encoded, which takes a slow encoder minutes. Until then its
batches are stored in `journal/`, each under a digest of what it was made of. The same command forms
the same batches again and finds their vectors there, so a part has the same bytes either way.
"""

from __future__ import annotations

import hashlib
import secrets
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

import numpy as np

from ...artefacts import write_atomically
from ...errors import BlissError

JOURNAL = "journal"
SECONDS = 30.0
"""How much work may be unwritten, beside the batch that is being encoded."""


class Journal:
    """The journal in `folder`, where the parts of one request are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / JOURNAL
        self._files: list[Path] = []
        """Those with batches of the current part."""
        self._found: dict[str, np.ndarray] | None = None
        self._new: list[tuple[str, np.ndarray]] = []
        self._since = monotonic()

    def vectors(self, content: bytes, encode: Callable[[], np.ndarray]) -> np.ndarray:
        """[b, d]: what is stored for a batch of this content, or else what `encode` returns."""
        if self._found is None:
            self._found = self._read()
        name = hashlib.sha256(content).hexdigest()
        found = self._found.pop(name, None)
        if found is not None:
            return found
        made = encode()
        self._new.append((name, np.asarray(made)))
        if monotonic() - self._since >= SECONDS:
            self._write()
        return made

    def end_part(self) -> list[Path]:
        """Begin the next part; returns the files to delete once this one is stored."""
        files, self._files = self._files, []
        self._new.clear()
        self._since = monotonic()
        return files

    def _write(self) -> None:
        """Store the new batches in a file; without room for it the run goes on."""
        path = self.folder / f"{secrets.token_hex(8)}.npz"
        names, batches = zip(*self._new, strict=True)
        rows = [len(batch) for batch in batches]
        with suppress(BlissError):
            write_atomically(
                path,
                lambda file: np.savez(
                    file, names=np.array(names), rows=rows, vectors=np.concatenate(batches)
                ),
            )
            self._files.append(path)
        self._new.clear()
        self._since = monotonic()

    def _read(self) -> dict[str, np.ndarray]:
        """Every stored batch by its name; files that cannot be read are as good as none."""
        found: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npz")):
            self._files.append(path)
            with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                with np.load(path, allow_pickle=False) as stored:
                    batches = np.split(stored["vectors"], np.cumsum(stored["rows"])[:-1])
                    found |= zip(stored["names"].tolist(), batches, strict=True)
        return found


def delete_files(files: list[Path]) -> None:
    """Delete files that are no longer needed, where that is possible."""
    for path in files:
        with suppress(OSError):
            path.unlink(missing_ok=True)
