"""Every score of the field on real CLIP embeddings, over the same draws.

Run as: BLISS_TEST_DATA=DIR python benchmarks/field_results.py [--draws 10] [--once] [--record]

With --record the tables are written to docs/results.md. With --once they are the last section of
it: the settings that were not looked at while scores were chosen, with all texts.
"""

import argparse
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from blissaudit.evaluation.draws import make_draws
from blissaudit.evaluation.metrics import mean_interval, paired_interval
from blissaudit.evaluation.run import (
    LEVEL,
    Chosen,
    EvalResult,
    Words,
    choose_scores,
    evaluate,
)
from blissaudit.scorer.scores.registry import SCORES
from field_settings import (
    CLEAN,
    FIRST_ONCE,
    HARD,
    MAIN,
    Setting,
    load,
    once_settings,
    settings,
)

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results.md"
TEXT_SETS = (("the 1,000 ImageNet prompts", 1000), ("all 2,283 prompts", 2283))
ADDED = ("knn:k=1", "bliss+rscin")
"""Beside every score of the registry."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score", action="append", default=[], help="[default: every one]")
    parser.add_argument("--setting", action="append", default=[], help="part of its name")
    parser.add_argument("--once", action="store_true", help="the settings looked at once")
    parser.add_argument("--record", action="store_true", help="write docs/results.md")
    asked = parser.parse_args()
    data = os.environ.get("BLISS_TEST_DATA")
    if not data:
        raise SystemExit("the real embeddings are not here: set BLISS_TEST_DATA")
    root = Path(data) / "real"
    texts, columns = load(root / "texts/photo-of-a", "text")
    chosen = choose_scores(asked.score or [*SCORES, *ADDED], SCORES)
    made = settings(root, columns["name"])
    if asked.once:
        made = once_settings(root, texts, columns["name"])
    wanted = [
        setting
        for setting in made
        if not asked.setting or any(part in setting.name for part in asked.setting)
    ]
    if asked.once:
        lines = once_section(texts, wanted, chosen, asked)
        print("\n".join(lines))
        if asked.record:
            before = RESULTS.read_text(encoding="utf-8").partition(f"\n{LOOKED_AT_ONCE}\n")[0]
            RESULTS.write_text(before + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return
    lines = [] if not asked.record else ["# All scores on real embeddings", "", *explanation()]
    for title, count in TEXT_SETS:
        results = {}
        for setting in wanted:
            began = time.monotonic()
            protocol = replace(setting.protocol, draws=asked.draws, seed=asked.seed)
            words = Words(
                {name: texts[row] for name, row in setting.prompts.items()},
                texts[:count],
            )
            draws = make_draws(setting.world, protocol)
            results[setting.name] = evaluate(setting.world, draws, words, chosen)
            print(f"{title}, {setting.name}: {time.monotonic() - began:.0f} s", flush=True)
        lines += ["", f"## External texts: {title}", ""]
        lines += tables({s.name: results[s.name] for s in wanted if s.table == MAIN})
        hard = {s.name: results[s.name] for s in wanted if s.table == HARD}
        if hard:
            shown = {name: results[name] for name in (CLEAN,) if name in results} | hard
            lines += ["", "### One image per class, and strangers in the reference", ""]
            lines += tables(shown)
        lines += flag_table(results)
    print("\n".join(lines))
    if asked.record:
        later = ""
        if RESULTS.exists():
            later = "".join(
                RESULTS.read_text(encoding="utf-8").partition(f"\n{LOOKED_AT_ONCE}\n")[1:]
            )
        RESULTS.write_text("\n".join(lines) + "\n" + later, encoding="utf-8")


def once_section(
    texts: np.ndarray, wanted: Sequence[Setting], chosen: Sequence[Chosen], asked: Namespace
) -> list[str]:
    """The tables of the settings that are looked at once."""
    results = {setting.name: evaluated(setting, texts, chosen, asked) for setting in wanted}
    return [LOOKED_AT_ONCE, "", *ONCE_EXPLANATION, "", f"{asked.draws} draws a setting.", "",
            *tables(results)]  # fmt: skip


def evaluated(
    setting: Setting, texts: np.ndarray, chosen: Sequence[Chosen], asked: Namespace
) -> EvalResult:
    """One of the settings that are looked at once."""
    began = time.monotonic()
    protocol = replace(setting.protocol, draws=asked.draws, seed=asked.seed + FIRST_ONCE)
    shown = np.delete(texts, sorted(setting.hidden), axis=0)
    words = Words({name: texts[row] for name, row in setting.prompts.items()}, shown)
    result = evaluate(setting.world, make_draws(setting.world, protocol), words, chosen)
    print(f"{setting.name}: {time.monotonic() - began:.0f} s", flush=True)
    return result


LOOKED_AT_ONCE = "## Settings looked at once"
ONCE_EXPLANATION = (
    "Written by `python benchmarks/field_results.py --once --record`. None of these settings was",
    "looked at while any score was chosen ([protocols](protocols.md)). All 2,283 prompts are the",
    "external texts.",
    "",
    "- dogs, snakes: look-alike classes of ImageNet; the anomalies are other dogs, other snakes.",
    "- ImageNet C: every second class; alone against the others of them, else against a far set.",
    "- Poor labels: the label of a class is the caption nearest to the mean of its reference",
    "  images, never its own name. SUN397, DTD, UCF101 and cars, every second class of each, have",
    "  no other.",
    "- Texts without names: without those within cosine 0.9 of a label of any of the 44 classes.",
)


def tables(results: dict[str, EvalResult]) -> list[str]:
    """Mean AUROC of every score in every setting, then the differences to it of bliss+."""
    if not results:
        return []
    values: dict[str, dict[str, np.ndarray]] = {}
    for setting, result in results.items():
        for found in result.scores:
            values.setdefault(found.chosen.name, {})[setting] = found.metric("auroc")
    mean = {n: np.mean([v.mean() for v in by.values()]) for n, by in values.items()}
    names = sorted(values, key=lambda name: (len(values[name]) < len(results), -mean[name]))
    heads = ["score", *results, "mean", "worst"]
    lines = [row(heads), row(["---"] * len(heads))]
    for name in names:
        by = values[name]
        cells = [f"{100 * by[s].mean():.2f}" if s in by else "–" for s in results]
        whole = len(by) == len(results)
        worst = f"{100 * min(v.mean() for v in by.values()):.2f}" if whole else "–"
        lines.append(row([name, *cells, f"{100 * mean[name]:.2f}" if whole else "–", worst]))
    reasons: dict[tuple[str, str], list[str]] = {}
    for setting, result in results.items():
        for name, reason in result.skipped.items():
            reasons.setdefault((name, reason), []).append(setting)
    for (name, reason), where in reasons.items():
        places = "everywhere" if len(where) == len(results) else f"in {', '.join(where)}"
        lines += ["", f"Skipped {places}: {name}. {reason}"]
    return lines + (differences(values, names, list(results)) if "bliss+" in values else [])


def differences(
    values: dict[str, dict[str, np.ndarray]], names: Sequence[str], settings: Sequence[str]
) -> list[str]:
    """AUROC of bliss+ minus every other score's, with paired intervals over the draws.

    The last column averages each draw number over the settings before it resamples them.
    """
    heads = ["bliss+ minus", *settings, "all settings"]
    lines = ["", row(heads), row(["---"] * len(heads))]
    ours = values["bliss+"]
    for name in names:
        if name == "bliss+":
            continue
        cells, gaps = [], []
        for setting in settings:
            if setting not in values[name] or setting not in ours:
                cells.append("–")
                continue
            found = paired_interval(ours[setting], values[name][setting])
            cells.append(
                f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
            )
            gaps.append(ours[setting] - values[name][setting])
        found = mean_interval(np.mean(gaps, axis=0))
        cells.append(f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]")
        lines.append(row([name, *cells]))
    return lines


def flag_table(results: dict[str, EvalResult]) -> list[str]:
    """Realised FDP and power of every score, where enough reference images could be held out."""
    able = {s: r for s, r in results.items() if any(f.flags is not None for f in r.scores)}
    if not able:
        return []
    flags = {
        (setting, found.chosen.name): found.flags.mean(axis=(0, 1))
        for setting, result in able.items()
        for found in result.scores
        if found.flags is not None
    }
    heads = ["FDP / power", *able]
    held = [f"{min(r.calibration)} to {max(r.calibration)}" for r in able.values()]
    lines = ["", f"### Flagged by Benjamini–Hochberg at {LEVEL:g}", ""]
    lines += [row(heads), row(["---"] * len(heads)), row(["images held out", *held])]
    for name in dict.fromkeys(name for _, name in flags):
        found = [flags.get((setting, name)) for setting in able]
        cells = ["–" if f is None else f"{100 * f[0]:.1f} / {100 * f[1]:.1f}" for f in found]
        lines.append(row([name, *cells]))
    return lines


def row(cells: Sequence[str]) -> str:
    """One line of a markdown table."""
    return f"| {' | '.join(cells)} |"


def explanation() -> list[str]:
    """How the tables were made."""
    return [
        "Written by `python benchmarks/field_results.py --record`. Mean AUROC in %, higher is",
        "better, over draws of the normal classes (the same draws for every score). Each score has",
        "its published defaults; knn:k=1 is the nearest reference image. The embeddings are by",
        "OpenAI CLIP ViT-B/32.",
        "",
        "- Caltech C: C normal classes of the 44 that have a text. Their validation images are the",
        "  reference; all test images are tested, and those of other classes are anomalous.",
        "- Caltech 30, SUN397 and so on: test images of 30 normal classes against those of another",
        "  dataset: scenes, textures (DTD), actions (UCF101), Stanford Cars.",
        "- n-shot: n reference images of each of 20 classes, chosen from those with 8 or more.",
        "- ImageNet C: 4 embeddings per class, each of one image. Three are the reference, and the",
        "  fourth of every class is tested, against C of 1,000 classes.",
        "- n % strangers: this share of the reference consists of images of other classes that are",
        "  filed under the normal ones; classes and tests are those of Caltech 20.",
        "- Scores that end in +rscin smooth over the test images, so they see more than others.",
        "- FDP / power, in %: a fifth of each class's reference images is held out for p-values.",
        "  Settings in which this is too few to flag all anomalies at once are left out.",
        "",
        "Intervals are 95 % percentile bootstrap intervals of the paired difference over draws.",
        "Draws share images, so the intervals show how much the choice of classes matters, not how",
        "another dataset would turn out.",
    ]


if __name__ == "__main__":
    main()
