"""A CLIPN on disk: the "no" tower as safetensors, its loss curve, and a manifest; no torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..artefacts import check_checksum, read_manifest, write_atomically, write_manifest
from ..errors import UsageError
from .loss_curve import curve_csv, curve_svg

KIND = "clipn"
CURVE, PLOT = "curve.csv", "curve.svg"
IMAGES = "images"
"""The training images' embeddings, kept for another training."""


@dataclass(frozen=True)
class Clipn:
    """A folder whose files are as its manifest says."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        """Facts of the frozen model it was trained over."""
        return self.manifest["model"]

    @property
    def weights(self) -> Path:
        """The tower's safetensors file."""
        return self.folder / self.manifest["weights"]


def open_clipn(folder: str | Path) -> Clipn:
    """The CLIPN in a folder; BlissError where it is none or a file of it was changed."""
    folder = Path(folder)
    manifest = read_manifest(folder, KIND, "Make one with `bliss train clipn`")
    for name in (manifest["weights"], *manifest["checksums"]):
        check_checksum(folder, name, manifest)
    return Clipn(folder, manifest)


def check_output(folder: str | Path, overwrite: bool) -> None:
    """UsageError where the folder holds anything but the embeddings of an unfinished training."""
    folder = Path(folder)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not overwrite and [name for name in there if name != IMAGES]:
        raise UsageError(
            f"{folder} already holds {', '.join(there[:3])}",
            "a new or empty folder for the CLIPN",
            "Choose another one, or pass --overwrite",
        )


def write_clipn(
    folder: Path,
    weights: bytes,
    model: Mapping[str, Any],
    curve: Sequence[Mapping[str, float]],
    facts: Mapping[str, Any],
) -> None:
    """Write all files, the manifest last; a CLIPN that was there before stays whole until then.

    `weights` are a safetensors file's bytes, `curve` one row a point.
    """
    before = set(folder.glob("no_tower-*.safetensors")) if folder.is_dir() else set()
    name = f"no_tower-{hashlib.sha256(weights).hexdigest()[:12]}.safetensors"
    files = {name: weights}
    if curve:
        files[CURVE] = curve_csv(curve).encode()
        files[PLOT] = curve_svg(curve, "CLIPN: mean losses").encode()
    for file, content in files.items():
        write_atomically(folder / file, partial(_put, content))
    write_manifest(folder, KIND, files, model=dict(model), weights=name, **facts)
    for old in before - {folder / name}:
        old.unlink()


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)
