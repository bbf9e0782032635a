"""`bliss index push` and `pull`: finished caption indexes on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from .base import OUTPUT, Command, Output, option, progress_lines, section


@click.command(cls=Command)
@click.argument("folder")
@click.argument("repository", metavar="OWNER/NAME")
@section(
    "Publishing",
    option("--public", is_flag=True, help="Make a new repository public [default: private]"),
    option("--licence-unknown-ok", is_flag=True, help="Publish captions whose licence is not "
           "known."),
)  # fmt: skip
@OUTPUT
def push(
    *, folder: str, repository: str, public: bool, licence_unknown_ok: bool, output: Output
) -> None:
    """Share an index as a dataset repository of the Hugging Face Hub, private by default.

    The index is verified first. Log in with `hf auth login`.
    """
    from ..indexer import local_folder, open_index, push_index
    from .text import pushed_text

    path = local_folder(folder)
    address = push_index(path, repository, public, licence_unknown_ok, progress_lines())
    index = open_index(path)
    output.show(
        {"address": address, "public": public, "captions": index.count},
        lambda: pushed_text(index, repository, address, public),
    )


@click.command(cls=Command)
@click.argument("repository", metavar="OWNER/NAME")
@click.argument("folder")
@section("Source", option("--revision", help="A branch, tag or commit [default: the newest]"))
@OUTPUT
def pull(*, repository: str, folder: str, revision: str | None, output: Output) -> None:
    """Download a shared index into a new FOLDER, and verify it.

    The same command again continues where it stopped.
    """
    from ..audit import index_text
    from ..indexer import local_folder, pull_index

    target = Path(local_folder(folder))
    index = pull_index(repository, target, revision, progress_lines())
    output.show(index.manifest, lambda: index_text(index))
