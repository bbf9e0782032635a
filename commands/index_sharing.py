"""`bliss index push` and `pull`: finished caption indexes on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Let everybody see it [default: private]")
@click.option("--licence-unknown-ok", is_flag=True,
              help="Publish captions whose licence is not known.")  # fmt: skip
def push(folder: str, repository: str, public: bool, licence_unknown_ok: bool) -> None:
    """Share an index as a dataset repository of the Hugging Face hub, private unless you say.

    The index is checked from end to end first. Log in with `hf auth login`.
    """
    from ..audit.report.terminal import progress_lines
    from ..indexer.search.index import open_index
    from ..indexer.store.folder import local_folder
    from ..indexer.store.hub import push_index
    from .text import pushed_text

    path = local_folder(folder)
    address = push_index(path, repository, public, licence_unknown_ok, progress_lines())
    click.echo(pushed_text(open_index(path), repository, address, public))


@click.command()
@click.argument("repository", metavar="OWNER/NAME")
@click.argument("folder")
@click.option("--revision", help="A branch, tag or commit [default: the newest]")
def pull(repository: str, folder: str, revision: str | None) -> None:
    """Fetch an index that was pushed into a new FOLDER, and check all of it.

    The same command again goes on where it stopped.
    """
    from ..audit.report.terminal import index_text, progress_lines
    from ..indexer.store.folder import local_folder
    from ..indexer.store.hub import pull_index

    target = Path(local_folder(folder))
    click.echo(index_text(pull_index(repository, target, revision, progress_lines())))
