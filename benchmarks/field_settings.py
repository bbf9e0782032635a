"""The settings of the field study: worlds of real CLIP embeddings and the protocols on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from blissaudit.evaluation.draws import EmbeddedSet, World, make_world
from blissaudit.evaluation.protocols import Protocol
from blissaudit.indexer.search.captions import plain
from blissaudit.indexer.vectors.unit_rows import normalise_rows

FAR = {
    "SUN397": "sun397/val",
    "DTD": "dtd/test",
    "UCF101": "ucf101/test",
    "cars": "stanford_cars/val",
}
VIEWS = 4
MOST_SHOTS = 8
MAIN, HARD = "main", "hard"
"""Tables of the settings: one image a class and contaminated references are apart."""
CLEAN = "Caltech 20"
"""The setting that the contaminated ones are compared with: the same classes and tests."""


@dataclass(frozen=True)
class Setting:
    """One world with the protocol to draw from it, and each class's row among the texts."""

    name: str
    world: World
    protocol: Protocol
    prompts: dict[str, int]
    table: str = MAIN


def load(folder: Path, kind: str) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Unit rows and metadata columns of one folder in clip-retrieval's layout."""
    rows = np.load(folder / f"{kind}_emb" / f"{kind}_emb_0.npy")
    columns = pq.read_table(folder / "metadata" / "metadata_0.parquet").to_pydict()
    return normalise_rows(rows).unit, columns


def load_set(folder: Path) -> EmbeddedSet:
    """One image set with its labels."""
    rows, columns = load(folder, "img")
    return EmbeddedSet(rows, tuple(columns["label"]))


def settings(root: Path, names: Sequence[str]) -> list[Setting]:
    """Every setting of the study; `names` [M] are the texts' class names."""
    return [*caltech_settings(root, names), *imagenet_settings(root)]


def caltech_settings(root: Path, names: Sequence[str]) -> list[Setting]:
    """Caltech-101: other classes, far sets, few shots; normal classes among those with a text."""
    reference, test = load_set(root / "caltech101/val"), load_set(root / "caltech101/test")
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        first.setdefault(plain(name), row)
    order = json.loads((root / "caltech101/classes.json").read_text(encoding="utf-8"))
    written = {plain(label): label for label in reference.labels if label is not None}
    usable = tuple(written[plain(name)] for name in order if plain(name) in first)
    prompts = {name: first[plain(name)] for name in usable}
    near = make_world(reference, test, {})
    made = [
        Setting(f"Caltech {size}", near, Protocol("c", "random", among=usable, size=size), prompts)
        for size in (1, 6, 20, 30)
    ]
    against = Protocol("c", "random", among=usable, size=30, others=False)
    for name, at in FAR.items():
        far = make_world(reference, test, {name: load_set(root / at)})
        made.append(Setting(f"Caltech 30, {name}", far, against, prompts))
    enough = tuple(name for name in usable if reference.labels.count(name) >= MOST_SHOTS)
    for shots in (2, 4, MOST_SHOTS, None):
        few = Protocol("c", "random", among=enough, size=20, shots=shots)
        made.append(Setting(f"Caltech 20, {shots or 'all'}-shot", near, few, prompts))
    one = Protocol("c", "random", among=enough, size=20, shots=1)
    made.append(Setting("Caltech 20, 1-shot", near, one, prompts, HARD))
    for share in (0.05, 0.1, 0.2):
        dirty = Protocol("c", "random", among=usable, size=20, contamination=share)
        name = f"{CLEAN}, {100 * share:g} % strangers"
        made.append(Setting(name, near, dirty, prompts, HARD))
    return made


def imagenet_settings(root: Path) -> list[Setting]:
    """ImageNet in 4 views an image-class: statistics from three, tests on the fourth."""
    rows, _ = load(root / "imagenet-4shot", "img")
    labels = np.array([f"{number:04d}" for number in range(len(rows) // VIEWS)]).repeat(VIEWS)
    last = np.arange(len(rows)) % VIEWS == VIEWS - 1
    world = make_world(
        EmbeddedSet(rows[~last], tuple(labels[~last].tolist())),
        EmbeddedSet(rows[last], tuple(labels[last].tolist())),
        {},
    )
    prompts = {label: number for number, label in enumerate(labels[::VIEWS].tolist())}
    return [
        Setting(f"ImageNet {size}", world, Protocol("i", "random", size=size), prompts)
        for size in (50, 200)
    ]
