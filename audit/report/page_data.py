"""What the report's page shows, as JSON-like values: facts, images, groups, score spreads.

Texts are given as they are; the page never runs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...indexer import (
    Texts,
    arrow_texts,
    categories,
    describe_model,
    distinct_texts,
    joined,
    numbers_of,
)
from ...safe_text import GUARD_PATTERN, GUARDED_PATTERN, counted, terminal_text, text_cell
from ..folder import RunFolder
from ..review.photographs import (
    NO_FILE,
    Wanted,
    audited_embeddings,
    reference_photographs,
    run_photographs,
)
from .grouping import Grouping
from .neighbours import AUDITED, REFERENCE, Neighbour, reference_neighbours
from .thumbnails import LARGE, SMALL, PictureShelf

FAILURES_SHOWN = 2000
LONGEST_CAPTION = 2000
"""Characters; the rest of a longer caption stays in `scores.parquet`."""
OPTIONAL = ("q", "margin", "cosine_margin", "label_quality", "predicted_label", "is_label_issue")
"""Columns that only some runs have, passed on under their own names."""


@dataclass
class PageTexts:
    """Texts that many images share, each written once and referred to by number."""

    numbers: dict[str, int]

    def add(self, text: str | None) -> int | None:
        """The number of a text, None for none."""
        return None if text is None else self.numbers.setdefault(text, len(self.numbers))


def page_data(
    run: RunFolder,
    grouping: Grouping,
    most: int,
    shelf: PictureShelf,
    maps: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Everything on the page of a run, its `most` most anomalous images one by one.

    `maps` are those of `map_run`, by source row.

    The pictures go onto the `shelf` and are named by their numbers there: first those of the
    images, then those of their neighbours in the reference.
    """
    table = run.columns(["row", "score", "rank", "label", "nearest_class", "flagged"])
    rank = table["rank"].to_numpy()
    shown = np.argsort(rank, kind="stable")[:most]
    classes, captions = PageTexts({}), PageTexts({})
    images = [_image(image, run, captions, classes) for image in run.images(shown)]
    _add_hashes(images, run, table["row"].to_numpy(), shown)
    neighbours = reference_neighbours(run, shown)
    _fill(shelf, run, images, neighbours)
    for image, near in zip(images, neighbours, strict=True):
        image["picture"] = shelf.number(AUDITED, image["row"])
        if image["picture"] is None:
            image["no_picture"] = shelf.reason(AUDITED, image["row"])
        image["near"] = [_neighbour(found, classes, shelf) for found in near]
        if image["row"] in maps:
            image["map"] = maps[image["row"]]
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
    image: Mapping[str, Any], run: RunFolder, captions: PageTexts, classes: PageTexts
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
        shelf.request(AUDITED, Wanted(image["row"], image["path"], known), LARGE)
    collections = {AUDITED: run_photographs(run)}
    for found in (each for near in neighbours for each in near):
        shelf.request(found.collection, found.image, SMALL)
        if found.collection == REFERENCE and REFERENCE not in collections:
            collections[REFERENCE] = reference_photographs(run)
    shelf.fill(collections)


def _neighbour(found: Neighbour, classes: PageTexts, shelf: PictureShelf) -> list[Any]:
    """[picture, class, path, cosine]"""
    picture = shelf.number(found.collection, found.image.row)
    path = terminal_text(found.image.path)
    return [picture, classes.add(found.label), path, _short(found.similarity)]


def _groups(
    grouping: Grouping, images: Sequence[dict[str, Any]], captions: PageTexts
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
    threshold = (facts.get("decision") or {}).get("threshold")
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


def facts_of(run: RunFolder) -> list[list[str]]:
    """[name, value] pairs: collection, model, captions, reference, score, decision."""
    facts = run.facts
    settings, index = facts["settings"], facts["index"]
    sources = index["sources"]
    lines = [["Collection", run.source], ["Model", describe_model(facts["model"])]]
    names = ", ".join(str(source["name"]) for source in sources)
    lines.append(["Captions", f"{index['count']:,} from {names}"])
    for member in index.get("indexes") or ():
        held = ", ".join(str(source["name"]) for source in member["sources"])
        lines.append([f"Captions in {member['folder']}", f"{member['count']:,} from {held}"])
    hidden = index.get("hidden")
    if hidden:
        lines.append(
            [
                "Hidden captions",
                f"{hidden['count']:,}: {hidden['near_labels']:,} near a label's prompt, "
                f"{hidden['label_words']:,} with a label's words",
            ]
        )
    licences = {str(source["name"]): source.get("licence") for source in sources}
    if any(licences.values()):
        known = "; ".join(f"{name}: {licence or 'not known'}" for name, licence in licences.items())
        lines.append(["Licence of the captions", known])
    given = facts.get("request", {}).get("reference")
    counts = facts["reference"]["images"]
    classes = counted(len(counts), "class", "classes")
    size = f"{counted(sum(counts), 'image')} in {classes}"
    own = "the collection itself, each image left out of its own class"
    lines.append(["Reference", f"{given or own}; {size}"])
    if facts["reference"]["calibration_images"]:
        lines.append(
            ["Calibration", counted(facts["reference"]["calibration_images"], "clean image")]
        )
    name = settings.get("score", "bliss")
    lines.append(["Score", f"{name}, k = {settings['k']}, λ = {settings['weight']:g}"])
    for block in ("decision", "robust"):
        lines += _lines(block, facts.get(block))
    lines.append(["Made with", f"bliss-audit {facts['libraries']['bliss-audit']}"])
    return lines


def _lines(block: str, values: Any) -> list[list[str]]:
    """The plain values of one optional block of `run.json`."""
    if not isinstance(values, Mapping):
        return []
    return [
        [f"{block.capitalize()}: {name.replace('_', ' ')}", _text(value)]
        for name, value in values.items()
        if isinstance(value, str | int | float)
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


BINS = 48
LOWEST = 0.005
"""The share of lowest scores that the first bin takes in, so that they do not stretch the rest."""


@dataclass(frozen=True)
class Spread:
    """The scores of one class, or of all images."""

    name: str | None
    """The class, None for images without one."""
    images: int
    flagged: int
    bins: np.ndarray
    """int64 [BINS], images in each bin."""
    quartiles: tuple[float, float, float, float, float]
    """Least, lower quartile, median, upper quartile, greatest."""


def bin_edges(scores: np.ndarray) -> np.ndarray:
    """float64 [BINS + 1], equal steps from near the lowest score to the highest."""
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return np.linspace(0, 1, BINS + 1)
    low, high = float(np.quantile(finite, LOWEST)), float(finite.max())
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def spread_of(
    name: str | None, scores: np.ndarray, flagged: np.ndarray, edges: np.ndarray
) -> Spread:
    """The spread of the scores float64 [m]; `flagged` bool [m]; scores beyond the edges count in
    the first or last bin."""
    inside = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, BINS - 1)
    least, lower, median, upper, greatest = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return Spread(
        name,
        len(scores),
        int(flagged.sum()),
        np.bincount(inside, minlength=BINS),
        (least, lower, median, upper, greatest),
    )


def class_spreads(
    scores: np.ndarray, flagged: np.ndarray, classes: Texts[str | None], edges: np.ndarray
) -> list[Spread]:
    """The spread of every class, by name, images without a class last."""
    names = distinct_texts(classes)
    of = numbers_of(classes, {name: number for number, name in enumerate(names)})
    of[of < 0] = len(names)
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(len(names) + 2))
    return [
        spread_of(name, scores[members], flagged[members], edges)
        for number, name in enumerate([*names, None])
        if len(members := order[ends[number] : ends[number + 1]])
    ]
