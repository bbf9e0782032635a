"""Which classes count as normal, what their prompts are, and which image is filed where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..corpora import PAPER_PROMPT, check_prompts, fill_prompt
from ..errors import BlissError, UsageError
from ..indexer import (
    CaptionIndex,
    Encoder,
    Rows,
    Texts,
    categories,
    distinct_texts,
    find_captions,
    normalise_rows,
    numbers_of,
    row_lengths,
)

IMAGES_AT_ONCE = 16_384


@dataclass(frozen=True)
class ClassWords:
    """How the normal classes are named and worded."""

    normal: tuple[str, ...] = ()
    """The normal classes: folder names to keep, or names where there are no folders."""
    prompts: tuple[str, ...] = (PAPER_PROMPT,)
    """Templates for label prompts, averaged."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Class name -> its whole prompt, used instead of the templates."""
    means: bool = False
    """Whether the mean of a class's images stands in for its prompt."""
    vectors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Class name -> its prompt's vector, where it was embedded already."""

    def __post_init__(self) -> None:
        check_prompts(self.prompts)


@dataclass(frozen=True)
class NormalClasses:
    """C classes and, for each of n images, the one it is filed under."""

    classes: tuple[str, ...]
    labels: np.ndarray
    """int64 [n], class numbers, -1 for images filed under none of them."""
    assigned: bool = False
    """Whether the labels were assigned by the nearest prompt, without class folders."""


def choose_classes(
    labels: Texts[str | None], words: ClassWords, source: str
) -> NormalClasses | None:
    """The normal classes of a labelled collection, or None where its images have no labels.

    Raises UsageError for a --normal or --class-prompt name that is no class of `source`.
    """
    column = categories(labels)
    there = distinct_texts(column)
    if not there:
        return None
    chosen = words.normal or tuple(there)
    _check_names(chosen, there, "--normal", source)
    _check_names(words.labels, chosen, "--class-prompt", source)
    classes = tuple(sorted(set(chosen)))
    numbers = {name: number for number, name in enumerate(classes)}
    return NormalClasses(classes, numbers_of(column, numbers))


def assign_classes(images: Rows, prompts: np.ndarray, words: ClassWords) -> NormalClasses:
    """File unlabelled unit rows [n, d] under the class whose prompt [C, d] is nearest."""
    labels = np.empty(len(images), np.int64)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        few = slice(start, start + IMAGES_AT_ONCE)
        labels[few] = (images[few] @ prompts.T).argmax(axis=1)
    return NormalClasses(words.normal, labels, assigned=True)


def named_classes(words: ClassWords, source: str) -> tuple[str, ...]:
    """The classes of an unlabelled collection; UsageError where --normal names none."""
    if not words.normal:
        raise UsageError(
            f"the images in {source} have no class folders, and no reference or labels were given",
            "to know what is normal",
            "Sort them into one folder a class, or add --reference DIR with clean images, "
            'or name what they show with --normal "golden retriever"',
        )
    _check_names(words.labels, words.normal, "--class-prompt", source)
    return words.normal


def class_prompts(classes: Sequence[str], words: ClassWords) -> list[list[str]]:
    """For each class, the texts whose embeddings make its prompt vector.

    Underscores in class names become spaces.
    """
    return [
        [words.labels[name]]
        if name in words.labels
        else [fill_prompt(prompt, name.replace("_", " ")) for prompt in words.prompts]
        for name in classes
    ]


def encode_class_prompts(prompts: Sequence[Sequence[str]], encoder: Encoder) -> np.ndarray:
    """float32 [C, d], unit rows: the mean over each class's prompts, embedded by a model."""
    flat = [text for texts in prompts for text in texts]
    return _averaged(encoder.encode_texts(flat), prompts)


def look_up_class_prompts(
    classes: Sequence[str], prompts: Sequence[Sequence[str]], index: CaptionIndex
) -> np.ndarray:
    """float32 [C, d], unit rows, from captions of an index that equal the prompts.

    This is what makes an audit of precomputed embeddings possible without a model. Raises
    BlissError naming the classes whose prompt is not among the captions.
    """
    flat = {f"{c} {p}": text for c, texts in enumerate(prompts) for p, text in enumerate(texts)}
    found = find_captions(index, flat)
    missing = [
        f"'{text}' for class '{classes[int(key.split()[0])]}'"
        for key, text in flat.items()
        if key not in found
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise BlissError(
            f"no caption of {index.folder} equals the prompt {shown}",
            "a vector for every class's prompt, from a model or from the index",
            "Give the --model the embeddings were made with, change --prompt, word the class with "
            "--class-prompt NAME=PROMPT, or leave it out with --normal",
        )
    return _averaged(index.vectors[np.array([found[key] for key in flat])], prompts)


def class_means(images: Rows, labels: np.ndarray, classes: int) -> np.ndarray:
    """float32 [C, d], unit rows: the direction of the mean of each class's images.

    `images` are unit rows [n, d] of the classes `labels` int [n], -1 for none.
    """
    total = np.zeros((classes, images[:1].shape[1]))
    for start in range(0, len(images), IMAGES_AT_ONCE):
        here = labels[start : start + IMAGES_AT_ONCE]
        rows = images[start : start + IMAGES_AT_ONCE]
        np.add.at(total, here[here >= 0], rows[here >= 0].astype(np.float64))
    return (total / np.maximum(row_lengths(total), 1e-300)[:, None]).astype(np.float32)


def given_vectors(
    classes: Sequence[str], vectors: Mapping[str, Sequence[float]], dimension: int
) -> np.ndarray:
    """float32 [C, d], unit rows: the vectors that were given for the classes.

    Raises UsageError where a class has none, or one of another dimension or length 0.
    """
    missing = [name for name in classes if name not in vectors]
    wrong = [name for name in classes if name in vectors and len(vectors[name]) != dimension]
    if missing or wrong:
        name = (missing or wrong)[0]
        has = "no vector" if missing else f"a vector of {len(vectors[name])} dimensions"
        raise UsageError(
            f"class '{name}' has {has} among the prompts given",
            f"a vector of {dimension} dimensions for every class",
            "Add it, of the model that embedded the images",
        )
    made = normalise_rows(np.array([vectors[name] for name in classes], np.float32))
    if len(made.unusable):
        raise UsageError(
            f"the vector of class '{classes[made.unusable[0]]}' is zero or not finite",
            "a finite vector of some length",
            "Embed its prompt again",
        )
    return made.unit


def prompt_vectors(
    classes: Sequence[str], words: ClassWords, index: CaptionIndex, encoder: Encoder | None
) -> np.ndarray:
    """float32 [C, d], unit rows: from the model where there is one, else from the index."""
    prompts = class_prompts(classes, words)
    if encoder is not None:
        return encode_class_prompts(prompts, encoder)
    return look_up_class_prompts(classes, prompts, index)


def _averaged(vectors: np.ndarray, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    sizes = [len(texts) for texts in prompts]
    starts = np.cumsum([0, *sizes[:-1]])
    total = np.add.reduceat(vectors.astype(np.float64), starts, axis=0)
    return (total / row_lengths(total)[:, None]).astype(np.float32)


def _check_names(names: Iterable[str], there: Sequence[str], option: str, source: str) -> None:
    unknown = [name for name in names if name not in there]
    if unknown:
        listed = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if there[12:] else "")
        raise UsageError(
            f"{option} names {', '.join(repr(name) for name in unknown)}, "
            f"which is no class of {source}",
            f"one of {listed}",
            f"Correct {option}",
        )
