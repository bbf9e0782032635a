"""Everything that can be wrong with a collection in one folder, found by one audit.

Each draw takes classes of Caltech-101 test photographs and plants, 5 % each: strays of other
classes, swapped labels, copies of images (resized, encoded again, cropped or mirrored, as in
copies.py, in the class of their source), and in 5 % bad pictures in place of images (dark,
overexposed, blurred or of one colour). One audit of the folder reads its files.

No model's weights were available: an encoder replays stored embeddings by the pixels that it is
given. Photographs have their own. A changed one has none: a copy gets its source's with noise, at a
cosine of 0.9 to 0.99, a bad picture at 0.9, one of a single colour a random direction. That the
search proposes copies as candidates is therefore assumed, not measured, as is what cosines find. A
picture of one colour is then unlike everything, and read early: orders are judged with and without
the bad pictures, which another question finds.

Rivals on the same images: cleanlab's label quality (normalised margin of logistic regression in
five folds, out of sample) for labels, thresholds of the cosine for copies, and with --beside
cleanvision (0.3.7 was used) for bad pictures and copies and imagededup (0.3.3) for copies, each as
by default. They are no dependencies: PYTHON is the interpreter of an environment with either. Real
copies are not counted in the precision.

Run as: BLISS_TEST_DATA=DIR python benchmarks/one_folder.py [--draws 10] [--classes 20]
        [--beside PYTHON] [--record]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import blissaudit.audit.request as request_module
import numpy as np
import pyarrow.parquet as pq
from blissaudit import AuditSettings, ClassWords, index_embeddings
from blissaudit.audit import AuditRequest, AuditResult, run_audit
from blissaudit.corpora.images.folders import list_images
from blissaudit.corpora.images.source import read_everything
from blissaudit.indexer import Encoder
from blissaudit.indexer.encode.encoder import Preprocessing
from blissaudit.indexer.images.decoding import Decoded, DecodingLimits
from blissaudit.indexer.images.workers import decode_images
from copies import LISTED, changed, name_of
from measuring import Report, setup_lines, test_data
from PIL import Image, ImageEnhance, ImageFilter
from planted_strays import embeddings

SHARE, FIRST = 0.05, 3000
COPIES = ("resize", "encode", "crop", "mirror")
BAD = ("dark", "light", "blurry", "empty")
PROMPT = "a photo of a {label}"
COSINES = (0.95, 0.97, 0.98)
BESIDE = """
import json, sys
from importlib.metadata import version
from pathlib import Path
try:
    from cleanvision import Imagelab
except ImportError:
    Imagelab = None
try:
    from imagededup.methods import PHash
except ImportError:
    PHash = None
answer = Path(sys.argv[1])
for folder in map(str.strip, sys.stdin):
    def name(path):
        return str(Path(folder, path).relative_to(folder))
    found = {}
    if Imagelab:
        lab = Imagelab(data_path=folder)
        lab.find_issues(n_jobs=1, verbose=False)
        bad = ("dark", "light", "blurry", "low_information")
        bad = lab.issues[[f"is_{each}_issue" for each in bad]]
        sets = [each for how in ("exact", "near") for each in lab.info[f"{how}_duplicates"]["sets"]]
        found["cleanvision"] = {
            "version": version("cleanvision"),
            "bad": [name(path) for path in bad.index[bad.any(axis=1)]],
            "copies": [[name(path) for path in each] for each in sets],
        }
    if PHash:
        near = PHash(verbose=False).find_duplicates(
            image_dir=folder, recursive=True, num_enc_workers=0, num_dist_workers=0)
        found["imagededup's PHash"] = {
            "version": version("imagededup"),
            "copies": [[name(path), name(other)] for path in near for other in near[path]],
        }
    answer.write_text(json.dumps(found))
    print("found", file=sys.__stderr__, flush=True)
"""
PREPROCESSING = Preprocessing((64, 64), "bicubic", "squash", (0.0,) * 3, (1.0,) * 3)


class Planted(NamedTuple):
    """A folder of n images in its order by name, and what is wrong with each."""

    names: list[str]
    vectors: np.ndarray
    kind: np.ndarray
    """str [n]: stray, swap, a change of COPIES, one of BAD, or ok."""
    source: np.ndarray
    """int64 [n], of which image a copy was made, -1 for the others."""
    real: np.ndarray
    """bool [n], whether the photograph is one of the real copies that were listed by eye."""


def plant(real: Path, folder: Path, classes: int, seed: int) -> Planted:
    """Write one draw's files."""
    rng = np.random.default_rng(seed)
    at = real / "caltech101" / "test"
    vectors, labels = embeddings(at)
    files = pq.read_table(at / "metadata" / "metadata_0.parquet")["image_path"].to_pylist()
    normal = np.sort(rng.choice(usable(real, labels), classes, replace=False))
    given = np.array(labels)
    inside = np.flatnonzero(np.isin(given, normal))
    count = round(SHARE * len(inside))
    strays = rng.choice(np.flatnonzero(~np.isin(given, normal)), count, replace=False)
    swapped, bad, sources = np.split(rng.permutation(len(inside))[: 3 * count], 3)
    rows = np.concatenate([inside, strays, inside[sources]])
    kind = np.full(len(rows), "ok", "U8")
    kind[len(inside) : len(inside) + count] = "stray"
    kind[swapped] = "swap"
    kind[bad] = np.resize(BAD, count)
    kind[-count:] = np.resize(COPIES, count)
    filed = np.searchsorted(normal, given[rows]) % classes
    filed[swapped] = (filed[swapped] + rng.integers(1, classes, count)) % classes
    filed[kind == "stray"] = rng.integers(0, classes, count)
    source = np.full(len(rows), -1)
    source[-count:] = sources
    made = vectors[rows].astype(np.float32)
    for i, what in enumerate(kind.tolist()):
        cosine = {"empty": 0.0}.get(what, rng.uniform(0.9, 0.99) if what in COPIES else 0.9)
        if what in COPIES + BAD:
            made[i] = beside(made[i], cosine, rng)
        path = folder / str(normal[filed[i]]) / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        original = real / files[rows[i]]
        if what not in COPIES + BAD:
            shutil.copy(original, path)
            continue
        with Image.open(original) as image:
            picture = image.convert("RGB")
        (changed if what in COPIES else spoilt)(picture, what, rng).save(path, quality=95)
    names = [f"{normal[filed[i]]}/{i:05}.jpg" for i in range(len(rows))]
    with LISTED.open(newline="") as file:
        known = {row[side] for row in csv.DictReader(file) for side in ("first", "second")}
    real_copy = np.array([name_of(files[row]) in known for row in rows])
    return Planted(names, made, kind, source, real_copy)


def usable(real: Path, labels: list[str]) -> list[str]:
    """The classes whose prompt is a caption."""
    metadata = real / "texts" / "photo-of-a" / "metadata" / "metadata_0.parquet"
    captions = set(pq.read_table(metadata)["caption"].to_pylist())
    return sorted(label for label in set(labels) if PROMPT.format(label=label) in captions)


def beside(row: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """A unit row at that cosine from one, in a random direction."""
    noise = rng.standard_normal(len(row))
    noise -= (noise @ row) * row / (row @ row)
    found = cosine * row / np.linalg.norm(row)
    return (found + np.sqrt(1 - cosine**2) * noise / np.linalg.norm(noise)).astype(np.float32)


def spoilt(image: Image.Image, how: str, rng: np.random.Generator) -> Image.Image:
    if how == "dark":
        return ImageEnhance.Brightness(image).enhance(0.15)
    if how == "light":
        return Image.blend(image, Image.new("RGB", image.size, "white"), 0.97)
    if how == "blurry":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) / 25))
    return Image.new("RGB", image.size, tuple(rng.integers(0, 256, 3).tolist()))


def audit(folder: Path, planted: Planted, index: Path, texts: dict[str, np.ndarray]) -> AuditResult:
    """One audit of the folder, with an encoder that replays embeddings."""
    images = folder / "images"
    items = list_images(images)
    known = {}
    at = {name: i for i, name in enumerate(planted.names)}
    outcomes = decode_images(items.items(read_everything), PREPROCESSING, DecodingLimits())
    listed = list(items.items(read_everything))
    for item, outcome in zip(listed, outcomes, strict=True):
        assert isinstance(outcome, Decoded)
        known[digest(outcome.pixels)] = planted.vectors[at[item.path]]
    encoder = Encoder(
        facts={
            **dict.fromkeys(("model", "pretrained", "weights_sha256")),
            "dimension": planted.vectors.shape[1],
            "precision": "fp32",
            "preprocessing": json.loads(json.dumps(asdict(PREPROCESSING))),
        },
        preprocessing=PREPROCESSING,
        batch_size=64,
        encode_texts=lambda prompts: np.stack([texts[prompt] for prompt in prompts]),
        encode_images=lambda pixels: np.stack([known[digest(each)] for each in pixels]),
    )
    original = request_module.encoder_for
    request_module.encoder_for = lambda *_: encoder
    try:
        request = AuditRequest(
            images=str(images),
            indexes=(str(index),),
            output=str(folder / "run"),
            settings=AuditSettings(words=ClassWords(prompts=(PROMPT,))),
        )
        return run_audit(request)
    finally:
        request_module.encoder_for = original


def digest(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()


class Beside:
    """The rivals that an interpreter has."""

    def __init__(self, python: str, answer: Path) -> None:
        self.answer = answer
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-c", BESIDE, str(answer)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def found(self, folder: Path) -> dict[str, dict[str, Any]]:
        """The bad pictures and the groups of copies of a folder, by the name of each rival."""
        assert self.process.stdin is not None and self.process.stderr is not None
        print(folder, file=self.process.stdin, flush=True)
        told = []
        for line in self.process.stderr:
            told.append(line)
            if line == "found\n":
                return json.loads(self.answer.read_text())
        raise SystemExit("".join(told))


def judged(
    result: AuditResult, planted: Planted, beside: dict[str, dict[str, Any]]
) -> dict[str, tuple[float, float]]:
    """Precision and recall in percent; at the planted count they are the same."""
    at = {name: i for i, name in enumerate(planted.names)}
    order = np.array([at[path] for path in result.images.paths])
    kind, source = planted.kind[order], planted.source[order]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    stray, swap, bad = kind == "stray", kind == "swap", np.isin(kind, BAD)
    assert result.labels is not None and result.merged is not None and result.issues is not None
    filed = np.array([name.split("/")[0] for name in planted.names])[order]
    orders = {
        "the margin": result.labels.margin,
        "read_first": result.merged,
        "cleanlab": cleanlab_doubt(np.asarray(result.images.vectors[:]), filed),
    }
    found = {"strays, by the stray score": at_count(result.scores.score, stray)}
    for name, each in orders.items():
        found[f"strays and wrong labels, by {name}"] = at_count(each, stray | swap)
    for name, each in orders.items():
        kept = np.where(bad, -np.inf, each)
        found[f"the same without bad pictures, by {name}"] = at_count(kept, stray | swap)
    issue = {name: np.zeros(len(order), bool) for name in ("label", "quality")}
    row = {int(r): i for i, r in enumerate(result.images.rows)}
    for each in result.issues.to_pylist():
        if each["kind"] == "label":
            issue["label"][row[each["row"]]] = True
        elif each["kind"] == "quality" and each["evidence"].startswith(BAD):
            issue["quality"][row[each["row"]]] = True
    found["label issues"] = both(issue["label"], stray | swap)
    found["quality issues (dark, light, blurry, empty)"] = both(issue["quality"], bad)
    group = np.full(len(order), -1)
    assert result.copies is not None
    for each in result.copies.to_pylist():
        if each["kind"] != "look-alike":
            group[row[each["row"]]] = each["group"]
    copy = np.flatnonzero(source >= 0)
    first = place[source[copy]]
    hit = (group[copy] >= 0) & (group[copy] == group[first])
    for change in COPIES:
        mine = hit[kind[copy] == change]
        found[f"copies, {change}"] = (np.nan, 100 * mine.mean())
    true = np.zeros(len(order), bool)
    true[copy], true[first] = True, True
    counted = true | ~planted.real[order]
    found["copies, all"] = (100 * true[counted & (group >= 0)].mean(), 100 * hit.mean())
    for rival, answer in beside.items():
        if "bad" in answer:
            called = np.zeros(len(order), bool)
            called[[place[at[name]] for name in answer["bad"]]] = True
            found[f"bad pictures, by {rival}"] = both(called, bad)
        groups = [{place[at[name]] for name in names} for names in answer["copies"]]
        called = np.zeros(len(order), bool)
        called[[i for each in groups for i in each]] = True
        hit = np.array([any({i, j} <= each for each in groups)
                        for i, j in zip(copy, first, strict=True)])  # fmt: skip
        found[f"copies, by {rival}"] = (100 * true[counted & called].mean(), 100 * hit.mean())
    vectors = np.asarray(result.images.vectors[:])
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -1)
    for threshold in COSINES:
        called = (cosine >= threshold).any(axis=1) & counted
        recall = (cosine[copy, first] >= threshold).mean()
        found[f"copies, by cosine >= {threshold}"] = (100 * true[called].mean(), 100 * recall)
    return found


def at_count(order: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    top = np.argsort(-np.nan_to_num(order, nan=-np.inf), kind="stable")[: wrong.sum()]
    return (100 * wrong[top].mean(),) * 2


def both(called: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    right = (called & wrong).sum()
    return 100 * right / max(1, called.sum()), 100 * right / wrong.sum()


def cleanlab_doubt(vectors: np.ndarray, filed: np.ndarray) -> np.ndarray:
    """Minus cleanlab's label quality, or by its formula where cleanlab is not installed."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    _, given = np.unique(filed, return_inverse=True)
    model = LogisticRegression(max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = cross_val_predict(model, 10 * vectors, given, cv=5, method="predict_proba")
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        own = shares[np.arange(len(given)), given]
        shares[np.arange(len(given)), given] = -1
        return shares.max(axis=1) - own
    return -get_label_quality_scores(given, shares, method="normalized_margin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--beside", metavar="PYTHON", help="with cleanvision or imagededup")
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    data = test_data()
    if data is None:
        sys.exit("BLISS_TEST_DATA names no folder with the photographs")
    real = data / "real"
    report = Report("one_folder", chosen.record, 1)
    report.say(f"one_folder: {chosen.draws} draws of {chosen.classes} classes")
    for line in setup_lines():
        report.say(line)
    captions = real / "texts" / "photo-of-a"
    names = pq.read_table(captions / "metadata" / "metadata_0.parquet")["caption"].to_pylist()
    rows = np.load(captions / "text_emb" / "text_emb_0.npy").astype(np.float32)
    texts = dict(zip(names, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))
    every: dict[str, list[tuple[float, float]]] = {}
    counts, versions = [], {}
    with tempfile.TemporaryDirectory() as made:
        os.environ["BLISS_CACHE"] = str(Path(made) / "cache")
        index = Path(made) / "index"
        index_embeddings(captions, index, "caption")
        rivals = Beside(chosen.beside, Path(made) / "beside.json") if chosen.beside else None
        for seed in range(FIRST, FIRST + chosen.draws):
            folder = Path(made) / str(seed)
            planted = plant(real, folder / "images", chosen.classes, seed)
            counts.append((len(planted.names), (planted.kind == "stray").sum()))
            result = audit(folder, planted, index, texts)
            beside = {} if rivals is None else rivals.found(folder / "images")
            versions = {name: answer["version"] for name, answer in beside.items()}
            for name, pair in judged(result, planted, beside).items():
                every.setdefault(name, []).append(pair)
            shutil.rmtree(folder)
        if rivals is not None:
            rivals.process.communicate()
    images, planted_each = np.mean(counts, axis=0)
    for name, version in versions.items():
        report.say(f"  beside {name}, version {version}")
    report.say(f"  {images:,.0f} images a draw, {planted_each:.0f} planted of each kind")
    report.say(f"  {'':<46} precision  recall, in percent, mean and standard deviation")
    for name, pairs in every.items():
        (precision, recall), (one, other) = np.mean(pairs, axis=0), np.std(pairs, axis=0)
        first = " " * 12 if np.isnan(precision) else f"{precision:5.1f} ± {one:4.1f}"
        report.say(f"  {name:<46} {first}   {recall:5.1f} ± {other:4.1f}")
    report.finish()


if __name__ == "__main__":
    main()
