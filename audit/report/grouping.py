"""The flagged, or else most unusual, images of a run in groups, each named by captions.

A caption's pull on a group is the mean, over the group's images, of its positive pull (z) where an
image retrieved it. Captions are ordered by that mean times the share of all the caption's pull that
falls on the group, so that a caption common to several groups names none of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    rows = run.columns(["row"])["row"].to_numpy()
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
    table = run.columns(["rank", "flagged"])
    order = np.argsort(table["rank"].to_numpy(), kind="stable")
    if "flagged" in table.column_names:
        flagged = table["flagged"].to_numpy(zero_copy_only=False).astype(bool)
        if flagged.any():
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
        named.append(_highest(value))
    return named


def _highest(value: Mapping[str, float]) -> list[str]:
    return sorted(value, key=lambda text: (-value[text], text))[:CAPTIONS_KEPT]


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
