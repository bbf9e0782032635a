"""Open a collection of images by what is there: `open_images`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...arguments import checked
from ...artefacts import read_json
from ...errors import BlissError, UsageError
from ...safe_text import counted, some_of
from ..addresses import expand, is_remote, is_remote_folder
from ..datasets import check_inside, choose_split, open_builder, quiet
from ..opening import FOLDER_PART, HUB_SPEC
from ..sources import CorpusOptions
from .folders import (
    Findings,
    ImageList,
    find_images,
    list_addresses,
    list_image_files,
    list_remote_folder,
    no_images,
    with_class_labels,
)
from .labels import add_labels, label_file_in, list_labelled, read_label_file, similar_labels
from .source import (
    NO_IMAGE_OPTIONS,
    ImageOptions,
    ImageSource,
    display_path,
    has_image_suffix,
    is_image_file,
    refuse_image_options,
)
from .tables import choose_image_column, open_image_tables, read_schema
from .tars import TAR_SUFFIXES, ImageTars

IMAGE_BUILDERS = ("parquet", "arrow", "webdataset", "imagefolder")
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"


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
            f"the split {options.split} was given for {folder}",
            "no split: it has one",
            "Leave it out",
        )
    check_inside(folder, [os.path.join(root, SAVED)], SAVED_SPLITS)
    state = os.path.join(root, SAVED)
    names = [each.get("filename") for each in _listed(state, "_data_files", dict)]
    if not names or not all(isinstance(name, str) for name in names):
        raise _edited(state)
    check_inside(root, names, SAVED)
    return open_image_tables(folder, [os.path.join(root, name) for name in names], options)


def _listed(file: str, field: str, kind: type = str) -> list[Any]:
    found = read_json(Path(file)).get(field)
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise _edited(file)
    return found


def _edited(file: str) -> BlissError:
    return BlissError(
        f"{file} does not list what it should", "the file as `datasets` wrote it", "Save it again"
    )


def _open_dataset(spec: str, address: str, options: ImageOptions) -> ImageSource:
    """The repository or dataset folder at `address`, or a folder with parquet or Arrow files."""
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


TABLE_SUFFIXES = (".parquet", ".arrow")
LABEL_FILE_SUFFIXES = (".csv", ".tsv", ".jsonl")
CONTAINERS = (
    *("images", "image", "imgs", "img", "pictures", "pics", "photos", "photographs", "jpegimages"),
    *("jpg", "jpeg", "jpegs", "png", "data", "dataset", "datasets", "archive", "raw", "raw_images"),
    *("all", "all_images", "original", "originals"),
)
"""One folder of these names that holds all images is no class."""
COLUMNS = ("image_column", "label_column")

ACCEPTED_COLLECTIONS = (
    "a folder of images or of class folders, a csv, tsv or parquet file of paths and labels, "
    "hf:owner/name[@revision][:[config/]split], a dataset folder, FOLDER:[config/]split, "
    ".tar shards, .parquet or .arrow files with images, or the "
    "address of one of these, with {000..012} for ranges"
)

_SPLIT = re.compile(
    r"(train|training|test|testing|val|valid|validation|dev|eval)([ _-]?(set|data|images|\d+))?"
    r"|(fold|split)[ _-]?\d+"
)
"""Folders of these names that hold all images are splits of a data set and no classes."""
_SHARD = re.compile(r"\d{5}")


@checked
def open_images(
    spec: str | os.PathLike[str], options: ImageOptions = NO_IMAGE_OPTIONS
) -> ImageSource:
    """Open the collection that `spec` names; see ACCEPTED_COLLECTIONS for the forms it may take.

    UsageError where nothing fits `spec`, a column, config or split is not there, or an option
    does not apply; BlissError where the data cannot be read or reached, or holds no images.
    """
    spec = os.fspath(spec)
    named = HUB_SPEC.fullmatch(spec)
    if named is not None:
        refuse_image_options(spec, options, (*COLUMNS, "config", "split", "revision"))
        name = named["name"]
        return _open_dataset(f"hf:{name}", f"hf://datasets/{name}", _with_part(options, named))
    part = None if is_remote(spec) or os.path.exists(spec) else FOLDER_PART.fullmatch(spec)
    if part is not None and os.path.isdir(part["name"]):
        return open_images(part["name"], _with_part(options, part))
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
        refuse_image_options(spec, options, (*COLUMNS, "follow_links"))
        return list_labelled(spec, options)
    elif os.path.isfile(spec) and (has_image_suffix(spec) or is_image_file(spec)):
        refuse_image_options(spec, options, ())
        return list_image_files([spec])
    state = "is no collection of images" if os.path.lexists(spec) else "does not exist"
    raise UsageError(
        f"{display_path(spec)} {state}",
        ACCEPTED_COLLECTIONS,
        "Check the spelling and the path",
    )


def _with_part(options: ImageOptions, named: re.Match[str]) -> ImageOptions:
    """The options with the revision, config and split that a name says."""
    groups = named.groupdict()
    parts: dict[str, Any] = {
        name: groups[name] for name in groups if name != "name" and groups[name]
    }
    return replace(options, **parts)


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
    if is_saved_dataset(folder):
        refuse_image_options(folder, options, (*COLUMNS, "split"))
        return open_saved_dataset(folder, options)
    found = find_images(folder, bool(options.follow_links))
    if found.images:
        listed = _open_image_files(folder, found, options)
        notices = (*_unread_tables(folder, options), *similar_labels(listed.labels))
        return replace(listed, notices=(*listed.notices, *notices))
    names = [os.path.join(folder, name) for name in sorted(os.listdir(folder), key=os.fsencode)]
    tars = [name for name in names if name.lower().endswith(TAR_SUFFIXES)]
    if tars:
        check_inside(folder, [os.path.abspath(name) for name in tars], "it")
        refuse_image_options(folder, options, COLUMNS)
        return ImageTars(folder, tuple(tars), options)
    if os.path.isdir(os.path.join(folder, "img_emb")):
        raise UsageError(
            f"{display_path(folder)} holds embeddings of images",
            "images",
            "Give it as --embeddings to `bliss audit` or `bliss reference fit`, or name the images",
        )
    if _holds_tables(folder):
        refuse_image_options(folder, options, (*COLUMNS, "config", "split"))
        folder = os.path.abspath(folder)
        return _open_dataset(folder, folder, options)
    raise no_images(folder, found)


def _open_image_files(folder: str, found: Findings, options: ImageOptions) -> ImageList:
    """Image files by how they are laid out: a label file, splits, a folder `images`, classes."""
    listed = with_class_labels(folder, found)
    file = options.labels or label_file_in(folder)
    if file is not None:
        if options.labels is None and not options.follow_links:
            check_inside(folder, [os.path.abspath(file)], "it")
        if os.path.dirname(os.path.abspath(file)) == os.path.abspath(folder):
            found.others[os.path.splitext(file)[1].lower()] -= 1
            listed = replace(listed, notices=found.notices(folder))
        if options.labels or options.label_column or read_label_file(file, options).has_labels:
            refuse_image_options(folder, options, (*COLUMNS, "labels", "follow_links"))
            if listed.classes:
                name = display_path(os.path.basename(file))
                note = f"{display_path(folder)}: labels are those of {name}, not the folders' names"
                listed = replace(listed, notices=(*listed.notices, note))
            return add_labels(listed, file, options)
    tops = {path.partition("/")[0] for path in found.images if "/" in path}
    loose = sum("/" not in path for path in found.images)
    if tops and _are_splits(tops):
        split = _choose_split(folder, options.split, sorted(tops))
        inner = replace(options, split=None)
        note = f"the images are those of the split {split}"
        if loose:
            note += f", without {counted(loose, 'image')} beside it"
        return _descend(folder, split, found, inner, note)
    if loose:
        tops = set()
    if len(tops) == 1 and next(iter(tops)).lower() in CONTAINERS:
        (name,) = tops
        return _descend(folder, name, found, options, f"the folder {name} is no class")
    refuse_image_options(folder, options, ("follow_links",))
    if tops and all(_SHARD.fullmatch(name) for name in tops):
        if 2 * found.others[".json"] >= len(found.images):
            note = f"{display_path(folder)}: its folders are shards of img2dataset, not classes"
            nothing = (None,) * listed.count
            return replace(listed, labels=nothing, notices=(*listed.notices, note))
    inner_folders = {tuple(path.split("/")[:2]) for path in found.images if path.count("/") > 1}
    if (
        len(tops) == 1
        and len(inner_folders) > 1
        and all(path.count("/") > 1 for path in found.images)
    ):
        (name,) = tops
        note = (
            f"{display_path(folder)}: one class, {display_path(name)}, with its images in "
            f"{counted(len(inner_folders), 'folder')}; if those are the classes, give "
            f"{display_path(os.path.join(folder, name))}"
        )
        return replace(listed, notices=(*listed.notices, note))
    inside = {top: {below for above, below in inner_folders if above == top} for top in tops}
    alike = set.union(*inside.values()) if inside else set()
    if (
        len(tops) > 1 < len(alike)
        and all(names == alike for names in inside.values())
        and not _are_splits(alike)
    ):
        first = os.path.join(folder, min(tops))
        note = (
            f"{display_path(folder)}: its folders are the classes, and each has the folders "
            f"{display_path(min(alike))}, {display_path(sorted(alike)[1])}"
            f"{', …' * (len(alike) > 2)}; if those are the classes, give {display_path(first)}"
        )
        return replace(listed, notices=(*listed.notices, note))
    return listed


def _are_splits(names: Collection[str]) -> bool:
    """Whether all folders are called like splits, perhaps all after the same word: seg_train."""
    plain = [name.lower() for name in names]
    before = {name[: max(map(name.rfind, " _-")) + 1] for name in plain}
    start = len(min(before)) if len(before) == 1 < len(plain) else 0
    return all(_SPLIT.fullmatch(name[start:]) or _SPLIT.fullmatch(name) for name in plain)


def _unread_tables(folder: str, options: ImageOptions) -> tuple[str, ...]:
    """What to say of tables beside images that may hold their labels."""
    if options.labels is not None or label_file_in(folder) is not None:
        return ()
    tables = sorted(
        display_path(name)
        for name in os.listdir(folder)
        if name.lower().endswith(LABEL_FILE_SUFFIXES) and not name.startswith(".")
    )
    if not tables:
        return ()
    return (
        f"{display_path(folder)}: {some_of(tables, 3)} {'is' if len(tables) == 1 else 'are'} not "
        "read; labels are read from a table that --labels names",
    )


def _descend(
    folder: str, name: str, found: Findings, options: ImageOptions, note: str
) -> ImageList:
    """The images of one folder in a folder, and what was decided."""
    start = f"{name}/"
    below = Findings(
        [path.removeprefix(start) for path in found.images if path.startswith(start)],
        {p.removeprefix(start): why for p, why in found.problems.items() if p.startswith(start)},
        found.others,
    )
    listed = _open_image_files(os.path.join(folder, name), below, options)
    return replace(listed, notices=(f"{display_path(folder)}: {note}", *listed.notices))


def _choose_split(folder: str, given: str | None, splits: Sequence[str]) -> str:
    """The split given, or the only one; UsageError otherwise."""
    if given is not None and given in splits:
        return given
    if given is None and len(splits) == 1:
        return splits[0]
    seen = f"no split {given!r}, only" if given is not None else "the splits"
    raise UsageError(
        f"{display_path(folder)} has {seen} {', '.join(splits)}",
        "one split, whose folders are the classes",
        f"Give {os.path.join(folder, splits[0])}, or {folder}:{splits[0]}",
    )


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
