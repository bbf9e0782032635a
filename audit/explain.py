"""Explain the score of single images: its terms, its captions, and where in the image it is.

The score of the explained class (the one an image is filed under, else the nearest) is linear in
the image's embedding (`scorer.explain`), and an encoder splits such a product over the image
(`Encoder.map_cells`). So for every image

    Σ cells + constant = ICS + λ·ETS of the explained class

with the statistics, the prompt, the norm of the embedding and the retrieved captions kept at the
image's own values.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..artefacts import write_atomically
from ..corpora import ImageItem
from ..errors import BlissError, UsageError
from ..indexer import (
    CaptionIndex,
    Decoded,
    Decoder,
    DecodeSettings,
    DecodingLimits,
    EmbeddedImages,
    Encoder,
    Failure,
    UnreadableImage,
    read_file,
    text_column,
    visible_box,
)
from ..safe_text import terminal_text
from ..scorer import Reference, class_terms
from .run import DEFAULTS, AuditSettings, audit_against, given_classes

TOTAL, LABEL, CAPTIONS = "total", "label", "captions"
PICTURE_SIDE = 1024
"""Pixels of the longer side of a picture with its map."""
LIMITS = DecodingLimits()


@dataclass(frozen=True)
class PulledCaption:
    """One retrieved caption: its cosine, its standardised similarity, and what it adds."""

    text: str
    similarity: float
    pull: float
    adds: float


@dataclass(frozen=True)
class Explanation:
    """The score of one image and one class, and its map."""

    path: str
    label: str | None
    explained: str
    """The class whose score is explained."""
    nearest: str
    score: float
    """ICS + λ·ETS of the explained class."""
    ics: float
    ets: float
    weight: float
    """λ."""
    captions: tuple[PulledCaption, ...]
    """Strongest pull first."""
    part: str
    """What the map is of: "total", "label", "captions", or one caption by its text."""
    cells: np.ndarray
    """float64 [rows, columns]."""
    constant: float
    """What belongs to no cell; cells and constant add up to `score`, or to that of the part."""
    method: str
    """"exact" or "crops"."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the cells, in widths and heights of the upright image."""
    picture: bytes
    """The upright image as WebP, its longer side at most PICTURE_SIDE."""

    def facts(self) -> dict[str, Any]:
        """Everything but the picture, as JSON-like values."""
        values = asdict(self)
        del values["picture"]
        values["cells"] = self.cells.tolist()
        return values


def explain(  # noqa: PLR0913 - four artefacts, then keyword-only options
    images: Iterable[ImageItem],
    reference: Reference,
    index: CaptionIndex,
    encoder: Encoder,
    settings: AuditSettings = DEFAULTS,
    *,
    class_name: str | None = None,
    part: str = TOTAL,
) -> tuple[list[Explanation], list[Failure]]:
    """Explain each image of `images`, in their order, and say which could not be read.

    The class explained is `class_name`, else the one an image's label names, else the nearest.
    `part` chooses the map: "total", "label" (minus the standardised similarity to the prompt),
    "captions" (the rest), or "1" to "k" for one caption, strongest pull first. Raises UsageError
    for an unknown class or part and for an encoder that cannot make maps, BlissError where models
    differ.
    """
    if encoder.map_cells is None:
        raise UsageError(
            "the encoder has no map_cells", "an encoder of `load_encoder`", "Load the model again"
        )
    if class_name is not None and class_name not in reference.classes:
        raise UsageError(
            f"--class {class_name} is not a class of the reference",
            f"one of {', '.join(reference.classes[:20])}",
            "Correct --class",
        )
    _check_part(part, settings.k)
    found, failures = _decode(images, encoder)
    explained: list[Explanation] = []
    for start in range(0, len(found), encoder.batch_size):
        batch = found[start : start + encoder.batch_size]
        explained += _explain_batch(batch, reference, index, encoder, settings, class_name, part)
    return explained, failures


@dataclass(frozen=True)
class _Picture:
    item: ImageItem
    decoded: Decoded
    picture: bytes


def _decode(images: Iterable[ImageItem], encoder: Encoder) -> tuple[list[_Picture], list[Failure]]:
    """The pixels that the model sees and a picture of each image, decoded by a worker process."""
    found, failures = [], []
    settings = DecodeSettings(encoder.preprocessing, LIMITS)
    with Decoder() as decoder:
        for item in images:
            try:
                data = _content(item)
                outcome = decoder.decode(item._replace(file=None, data=data), settings)
                if not isinstance(outcome, Decoded):
                    raise UnreadableImage(getattr(outcome, "reason", ""))
                picture = decoder.thumbnail(data, PICTURE_SIDE, LIMITS)
            except UnreadableImage as error:
                failures.append(Failure(item.row, item.path, str(error)))
            else:
                found.append(_Picture(item, outcome, picture))
    return found, failures


def _content(item: ImageItem) -> bytes:
    """The encoded image, read once; UnreadableImage where there is none."""
    if item.problem:
        raise UnreadableImage(item.problem)
    if item.file is not None:
        return read_file(item.file, LIMITS)
    try:
        data = item.data() if callable(item.data) else item.data
    except (OSError, BlissError) as error:
        raise UnreadableImage(str(error)) from error
    assert data is not None
    return data


def _explain_batch(  # noqa: PLR0913
    batch: Sequence[_Picture],
    reference: Reference,
    index: CaptionIndex,
    encoder: Encoder,
    settings: AuditSettings,
    class_name: str | None,
    part: str,
) -> Iterator[Explanation]:
    pixels = np.stack([each.decoded.pixels for each in batch])
    images = EmbeddedImages(
        vectors=encoder.encode_images(pixels),
        rows=np.array([each.item.row for each in batch]),
        paths=text_column([each.item.path for each in batch]),
        labels=text_column([each.item.label for each in batch]),
        hashes=text_column([each.decoded.sha256 for each in batch]),
        failures=(),
        model=encoder.facts,
        source="the images",
    )
    result = audit_against(images, index, reference, settings)
    classes = given_classes(images, reference)
    nearest = result.scores.nearest
    if class_name is not None:
        classes = np.full(len(batch), reference.classes.index(class_name))
    classes = np.where(classes < 0, nearest, classes)
    terms = class_terms(
        np.asarray(images.vectors), result.retrieved, reference, classes, result.left_out
    )
    weight, k = settings.weight, result.retrieved.similarity.shape[1]
    assert encoder.map_cells is not None
    pulls = terms.standardised(np.asarray(images.vectors))
    order = np.argsort(-pulls[:, 1:], axis=1, kind="stable")
    counted = _counted(part, order)
    cells = encoder.map_cells(pixels, terms.directions(weight, counted))
    constants = cells.constant + terms.constants(weight, counted)
    standard = terms.standardised(cells.embedding)
    for i, each in enumerate(batch):
        texts = result.index.captions_of(result.retrieved.rows[i])
        captions = tuple(
            PulledCaption(
                texts[j],
                float(result.retrieved.similarity[i, j]),
                float(standard[i, 1 + j]),
                float(weight * standard[i, 1 + j] / k),
            )
            for j in order[i]
        )
        ics, ets = -float(standard[i, 0]), float(standard[i, 1:].mean())
        with Image.open(io.BytesIO(each.picture)) as picture:
            size = picture.size
        yield Explanation(
            path=each.item.path,
            label=each.item.label,
            explained=reference.classes[classes[i]],
            nearest=reference.classes[nearest[i]],
            score=ics + weight * ets,
            ics=ics,
            ets=ets,
            weight=weight,
            captions=captions,
            part=captions[int(part) - 1].text if part.isdigit() else part,
            cells=cells.cells[i],
            constant=float(constants[i]),
            method=cells.method,
            box=visible_box(size[1], size[0], encoder.preprocessing),
            picture=each.picture,
        )


def _check_part(part: str, k: int) -> None:
    if part not in (TOTAL, LABEL, CAPTIONS) and not (part.isdigit() and 1 <= int(part) <= k):
        raise UsageError(
            f"--part {part} was given",
            f"{TOTAL}, {LABEL}, {CAPTIONS}, or a caption's number from 1 to {k}",
            "Correct --part",
        )


def _counted(part: str, order: np.ndarray) -> np.ndarray:
    """bool [n, 1 + k], which texts of `ClassTerms` a part means; `order` [n, k] is by pull."""
    column = np.arange(1 + order.shape[1])[None]
    if part.isdigit():
        return column == 1 + order[:, int(part) - 1 : int(part)]
    return {TOTAL: column >= 0, LABEL: column == 0, CAPTIONS: column > 0}[part]


def explanation_text(explanations: Sequence[Explanation], most: int = 10) -> str:
    """The terms, the captions and the largest cell of each image, for the terminal."""
    return "\n\n".join(_text(each, most) for each in explanations)


def _text(each: Explanation, most: int) -> str:
    filed = "" if each.label is None else f", filed under {terminal_text(each.label)}"
    lines = [
        f"{terminal_text(each.path)}{filed}: {each.score:.2f} for {terminal_text(each.explained)}"
        f" (nearest class: {terminal_text(each.nearest)})",
        f"  label     {each.ics:+8.2f}   unlike its prompt, in standard deviations",
        f"  captions  {each.weight * each.ets:+8.2f}   {each.weight:g} x {each.ets:.2f}, the mean "
        "pull of its captions",
    ]
    lines += [
        f"    {caption.adds:+8.2f}   {terminal_text(caption.text)} (pull {caption.pull:+.1f}, "
        f"cosine {caption.similarity:.2f})"
        for caption in each.captions[:most]
    ]
    row, column = np.unravel_index(each.cells.argmax(), each.cells.shape)
    rows, columns = each.cells.shape
    lines.append(
        f"  map of {terminal_text(each.part)}: {rows} x {columns} cells ({each.method}), "
        f"{each.cells.sum():+.2f} in the cells and {each.constant:+.2f} in the constant; largest "
        f"{each.cells.max():+.2f} in row {row + 1}, column {column + 1}"
    )
    return "\n".join(lines)


def save_map(each: Explanation, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write `name`.png (the map over the picture) and `name`.npz (its numbers) into `folder`.

    Red cells make the image more anomalous, blue ones less; a legend states the largest value, the
    sum of the cells and the constant.
    """
    drawn, numbers = Path(folder) / f"{name}.png", Path(folder) / f"{name}.npz"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(drawn, lambda file: draw_map(each).save(file, "PNG"))
    values = {
        "cells": each.cells, "constant": each.constant, "box": np.array(each.box),
        "score": each.score, "method": each.method, "part": each.part, "class": each.explained,
    }  # fmt: skip
    write_atomically(numbers, lambda file: np.savez(file, **values))  # type: ignore[arg-type]
    return drawn, numbers


def draw_map(each: Explanation) -> Image.Image:
    """The picture of an explanation with its cells over it and a legend below."""
    with Image.open(io.BytesIO(each.picture)) as opened:
        picture = opened.convert("RGB")
    width, height = picture.size
    left, top, right, bottom = (
        round(value * side) for value, side in zip(each.box, (width, height) * 2, strict=True)
    )
    shades = cell_colours(each.cells)
    over = Image.fromarray(shades, "RGBA").resize(
        (max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC
    )
    layer = Image.new("RGBA", picture.size)
    layer.paste(over, (left, top))
    picture.paste(layer, (0, 0), layer)
    legend = (
        f"{each.explained}: {each.part}. Largest cell {each.cells.max():+.2f}, cells "
        f"{each.cells.sum():+.2f}, constant {each.constant:+.2f} ({each.method})"
    )
    page = Image.new("RGB", (width, height + 18), "white")
    page.paste(picture, (0, 0))
    ascii_only = legend.encode("ascii", "replace").decode()
    ImageDraw.Draw(page).text((4, height + 3), ascii_only, fill="black")
    return page


def cell_colours(cells: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns, 4]: red above the mean of the cells, blue below, by their distance."""
    apart = cells - cells.mean()
    strength = np.abs(apart) / (np.abs(apart).max() or 1.0)
    colours = np.zeros((*cells.shape, 4), np.uint8)
    colours[..., 0] = np.where(apart > 0, 220, 30)
    colours[..., 1] = 40
    colours[..., 2] = np.where(apart > 0, 30, 220)
    colours[..., 3] = np.round(170 * strength)
    return colours
