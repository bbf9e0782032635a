"""Image data sets: repositories of the Hugging Face hub, dataset folders, save_to_disk folders.

The `datasets` library only says which files there are; they are read here, so that one bad image
never ends the reading.
"""

from __future__ import annotations

import os
from typing import Any

from ...artefacts import read_json
from ...errors import BlissError, UsageError
from ..datasets import check_inside, choose_split, open_builder, quiet
from ..sources import CorpusOptions
from .folders import list_addresses
from .source import ImageOptions, ImageSource
from .tables import open_image_tables
from .tars import ImageTars

IMAGE_BUILDERS = ("parquet", "arrow", "webdataset", "imagefolder")
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"


def open_hub_images(name: str, options: ImageOptions) -> ImageSource:
    """The images of the repository `owner/name`; errors as of the parts."""
    return _open(f"hf:{name}", f"hf://datasets/{name}", options)


def open_dataset_images(folder: str, options: ImageOptions) -> ImageSource:
    """A folder laid out as a dataset repository, or holding parquet or Arrow files."""
    folder = os.path.abspath(folder)
    return _open(folder, folder, options)


def is_saved_dataset(folder: str) -> bool:
    """Whether `save_to_disk` made this folder."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in (SAVED, SAVED_SPLITS))


def open_saved_dataset(folder: str, options: ImageOptions) -> ImageSource:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    UsageError where the split is not there, BlissError where a file it lists leaves the folder.
    """
    root = folder
    check_inside(folder, [SAVED_SPLITS, SAVED], "it")
    splits_file = os.path.join(folder, SAVED_SPLITS)
    if os.path.isfile(splits_file):
        splits = _listed(splits_file, "splits")
        split = choose_split(folder, options.split, splits)
        check_inside(folder, [split], SAVED_SPLITS)
        root = os.path.join(folder, split)
    elif options.split is not None:
        raise UsageError(
            f"--images-split was given for {folder}", "no split: it has one", "Leave it out"
        )
    check_inside(folder, [os.path.join(root, SAVED)], SAVED_SPLITS)
    state = os.path.join(root, SAVED)
    names = [each.get("filename") for each in _listed(state, "_data_files", dict)]
    if not names or not all(isinstance(name, str) for name in names):
        raise _edited(state)
    check_inside(root, names, SAVED)
    return open_image_tables(folder, [os.path.join(root, name) for name in names], options)


def _listed(file: str, field: str, kind: type = str) -> list[Any]:
    from pathlib import Path

    found = read_json(Path(file)).get(field)
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise _edited(file)
    return found


def _edited(file: str) -> BlissError:
    return BlissError(
        f"{file} does not list what it should", "the file as `datasets` wrote it", "Save it again"
    )


def _open(spec: str, address: str, options: ImageOptions) -> ImageSource:
    wanted = CorpusOptions(None, options.config, options.split, options.revision)
    with quiet():
        builder = open_builder(spec, address, wanted, IMAGE_BUILDERS, "images")
    files = builder.config.data_files or {}
    split = choose_split(spec, options.split, [str(name) for name in files])
    addresses = [str(file) for file in files[split]]
    features = builder.info.features or {}

    def names_of(column: str) -> tuple[str, ...] | None:
        names = getattr(features.get(column), "names", None)
        return tuple(names) if names else None

    if builder.name == "webdataset":
        return ImageTars(spec, tuple(addresses), options)
    if builder.name == "imagefolder":
        return list_addresses(spec, addresses)
    return open_image_tables(spec, addresses, options, names_of)
