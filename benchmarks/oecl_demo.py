"""OECL beside its baselines and beside scores without outliers, on drawn and real images.

Run as: python benchmarks/oecl_demo.py [--draws 10] [--record]

The head is trained as `bliss train oecl` does by default; the worlds are in `oecl_worlds.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import blissaudit
import numpy as np
from blissaudit.cli import run
from blissaudit.demo.scenes import KINDS, render_scene
from blissaudit.evaluation.metrics import auroc, mean_interval, paired_interval
from blissaudit.indexer.encode.encoder import Encoder
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import Retrieved, gather_texts
from blissaudit.scorer.scores.contract import Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.training.oecl import outlier_logistic
from blissaudit.training.oecl_training import OeclSettings, train_head
from oecl_worlds import (
    PROMPT,
    TRAINING_VIEWS,
    VIEWS,
    Draw,
    Pool,
    colour_draws,
    coloured_scenes,
    demo_texts,
    kind_draws,
    kind_scenes,
    make_pool,
    real_draws,
)

RESULTS = Path(__file__).resolve().parent / "results"
VARIANTS = {
    "no floor, as published (4 draws)": OeclSettings(floor=0.0),
    "α = 0.1 (4 draws)": OeclSettings(alpha=0.1),
}
VARIED = 4
"""How many draws the variants are trained on: the first."""
BASELINES = ("outlier_logistic", "outlier_knn_ratio")
PLAIN = ("maximum_cosine", "bliss", "knn")
K = 10


def retrieved(images: np.ndarray, texts: np.ndarray) -> Retrieved:
    """The 10 nearest texts of each image."""
    vectors = texts
    return gather_texts(exact_search(images, vectors, K), vectors)


def values_of(draw: Draw, variants: bool, unnamed: np.ndarray | None) -> dict[str, float]:
    """AUROC of every score on one draw; `unnamed` [d] is a prompt that names no kind."""
    real = unnamed is None
    images = np.concatenate([draw.test_normals, draw.anomalies])
    truth = np.repeat([False, True], [len(draw.test_normals), len(draw.anomalies)])
    plain = images[:, 0]
    known = Normals(
        tuple(str(c) for c in range(len(draw.prompts))),
        draw.prompts,
        draw.normals[:, 0],
        draw.labels,
    )
    shown = Query(plain, retrieved(plain, draw.texts))

    def of(
        name: str, head: Mapping[str, np.ndarray] | None, query: Query, **changed: float
    ) -> float:
        fitting = Fitting(known, draw.texts, {Need.HEAD: head})
        return auroc(fit_score(SCORES[name], fitting, **changed)(query), truth)

    few = draw.normals[:, :1], draw.outliers[:, :1]
    weights, bias = outlier_logistic(few[0][:, 0], few[1][:, 0])
    arrays = {
        "logistic": weights,
        "logistic_bias": np.array([bias]),
        "normals": few[0][:, 0],
        "outliers": few[1][:, 0],
    }
    head = {**arrays, **train_head(*few, OeclSettings()).arrays}
    found = {"oecl": of("oecl", head, Query(plain))}
    if not real:
        found[f"oecl, {VIEWS} views"] = of("oecl", head, Query(plain, views=images))
    for name in BASELINES:
        found[name] = of(name, head, shown)
    if not real:
        logits = (images.astype(np.float64) @ weights).mean(axis=1)
        found[f"outlier_logistic, {VIEWS} views"] = auroc(logits, truth)
    if draw.turned is not None:
        turned = [draw.turned[:, at, :1].reshape(-1, 1, plain.shape[1]) for at in ([0, 1], [2, 3])]
        own = train_head(*turned, OeclSettings()).arrays
        found["self-oecl"] = of("oecl", own, Query(plain))
        found[f"self-oecl, {VIEWS} views"] = of("oecl", own, Query(plain, views=images))
    for name in PLAIN:
        found[name] = of(name, None, shown, **({"k": 1} if name == "knn" else {}))
    if draw.full_prompts is not None:
        found["maximum_cosine, colours named"] = auroc(
            -(plain @ draw.full_prompts.T).max(axis=1), truth
        )
    if unnamed is not None:
        found["maximum_cosine, kinds unnamed"] = auroc(-(plain @ unnamed), truth)
    if variants:
        for name, settings in VARIANTS.items():
            found[f"oecl: {name}"] = of("oecl", train_head(*few, settings).arrays, Query(plain))
    if variants and not real:
        several = train_head(draw.normals, draw.outliers, OeclSettings()).arrays
        name = f"oecl: {TRAINING_VIEWS} cached views to train on (4 draws)"
        found[name] = of("oecl", several, Query(plain))
        found[f"{name}, {VIEWS} to score"] = of("oecl", several, Query(plain, views=images))
    return found


def table(
    title: str,
    draws: Iterable[Draw],
    say: Callable[[str], None],
    variants: bool,
    unnamed: np.ndarray | None = None,
) -> None:
    """Mean AUROC of every score with its interval, and its paired difference to oecl's."""
    began, rows = time.process_time(), []
    size = None
    for draw in draws:
        rows.append(values_of(draw, variants and len(rows) < VARIED, unnamed))
        size = [
            len(part) for part in (draw.normals, draw.outliers, draw.test_normals, draw.anomalies)
        ]
    assert size is not None
    say("")
    say(f"{title}: {len(rows)} draws, {time.process_time() - began:.0f} s of one core")
    say(
        f"  {size[0]} normals and {size[1]} outliers to train on, {size[2]} normals and {size[3]} "
        "anomalies tested (last draw)"
    )
    say(f"  {'score':<58}{'AUROC':>7}  95 % interval     oecl minus it")
    for name in rows[0]:
        values = np.array([row[name] for row in rows if name in row])
        ours = np.array([row["oecl"] for row in rows if name in row])
        mean, gap = mean_interval(values), paired_interval(ours, values)
        line = f"  {name:<58}{100 * mean.mean:>7.2f}  [{100 * mean.low:.2f}, {100 * mean.high:.2f}]"
        if name != "oecl":
            line = f"{line:<88}{100 * gap.mean:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
        say(line)


def from_one_command(encoder: Encoder, say: Callable[[str], None]) -> None:
    """Time `bliss train oecl` on image files: 8 kinds of 60 pictures against 8 others."""
    scenes = kind_scenes(60, 77)
    with tempfile.TemporaryDirectory() as folder:
        for number, scene in enumerate(scenes):
            which = ("normals", "outliers", None)[KINDS.index(scene.kind) % 3]
            if which:
                path = Path(folder) / which / scene.kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                render_scene(scene, 128).save(path)
        out, err = io.StringIO(), io.StringIO()
        began = time.monotonic()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(
                [
                    *("train", "oecl", f"{folder}/normals", "--outliers", f"{folder}/outliers"),
                    *("--model", "demo", "-o", f"{folder}/head"),
                ]
            )
        spent = time.monotonic() - began
        if code:
            raise RuntimeError(err.getvalue())
        say("bliss train oecl normals --outliers outliers --model demo")
        say(f"  480 + 480 pictures of 128 pixels: {spent:.0f} s, with loading")
        for line in out.getvalue().replace(folder + "/", "").splitlines():
            say(f"  {line}")


def pools(encoder: Encoder, seed: int, cache: Path | None) -> tuple[Pool, Pool]:
    """Degraded scenes of all kinds, and clear ones of 12 kinds in all colours."""
    made = []
    for name, scenes, degraded in (
        ("degraded", kind_scenes(45, seed), True),
        ("clear", coloured_scenes(12, 12, seed), False),
    ):
        path = None if cache is None else cache / f"{name}-{seed}.npz"
        if path is not None and path.exists():
            trained = tuple(scene for number, scene in enumerate(scenes) if number % 3 < 2)
            with np.load(path) as stored:
                made.append(Pool(trained, stored["turned"], tuple(scenes[2::3]), stored["views"]))
            continue
        made.append(make_pool(encoder, scenes, degraded, seed))
        if path is not None:
            np.savez(path, views=made[-1].views, turned=made[-1].turned)
    return made[0], made[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps the pools")
    parser.add_argument("--record", action="store_true", help="write results/oecl_demo.txt")
    asked = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    from measuring import setup_lines

    say("oecl_demo: OECL beside its baselines and scores without outliers; AUROC in %")
    for line in setup_lines():
        say(line)
    encoder = blissaudit.load_encoder(blissaudit.ModelChoice("demo"))
    from_one_command(encoder, say)
    seed, draws = asked.seed, asked.draws
    degraded, clear = pools(encoder, seed, asked.cache)
    texts = demo_texts(encoder, seed)
    worlds = {
        "drawn: other kinds, pictures degraded": kind_draws(degraded, encoder, texts, draws, seed),
        "drawn: other colours of the same kinds": colour_draws(clear, encoder, texts, draws, seed),
        "drawn: other kinds, clear as in the demo": kind_draws(clear, encoder, texts, draws, seed),
    }
    unnamed = encoder.encode_texts([PROMPT.format("thing")])[0]
    for number, (title, drawn) in enumerate(worlds.items()):
        table(title, drawn, say, number == 1, unnamed)
    data = os.environ.get("BLISS_TEST_DATA")
    if data:
        for kind in ("classes", "far to far", "far to classes"):
            table(
                f"Caltech-101, 20 classes: {kind}",
                real_draws(Path(data) / "real", kind, draws, seed),
                say,
                kind == "classes",
            )
    else:
        say("the real embeddings are not here: BLISS_TEST_DATA is not set")
    if asked.record:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "oecl_demo.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
