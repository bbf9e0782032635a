"""CLIPN against the scores that train nothing, on rough pictures of the demo's drawings.

The protocol is `demo_world.py`'s, with one normal kind at a time or eight together, and CLIPN's
captions and the external texts naming either every kind or not the strays. CLIPN is trained over
the shipped demo model on the training pictures: once where every kind is named, else for each draw
on the sixteen kinds that are. Run as: python benchmarks/clipn_demo.py [--record]
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from blissaudit.demo.scenes import KINDS
from blissaudit.evaluation.metrics import auroc, paired_interval
from blissaudit.indexer.encode.encoder import Encoder, ModelChoice
from blissaudit.indexer.encode.open_clip import LoadedModel, encoder_of_model, load_model
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.scores.contract import Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.training.clipn import make_pairs
from blissaudit.training.clipn_folder import curve_csv, curve_svg
from blissaudit.training.clipn_tower import (
    CurvePoint,
    TrainingSettings,
    encode_no,
    make_no_tower,
    train_no_tower,
)
from demo_world import Draw, Part, embedded, label_prompts, split_kinds, texts_about
from measuring import Report, begin, verdict

NAMES = ("maximum_cosine", "mcm", "neglabel_one_group", "bliss", "bliss+", "clipn_ctw", "clipn_atd")
BASELINE = "maximum_cosine"
SETTINGS = TrainingSettings(steps=150, pairs=256, rate=1e-3)
EVERY = np.arange(len(KINDS))
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "clipn-curve.svg"


def trained(
    loaded: LoadedModel, encoder: Encoder, part: Part, kinds: np.ndarray, seed: int
) -> tuple[np.ndarray, list[CurvePoint]]:
    """float32 [24, d], the "no" vectors of all label prompts, after training on some kinds."""
    rows = part.of(kinds)
    captions = [part.captions[row] for row in rows]
    pairs = make_pairs(
        part.images[rows],
        np.arange(len(rows)),
        captions,
        encoder,
        loaded.tokenizer,
        part.kinds[rows],
    )
    prompts = loaded.tokenizer(label_prompts(EVERY))
    tower = make_no_tower(loaded.model, prompts)
    settings = TrainingSettings(SETTINGS.steps, SETTINGS.pairs, SETTINGS.rate, seed)
    curve = train_no_tower(tower, pairs, settings)
    return encode_no(tower, prompts, 64), curve


def aurocs(
    kinds: np.ndarray,
    unseen: np.ndarray,
    parts: Mapping[str, Part],
    labels: np.ndarray,
    no: np.ndarray,
    texts: np.ndarray,
) -> np.ndarray:
    """float64 [scores], AUROC of unseen kinds against normal ones."""
    reference, test = parts["reference"], parts["test"]
    clean = reference.of(kinds)
    normals = Normals(
        tuple(KINDS[kind] for kind in kinds),
        labels[kinds],
        reference.images[clean],
        np.searchsorted(kinds, reference.kinds[clean]),
    )
    fitting = Fitting(normals, texts, {Need.NO_PROMPTS: no[kinds]})
    rows = test.of(np.concatenate([kinds, unseen]))
    images, vectors = test.images[rows], texts
    query = Query(images, gather_texts(exact_search(images, vectors, 10), vectors))
    anomalous = np.isin(test.kinds[rows], unseen)
    return np.array([auroc(fit_score(SCORES[name], fitting)(query), anomalous) for name in NAMES])


def both_sizes(draw: Draw, *made: object) -> np.ndarray:
    """float64 [2, scores]: mean over the normal kinds alone, and all of them together."""
    alone = [aurocs(draw.normal[i : i + 1], draw.unseen, *made) for i in range(len(draw.normal))]
    return np.array([np.mean(alone, axis=0), aurocs(draw.normal, draw.unseen, *made)])


def say_table(report: Report, title: str, values: np.ndarray) -> None:
    """Mean AUROC of each score [draws, scores], and the paired difference to the baseline."""
    report.say(f"\n{title}, {len(values)} draws: AUROC in %")
    base = values[:, NAMES.index(BASELINE)]
    for name, found in zip(NAMES, values.T, strict=True):
        line = f"  {name:<20}{100 * found.mean():7.2f}"
        if name != BASELINE:
            gap = paired_interval(found, base)
            line += (
                f"   against {BASELINE} {100 * gap.mean:+6.2f} "
                f"[{100 * gap.low:+.2f}, {100 * gap.high:+.2f}], "
                f"better in {(found > base).sum()} of {len(values)}"
            )
        report.say(line)


def main() -> None:
    report = begin("clipn_demo", __doc__.splitlines()[0], runs=1)
    loaded = load_model(ModelChoice("demo"))
    encoder = encoder_of_model(loaded)
    start = time.monotonic()
    parts = {name: embedded(name, encoder) for name in ("train", "reference", "test")}
    labels = encoder.encode_texts(label_prompts(EVERY))
    report.say(f"  pictures drawn, roughened and embedded in {time.monotonic() - start:.0f} s")
    start = time.monotonic()
    no, curve = trained(loaded, encoder, parts["train"], EVERY, seed=0)
    seconds = time.monotonic() - start
    texts = encoder.encode_texts(texts_about(EVERY))
    named = [both_sizes(draw, parts, labels, no, texts) for draw in split_kinds()]
    unseen = []
    for draw in split_kinds():
        known = np.sort(np.concatenate([draw.normal, draw.told]))
        own, _ = trained(loaded, encoder, parts["train"], known, seed=draw.number)
        texts = encoder.encode_texts(texts_about(known))
        unseen.append(both_sizes(draw, parts, labels, own, texts))
    for title, values in (("strays named", named), ("strays unseen", unseen)):
        for size, found in enumerate(np.swapaxes(np.array(values), 0, 1)):
            kinds = ("one normal kind", "eight normal kinds")[size]
            say_table(report, f"{kinds}, {title}", found)
    report.say("\nloss curve where every kind is named:")
    rows = [vars(point) for point in curve]
    for line in curve_csv(rows[:: max(1, len(rows) // 8)]).splitlines():
        report.say(f"  {line}")
    alone = np.array(named)[:, 0]
    base = alone[:, NAMES.index(BASELINE)]
    report.say()
    for name in ("clipn_ctw", "clipn_atd"):
        gap = paired_interval(alone[:, NAMES.index(name)], base)
        report.say(verdict(f"{name} - {BASELINE}, one normal kind, low end", gap.low, 0, True))
    report.say(verdict("minutes for one training", seconds / 60, 15, False))
    if report.record:
        FIGURE.write_text(curve_svg(rows, "CLIPN on the rough demo world"), encoding="utf-8")
    report.finish()


if __name__ == "__main__":
    main()
