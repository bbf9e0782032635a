"""`bliss export`: a finished audit as a data set with the audit's columns."""

from __future__ import annotations

import click

from ..errors import UsageError
from .base import OUTPUT, Output, command, only_one, option, section
from .options import ADDRESSES


@command()
@click.argument("run")
@section(
    "Destination",
    option("--save-to-disk", "folder", metavar="DIR", help="A new folder, for "
           "datasets.load_from_disk."),
    option("--push-to-hub", "repository", metavar="OWNER/NAME", help="A dataset repository of "
           "the Hugging Face Hub."),
    option("--public", is_flag=True, help="Make a new repository public [default: private]"),
)  # fmt: skip
@section("Output", ADDRESSES)
@OUTPUT
def export(
    *, run: str, folder: str | None, repository: str | None, public: bool, output: Output
) -> None:
    """Write the audited images with their scores as a Hugging Face dataset.

    RUN is the output folder of `bliss audit`. Pictures are copied as they are, with their EXIF
    data.
    """
    from ..audit import open_run, push_dataset, save_dataset
    from ..safe_text import counted, terminal_text

    only_one(
        "where the dataset goes",
        "Add --save-to-disk DIR or --push-to-hub OWNER/NAME",
        save_to_disk=folder,
        push_to_hub=repository,
    )
    if public and repository is None:
        raise UsageError("--public was given with --save-to-disk", "a repository", "Leave it out")
    opened = open_run(run)
    if repository is not None:
        rows = push_dataset(opened, repository, public)
    else:
        assert folder is not None
        rows = save_dataset(opened, folder)
    target = repository or folder or ""
    output.show(
        {"images": rows, "written_to": target}, f"{counted(rows, 'image')}: {terminal_text(target)}"
    )
