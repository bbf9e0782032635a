"""Run one evaluation: which sets, texts, protocol and scores, from request to report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST
from ..corpora import NO_IMAGE_OPTIONS, ImageOptions, open_images
from ..errors import UsageError
from ..indexer import (
    CaptionIndex,
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    check_same_model,
    check_same_preprocessing,
    embed_images,
    is_embedding_folder,
    read_image_embeddings,
)
from ..progress import Progress, no_progress
from ..scorer import Resources, Score, open_head, provide
from .draws import Protocol, fingerprints, make_draws, make_world, set_of
from .report import save_report
from .run import EvalResult, Words, choose_scores, evaluate


@dataclass(frozen=True)
class EvalRequest:
    """What `bliss eval` is to do."""

    reference: str
    """Clean images of the classes, or embeddings of such."""
    test: str
    """Images to test, or embeddings of such."""
    outliers: Mapping[str, str]
    """Name -> images or embeddings that are anomalous whatever is normal."""
    protocol: Protocol
    worded: tuple[str, ...] = ()
    """Classes that were given a wording of their own, which must exist."""
    scores: tuple[str, ...] = ()
    """As `choose_scores` reads them; none named: every one."""
    k: int = 10
    baseline: str | None = None
    output: str = "bliss-eval"
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    asked: Mapping[str, Any] = field(default_factory=dict)
    """The options that were given, as JSON values: eval.json keeps them, to be repeated from."""
    head: str | None = None
    """A folder that `bliss train oecl` made, for the scores that are trained."""
    image_options: ImageOptions = NO_IMAGE_OPTIONS
    """Of the test set, if `open_images` cannot tell."""

    def folders(self) -> dict[str, str]:
        """Every set's name and folder."""
        return {"reference": self.reference, "test": self.test, **self.outliers}


Prompts = Callable[[Sequence[str]], np.ndarray]
"""C class names -> float32 [C, d], a unit row for each."""


@dataclass(frozen=True)
class LabelVectors:
    """What gives the vectors of label prompts, and their "no" vectors where there is a CLIPN."""

    prompts: Prompts
    no_prompts: Prompts | None = None
    clipn: Mapping[str, Any] | None = None
    """The CLIPN's manifest, for eval.json."""


def holds_images(folders: Iterable[str]) -> bool:
    """Whether any of the sets must still be embedded."""
    return not all(_embedded(folder) for folder in folders)


def run_eval(
    request: EvalRequest,
    index: CaptionIndex,
    labels: LabelVectors,
    known: Mapping[str, Score],
    encoder: Encoder | None = None,
    progress: Progress = no_progress,
) -> tuple[EvalResult, list[dict[str, Any]], list[EmbeddedImages]]:
    """Embed what is not embedded, make the draws, run the scores, and write the report.

    Returns the result, the table's rows and the sets. Errors as of the parts.
    """
    chosen = choose_scores(request.scores, known)
    if request.baseline and request.baseline not in [entry.name for entry in chosen]:
        raise UsageError(
            f"the baseline '{request.baseline}' is not among the scores",
            f"one of {', '.join(entry.name for entry in chosen)}",
            "Correct --baseline, or add it with --score",
        )
    head = open_head(request.head, [entry.score for entry in chosen])
    sets = {
        name: _open_set(name, folder, request, encoder, progress)
        for name, folder in request.folders().items()
    }
    for name, found in sets.items():
        check_same_model(found.model, name, index.model, str(index.folder))
        check_same_preprocessing(sets["reference"].model, "reference", found.model, name)
        if head is not None:
            check_same_model(head.model, head.folder, found.model, name)
    outliers = {name: set_of(sets[name]) for name in request.outliers}
    world = make_world(set_of(sets["reference"]), set_of(sets["test"]), outliers)
    unknown = sorted(set(request.worded) - set(world.labels))
    if unknown:
        raise UsageError(
            f"--class-prompt names {', '.join(unknown)}",
            "classes of the reference set",
            "Correct --class-prompt",
        )
    draws = make_draws(world, request.protocol)
    classes = sorted({name for draw in draws for name in draw.normal})
    no_prompts = labels.no_prompts
    resources = Resources(
        index,
        encoder,
        None if head is None else head.arrays,
        None if no_prompts is None else lambda: no_prompts(classes),
    )
    words = Words(
        dict(zip(classes, labels.prompts(classes), strict=True)),
        index.vectors,
        request.k,
        extras=provide({need for entry in chosen for need in entry.score.needs}, resources),
    )
    engine = request.embed.engine
    with nullcontext() if engine is None else engine.spread(index, exact=True) as spread:
        words = replace(words, search=None if spread is None else spread.nearest)
        result = evaluate(world, draws, words, chosen, progress)
    facts = {
        "sets": {
            name: {**found, "source": sets[name].source, "failures": len(sets[name].failures)}
            for name, found in fingerprints(world).items()
        },
        "model": dict(sets["reference"].model),
        "index": {
            name: index.manifest.get(name) for name in ("count", "sources", "prompts", "checksums")
        },
        "k": request.k,
        "asked": dict(request.asked),
        "head": None if head is None else head.checksums,
    }
    if labels.clipn is not None:
        facts["clipn"] = dict(labels.clipn)
    rows = save_report(result, request.protocol, request.output, facts, request.baseline)
    return result, rows, list(sets.values())


def parse_shots(text: str) -> int | None:
    """`all` is None, for all of them; a whole number is itself."""
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--shots {text} was given", "1, 2, 4, 8, 16 or all", "Correct --shots")
    return int(text)


def parse_outliers(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=FOLDER` entries, or folders named for themselves; UsageError for a name twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals:
            name, folder = Path(pair).name, pair
        if not name or not folder or name in (*found, "reference", "test") or "/" in name:
            raise UsageError(
                f"--ood {pair} was given",
                "NAME=FOLDER, every name once and none called reference or test",
                "Correct --ood",
            )
        found[name] = folder
    return found


def _embedded(folder: str) -> bool:
    path = Path(folder)
    return (path / MANIFEST).is_file() or is_embedding_folder(path, "img")


def _open_set(
    name: str, folder: str, request: EvalRequest, encoder: Encoder | None, progress: Progress
) -> EmbeddedImages:
    if _embedded(folder):
        return read_image_embeddings(folder)
    if encoder is None:
        raise UsageError(
            f"{folder} holds images and no model was given", "a model to embed them", "Add --model"
        )
    target = Path(request.output) / "sets" / name
    options = request.image_options if name == "test" else NO_IMAGE_OPTIONS
    listed = open_images(folder, options)
    return embed_images(listed, encoder, target, request.embed, progress)
