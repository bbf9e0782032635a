"""Apply the decisions made on a report's page: write a cleaned list, or copy a cleaned collection.

Decisions are read from the csv file that the page saves and checked against the run. Originals are
only read.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...artefacts import sha256_of, temporary_folder, write_atomically
from ...corpora import ESCAPED_COLUMNS
from ...errors import BlissError, UsageError, unwritable
from ...indexer import UnreadableImage
from ...progress import Progress, no_progress
from ...safe_text import cell_text, counted, csv_text, is_plain, terminal_text, text_cell
from ..folder import RunFolder
from .photographs import (
    Photograph,
    Photographs,
    Wanted,
    audited_embeddings,
    image_suffix,
    photograph_file,
    read_photographs,
    wanted_images,
)


@dataclass(frozen=True)
class CleanedImage:
    """One image that stays."""

    row: int
    """Its source row."""
    path: str
    """As the run lists it."""
    label: str | None
    """Its label, the new one where it was relabelled."""
    old_label: str | None
    content: str | None
    """SHA-256 of its file, None where the run knows none."""


@dataclass(frozen=True)
class Cleaned:
    """The images that stay, in the collection's order, and how many decisions of each kind."""

    images: tuple[CleanedImage, ...]
    counts: Counter[str]
    failed: int
    """Images that the audit could not read: neither listed nor copied."""


def clean(run: RunFolder, decisions: Sequence[Decision]) -> Cleaned:
    """The collection of a run without removed images, relabelled ones under their new label.

    Images without a decision are kept.
    """
    labels = run.columns(["label"])["label"].to_pylist()
    made = {decision.row: decision for decision in decisions}
    images = []
    for (row, path, content), label in zip(wanted_images(run), labels, strict=True):
        decision = made.get(row)
        if decision is None or decision.decision != REMOVE:
            new = decision.label if decision is not None and decision.label else label
            images.append(CleanedImage(row, path, new, label, content))
    counts = Counter(decision.decision for decision in decisions)
    return Cleaned(tuple(images), counts, int(run.facts["images"]["failed"]))


def summary(cleaned: Cleaned) -> str:
    """A few lines on what the decisions change."""
    moved = Counter(
        (_shown(image.old_label), _shown(image.label))
        for image in cleaned.images
        if image.label != image.old_label
    )
    lines = [
        f"{cleaned.counts['keep']:,} decided to keep, {cleaned.counts[REMOVE]:,} to remove, "
        f"{cleaned.counts[RELABEL]:,} to relabel; "
        f"{counted(len(cleaned.images), 'image stays', 'images stay')}"
    ]
    lines += [f"  {count:,} from {old} to {new}" for (old, new), count in moved.most_common()]
    if cleaned.failed:
        files = counted(cleaned.failed, "unreadable file is", "unreadable files are")
        lines.append(f"{files} left out (failures.csv says why)")
    return "\n".join(lines)


def _shown(label: str | None) -> str:
    return "no label" if label is None else terminal_text(label)


def write_list(cleaned: Cleaned, output: str | Path) -> None:
    """Write `path,label` of every image that stays as a UTF-8 CSV file.

    UsageError where a file is there already, unless it is this list, which an earlier run wrote.

    Where a path or label would begin a formula or holds what a cell cannot, the columns are
    ESCAPED_COLUMNS and hold cells as `csv_cells` writes them; otherwise both are as they are.
    """
    output = Path(output)
    rows = [(image.path, image.label or "") for image in cleaned.images]
    plain = all(is_plain(text) for row in rows for text in row)
    text = io.StringIO()
    if plain:
        csv.writer(text, lineterminator="\n").writerows([("path", "label"), *rows])
    else:
        text.write(csv_text([ESCAPED_COLUMNS, *rows]))
    content = text.getvalue().encode("utf-8")
    if os.path.lexists(output):
        if output.is_file() and output.read_bytes() == content:
            return
        raise UsageError(f"{output} already exists", "a new file", "Choose another name")
    write_atomically(output, lambda file: file.write(content))


def copy_cleaned(
    cleaned: Cleaned, source: Photographs, target: str | Path, progress: Progress = no_progress
) -> int:
    """Copy what stays of the collection `source` into `target`, one folder a label.

    Images that are no files below a folder get their row for a name: `row-12.png`. `target` must
    be new or empty and outside the collection; it appears complete, by a rename, and may be this
    copy, which an earlier run finished. Returns how
    many files got another name because theirs was taken. Raises UsageError for an unsuitable
    target, BlissError for an image that is gone, has changed since the audit, or cannot be
    written; then nothing is left behind.
    """
    target = Path(target)
    _check_target(target, source.folder, len(cleaned.images))
    if source.folder is None:
        places, renamed = [_place_by_row(image) for image in cleaned.images], 0
    else:
        places, renamed = _places(cleaned, source)
    wanted = [Wanted(image.row, image.path, image.content) for image in cleaned.images]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent) as temporary:
            work = temporary / "copy"
            work.mkdir()
            for number, found in enumerate(read_photographs(source, wanted)):
                place = work.joinpath(*places[found.place])
                _write(cleaned.images[found.place], found, place, source.folder is None)
                progress("images copied", number + 1, len(places))
            if target.is_dir():
                if _contents(target) == _contents(work):
                    return renamed
                if any(target.iterdir()):
                    raise _not_empty(target)
                target.rmdir()
            os.replace(work, target)
    except OSError as error:
        raise unwritable(target, error, "nothing was left behind") from error
    return renamed


def _contents(folder: Path) -> dict[str, str]:
    """The files below a folder, and the checksum of each."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


def _not_empty(target: Path) -> UsageError:
    return UsageError(f"{target} is not empty", "a new or empty folder", "Choose another name")


def _check_target(target: Path, source: str | None, images: int) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(
            f"{target} is not a folder", "a new or empty folder", "Choose another name"
        )
    if target.is_dir() and any(target.iterdir()):
        # As many files as images may be the copy that an earlier run finished.
        there = sum(1 for path in islice(target.rglob("*"), 10 * images) if not path.is_dir())
        if there != images:
            raise _not_empty(target)
    inside = Path(os.path.realpath(target))
    if source is not None and inside.is_relative_to(os.path.realpath(source)):
        raise UsageError(
            f"{target} lies in the collection {source}",
            "a folder outside it, so that the copy is not audited as part of it",
            "Choose another folder",
        )


def _places(cleaned: Cleaned, source: Photographs) -> tuple[list[tuple[str, ...]], int]:
    """The place of each image below the target, distinct on every file system, and how many were
    renamed for that."""
    wanted = [_place(image, source) for image in cleaned.images]
    taken = {_folded(place[:depth]) for place in wanted for depth in range(1, len(place))}
    places = []
    for *folders, name in wanted:
        stem, suffix = os.path.splitext(name)
        place, number = (*folders, name), 1
        while _folded(place) in taken:
            number += 1
            place = (*folders, f"{stem}-{number}{suffix}")
        taken.add(_folded(place))
        places.append(place)
    return places, sum(place != want for place, want in zip(places, wanted, strict=True))


def _place(image: CleanedImage, source: Photographs) -> tuple[str, ...]:
    """Folder and file names: the label's folder, then what follows the old one's in the path."""
    try:
        assert source.folder is not None
        file = photograph_file(source.folder, image.path, source.follow_links)
        found = os.path.relpath(file, source.folder)
    except UnreadableImage as error:
        raise _not_copied(image, str(error)) from None
    parts = tuple(found.split(os.sep))
    in_folder = len(parts) > 1 and image.path.split("/")[0] == image.old_label
    if image.label is None or (in_folder and image.label == image.old_label):
        return parts
    return (_label_folder(image, image.label), *(parts[1:] if in_folder else parts))


def _place_by_row(image: CleanedImage) -> tuple[str, ...]:
    """The label's folder and a name, still without its suffix, that no other row has."""
    name = f"row-{image.row}"
    return (name,) if image.label is None else (_label_folder(image, image.label), name)


def _label_folder(image: CleanedImage, label: str) -> str:
    problem = label_problem(label)
    if problem:
        raise _not_copied(image, f"its label {label!r} {problem}")
    return label


def _folded(place: Sequence[str]) -> str:
    """A text that is equal for all names that some file system takes for the same."""
    return unicodedata.normalize("NFC", "/".join(place)).casefold()


def _write(image: CleanedImage, found: Photograph, place: Path, add_suffix: bool) -> None:
    if found.data is None:
        raise _not_copied(image, found.problem)
    if add_suffix:
        place = place.with_name(place.name + image_suffix(found.data))
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "xb") as file:
        file.write(found.data)


def _not_copied(image: CleanedImage, problem: str) -> BlissError:
    return BlissError(
        f"{image.path} cannot be copied: {problem}",
        "every image that stays, as it was audited and where the audit found it",
        "Run from the same folder as the audit, restore the file, or run the audit again; "
        "nothing was copied",
    )


COLUMNS = ("row", "path", "sha256", "decision", "new_label")
KEEP, REMOVE, RELABEL = "keep", "remove", "relabel"
LONGEST_LABEL = 200
"""Bytes of a new label in UTF-8; file systems end at 255."""


@dataclass(frozen=True)
class Decision:
    """What is to be done with one image."""

    row: int
    """Its source row."""
    decision: str
    """keep, remove or relabel."""
    label: str | None
    """The new label of a relabelled image, else None."""


def read_decisions(path: str | Path, run: RunFolder) -> list[Decision]:
    """The decisions in a file that the page wrote, in its order.

    Raises UsageError where it is no such file, BlissError naming the line where a row, path or
    hash is not the run's, a row comes twice, or a decision or label cannot be.
    """
    lines = _lines(Path(path))
    table = run.columns(["row", "path", "label", "nearest_class"])
    positions = {row: at for at, row in enumerate(table["row"].to_pylist())}
    paths = table["path"].to_pylist()
    known = {
        text_cell(name): name
        for column in ("label", "nearest_class")
        for name in table[column].unique().to_pylist()
        if name is not None
    }
    found: dict[int, Decision] = {}
    for number, line in lines:
        row = int(line["row"]) if line["row"].isdecimal() and len(line["row"]) < 19 else -1
        if row not in positions:
            raise _unfit(path, number, f"row {line['row']!r} is not in the run")
        if not _is_path(line["path"], paths[positions[row]]):
            raise _unfit(path, number, f"row {row} is another image in the run than {line['path']}")
        if row in found:
            raise _unfit(path, number, f"row {row} appears twice")
        if line["decision"] not in (KEEP, REMOVE, RELABEL):
            raise _unfit(path, number, f"{line['decision']!r} is not a decision")
        label = None
        if line["decision"] == RELABEL:
            label = known.get(line["new_label"]) or cell_text(line["new_label"])
            problem = label_problem(label)
            if problem:
                raise _unfit(path, number, f"the new label {label!r} {problem}")
        found[row] = Decision(row, line["decision"], label)
    _check_hashes(path, run, lines, [positions[row] for row in found])
    return list(found.values())


def label_problem(label: str) -> str | None:
    """Why a label cannot be the name of a class folder; None where it can."""
    if not label.strip() or label != label.strip():
        return "is empty or begins or ends with a space"
    if any(char in "/\\:" for char in label) or terminal_text(label) != label:
        return "holds a slash, backslash, colon or invisible character"
    if label.startswith(".") or label.endswith("."):
        return "begins or ends with a dot"
    if len(label.encode("utf-8", "replace")) > LONGEST_LABEL:
        return f"is longer than {LONGEST_LABEL} bytes"
    return None


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, cells) of each row of the file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} could not be read ({error})",
            "the decisions file that the report's page saves",
            "Check the path, or download it from the page again",
        ) from error
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise UsageError(
            f"{path} has no column {', '.join(missing)}",
            f"a file with the columns {', '.join(COLUMNS)}",
            "Download it from the page again, and save it as comma-separated text if you edit it",
        )
    for number, line in lines:
        if None in line or any(line[name] is None for name in COLUMNS):
            raise _unfit(path, number, "it has more or fewer cells than the header")
    return lines


def _is_path(cell: str, path: str) -> bool:
    """Whether a cell holds this path, as pages write it now or as version 0.1's first did."""
    return cell == text_cell(path) or cell.removeprefix("'") == terminal_text(path)


def _check_hashes(
    path: str | Path,
    run: RunFolder,
    lines: Sequence[tuple[int, dict[str, str]]],
    places: Sequence[int],
) -> None:
    stored = audited_embeddings(run)
    if stored is None or not places:
        return
    hashes = stored.hashes(stored.places(run.rows)[list(places)].tolist())
    for (number, line), content in zip(lines, hashes, strict=True):
        if line["sha256"] != content:
            raise _unfit(path, number, f"row {line['row']} had other content in the run")


def _unfit(path: str | Path, line: int, problem: str) -> BlissError:
    return BlissError(
        f"line {line} of {path} does not fit the run: {problem}",
        "the decisions made on this run's own report",
        "Give the run that the report was made of, or correct the line",
    )
