"""Lists of image files: class-folder trees, flat folders, named files, paths from a table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import BlissError, UsageError
from .change_marks import stamp
from .image_folders import Findings, find_images, no_images
from .image_paths import display_path, why_outside
from .image_source import ImageItem, Skip
from .sources import JSON

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ImageList:
    """The image files of one collection, in an order that is the same on every machine.

    `paths` are relative to `root`, with forward slashes, as `os.fsdecode` gives them: names that
    are not UTF-8 hold surrogate escapes, so open them as they are and show `display_path(path)`.
    `labels[i]` is the class of `paths[i]`, already valid text, or None where there is none.
    """

    root: str
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]
    problems: Mapping[int, str] = field(default_factory=dict)
    """Rows that must not be opened, and why: links and paths that leave the root."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted; images without a label add none."""
        return tuple(sorted({label for label in self.labels if label is not None}))

    @property
    def spec(self) -> str:
        """The root, as it was given."""
        return self.root

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.paths)

    def facts(self) -> dict[str, JSON]:
        """The fingerprint is over every path with its label, size and time of change."""
        digest = hashlib.sha256()
        for row, (path, label) in enumerate(zip(self.paths, self.labels, strict=True)):
            mark = self.problems.get(row) or stamp(os.path.join(self.root, path))
            digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
            digest.update(f"{mark}\0{label}\0".encode())
        return {"kind": "image-files", "spec": self.root, "fingerprint": digest.hexdigest()}

    def items(self, skip: Skip) -> Iterator[ImageItem]:
        """Every file in order; opening it is left to whoever decodes it."""
        for row, path in enumerate(self.paths):
            shown, label = display_path(path), self.labels[row]
            if row in self.problems:
                yield ImageItem(row, shown, label, problem=self.problems[row])
            elif skip(row):
                yield ImageItem(row, shown, label)
            else:
                yield ImageItem(row, shown, label, file=os.path.join(self.root, path))

    def check(self) -> None:
        """BlissError where the root cannot be listed any more, or has become empty."""
        try:
            with os.scandir(self.root) as entries:
                gone = "" if next(entries, None) else "it is empty now"
        except OSError as error:
            gone = error.strerror or str(error)
        if gone and self.paths:
            raise BlissError(
                f"the folder {display_path(self.root)} went away while it was read ({gone})",
                "a folder that stays there",
                "Mount or restore it, then run the same command again: finished parts are kept",
            )


def list_images(root: PathLike) -> ImageList:
    """List `root` as class folders if any subfolder holds an image, otherwise as a flat folder.

    First-level folders are classes, and images may lie deeper in them; images directly in `root`
    get the label None. Raises UsageError where `root` is no folder; BlissError where it holds no
    images or a folder cannot be read.
    """
    found = find_images(os.fspath(root))
    if not found.images:
        raise no_images(os.fspath(root), found)
    return with_class_labels(os.fspath(root), found)


def list_image_files(paths: Iterable[PathLike]) -> ImageList:
    """List the named files in the order given, whatever their suffix, all with the label None.

    `root` is the absolute folder that holds them all. Raises UsageError where no file is named
    or one does not exist or is a folder.
    """
    files = [os.path.abspath(path) for path in paths]
    if not files:
        raise UsageError("no image file was named", "at least one", "Name one or more image files")
    for file in files:
        if os.path.isdir(file):
            raise UsageError(
                f"{display_path(file)} is a folder",
                "image files",
                "Give the folder by itself, or the files in it",
            )
        if not os.path.lexists(file):
            raise UsageError(
                f"{display_path(file)} does not exist", "image files", "Check the spelling"
            )
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    names = tuple(os.path.relpath(file, root).replace(os.sep, "/") for file in files)
    return ImageList(root, names, (None,) * len(names))


def list_paths(root: PathLike, paths: Sequence[str], labels: Sequence[str | None]) -> ImageList:
    """List paths that somebody else wrote down, relative to `root`, each one a row.

    A path, or a link, that leads out of `root` is a row with a problem. An absolute path counts
    as inside where it is.
    """
    problems = {}
    for row, path in enumerate(paths):
        problem = why_outside(os.fspath(root), path)
        if problem:
            problems[row] = problem
    return ImageList(os.fspath(root), tuple(paths), tuple(labels), problems)


def with_class_labels(root: str, found: Findings) -> ImageList:
    """Label each path with its first folder; without folders every label is None: a flat list."""
    paths = found.paths()
    labels = tuple(display_path(path.partition("/")[0]) if "/" in path else None for path in paths)
    problems = {row: found.problems[path] for row, path in enumerate(paths)
                if path in found.problems}  # fmt: skip
    return ImageList(root, paths, labels, problems)
