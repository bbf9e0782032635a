"""Every score by name: those of this package, and those that installed packages add.

A score of this package is a constant of type Score in a module here; MODULES names the modules. A
package adds one through the entry point group `blissaudit.scores`, under the name of the score:

    [project.entry-points."blissaudit.scores"]
    my_score = "my_package.scores:MY_SCORE"

Packages are only looked at for a name that is not built in, and to list all scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from ...errors import BlissError
from .contract import Score

GROUP = "blissaudit.scores"

MODULES = tuple(
    import_module(f".{name}", __package__)
    for name in (
        "bliss",
        "distances",
        "negatives",
        "plus.score",
        "softmax",
        "trained",
    )
)

_FOUND = [each for module in MODULES for each in vars(module).values() if isinstance(each, Score)]
BUILT_IN: Mapping[str, Score] = {each.name: each for each in sorted(_FOUND, key=lambda s: s.name)}


class Scores(Mapping[str, Score]):
    """All scores by name. A package's score that cannot be loaded is an error under its name, and
    left out of the list with a warning."""

    def __getitem__(self, name: str) -> Score:
        if name in BUILT_IN:
            return BUILT_IN[name]
        for entry in entry_points(group=GROUP, name=name):
            return _load(entry)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        yield from BUILT_IN
        for entry in entry_points(group=GROUP):
            try:
                _load(entry)
            except BlissError as error:
                warnings.warn(str(error), stacklevel=2)
            else:
                yield entry.name

    def __len__(self) -> int:
        return sum(1 for _ in self)


SCORES = Scores()


@cache
def _load(entry: EntryPoint) -> Score:
    """The score of an entry point; BlissError, naming it and its package, where it is none."""
    package = entry.dist.name if entry.dist else "unknown"
    problem = ""
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        problem = f"could not be loaded ({type(error).__name__}: {error})"
    else:
        if entry.name in BUILT_IN:
            problem = "has the name of a built-in score"
        elif not isinstance(found, Score):
            problem = f"is {type(found).__name__} and no Score"
        elif found.name != entry.name:
            problem = f"calls itself '{found.name}'"
    if problem:
        raise BlissError(
            f"the score '{entry.name}' of the package {package} ({entry.value}) {problem}",
            "a blissaudit Score of that name",
            f"Update or uninstall {package}",
        )
    return found
