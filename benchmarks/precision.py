"""What embedding in bf16 changes: cosines, scores and AUROC of the demo's model, and the rate.

Pictures of `demo_world.py` are embedded in fp32, with the weights cast to bf16 (what `--precision
bf16` does on a CPU) and under autocast. In a second way only the images are in bf16, scored against
a reference and texts in fp32, which an audit warns of. Eight kinds are normal and eight are strays,
ten draws. The rate is that of ViT-B-32 with random weights.

Run as: python benchmarks/precision.py [--record]
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from blissaudit.demo.scenes import KINDS
from blissaudit.evaluation.metrics import auroc
from blissaudit.indexer.encode.encoder import CAST_BF16, Encoder, ModelChoice
from blissaudit.indexer.encode.open_clip import encoder_of, load_model
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from demo_world import Draw, Part, embedded, label_prompts, split_kinds, texts_about
from measuring import Report, begin

WAYS = {"fp32": "fp32", "weights cast": CAST_BF16, "autocast": "bf16"}
NAMES = ("maximum_cosine", "bliss", "bliss+")
EVERY = np.arange(len(KINDS))
BATCH = 16

World = tuple[Part, Part, np.ndarray, np.ndarray]
"""Reference, test pictures, label prompts and texts."""


def encoders(name: str) -> dict[str, Encoder]:
    """An encoder in each precision."""
    if name == "demo":
        loaded = load_model(ModelChoice(name, device="cpu"))
        return {
            way: encoder_of(
                loaded.model, loaded.tokenizer, {**loaded.facts, "precision": precision}, 64
            )
            for way, precision in WAYS.items()
        }
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None).eval()
    tokenizer = open_clip.get_tokenizer(name)
    return {
        way: encoder_of(model, tokenizer, {"precision": precision}, BATCH)
        for way, precision in WAYS.items()
    }


def world_of(encoder: Encoder) -> World:
    """Everything the scores need, embedded by one encoder."""
    labels = encoder.encode_texts(label_prompts(EVERY))
    texts = encoder.encode_texts(texts_about(EVERY))
    return embedded("reference", encoder), embedded("test", encoder), labels, texts


def scores(draw: Draw, world: World) -> tuple[np.ndarray, np.ndarray]:
    """float64 [scores, n] of the draw's normal and stray pictures, and bool [n], the strays."""
    reference, test, labels, texts = world
    clean = reference.of(draw.normal)
    normals = Normals(
        tuple(KINDS[kind] for kind in draw.normal),
        labels[draw.normal],
        reference.images[clean],
        np.searchsorted(draw.normal, reference.kinds[clean]),
    )
    rows = test.of(np.concatenate([draw.normal, draw.unseen]))
    images = test.images[rows]
    query = Query(images, gather_texts(exact_search(images, texts, 10), texts))
    fitting = Fitting(normals, texts, {})
    found = np.array([fit_score(SCORES[name], fitting)(query) for name in NAMES])
    return found, np.isin(test.kinds[rows], draw.unseen)


def compare(report: Report, title: str, world: World, base: World) -> None:
    """AUROC of each score, its change, and the rank correlation with fp32."""
    changes: list[np.ndarray] = []
    for draw in split_kinds():
        found, strays = scores(draw, world)
        before, _ = scores(draw, base)
        aurocs = [[auroc(each, strays) for each in rows] for rows in (found, before)]
        ranks = [np.argsort(np.argsort(rows, axis=1), axis=1) for rows in (found, before)]
        alike = [np.corrcoef(*pair)[0, 1] for pair in zip(*ranks, strict=True)]
        changes.append(np.array([*aurocs, alike]))
    mean = np.mean(changes, axis=0)
    furthest = np.abs([each[0] - each[1] for each in changes]).max(axis=0)
    report.say(f"\n{title}: AUROC in % (fp32), largest change in a draw, rank correlation")
    for at, name in enumerate(NAMES):
        report.say(
            f"  {name:<16}{100 * mean[0, at]:7.2f} ({100 * mean[1, at]:.2f})"
            f"{100 * furthest[at]:7.2f}{mean[2, at]:9.5f}"
        )


def cosine_gap(one: World, other: World, base: World) -> float:
    """Largest |Δ| of the cosines of test pictures of `one` with texts of `other`, against base."""
    return float(np.abs(one[1].images @ other[3].T - base[1].images @ base[3].T).max())


def say_rates(report: Report, made: dict[str, Encoder]) -> None:
    """Images per second of CPU, by turns."""
    height, width = made["fp32"].preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, height, width, 3), np.uint8)
    seconds: dict[str, list[float]] = {way: [] for way in made}
    for _ in range(report.runs + 1):
        for way, encoder in made.items():
            start = time.process_time()
            encoder.encode_images(pixels)
            seconds[way].append(time.process_time() - start)
    rates = {way: BATCH / float(np.median(taken[1:])) for way, taken in seconds.items()}
    report.say(f"\nViT-B-32, {BATCH} images at once, per second of CPU:")
    for way, rate in rates.items():
        report.say(f"  {way}: {rate:.1f} images, {rate / rates['fp32']:.2f} times fp32")


def has_bf16(capabilities: dict[str, object]) -> Sequence[str]:
    """The instructions for bf16 that this CPU has."""
    return [name for name, has in capabilities.items() if has and name.endswith("bf16")]


def main() -> None:
    report = begin("precision", __doc__.splitlines()[0], runs=3)
    found = has_bf16(torch.cpu.get_capabilities())
    report.say(f"  bf16 instructions of this CPU: {', '.join(found) or 'none'}")
    worlds = {way: world_of(encoder) for way, encoder in encoders("demo").items()}
    base = worlds["fp32"]
    for way in list(WAYS)[1:]:
        world = worlds[way]
        compare(report, f"all in bf16, {way}", world, base)
        report.say(f"  largest change of a cosine: {cosine_gap(world, world, base):.4f}")
        mixed = base[0], world[1], base[2], base[3]
        compare(report, f"images in bf16, {way}, the rest in fp32", mixed, base)
        report.say(f"  largest change of a cosine: {cosine_gap(world, base, base):.4f}")
    say_rates(report, encoders("ViT-B-32"))
    report.finish()


if __name__ == "__main__":
    main()
