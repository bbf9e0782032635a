"""A finished audit as a FiftyOne dataset, to look at in its app.

FiftyOne cannot be installed where this is tested, so the tests check the calls against its
documented interface (`Dataset`, `Sample`, `Classification`, `add_samples`), not against itself.
"""

from __future__ import annotations

from typing import Any

from ...errors import BlissError
from ...indexer import UnreadableImage
from ..folder import RunFolder
from ..review.photographs import photograph_file, run_photographs

COLUMNS = (
    "row",
    "path",
    "label",
    "score",
    "rank",
    "nearest_class",
    "p",
    "q",
    "flagged",
    "captions",
)
CAPTIONS = 3


def to_fiftyone(run: RunFolder, name: str) -> Any:
    """A new FiftyOne dataset called `name`: one sample an image, most anomalous first.

    Fields: `ground_truth` (the label, where there is one) and `bliss_nearest` as classifications,
    `bliss_score` (higher = more anomalous), `bliss_rank`, `bliss_captions`, and `bliss_p`,
    `bliss_q`, `bliss_flagged` where the run has them. Raises BlissError where FiftyOne is missing,
    for a collection that is no folder of image files, and for a path that leaves the folder.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise BlissError(
            "FiftyOne is not installed", "the package fiftyone", "pip install fiftyone"
        ) from error
    folder = run_photographs(run).folder
    if folder is None:
        raise BlissError(
            f"the images of {run.source} are no files in a folder",
            "a folder of image files: FiftyOne shows files",
            "Export the run with `bliss export`, or audit a folder of the images",
        )
    table = run.columns(COLUMNS).sort_by("rank")
    samples = []
    for image in table.to_pylist():
        sample = fiftyone.Sample(filepath=_file(folder, image["path"]))
        if image["label"] is not None:
            sample["ground_truth"] = fiftyone.Classification(label=image["label"])
        sample["bliss_nearest"] = fiftyone.Classification(label=image["nearest_class"])
        sample["bliss_captions"] = image["captions"][:CAPTIONS]
        for field in ("score", "rank", "p", "q", "flagged"):
            if image.get(field) is not None:
                sample[f"bliss_{field}"] = image[field]
        samples.append(sample)
    dataset = fiftyone.Dataset(name)
    dataset.add_samples(samples)
    return dataset


def _file(folder: str, path: str) -> str:
    try:
        return photograph_file(folder, path)
    except UnreadableImage as error:
        raise BlissError(
            f"{path} cannot be shown: {error}",
            "images inside the folder of the collection",
            "Do not use a run whose paths lead elsewhere",
        ) from None
