"""The worlds that OECL is measured in: three of drawn scenes, three of real embeddings.

They were fixed with nothing but the maximum cosine's AUROC known, before OECL was trained on any;
only the prompt that names no kind was added afterwards.
In each, the anomalies tested are of no kind (colour, data set) that the training outliers show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from blissaudit.demo.scenes import (
    COLOURS,
    KINDS,
    Scene,
    render_scene,
    sample_captions,
    sample_scene,
)
from blissaudit.indexer.encode.encoder import Encoder
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from blissaudit.training.oecl import views_encoder, views_of
from PIL import Image

VIEWS, TRAINING_VIEWS = 32, 8
PIXELS, BLURRED_TO, GRAIN = 128, 24, 30.0
CAPTIONS = 2_000
PROMPT = "This is a photo of a {}"


@dataclass(frozen=True)
class Draw:
    """One choice of normals, outliers and anomalies; V views an image, the first as it is."""

    normals: np.ndarray
    """float32 [n, V, d], to train on and the reference of the other scores."""
    labels: np.ndarray
    """int64 [n], classes."""
    outliers: np.ndarray
    """float32 [m, V, d], to train on."""
    test_normals: np.ndarray
    anomalies: np.ndarray
    prompts: np.ndarray
    """float32 [C, d], the label prompts."""
    texts: np.ndarray
    """float32 [M, d], external texts."""
    turned: np.ndarray | None = None
    """float32 [n, 4, V', d], the normals turned by 0°, 90°, 180° and 270°."""
    full_prompts: np.ndarray | None = None
    """float32 [P, d], prompts that say all that is normal."""


@dataclass(frozen=True)
class Pool:
    """Embedded scenes, from which draws choose: every third is only tested, the others only
    trained on."""

    scenes: tuple[Scene, ...]
    """Those trained on."""
    turned: np.ndarray
    """float32 [n, 4, 8, d], their views as they are and turned by 90°, 180° and 270°."""
    tested: tuple[Scene, ...]
    views: np.ndarray
    """float32 [t, 32, d], views of the tested ones."""


def make_pool(encoder: Encoder, scenes: Sequence[Scene], degraded: bool, seed: int) -> Pool:
    """Render and embed scenes; degraded ones lost detail and gained grain."""
    rng = np.random.default_rng([seed, 99])
    pictures = [
        _grainy(render_scene(scene, PIXELS), rng)
        if degraded
        else np.asarray(render_scene(scene, PIXELS))
        for scene in scenes
    ]

    def embedded(shown: list[np.ndarray], count: int, turns: Sequence[int]) -> np.ndarray:
        several = views_encoder(encoder, count, seed, turns)
        rows = [
            several.encode_images(np.stack(shown[start : start + 8]))
            for start in range(0, len(shown), 8)
        ]
        return views_of(np.concatenate(rows), len(turns), count)

    trained = [number for number in range(len(scenes)) if number % 3 < 2]
    tested = [number for number in range(len(scenes)) if number % 3 == 2]
    return Pool(
        tuple(scenes[number] for number in trained),
        embedded([pictures[number] for number in trained], TRAINING_VIEWS, (0, 1, 2, 3)),
        tuple(scenes[number] for number in tested),
        embedded([pictures[number] for number in tested], VIEWS, (0,))[:, 0],
    )


def _grainy(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    small = picture.resize((BLURRED_TO, BLURRED_TO), Image.Resampling.BOX)
    values = np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC), np.float64)
    return np.clip(values + rng.normal(0, GRAIN, values.shape), 0, 255).astype(np.uint8)


def kind_scenes(each: int, seed: int) -> list[Scene]:
    """`each` scenes of every kind."""
    rng = np.random.default_rng([seed, 1])
    return [sample_scene(rng, kind) for kind in KINDS for _ in range(each)]


def coloured_scenes(kinds: int, each: int, seed: int) -> list[Scene]:
    """`each` scenes of every colour of the first kinds of a random order."""
    rng = np.random.default_rng([seed, 2])
    chosen = [KINDS[i] for i in rng.permutation(len(KINDS))[:kinds]]
    return [
        replace(sample_scene(rng, kind), colour=colour)
        for kind in chosen
        for colour in COLOURS
        for _ in range(each)
    ]


def demo_texts(encoder: Encoder, seed: int) -> np.ndarray:
    """float32 [2000, d], captions of the demo's grammar."""
    return encoder.encode_texts(sample_captions(np.random.default_rng([seed, 3]), CAPTIONS))


def kind_draws(
    pool: Pool, encoder: Encoder, texts: np.ndarray, count: int, seed: int
) -> Iterator[Draw]:
    """A third of the pool's kinds is normal, a third outlier, a third anomalous."""
    rng = np.random.default_rng([seed, 4])
    kinds = np.array([scene.kind for scene in pool.scenes])
    tested = np.array([scene.kind for scene in pool.tested])
    names = sorted(set(kinds.tolist()))
    third = len(names) // 3
    for _ in range(count):
        order = [names[i] for i in rng.permutation(len(names))]
        normal = order[:third]
        train = np.isin(kinds, normal)
        yield Draw(
            pool.turned[train, 0],
            np.array([normal.index(kind) for kind in kinds[train]]),
            pool.turned[np.isin(kinds, order[third : 2 * third]), 0],
            pool.views[np.isin(tested, normal)],
            pool.views[np.isin(tested, order[2 * third : 3 * third])],
            encoder.encode_texts([PROMPT.format(kind) for kind in normal]),
            texts,
            pool.turned[train],
        )


def colour_draws(
    pool: Pool, encoder: Encoder, texts: np.ndarray, count: int, seed: int
) -> Iterator[Draw]:
    """Half of the kinds in three colours are normal; the same kinds in three others outliers,
    in the last three anomalous. The class names do not say the colour."""
    rng = np.random.default_rng([seed, 5])
    kinds = sorted({scene.kind for scene in pool.scenes})
    for _ in range(count):
        normal = [kinds[i] for i in rng.permutation(len(kinds))[: len(kinds) // 2]]
        colours = [tuple(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
        third, tested = (
            np.array(
                [
                    colours.index(scene.colour) // 3 if scene.kind in normal else -1
                    for scene in scenes
                ]
            )
            for scenes in (pool.scenes, pool.tested)
        )
        train = np.flatnonzero(third == 0)
        named = [f"{colour} {kind}" for kind in normal for colour in colours[:3]]
        yield Draw(
            pool.turned[train, 0],
            np.array([normal.index(pool.scenes[row].kind) for row in train]),
            pool.turned[third == 1, 0],
            pool.views[tested == 0],
            pool.views[tested == 2],
            encoder.encode_texts([PROMPT.format(kind) for kind in normal]),
            texts,
            pool.turned[train],
            encoder.encode_texts([PROMPT.format(words) for words in named]),
        )


def real_draws(root: Path, kind: str, count: int, seed: int) -> Iterator[Draw]:
    """Caltech-101: 20 normal classes of those with a text; val to train on, test to test.

    `kind` says what the outliers and the anomalies are: `classes`: half of the other classes
    against the other half; `far to far`: textures and scenes against actions and cars;
    `far to classes`: textures and scenes against all other classes.
    """
    val, val_labels = _load(root / "caltech101/val")
    test, test_labels = _load(root / "caltech101/test")
    texts, names = _texts(root)
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    order = json.loads((root / "caltech101/classes.json").read_text(encoding="utf-8"))
    usable = [_plain(name) for name in order if _plain(name) in first]
    others = sorted(set(val_labels.tolist()))
    rng = np.random.default_rng([seed, 6])
    far = [_load(root / name)[0] for name in ("dtd/val", "sun397/val")]
    strange = [_load(root / name)[0] for name in ("ucf101/test", "stanford_cars/val")]
    for _ in range(count):
        normal = [usable[i] for i in rng.permutation(len(usable))[:20]]
        rest = [name for name in others if name not in normal]
        mixed = [rest[i] for i in rng.permutation(len(rest))]
        shown, hidden = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
        train = np.isin(val_labels, normal)
        outliers = np.concatenate([rows[rng.permutation(len(rows))[:500]] for rows in far])
        anomalies = test[~np.isin(test_labels, normal)]
        if kind == "classes":
            outliers = val[np.isin(val_labels, shown)]
            anomalies = test[np.isin(test_labels, hidden)]
        elif kind == "far to far":
            anomalies = np.concatenate(
                [rows[rng.permutation(len(rows))[:1000]] for rows in strange]
            )
        yield Draw(
            val[train][:, None],
            np.array([normal.index(label) for label in val_labels[train]]),
            outliers[:, None],
            test[np.isin(test_labels, normal)][:, None],
            anomalies[:, None],
            texts[[first[name] for name in normal]],
            texts[:1000],
        )


def _load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = np.load(folder / "img_emb" / "img_emb_0.npy")
    labels = pq.read_table(folder / "metadata" / "metadata_0.parquet")["label"].to_pylist()
    return normalise_rows(rows).unit, np.array([_plain(label) for label in labels])


def _texts(root: Path) -> tuple[np.ndarray, list[str]]:
    folder = root / "texts" / "photo-of-a"
    rows = np.load(folder / "text_emb" / "text_emb_0.npy")
    names = pq.read_table(folder / "metadata" / "metadata_0.parquet")["name"].to_pylist()
    return normalise_rows(rows).unit, [_plain(name) for name in names]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")
