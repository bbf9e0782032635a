"""Open a collection of images by what is there: `open_images`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ...errors import UsageError
from ..addresses import expand, is_remote, is_remote_folder
from ..datasets import check_inside
from .folders import find_images, list_image_files, list_remote_folder, no_images, with_class_labels
from .labels import add_labels, label_file_in, list_labelled
from .source import (
    NO_IMAGE_OPTIONS,
    ImageOptions,
    ImageSource,
    display_path,
    has_image_suffix,
    refuse_image_options,
)
from .tables import choose_image_column, open_image_tables, read_schema
from .tars import TAR_SUFFIXES, ImageTars

TABLE_SUFFIXES = (".parquet", ".arrow")
LABEL_FILE_SUFFIXES = (".csv", ".tsv")
COLUMNS = ("image_column", "label_column")

ACCEPTED_COLLECTIONS = (
    "a folder of images or of class folders, a csv, tsv or parquet file of paths and labels, "
    "hf:owner/name, a dataset folder, .tar shards, .parquet or .arrow files with images, or the "
    "address of one of these, with {000..012} for ranges"
)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_images(
    spec: str | os.PathLike[str], options: ImageOptions = NO_IMAGE_OPTIONS
) -> ImageSource:
    """Open the collection that `spec` names; see ACCEPTED_COLLECTIONS for the forms it may take.

    UsageError where nothing fits `spec`, a column, config or split is not there, or an option
    does not apply; BlissError where the data cannot be read or reached, or holds no images.
    """
    spec = os.fspath(spec)
    scheme, _, rest = spec.partition(":")
    if scheme == "hf" and _HUB_NAME.fullmatch(rest):
        from .datasets import open_hub_images

        refuse_image_options(spec, options, (*COLUMNS, "config", "split", "revision"))
        return open_hub_images(rest, options)
    if not is_remote(spec) and os.path.isdir(spec):
        return _open_folder(spec, options)
    lower = spec.lower()
    if lower.endswith(TAR_SUFFIXES):
        refuse_image_options(spec, options, COLUMNS)
        return ImageTars(spec, tuple(_files(spec)), options)
    if lower.endswith(TABLE_SUFFIXES):
        refuse_image_options(spec, options, COLUMNS)
        return _open_tables(spec, _files(spec), options)
    if is_remote(spec):
        refuse_image_options(spec, options, ())
        if is_remote_folder(spec):
            return list_remote_folder(spec)
    elif os.path.isfile(spec) and lower.endswith(LABEL_FILE_SUFFIXES):
        refuse_image_options(spec, options, COLUMNS)
        return list_labelled(spec, options)
    elif os.path.isfile(spec) and has_image_suffix(spec):
        refuse_image_options(spec, options, ())
        return list_image_files([spec])
    state = "is no collection of images" if os.path.lexists(spec) else "does not exist"
    raise UsageError(
        f"{display_path(spec)} {state}",
        ACCEPTED_COLLECTIONS,
        "Check the spelling and the path",
    )


def open_named(specs: Sequence[str], options: ImageOptions = NO_IMAGE_OPTIONS) -> ImageSource:
    """One collection as `open_images` takes it, or one or more image files, whatever their names.

    Errors as of `open_images` and `list_image_files`.
    """
    collections = (*TAR_SUFFIXES, *TABLE_SUFFIXES, *LABEL_FILE_SUFFIXES)
    if len(specs) == 1 and (not os.path.isfile(specs[0]) or specs[0].lower().endswith(collections)):
        return open_images(specs[0], options)
    refuse_image_options("several image files", options, ())
    return list_image_files(specs)


def _open_folder(folder: str, options: ImageOptions) -> ImageSource:
    """A folder by what it holds: a saved data set, image files, archives or tables."""
    from . import datasets as image_datasets

    if image_datasets.is_saved_dataset(folder):
        refuse_image_options(folder, options, (*COLUMNS, "split"))
        return image_datasets.open_saved_dataset(folder, options)
    found = find_images(folder)
    if found.images:
        listed = with_class_labels(folder, found)
        file = options.labels or label_file_in(listed)
        if file is not None and options.labels is None:
            check_inside(folder, [os.path.abspath(file)], "it")
        if file is None:
            refuse_image_options(folder, options, ())
            return listed
        refuse_image_options(folder, options, (*COLUMNS, "labels"))
        return add_labels(listed, file, options)
    names = [os.path.join(folder, name) for name in sorted(os.listdir(folder), key=os.fsencode)]
    tars = [name for name in names if name.lower().endswith(TAR_SUFFIXES)]
    if tars:
        check_inside(folder, [os.path.abspath(name) for name in tars], "it")
        refuse_image_options(folder, options, COLUMNS)
        return ImageTars(folder, tuple(tars), options)
    if _holds_tables(folder):
        refuse_image_options(folder, options, (*COLUMNS, "config", "split"))
        return image_datasets.open_dataset_images(folder, options)
    raise no_images(folder, found)


def _holds_tables(folder: str) -> bool:
    return any(
        name.lower().endswith(TABLE_SUFFIXES) for _, _, names in os.walk(folder) for name in names
    )


def _open_tables(spec: str, files: Sequence[str], options: ImageOptions) -> ImageSource:
    """Tables of images, or one local parquet file of paths."""
    if len(files) == 1 and not is_remote(files[0]) and files[0].lower().endswith(".parquet"):
        schema = read_schema(files[0])
        if choose_image_column(spec, schema, options.image_column) is None:
            return list_labelled(files[0], options)
    return open_image_tables(spec, files, options)


def _files(spec: str) -> list[str]:
    """The files that a path or pattern names; UsageError where a local one is not there."""
    files = expand(spec)
    for file in files:
        if not is_remote(file) and not os.path.isfile(file):
            state = "is not a file" if os.path.lexists(file) else "does not exist"
            raise UsageError(
                f"{display_path(file)} {state}", ACCEPTED_COLLECTIONS, "Check the spelling"
            )
    return files
