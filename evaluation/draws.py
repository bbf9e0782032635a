"""From a protocol and a world to draws: the normal classes, the reference and the test images.

Class splits use one `numpy.random.RandomState(seed)` and `choice` without replacement, draw after
draw. Random references (few-shot, contamination) use a generator of their own for each draw, so
they do not change which classes are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BlissError, UsageError
from ..indexer.search.captions import plain
from .protocols import Protocol
from .world import OTHER_CLASSES, REFERENCE, TEST, World


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
                f"class '{name}' has {len(rows)} reference image{'s' * (len(rows) != 1)}",
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
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
