"""What the report's page shows, as JSON-like values: facts, images, issues, copies, score spreads.

Texts are given as they are; the page never runs them. Captions are also given without their
template, and those of an image that say the same together.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ...indexer import (
    Texts,
    UnreadableImage,
    arrow_texts,
    categories,
    describe_model,
    distinct_texts,
    joined,
    numbers_of,
)
from ...safe_text import GUARD_PATTERN, GUARDED_PATTERN, counted, terminal_text, text_cell
from ..folder import COPIES, ISSUES, RunFolder
from ..issues import ANY_CLASS, KINDS, LOOK_ALIKE
from ..review.photographs import (
    AGAINST,
    NO_FILE,
    Photographs,
    Wanted,
    audited_embeddings,
    other_photographs,
    photograph_file,
    run_photographs,
)
from .groups_and_map import Grouping, map_points, pulls_of
from .neighbours import AUDITED, REFERENCE, Nearest, Neighbour, reference_neighbours
from .thumbnails import LARGE, SMALL, PictureShelf

FAILURES_SHOWN, COPIES_SHOWN, LOOK_ALIKES_SHOWN = 2000, 500, 100
LONGEST_CAPTION = 2000
"""Characters; the rest of a longer caption stays in `scores.parquet`."""
OPTIONAL = ("q", "margin", "cosine_margin", "label_quality", "predicted_label", "is_label_issue")
"""Columns that only some runs have, passed on under their own names."""
TERMS = ("ics", "ets", "given_ics", "given_ets")


@dataclass
class PageTexts:
    """Texts that many images share, each written once and referred to by number."""

    numbers: dict[str, int]

    def add(self, text: str | None) -> int | None:
        """The number of a text, None for none."""
        return None if text is None else self.numbers.setdefault(text, len(self.numbers))


def page_data(
    run: RunFolder, grouping: Grouping, most: int, shelf: PictureShelf, page: Path | None = None
) -> dict[str, Any]:
    """Everything on the page of a run, `most` of its images one by one.

    Those are the worst of each kind of issue and the most anomalous ones, in order of rank. Their
    pictures go onto the `shelf` and are named by their numbers there, before those of their
    neighbours in the reference. `page` is where the page will be, for links to the files.
    """
    table = run.columns(["row", "score", "rank", "label", "nearest_class", "margin"])
    issues, copies = _issues(run), run.found(COPIES) or []
    rows = table["row"].to_numpy()
    shown = choose_images(rows, table["rank"].to_numpy(), issues, copies, most)
    classes, captions = PageTexts({}), PageTexts({})
    stored = run.images(shown)
    images = [_image(image, captions, classes) for image in stored]
    _add_hashes(images, run, rows, shown)
    own = [image["label"] or image["nearest_class"] for image in stored]
    other = [_looks_like(image) for image in stored]
    wrong = [issue["row"] for issue in issues]
    neighbours = reference_neighbours(run, shown, own, other, wrong)
    groups, alike = copy_groups(copies)
    where = _fill(shelf, run, images, neighbours, [*groups, *alike])
    links = _Links(where, None if page is None else page.resolve().parent)
    for image, near, raw in zip(images, neighbours, stored, strict=True):
        image["picture"] = shelf.number(AUDITED, image["row"])
        if image["picture"] is None:
            image["no_picture"] = shelf.reason(AUDITED, image["row"])
        image["file"] = links.to(AUDITED, raw["path"])
        for name in ("any", "own", "other"):
            found = getattr(near, name)
            image[name] = [_neighbour(each, classes, shelf, links) for each in found]
    sizes = _sizes(run, copies)
    places = {image["row"]: place for place, image in enumerate(images)}
    for issue in issues:
        if issue["row"] in places:
            told = [issue[name] for name in ("kind", "evidence", "suggestion")]
            severity = _short(issue["severity"])
            images[places[issue["row"]]]["issues"].append([*map(terminal_text, told), severity])
    for image in images:  # the table's own spelling is not for showing
        path = image["path"]
        image["path"] = terminal_text(path)
        if text_cell(path) != image["path"]:
            image["cell"] = text_cell(path)
    flagged, failures = run.flagged(), run.failures()
    kinds = [issue["kind"] for issue in issues]
    asked = run.facts.get("request", {}).get("question") or "stray"
    return {
        "title": terminal_text("/".join(Path(run.source).parts[-2:]) or run.source),
        "counts": {
            **run.facts["images"],
            "flagged": None if flagged is None else int(flagged.sum()),
        },
        "issues": {
            kind: [
                kinds.count(kind),
                len({issue["row"] for issue in issues if issue["kind"] == kind}),
            ]
            for kind in KINDS
            if kind in kinds or (kind == "stray" and kind in asked)
        },
        "with_issues": len({issue["row"] for issue in issues}),
        "by_labels": run.ranked_by_labels,
        "weight": float(run.facts["settings"]["weight"]),
        "score": str(run.facts["settings"].get("score", "bliss")),
        "facts": facts_of(run),
        "spread": _spread(table, flagged, run),
        "images": images,
        "groups": _groups(grouping, images, captions),
        "grouped": grouping.of,
        "any_class": ANY_CLASS,
        "copies": [_copies(group, places, shelf, links, sizes) for group in groups],
        "alike": [_copies(pair, places, shelf, links, sizes) for pair in alike],
        "map": map_points(run, shown, classes.add),
        "classes": list(classes.numbers),
        "cells": [text_cell(name) for name in classes.numbers],
        "guard": [GUARD_PATTERN, GUARDED_PATTERN],
        "captions": [_cut(text) for text in captions.numbers],
        "plain": [_cut(plain_caption(text)) for text in captions.numbers],
        "failures": [
            [f.row, terminal_text(f.path), terminal_text(f.reason)]
            for f in failures[:FAILURES_SHOWN]
        ],
        "left_out": {
            "images": len(rows) - len(images),
            "failures": max(0, len(failures) - FAILURES_SHOWN),
            "pictures": shelf.left_out,
            "embeddings": audited_embeddings(run) is None,
            "copies": len({copy["group"] for copy in copies if copy["kind"] != LOOK_ALIKE})
            - len(groups),
        },
    }


def _issues(run: RunFolder) -> list[dict[str, Any]]:
    """The issues of a run; of one that listed none, what it flagged and whose label it doubts."""
    found = run.found(ISSUES)
    if found is not None:
        return found
    table = run.columns(["row", "rank", "flagged", "is_label_issue"])
    severity = (100 * (len(table) + 1 - table["rank"].to_numpy()) / len(table)).tolist()
    kinds = {"is_label_issue": "label"}
    if not run.ranked_by_labels:
        kinds["flagged"] = "stray"
    return [
        {"row": row, "kind": kind, "evidence": f"this run lists it as {kind}",
         "suggestion": "look at it", "severity": value}
        for column, kind in kinds.items() if column in table.column_names
        for row, yes, value in zip(
            table["row"].to_pylist(), table[column].to_pylist(), severity, strict=True
        ) if yes
    ]  # fmt: skip


def choose_images(
    rows: np.ndarray,
    rank: np.ndarray,
    issues: Sequence[Mapping[str, Any]],
    copies: Sequence[Mapping[str, Any]],
    most: int,
) -> np.ndarray:
    """int64 positions of at most `most` images to show, by rank.

    The lists by rank, by severity of each kind of issue and of groups of copies are read in turns.
    """
    place = {row: i for i, row in enumerate(rows.tolist())}
    turn = rank.astype(np.int64)
    lists = [
        [i["row"] for i in sorted(issues, key=lambda i: -i["severity"]) if i["kind"] == kind]
        for kind in KINDS
    ]
    lists.append([c["row"] for c in copies if c["kind"] != LOOK_ALIKE and not c["other"]])
    for listed in lists:
        for number, row in enumerate(dict.fromkeys(listed), 1):
            turn[place[row]] = min(turn[place[row]], number)
    chosen = np.lexsort((rank, turn))[:most]
    return chosen[np.argsort(rank[chosen], kind="stable")]


def _image(image: Mapping[str, Any], captions: PageTexts, classes: PageTexts) -> dict[str, Any]:
    """One image; its captions by their pull, those that say the same together."""
    pulls = sorted(
        zip(image["captions"], pulls_of(image), image["z"], image["similarity"], strict=True),
        key=lambda pull: -pull[1],
    )
    given = {
        name: classes.add(image[name]) if name == "predicted_label" else _short(image[name])
        for name in OPTIONAL
        if image.get(name) is not None
    }
    return {
        "row": image["row"],
        "rank": image["rank"],
        "first": image.get("read_first", image["rank"]),
        "path": image["path"],
        "label": classes.add(image["label"]),
        "nearest": classes.add(image["nearest_class"]),
        "score": _short(image["score"]),
        "terms": [_short(image.get(name)) for name in TERMS],
        "p": _short(image.get("p")),
        "flagged": bool(image.get("flagged")),
        "captions": [[captions.add(each[0]), *map(_short, each[1:])] for each in pulls],
        "reasons": merged([each[0] for each in pulls]),
        "issues": [],
        "best": [
            [classes.add(name), _short(score)]
            for name, score in zip(image["best_classes"], image["best_scores"], strict=True)
        ],
        **given,
    }


def _looks_like(image: Mapping[str, Any]) -> str | None:
    """The class that an image looks like, where that is not the one it is filed under."""
    label = image["label"]
    better = image.get("predicted_label") if image.get("is_label_issue") else None
    better = better or image["nearest_class"]
    return None if label is None or better == label else better


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
    neighbours: Sequence[Nearest],
    groups: Sequence[Sequence[Mapping[str, Any]]],
) -> dict[str, Photographs]:
    """Put every picture onto the shelf, the images' first; where the collections are."""
    for image in images:
        content = image.get("sha256")
        known = None if content is None or content.startswith(NO_FILE) else content
        shelf.request(AUDITED, Wanted(image["row"], image["path"], known), LARGE)
    for near in neighbours:
        for found in (*near.own[:1], *near.any, *near.other, *near.own):
            shelf.request(found.collection, found.image, SMALL)
    for copy in (copy for group in groups for copy in group):
        collection = AGAINST if copy["other"] else AUDITED
        shelf.request(collection, Wanted(copy["row"], copy["image"]), LARGE)
    used = {collection for collection, _ in shelf.requested}
    collections = {AUDITED: run_photographs(run)}
    for name in (REFERENCE, AGAINST):
        if name in used:
            collections[name] = other_photographs(run, name)
    shelf.fill(collections)
    return collections


@dataclass(frozen=True)
class _Links:
    """Addresses of image files relative to the page; none for collections that are no folder."""

    collections: Mapping[str, Photographs]
    page: Path | None
    known: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def to(self, collection: str, path: str) -> str | None:
        """Percent-encoded, beginning with a dot, so that no name is read as a scheme or host.

        None for a file that is not there.
        """
        if (collection, path) not in self.known:
            self.known[collection, path] = self._made(collection, path)
        return self.known[collection, path]

    def _made(self, collection: str, path: str) -> str | None:
        where = self.collections.get(collection)
        if where is None or where.folder is None or self.page is None:
            return None
        try:
            escaped = "\\" in path  # stands for bytes, which `photograph_file` tries
            if not escaped and not os.path.lexists(os.path.join(where.folder, path)):
                return None
            file = photograph_file(where.folder, path, where.follow_links)
            relative = os.path.relpath(os.path.realpath(where.folder), self.page)
        except (UnreadableImage, OSError, ValueError):
            return None
        inside = os.path.relpath(file, where.folder)
        parts = os.fsencode(os.path.join(relative, inside)).split(os.fsencode(os.sep))
        return "./" + "/".join(quote(part, safe="") for part in parts)


def _neighbour(
    found: Neighbour, classes: PageTexts, shelf: PictureShelf, links: _Links
) -> list[Any]:
    """[picture, class, path, cosine, row among the audited images, file]"""
    picture = shelf.number(found.collection, found.image.row)
    path, row = found.image.path, found.image.row if found.collection == AUDITED else None
    file = links.to(found.collection, path)
    shown = [picture, classes.add(found.label), terminal_text(path), _short(found.similarity)]
    return [*shown, row, file]


Group = Sequence[Mapping[str, Any]]


def copy_groups(copies: Group) -> tuple[list[Group], list[Group]]:
    """Groups of copies, leaks first, at most COPIES_SHOWN, and at most LOOK_ALIKES_SHOWN pairs of
    look-alikes."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for copy in copies:
        groups.setdefault(copy["group"], []).append(copy)
    same: list[Group] = [group for group in groups.values() if group[0]["kind"] != LOOK_ALIKE]
    alike: list[Group] = [group for group in groups.values() if group[0]["kind"] == LOOK_ALIKE]
    same.sort(key=lambda group: (not group[0]["leak"], -len(group)))
    return same[:COPIES_SHOWN], alike[:LOOK_ALIKES_SHOWN]


def _copies(
    group: Group,
    places: Mapping[int, int],
    shelf: PictureShelf,
    links: _Links,
    sizes: Mapping[int, list[int]],
) -> list[dict[str, Any]]:
    """The images of one group: each with its place among the shown images, if it is one."""
    return [
        {
            "at": None if copy["other"] else places.get(copy["row"]),
            "picture": shelf.number(AGAINST if copy["other"] else AUDITED, copy["row"]),
            "path": terminal_text(copy["image"]),
            "label": None if copy["label"] is None else terminal_text(copy["label"]),
            "file": links.to(AGAINST if copy["other"] else AUDITED, copy["image"]),
            "kind": copy["kind"],
            "cosine": _short(copy["similarity"]),
            "correlation": _short(copy["correlation"]),
            "mirrored": bool(copy["mirrored"]),
            "split": terminal_text(copy.get("split") or ""),
            "size": None if copy["other"] else sizes.get(copy["row"]),
            **{name: bool(copy[name]) for name in ("keep", "leak", "other")},
        }
        for copy in group
    ]


def _sizes(run: RunFolder, copies: Group) -> dict[int, list[int]]:
    """[width, height] of the images of every group of copies, by row, where they were measured."""
    stored, known = audited_embeddings(run), {}
    wanted = sorted({copy["row"] for copy in copies if not copy["other"]})
    if stored is not None and wanted:
        places = stored.places(run.rows)[np.searchsorted(run.rows, wanted)]
        width, height = (stored.column(name, places) for name in ("width", "height"))
        for row, *size in zip(wanted, width, height, strict=True):
            if None not in size:
                known[row] = [int(str(side).split(".")[0]) for side in size]
    return known


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


def _spread(table: Any, flagged: np.ndarray | None, run: RunFolder) -> dict[str, Any]:
    """Histograms of all images and of each class, by the class they are filed under.

    They are of what ranked the images, and so is the threshold: scores, or margins of labels.
    """
    by_margin = run.ranked_by_labels and "margin" in table.column_names
    column = "margin" if by_margin else "score"
    if by_margin:
        known = table[column].is_valid()
        table = table.filter(known)
        flagged = None if flagged is None else flagged[known.to_numpy()]
    scores = table[column].to_numpy()
    filed = table["label"].null_count < len(table)
    names = arrow_texts(table["label" if filed else "nearest_class"])
    classes = categories(joined(list(names)))
    marked = np.zeros(len(scores), bool) if flagged is None else flagged
    edges = bin_edges(scores)
    threshold = (run.facts.get("decision") or {}).get("threshold")
    if threshold is None and marked.any():
        threshold = float(scores[marked].min())
    return {
        "of": "Label margins" if by_margin else "Scores",
        "edges": [_short(edge) for edge in edges],
        "threshold": _short(threshold),
        "by": "filed under" if filed else "nearest class",
        "rows": [
            _spread_of(name, scores[some], marked[some], edges)
            for name, some in ((None, np.arange(len(scores))), *_members(classes))
        ],
    }


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


def bin_edges(scores: np.ndarray) -> np.ndarray:
    """float64 [BINS + 1], equal steps from near the lowest score to the highest."""
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return np.linspace(0, 1, BINS + 1)
    low, high = float(np.quantile(finite, LOWEST)), float(finite.max())
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _spread_of(
    name: str | None, scores: np.ndarray, flagged: np.ndarray, edges: np.ndarray
) -> dict[str, Any]:
    """The scores of a class, or of all images; those beyond the edges count in the outer bins."""
    inside = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, BINS - 1)
    quartiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return {
        "name": name,
        "images": len(scores),
        "flagged": int(flagged.sum()),
        "bins": np.bincount(inside, minlength=BINS).tolist(),
        "quartiles": [_short(value) for value in quartiles],
    }


def _members(classes: Texts[str | None]) -> Iterator[tuple[str | None, np.ndarray]]:
    """Each class and the positions of its images, by name, images without a class last."""
    names = distinct_texts(classes)
    of = numbers_of(classes, names)
    of[of < 0] = len(names)
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(len(names) + 2))
    for number, name in enumerate([*names, None]):
        members = order[ends[number] : ends[number + 1]]
        if len(members):
            yield name, members


TEMPLATE = re.compile(
    r"""^\s*
    (?:(?:this|that|it|there|here)\s+(?:is|are)\s+|here\s+you\s+can\s+see\s+|look\s+at\s+
       |somebody\s+drew\s+|itap\s+of\s+)?
    (?:(?:(?:an?|the|one|my|some)\s+)?(?:[a-z-]+\s+){0,2}?
       (?:photo|photograph|picture|image|drawing|sketch|painting|rendering|rendition|render|snapshot
         |close-up|closeup|illustration|icon|art)s?
       \s+(?:of|showing|with|depicting)\s+)?
    (?:(?:an?|the|my|one|many)\s+)?""",
    re.IGNORECASE | re.VERBOSE,
)
EMPTY = frozenset(
    "a an and are at before by for from front here image in is it look of on one over photo "
    "picture showing side single some that the there this three to two under with you".split()
)
"""Words that do not tell one caption from another."""
SAME = 0.5
"""Captions say the same if they share at least this share of the words of both."""


def plain_caption(text: str) -> str:
    """A caption without its template: "a photo of a bow_tie." gives "bow tie"."""
    plain = TEMPLATE.sub("", text, count=1).replace("_", " ").strip()
    plain = re.sub(r"(?<=\w)\.$", "", plain)
    return plain or text


def merged(captions: Sequence[str]) -> list[list[int]]:
    """Positions of captions that say the same, together; each list begins with the first of them.

    A caption joins the first list whose first caption shares enough of its words.
    """
    lists: list[list[int]] = []
    words: list[frozenset[str]] = []
    for place, caption in enumerate(captions):
        mine = _words(caption)
        for found, theirs in zip(lists, words, strict=True):
            if len(mine & theirs) >= SAME * len(mine | theirs):
                found.append(place)
                break
        else:
            lists.append([place])
            words.append(mine)
    return lists


@lru_cache(4096)
def _words(caption: str) -> frozenset[str]:
    found = re.findall(r"\w+", plain_caption(caption).casefold())
    kept = [_singular(word) for word in found if word not in EMPTY]
    return frozenset(kept or found or [caption])


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
