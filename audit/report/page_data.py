"""What the page shows, as JSON-like values; texts are as they come, the page never runs them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...csv_cells import GUARD_PATTERN, GUARDED_PATTERN, text_cell
from ...indexer.text_column import arrow_texts, categories, joined
from ...safe_text import terminal_text
from ..photographs import Wanted, reference_photographs, run_photographs
from ..run_folder import RunFolder
from ..stored_images import NO_FILE, audited_embeddings
from .distributions import bin_edges, class_spreads, spread_of
from .facts import facts_of
from .grouping import Grouping
from .neighbours import AUDITED, REFERENCE, Neighbour, reference_neighbours
from .thumbnails import LARGE, SMALL, PictureShelf

FAILURES_SHOWN = 2000
LONGEST_CAPTION = 2000
"""Characters; the rest of a longer caption stays in `scores.parquet`."""
OPTIONAL = ("q", "margin", "cosine_margin", "label_quality", "predicted_label", "is_label_issue")
"""Columns that some runs have, given to the page under their own names."""


@dataclass
class Texts:
    """Texts that many images share, each written once; the page knows them by number."""

    numbers: dict[str, int]

    def add(self, text: str | None) -> int | None:
        """The number of a text, None for none."""
        return None if text is None else self.numbers.setdefault(text, len(self.numbers))


def page_data(run: RunFolder, grouping: Grouping, most: int, shelf: PictureShelf) -> dict[str, Any]:
    """Everything on the page of a run, its `most` most anomalous images one by one.

    The pictures go onto the `shelf` and are named by their numbers there: first those of the
    images, then those of their neighbours in the reference.
    """
    table = run.columns(["row", "score", "rank", "label", "nearest_class", "flagged"])
    rank = table["rank"].to_numpy()
    shown = np.argsort(rank, kind="stable")[:most]
    classes, captions = Texts({}), Texts({})
    images = [_image(image, run, captions, classes) for image in run.images(shown)]
    _add_hashes(images, run, table["row"].to_numpy(), shown)
    neighbours = reference_neighbours(run, shown)
    _fill(shelf, run, images, neighbours)
    for image, near in zip(images, neighbours, strict=True):
        image["picture"] = shelf.number(AUDITED, image["row"])
        if image["picture"] is None:
            image["no_picture"] = shelf.reason(AUDITED, image["row"])
        image["near"] = [_neighbour(found, classes, shelf) for found in near]
    groups = _groups(grouping, images, captions)
    for image in images:  # the table's own spelling is not for showing
        path = image["path"]
        image["path"] = terminal_text(path)
        if text_cell(path) != image["path"]:
            image["cell"] = text_cell(path)
    flagged = _flagged(table)
    failures = run.failures()
    return {
        "title": terminal_text("/".join(Path(run.source).parts[-2:]) or run.source),
        "counts": {**run.facts["images"], "flagged": None if flagged is None else _sum(flagged)},
        "facts": facts_of(run),
        "spread": _spread(table, flagged, run.facts),
        "images": images,
        "groups": groups,
        "grouped": grouping.of,
        "classes": list(classes.numbers),
        "cells": [text_cell(name) for name in classes.numbers],
        "guard": [GUARD_PATTERN, GUARDED_PATTERN],
        "captions": [_cut(text) for text in captions.numbers],
        "failures": [
            [f.row, terminal_text(f.path), terminal_text(f.reason)]
            for f in failures[:FAILURES_SHOWN]
        ],
        "left_out": {
            "images": len(rank) - len(images),
            "failures": max(0, len(failures) - FAILURES_SHOWN),
            "pictures": shelf.left_out,
            "embeddings": audited_embeddings(run) is None,
        },
    }


def _image(
    image: Mapping[str, Any], run: RunFolder, captions: Texts, classes: Texts
) -> dict[str, Any]:
    """One image; every caption with what it adds to the score, λ·z/k, the largest first."""
    weight = float(run.facts["settings"]["weight"])
    k = max(1, len(image["captions"]))
    pulls = [
        [captions.add(text), _short(weight * z / k), _short(z), _short(similarity)]
        for text, z, similarity in zip(
            image["captions"], image["z"], image["similarity"], strict=True
        )
    ]
    given = {
        name: classes.add(image[name]) if name == "predicted_label" else _short(image[name])
        for name in OPTIONAL
        if image.get(name) is not None
    }
    return {
        "row": image["row"],
        "rank": image["rank"],
        "path": image["path"],
        "label": classes.add(image["label"]),
        "nearest": classes.add(image["nearest_class"]),
        "score": _short(image["score"]),
        "ics": _short(image["ics"]),
        "p": _short(image.get("p")),
        "flagged": bool(image.get("flagged")),
        "captions": sorted(pulls, key=lambda pull: -(pull[1] or 0)),
        "best": [
            [classes.add(name), _short(score)]
            for name, score in zip(image["best_classes"], image["best_scores"], strict=True)
        ],
        **given,
    }


def _add_hashes(
    images: Sequence[dict[str, Any]], run: RunFolder, rows: np.ndarray, shown: np.ndarray
) -> None:
    stored = audited_embeddings(run)
    if stored is None:
        return
    hashes = stored.hashes(stored.places(rows)[shown].tolist())
    for image, content in zip(images, hashes, strict=True):
        image["sha256"] = content


def _fill(
    shelf: PictureShelf,
    run: RunFolder,
    images: Sequence[Mapping[str, Any]],
    neighbours: Sequence[Sequence[Neighbour]],
) -> None:
    """Put every picture onto the shelf, the images' before their neighbours'."""
    for image in images:
        content = image.get("sha256")
        known = None if content is None or content.startswith(NO_FILE) else content
        shelf.ask(AUDITED, Wanted(image["row"], image["path"], known), LARGE)
    collections = {AUDITED: run_photographs(run)}
    for found in (each for near in neighbours for each in near):
        shelf.ask(found.collection, found.image, SMALL)
        if found.collection == REFERENCE and REFERENCE not in collections:
            collections[REFERENCE] = reference_photographs(run)
    shelf.fill(collections)


def _neighbour(found: Neighbour, classes: Texts, shelf: PictureShelf) -> list[Any]:
    """[picture, class, path, cosine]"""
    picture = shelf.number(found.collection, found.image.row)
    path = terminal_text(found.image.path)
    return [picture, classes.add(found.label), path, _short(found.similarity)]


def _groups(
    grouping: Grouping, images: Sequence[dict[str, Any]], captions: Texts
) -> list[dict[str, Any]]:
    """The groups; images that are shown get their group's number."""
    places = {image["row"]: place for place, image in enumerate(images)}
    groups = []
    for number, group in enumerate(grouping.groups):
        for row in group.rows:
            if row in places:
                images[places[row]]["group"] = number
        groups.append(
            {
                "captions": [captions.add(caption) for caption in group.captions],
                "size": len(group.rows),
                "shown": sum(row in places for row in group.rows),
                "examples": [places[row] for row in group.representatives if row in places],
            }
        )
    return groups


def _spread(table: Any, flagged: np.ndarray | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Histograms of all images and of each class, by the class they are filed under."""
    scores = table["score"].to_numpy()
    filed = table["label"].null_count < len(table)
    names = arrow_texts(table["label" if filed else "nearest_class"])
    classes = categories(joined(list(names)))
    marked = np.zeros(len(scores), bool) if flagged is None else flagged
    edges = bin_edges(scores)
    each = [spread_of(None, scores, marked, edges), *class_spreads(scores, marked, classes, edges)]
    threshold = facts.get("decision", {}).get("threshold")
    if threshold is None and marked.any():
        threshold = float(scores[marked].min())
    return {
        "edges": [_short(edge) for edge in edges],
        "threshold": _short(threshold),
        "by": "filed under" if filed else "nearest class",
        "rows": [
            {
                "name": spread.name,
                "images": spread.images,
                "flagged": spread.flagged,
                "bins": spread.bins.tolist(),
                "quartiles": [_short(value) for value in spread.quartiles],
            }
            for spread in each
        ],
    }


def _flagged(table: Any) -> np.ndarray | None:
    if "flagged" not in table.column_names:
        return None
    return table["flagged"].to_numpy(zero_copy_only=False).astype(bool)


def _sum(flagged: np.ndarray) -> int:
    return int(flagged.sum())


def _cut(caption: str) -> str:
    if len(caption) <= LONGEST_CAPTION:
        return caption
    return f"{caption[:LONGEST_CAPTION]}… ({len(caption):,} characters)"


def _short(value: Any) -> Any:
    """A number to five digits, None where it is none; anything else as it is."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
