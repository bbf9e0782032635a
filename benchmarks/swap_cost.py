"""Claim: auditing the same images against another corpus costs the search and the scores.

4,000 real image embeddings (`imagenet-4shot`, 998 classes) were audited against one index; then
they are audited against a second one of 100,000 texts: the real texts and convex mixtures of them.
The audit is `run_audit` and `save_audit` with a new output folder each time: opening the index and
its checksums, reading the images, label prompts looked up among the captions, the fitted reference
taken over from the first audit, search, scores, and every file but report.html (`--report none`).

The rival has all of that in memory already and only searches a bare FAISS IndexFlatIP, gathers the
texts and takes the BLISS scores. Both give the same scores.

Run as: BLISS_TEST_DATA=DIR python benchmarks/swap_cost.py [--record]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blissaudit.audit.fitting.reference as fit_module
import blissaudit.audit.request as request_module
import blissaudit.audit.run as run_module
import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.audit.classes import ClassWords
from blissaudit.audit.folder import save_audit
from blissaudit.audit.request import AuditRequest, run_audit
from blissaudit.audit.result import AuditResult
from blissaudit.audit.run import AuditSettings, in_reference
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.images.embedding import EmbedOptions
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.vectors.nearest import Hits
from blissaudit.indexer.vectors.unit_rows import blocks_of
from blissaudit.scorer.bliss import BlissScores, bliss_scores, gather_texts
from measuring import Report, alternate, begin, test_data, unit, verdict
from synthetic import TEXTS, K, mixed_texts

CLAIM = "an audit of embedded images against a second index, against bare search and scores"
TARGET = 1.15
RUNS = 5
IMAGENET = 1000
"""The first texts of photo-of-a are the prompts of these classes."""
STEPS = (
    ("opening the index", request_module, "open_indexes"),
    ("reading the images", request_module, "read_image_embeddings"),
    ("prompts and the saved reference", request_module, "fit_reference"),
    ("search, hits on disk", run_module, "retrieve"),
    ("scores", run_module, "bliss_scores"),
)


def write_index(folder: Path, vectors: np.ndarray, captions: list[str]) -> Path:
    """An index of `vectors` [M, d] by way of precomputed embeddings."""
    made = folder / "embeddings"
    for name in ("text_emb", "metadata"):
        (made / name).mkdir(parents=True)
    np.save(made / "text_emb" / "text_emb_0.npy", vectors)
    pq.write_table(pa.table({"caption": captions}), made / "metadata" / "metadata_0.parquet")
    index_embeddings(made, folder / "index", "caption")
    return folder / "index"


def make_indexes(data: Path, folder: Path) -> tuple[Path, Path]:
    """The index of the first audit, all real prompts, and the one it is swapped for."""
    real = [_texts(data / "texts" / name) for name in ("photo-of-a", "a")]
    vectors = np.concatenate([each[0] for each in real])
    captions = [caption for each in real for caption in each[1]]
    more = [f"a mixture, number {row}" for row in range(TEXTS - len(set(captions)))]
    count = len(captions) + len(more)  # equal captions are dropped: TEXTS remain
    first = write_index(folder / "first", *real[0])
    second = write_index(folder / "second", mixed_texts(vectors, 0, count), captions + more)
    return first, second


def _texts(folder: Path) -> tuple[np.ndarray, list[str]]:
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet", columns=["caption"])
    return unit(np.load(folder / "text_emb" / "text_emb_0.npy")), table.column(0).to_pylist()


def prompts_of(data: Path) -> ClassWords:
    """Each class's prompt as it is among the texts, `an` before vowels."""
    table = pq.read_table(data / "texts" / "photo-of-a" / "metadata" / "metadata_0.parquet")
    named = table.slice(0, IMAGENET).to_pydict()
    return ClassWords(labels=dict(zip(named["name"], named["caption"], strict=True)))


def audit(images: Path, index: Path, output: Path, words: ClassWords) -> AuditResult:
    """One whole audit into a new folder."""
    shutil.rmtree(output, ignore_errors=True)
    request = AuditRequest(
        embeddings=str(images),
        indexes=(str(index),),
        output=str(output),
        score="bliss",
        settings=AuditSettings(K, words=words),
        embed=EmbedOptions(cache=output.parent / "cache"),
    )
    result = run_audit(request)
    save_audit(result, request.settings, output, {"command": "benchmark"})
    return result


def bare(index: faiss.IndexFlatIP, texts: np.ndarray, known: AuditResult) -> BlissScores:
    """Search and scores alone; images, texts, statistics and classes are in memory."""
    images, reference = known.images.vectors, known.reference
    similarity, rows = index.search(images, K)
    retrieved = gather_texts(Hits(similarity, rows), texts)
    numbers = {name: number for number, name in enumerate(reference.classes)}
    given = np.array([numbers[label] for label in known.images.labels])
    return bliss_scores(images, retrieved, reference, 0.5, given, known.left_out)


def where_it_goes(report: Report, work: Callable[[], Any]) -> None:
    """One more audit, its steps timed from within."""
    took: dict[str, float] = {}
    originals = [getattr(module, name) for _, module, name in STEPS]

    def timed(step: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*given, **named)
            finally:
                took[step] = took.get(step, 0) + time.perf_counter() - start

        return call

    try:
        for (step, module, name), original in zip(STEPS, originals, strict=True):
            setattr(module, name, timed(step, original))
        start = time.perf_counter()
        work()
        whole = time.perf_counter() - start
    finally:
        for (_, module, name), original in zip(STEPS, originals, strict=True):
            setattr(module, name, original)
    report.say("  where an audit's time goes:")
    for step, seconds in took.items():
        report.say(f"    {step}: {seconds:.2f} s")
    report.say(f"    the rest (files, table, classes): {whole - sum(took.values()):.2f} s")


def compare(report: Report, data: Path, folder: Path) -> None:
    images = data / "imagenet-4shot"
    first, second = make_indexes(data, folder)
    words = prompts_of(data)
    audit(images, first, folder / "before", words)
    fitted: list[int] = []
    original = fit_module._with_images
    fit_module._with_images = lambda *given: fitted.append(1) or original(*given)
    known = audit(images, second, folder / "after", words)
    texts = np.concatenate([rows for _, rows in blocks_of(open_index(second).vectors)])
    flat = faiss.IndexFlatIP(texts.shape[1])
    flat.add(texts)
    assert len(in_reference(known.images, known.reference).images) == len(known.images.rows)
    report.say(
        f"\nn = {len(known.images.rows):,}, C = {len(known.reference.classes):,}, "
        f"M = {len(texts):,}, k = {K}, d = {texts.shape[1]}, "
        f"{len(known.retrieved.vectors):,} distinct texts"
    )
    found = bare(flat, texts, known)
    gap = np.abs(found.score - known.scores.score).max()
    report.say(f"  scores: max |difference| {gap:.1e}")
    ways: dict[str, Callable[[], Any]] = {
        "audit": lambda: audit(images, second, folder / "after", words),
        "search and scores": lambda: bare(flat, texts, known),
    }
    timings = alternate(ways, report.runs)
    fit_module._with_images = original
    report.say(f"  references fitted by all audits after the first: {len(fitted)}")
    for name, timing in timings.items():
        report.say(timing.line(name))
    where_it_goes(report, ways["audit"])
    ratio = timings["audit"].median / timings["search and scores"].median
    report.say(verdict("audit / search and scores, no report.html", ratio, TARGET, False))


def main() -> None:
    report = begin("swap_cost", CLAIM, RUNS)
    data = test_data()
    if data is None:
        report.say("skipped: BLISS_TEST_DATA names no folder with the embeddings")
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        compare(report, data / "real", Path(folder))
    report.finish()


if __name__ == "__main__":
    main()
