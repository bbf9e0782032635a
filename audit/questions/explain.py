"""Explain the score of single images: its terms, its captions, and where in the image it is.

The score of the explained class (the one an image is filed under, else the nearest) is linear in
the image's embedding (`scorer.explain`), and an encoder splits such a product over the image
(`Encoder.map_cells`). So for every image

    Σ cells + constant = ICS + λ·ETS of the explained class

with the statistics, the prompt, the norm of the embedding and the retrieved captions kept at the
image's own values. `explain` does this for files, `map_run` for images of a finished run.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...arguments import checked
from ...artefacts import write_atomically
from ...corpora import ImageItem
from ...errors import BlissError, UsageError
from ...indexer import (
    CaptionIndex,
    CellMap,
    Decoded,
    Decoder,
    DecodeSettings,
    DecodingLimits,
    EmbeddedImages,
    Encoder,
    Failure,
    Hits,
    ModelChoice,
    UnreadableImage,
    numbers_of,
    open_indexes,
    read_file,
    text_column,
    visible_box,
)
from ...safe_text import cell_text, counted, terminal_text
from ...scorer import (
    ARRAYS,
    NO_FILE,
    ClassTerms,
    LeftOut,
    Reference,
    as_members,
    class_terms,
    gather_texts,
    load_reference,
)
from ..fitting.reference import REFERENCE
from ..fitting.robust import without_rows
from ..folder import DROPPED, RUN, RunFolder, located, open_run
from ..models import Say, encoder_of_run
from ..report.neighbours import neighbours_of
from ..review.photographs import (
    StoredImages,
    Wanted,
    audited_embeddings,
    read_photographs,
    reference_embeddings,
    run_photographs,
)
from ..run import DEFAULTS, AuditSettings, audit_against, given_classes

TOTAL, LABEL, CAPTIONS = "total", "label", "captions"
PICTURE_SIDE = 1024
"""Pixels of the longer side of a picture with its map."""
MAPPED_AT_ONCE = 8
"""Images whose maps are made together: the states of all layers are held, 50 MB each of ViT-L."""
LIMITS = DecodingLimits()


@dataclass(frozen=True)
class PulledCaption:
    """One retrieved caption: its cosine, its standardised similarity, and what it adds."""

    text: str
    similarity: float
    pull: float
    adds: float


@dataclass(frozen=True)
class NearImage:
    """A reference image near to an explained one."""

    path: str | None
    """None where the reference keeps its vector and no name."""
    label: str | None
    similarity: float


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
    nearest_images: tuple[NearImage, ...]
    """Of the reference, nearest first, without copies of the image."""
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


@checked
def explain(  # noqa: PLR0913 - four artefacts, then keyword-only options
    images: Iterable[ImageItem | str | Path],
    reference: Reference,
    index: CaptionIndex,
    encoder: Encoder,
    settings: AuditSettings = DEFAULTS,
    *,
    class_name: str | None = None,
    part: str = TOTAL,
    kept: KeptImages | None = None,
) -> tuple[list[Explanation], list[Failure]]:
    """Explain each image of `images` (files or items), and say which could not be read.

    The class explained is `class_name`, else the one an image's label names, else the nearest.
    `part` chooses the map: "total", "label" (minus the standardised similarity to the prompt),
    "captions" (the rest), or "1" to "k" for one caption, strongest pull first. The nearest images
    are those of `kept`, by default what the reference itself keeps. Raises UsageError for an
    unknown class or part and for an encoder that cannot make maps, BlissError where models differ.
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
    if part not in (TOTAL, LABEL, CAPTIONS) and not (
        part.isdecimal() and 1 <= int(part) <= settings.k
    ):
        raise UsageError(
            f"--part {part} was given",
            f"{TOTAL}, {LABEL}, {CAPTIONS}, or a caption's number from 1 to {settings.k}",
            "Correct --part",
        )
    items = [
        each if isinstance(each, ImageItem) else ImageItem(row, str(each), file=str(each))
        for row, each in enumerate(images)
    ]
    found, failures = _decode(items, encoder)
    explained: list[Explanation] = []
    kept = KeptImages(reference) if kept is None else kept
    size = min(encoder.batch_size, MAPPED_AT_ONCE)
    for start in range(0, len(found), size):
        batch = found[start : start + size]
        explained += _explain_batch(
            batch, kept, index, encoder, settings, class_name=class_name, part=part
        )
    return explained, failures


NEAREST = 3
SAME = 1 - 1e-6
"""Cosine from which an image that is in the reference counts as itself."""


@dataclass(frozen=True)
class KeptImages:
    """The images of a reference as far as they are at hand: those of its run, or its own rows."""

    reference: Reference
    run: RunFolder | None = None

    def nearest(self, images: EmbeddedImages, left_out: LeftOut) -> list[tuple[NearImage, ...]]:
        """At most NEAREST of each of n images, without copies of it."""
        vectors = np.asarray(images.vectors)
        if self.run is not None:
            found = neighbours_of(self.run, vectors, list(images.hashes))
            if found is not None:
                return [
                    tuple(NearImage(each.image.path, each.label, each.similarity) for each in near)
                    for near in found
                ]
        rows, labels = self._rows()
        inside = np.isin(np.arange(len(vectors)), left_out.images)
        near = []
        for vector, known in zip(vectors, inside, strict=True):
            cosines = rows @ vector
            order = np.argsort(-cosines, kind="stable")
            order = order[~(known & (cosines[order] >= SAME))][:NEAREST]
            near.append(tuple(
                NearImage(None, self.reference.classes[labels[at]], float(cosines[at]))
                for at in order.tolist()
            ))  # fmt: skip
        return near

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit rows that the reference itself keeps, and their classes; none of some classes."""
        rows = [self.reference.kept_images(number) for number in range(len(self.reference.classes))]
        labels = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
        return np.concatenate(rows), labels

    def remark(self) -> str:
        """What the nearest images cannot say, in a line; "" where they are files of a run."""
        if self.run is not None and (
            reference_embeddings(self.run)
            if self.run.facts.get("request", {}).get("reference")
            else audited_embeddings(self.run)
        ):
            return ""
        if not len(self._rows()[0]):
            return "the reference keeps statistics only, so that no nearest images can be shown"
        return "the reference keeps vectors without names, so that nearest images have no path"


def kept_images(folder: str, reference: Reference) -> KeptImages:
    """The images of the reference in `folder`, those of its run where it is a run's."""
    path = Path(folder).resolve()
    if path.name == REFERENCE and (path.parent / RUN).is_file():
        return KeptImages(reference, open_run(path.parent))
    return KeptImages(reference)


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
    kept: KeptImages,
    index: CaptionIndex,
    encoder: Encoder,
    settings: AuditSettings,
    *,
    class_name: str | None,
    part: str,
) -> Iterator[Explanation]:
    reference = kept.reference
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
    near = kept.nearest(images, result.left_out)
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
            nearest_images=near[i],
            part=captions[int(part) - 1].text if part.isdecimal() else part,
            cells=cells.cells[i],
            constant=float(constants[i]),
            method=cells.method,
            box=visible_box(size[1], size[0], encoder.preprocessing),
            picture=each.picture,
        )


def _counted(part: str, order: np.ndarray) -> np.ndarray:
    """bool [n, 1 + k], which texts of `ClassTerms` a part means; `order` [n, k] is by pull."""
    column = np.arange(1 + order.shape[1])[None]
    if part.isdecimal():
        return column == 1 + order[:, int(part) - 1 : int(part)]
    return {TOTAL: column >= 0, LABEL: column == 0, CAPTIONS: column > 0}[part]


def explanation_text(explanations: Sequence[Explanation]) -> str:
    """The terms, the captions and the largest cell of each image, for the terminal."""
    return "\n\n".join(map(_text, explanations))


CAPTIONS_SHOWN = 10


def _text(each: Explanation) -> str:
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
        for caption in each.captions[:CAPTIONS_SHOWN]
    ]
    if each.nearest_images:
        lines.append("  nearest reference images")
    lines += [
        f"    {image.similarity:8.2f}   "
        f"{terminal_text('an image' if image.path is None else image.path)}"
        f"{'' if image.label is None else f' ({terminal_text(image.label)})'}"
        for image in each.nearest_images
    ]
    row, column = np.unravel_index(each.cells.argmax(), each.cells.shape)
    rows, columns = each.cells.shape
    lines.append(
        f"  map of {terminal_text(each.part)}: {rows} x {columns} cells ({each.method}), "
        f"{each.cells.sum():+.2f} in the cells and {each.constant:+.2f} in the constant; largest "
        f"{each.cells.max():+.2f} in row {row + 1}, column {column + 1}"
    )
    return "\n".join(lines)


@checked
def save_map(each: Explanation, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write `name`.png (the map over the picture) and `name`.npz (its numbers) into `folder`.

    Red cells make the image more anomalous, blue ones less; a legend states the largest value, the
    sum of the cells and the constant. Raises UsageError where `name`.png is there and is no map.
    """
    drawn, numbers = Path(folder) / f"{name}.png", Path(folder) / f"{name}.npz"
    if drawn.exists() and not numbers.exists():
        raise UsageError(
            f"{drawn} is there already, and is no map",
            "a new folder, or one of maps",
            "Choose another --output",
        )
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
    lines = _wrapped(legend.encode("ascii", "replace").decode(), width - 8)
    page = Image.new("RGB", (width, height + 4 + LINE * len(lines)), "white")
    page.paste(picture, (0, 0))
    for number, line in enumerate(lines):
        ImageDraw.Draw(page).text((4, height + 3 + LINE * number), line, fill="black")
    return page


LINE = 14
"""Pixels of a line of a legend."""


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels; a longer word has a line of its own."""
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and measure.textlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


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


AGREEMENT = 1e-3
"""Largest |Δ|/(1 + |score|) between a map's total and the score that the run states."""


@dataclass(frozen=True)
class RunMaps:
    """The maps of some images of a run, as the page draws them."""

    maps: Mapping[int, Mapping[str, Any]]
    """By source row: rows, cols, values (row by row), total (their sum), title, method, constant
    (as much of the total as is spread evenly), and box (left, top, right and bottom of the cells,
    in widths and heights of the image)."""
    reasons: Mapping[str, int]
    """Why other images have none, and how many."""

    def text(self) -> str:
        """How many maps there are, and why not more."""
        missing = "".join(f"; {count:,} without: {why}" for why, count in self.reasons.items())
        return f"{counted(len(self.maps), 'heatmap')}{missing}"


def map_run(
    run: RunFolder,
    positions: np.ndarray,
    choice: ModelChoice,
    say: Say = lambda line: None,
    reference: Reference | None = None,
) -> RunMaps:
    """Maps of the images at `positions` of a run's table, each passed through the model again.

    The class explained is the one an image is filed under, else the nearest. `reference` is the one
    that the run scored with; None: it is read from its folder. An image that is gone, or whose map
    does not add up to the score in the table, has none. Raises BlissError where no map can be made:
    without a model, the index, the reference or the embeddings.
    """
    stored = audited_embeddings(run)
    if stored is None or "caption_rows" not in run.names:
        raise BlissError(
            f"{run.folder} has no {'embeddings' if stored is None else 'rows of captions'}",
            "a complete run",
            "Run the same audit again",
        )
    encoder = encoder_of_run(choice, run.facts["model"], str(run.folder), say)
    if encoder.map_cells is None:
        raise BlissError("the model makes no maps", "one that `load_encoder` opens", "Choose it")
    reference = reference or _reference_of(run)
    facts = run.facts["index"]
    folders = [each["folder"] for each in facts.get("indexes") or [facts]]
    index = open_indexes([located(str(each), run.folder) for each in folders])
    images = run.images(positions)
    places = stored.places(run.rows)[positions]
    weight = float(run.facts["settings"]["weight"])
    maps: dict[int, Mapping[str, Any]] = {}
    reasons: Counter[str] = Counter()
    for batch in _pixels(run, images, stored.hashes(places.tolist()), encoder, reasons):
        shown = [images[i] for i, _ in batch]
        terms, classes = _terms_of(shown, stored, places[[i for i, _ in batch]], index, reference)
        cells = encoder.map_cells(
            np.stack([decoded.pixels for _, decoded in batch]), terms.directions(weight)
        )
        constants = cells.constant + terms.constants(weight)
        for j, (image, (_, decoded)) in enumerate(zip(shown, batch, strict=True)):
            name = reference.classes[classes[j]]
            drawn = _drawn(cells, constants, j) | {
                "title": _title(name, image["label"] == name, run.facts["settings"]),
                "box": _box(decoded, encoder),
            }
            filed = image["label"] == name
            ics, ets = (image["given_ics"], image["given_ets"]) if filed else (
                image["ics"], image["ets"])  # fmt: skip
            stated = ics + weight * ets
            if abs(drawn["total"] - stated) <= AGREEMENT * (1 + abs(stated)):
                maps[int(image["row"])] = drawn
            else:
                reasons["the model or the reference gives another score than the run's"] += 1
    return RunMaps(maps, reasons)


def _drawn(cells: CellMap, constants: np.ndarray, j: int) -> dict[str, Any]:
    grid, constant = cells.cells[j], float(constants[j])
    values = grid + constant / grid.size
    return {
        "rows": grid.shape[0],
        "cols": grid.shape[1],
        "values": [float(f"{value:.6g}") for value in values.ravel()],
        "total": float(grid.sum() + constant),
        "constant": constant,
        "method": f"{METHODS[cells.method]} The constant {constant:+.2f} is spread evenly.",
    }


METHODS = {
    "exact": "Exact: each cell's own path through the model.",
    "crops": "Approximate: the mean over crops of half the size.",
}


def _title(name: str, filed: bool, settings: Mapping[str, Any]) -> str:
    score = settings.get("score", "bliss")
    part = "ICS + λ·ETS" if score == "bliss" else f"BLISS part, ICS + λ·ETS (ranked by {score})"
    which = "the class it is filed under" if filed else "the nearest class"
    return f"{part} of {terminal_text(name)}, {which}"


def _box(decoded: Decoded, encoder: Encoder) -> list[float]:
    assert decoded.measures is not None
    width, height = decoded.measures.quality[:2]
    return [round(v, 5) for v in visible_box(int(height), int(width), encoder.preprocessing)]


def _terms_of(
    shown: Sequence[Mapping[str, Any]],
    stored: StoredImages,
    places: np.ndarray,
    index: CaptionIndex,
    reference: Reference,
) -> tuple[ClassTerms, np.ndarray]:
    """The terms of images of a run with the captions that it retrieved, and their classes."""
    vectors = np.asarray(stored.vectors[places])
    rows = np.array([image["caption_rows"] for image in shown])
    if (rows.max(initial=-1) >= index.count) or any(
        index.captions_of(found) != list(image["captions"])
        for found, image in zip(rows, shown, strict=True)
    ):
        raise BlissError(
            f"the captions in {index.folder} are others than those the run retrieved",
            "the index as it was",
            "Run the same audit again",
        )
    hits = Hits(np.array([image["similarity"] for image in shown], np.float32), rows)
    filed, nearest = (
        numbers_of([image[name] for image in shown], reference.classes)
        for name in ("label", "nearest_class")
    )
    classes = np.where(filed < 0, nearest, filed)
    contents = text_column(stored.hashes(places.tolist()))
    left_out = LeftOut(*as_members(reference.members).filed(contents, vectors))
    retrieved = gather_texts(hits, index.vectors)
    return class_terms(vectors, retrieved, reference, classes, left_out), classes


def _pixels(
    run: RunFolder,
    images: Sequence[Mapping[str, Any]],
    hashes: Sequence[str],
    encoder: Encoder,
    reasons: Counter[str],
) -> Iterator[list[tuple[int, Decoded]]]:
    """(place in `images`, its pixels) in batches; why the others have none goes to `reasons`."""
    wanted = [
        Wanted(image["row"], image["path"], None if content.startswith(NO_FILE) else content)
        for image, content in zip(images, hashes, strict=True)
    ]
    upright = run.facts.get("request", {}).get("ignore_exif") is not True
    settings = DecodeSettings(replace(encoder.preprocessing, apply_exif=upright), LIMITS)
    batch: list[tuple[int, Decoded]] = []
    with Decoder() as decoder:
        for found in read_photographs(run_photographs(run), wanted):
            outcome: Any = found
            if found.data is not None:
                each = wanted[found.place]
                outcome = decoder.decode(ImageItem(each.row, each.path, data=found.data), settings)
            if isinstance(outcome, Decoded):
                batch.append((found.place, outcome))
            else:
                reasons[getattr(outcome, "reason", "") or found.problem] += 1
            if len(batch) == min(encoder.batch_size, MAPPED_AT_ONCE):
                yield batch
                batch = []
    if batch:
        yield batch


def _reference_of(run: RunFolder) -> Reference:
    """The reference that a run scored with: the one it was given or kept, less what it dropped."""
    given = run.facts.get("request", {}).get("reference")
    folder = Path(located(str(given), run.folder)) if given else run.folder / REFERENCE
    if not (folder / ARRAYS).is_file():
        folder = run.folder / REFERENCE
    reference = load_reference(folder)
    if not (run.facts.get("robust") or {}).get("dropped"):
        return reference
    stored = reference_embeddings(run) if given else audited_embeddings(run)
    with open(run.folder / DROPPED, encoding="utf-8", newline="") as file:
        dropped = [(cell_text(line["path"]), cell_text(line["given_label"]))
                   for line in csv.DictReader(file)]  # fmt: skip
    if stored is None:
        raise BlissError(
            f"the embeddings of the reference of {run.folder} are gone",
            f"them, to leave {counted(len(dropped), 'dropped image')} out again",
            "Run the same audit again",
        )
    at: dict[str, list[int]] = {}
    for place, name in enumerate(stored.names(np.arange(stored.layout.count))):
        at.setdefault(name, []).insert(0, place)
    gone = np.array([at[path].pop() for path, _ in dropped if at.get(path)], np.int64)
    labels = numbers_of([label for _, label in dropped], reference.classes)[: len(gone)]
    contents = text_column(stored.hashes(gone.tolist()))
    return without_rows(reference, np.asarray(stored.vectors[gone]), contents, labels)
