"""A finished audit as a Hugging Face dataset: the images with the columns an audit adds.

It is a `datasets` dataset on disk, or a repository of the hub, private unless asked otherwise. The
pictures go along as they are, EXIF and all; images that could not be read are not in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...artefacts import temporary_folder
from ...errors import BlissError, UsageError
from ..folder import RunFolder
from ..review.photographs import read_photographs, run_photographs, wanted_images

ROWS_AT_ONCE = 1_000


def save_dataset(run: RunFolder, folder: str | Path) -> int:
    """Write the dataset to a new `folder`, for `datasets.load_from_disk`; returns its rows.

    Raises UsageError where the folder holds something, BlissError where a picture of the run is
    gone or has no file.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is already there", "a new or empty folder", "Choose another folder"
        )
    with temporary_folder(next(filter(Path.is_dir, folder.absolute().parents))) as scratch:
        dataset = _dataset(run, scratch / "cache")
        made = scratch / "made"
        dataset.save_to_disk(made)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
        return len(dataset)


def push_dataset(run: RunFolder, repository: str, public: bool = False) -> int:
    """Upload the dataset to the hub's `repository`, "owner/name"; returns its rows.

    Raises BlissError where a picture is gone, and with the hub's own reason where it refuses.
    """
    with temporary_folder() as scratch:
        dataset = _dataset(run, scratch / "cache")
        try:
            dataset.push_to_hub(repository, private=not public)
        except Exception as error:
            raise BlissError(
                f"{repository} could not be uploaded ({type(error).__name__}: {error})",
                "a reachable hub, a name owner/name, and a token that may write there",
                "Log in with `hf auth login`, or save the dataset to disk instead",
            ) from error
        return len(dataset)


def _dataset(run: RunFolder, scratch: Path) -> Any:
    import datasets

    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        schema = run.columns(sorted(run.names)).schema.empty_table().schema
        features = datasets.Features(
            {"image": datasets.Image(), **datasets.Features.from_arrow_schema(schema)}
        )
        return datasets.Dataset.from_generator(
            _rows, gen_kwargs={"run": run}, features=features, cache_dir=str(scratch)
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, BlissError):
            raise error.__cause__ from None
        raise
    finally:
        if not bars:
            datasets.enable_progress_bars()


def _rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Every image with its columns, in the order of the table: by ascending row."""
    table = run.columns(sorted(run.names))
    found = read_photographs(run_photographs(run), wanted_images(run))
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        for row in batch.to_pylist():
            picture = next(found)
            if picture.data is None:
                raise BlissError(
                    f"the picture {row['path']} of {run.folder} cannot be read: {picture.problem}",
                    f"the collection {run.source} as it was audited",
                    "Put it back, or audit what is left",
                )
            yield {"image": {"bytes": picture.data, "path": row["path"]}, **row}
