"""Accuracy of the shipped demo model on scenes that it was not trained on.

Run as: python benchmarks/demo_accuracy.py [--scenes 1000] [--seed 977001]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blissaudit.demo
import numpy as np
import open_clip
import torch
from blissaudit.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    COUNT_WORDS,
    COUNTS,
    KINDS,
    SETTINGS,
    Scene,
    plural,
    render_scene,
    sample_captions,
    sample_scene,
    with_article,
)
from numpy.typing import NDArray
from PIL import Image

MODEL = Path(blissaudit.demo.__file__).parent / "model"
HELD_OUT_SEED = 977_001
NORMAL = ("apple", "boat", "house", "tree", "car")

Floats = NDArray[np.float32]
Embed = Callable[[list[str]], Floats]


def load_model() -> tuple[Any, Any, Any]:
    """The shipped model with its own preprocessing and tokenizer."""
    name = f"local-dir:{MODEL.resolve()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def embed_images(model: Any, preprocess: Any, pictures: list[Image.Image]) -> Floats:
    """Unit rows of shape (pictures, d)."""
    with torch.inference_mode():
        parts = [
            model.encode_image(torch.stack([preprocess(p) for p in pictures[at : at + 100]]))
            for at in range(0, len(pictures), 100)
        ]
        return torch.nn.functional.normalize(torch.cat(parts), dim=1).numpy()


def embed_texts(model: Any, tokenizer: Any, texts: list[str]) -> Floats:
    """Unit rows of shape (texts, d)."""
    with torch.inference_mode():
        parts = [
            model.encode_text(tokenizer(texts[at : at + 500])) for at in range(0, len(texts), 500)
        ]
        return torch.nn.functional.normalize(torch.cat(parts), dim=1).numpy()


def attribute_prompts(attribute: str, kind: str) -> list[str]:
    """One prompt for every value of the attribute, about things of the kind."""
    if attribute == "colour":
        return [f"a photo of {with_article(f'{colour} {kind}')}" for colour in COLOURS]
    if attribute == "count":
        words = [kind if count == 1 else plural(kind) for count in COUNTS]
        return [f"a photo of {COUNT_WORDS[n]} {w}" for n, w in zip(COUNTS, words, strict=True)]
    return [f"a photo of {with_article(kind)} {SETTINGS[name][0]}" for name in BACKGROUNDS]


def attribute_accuracy(images: Floats, scenes: list[Scene], attribute: str, embed: Embed) -> float:
    """Share of scenes whose value of the attribute wins among prompts about the scene's kind."""
    values: tuple = {"colour": tuple(COLOURS), "count": COUNTS, "background": BACKGROUNDS}[
        attribute
    ]
    prompts = {kind: embed(attribute_prompts(attribute, kind)) for kind in KINDS}
    right = [
        values[int((prompts[scene.kind] @ image).argmax())] == getattr(scene, attribute)
        for image, scene in zip(images, scenes, strict=True)
    ]
    return float(np.mean(right))


def auroc(stray: Floats, normal: Floats) -> float:
    """Chance that a stray scores above a normal picture (ties count half)."""
    above = (stray[:, None] > normal[None]).mean()
    return float(above + 0.5 * (stray[:, None] == normal[None]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    began = time.monotonic()
    model, preprocess, tokenizer = load_model()
    rng = np.random.default_rng(chosen.seed)
    scenes = [sample_scene(rng) for _ in range(chosen.scenes)]
    images = embed_images(model, preprocess, [render_scene(scene, 128) for scene in scenes])
    labels = embed_texts(model, tokenizer, [f"This is a photo of a {kind}" for kind in KINDS])
    cosines = images @ labels.T
    truth = np.array([KINDS.index(scene.kind) for scene in scenes])
    hits = cosines.argmax(axis=1) == truth
    print(f"file: {(MODEL / 'open_clip_model.safetensors').stat().st_size / 1e6:.2f} MB")
    print(f"kinds ({len(KINDS)}): {hits.mean():.4f}")
    for attribute in ("colour", "count", "background"):
        score = attribute_accuracy(
            images, scenes, attribute, lambda texts: embed_texts(model, tokenizer, texts)
        )
        print(f"{attribute}: {score:.4f}")
    weakest = sorted(KINDS, key=lambda kind: hits[truth == KINDS.index(kind)].mean())[:4]
    for kind in weakest:
        print(f"  weakest kind {kind}: {hits[truth == KINDS.index(kind)].mean():.3f}")
    known = [KINDS.index(kind) for kind in NORMAL]
    normal = np.isin(truth, known)
    top = cosines[:, known].max(axis=1)
    print(f"strays among {len(NORMAL)} kinds, largest label cosine: AUROC", end=" ")
    print(f"{auroc(-top[~normal], -top[normal]):.4f}")
    captions = sample_captions(np.random.default_rng(chosen.seed + 1), 5000)
    pulls = images @ embed_texts(model, tokenizer, captions).T
    nearest = pulls.argmax(axis=1)
    same = [
        scene.kind in captions[at] or plural(scene.kind) in captions[at]
        for scene, at in zip(scenes, nearest, strict=True)
    ]
    print(f"nearest of 5,000 captions names the kind: {np.mean(same):.4f}")
    pull = np.sort(pulls, axis=1)[:, -10:].mean(axis=1) - top
    print("strays, ten nearest of 5,000 captions minus largest label cosine: AUROC", end=" ")
    print(f"{auroc(pull[~normal], pull[normal]):.4f}")
    own = cosines[np.arange(len(truth)), truth]
    others = (cosines.sum() - own.sum()) / (cosines.size - own.size)
    print(f"mean cosine to the right label {own.mean():.3f}, to the others {others:.3f}")
    print(f"seconds: {time.monotonic() - began:.1f}")


if __name__ == "__main__":
    main()
