"""One training of OECL as it is asked for: which images, which outliers, where to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST, read_json
from ..corpora.images import list_images
from ..errors import BlissError, UsageError
from ..indexer.embedded_images import Failure, read_image_embeddings
from ..indexer.encode.encoder import Encoder, check_same_model
from ..indexer.images.embedding import EmbedOptions, embed_images
from ..indexer.stored_rows import whole_rows
from ..indexer.vectors.layout import is_embedding_folder
from ..progress import Progress, no_progress
from ..scorer.scores.trained_file import save_head
from .image_views import views_encoder, views_of
from .oecl_report import OeclResult, held_out_line, measure
from .oecl_training import OeclSettings, TrainedHead, train_head
from .outlier_baselines import outlier_logistic
from .outlier_split import check_apart, split_rows

NORMAL_TURNS, OUTLIER_TURNS = (0, 1), (2, 3)
"""self-OECL: 0° and 90° are normal, 180° and 270° are outliers."""


@dataclass(frozen=True)
class OeclRequest:
    """What `bliss train oecl` was asked to do."""

    normals: str
    """A folder of images or of their embeddings."""
    outliers: str | None = None
    """The same; None trains against the normal images turned by 180° and 270°."""
    output: str = "bliss-oecl"
    views: int = 1
    """Cached views of every image file; 1: the image alone. Feature-space views come on top."""
    held_out: float = 0.2
    """Share of normals and of outliers that the figures are measured on."""
    settings: OeclSettings = field(default_factory=OeclSettings)
    embed: EmbedOptions = field(default_factory=EmbedOptions)

    def __post_init__(self) -> None:
        if self.views < 1:
            raise UsageError(f"{self.views} views were asked for", "1 or more", "Correct --views")
        if self.outliers is None and is_embedded(self.normals):
            raise UsageError(
                f"{self.normals} holds embeddings, and no outliers were given",
                "image files, which can be turned, or a set of outliers",
                "Add --outliers DIR, or give the images themselves",
            )


@dataclass(frozen=True)
class _Opened:
    views: np.ndarray
    """float32 [n, turns, V, d], unit rows; the first view is the image as it is."""
    hashes: tuple[str, ...]
    labels: tuple[str | None, ...]
    paths: tuple[str, ...]
    failures: tuple[Failure, ...]
    model: Mapping[str, Any]
    source: str


def is_embedded(folder: str) -> bool:
    """Whether a folder holds embeddings, and not images."""
    path = Path(folder)
    return (path / MANIFEST).is_file() or is_embedding_folder(path, "img")


def needs_encoder(request: OeclRequest) -> bool:
    """Whether any image has to be embedded."""
    folders = [folder for folder in (request.normals, request.outliers) if folder is not None]
    return not all(is_embedded(folder) for folder in folders)


def run_oecl(
    request: OeclRequest,
    encoder: Encoder | None = None,
    progress: Progress = no_progress,
) -> OeclResult:
    """Embed what is not embedded, train, measure, and write the head to `request.output`.

    Raises UsageError where the folder holds another request's head; BlissError for sets that
    overlap, come from different models, or are too small to hold anything out.
    """
    asked = _asked(request, encoder)
    _check_output(Path(request.output), asked, request.embed.overwrite)
    turns = (0,) if request.outliers else (*NORMAL_TURNS, *OUTLIER_TURNS)
    opened = _open(request.normals, "normals", request, encoder, turns, progress)
    seed = request.settings.seed
    split = split_rows(opened.hashes, (None,) * len(opened.hashes), request.held_out, seed)
    if request.outliers is None:
        normal, outlier = opened.views[:, :2], opened.views[:, 2:]
        other_split, failures = split, opened.failures
    else:
        other = _open(request.outliers, "outliers", request, encoder, turns, progress)
        check_same_model(opened.model, request.normals, other.model, request.outliers)
        check_apart(
            (opened.views[:, 0, 0], opened.hashes),
            (other.views[:, 0, 0], other.hashes, other.paths),
            request.outliers,
        )
        normal, outlier = opened.views, other.views
        other_split = split_rows(other.hashes, other.labels, request.held_out, seed)
        failures = (*opened.failures, *other.failures)
    parts = [
        _flat(rows[chosen])
        for rows, each in ((normal, split), (outlier, other_split))
        for chosen in (each.kept, each.held)
    ]
    head = train_head(parts[0], parts[2], request.settings, progress)
    weights, bias = outlier_logistic(parts[0][:, 0], parts[2][:, 0])
    arrays = {
        **head.arrays,
        "logistic": weights,
        "logistic_bias": np.array([bias], np.float32),
        "normals": parts[0][:, 0],
        "outliers": parts[2][:, 0],
    }
    names = ("normals", "normals_held_out", "outliers", "outliers_held_out")
    counts = {name: len(part) for name, part in zip(names, parts, strict=True)}
    result = OeclResult(
        TrainedHead(arrays, head.losses),
        counts,
        held_out_line(counts, other_split, request.outliers is None),
        measure(arrays, parts[1], parts[3]),
        failures,
    )
    save_head(
        Path(request.output),
        arrays,
        head.losses,
        model={**opened.model},
        counts=counts,
        settings=asdict(request.settings),
        request=asked,
        held_out=result.held_out,
        auroc=dict(result.auroc),
        verdict=result.verdict,
        final_losses=dict(
            zip(("contrastive", "outlier_length", "floor"), head.losses[-1].tolist(), strict=True)
        ),
    )
    return result


def _flat(views: np.ndarray) -> np.ndarray:
    """[n, turns, V, d] as [n·turns, V, d]: a turned image is an image of its own."""
    return views.reshape(-1, *views.shape[2:])


def _open(
    folder: str,
    name: str,
    request: OeclRequest,
    encoder: Encoder | None,
    turns: tuple[int, ...],
    progress: Progress,
) -> _Opened:
    if is_embedded(folder):
        found = read_image_embeddings(folder)
        if found.failures:
            raise BlissError(
                f"{len(found.failures)} embeddings in {folder} are zero or not finite (the first: "
                f"{found.failures[0].path})",
                "finite embeddings",
                "Embed those images again or leave them out",
            )
        views, model = whole_rows(found.vectors)[:, None, None], found.model
    elif encoder is None:
        raise UsageError(
            f"{folder} holds images and no model was given", "a model to embed them", "Add --model"
        )
    else:
        several = views_encoder(encoder, request.views, request.settings.seed, turns)
        target = Path(request.output) / f"views-{name}"
        found = embed_images(list_images(folder), several, target, request.embed, progress)
        views, model = views_of(whole_rows(found.vectors), len(turns), request.views), encoder.facts
    hashes, labels, paths = tuple(found.hashes), tuple(found.labels), tuple(found.paths)
    return _Opened(views, hashes, labels, paths, found.failures, model, folder)


def _asked(request: OeclRequest, encoder: Encoder | None) -> dict[str, Any]:
    return {
        "normals": request.normals,
        "outliers": request.outliers,
        "views": request.views,
        "held_out": request.held_out,
        "settings": asdict(request.settings),
        "weights_sha256": None if encoder is None else encoder.facts["weights_sha256"],
    }


def _check_output(folder: Path, asked: Mapping[str, Any], overwrite: bool) -> None:
    """Raise UsageError where `folder` holds a head that was asked for in other words."""
    if overwrite or not (folder / MANIFEST).is_file():
        return
    before = read_json(folder / MANIFEST).get("request")
    before = before if isinstance(before, dict) else {}
    differing = sorted(name for name in {*before, *asked} if before.get(name) != asked.get(name))
    if differing:
        raise UsageError(
            f"{folder} was made with other settings ({', '.join(differing)} differ)",
            "the same settings, or another folder",
            "Choose another --output, or pass --overwrite",
        )
