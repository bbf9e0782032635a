"""Write `report.html` for a finished run."""

from __future__ import annotations

from pathlib import Path

from ...artefacts import write_atomically
from ...errors import UsageError
from ..grouping import group_run, save_groups
from ..run_folder import open_run
from .page import page_html
from .page_data import page_data
from .thumbnails import PictureShelf

REPORT = "report.html"
IMAGES_SHOWN = 1000


def save_report(
    run_folder: str | Path, output: str | Path | None = None, images: int = IMAGES_SHOWN
) -> Path:
    """Write the page of the run in `run_folder` and its `groups.json`; where the page is.

    `output` is the page's file (default `report.html` in the run's folder), `images` how many of
    the most anomalous images are shown one by one. Pictures are looked for where the audit found
    them; the page says where one is missing. Raises UsageError where there is no run, BlissError
    where its files have changed or the page cannot be written.
    """
    if images < 1:
        raise UsageError(f"{images} images were asked for", "1 or more", "Correct --report or --top")
    run = open_run(run_folder)
    grouping = group_run(run)
    save_groups(grouping, run)
    shelf = PictureShelf()
    data = page_data(run, grouping, images, shelf)
    page = page_html(data, shelf.encoded).encode("utf-8")
    path = Path(output) if output else run.folder / REPORT
    write_atomically(path, lambda file: file.write(page))
    return path
