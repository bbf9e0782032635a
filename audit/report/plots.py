"""Vector plots of a run for papers and slides; needs matplotlib, the `plots` extra."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked
from ...artefacts import write_atomically
from ...errors import UsageError
from ...safe_text import counted, terminal_text
from ..folder import RunFolder, open_run
from .page_data import bin_edges

DATES = {"svg": "Date", "pdf": "CreationDate"}
"""What each format calls the time that it was made, which is left out."""
INK, BAR, BEYOND = "#1b1d1f", "#9aa1aa", "#c2541d"
CLASSES_SHOWN = 40
NAME_WIDTH = 32
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "bliss-audit",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,
}


@checked
def save_plots(run_folder: str | Path, folder: str | Path) -> list[Path]:
    """Write `scores` (a histogram) and `classes` (box plots) as svg and pdf into `folder`.

    The same run gives the same bytes. Raises UsageError where matplotlib is not installed or there
    is no run, BlissError where `folder` cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "plots were asked for and matplotlib is not installed",
            "matplotlib",
            "Install it with pip install 'bliss-audit[plots]'",
        ) from None
    run = open_run(run_folder)
    table = run.columns(["score", "label", "nearest_class"])
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, draw in (("scores", _histogram), ("classes", _boxes)):
            figure = Figure(layout="constrained")
            draw(figure, run, table)
            for suffix, made in DATES.items():
                path = Path(folder) / f"{name}.{suffix}"
                write = partial(figure.savefig, format=suffix, metadata={made: None})
                write_atomically(path, write)
                paths.append(path)
    return paths


def _histogram(figure: Any, run: RunFolder, table: Any) -> None:
    """All scores, those of flagged images in another colour."""
    figure.set_size_inches(5.5, 2.8)
    axes = figure.subplots()
    scores = table["score"].to_numpy()
    edges = bin_edges(scores)
    inside = np.clip(scores, edges[0], edges[-1])
    axes.hist(inside, bins=edges, color=BAR, label=counted(len(scores), "image"))
    flagged = run.flagged()
    if flagged is not None and flagged.any():
        label = f"{flagged.sum():,} flagged"
        axes.hist(inside[flagged], bins=edges, color=BEYOND, label=label)
    axes.set(xlabel=_score_name(run), ylabel="images", yscale="symlog", ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False)


def _boxes(figure: Any, run: RunFolder, table: Any) -> None:
    """The scores of each class, those with the highest upper quartile first."""
    labels = table["label"].to_pylist()
    filed = any(label is not None for label in labels)
    names = labels if filed else table["nearest_class"].to_pylist()
    scores = table["score"].to_numpy()
    of: dict[str, list[float]] = {}
    for name, score in zip(names, scores.tolist(), strict=True):
        of.setdefault("no class" if name is None else name, []).append(score)
    order = sorted(of, key=lambda name: (-np.quantile(of[name], 0.75), name))[:CLASSES_SHOWN]
    figure.set_size_inches(5.5, 0.9 + 0.24 * len(order))
    axes = figure.subplots()
    axes.boxplot(
        [of[name] for name in order],
        orientation="horizontal",
        widths=0.6,
        flierprops={"marker": ".", "markersize": 4, "markeredgecolor": BEYOND},
        medianprops={"color": INK},
    )
    shown = [f"{terminal_text(name, NAME_WIDTH)} ({len(of[name]):,})" for name in order]
    axes.set_yticks(range(1, len(order) + 1), shown)
    axes.invert_yaxis()
    left = len(of) - len(order)
    axes.set(
        xlabel=_score_name(run),
        title=f"{counted(left, 'more class', 'more classes')} not shown" if left else "",
    )


def _score_name(run: RunFolder) -> str:
    return f"{run.facts['settings'].get('score', 'bliss')} score (higher = more anomalous)"
