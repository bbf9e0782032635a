"""Lists of image files: class-folder trees, flat folders, named files, paths from a table.

Image files at addresses are fetched through fsspec when their turn comes. Folder symlinks that stay
inside the root are followed once; links that leave it are followed only where the user says so;
links found below a followed link, and links to a folder that holds the link, are not, so a loop
ends. Hidden files and folders (leading dot) and those of SYSTEM_FOLDERS do not count.
"""

from __future__ import annotations

import functools
import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...arguments import checked
from ...artefacts import digest
from ...errors import BlissError, UsageError
from ...safe_text import counted
from ..addresses import find_below, is_remote, read_file, stamp, suffix_of
from ..sources import JSON
from .source import (
    IMAGE_SUFFIXES,
    LINK_OUT,
    MAX_IMAGE_BYTES,
    SIDECAR_SUFFIXES,
    ImageItem,
    Skip,
    display_path,
    has_image_suffix,
    is_image_file,
    is_inside,
    suffix_counts,
    why_outside,
)

PathLike = str | os.PathLike[str]

ADDRESS = "it is an address, and images that a list names are not fetched"
_COPY_LINKS = (
    "Add --follow-links if you trust where the links lead (DVC, git-annex, the hub's cache), or "
    "put the files in their place, for example with cp -rL"
)
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""What systems put beside images, such as thumbnails of them: no part of a collection."""
_NO_SUFFIX = "without suffix"
_NEEDED_IMAGES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIF files"


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
    notices: tuple[str, ...] = ()
    """What a user should know of how the images were found."""

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


@checked
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


def list_paths(
    root: PathLike,
    paths: Sequence[str],
    labels: Sequence[str | None],
    follow_links: bool = False,
) -> ImageList:
    """List paths relative to `root`, as a table names them, one row each.

    A path, or a link that is not to be followed, that leads out of `root` is a row with a problem.
    An absolute path counts as inside where it is.
    """
    problems = {}
    for row, path in enumerate(paths):
        problem = ADDRESS if is_remote(path) else why_outside(os.fspath(root), path, follow_links)
        if problem:
            problems[row] = problem
    return ImageList(os.fspath(root), tuple(paths), tuple(labels), problems)


def with_class_labels(root: str, found: Findings) -> ImageList:
    """Label each path with its first folder; without folders every label is None: a flat list."""
    paths = found.paths()
    labels = tuple(display_path(path.partition("/")[0]) if "/" in path else None for path in paths)
    problems = {row: found.problems[path] for row, path in enumerate(paths)
                if path in found.problems}  # fmt: skip
    return ImageList(root, paths, labels, problems, found.notices(root))


@dataclass
class Findings:
    """What a walk has met; every path is relative to the root, with forward slashes."""

    images: list[str] = field(default_factory=list)
    """Files named like an image or that hold one, and empty folders named like one."""
    problems: dict[str, str] = field(default_factory=dict)
    """Paths that are not to be opened, and why; none of them is in `images`."""
    others: Counter[str] = field(default_factory=Counter)
    """How many other files there are, by suffix."""

    def paths(self) -> tuple[str, ...]:
        """All paths, sorted by their bytes."""
        return tuple(sorted([*self.images, *self.problems], key=os.fsencode))

    def add(self, root: str, path: str) -> None:
        """Count a file: an image by its name, or else by its content."""
        suffix = os.path.splitext(path)[1].lower()
        if suffix[1:] in IMAGE_SUFFIXES or (
            suffix[1:] not in SIDECAR_SUFFIXES and is_image_file(os.path.join(root, path))
        ):
            self.images.append(path)
        else:
            self.others[suffix or _NO_SUFFIX] += 1

    def notices(self, root: str) -> tuple[str, ...]:
        """What to say of the files that are no images."""
        count = self.others.total()
        if not count:
            return ()
        files = counted(count, "other file is no image", "other files are no images")
        return (f"{display_path(root)}: {files} ({suffix_counts(self.others)})",)


def find_images(root: str, follow_links: bool = False) -> Findings:
    """Walk `root`, and where links lead if these are followed.

    UsageError where `root` is no folder, BlissError where a folder cannot be read.
    """
    if not os.path.isdir(root):
        state = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise UsageError(
            f"{display_path(root)} {state}", "a folder with images", "Check the spelling"
        )
    found = Findings()
    real_root = os.sep if follow_links else os.path.realpath(root)
    pending = [("", False)]
    while pending:
        folder, linked = pending.pop()
        pending += _scan(root, real_root, folder, linked, found)
    return found


def _scan(
    root: str, real_root: str, folder: str, linked: bool, found: Findings
) -> list[tuple[str, bool]]:
    """Add what is directly in `folder` to `found`; return its folders (path, below a link)."""
    folders = []
    entries_here = 0
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                    continue
                entries_here += 1
                path = f"{folder}/{entry.name}" if folder else entry.name
                is_link = entry.is_symlink()
                if is_link and not is_inside(os.path.realpath(entry.path), real_root):
                    if _is_folder(entry) or has_image_suffix(entry.name):
                        found.problems[path] = LINK_OUT
                    else:
                        found.others[os.path.splitext(path)[1].lower() or _NO_SUFFIX] += 1
                elif _is_folder(entry):
                    if not (is_link and (linked or _holds_itself(entry.path))):
                        folders.append((path, linked or is_link))
                else:
                    found.add(root, path)
    except OSError as error:
        raise BlissError(
            f"the folder {display_path(os.path.join(root, folder))} could not be read "
            f"({error.strerror or error})",
            "read permission for every folder below the one given",
            "Change its permissions or move it elsewhere",
        ) from error
    if entries_here == 0 and has_image_suffix(folder):
        found.images.append(folder)
    return folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is, or links to, a folder; a link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _holds_itself(link: str) -> bool:
    """Whether a folder link leads to a folder that holds the link: a loop."""
    return is_inside(os.path.realpath(os.path.dirname(link)), os.path.realpath(link))


def no_images(root: str, found: Findings) -> BlissError:
    """The error for a folder that holds no images, with what it holds instead."""
    given = f"{display_path(root)} holds no images"
    if found.others:
        count = found.others.total()
        given += f", only {counted(count, 'other file')} ({suffix_counts(found.others)})"
    if found.problems:
        given += f" (links that leave the folder, not followed: {len(found.problems)})"
    return BlissError(
        given,
        _NEEDED_IMAGES,
        _COPY_LINKS if found.problems else "Choose the folder that holds the images",
    )


@dataclass(frozen=True)
class RemoteImages:
    """Image files below one address; the first folder below it is the label."""

    spec: str
    addresses: tuple[str, ...]
    paths: tuple[str, ...]
    """The addresses relative to what they share."""
    labels: tuple[str | None, ...]
    notices: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.addresses)

    def facts(self) -> dict[str, JSON]:
        """The fingerprint is over every path with what the remote says of its change."""
        pairs = zip(self.paths, self.addresses, strict=True)
        content = {path: stamp(address) for path, address in pairs}
        return {"kind": "remote-images", "spec": self.spec, "fingerprint": digest(content)}

    def items(self, skip: Skip) -> Iterator[ImageItem]:
        """Every file in order; fetching it is left to whoever decodes it."""
        for row, address in enumerate(self.addresses):
            item = ImageItem(row, display_path(self.paths[row]), self.labels[row])
            if skip(row):
                yield item
            else:
                yield item._replace(data=functools.partial(read_file, address, MAX_IMAGE_BYTES + 1))

    def check(self) -> None:
        """BlissError where the first file can no longer be reached."""
        stamp(self.addresses[0])


def list_remote_folder(spec: str) -> RemoteImages:
    """Every image below a remote folder; BlissError where there is none or it is unreachable."""
    return list_addresses(spec, find_below(spec))


def list_addresses(spec: str, addresses: Sequence[str]) -> RemoteImages:
    """The images among some addresses, in the order of their names.

    Labels are the first folders below what all of them share, as in a tree of class folders.
    """
    shown = [each for each in addresses if not posixpath.basename(each).startswith(".")]
    chosen = sorted(address for address in shown if has_image_suffix(address))
    passed = [each for each in shown if not has_image_suffix(each)]
    found = Findings(others=Counter(suffix_of(each) or _NO_SUFFIX for each in passed))
    if not chosen:
        raise BlissError(
            f"{spec} holds no images",
            _NEEDED_IMAGES,
            "Choose the folder that holds the images",
        )
    root = posixpath.commonpath([posixpath.dirname(address) for address in chosen])
    paths = tuple(posixpath.relpath(address, root) for address in chosen)
    labels = tuple(path.partition("/")[0] if "/" in path else None for path in paths)
    return RemoteImages(spec, tuple(chosen), paths, labels, found.notices(spec))
