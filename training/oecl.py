"""`bliss train oecl`: train a head on normal images and outliers, and measure it on held-out ones.

Outliers that are normal images are refused. Baselines that it has to beat, a logistic regression of
outliers against normals and a ratio of nearest neighbours, are measured and named beside it.

Views of image files are decoded once, cut and coloured at random, embedded once, and cached. An
encoder of views is an Encoder like any other, whose vector of an image is that of all its views one
after the other. `embed_images` therefore caches views as it does images: in parts, resumable, with
a manifest and checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..artefacts import MANIFEST, read_json
from ..corpora import list_images
from ..errors import BlissError, UsageError
from ..evaluation import auroc
from ..indexer import (
    INTERPOLATIONS,
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    Failure,
    check_same_model,
    embed_images,
    is_embedding_folder,
    read_image_embeddings,
    whole_rows,
)
from ..progress import Progress, no_progress
from ..safe_text import counted
from ..scorer import LOSSES, SCORES, Fitting, Need, Normals, Query, fit_score, save_head
from .oecl_training import FEWEST, OeclSettings, TrainedHead, train_head

AREA = (0.3, 1.0)
"""Share of the picture that a crop keeps."""
SHAPE = (3 / 4, 4 / 3)
"""Width over height of a crop, relative to the picture's."""
STRENGTH = 0.4
"""Brightness, contrast and saturation are each multiplied by 1 ± up to this."""
ENLARGED = 2
"""Pictures are decoded at this multiple of the model's size, so that crops keep their detail."""


def views_encoder(
    encoder: Encoder, count: int, seed: int = 0, quarters: Sequence[int] = (0,)
) -> Encoder:
    """An Encoder whose image vector is len(quarters)·count views of `encoder`, scaled to length 1.

    For each number of quarter turns, the picture turned so comes first, then `count` - 1 random
    views of that. They depend on the seed and the picture's pixels alone, so order and batches do
    not matter and the same picture has the same views. `views_of` takes the vector apart.
    """
    plain = encoder.preprocessing
    height, width = plain.size
    facts = {
        "views": count,
        "quarter_turns": list(quarters),
        "seed": seed,
        "area": list(AREA),
        "shape": list(SHAPE),
        "strength": STRENGTH,
        "enlarged": ENLARGED,
    }
    interpolation = INTERPOLATIONS[plain.interpolation]

    def encode_images(pixels: np.ndarray) -> np.ndarray:
        made = [
            view
            for picture in pixels
            for turns in quarters
            for view in picture_views(
                np.rot90(picture, turns), count, seed, plain.size, interpolation
            )
        ]
        rows = [
            encoder.encode_images(np.stack(made[start : start + encoder.batch_size]))
            for start in range(0, len(made), encoder.batch_size)
        ]
        return np.concatenate(rows).reshape(len(pixels), -1) / np.float32(
            np.sqrt(len(quarters) * count)
        )

    return replace(
        encoder,
        facts={
            **encoder.facts,
            "dimension": len(quarters) * count * encoder.facts["dimension"],
            "preprocessing": {**encoder.facts["preprocessing"], "views": facts},
        },
        preprocessing=replace(plain, size=(ENLARGED * height, ENLARGED * width)),
        batch_size=max(4, encoder.batch_size // (len(quarters) * count)),
        encode_images=encode_images,
    )


def views_of(vectors: np.ndarray, quarters: int, count: int) -> np.ndarray:
    """float32 [n, quarters, count, d] unit rows of what a `views_encoder` made [n, …]."""
    n, width = vectors.shape
    rows = vectors.reshape(n, quarters, count, width // (quarters * count))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def picture_views(
    picture: np.ndarray,
    count: int,
    seed: int,
    size: tuple[int, int],
    interpolation: Image.Resampling,
) -> list[np.ndarray]:
    """The picture uint8 [H, W, 3] resized to `size` (height, width), then count - 1 random views.

    A random view is a crop of 30 to 100 % of the area and of a shape within 3:4 and 4:3 of the
    picture's, resized; mirrored half of the time; brightness, contrast and saturation changed.
    """
    content = hashlib.blake2b(np.ascontiguousarray(picture).tobytes(), digest_size=8)
    rng = np.random.default_rng([seed, int.from_bytes(content.digest(), "little")])
    image, target = Image.fromarray(picture), (size[1], size[0])
    views = [np.asarray(image.resize(target, interpolation))]
    for _ in range(count - 1):
        cut = np.asarray(image.resize(target, interpolation, box=_crop(image.size, rng)))
        mirrored = cut[:, ::-1] if rng.random() < 0.5 else cut
        views.append(_coloured(mirrored, rng.uniform(1 - STRENGTH, 1 + STRENGTH, 3)))
    return views


def _crop(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random box (left, top, right, bottom) inside a picture of `size` (width, height)."""
    area, shape = rng.uniform(*AREA), np.exp(rng.uniform(*np.log(SHAPE)))
    wide = min(1.0, np.sqrt(area * shape))
    high = min(1.0, area / wide)
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
    width, height = size
    return left * width, top * height, (left + wide) * width, (top + high) * height


def _coloured(picture: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """A uint8 picture with brightness, then contrast, then saturation multiplied by `factors`."""
    brightness, contrast, saturation = factors.astype(np.float32)
    values = picture.astype(np.float32) * brightness
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    values = (values - grey.mean()) * contrast + grey.mean()
    grey = (values @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]
    values = (values - grey) * saturation + grey
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


NORMAL_TURNS, OUTLIER_TURNS = (0, 1), (2, 3)
"""self-OECL: 0° and 90° are normal, 180° and 270° are outliers."""


@dataclass(frozen=True)
class OeclRequest:
    """What `bliss train oecl` is to do."""

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
    facts = _request_facts(request, encoder)
    _check_output(Path(request.output), facts, request.embed.overwrite)
    turns = (0,) if request.outliers else (*NORMAL_TURNS, *OUTLIER_TURNS)
    normal, images, model = _open(request.normals, "normals", request, encoder, turns, progress)
    hashes, failures, seed = tuple(images.hashes), images.failures, request.settings.seed
    split = split_rows(hashes, (None,) * len(hashes), request.held_out, seed)
    if request.outliers is None:
        normal, outlier = normal[:, :2], normal[:, 2:]
        other_split = split
    else:
        outlier, others, other_model = _open(
            request.outliers, "outliers", request, encoder, turns, progress
        )
        check_same_model(model, request.normals, other_model, request.outliers)
        other_hashes = tuple(others.hashes)
        check_apart(
            (normal[:, 0, 0], hashes),
            (outlier[:, 0, 0], other_hashes, tuple(others.paths)),
            request.outliers,
        )
        other_split = split_rows(other_hashes, tuple(others.labels), request.held_out, seed)
        failures = (*failures, *others.failures)
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
        model={**model},
        counts=counts,
        settings=asdict(request.settings),
        request=facts,
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
) -> tuple[np.ndarray, EmbeddedImages, Mapping[str, Any]]:
    """Views float32 [n, turns, V, d], the first of an image as it is; the images; the model."""
    if is_embedded(folder):
        found = read_image_embeddings(folder)
        if found.failures:
            raise BlissError(
                f"{len(found.failures)} embeddings in {folder} are zero or not finite (the first: "
                f"{found.failures[0].path})",
                "finite embeddings",
                "Embed those images again or leave them out",
            )
        return whole_rows(found.vectors)[:, None, None], found, found.model
    if encoder is None:
        raise UsageError(
            f"{folder} holds images and no model was given", "a model to embed them", "Add --model"
        )
    several = views_encoder(encoder, request.views, request.settings.seed, turns)
    target = Path(request.output) / f"views-{name}"
    found = embed_images(list_images(folder), several, target, request.embed, progress)
    return views_of(whole_rows(found.vectors), len(turns), request.views), found, encoder.facts


def _request_facts(request: OeclRequest, encoder: Encoder | None) -> dict[str, Any]:
    return {
        "normals": request.normals,
        "outliers": request.outliers,
        "views": request.views,
        "held_out": request.held_out,
        "settings": asdict(request.settings),
        "weights_sha256": None if encoder is None else encoder.facts["weights_sha256"],
    }


def _check_output(folder: Path, request: Mapping[str, Any], overwrite: bool) -> None:
    """Raise UsageError where `folder` holds the head of another request."""
    if overwrite or not (folder / MANIFEST).is_file():
        return
    before = read_json(folder / MANIFEST).get("request")
    before = before if isinstance(before, dict) else {}
    differing = sorted(
        name for name in {*before, *request} if before.get(name) != request.get(name)
    )
    if differing:
        raise UsageError(
            f"{folder} was made with other settings ({', '.join(differing)} differ)",
            "the same settings, or another folder",
            "Choose another --output, or pass --overwrite",
        )


BASELINES = ("outlier_logistic", "outlier_knn_ratio")


@dataclass(frozen=True)
class OeclResult:
    """What was trained, and how it compares with its baselines on held-out images."""

    head: TrainedHead
    counts: Mapping[str, int]
    held_out: str
    """One line: what was held out."""
    auroc: Mapping[str, float]
    """Score -> AUROC of held-out outliers against held-out normals."""
    failures: tuple[Failure, ...]

    @property
    def verdict(self) -> str:
        """One line saying who wins; the baselines are named whenever they are as good."""
        ours = max(value for name, value in self.auroc.items() if name not in BASELINES)
        name = max(BASELINES, key=lambda baseline: self.auroc[baseline])
        gap = 100 * (self.auroc[name] - ours)
        if round(gap, 2) > 0:
            return f"The baseline {name} wins, by {gap:.2f}: use it instead of oecl."
        if round(gap, 2) == 0:
            return f"The baseline {name} is as good as oecl, and simpler."
        return f"oecl is ahead of the best baseline, {name}, by {-gap:.2f}."


def measure(
    arrays: Mapping[str, np.ndarray], normals: np.ndarray, outliers: np.ndarray
) -> dict[str, float]:
    """AUROC of each trained score between views of normals [n, V, d] and of outliers [m, W, d].

    `oecl` and the baselines see the image as it is; `oecl, V views` averages over all views.
    """
    nothing = np.zeros((0, normals.shape[2]), np.float32)
    known = Normals((), nothing, nothing, np.zeros(0, np.int64))
    truth = np.repeat([False, True], [len(normals), len(outliers)])

    def of(name: str, query: Callable[[np.ndarray], Query]) -> float:
        fitted = fit_score(SCORES[name], Fitting(known, nothing, {Need.HEAD: arrays}))
        return auroc(np.concatenate([fitted(query(rows)) for rows in (normals, outliers)]), truth)

    found = {}
    views = max(normals.shape[1], outliers.shape[1])
    if views > 1:
        found[f"oecl, {views} views"] = of("oecl", lambda rows: Query(rows[:, 0], views=rows))
    for name in ("oecl", *BASELINES):
        found[name] = of(name, lambda rows: Query(rows[:, 0]))
    return found


def result_lines(result: OeclResult, output: str) -> list[str]:
    """Counts, losses, the table of AUROCs in %, and who wins."""
    counts, losses = result.counts, result.head.losses
    first, last = losses[0], losses[-1]
    return [
        f"Trained on {counts['normals']} normal and {counts['outliers']} outlier images, "
        f"{len(result.failures)} unreadable, for {len(losses)} epochs.",
        f"Contrastive loss {first[0]:.3f} to {last[0]:.3f}, outlier length {first[1]:.3f} to "
        f"{last[1]:.3f}, floor {first[2]:.3f} to {last[2]:.3f}: {Path(output) / LOSSES}",
        result.held_out,
        "",
        f"{'score':<20}{'AUROC':>7}",
        *(f"{name:<20}{100 * value:>7.2f}" for name, value in result.auroc.items()),
        "",
        result.verdict,
        f"Score with it: bliss audit … --score oecl --trained {output}",
    ]


def held_out_line(counts: Mapping[str, int], split: Split, turned: bool) -> str:
    """One line: how many images were held out, and how they were chosen."""
    line = (
        f"Held out: {counts['normals_held_out']} normal and "
        f"{counts['outliers_held_out']} outlier images"
    )
    if turned:
        return f"{line}, the outliers being turned copies"
    if split.classes:
        return f"{line}, the outliers being whole classes: {', '.join(split.classes)}"
    return f"{line}, chosen at random"


SAME = 0.9999
"""Cosine above which two embeddings are of the same picture."""
WHOLE_CLASSES = 4
"""Outlier classes from which on whole ones are held out."""
AT_ONCE = 2048


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out; `classes` are the outlier classes held out whole."""

    kept: np.ndarray
    held: np.ndarray
    classes: tuple[str, ...] = ()


def split_rows(
    hashes: Sequence[str], labels: Sequence[str | None], share: float, seed: int
) -> Split:
    """Hold out a `share` of n images, copies of one staying together.

    With 4 classes or more whole classes are held out instead: an anomaly to come is seldom of a
    kind that was trained on. Raises BlissError where fewer than 4 would be left on either side.
    """
    if not 0 < share < 1:
        raise UsageError(f"a held-out share of {share} was given", "above 0, below 1", "Try 0.2")
    named = sorted({label for label in labels if label is not None})
    whole = len(named) >= WHOLE_CLASSES
    groups = [label or "" for label in labels] if whole else list(hashes)
    distinct = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(distinct))
    chosen = {distinct[i] for i in order[: max(1, round(share * len(distinct)))]}
    held = np.array([group in chosen for group in groups], bool)
    if min(held.sum(), (~held).sum()) < FEWEST:
        raise BlissError(
            f"there are {len(held)} images, of which {int(held.sum())} would be held out",
            f"at least {FEWEST} to train on and {FEWEST} held out",
            "Add images",
        )
    return Split(
        np.flatnonzero(~held), np.flatnonzero(held), tuple(sorted(chosen)) if whole else ()
    )


def check_apart(
    normal: tuple[np.ndarray, Sequence[str]],
    outlier: tuple[np.ndarray, Sequence[str], Sequence[str]],
    source: str,
) -> None:
    """Raise BlissError where outliers have the content of a normal image, or nearly its vector.

    `normal` are unit rows [n, d] and content hashes, `outlier` the same [m, d] and paths. Nearly
    is a cosine above 0.9999: a copy saved again, or one of two sets of embeddings.
    """
    rows, hashes = normal
    known = set(hashes)
    others, contents, paths = outlier
    nearest = np.full(len(others), -1.0)
    for start in range(0, len(rows), AT_ONCE):
        nearest = np.maximum(nearest, (rows[start : start + AT_ONCE] @ others.T).max(axis=0))
    same = (nearest > SAME) | np.array([content in known for content in contents], bool)
    if same.any():
        count = int(same.sum())
        raise BlissError(
            f"{counted(count, f'outlier image in {source} is', f'outlier images in {source} are')} "
            "also among the normal ones "
            f"(the first: {paths[int(same.argmax())]})",
            "outliers that are not normal",
            "Take the common images out of either set",
        )


RIDGE = 1e-3
STEPS = 200


def outlier_logistic(
    normals: np.ndarray, outliers: np.ndarray, ridge: float = RIDGE
) -> tuple[np.ndarray, float]:
    """Weights float32 [d] and bias of the log-odds of an outlier, of rows [n, d] and [m, d].

    Minimises ½·(mean log-loss of normals + mean log-loss of outliers) + ½·ridge·‖v‖², v being the
    weights of coordinates standardised over all rows; L-BFGS in float64. The same rows give the
    same weights.
    """
    rows = np.concatenate([normals, outliers]).astype(np.float64)
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-8)
    inputs = torch.from_numpy((rows - mean) / scale)
    sign = torch.ones(len(rows), dtype=torch.float64)
    sign[: len(normals)] = -1
    share = torch.cat(
        [torch.full((len(part),), 0.5 / len(part)) for part in (normals, outliers)]
    ).double()
    weights = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=STEPS,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        odds = inputs @ weights[:-1] + weights[-1]
        missed = (share * torch.nn.functional.softplus(-sign * odds)).sum()
        total = missed + 0.5 * ridge * weights[:-1].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    found = weights.detach().numpy()
    made = found[:-1] / scale
    return made.astype(np.float32), float(found[-1] - made @ mean)
