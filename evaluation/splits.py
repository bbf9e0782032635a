"""Which classes are normal in each split of a protocol.

Random choices use one `numpy.random.RandomState(seed)` and `choice` without replacement, draw after
draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UsageError
from ..indexer.caption_index import plain
from .protocols import Protocol
from .world import REFERENCE, World


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
