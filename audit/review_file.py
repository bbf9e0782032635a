"""The decisions a person made on the page: read from their CSV file, checked against the run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..csv_cells import cell_text, text_cell
from ..errors import BlissError, UsageError
from ..safe_text import terminal_text
from .run_folder import RunFolder
from .stored_images import audited_embeddings

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
            raise _unfit(path, number, f"row {row} comes twice")
        if line["decision"] not in (KEEP, REMOVE, RELABEL):
            raise _unfit(path, number, f"{line['decision']!r} is no decision")
        label = None
        if line["decision"] == RELABEL:
            label = _label(line["new_label"], known)
            problem = label_problem(label)
            if problem:
                raise _unfit(path, number, f"the new label {label!r} {problem}")
        found[row] = Decision(row, line["decision"], label)
    _check_hashes(path, run, lines, [positions[row] for row in found])
    return list(found.values())


def label_problem(label: str) -> str | None:
    """Why a label cannot be the name of a class folder, or None where it can."""
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


def _label(cell: str, known: dict[str, str]) -> str:
    """The label a cell stands for: a class of the run, or a typed one without its apostrophe."""
    return known[cell] if cell in known else cell_text(cell)


def _check_hashes(
    path: str | Path,
    run: RunFolder,
    lines: Sequence[tuple[int, dict[str, str]]],
    places: Sequence[int],
) -> None:
    stored = audited_embeddings(run)
    if stored is None or not places:
        return
    rows = run.columns(["row"])["row"].to_numpy()
    hashes = stored.hashes(stored.places(rows)[list(places)].tolist())
    for (number, line), content in zip(lines, hashes, strict=True):
        if line["sha256"] != content:
            raise _unfit(path, number, f"row {line['row']} had other content in the run")


def _unfit(path: str | Path, line: int, problem: str) -> BlissError:
    return BlissError(
        f"line {line} of {path} does not fit the run: {problem}",
        "the decisions made on this run's own report",
        "Give the run that the report was made of, or correct the line",
    )
