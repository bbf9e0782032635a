"""Where the images of a run are among each other, by embedding: groups with a name, and the map.

The flagged, or else most unusual, images make the groups, each named by captions. A caption's pull
on a group is the mean, over the group's images, of its positive pull (z) where an image retrieved
it. Captions are ordered by that mean times the share of all the caption's pull that falls on the
group, so that a caption common to several groups names none of them.

The map places each image in a plane, by UMAP or on two principal components.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...artefacts import FORMAT_VERSION, write_json
from ...scorer import MOST_IMAGES, group_images
from ..folder import SCORES, RunFolder
from ..review.photographs import audited_embeddings

GROUPS = "groups.json"
CAPTIONS_KEPT, REPRESENTATIVES = 5, 6
SHARE, MOST_UNFLAGGED = 0.1, 100
"""Where nothing is flagged, this share of the images is grouped, and never more than that many."""


@dataclass(frozen=True)
class Group:
    """Images that are alike."""

    captions: tuple[str, ...]
    """Those that name it, the best first; at most CAPTIONS_KEPT."""
    rows: tuple[int, ...]
    """Source rows of its images, the most anomalous first."""
    representatives: tuple[int, ...]
    """Source rows of those nearest to its middle; at most REPRESENTATIVES."""


@dataclass(frozen=True)
class Grouping:
    """The groups of a run, largest first, and which images were grouped."""

    groups: tuple[Group, ...]
    of: str
    """"flagged images", or "most unusual images" where none was flagged."""


def group_run(run: RunFolder) -> Grouping:
    """Group the flagged images of a run, else its most anomalous ones; at most MOST_IMAGES.

    No groups where the run's embeddings are not at hand, or labels ranked the images.
    """
    positions, of = images_to_group(run)
    stored = audited_embeddings(run)
    if stored is None or not len(positions) or run.ranked_by_labels:
        return Grouping((), of)
    rows = run.rows
    vectors = stored.vectors[stored.places(rows)[positions]]
    labels = group_images(vectors, stored.mean())
    images = run.images(positions)
    names = name_groups(
        [dict(zip(image["captions"], pulls_of(image), strict=True)) for image in images], labels
    )
    groups = []
    for number, captions in enumerate(names):
        members = np.flatnonzero(labels == number)
        middle = vectors[members].mean(axis=0)
        nearest = members[np.argsort(-(vectors[members] @ middle), kind="stable")]
        groups.append(
            Group(
                tuple(captions),
                tuple(rows[positions[members]].tolist()),
                tuple(rows[positions[nearest[:REPRESENTATIVES]]].tolist()),
            )
        )
    return Grouping(tuple(groups), of)


def images_to_group(run: RunFolder) -> tuple[np.ndarray, str]:
    """int64 positions, most anomalous first, and what they are."""
    order = np.argsort(run.columns(["rank"])["rank"].to_numpy(), kind="stable")
    flagged = run.flagged()
    if flagged is not None and flagged.any():
        return order[flagged[order]][:MOST_IMAGES], "flagged images"
    count = min(MOST_UNFLAGGED, max(1, round(SHARE * len(order))))
    return order[:count], "most unusual images"


def pulls_of(image: Mapping[str, Any]) -> list[float]:
    """The pull of each caption of an image, as the terminal prints it; older runs have only `z`."""
    return image.get("given_z") or image["z"]


def name_groups(pulls: Sequence[Mapping[str, float]], labels: np.ndarray) -> list[list[str]]:
    """The captions that name each group, best first; equal ones by text.

    `pulls[i]` maps the captions that image i retrieved to their z; `labels` int [n] is its group.
    """
    sizes = np.bincount(labels)
    pull: list[dict[str, float]] = [defaultdict(float) for _ in sizes]
    everywhere: dict[str, float] = defaultdict(float)
    for image, group in zip(pulls, labels, strict=True):
        for caption, z in image.items():
            if z > 0:
                pull[group][caption] += z / sizes[group]
                everywhere[caption] += z
    named = []
    for size, group in zip(sizes, pull, strict=True):
        value = {text: mean * mean * size / everywhere[text] for text, mean in group.items()}
        best_first = sorted((-each, text) for text, each in value.items())
        named.append([text for _, text in best_first[:CAPTIONS_KEPT]])
    return named


def save_groups(grouping: Grouping, run: RunFolder) -> None:
    """Write `groups.json` into the run's folder, with the checksum of the scores it is of."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": "groups",
        "of": grouping.of,
        "scores": run.facts["checksums"][SCORES],
        "groups": [asdict(group) for group in grouping.groups],
    }
    write_json(run.folder / GROUPS, content)


POINTS = 5000
"""At most so many images are on the map: those shown one by one, and a random sample."""
STEPS = 1000
"""Coordinates are whole numbers from 0 to this."""
LEAST_FOR_UMAP = 16
"""UMAP looks at 15 neighbours of each image."""


def map_points(
    run: RunFolder, shown: np.ndarray, number: Callable[[str], int | None]
) -> dict[str, Any] | None:
    """Columns of the points of the map: x, y, at, class and rank.

    `at` is the place among the images shown one by one, whose positions are `shown` int64, or -1;
    `class` is the `number` of a class's name. None where the run's embeddings are not at hand, or
    there are fewer than three images.
    """
    stored = audited_embeddings(run)
    table = run.columns(["row", "rank", "label", "nearest_class"])
    n = len(table)
    if stored is None or n < 3:
        return None
    others = np.setdiff1d(np.arange(n), shown)
    room = max(0, POINTS - len(shown))
    if len(others) > room:
        others = np.sort(np.random.default_rng(0).choice(others, room, replace=False))
    chosen = np.concatenate([shown, others])
    vectors = stored.vectors[stored.places(table["row"].to_numpy())[chosen]]
    method, places = _plane(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    steps = np.rint(STEPS * (places - low) / np.maximum(high - low, 1e-12)).astype(int)
    some = table.take(chosen)
    names = zip(some["label"].to_pylist(), some["nearest_class"].to_pylist(), strict=True)
    return {
        "method": method,
        "images": n,
        "x": steps[:, 0].tolist(),
        "y": steps[:, 1].tolist(),
        "at": [*range(len(shown)), *[-1] * len(others)],
        "class": [number(label or near) for label, near in names],
        "rank": some["rank"].to_pylist(),
    }


def _plane(vectors: np.ndarray) -> tuple[str, np.ndarray]:
    """How, and float64 [n, 2]: by UMAP where it is installed, else on the principal components."""
    try:
        import umap
    except ImportError:
        umap = None
    if umap is None or len(vectors) < LEAST_FOR_UMAP:
        return "PCA", principal_plane(vectors)
    return "UMAP", umap.UMAP(metric="cosine", random_state=0).fit_transform(vectors)


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """float64 [n, 2], the coordinates of rows [n, d] on their first two principal components.

    Each component points to where its largest entry is positive, so that a map is not mirrored.
    """
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    plane = centred @ axes
    return plane if plane.shape[1] == 2 else np.column_stack([plane, np.zeros(len(plane))])
