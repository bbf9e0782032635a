"""Claim: building an index costs little more time than the encoder alone on the same captions.

Real texts are built into an index by `build_index`: planned, read, tokenised, encoded and written.
The rival is the encoder alone, `encode_tokens`, on the same captions in the same chunks, tokenised
beforehand: nothing a build can do is faster. ViT-B-32's text tower has random weights: what a tower
computes, and so what it costs, does not depend on the values of its weights. Each build is made
with the Rust tokenizer and without it, in turns with the encoder alone. That the Rust tokenizer
gives open_clip's own ids on every text there is, is checked first.

Run as: BLISS_TEST_DATA=DIR python benchmarks/encode_overlap.py [--record]
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from blissaudit.corpora.captions import CaptionRules, normalise_caption
from blissaudit.corpora.registry import open_corpus
from blissaudit.indexer.build.build import IndexOptions, build_index
from blissaudit.indexer.encode import tokens
from blissaudit.indexer.encode.encoder import Encoder, demo_model
from blissaudit.indexer.encode.open_clip import encoder_of
from blissaudit.indexer.encode.tokens import is_plain, tokeniser_of
from measuring import Report, begin, measured, test_data, verdict

CLAIM = "captions a second of a whole build, against the encoder alone on the same token ids"
BATCH, AT_ONCE, PART_ROWS, WARM = 64, 4096, 8192, 512
SIZES = {"ViT-B-32": 8_192, "demo": 32_768}
"""Captions of one build of each tower, so that both together take some minutes."""
TARGET = 0.85
RUNS = 3
"""Turns of the small tower; the large one, minutes a turn, has one less."""


def every_text(data: Path) -> list[str]:
    """The distinct texts of all corpora, as their readers give them."""
    folder = data / "texts"
    coco = json.loads((folder / "coco_captions_val2017.json").read_text(encoding="utf-8"))
    texts = [each["caption"] for each in coco["annotations"]]
    for file in sorted(folder.glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            last = line.rpartition("\t")[2]
            texts.extend(last.split(", ") if file.name == "wordnet_words.txt" else [last])
    return list(dict.fromkeys(texts))


def without_rust(make: Callable[[], Any]) -> Any:
    """What `make` gives where no text may go through the Rust tokenizer."""
    kept, tokens.fast_ids = tokens.fast_ids, lambda tokenizer: None
    try:
        return make()
    finally:
        tokens.fast_ids = kept


def compare_tokenizers(report: Report, texts: list[str]) -> None:
    """Check on every text that the ids are open_clip's, and say how fast each tokenizer is."""
    theirs = open_clip.get_tokenizer("ViT-B-32")
    ways = {
        "open_clip": lambda some: theirs(some).numpy(),
        "ours in Python": without_rust(lambda: tokeniser_of(theirs)[0]),
        "ours with Rust": tokeniser_of(theirs)[0],
    }
    seconds = dict.fromkeys(ways, 0.0)
    equal = True
    for start in range(0, len(texts), AT_ONCE):
        some = texts[start : start + AT_ONCE]
        rows = {}
        for name, way in ways.items():
            begun = time.perf_counter()
            rows[name] = way(some)
            seconds[name] += time.perf_counter() - begun
        equal &= all(np.array_equal(each, rows["open_clip"]) for each in rows.values())
    plain = sum(map(is_plain, texts)) / len(texts)
    report.say(f"\n{len(texts):,} distinct texts, {plain:.2%} of them plain; one thread")
    for name, taken in seconds.items():
        report.say(f"  {name}: {len(texts) / taken:,.0f} texts/s")
    report.say(verdict("texts with open_clip's ids", float(equal), 1, at_least=True))


def towers() -> dict[str, Callable[[], Encoder]]:
    """The encoders to try; the larger one has random weights."""

    def made(name: str) -> Encoder:
        torch.manual_seed(0)
        model = open_clip.create_model(demo_model() if name == "demo" else name, pretrained=None)
        tokenizer = open_clip.get_tokenizer(demo_model() if name == "demo" else name)
        return encoder_of(model.eval(), tokenizer, {"model": name}, BATCH)

    return {name: (lambda name=name: made(name)) for name in SIZES}


def compare(report: Report, name: str, make: Callable[[], Encoder], captions: list[str]) -> None:
    """Builds with and without Rust, in turns with the encoder alone."""
    encoders = {"with Rust": make(), "without": without_rust(make)}
    ids = [
        encoders["without"].tokenise(captions[at : at + AT_ONCE])
        for at in range(0, len(captions), AT_ONCE)
    ]
    report.say(f"\n{name}, float32; {len(captions):,} captions, parts of {PART_ROWS:,}")
    seconds: dict[str, list[float]] = {"alone": [], **{way: [] for way in encoders}}
    peaks: dict[str, int | None] = {}
    vectors: dict[str, np.ndarray] = {}

    def alone() -> np.ndarray:
        return np.concatenate([encoders["without"].encode_tokens(each) for each in ids])

    turns = report.runs if name == "demo" else max(1, report.runs - 1)
    encoders["without"].encode_tokens(ids[0][:WARM])  # the first batches of a process are slow
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "captions.txt"
        source.write_text("\n".join(captions) + "\n", encoding="utf-8")
        for turn in range(turns):
            vectors["alone"], taken, peaks["alone"] = measured(alone)
            seconds["alone"].append(taken)
            for way in list(encoders)[:: -1 if turn % 2 else 1]:
                target = Path(folder) / f"{way} {turn}"

                def build(way: str = way, target: Path = target) -> Any:
                    options = IndexOptions(part_rows=PART_ROWS)
                    return build_index(open_corpus(str(source)), encoders[way], target, options)

                _, taken, peaks[way] = measured(build)
                seconds[way].append(taken)
                vectors[way] = np.concatenate([np.load(f) for f in _parts(target)])
                assert len(vectors[way]) == len(captions), "not all captions are in the index"
    for way, times in seconds.items():
        rate = len(captions) / statistics.median(times)
        peak = peaks[way]
        memory = "not measured" if peak is None else f"{peak / 2**20:,.0f} MiB"
        span = f"{min(times):.1f} to {max(times):.1f} s"
        report.say(f"  {way}: {rate:,.0f} captions/s ({span}), peak extra memory {memory}")
    for way in encoders:
        # Each build beside the encoder alone in the same turn: a slow spell meets both.
        ratios = [one / two for one, two in zip(seconds["alone"], seconds[way], strict=True)]
        ratio = statistics.median(ratios)
        line = f"{name}, {way}: share of the encoder's own rate"
        report.say(
            verdict(line, ratio, TARGET, at_least=True)
            if name == "ViT-B-32"
            else f"  => {line}: {ratio:.3g}"
        )
        gap = float(np.abs(vectors[way].astype(np.float32) - vectors["alone"]).max())
        report.say(verdict("  max |difference| of entries, fp16", gap, 5e-4, at_least=False))


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / "text_emb").glob("*.npy"), key=lambda f: int(f.stem.split("_")[-1]))


def main() -> None:
    report = begin("encode_overlap", CLAIM, RUNS)
    data = test_data()
    if data is None:
        report.say("skipped: BLISS_TEST_DATA names no folder with the texts")
        sys.exit(2)
    logging.disable(logging.WARNING)  # open_clip's warning that the weights are random
    texts = every_text(data)
    rules = CaptionRules()
    usable = list(dict.fromkeys(normalise_caption(text, rules) for text in texts))
    usable = [text for text in usable if 0 < len(text) <= rules.max_characters]
    small = int(os.environ.get("OVERLAP_SCALE", "1"))
    compare_tokenizers(report, texts[::small])
    with tempfile.TemporaryDirectory() as cache:
        os.environ["BLISS_CACHE"] = cache
        for name, make in towers().items():
            count = SIZES[name] // small
            step = len(usable) // count
            compare(report, name, make, usable[::step][:count])
    report.finish()


if __name__ == "__main__":
    main()
