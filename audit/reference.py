"""Fit the reference that images make, or take the one that was fitted on them before.

What is fitted depends on the images, the classes, their prompts and the model, not on the caption
index: an audit of the same images against another corpus fits nothing again. A fitted reference is
kept in the output folder and noted in the cache, under a key over all it depends on; read back it
gives the same bits. References over 256 MiB are not kept: fitting them is faster than reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST, digest, read_manifest
from ..errors import BlissError, UsageError
from ..indexer.encode.encoder import Encoder, check_same_model
from ..indexer.images.cache import remember, remembered, take_over
from ..indexer.images.embedded import EmbeddedImages
from ..indexer.search.index import CaptionIndex
from ..indexer.vectors.rows import ChosenRows
from ..indexer.vectors.text_column import Texts, text_column
from ..scorer.calibration import hold_out
from ..scorer.members import make_members
from ..scorer.moments import add_images, empty_moments
from ..scorer.reference import Calibration, Reference
from ..scorer.reference_file import (
    ARRAYS,
    KIND,
    MEMBERS,
    images_to_keep,
    load_reference,
    save_reference,
)
from ..scorer.statistics import check_counts
from .classes import (
    ClassWords,
    NormalClasses,
    assign_classes,
    choose_classes,
    class_prompts,
    encode_class_prompts,
    look_up_class_prompts,
    named_classes,
)

REFERENCE, REFERENCES = "reference", "references"
"""Its folder in an output folder, and the notes of all in the cache."""
IGNORED = "Fit it again"
FORMAT = 1
"""Counts up when fitting comes to give other numbers."""
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class KeptReference:
    """Where a fitted reference is kept for later commands."""

    folder: Path
    cache: Path | None = None
    say: Callable[[str], object] = lambda line: None


def fit_reference(
    images: EmbeddedImages,
    index: CaptionIndex | None = None,
    encoder: Encoder | None = None,
    words: ClassWords = ClassWords(),  # noqa: B008 - frozen
    calibration_share: float = 0.0,
    kept: KeptReference | None = None,
) -> Reference:
    """The reference that clean `images` make, some of them held out for calibration.

    Label prompts come from the `encoder`, or without one from the `index`'s captions. Raises
    BlissError naming a class with fewer than two images in the moments.
    """
    reference, _ = fitted(images, index, encoder, words, calibration_share, kept)
    check_counts(reference.moments)
    return reference


def fitted(
    images: EmbeddedImages,
    index: CaptionIndex | None,
    encoder: Encoder | None,
    words: ClassWords,
    calibration_share: float = 0.0,
    kept: KeptReference | None = None,
) -> tuple[Reference, NormalClasses]:
    """`fit_reference` without its last check, and how the images are filed."""
    normal = choose_classes(images.labels, words, images.source)
    classes = normal.classes if normal else named_classes(words, images.source)
    prompts = class_prompts(classes, words)
    vectors = None
    if encoder is not None:
        check_same_model(images.model, images.source, encoder.facts, "the model given")
    elif index is not None:
        check_same_model(images.model, images.source, index.model, str(index.folder))
        vectors = look_up_class_prompts(classes, prompts, index)
    else:
        raise UsageError("neither a model nor an index was given", "one for the prompts", "Add one")
    prompted: Any = None
    if encoder is not None:
        prompted = [dict(encoder.facts), encoder.chosen]
    else:
        prompted = hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()
    made_of = {"classes": list(classes), "prompts": prompts, "prompted": prompted}
    key = _key(images, {**made_of, "held_out": calibration_share})
    reference = None if kept is None or not images.fingerprint else _kept(kept, key)
    if reference is not None:
        if normal is None:
            normal = assign_classes(images.vectors, reference.prompt_vectors, words)
        return reference, normal
    if vectors is None:
        assert encoder is not None
        vectors = encode_class_prompts(prompts, encoder)
    if normal is None:
        normal = assign_classes(images.vectors, vectors, words)
    model = images.model if images.model.get("weights_sha256") or encoder is None else encoder.facts
    flat = tuple(" | ".join(texts) for texts in prompts)
    empty = Reference(empty_moments(classes, vectors.shape[1]), vectors, flat, model)
    reference = _with_images(empty, images, normal.labels, calibration_share)
    if kept is not None and images.fingerprint:
        _keep(kept, key, reference, images)
    return reference, normal


def _with_images(
    empty: Reference, images: EmbeddedImages, labels: np.ndarray, share: float
) -> Reference:
    """The reference with the images [n] filed under `labels` [n], a `share` of them held out."""
    held = hold_out(labels, images.hashes, share)
    used = np.flatnonzero((labels >= 0) & ~held)
    vectors = ChosenRows(images.vectors, used)
    moments = add_images(empty.moments, vectors, labels[used])
    contents = text_column(images.hashes)
    if len(used) < len(contents):  # else the members share the images' own column
        contents = contents.take(used)
    members = make_members(contents, labels[used])
    calibration = None
    if held.any():
        calibration = Calibration(images.vectors[np.flatnonzero(held)], labels[held])
    sample = images_to_keep(moments, vectors, labels[used])
    return replace(empty, moments=moments, members=members, calibration=calibration, sample=sample)


def _key(images: EmbeddedImages, facts: Mapping[str, Any]) -> str:
    """Stands for all that a reference depends on."""
    labels = _digest_of_labels(images.labels)
    images_are = {"images": images.fingerprint, "labels": labels, "model": dict(images.model)}
    return digest({"format": FORMAT, **images_are, **facts})


def _digest_of_labels(labels: Texts[str | None]) -> str:
    """SHA-256 of what `repr` makes of a tuple of them, without one."""
    found, between = hashlib.sha256(b"("), ""
    for label in labels:
        found.update(f"{between}{label!r}".encode("utf-8", "surrogatepass"))
        between = ", "
    found.update(b",)" if len(labels) == 1 else b")")
    return found.hexdigest()


def _kept(kept: KeptReference, key: str) -> Reference | None:
    """The reference of that key, from its folder or taken over from another; None without one."""
    with suppress(BlissError):
        if read_manifest(kept.folder, KIND, IGNORED).get("key") == key:
            return load_reference(kept.folder)
    if kept.cache is None:
        return None
    notes = kept.cache / REFERENCES / key
    for folder, _ in remembered(notes, kept.folder):
        with suppress(BlissError, OSError):
            manifest = read_manifest(folder, KIND, IGNORED)
            if manifest.get("key") == key:
                (kept.folder / MANIFEST).unlink(missing_ok=True)
                take_over(folder, kept.folder, (ARRAYS, MEMBERS), manifest)
                remember(notes, kept.folder, {})
                reference = load_reference(kept.folder)
                kept.say(f"fitted reference taken over from {folder}")
                return reference
    return None


def _keep(kept: KeptReference, key: str, reference: Reference, images: EmbeddedImages) -> None:
    """Save the reference under its key, if that pays; what was there before is replaced."""
    (kept.folder / MANIFEST).unlink(missing_ok=True)
    if bytes_of(reference) > MOST_BYTES:
        for name in (ARRAYS, MEMBERS):
            (kept.folder / name).unlink(missing_ok=True)
        return
    save_reference(reference, kept.folder, source=images.source, key=key)
    if kept.cache:
        with suppress(BlissError, OSError):
            remember(kept.cache / REFERENCES / key, kept.folder, {})


def bytes_of(reference: Reference) -> int:
    """Bytes of all arrays of a reference."""
    arrays = [reference.prompt_vectors]
    for part in reference.moments.parts:
        arrays += [each for each in (part.mean, part.centred, part.scatter) if each is not None]
    for images in (reference.calibration, reference.sample):
        arrays += [] if images is None else [images.images]
    return sum(array.nbytes for array in arrays)
