"""Where in an image: exactness, place and cost of the maps of `bliss explain`.

Two measurements:
1. For towers of public shapes with random weights: the largest difference between the embedding
   put together from the map's parts and the model's own, and the map's cost in forward passes.
2. For 150 pictures of four demo scenes of one thing each (seed 5): how often the largest cell for
   "prompt of kind k minus the mean of the four prompts" lies in k's quarter, with the demo model's
   exact 2 x 2 map and with crops.

Run as: python benchmarks/explained_cells.py [--towers NAME ...] [--record]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import open_clip
import torch
from blissaudit.demo import KINDS, render_scene, sample_scene
from blissaudit.indexer import ModelChoice, load_encoder, load_model
from blissaudit.indexer.encode import cells
from blissaudit.indexer.encode.encoder import demo_model
from measuring import Report, setup_lines, verdict

TOWERS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "RN50", "convnext_base")
PICTURES, SEED = 150, 5


def main() -> int:
    """Measure and compare with the targets; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--towers", nargs="*", default=TOWERS)
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    report = Report("explained_cells", chosen.record, 1)
    report.say("explained_cells: maps of a score over the image")
    for line in setup_lines():
        report.say(line)
    missed = 0
    for name in chosen.towers:
        difference, cost = tower(name)
        report.say()
        report.say(verdict(f"{name}: largest difference", difference, 1e-4, at_least=False))
        report.say(verdict(f"{name}: map beyond its forward pass", cost, 0.7, at_least=False))
        missed += (difference > 1e-4) + (cost > 0.7)
    report.say()
    for method, target in (("exact", 0.85), ("crops", 0.95)):
        share = right_quarters(method, PICTURES)
        report.say(verdict(f"right quarter, {method}", share, target, at_least=True))
        missed += share < target
    report.finish()
    return min(missed, 1)


def tower(name: str) -> tuple[float, float]:
    """Largest |Δ| of the unit embedding, and the map's CPU time less a forward pass, over it."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None).eval()
    for key, parameter in model.visual.named_parameters():
        if key.endswith("bias"):
            parameter.data.normal_(0, 0.02)
        if key.endswith("bn3.weight"):
            parameter.data.normal_(1, 0.1)
    size = open_clip.get_model_preprocess_cfg(model)["size"]
    images = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    with torch.inference_mode():
        embedding = model.encode_image(images)
        wanted = torch.randn_like(embedding)
        shares_of = cells.EXACT[type(model.visual)]
        (_, rebuilt), own = shares_of(model.visual, images, wanted)
    difference = ((rebuilt - own).abs().amax(1) / own.norm(dim=1)).max()
    plain, mapped = [], []
    for _ in range(3):
        started = time.process_time()
        with torch.inference_mode():
            model.encode_image(images)
        plain.append(time.process_time() - started)
        started = time.process_time()
        found = cells.cell_map(model, images, wanted.numpy())
        mapped.append(time.process_time() - started)
    assert found.method == "exact", name
    return float(difference), float(np.median(mapped) / np.median(plain) - 1)


def right_quarters(method: str, pictures: int) -> float:
    """The share of (picture, kind) whose largest cell is in the quarter that shows the kind."""
    choice = ModelChoice(demo_model(), device="cpu")
    encoder, model = load_encoder(choice), load_model(choice).model
    rng = np.random.default_rng(SEED)
    height = encoder.preprocessing.size[0]
    found = []
    for _ in range(pictures):
        kinds = [KINDS[i] for i in rng.choice(len(KINDS), 4, replace=False)]
        scenes = [
            render_scene(replace(sample_scene(rng, kind), count=1), height // 2) for kind in kinds
        ]
        halves = [np.asarray(scene.convert("RGB")) for scene in scenes]
        pixels = np.vstack([np.hstack(halves[:2]), np.hstack(halves[2:])])[None]
        prompts = encoder.encode_texts([f"This is a photo of a {kind}" for kind in kinds])
        directions = prompts - prompts.mean(0)
        if method == "exact":
            maps = encoder.map_cells(np.repeat(pixels, 4, 0), directions).cells
        else:
            mean, std = (
                torch.tensor(each)[:, None, None]
                for each in (encoder.preprocessing.mean, encoder.preprocessing.std)
            )
            image = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
            with torch.inference_mode():
                wanted = torch.from_numpy(directions).float()
                maps = cells.map_by_crops(model, image.repeat(4, 1, 1, 1), wanted).cells
        for place, grid in enumerate(maps):
            row, column = np.unravel_index(grid.argmax(), grid.shape)
            quarter = 2 * int(row >= grid.shape[0] / 2) + int(column >= grid.shape[1] / 2)
            found.append(quarter == place)
    return float(np.mean(found))


if __name__ == "__main__":
    raise SystemExit(main())
