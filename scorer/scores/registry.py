"""Every score by name. A new one is a module here: name it in NAMES."""

from __future__ import annotations

from importlib import import_module

from .contract import Score

NAMES = (
    "bliss",
    "distances",
    "negatives",
    "neglabel_retrieved",
    "plus.score",
    "prototypes",
    "softmax",
    "trained",
)
MODULES = tuple(import_module(f".{name}", __package__) for name in NAMES)

SCORES: dict[str, Score] = {
    value.name: value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, Score)
}
"""Every module constant of type Score, by its name."""
