"""Which evidence, or which sum, finds swapped labels best: what `--question mislabel` rests on.

Run as: python benchmarks/label_evidence.py [--data ../shared] [--draws 10]

In each draw 5 % of a collection's labels are swapped and 5 % of its images are strays (which count
neither way). Every evidence makes a margin, best other class minus own with the image left out, and
the figure is the share of swapped labels among as many largest margins as were swapped, in percent.
The sum was chosen on other draws, of seeds 400 to 419; here seeds start at 0. DTD, UCF101 and
SUN397 have no prompts of their own: a class takes the caption nearest to its mean, on the other
split's images where there is one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from blissaudit import Reference, bliss_matrices, fit_moments
from blissaudit.evaluation.metrics import paired_interval
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.leave_one_out import LeftOut
from blissaudit.scorer.questions.mislabel import label_margins
from planted_strays import embeddings, judge, plain, usable_classes

SHARE = 0.05
SETS = (
    ("Caltech 20, one half of the classes", "caltech101/test", 20, 0),
    ("DTD 20, one half of the classes", "dtd/test", 20, 0),
    ("Caltech 20, the other half", "caltech101/test", 20, 1),
    ("Caltech 40", "caltech101/test", 40, None),
    ("DTD 20, the other half", "dtd/test", 20, 1),
    ("UCF101 20", "ucf101/test", 20, None),
    ("SUN397 20", "sun397/val", 20, None),
)
"""Name, folder, classes, and which half of the classes (None: all)."""
OURS = "prompt + half mean cosine"


@dataclass(frozen=True)
class Filed:
    """One draw: images, how they are filed, what is wrong, and the classes' prompts and texts."""

    rows: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray
    stray: np.ndarray
    prompts: np.ndarray
    texts: np.ndarray


def prompts_of(real: Path, at: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each usable class's prompt vector, and all caption vectors."""
    own = at.startswith("caltech")
    folder = real / "texts" / ("photo-of-a" if own else "a")
    texts = np.load(folder / "text_emb" / "text_emb_0.npy")
    if own:
        names = pq.read_table(folder / "metadata" / "metadata_0.parquet")["name"].to_pylist()
        known = [plain(name) for name in names]
        return {c: texts[known.index(plain(c))] for c in usable_classes(real)}, texts
    vectors, labels = embeddings(real / ("dtd/val" if at == "dtd/test" else at))
    given = np.array(labels)
    return {
        str(c): texts[(texts @ vectors[given == c].mean(axis=0)).argmax()] for c in np.unique(given)
    }, texts


def draws(real: Path, at: str, classes: int, half: int | None, count: int) -> Iterator[Filed]:
    """`count` draws of `classes` classes out of one half of them, or of all."""
    prompts, texts = prompts_of(real, at)
    vectors, names = embeddings(real / at)
    given = np.array(names)
    pool = np.random.default_rng(0).permutation(sorted(prompts))
    if half is not None:
        pool = np.array_split(pool, 2)[half]
    for seed in range(count):
        rng = np.random.default_rng(seed)
        normal = np.sort(rng.choice(pool, min(classes, len(pool)), replace=False))
        theirs = np.isin(given, normal)
        inside = np.flatnonzero(theirs)
        strays = rng.choice(
            np.flatnonzero(~theirs), round(len(inside) * SHARE / (1 - SHARE)), replace=False
        )
        labels = np.searchsorted(normal, given[inside])
        swapped = rng.choice(len(inside), round(SHARE * len(inside)), replace=False)
        labels[swapped] = (labels[swapped] + rng.integers(1, len(normal), len(swapped))) % len(
            normal
        )
        labels = np.concatenate([labels, rng.integers(0, len(normal), len(strays))])
        wrong = np.isin(np.arange(len(labels)), swapped)
        yield Filed(
            vectors[np.concatenate([inside, strays])],
            labels,
            wrong,
            np.arange(len(labels)) >= len(inside),
            np.array([prompts[str(c)] for c in normal]),
            texts,
        )


def margins(filed: Filed) -> dict[str, np.ndarray]:
    """Each evidence's margin, float64 [n]; higher = the label is more doubtful."""
    rows, labels, prompts = filed.rows, filed.labels, filed.prompts
    classes = tuple(str(c) for c in range(len(prompts)))
    reference = Reference(fit_moments(classes, rows, labels), prompts)
    everyone = LeftOut(np.arange(len(labels)), labels)
    hits = exact_search(rows, filed.texts, 10)
    found = bliss_matrices(rows, gather_texts(hits, filed.texts), reference, left_out=everyone)
    ours = label_margins(rows, reference, labels, everyone)
    mean = _closest_means(filed)
    cosine = rows.astype(np.float64) @ prompts.T.astype(np.float64)
    made = {
        "prompt cosine": -cosine,
        "mean cosine": -mean,
        "ICS": found.ics,
        "ETS": found.ets,
        "BLISS (ICS + half ETS)": found.total,
        "prompt + mean, standardised": -_standard(cosine) - _standard(mean),
        "all three, standardised": _standard(found.total) - _standard(cosine) - _standard(mean),
    }
    by_name = {name: _margin(matrix, labels) for name, matrix in made.items()}
    return {OURS: ours.margin, **by_name}


def _closest_means(filed: Filed) -> np.ndarray:
    """float64 [n, C], cosine to each class's mean, the image itself left out of its own."""
    rows, labels = filed.rows.astype(np.float64), filed.labels
    sums = np.zeros((len(filed.prompts), rows.shape[1]))
    np.add.at(sums, labels, rows)
    cosine = rows @ (sums / np.linalg.norm(sums, axis=1, keepdims=True)).T
    others = sums[labels] - rows
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    cosine[np.arange(len(labels)), labels] = (rows * others).sum(axis=1)
    return cosine


def _standard(matrix: np.ndarray) -> np.ndarray:
    """The matrix in units of its spread, less what images and classes have in common."""
    rest = matrix - matrix.mean(axis=1, keepdims=True) - matrix.mean(axis=0) + matrix.mean()
    return matrix / rest.std()


def _margin(matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Own minus the lowest other of [n, C], lower = nearer."""
    rows = np.arange(len(labels))
    others = matrix.copy()
    others[rows, labels] = np.inf
    return matrix[rows, labels] - others.min(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("BLISS_TEST_DATA", "../shared"))
    parser.add_argument("--draws", type=int, default=10)
    chosen = parser.parse_args()
    real = Path(chosen.data) / "real"
    print(f"precision at the swapped count, mean of {chosen.draws} draws")
    print("in brackets the paired 95 % interval against the prompt cosine")
    for name, at, classes, half in SETS:
        print(f"\n{name}")
        found: dict[str, list[float]] = {}
        for filed in draws(real, at, classes, half, chosen.draws):
            known = ~filed.stray
            for evidence, margin in margins(filed).items():
                score = judge(margin[known], filed.wrong[known]).precision
                found.setdefault(evidence, []).append(100 * score)
        baseline = np.array(found["prompt cosine"])
        for evidence, values in found.items():
            gain = paired_interval(np.array(values), baseline)
            print(f"  {evidence:<30} {np.mean(values):5.1f}  "
                  f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]")  # fmt: skip


if __name__ == "__main__":
    main()
