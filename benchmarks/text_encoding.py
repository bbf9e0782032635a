"""Claim: captions are embedded at least twice as fast as by open_clip as it is, with equal results.

Real captions (Flickr8k) through a ViT-B-32 text tower with random weights: what a tower computes,
and so what it costs, does not depend on the values of its weights. The rival is open_clip's own
tokenizer and `encode_text(normalize=True)`, same batch size and threads, in the order given.

Run as: BLISS_TEST_DATA=DIR python benchmarks/text_encoding.py [--record]
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from blissaudit.indexer.encode.encoder import Encoder
from blissaudit.indexer.encode.open_clip import encoder_of
from blissaudit.indexer.encode.tokens import caption_lengths
from measuring import Report, alternate, begin, test_data, verdict

CLAIM = "encoding captions, ours against open_clip's tokenizer and encode_text"
MODEL, BATCH, CAPTIONS = "ViT-B-32", 64, 640
TARGET, TOLERANCE = 2.0, 1e-5
RUNS = 3


def flickr_captions(data: Path, count: int) -> list[str]:
    """`count` captions spread evenly over the Flickr8k file, in its order."""
    lines = (data / "texts" / "flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    captions = [line.split("\t", 1)[1] for line in lines if "\t" in line]
    return captions[:: len(captions) // count][:count]


def as_open_clip(model: Any, tokenizer: Any, captions: list[str]) -> np.ndarray:
    """float32 [n, d] unit rows, batch by batch in the order given."""
    with torch.inference_mode():
        rows = [
            model.encode_text(tokenizer(captions[at : at + BATCH]), normalize=True)
            for at in range(0, len(captions), BATCH)
        ]
    return torch.cat(rows).numpy()


def compare(
    report: Report, encoder: Encoder, model: Any, tokenizer: Any, captions: list[str]
) -> None:
    """Check equality, then time both ways."""
    tokens = tokenizer(captions).numpy()
    lengths = caption_lengths(tokens, pad=int(tokenizer(["a"])[0, -1]))
    report.say(
        f"\n{MODEL}, random weights, float32; {len(captions):,} captions of {lengths.min()} to "
        f"{lengths.max()} tokens (mean {lengths.mean():.1f}) of {tokens.shape[1]}, batch {BATCH}"
    )
    report.say(f"  short input found exact for this model: {encoder.facts['short_captions_exact']}")
    vectors: dict[str, np.ndarray] = {}

    def ours() -> None:
        vectors["ours"] = encoder.encode_texts(captions)

    def open_clip_alone() -> None:
        vectors["open_clip"] = as_open_clip(model, tokenizer, captions)

    timings = alternate({"ours": ours, "open_clip": open_clip_alone}, report.runs)
    gap = float(np.abs(vectors["ours"] - vectors["open_clip"]).max())
    for name, timing in timings.items():
        rate = len(captions) / timing.median
        report.say(f"{timing.line(name)}, {rate:,.0f} captions/s")
    speed_up = timings["open_clip"].median / timings["ours"].median
    report.say(verdict("max |difference| of entries", gap, TOLERANCE, at_least=False))
    report.say(verdict("speed-up", speed_up, TARGET, at_least=True))


def main() -> None:
    report = begin("text_encoding", CLAIM, RUNS)
    data = test_data()
    if data is None:
        report.say("skipped: BLISS_TEST_DATA names no folder with the captions")
        sys.exit(2)
    logging.disable(logging.WARNING)  # open_clip's warning that the weights are random
    with tempfile.TemporaryDirectory() as cache:
        os.environ["BLISS_CACHE"] = cache
        torch.manual_seed(0)
        model = open_clip.create_model(MODEL, pretrained=None).eval()
        tokenizer = open_clip.get_tokenizer(MODEL)
        encoder = encoder_of(model, tokenizer, {"model": MODEL}, BATCH)
        compare(report, encoder, model, tokenizer, flickr_captions(data, CAPTIONS))
    report.finish()


if __name__ == "__main__":
    main()
