"""Fit the reference that images make, or reuse the one that was fitted on them before.

What is fitted depends on the images, the classes, their prompts and the model, not on the caption
index: auditing the same images against another corpus fits nothing again. A fitted reference is
saved in the output folder and registered in the cache, under a key over all it depends on; loading
it gives the same bits. References over 256 MiB are not saved: fitting is faster than reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked
from ...artefacts import (
    MANIFEST,
    digest,
    read_manifest,
    register,
    registered,
    reuse_files,
    write_text,
)
from ...errors import BlissError, UsageError
from ...indexer import (
    CaptionIndex,
    EmbeddedImages,
    Encoder,
    Engine,
    SelectedRows,
    Texts,
    check_same_model,
    ranks,
    text_column,
)
from ...safe_text import counted, csv_text
from ...scorer import (
    ARRAYS,
    MEMBERS,
    REFERENCE_KIND,
    Calibration,
    Reference,
    empty_moments,
    hold_out,
    images_to_keep,
    load_reference,
    make_members,
    save_reference,
    sketch_rows,
)
from ..classes import (
    ClassWords,
    MissingPrompts,
    assign_classes,
    choose_classes,
    class_means,
    class_prompts,
    encode_class_prompts,
    given_vectors,
    look_up_class_prompts,
    named_classes,
    read_prompts,
    without_small,
)
from ..scoring import class_moments

REFERENCE, REFERENCES = "reference", "references"
"""Its folder in an output folder, and the folder in the cache that registers all of them."""
MISSING = "missing_prompts.csv"
REMEDY = "Fit it again"
FORMAT = 2
"""Incremented whenever fitting starts to give other numbers, or more."""
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class ReferenceStore:
    """Where a fitted reference is saved for later commands."""

    folder: Path
    cache: Path | None = None
    """The cache that registers it for other output folders; None: it is not registered."""
    say: Callable[[str], object] = lambda line: None


@checked
def fit_reference(  # noqa: PLR0913 - `least` is keyword-only
    images: EmbeddedImages,
    index: CaptionIndex | None = None,
    encoder: Encoder | None = None,
    words: ClassWords = ClassWords(),  # noqa: B008 - frozen
    calibration_share: float = 0.0,
    store: ReferenceStore | None = None,
    *,
    least: int = 2,
    engine: Engine | None = None,
    strict: bool = True,
) -> Reference:
    """Fit a reference on clean images, holding a share of them out for calibration.

    Label prompts are embedded by the `encoder`, or without one looked up among the `index`'s
    captions; an `engine` computes the moments elsewhere. Raises UsageError where there is neither,
    BlissError where the models differ and for a class with fewer than `least` images; if not
    `strict`, such classes are set aside, and `Reference.set_aside` says which, as long as another
    class is left.
    """
    normal = choose_classes(images.labels, words, images.source)
    aside: dict[str, int] = {}
    if normal is not None:
        normal, aside = without_small(normal, least, strict)
    classes = normal.classes if normal else named_classes(words, images.source)
    prompts = class_prompts(classes, words)
    vectors = None
    if words.vectors:
        dimension = images.model["dimension"]
        vectors, encoder = given_vectors(classes, words.vectors, dimension), None
    elif words.means:
        if normal is None:
            raise UsageError(
                f"--prompts means was given, and the images of {images.source} have no classes",
                "images of each class, for their mean",
                "Sort them into class folders, name their labels with --labels, or give prompts",
            )
        vectors = class_means(images.vectors, normal.labels, len(classes))
        prompts, encoder = [["the mean of its images"] for _ in classes], None
    elif encoder is not None:
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
    fitted_on = {"classes": list(classes), "prompts": prompts, "prompted": prompted}
    if normal is None:  # which classes are large enough, only the images will tell
        fitted_on["least"] = least
    of_images = {
        "images": images.fingerprint,
        "labels": _digest_of_labels(images.labels),
        "model": dict(images.model),
    }
    key = digest({"format": FORMAT, **of_images, **fitted_on, "held_out": calibration_share})
    reference = None if store is None or not images.fingerprint else _load(store, key)
    if reference is None:
        if vectors is None:
            assert encoder is not None
            vectors = encode_class_prompts(prompts, encoder)
        flat = [" | ".join(texts) for texts in prompts]
        if normal is None:
            normal = assign_classes(images.vectors, vectors, words)
            normal, aside = without_small(normal, least, strict)
            stay = [number for number, name in enumerate(classes) if name not in aside]
            vectors, flat = vectors[stay], [flat[number] for number in stay]
        model = images.model
        if encoder is not None and not model.get("weights_sha256"):
            model = encoder.facts
        empty = Reference(
            empty_moments(normal.classes, vectors.shape[1]),
            vectors,
            tuple(flat),
            model,
            set_aside=aside,
        )
        reference = _with_images(empty, images, normal.labels, calibration_share, engine)
        if store is not None and images.fingerprint:
            _save(store, key, reference, images)
    return reference if normal is None else replace(reference, set_aside=aside)


def fit_with_means(
    output: Path, say: Callable[[str], object], images: EmbeddedImages, **given: Any
) -> Reference:
    """`fit_reference`, with class means where no model is at hand and prompts are not captions.

    Those prompts are listed in MISSING in the `output` folder, which --prompts reads back. Means
    stand in where the prompts were not chosen and the images have classes; otherwise the error of
    `fit_reference` names the list. A list that was edited and given stays as it is.
    """
    words: ClassWords = given["words"]
    in_use = _is_given(output / MISSING, words)
    if not in_use:
        (output / MISSING).unlink(missing_ok=True)
    try:
        return fit_reference(images, **given)
    except MissingPrompts as error:
        if in_use:
            raise
        write_text(output / MISSING, csv_text([("class", "prompt"), *error.missing]))
        chosen = words.prompts != ClassWords().prompts or words.labels
        if chosen or choose_classes(images.labels, words, images.source) is None:
            remedy = f"{error.remedy}. {output / MISSING} lists all of them, for --prompts"
            raise MissingPrompts(error.given, error.needed, remedy, error.missing) from error
        missed = counted(len(error.missing), "class prompt is no caption", "class prompts are no "
                         "captions")  # fmt: skip
        say(
            f"no model is at hand and {missed} ({output / MISSING} lists them, for --prompts): the "
            "mean of a class's images stands in for its prompt"
        )
        return fit_reference(images, **{**given, "words": replace(words, means=True)})


def _is_given(listed: Path, words: ClassWords) -> bool:
    """Whether the prompts in a file are among those that were given."""
    with suppress(UsageError):
        return read_prompts(listed)[0].items() <= words.labels.items()
    return False


def _with_images(
    empty: Reference,
    images: EmbeddedImages,
    labels: np.ndarray,
    share: float,
    engine: Engine | None,
) -> Reference:
    """The reference with the images [n] filed under `labels` [n], a `share` of them held out."""
    held = np.zeros(len(labels), bool)
    if share:
        held = hold_out(labels, ranks(images.hashes), share)
    used = np.flatnonzero((labels >= 0) & ~held)
    vectors = SelectedRows(images.vectors, used)
    moments = class_moments(empty.moments, vectors, labels[used], engine)
    contents = text_column(images.hashes)
    if len(used) < len(contents):  # otherwise the members share the images' own column
        contents = contents.take(used)
    members = make_members(contents, labels[used], sketch_rows(vectors))
    calibration = None
    if held.any():
        calibration = Calibration(images.vectors[np.flatnonzero(held)], labels[held])
    sample = images_to_keep(moments, vectors, labels[used])
    return replace(empty, moments=moments, members=members, calibration=calibration, sample=sample)


def _digest_of_labels(labels: Texts[str | None]) -> str:
    """SHA-256 of `repr(tuple(labels))`, without building that string."""
    found, between = hashlib.sha256(b"("), ""
    for label in labels:
        found.update(f"{between}{label!r}".encode("utf-8", "surrogatepass"))
        between = ", "
    found.update(b",)" if len(labels) == 1 else b")")
    return found.hexdigest()


def _load(store: ReferenceStore, key: str) -> Reference | None:
    """The reference saved under `key`, in the store's folder or another one; None without one."""
    with suppress(BlissError):
        if read_manifest(store.folder, REFERENCE_KIND, REMEDY).get("key") == key:
            return load_reference(store.folder)
    if store.cache is None:
        return None
    entry = store.cache / REFERENCES / key
    for folder, _ in registered(entry, store.folder):
        with suppress(BlissError, OSError):
            manifest = read_manifest(folder, REFERENCE_KIND, REMEDY)
            if manifest.get("key") == key:
                (store.folder / MANIFEST).unlink(missing_ok=True)
                reuse_files(folder, store.folder, (ARRAYS, MEMBERS), manifest)
                register(entry, store.folder, {})
                reference = load_reference(store.folder)
                store.say(f"fitted reference reused from {folder}")
                return reference
    return None


def _save(store: ReferenceStore, key: str, reference: Reference, images: EmbeddedImages) -> None:
    """Save the reference under its key, unless it is too large; an earlier one is replaced."""
    (store.folder / MANIFEST).unlink(missing_ok=True)
    if _size_in_bytes(reference) > MOST_BYTES:
        for name in (ARRAYS, MEMBERS):
            (store.folder / name).unlink(missing_ok=True)
        return
    save_reference(reference, store.folder, source=images.source, key=key)
    if store.cache:
        with suppress(BlissError, OSError):
            register(store.cache / REFERENCES / key, store.folder, {})


def _size_in_bytes(reference: Reference) -> int:
    arrays = [reference.prompt_vectors]
    for part in reference.moments.parts:
        arrays += [each for each in (part.mean, part.centred, part.scatter) if each is not None]
    for images in (reference.calibration, reference.sample):
        arrays += [] if images is None else [images.images]
    return sum(array.nbytes for array in arrays)
