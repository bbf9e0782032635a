"""Claim: an audit that answers every question costs at most 1.25 times one of strays alone.

Processor seconds, those of decoding processes included, by turns: audit, files and report of

1. embeddings alone: 4,114 rows of Caltech-101, 2,283 captions, nothing to open;
2. the same embeddings with their photographs, which only the search for copies opens;
3. photographs that are embedded, by ViT-B-32 with random weights: nearly all cosines are above the
   one from which pictures are compared, so that there are about as many pairs as there can be.

Run as: BLISS_TEST_DATA=DIR python benchmarks/questions_cost.py [--runs 3] [--record]
"""

from __future__ import annotations

import logging
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from audit_overhead import BATCH, copy_classes, make_index, save_model
from blissaudit import AuditQuestion, AuditSettings, ClassWords, index_embeddings
from blissaudit.audit import AuditRequest, run_audit, save_audit, save_report
from blissaudit.indexer import ModelChoice
from copies import photographs
from measuring import begin, test_data, verdict

CLAIM = "every question against strays alone, processor seconds of audit, files and report"
TARGET = 1.25
STRAYS, EVERY = AuditQuestion(("stray",)), AuditQuestion()


def spent() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def whole_audit(request: AuditRequest, given: dict[str, str]) -> None:
    """Audit, files and page; `given` is what the page needs to find pictures."""
    result = run_audit(request)
    save_audit(result, request.settings, request.output, {"command": "benchmark", **given})
    save_report(request.output, reference=result.reference)


def compared(way: Callable[[AuditQuestion, str], None], runs: int) -> tuple[float, float]:
    """Median seconds with strays alone and with every question, after one run of both."""
    seconds: dict[AuditQuestion, list[float]] = {STRAYS: [], EVERY: []}
    for turn in range(runs + 1):
        for question in (STRAYS, EVERY)[:: -1 if turn % 2 else 1]:
            with tempfile.TemporaryDirectory() as output:
                os.environ["BLISS_CACHE"] = str(Path(output) / "cache")
                start = spent()
                way(question, str(Path(output) / "run"))
                seconds[question].append(spent() - start)
    return statistics.median(seconds[STRAYS][1:]), statistics.median(seconds[EVERY][1:])


def store(real: Path, folder: Path) -> None:
    """The embeddings of val and test as one folder."""
    vectors, files = photographs(real)
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", vectors)
    labels = [file.split("/")[-2] for file in files]
    table = pa.table({"image_path": files, "label": labels})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")


def main() -> None:
    report = begin("questions_cost", CLAIM, 3)
    data = test_data()
    if data is None:
        report.say("skipped: BLISS_TEST_DATA names no folder with the photographs")
        sys.exit(2)
    logging.disable(logging.WARNING)
    real = data / "real"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        store(real, folder / "embeddings")
        index_embeddings(real / "texts" / "photo-of-a", folder / "index", "caption")
        model = save_model(folder / "model")
        count = copy_classes(real / "caltech101" / "val" / "images", folder / "images")
        make_index(data, folder / "captions", model)
        choice = ModelChoice(model=model, device="cpu", batch_size=BATCH)

        def embeddings(question: AuditQuestion, output: str, root: str | None = None) -> None:
            given = {"embeddings": str(folder / "embeddings"), "output": output}
            request = AuditRequest(
                embeddings=given["embeddings"], image_root=root, indexes=(str(folder / "index"),),
                output=output, settings=AuditSettings(words=ClassWords(means=True)), score="bliss",
                question=question,
            )  # fmt: skip
            whole_audit(request, given if root is None else {**given, "image_root": root})

        def embedded(question: AuditQuestion, output: str) -> None:
            request = AuditRequest(
                images=str(folder / "images"), indexes=(str(folder / "captions"),), output=output,
                model=choice, score="bliss", question=question,
            )  # fmt: skip
            whole_audit(request, {"images": str(folder / "images"), "output": output})

        for name, way in (
            ("embeddings alone", embeddings),
            (f"{count} photographs, embedded", embedded),
            ("embeddings, photographs opened", lambda q, o: embeddings(q, o, str(real))),
        ):
            strays, every = compared(way, report.runs)
            report.say(f"  {name}: strays {strays:.2f} s, every question {every:.2f} s, load "
                       f"{os.getloadavg()[0]:.1f}")  # fmt: skip
            report.say(verdict(f"{name}, every question / strays", every / strays, TARGET, False))
            report.finish()


if __name__ == "__main__":
    main()
