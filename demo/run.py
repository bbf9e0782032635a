"""`bliss demo`: a rendered collection with planted strays, audited, and judged by the truth."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..artefacts import write_atomically, write_text
from ..audit import (
    AuditRequest,
    AuditResult,
    AuditSettings,
    run_audit,
    save_audit,
    save_report,
    table_text,
)
from ..indexer import ModelChoice, whole_rows
from ..progress import Progress
from .scenes import KINDS, render_scene, sample_captions, sample_scene

CLASSES, IMAGES, STRAYS = 6, 50, 24
"""Normal classes, images in each, and strays planted among all of them."""
CAPTIONS = 20_000
PIXELS = 128


@dataclass(frozen=True)
class Planted:
    """What was rendered: relative path -> the kind it shows; strays are of no normal class."""

    normal: tuple[str, ...]
    kinds: dict[str, str]

    def is_stray(self, path: str) -> bool:
        """Whether the image at a relative path shows a kind outside every normal class."""
        return self.kinds[path] not in self.normal


def run_demo(
    folder: Path,
    seed: int,
    progress: Progress,
    say: Callable[[str], None],
    program: str = "bliss",
) -> str:
    """Render, index, audit; returns the report. The same seed gives the same images and result.

    `program` is how `bliss` is called in the commands that the report ends with.
    """
    planted = plant(folder / "images", seed, progress)
    corpus = write_corpus(folder / "captions.txt", seed)
    say(
        f"{len(planted.kinds)} images of {', '.join(planted.normal)}; "
        f"{STRAYS} of them are strays of other kinds, filed among these"
    )
    request = AuditRequest(
        images=str(folder / "images"),
        corpus=str(corpus),
        output=str(folder / "audit"),
        model=ModelChoice("demo"),
        settings=AuditSettings(),
    )
    result = run_audit(request, progress, say)
    save_audit(result, request.settings, request.output, {"command": "demo", "seed": seed})
    save_report(request.output)
    commands = next_commands(folder, planted, program)
    return "\n".join([report(result, planted, folder), "", "Try next:", "", *commands])


def plant(folder: Path, seed: int, progress: Progress) -> Planted:
    """Render the class folders; every class gets IMAGES pictures, some of them strays."""
    rng = np.random.default_rng(seed)
    order = [KINDS[i] for i in rng.permutation(len(KINDS))]
    normal, others = tuple(sorted(order[:CLASSES])), order[CLASSES:]
    shown = [name for name in normal for _ in range(IMAGES)]
    filed = list(shown)
    for place, position in enumerate(rng.choice(len(shown), STRAYS, replace=False)):
        shown[position] = others[place % len(others)]
    kinds: dict[str, str] = {}
    for number, (name, kind) in enumerate(zip(filed, shown, strict=True)):
        path = f"{name}/{number % IMAGES:03d}.png"
        picture = render_scene(sample_scene(rng, kind), PIXELS)
        _write_if_new(folder / path, picture)
        kinds[path] = kind
        progress("images rendered", number + 1, len(shown))
    return Planted(normal, kinds)


def _write_if_new(path: Path, picture: Image.Image) -> None:
    """Write a PNG unless the file already has these bytes, so that a demo can continue."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    if not path.is_file() or path.read_bytes() != data.getvalue():
        write_atomically(path, lambda file: file.write(data.getvalue()))


def write_corpus(path: Path, seed: int) -> Path:
    """CAPTIONS different captions about every kind, one a line."""
    captions = sample_captions(np.random.default_rng(seed + 1), CAPTIONS)
    write_text(path, "\n".join(captions) + "\n")
    return path


def report(result: AuditResult, planted: Planted, folder: Path) -> str:
    """The worst images, and precision and recall of the scores by the planted truth."""
    stray = np.array([planted.is_stray(path) for path in result.images.paths])
    bliss = result.scores.ics + result.weight * result.scores.ets
    cosine = -(whole_rows(result.images.vectors) @ result.reference.prompt_vectors.T).max(axis=1)
    rows = [
        f"{name:<14}" + "".join(f"{found:>22}" for found in cuts)
        for name, cuts in (
            ("", [f"top {cut}" for cut in (STRAYS, 2 * STRAYS)]),
            (result.score_name, _cuts(result.scores.score, stray)),
            ("BLISS", _cuts(bliss, stray)),
            ("plain cosine", _cuts(cosine, stray)),
        )
    ]
    worst = result.worst(STRAYS)
    truth = ", ".join(sorted({planted.kinds[image.path] for image in worst} - {*planted.normal}))
    return "\n".join(
        [
            f"The {STRAYS} most anomalous of {len(stray)} images, against {result.index.count:,} "
            "captions:",
            "",
            table_text(worst),
            "",
            f"Among them, kinds that are not a class here: {truth}.",
            f"{stray.sum()} strays were planted. precision / recall among the most anomalous:",
            "",
            *rows,
            "",
            f"Images: {folder / 'images'}   All scores: {folder / 'audit' / 'scores.parquet'}",
            f"To look at them: {folder / 'audit' / 'report.html'}",
        ]
    )


def next_commands(folder: Path, planted: Planted, program: str) -> list[str]:
    """Shell commands to try on what `run_demo` left in `folder`."""
    kind = sorted(set(planted.kinds.values()) - {*planted.normal})[0]
    article = "an" if kind[0] in "aeiou" else "a"
    first, second = str(folder / "audit"), str(folder / "second")
    images, captions = str(folder / "images"), str(folder / "captions.txt")
    corpus = ["--corpus", captions, "--model", "demo"]
    return [
        f"  {program} {shlex.join(words)}"
        for words in (
            ["find", first, "--text", f"a drawing of {article} {kind}"],
            ["audit", images, *corpus, "--score", "bliss", "--output", second],
            ["diff", first, second],
        )
    ]


def _cuts(score: np.ndarray, stray: np.ndarray) -> list[str]:
    order = np.argsort(-score, kind="stable")
    found = [int(stray[order[:cut]].sum()) for cut in (STRAYS, 2 * STRAYS)]
    return [
        f"{hits / cut:.2f} / {hits / stray.sum():.2f}"
        for hits, cut in zip(found, (STRAYS, 2 * STRAYS), strict=True)
    ]
