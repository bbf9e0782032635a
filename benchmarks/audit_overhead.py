"""Claim: a whole audit takes at most 1.15 times the slower of decoding and encoding alone.

The audit is `run_audit` and `save_audit` on class folders of real photographs with an index that
exists: listing, checksums, embedding, label prompts, search, scores, files on disk. The rival only
decodes the same files with the same processes and encodes the same batches with open_clip's
`encode_image`. Beside it, each alone: decoding with a process per core and nobody encoding, and
encoding batches that are decoded already, on all threads. ViT-B-32 with random weights, saved once
as a local-dir model. The ratios with a target leave loading the model out of everything.

On two cores both ways use all cores, so work that overlaps takes their sum, not the slower one: the
ratio to the slower cannot be below 1 + the shorter over the longer, less what either leaves idle
when alone. Where decoding is a small share, or the encoder is a GPU, that bound is near 1.

Run as: BLISS_TEST_DATA=DIR python benchmarks/audit_overhead.py [--record]
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blissaudit.audit.request as request_module
import numpy as np
import open_clip
import torch
from blissaudit.audit.folder import save_audit
from blissaudit.audit.request import AuditRequest, run_audit
from blissaudit.corpora.images.folders import list_images
from blissaudit.corpora.images.source import read_everything
from blissaudit.corpora.registry import open_corpus
from blissaudit.indexer.build.build import build_index
from blissaudit.indexer.encode.encoder import ModelChoice, Preprocessing
from blissaudit.indexer.encode.open_clip import load_encoder
from blissaudit.indexer.images.decoding import Decoded, DecodingLimits
from blissaudit.indexer.images.workers import decode_images, default_workers
from measuring import Report, begin, peak_extra, test_data, verdict
from safetensors.torch import save_file

CLAIM = "a whole audit against decoding and encoding its images, together and each alone"
MODEL, BATCH = "ViT-B-32", 64
IMAGES, SMALLEST_CLASS, CAPTIONS = 450, 3, 500
TARGET, TOGETHER = 1.15, 1.2
"""Against the slower of decoding and encoding alone; against both together."""
RUNS = 3
NOTHING = np.zeros((0, 0), np.float32)


def save_model(folder: Path) -> str:
    """A local-dir model with random weights; its open_clip name."""
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL, pretrained=None)
    folder.mkdir()
    config = {
        "model_cfg": open_clip.get_model_config(MODEL),
        "preprocess_cfg": open_clip.get_model_preprocess_cfg(model),
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def copy_classes(source: Path, folder: Path) -> int:
    """Copy class folders in order of their names until there are IMAGES photographs."""
    count = 0
    for directory in sorted(path for path in source.iterdir() if path.is_dir()):
        files = sorted(directory.iterdir())
        if len(files) < SMALLEST_CLASS:
            continue
        shutil.copytree(directory, folder / directory.name)
        count += len(files)
        if count >= IMAGES:
            break
    return count


def make_index(data: Path, folder: Path, model: str) -> None:
    """An index of the first captions of Flickr8k."""
    lines = (data / "texts" / "flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    texts = folder.parent / "captions.txt"
    captions = [line.split("\t", 1)[1] for line in lines[:CAPTIONS]]
    texts.write_text("\n".join(captions) + "\n", encoding="utf-8")
    encoder = load_encoder(ModelChoice(model=model, device="cpu", batch_size=BATCH))
    build_index(open_corpus(str(texts)), encoder, folder)


def audit(images: Path, index: Path, output: Path, model: str) -> tuple[float, float, np.ndarray]:
    """One whole audit: seconds, seconds of them loading the model, and the image vectors."""
    shutil.rmtree(output, ignore_errors=True)
    loading: list[float] = []
    original = request_module.encoder_for

    def timed_encoder(*arguments: Any) -> Any:
        start = time.perf_counter()
        encoder = original(*arguments)
        loading.append(time.perf_counter() - start)
        return encoder

    choice = ModelChoice(model=model, device="cpu", batch_size=BATCH)
    request = AuditRequest(
        images=str(images), indexes=(str(index),), output=str(output), model=choice, score="bliss"
    )
    request_module.encoder_for = timed_encoder
    try:
        start = time.perf_counter()
        result = run_audit(request)
        save_audit(result, request.settings, output, {"command": "benchmark"})
        seconds = time.perf_counter() - start
    finally:
        request_module.encoder_for = original
    return seconds, sum(loading), result.images.vectors


def decode_and_encode(images: Path, model_name: str) -> tuple[float, float, np.ndarray]:
    """Decoding and encoding alone: seconds, seconds of them loading the model, unit vectors."""
    start = time.perf_counter()
    model = open_clip.create_model(model_name).eval()
    loading = time.perf_counter() - start
    config = open_clip.get_model_preprocess_cfg(model)
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        features = torch.cat(
            [
                model.encode_image(
                    (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
                )
                for pixels in pixel_batches(images, config)
            ]
        )
    seconds = time.perf_counter() - start
    return seconds, loading, torch.nn.functional.normalize(features, dim=-1).numpy()


def encode_alone(images: Path, model_name: str) -> Callable[[], tuple[float, float, np.ndarray]]:
    """A way that only encodes: the model is loaded and every image decoded before."""
    model = open_clip.create_model(model_name).eval()
    config = open_clip.get_model_preprocess_cfg(model)
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    batches = list(pixel_batches(images, config))

    def way() -> tuple[float, float, np.ndarray]:
        start = time.perf_counter()
        with torch.inference_mode():
            for pixels in batches:
                model.encode_image(
                    (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
                )
        return time.perf_counter() - start, 0.0, NOTHING

    return way


def decode_alone(images: Path, config: dict[str, Any]) -> tuple[float, float, np.ndarray]:
    """Only decoding, with as many processes as the audit has."""
    start = time.perf_counter()
    for _ in pixel_batches(images, config):
        pass
    return time.perf_counter() - start, 0.0, NOTHING


def pixel_batches(images: Path, config: dict[str, Any]) -> Iterator[np.ndarray]:
    """uint8 [b, height, width, 3] of every image, decoded as the audit decodes them."""
    size = config["size"]
    preprocessing = Preprocessing(
        size=(size, size) if isinstance(size, int) else tuple(size),
        interpolation=config["interpolation"],
        resize_mode=config["resize_mode"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    items = list_images(images).items(read_everything)
    outcomes = decode_images(items, preprocessing, DecodingLimits(), ahead=2 * BATCH)
    waiting: list[np.ndarray] = []
    for outcome in outcomes:
        assert isinstance(outcome, Decoded)
        waiting.append(outcome.pixels)
        if len(waiting) == BATCH:
            yield np.stack(waiting)
            waiting.clear()
    if waiting:
        yield np.stack(waiting)


def compare(report: Report, folder: Path, data: Path) -> None:
    """Set everything up in `folder`, run both ways by turns and print the ratio."""
    images, index = folder / "images", folder / "index"
    model = save_model(folder / "model")
    count = copy_classes(data / "real" / "caltech101" / "val" / "images", images)
    make_index(data, index, model)
    report.say(
        f"\n{count} photographs in {len(list(images.iterdir()))} classes, {CAPTIONS} captions, "
        f"{MODEL} with random weights, float32, batch {BATCH}, {default_workers()} decoders"
    )
    config = open_clip.get_model_preprocess_cfg(open_clip.create_model(model))
    ways = {
        "audit": lambda: audit(images, index, folder / "output", model),
        "decode and encode": lambda: decode_and_encode(images, model),
        "encode alone": encode_alone(images, model),
        "decode alone": lambda: decode_alone(images, config),
    }
    peaks = {name: peak_extra(way) for name, way in ways.items()}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    vectors: dict[str, np.ndarray] = {}
    for turn in range(report.runs):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            seconds, loading, vectors[name] = ways[name]()
            runs[name].append((seconds, loading))
    gap = np.abs(vectors["audit"] - vectors["decode and encode"]).max()
    report.say(f"  image vectors: max |difference| {gap:.1e}")
    work = {name: statistics.median(s - load for s, load in pairs) for name, pairs in runs.items()}
    whole = {name: statistics.median(s for s, _ in pairs) for name, pairs in runs.items()}
    for name, pairs in runs.items():
        peak = peaks[name]
        memory = "not measured" if peak is None else f"{peak / 2**20:,.0f} MiB"
        report.say(
            f"  {name}: median {work[name]:.2f} s without loading, {whole[name]:.2f} s with it "
            f"(of {len(pairs)}: {', '.join(f'{s - load:.2f}' for s, load in pairs)}), "
            f"peak extra memory {memory}, decoder processes not counted"
        )
    apart, together = (took["audit"] / took["decode and encode"] for took in (work, whole))
    alone = [work["encode alone"], work["decode alone"]]
    one_by_one = work["audit"] / sum(alone)
    report.say(f"  audit / (encode alone + decode alone, one after the other): {one_by_one:.3f}")
    report.say(f"  least possible on cores that both use: 1 + {min(alone) / max(alone):.3f}")
    slower = work["audit"] / max(alone)
    report.say(verdict("audit / the slower of encode and decode alone", slower, TARGET, False))
    report.say(verdict("audit / decode and encode, loading in neither", apart, TOGETHER, False))
    report.say(verdict("the same, loading in both", together, TOGETHER, False))


def main() -> None:
    report = begin("audit_overhead", CLAIM, RUNS)
    data = test_data()
    if data is None:
        report.say("skipped: BLISS_TEST_DATA names no folder with the photographs")
        sys.exit(2)
    logging.disable(logging.WARNING)  # open_clip's warning that the weights are random
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLISS_CACHE"] = str(Path(folder) / "cache")
        compare(report, Path(folder), data)
    report.finish()


if __name__ == "__main__":
    main()
