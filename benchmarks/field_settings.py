"""The settings of the field study: worlds of real CLIP embeddings and the protocols on them.

Those of the tables MAIN and HARD were looked at while scores were chosen. Those of ONCE were not:
other numbers of classes and shots, other classes, look-alike classes, and labels or texts that are
poor, with draws of their own (docs/protocols.md).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from blissaudit.evaluation.draws import EmbeddedSet, Protocol, World, make_world
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
MAIN, HARD, ONCE = "main", "hard", "once"
"""Tables of the settings: one image a class and contaminated references are apart, and so is what
was looked at once."""
FIRST_ONCE = 5000
"""Added to the seed of the draws that are looked at once."""
DOGS, SNAKES = range(151, 269), range(52, 69)
"""ImageNet's look-alike classes."""
TOO_NEAR = 0.9
"""Cosine to a label of its world above which a text counts as naming it."""
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
    hidden: frozenset[int] = frozenset()
    """Rows of the texts that this setting goes without."""


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


def once_settings(root: Path, texts: np.ndarray, names: Sequence[str]) -> list[Setting]:
    """The settings that are looked at once; `texts` [M, d] are what the labels are worded with."""
    caltech = {each.name: each for each in caltech_settings(root, names)}
    base, few = caltech["Caltech 20"], caltech["Caltech 20, all-shot"]

    def random(size: int, among: Sequence[str] = (), **more: Any) -> Protocol:
        return Protocol("o", "random", among=tuple(among or base.protocol.among), size=size, **more)

    made = [(f"Caltech {size}", base, random(size)) for size in (3, 10, 40)]
    made += [
        (f"Caltech 15, {shots}-shot", base, random(15, few.protocol.among, shots=shots))
        for shots in (1, 2, 4)
    ]
    made += [("Caltech 15, 5 % strangers", base, random(15, contamination=0.05))]
    found = [Setting(name, each.world, how, each.prompts, ONCE) for name, each, how in made]
    labels = texts[list(base.prompts.values())]
    near = frozenset(np.flatnonzero((texts @ labels.T).max(axis=1) > TOO_NEAR).tolist())
    found.append(Setting("Caltech 15, texts without names", base.world, random(15), base.prompts,
                         ONCE, near))  # fmt: skip
    poor = nearest_texts(base.world, base.prompts, texts, base.prompts)
    found.append(Setting("Caltech 15, poor labels", base.world, random(15), poor, ONCE))
    classes = [("dogs", 20, DOGS), ("snakes", 6, SNAKES), ("ImageNet", 100, range(1, 1000, 2))]
    for name, size, some in classes:
        world, prompts = imagenet_world(root, some, {})
        protocol = Protocol("o", "random", size=size)
        found.append(Setting(f"{name} {size}", world, protocol, prompts, ONCE))
    for size, far in ((50, "SUN397"), (400, "DTD")):
        world, prompts = imagenet_world(root, range(1, 1000, 2), {far: load_set(root / FAR[far])})
        protocol = Protocol("o", "random", size=size, others=False)
        found.append(Setting(f"ImageNet {size}, {far}", world, protocol, prompts, ONCE))
    for name, size in (("UCF101", 30), ("DTD", 12), ("SUN397", 50), ("cars", 30)):
        world = odd_classes(*halves(root, name))
        usable = sorted({label for label in world.labels if label is not None})
        prompts = nearest_texts(world, usable, texts, {})
        protocol = Protocol("o", "random", size=size)
        found.append(Setting(f"{name} {size}, poor labels", world, protocol, prompts, ONCE))
    return found


def halves(root: Path, name: str) -> tuple[EmbeddedSet, EmbeddedSet]:
    """A reference and a test set: DTD's own, else the first half of every class and the rest."""
    if name == "DTD":
        return load_set(root / "dtd/val"), load_set(root / "dtd/test")
    whole = load_set(root / FAR[name])
    labels = np.array(whole.labels)
    first = np.zeros(len(labels), bool)
    for label in set(whole.labels):
        rows = np.flatnonzero(labels == label)
        first[rows[: len(rows) // 2]] = True
    parts = [EmbeddedSet(whole.images[some], tuple(labels[some].tolist())) for some in
             (first, ~first)]  # fmt: skip
    return parts[0], parts[1]


def odd_classes(reference: EmbeddedSet, test: EmbeddedSet) -> World:
    """The world of every second class of a sorted list, from the second on."""
    kept = set(sorted(set(reference.labels) - {None})[1::2])
    parts = []
    for each in (reference, test):
        some = np.array([label in kept for label in each.labels])
        labels = tuple(label for label in each.labels if label in kept)
        parts.append(EmbeddedSet(each.images[some], labels))
    return make_world(parts[0], parts[1], {})


def nearest_texts(
    world: World, classes: Iterable[str], texts: np.ndarray, named: Mapping[str, int]
) -> dict[str, int]:
    """The text nearest to the mean of each class's reference images, not the one that names it."""
    labels, reference = np.array(world.labels, object), world.part == 0
    found = {}
    for name in classes:
        cosines = texts @ world.images[reference & (labels == name)].mean(axis=0)
        if name in named:
            cosines[texts @ texts[named[name]] > TOO_NEAR] = -1
        found[name] = int(cosines.argmax())
    return found


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
    world, prompts = imagenet_world(root, range(1000), {})
    return [
        Setting(f"ImageNet {size}", world, Protocol("i", "random", size=size), prompts)
        for size in (50, 200)
    ]


def imagenet_world(
    root: Path, classes: Sequence[int], far: Mapping[str, EmbeddedSet]
) -> tuple[World, dict[str, int]]:
    """Some classes of ImageNet, and the row of each one's text."""
    rows, _ = load(root / "imagenet-4shot", "img")
    labels = np.array([f"{number:04d}" for number in range(len(rows) // VIEWS)]).repeat(VIEWS)
    some = np.isin(np.arange(len(rows)) // VIEWS, classes)
    last = np.arange(len(rows)) % VIEWS == VIEWS - 1
    parts = [
        EmbeddedSet(rows[some & which], tuple(labels[some & which].tolist()))
        for which in (~last, last)
    ]
    return make_world(parts[0], parts[1], far), {f"{number:04d}": number for number in classes}
