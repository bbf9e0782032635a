"""`bliss export`: a finished audit as a data set with the audit's columns."""

from __future__ import annotations

import click

from ..errors import UsageError
from .options import ADDRESSES


@click.command()
@click.argument("run")
@click.option("--save-to-disk", "folder", help="A new folder, for datasets.load_from_disk.")
@click.option("--push-to-hub", "repository", metavar="OWNER/NAME", help="A repository of the hub.")
@ADDRESSES
@click.option("--public", is_flag=True, help="Let everybody see that repository.")
def export(run: str, folder: str | None, repository: str | None, public: bool) -> None:
    """Write the audited images with their scores as a Hugging Face dataset.

    RUN is the output folder of `bliss audit`. Pictures are copied as they are, with their EXIF.
    """
    from ..audit.adapters.hub_dataset import push_dataset, save_dataset
    from ..audit.folder import open_run
    from ..safe_text import terminal_text

    if (folder is None) == (repository is None):
        raise UsageError(
            f"{'neither' if folder is None else 'both'} of --save-to-disk and --push-to-hub "
            "were given",
            "one of them: where the dataset goes",
            "Add --save-to-disk DIR or --push-to-hub OWNER/NAME",
        )
    if public and repository is None:
        raise UsageError("--public was given with --save-to-disk", "a repository", "Leave it out")
    opened = open_run(run)
    if repository is not None:
        rows = push_dataset(opened, repository, public)
    else:
        assert folder is not None
        rows = save_dataset(opened, folder)
    click.echo(f"{rows:,} images: {terminal_text(repository or folder or '')}")
