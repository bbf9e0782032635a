"""Walking a folder tree for images.

Folder symlinks that stay inside the root are followed once; links that leave it are not followed,
and neither are links found below a followed link nor links to a folder that holds the link, so a
loop ends. Hidden files and folders (leading dot) do not count.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ..errors import BlissError, UsageError
from .image_paths import (
    IMAGE_SUFFIXES,
    LINK_OUT,
    display_path,
    has_image_suffix,
    is_inside,
)


@dataclass
class Findings:
    """What a walk has met; every path is relative to the root, with forward slashes."""

    images: list[str] = field(default_factory=list)
    """Everything named like an image, folders without any image in them among it."""
    problems: dict[str, str] = field(default_factory=dict)
    """Paths that are not to be opened, and why; none of them is in `images`."""
    others: int = 0

    def paths(self) -> tuple[str, ...]:
        """All paths, sorted by their bytes."""
        return tuple(sorted([*self.images, *self.problems], key=os.fsencode))


def find_images(root: str) -> Findings:
    """Walk `root`; UsageError where it is no folder, BlissError where one cannot be read."""
    if not os.path.isdir(root):
        state = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise UsageError(
            f"{display_path(root)} {state}", "a folder with images", "Check the spelling"
        )
    found = Findings()
    real_root = os.path.realpath(root)
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
                if entry.name.startswith("."):
                    continue
                entries_here += 1
                path = f"{folder}/{entry.name}" if folder else entry.name
                is_link = entry.is_symlink()
                if is_link and not is_inside(os.path.realpath(entry.path), real_root):
                    if _is_folder(entry) or has_image_suffix(entry.name):
                        found.problems[path] = LINK_OUT
                    else:
                        found.others += 1
                elif _is_folder(entry):
                    if not (is_link and (linked or _holds_itself(entry.path))):
                        folders.append((path, linked or is_link))
                elif has_image_suffix(entry.name):
                    found.images.append(path)
                else:
                    found.others += 1
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
        given += f", only {found.others} other file{'s' if found.others > 1 else ''}"
    if found.problems:
        given += f" (links that leave the folder, not followed: {len(found.problems)})"
    return BlissError(
        given,
        f"files that end in {', '.join('.' + suffix for suffix in IMAGE_SUFFIXES)}, in any case",
        "Choose the folder that holds the images",
    )
