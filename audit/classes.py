"""Which classes count as normal, what their prompts are, and which image is filed where."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..arguments import checked_fields
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
    numbers_of,
    row_lengths,
)
from ..safe_text import cell_text, counted, some_of, terminal_text
from ..tables import read_table

IMAGES_AT_ONCE = 16_384
NAMED = 5
"""Classes that a message names."""


@checked_fields
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
    return NormalClasses(classes, numbers_of(column, classes))


def assign_classes(images: Rows, prompts: np.ndarray, words: ClassWords) -> NormalClasses:
    """File unlabelled unit rows [n, d] under the class whose prompt [C, d] is nearest."""
    labels = np.empty(len(images), np.int64)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        few = slice(start, start + IMAGES_AT_ONCE)
        labels[few] = (images[few] @ prompts.T).argmax(axis=1)
    return NormalClasses(words.normal or tuple(sorted(words.vectors)), labels, assigned=True)


def without_small(
    normal: NormalClasses, least: int, strict: bool
) -> tuple[NormalClasses, dict[str, int]]:
    """The classes that have `least` images or more, and how many images each of the others has.

    Images of the others are filed under no class. Raises BlissError where no class is left, and,
    if `strict`, where any is too small.
    """
    filed = normal.labels[normal.labels >= 0]
    counts = np.bincount(filed, minlength=len(normal.classes))
    few = counts < least
    names = np.array(normal.classes, object)
    aside = dict(zip(names[few].tolist(), counts[few].tolist(), strict=True))
    if aside and (strict or few.all()):
        first = next(iter(aside))
        rest = f", and {counted(len(aside) - 1, 'other class', 'other classes')} too few"
        raise BlissError(
            f"class '{first}' has {counted(aside[first], 'reference image')}"
            + rest * (len(aside) > 1),
            f"at least {least} in {'every class' if strict else 'one class'}",
            "Add reference images of that class or leave the class out"
            + ", or leave --fail-on small-classes out to set it aside" * (strict and not few.all()),
        )
    numbers = np.where(few, -1, np.cumsum(~few) - 1)
    labels = np.where(normal.labels >= 0, numbers[normal.labels], -1)
    return NormalClasses(tuple(names[~few].tolist()), labels, normal.assigned), aside


def set_aside_text(aside: Mapping[str, int], least: int) -> str:
    """What to say of classes that are set aside, each with its number of images."""
    shown = some_of([f"{terminal_text(name)} ({count:,})" for name, count in aside.items()], NAMED)
    return (
        f"{counted(len(aside), 'class', 'classes')} with fewer than {least} images set aside: "
        f"{shown}; their images are compared with the other classes (--fail-on small-classes "
        "refuses)"
    )


def named_classes(words: ClassWords, source: str) -> tuple[str, ...]:
    """The classes of an unlabelled collection; UsageError where --normal names none."""
    if not words.normal and words.vectors:
        return tuple(sorted(words.vectors))
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


class MissingPrompts(BlissError):
    """Prompts that are not among the captions, and no model to embed them."""

    def __init__(
        self, given: str, needed: str, remedy: str, missing: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__(given, needed, remedy)
        self.missing = missing
        """(class, prompt) of each."""


def read_prompts(file: str | Path) -> tuple[dict[str, str], dict[str, tuple[float, ...]]]:
    """The prompt and the vector of each class in a table: csv, tsv or parquet.

    It has a column `class` and one or both of `prompt` and, in parquet alone, `vector`, a list of
    numbers. Cells of csv files are as `bliss audit` writes them. Raises UsageError for a file
    without these columns, for a class that is named twice and for one without a prompt or vector.
    """
    path = Path(file)
    try:
        if path.suffix.lower() == ".parquet":
            columns = read_table(path).to_pydict()
            for name in {"class", "prompt"} & columns.keys():
                columns[name] = ["" if text is None else str(text) for text in columns[name]]
        else:
            with open(path, encoding="utf-8-sig", newline="") as lines:
                head = lines.readline()
                sign = max(",;\t", key=head.count)
                lines.seek(0)
                names, *rows = [*filter(None, csv.reader(lines, delimiter=sign))] or [[]]
            if wide := [row for row in rows if len(row) > len(names)]:
                raise UsageError(
                    f"{file} has {len(wide[0])} cells beside {wide[0][0]!r}, under "
                    f"{counted(len(names), 'column')}",
                    "one cell for each column",
                    "Put a prompt that holds the separator into double quotes",
                )
            columns = {
                name: [cell_text(row[at]) if at < len(row) else "" for row in rows]
                for at, name in enumerate(names if rows else ())
            }
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UsageError(
            f"{file} could not be read ({error})", "a csv, tsv or parquet file", "Correct --prompts"
        ) from error
    classes, worded = columns.get("class"), columns.get("prompt")
    vectors = columns.get("vector") if path.suffix.lower() == ".parquet" else None
    if not classes or (worded is None and vectors is None):
        raise UsageError(
            f"{file} has the columns {', '.join(map(str, columns)) or 'of no row'}",
            "class, and prompt or (in parquet files) vector",
            "Name its columns so, as missing_prompts.csv of an audit has them",
        )
    if len(set(classes)) < len(classes):
        repeated = next(name for name in classes if classes.count(name) > 1)
        raise UsageError(f"{file} names class '{repeated}' twice", "each class once", "Correct it")
    if vectors is not None:
        made = {name: vector for name, vector in zip(classes, vectors, strict=True) if vector}
        if len(made) < len(classes):
            empty = next(name for name in classes if name not in made)
            raise UsageError(
                f"{file} has no vector for class '{empty}'", "one for every class", "Add it"
            )
        try:
            return {}, {name: tuple(np.array(made[name], float).tolist()) for name in made}
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{file} has vectors that are not lists of numbers ({error})",
                "a list of numbers for each class",
                "Save the vectors as lists of floats",
            ) from error
    prompts = {name: text for name, text in zip(classes, worded or (), strict=True) if text}
    if len(prompts) < len(classes):
        empty = next(name for name in classes if name not in prompts)
        raise UsageError(f"{file} has no prompt for class '{empty}'", "one each", "Add it")
    return prompts, {}


def look_up_class_prompts(
    classes: Sequence[str], prompts: Sequence[Sequence[str]], index: CaptionIndex
) -> np.ndarray:
    """float32 [C, d], unit rows, from captions of an index that equal the prompts.

    This is what makes an audit of precomputed embeddings possible without a model. Raises
    MissingPrompts naming the classes whose prompt is not among the captions.
    """
    flat = {f"{c} {p}": text for c, texts in enumerate(prompts) for p, text in enumerate(texts)}
    found = find_captions(index, flat)
    missing = [
        (classes[int(key.split()[0])], text) for key, text in flat.items() if key not in found
    ]
    if missing:
        lines = [f"'{text}' for class '{name}'" for name, text in missing]
        raise MissingPrompts(
            f"no caption of {index.folder} equals the prompt {some_of(lines, 5)}",
            "a vector for every class's prompt, from a model or from the index",
            "Give the --model the embeddings were made with, change --prompt, word the class with "
            "--class-prompt NAME=PROMPT or --prompts FILE, or leave it out with --normal",
            missing,
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
    rows = np.array([vectors[name] for name in classes], np.float64)
    lengths = row_lengths(rows)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        name = classes[int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])]
        raise UsageError(
            f"the vector of class '{name}' is zero or not finite",
            "a finite vector of some length",
            "Embed its prompt again",
        )
    return _averaged(rows, [[name] for name in classes])


def prompt_vectors(
    classes: Sequence[str], words: ClassWords, index: CaptionIndex, encoder: Encoder | None
) -> np.ndarray:
    """float32 [C, d], unit rows: from the model where there is one, else from the index."""
    if words.means:
        raise UsageError(
            "--prompts means was given",
            "prompts or vectors: the images that stand for a class differ from draw to draw",
            "Leave it out, or give --prompts FILE",
        )
    prompts = class_prompts(classes, words)
    if words.vectors:
        return given_vectors(classes, words.vectors, index.model["dimension"])
    if encoder is not None:
        return encode_class_prompts(prompts, encoder)
    return look_up_class_prompts(classes, prompts, index)


def _averaged(vectors: np.ndarray, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    sizes = [len(texts) for texts in prompts]
    starts = np.cumsum([0, *sizes[:-1]])
    total = np.add.reduceat(vectors.astype(np.float64), starts, axis=0)
    return (total / row_lengths(total)[:, None]).astype(np.float32)


def unmet_labels(
    labels: Texts[str | None], classes: Sequence[str], aside: Mapping[str, int], source: str
) -> list[str]:
    """What to say of labels that are no class of a separate reference, one line a kind."""
    classes = [*classes, *aside]
    unmet = sorted(set(distinct_texts(categories(labels))) - set(classes))
    alike = _alike(unmet, classes)
    lines = []
    if alike:
        pairs = [f"{name!a} for {meant!a}" for name, meant in alike.items()]
        differ = "differs" if len(pairs) == 1 else "differ"
        lines.append(
            f"{counted(len(pairs), 'label')} of {source} {differ} from a class of the reference in "
            f"case, spaces or Unicode form alone: {some_of(pairs, NAMED)}"
        )
    others = [terminal_text(name) for name in unmet if name not in alike]
    if others:
        is_none = "is no class" if len(others) == 1 else "are no classes"
        lines.append(
            f"{counted(len(others), 'label')} of {source} {is_none} of the reference: "
            f"{some_of(others, NAMED)}"
        )
    return lines


def _alike(names: Iterable[str], among: Sequence[str]) -> dict[str, str]:
    """For each of `names` that one of `among` equals but for case, spaces and Unicode form, that
    one."""
    plain = {_plain(name): name for name in reversed(among)}
    return {name: plain[_plain(name)] for name in names if _plain(name) in plain}


def _plain(name: str) -> str:
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return " ".join(composed.replace("_", " ").split())


def _check_names(names: Iterable[str], there: Sequence[str], option: str, source: str) -> None:
    unknown = [name for name in names if name not in there]
    if unknown:
        meant = _alike(unknown, there)
        raise UsageError(
            f"{option} names {', '.join(repr(name) for name in unknown)}, "
            f"which is no class of {source}",
            f"one of {some_of(there, 12)}",
            f"Correct {option}"
            + (f": {', '.join(map(ascii, meant.values()))} is there" if meant else ""),
        )
