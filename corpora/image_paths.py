"""Names of image files: which suffixes count, how they are shown, what stays in a folder."""

from __future__ import annotations

import os

IMAGE_SUFFIXES = ("jpg", "jpeg", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff")

LEAVES_FOLDER = "its path leaves the folder of the collection"
LINK_OUT = "a link that leaves the folder of the collection is not followed"


def has_image_suffix(name: str) -> bool:
    """Whether a file is named like an image, in any case."""
    return os.path.splitext(name)[1][1:].lower() in IMAGE_SUFFIXES


def display_path(path: str) -> str:
    r"""Valid UTF-8 text for a path: bytes that are not UTF-8 are shown as \xNN."""
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte (Windows)
        return path.encode("utf-8", "backslashreplace").decode("utf-8")


def is_inside(path: str, folder: str) -> bool:
    """Whether an absolute, normal path is `folder` or below it, by its text alone."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def why_outside(root: str, path: str) -> str:
    """Why `path`, taken relative to `root`, is not inside it; "" where it is.

    A link on the way counts as what it leads to.
    """
    folder = os.path.abspath(root)
    try:
        joined = os.path.normpath(os.path.join(folder, path))
        if not is_inside(joined, folder):
            return LEAVES_FOLDER
        return "" if is_inside(os.path.realpath(joined), os.path.realpath(folder)) else LINK_OUT
    except ValueError:  # a null byte
        return "the file name is not valid on this system"
