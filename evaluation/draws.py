"""Protocols as data, and from a protocol and a world to draws.

A protocol says which classes are normal in each split, and what they are tested against. The
published ones are in `protocols.json`, beside this file, with their sources and the numbers papers
report for them. A protocol of one's own is a JSON object with the same fields.

A draw has the normal classes, the reference and the test images. Class splits use one
`numpy.random.RandomState(seed)` and `choice` without replacement, draw after draw. Random
references (few-shot, contamination) use a generator of their own for each draw, so they do not
change which classes are chosen. A world is the embedded sets of an evaluation, one after the other
in one array.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import misfit, read_json
from ..errors import BlissError, UsageError
from ..indexer import EmbeddedImages, plain, whole_rows
from ..safe_text import counted, some_of
from ..scorer import NO_FILE, same_rows, sketch_rows

BUILT_IN = Path(__file__).with_name("protocols.json")
CHOICES = ("each", "all-but-one", "random", "listed", "all")
MOST_CONTAMINATION = 0.2
_RANDOM = re.compile(r"random-([1-9]\d*)")


@dataclass(frozen=True)
class Protocol:
    """How draws are made from a reference set, a test set and any number of outlier sets."""

    name: str
    choice: str
    """`each` class alone, `all-but-one`, `random`, `listed` in `splits`, or `all` of them."""
    what: str = ""
    source: str = ""
    among: tuple[str, ...] = ()
    """The classes to choose from, in this order; none named: all of the reference set, sorted."""
    class_count: int | None = None
    """How many classes there must be, where the splits mean nothing with another number."""
    splits: tuple[tuple[int, ...], ...] = ()
    """For `listed`: the normal classes, as positions in the order above."""
    size: int | None = None
    """For `random`: how many classes are normal."""
    others: bool = True
    """Whether the test images of the other classes are anomalies (else they are left out)."""
    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    """Outlier sets it needs by name; none named: whichever are given."""
    draws: int = 1
    """Random choices in all for `random`; for the others, random references of each split."""
    seed: int = 0
    shots: int | None = None
    """Reference images of each class, chosen at random; None: all."""
    contamination: float = 0.0
    """Share of the reference that is anomalous, filed under the normal classes."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """What papers report, for comparison; nothing is computed from it."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def outliers(self) -> tuple[str, ...]:
        """The outlier sets it names, near ones first."""
        return (*self.near, *self.far)


def built_in_protocols() -> dict[str, Protocol]:
    """The shipped protocols by name."""
    return {
        name: protocol_from({"name": name, **facts}, str(BUILT_IN))
        for name, facts in read_json(BUILT_IN).items()
    }


def find_protocol(name: str) -> Protocol:
    """A shipped protocol, `random-K` for any K, or the one in a JSON file."""
    if name.endswith(".json"):
        path = Path(name)
        return protocol_from({"name": path.stem, **read_json(path)}, name)
    numbered = _RANDOM.fullmatch(name)
    if numbered:
        size = int(numbered[1])
        what = f"{size} normal classes at random, the others anomalous"
        return Protocol(name, "random", what=what, size=size, draws=10)
    known = built_in_protocols()
    if name not in known:
        raise UsageError(
            f"the protocol '{name}' was asked for",
            f"one of {', '.join(known)}, random-K with a number K, or a JSON file",
            "Correct --protocol",
        )
    return known[name]


def protocol_from(facts: Mapping[str, Any], source: str) -> Protocol:
    """A Protocol from JSON-like `facts`; UsageError naming `source` for a wrong field or type."""
    known = {entry.name for entry in fields(Protocol)}
    unknown = sorted(set(facts) - known)
    if unknown:
        raise UsageError(
            f"{source} has the {'field' if len(unknown) == 1 else 'fields'} {', '.join(unknown)}",
            f"only {', '.join(sorted(known))}",
            "Correct the protocol",
        )
    if "choice" not in facts:
        raise UsageError(f"{source} has no field choice", f"one of {', '.join(CHOICES)}", "Add it")
    wrong = misfit(dict(facts), _FORM)
    if wrong is not None:
        raise UsageError(
            f"{source} has no usable '{wrong}'",
            "the types that docs/evaluation.md states: lists of names, whole numbers",
            "Correct the protocol",
        )
    made = dict(facts)
    for name in {"among", "near", "far"} & made.keys():
        made[name] = tuple(map(str, made[name]))
    if "splits" in made:
        made["splits"] = tuple(map(tuple, made["splits"]))
    return Protocol(**made)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FORM: Mapping[str, Any] = {
    **dict.fromkeys(("name?", "choice?", "what?", "source?"), str),
    **{name: [(str, int)] for name in ("among?", "near?", "far?")},
    **dict.fromkeys(("class_count?", "size?", "shots?"), lambda n: n is None or _is_whole(n)),
    **dict.fromkeys(("draws?", "seed?"), _is_whole),
    "splits?": [[_is_whole]],
    "others?": bool,
    "contamination?": (int, float),
}
"""The types of a protocol's fields, as `misfit` checks them; `published` may hold anything."""


def protocol_facts(protocol: Protocol) -> dict[str, Any]:
    """JSON-like content that `protocol_from` makes the same protocol of."""
    facts: dict[str, Any] = json.loads(json.dumps(asdict(protocol)))
    return facts


def _check(protocol: Protocol) -> None:
    p = protocol
    problems = [
        (p.choice not in CHOICES, f"choice '{p.choice}'", f"one of {', '.join(CHOICES)}"),
        (p.choice == "random" and not (p.size and p.size >= 1), f"size {p.size}", "1 or more"),
        (p.choice == "listed" and not p.splits, "no splits", "at least one list of classes"),
        (any(not split for split in p.splits), "an empty split", "at least one class in each"),
        (
            any(len(set(split)) < len(split) or min(split) < 0 for split in p.splits if split),
            "a split with a repeated or negative class",
            "distinct class numbers, 0 or more",
        ),
        (len(set(p.among)) < len(p.among), "a class twice in among", "distinct classes"),
        (p.draws < 1, f"{p.draws} draws", "1 or more"),
        (not 0 <= p.seed < 2**32, f"seed {p.seed}", "a whole number from 0 to 4294967295"),
        (p.shots is not None and p.shots < 1, f"{p.shots} shots", "1 or more, or all of them"),
        (
            not 0 <= p.contamination <= MOST_CONTAMINATION,
            f"contamination {p.contamination}",
            f"a share from 0 to {MOST_CONTAMINATION}",
        ),
    ]
    for wrong, given, needed in problems:
        if wrong:
            raise UsageError(f"the protocol '{p.name}' has {given}", needed, "Correct it")


REFERENCE, TEST = 0, 1
"""Numbers of the first two parts; outlier sets follow."""


@dataclass(frozen=True)
class EmbeddedSet:
    """n embedded images; without `hashes`, images are compared by their vectors."""

    images: np.ndarray
    """float32 [n, d], unit rows."""
    labels: tuple[str | None, ...]
    hashes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    """What names an image everywhere, "" where nothing does."""


@dataclass(frozen=True)
class World:
    """All N images: the reference set, the test set, then each outlier set."""

    images: np.ndarray
    """float32 [N, d], unit rows."""
    labels: tuple[str | None, ...]
    hashes: tuple[str, ...]
    part: np.ndarray
    """int64 [N]: 0 reference, 1 test, 2 + i outlier set i."""
    outliers: tuple[str, ...]
    """Names of the outlier sets."""
    ids: tuple[str, ...]

    def keys_of(self, row: int) -> set[str]:
        """The content and id of an image: copies share one of them."""
        return {self.hashes[row], self.ids[row]} - {""}

    def rows_of(self, part: int) -> np.ndarray:
        """int64, the rows of one part."""
        return np.flatnonzero(self.part == part)


def set_of(images: EmbeddedImages) -> EmbeddedSet:
    """The images, labels and content hashes of an embedded collection.

    Its ids are the paths that are absolute, or addresses: a relative one may occur in two folders.
    """
    ids = tuple(path if path.startswith("/") or "://" in path else "" for path in images.paths)
    labels, hashes = tuple(images.labels), tuple(images.hashes)
    return EmbeddedSet(whole_rows(images.vectors), labels, hashes, ids)


def make_world(
    reference: EmbeddedSet, test: EmbeddedSet, outliers: Mapping[str, EmbeddedSet]
) -> World:
    """Put sets of one model together.

    Raises BlissError naming the set where vectors are not finite, not unit rows, of another
    dimension, or do not fit their labels; UsageError for an outlier set called `other classes`.
    """
    if OTHER_CLASSES in outliers:
        raise UsageError(
            f"an outlier set is called '{OTHER_CLASSES}'",
            "another name: that one is for the other classes of the test set",
            "Rename it",
        )
    named = {"the reference set": reference, "the test set": test}
    named |= {f"the outlier set '{name}'": found for name, found in outliers.items()}
    for name, found in named.items():
        _check_set(found, name, reference.images.shape[1])
    sets = list(named.values())
    images = np.concatenate([found.images for found in sets]).astype(np.float32, copy=False)
    return World(
        images,
        tuple(label for found in sets for label in found.labels),
        _one_name_a_row(images, [content for found in sets for content in _hashes(found)]),
        np.repeat(np.arange(len(sets)), [len(found.labels) for found in sets]),
        tuple(outliers),
        tuple(name for found in sets for name in found.ids or ("",) * len(found.labels)),
    )


OTHER_CLASSES = "other classes"
"""Group of the test images whose class is not normal in a draw."""


def fingerprints(world: World) -> dict[str, dict[str, object]]:
    """For each part its image count and a SHA-256 over its vectors and labels, in order."""
    facts: dict[str, dict[str, object]] = {}
    for number, name in enumerate(("reference", "test", *world.outliers)):
        rows = world.rows_of(number)
        found = hashlib.sha256(np.ascontiguousarray(world.images[rows], "<f4").tobytes())
        found.update("\0".join(world.labels[row] or "" for row in rows).encode())
        facts[name] = {"images": len(rows), "sha256": found.hexdigest()}
    return facts


def _hashes(found: EmbeddedSet) -> tuple[str, ...]:
    return found.hashes or tuple(
        NO_FILE + hashlib.sha256(row.astype(np.float32).tobytes()).hexdigest()
        for row in found.images
    )


def _one_name_a_row(images: np.ndarray, hashes: list[str]) -> tuple[str, ...]:
    """The contents of images [N, d]; those known by their rows alone are named as the first image
    with the same row up to rounding."""
    by_row = [row for row, content in enumerate(hashes) if content.startswith(NO_FILE)]
    if by_row:
        sketches = sketch_rows(images)
        one, other = same_rows(sketches[by_row], sketches)
        for query, first in zip(*np.unique(one, return_index=True), strict=True):
            hashes[by_row[query]] = hashes[other[first]]
    return tuple(hashes)


def _check_set(found: EmbeddedSet, name: str, dimension: int) -> None:
    count, *rest = found.images.shape
    if rest != [dimension]:
        raise BlissError(
            f"{name} has vectors of shape {found.images.shape}",
            f"{dimension} dimensions, as the reference set has",
            "Embed every set with the same model",
        )
    if len(found.labels) != count or len(found.hashes) not in (0, count):
        raise BlissError(
            f"{name} has {count} images, {len(found.labels)} labels and {len(found.hashes)} hashes",
            "one label for every image",
            "Check the set",
        )
    bad = np.flatnonzero(~np.isfinite(found.images).all(axis=1))
    if len(bad):
        raise BlissError(
            f"{name} holds {len(bad)} vectors that are not finite (the first: row {bad[0]})",
            "finite embeddings",
            "Embed those images again or leave them out",
        )
    length = np.linalg.norm(found.images.astype(np.float64), axis=1)
    if count and np.abs(length - 1).max() > 1e-3:
        raise BlissError(
            f"{name} holds vectors of length {length[np.abs(length - 1).argmax()]:.3g}",
            "unit rows",
            "Normalise them first",
        )


@dataclass(frozen=True)
class Draw:
    """One split of a world; all rows are rows of the world."""

    normal: tuple[str, ...]
    """The C normal classes."""
    reference: np.ndarray
    """int64 [m]."""
    labels: np.ndarray
    """int64 [m], class numbers the reference images are filed under."""
    test: np.ndarray
    """int64 [n]."""
    group: np.ndarray
    """int64 [n]: 0 normal, 1 + g anomalies of groups[g]."""
    groups: tuple[str, ...]
    strangers: int = 0
    """How many of the reference images, the last ones, are anomalous."""

    @property
    def anomalous(self) -> np.ndarray:
        """bool [n], the truth."""
        return self.group > 0


def make_draws(world: World, protocol: Protocol) -> tuple[Draw, ...]:
    """Every draw of a protocol.

    Raises UsageError where the protocol does not fit the classes or the outlier sets given;
    BlissError where a class has too few images or an outlier set overlaps the normals.
    """
    names = usable_classes(world, protocol)
    _check_outliers(world, protocol)
    splits = class_splits(names, protocol)
    repeats = 1 if protocol.choice == "random" else protocol.draws
    if repeats > 1 and protocol.shots is None and not protocol.contamination:
        raise UsageError(
            f"{repeats} draws were asked of the protocol '{protocol.name}', "
            "in which nothing is random",
            "few-shot or contaminated references, or a protocol that chooses classes at random",
            "Leave --draws out, or add --shots or --contamination",
        )
    members = _members(world, names)
    draws = []
    for number, split in enumerate(split for split in splits for _ in range(repeats)):
        rng = np.random.default_rng([protocol.seed, number])
        draws.append(_draw(world, protocol, split, members, rng))
    return tuple(draws)


def _check_outliers(world: World, protocol: Protocol) -> None:
    if protocol.outliers and set(protocol.outliers) != set(world.outliers):
        raise UsageError(
            f"outlier sets {some_names(world.outliers) or 'none'} were given",
            f"{some_names(protocol.outliers)}, as the protocol '{protocol.name}' says",
            "Give each as --ood NAME=FOLDER, or write a protocol file with fewer",
        )


def _members(world: World, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows of each class in the reference and in the test set."""
    found: dict[str, tuple[list[int], list[int]]] = {plain(name): ([], []) for name in names}
    for row in np.flatnonzero(world.part <= TEST).tolist():
        label = world.labels[row]
        if label is not None and plain(label) in found:
            found[plain(label)][world.part[row]].append(row)
    return {
        name: (np.array(found[plain(name)][0], np.int64), np.array(found[plain(name)][1], np.int64))
        for name in names
    }


def _draw(
    world: World,
    protocol: Protocol,
    normal: tuple[str, ...],
    members: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rng: np.random.Generator,
) -> Draw:
    kept = []
    for name in normal:
        rows = members[name][REFERENCE]
        if len(rows) < (protocol.shots or 1):
            raise BlissError(
                f"class '{name}' has {counted(len(rows), 'reference image')}",
                f"at least {protocol.shots or 1}, as the protocol '{protocol.name}' needs",
                "Add images, ask for fewer --shots, or leave the class out",
            )
        chosen = rng.permutation(rows)[: protocol.shots] if protocol.shots else rows
        kept.append(np.sort(chosen))
    reference = np.concatenate(kept)
    labels = np.repeat(np.arange(len(normal)), [len(rows) for rows in kept])
    strangers = _strangers(world, protocol, members, normal, (len(reference), rng))
    filed = rng.permutation(np.arange(len(strangers)) % len(normal))
    test, group, groups = _tests(world, protocol, members, normal)
    left = ~np.isin(test, strangers)
    draw = Draw(
        normal,
        np.concatenate([reference, strangers]),
        np.concatenate([labels, filed]),
        test[left],
        group[left],
        groups,
        len(strangers),
    )
    _check_draw(world, draw, reference)
    return draw


def _strangers(
    world: World,
    protocol: Protocol,
    members: Mapping[str, tuple[np.ndarray, np.ndarray]],
    normal: tuple[str, ...],
    chance: tuple[int, np.random.Generator],
) -> np.ndarray:
    """Anomalous images for the reference: of its other classes, else taken from outlier sets."""
    clean, rng = chance
    count = round(protocol.contamination * clean / (1 - protocol.contamination))
    if not count:
        return np.zeros(0, np.int64)
    own = np.concatenate([members[name][REFERENCE] for name in normal])
    pool = np.setdiff1d(world.rows_of(REFERENCE), own)
    if not len(pool):
        pool = np.flatnonzero(world.part > TEST)
    if len(pool) < count:
        raise BlissError(
            f"{len(pool)} anomalous images are there to contaminate {clean} clean ones with",
            f"{count} for a contamination of {protocol.contamination}",
            "Ask for less, or give outlier sets or a reference set with more classes",
        )
    return np.sort(rng.choice(pool, count, replace=False))


def _tests(
    world: World,
    protocol: Protocol,
    members: Mapping[str, tuple[np.ndarray, np.ndarray]],
    normal: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    every = world.rows_of(TEST)
    own = np.concatenate([members[name][TEST] for name in normal])
    if not protocol.others and all(world.labels[row] is None for row in every):
        own = every
    rows, groups = [np.sort(own)], []
    if protocol.others:
        others = np.setdiff1d(every, own)
        if len(others):
            rows.append(others)
            groups.append(OTHER_CLASSES)
    for number, name in enumerate(world.outliers):
        rows.append(world.rows_of(TEST + 1 + number))
        groups.append(name)
    group = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    return np.concatenate(rows), group, tuple(groups)


def _check_draw(world: World, draw: Draw, clean: np.ndarray) -> None:
    if not (draw.group == 0).any():
        raise BlissError(
            f"the test set has no image of {some_names(draw.normal)}",
            "test images of the normal classes",
            "Check that both sets name their classes alike",
        )
    if not draw.anomalous.any() or len(np.unique(draw.group)) < len(draw.groups) + 1:
        raise BlissError(
            "there are no anomalies to test"
            + (f" in one of {some_names(draw.groups)}" if draw.groups else ""),
            "other classes in the test set, or an outlier set",
            "Add --ood NAME=FOLDER, or choose another protocol",
        )
    normals = set().union(*(world.keys_of(row) for row in [*clean, *draw.test[~draw.anomalous]]))
    for row in draw.test[draw.anomalous].tolist():
        part = world.part[row]
        if part > TEST and world.keys_of(row) & normals:
            shared = "content" if world.hashes[row] in normals else "id"
            raise BlissError(
                f"the outlier set '{world.outliers[part - 2]}' overlaps the normal images: its "
                f"image {row - int(world.rows_of(part)[0])} has the same {shared} as one of them",
                "outliers that are not normal",
                "Take the common images out of it",
            )


def usable_classes(world: World, protocol: Protocol) -> tuple[str, ...]:
    """The reference set's names of the classes to choose from, in the protocol's order.

    Names are compared without regard to case, underscores and hyphens.
    """
    found = {world.labels[row] for row in world.rows_of(REFERENCE)}
    by_name = {plain(name): name for name in sorted(name for name in found if name is not None)}
    missing = [name for name in protocol.among if plain(name) not in by_name]
    if missing:
        raise UsageError(
            f"the protocol '{protocol.name}' names {some_names(missing)}, "
            "which the reference set does not have",
            f"classes among {some_names(list(by_name.values()))}",
            "Correct the protocol or the class folders",
        )
    names = tuple(by_name[plain(n)] for n in protocol.among) or tuple(by_name.values())
    wanted = protocol.class_count
    if not names or (wanted is not None and len(names) != wanted):
        raise UsageError(
            f"the reference set has {len(names)} classes",
            f"{wanted or 'at least one'}, as the protocol '{protocol.name}' needs",
            "Give the whole data set, sorted into one folder a class",
        )
    return names


def class_splits(names: Sequence[str], protocol: Protocol) -> list[tuple[str, ...]]:
    """The normal classes of each split; UsageError where `names` are too few for the protocol."""
    count = len(names)
    if protocol.choice == "all":
        return [tuple(names)]
    if protocol.choice == "each":
        return [(name,) for name in names]
    if protocol.choice == "all-but-one":
        return [tuple(n for n in names if n != left) for left in names]
    if protocol.choice == "listed":
        highest = max(number for split in protocol.splits for number in split)
        if highest >= count:
            raise UsageError(
                f"the protocol '{protocol.name}' names class number {highest}",
                f"numbers from 0 to {count - 1}: there are {count} classes",
                "Correct the protocol or the class folders",
            )
        return [tuple(names[number] for number in split) for split in protocol.splits]
    assert protocol.size is not None
    if protocol.size > count:
        raise UsageError(
            f"{protocol.size} normal classes of {count} were asked for",
            f"at most {count}",
            "Choose fewer, or give a set with more classes",
        )
    rng = np.random.RandomState(protocol.seed)
    chosen = [rng.choice(count, protocol.size, replace=False) for _ in range(protocol.draws)]
    return [tuple(names[number] for number in numbers) for numbers in chosen]


def some_names(names: Sequence[str]) -> str:
    """The first eight, for messages."""
    return some_of(names, 8)
