"""Train the demo's small CLIP on rendered scenes: python benchmarks/demo_training.py.

Every step scores a batch of pictures against three sets of captions: the plain label prompts of
all kinds, captions that name the kind and one more attribute, and captions that name a random
choice of attributes. In every set all captions that are true of a picture count as right.
Attributes are integer rows (kind, colour, count, background); UNSAID in a caption's row means that
the caption does not name that attribute.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import torch
from blissaudit.demo import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    KINDS,
    Scene,
    describe,
    picture_as_file,
    sample_scene,
)
from numpy.typing import NDArray
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

IMAGE_SIZE = 64
MEAN = 0.5
STD = 0.5

Pixels = NDArray[np.uint8]


def sample_scenes(seed: int, stream: int, count: int) -> list[Scene]:
    """Scenes of one of several independent streams of a seed."""
    rng = np.random.default_rng([seed, stream])
    return [sample_scene(rng) for _ in range(count)]


def model_view(scene: Scene) -> Pixels:
    """The 64 x 64 x 3 bytes that the model's own preprocessing makes of the scene's file."""
    picture = picture_as_file(scene, 80 + scene.seed % 16)
    small = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.uint8)


def _render_batch(scenes: list[Scene]) -> Pixels:
    return np.stack([model_view(scene) for scene in scenes])


def render_all(scenes: list[Scene]) -> Pixels:
    """Pictures of shape (scenes, 64, 64, 3), rendered by two processes."""
    batches = [scenes[start : start + 200] for start in range(0, len(scenes), 200)]
    with ProcessPoolExecutor(2) as pool:
        return np.concatenate(list(pool.map(_render_batch, batches)))


def rendered(scenes: list[Scene], cache: Path) -> Pixels:
    """As `render_all`, kept in the .npy file `cache`; the file must belong to these scenes."""
    if cache.exists():
        pixels: Pixels = np.load(cache, allow_pickle=False)
        if len(pixels) >= len(scenes) and np.array_equal(pixels[0], model_view(scenes[0])):
            return pixels[: len(scenes)]
    pixels = render_all(scenes)
    np.save(cache, pixels, allow_pickle=False)
    return pixels


def to_input(pixels: Pixels) -> torch.Tensor:
    """Float input of shape (n, 3, 64, 64), normalised as the shipped preprocessing does."""
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return batch.div_(255 * STD).sub_(MEAN / STD)


def augmented(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Pictures flipped, shifted by up to 4 pixels and changed in brightness, each on its own."""
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    moved = np.empty_like(pixels)
    shifts = rng.integers(0, 9, size=(len(pixels), 2))
    for index, (top, left) in enumerate(shifts):
        moved[index] = padded[index, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    flips = rng.random(len(pixels)) < 0.5
    moved[flips] = moved[flips][:, :, ::-1]
    gains = rng.uniform(0.92, 1.06, size=(len(pixels), 1, 1, 1))
    return np.clip(moved * gains, 0, 255).astype(np.uint8)


UNSAID = -1
_COLOURS = tuple(COLOURS)

Rows = NDArray[np.int64]


def scene_rows(scenes: list[Scene]) -> Rows:
    """Attribute numbers of scenes, shape (scenes, 4)."""
    return np.array(
        [
            (
                KINDS.index(scene.kind),
                _COLOURS.index(scene.colour),
                COUNTS.index(scene.count),
                BACKGROUNDS.index(scene.background),
            )
            for scene in scenes
        ],
        dtype=np.int64,
    )


def written(rows: Rows, rng: np.random.Generator) -> list[str]:
    """One caption for every row of attributes."""
    return [
        describe(
            rng,
            KINDS[kind],
            _COLOURS[colour] if colour != UNSAID else None,
            COUNTS[count] if count != UNSAID else None,
            BACKGROUNDS[background] if background != UNSAID else None,
        )
        for kind, colour, count, background in rows.tolist()
    ]


def kind_rows() -> Rows:
    """One row per kind that names nothing else, shape (kinds, 4)."""
    rows = np.full((len(KINDS), 4), UNSAID, dtype=np.int64)
    rows[:, 0] = np.arange(len(KINDS))
    return rows


def pair_rows(scenes: Rows, column: int) -> Rows:
    """The different pairs of kind and one further attribute that occur among the scenes."""
    rows = np.full_like(scenes, UNSAID)
    rows[:, [0, column]] = scenes[:, [0, column]]
    return np.unique(rows, axis=0)


def mixed_rows(scenes: Rows, rng: np.random.Generator) -> Rows:
    """Different rows naming the scenes' kinds and, each with probability one half, the rest."""
    rows = scenes.copy()
    named = rng.random((len(rows), 3)) < 0.5
    rows[:, 1:][~named] = UNSAID
    return np.unique(rows, axis=0)


def right_pairs(scenes: Rows, captions: Rows) -> torch.Tensor:
    """Boolean (scenes, captions): whether all that the caption names holds for the scene."""
    said = captions[None]
    return torch.from_numpy(((said == UNSAID) | (said == scenes[:, None])).all(axis=2))


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Symmetric cross-entropy whose targets are spread evenly over all right pairs.

    images (n, d) and texts (m, d) are unit rows, right is boolean (n, m); rows and columns
    without any right partner are left out.
    """
    logits = scale * images @ texts.T
    total = logits.new_zeros(())
    for scores, marks in ((logits, right), (logits.T, right.T)):
        kept = marks.any(dim=1)
        targets = marks[kept].float()
        targets = targets / targets.sum(dim=1, keepdim=True)
        total = total - (functional.log_softmax(scores[kept], dim=1) * targets).sum(dim=1).mean()
    return total / 2


MODEL_CFG = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "layers": [1, 1, 1, 1],
        "width": 24,
        "head_width": 64,
        "patch_size": None,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}
PREPROCESS_CFG = {
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
CONTEXT = 32
BATCH = 128
PEAK_RATE = 2e-3
LABEL_PROMPT = "This is a photo of a {}"

log = logging.getLogger(__name__)


@functools.cache
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


@functools.lru_cache(maxsize=200_000)
def _tokens(text: str) -> tuple[int, ...]:
    return tuple(_tokenizer()([text])[0].tolist())


def tokens_of(texts: list[str]) -> torch.Tensor:
    """Token numbers of shape (texts, 32)."""
    return torch.tensor([_tokens(text) for text in texts])


def learning_rate(done: float) -> float:
    """One-cycle schedule: linear rise over the first 6 % of training, then a cosine to zero."""
    if done < 0.06:
        return PEAK_RATE * (0.05 + 0.95 * done / 0.06)
    return PEAK_RATE * max(0.002, 0.5 * (1 + math.cos(math.pi * (done - 0.06) / 0.94)))


def label_accuracy(model: CLIP, pixels: Pixels, rows: Rows) -> float:
    """Share of pictures whose nearest label prompt names their kind."""
    model.eval()
    with torch.inference_mode():
        texts = model.encode_text(
            tokens_of([LABEL_PROMPT.format(k) for k in KINDS]), normalize=True
        )
        found = [
            (model.encode_image(to_input(pixels[at : at + 250]), normalize=True) @ texts.T).argmax(
                1
            )
            for at in range(0, len(pixels), 250)
        ]
    model.train()
    return float((torch.cat(found).numpy() == rows[:, 0]).mean())


def save_model(model: CLIP, folder: Path) -> None:
    """Writes what open_clip's local-dir schema reads, weights in half precision, atomically."""
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "open_clip_model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    os.replace(partial, folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    partial = folder / "open_clip_config.json.partial"
    partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "open_clip_config.json")


def step_loss(
    model: CLIP, pixels: Pixels, rows: Rows, rng: np.random.Generator
) -> tuple[torch.Tensor, list[float]]:
    """Summed loss of one batch, and its three parts: kinds, one attribute, mixed captions."""
    sets = [
        kind_rows(),
        pair_rows(rows, int(rng.integers(1, 4))),
        mixed_rows(rows, rng),
    ]
    texts = [text for captions in sets for text in written(captions, rng)]
    images = model.encode_image(
        to_input(augmented(pixels, rng)).contiguous(memory_format=torch.channels_last),
        normalize=True,
    )
    embedded = model.encode_text(tokens_of(texts), normalize=True)
    parts = [
        contrastive_loss(images, own, model.logit_scale.exp(), right_pairs(rows, captions))
        for own, captions in zip(embedded.split([len(s) for s in sets]), sets, strict=True)
    ]
    loss = parts[0] + 0.5 * parts[1] + 0.5 * parts[2]
    return loss, [float(part.detach()) for part in parts]


def train(out: Path, minutes: float, seed: int, scenes: int, start: Path | None) -> float:
    """Trains for the given minutes (after rendering) and returns the best checked accuracy.

    The model folder `out`/model is replaced whenever the accuracy on 1,000 scenes kept out of
    training rises.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = sample_scenes(seed, 0, scenes)
    pixels, rows = rendered(drawn, out / f"drawn-{seed}-{scenes}.npy"), scene_rows(drawn)
    kept = sample_scenes(seed, 1, 1000)
    kept_pixels, kept_rows = rendered(kept, out / f"checked-{seed}-1000.npy"), scene_rows(kept)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    model = CLIP(**MODEL_CFG)
    if start is not None:
        model.load_state_dict(load_file(start))
    model.visual = model.visual.to(memory_format=torch.channels_last)
    model.train()
    grown = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": grown, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
    )
    best, step, began, checked = 0.0, 0, time.monotonic(), 0.0
    order = rng.permutation(len(rows))
    while (spent := (time.monotonic() - began) / 60) < minutes:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spent / minutes)
        if (step + 1) * BATCH % len(rows) < BATCH:
            order = rng.permutation(len(rows))
        chosen = order[np.arange(step * BATCH, (step + 1) * BATCH) % len(rows)]
        loss, parts = step_loss(model, pixels[chosen], rows[chosen], rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        if spent - checked > 1.0 or step in (20, 60):
            checked = spent
            accuracy = label_accuracy(model, kept_pixels, kept_rows)
            log.info(
                "minute %5.1f step %5d loss %s scale %5.1f accuracy %.3f",
                spent, step, " ".join(f"{p:.3f}" for p in parts),
                float(model.logit_scale.exp().detach()), accuracy,
            )  # fmt: skip
            if accuracy >= best:
                best = accuracy
                save_model(model, out / "model")
    accuracy = label_accuracy(model, kept_pixels, kept_rows)
    log.info("end after %d steps, accuracy %.3f, best before %.3f", step, accuracy, best)
    if accuracy >= best:
        best = accuracy
        save_model(model, out / "model")
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's small CLIP on drawn scenes.")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and model")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=24_000, help="number of training scenes")
    parser.add_argument("--start", type=Path, default=None, help="weights file to go on from")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("root").setLevel(logging.INFO)
    torch.set_num_threads(os.cpu_count() or 2)
    train(chosen.out, chosen.minutes, chosen.seed, chosen.scenes, chosen.start)


if __name__ == "__main__":
    main()
