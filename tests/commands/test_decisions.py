"""Questions, refits and flags through the command: what is printed, written, and refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.cli import run as command_line
from blissaudit.demo.scenes import render_scene, sample_scene
from blissaudit.scorer.reference_file import load_reference

KINDS = ("apple", "boat", "house")
WRONG = {"apple/is_boat.png": "boat", "house/is_apple.png": "apple"}
STRAYS = ("apple/clock.png", "boat/umbrella.png")
OWN = (
    "p and q are empty: the images are their own reference, and p-values among them would only be "
    "ranks"
)
ADVICE = (
    "Add clean images with --calibration DIR, or read the most unusual images first and flag some "
    "with --flag N or --flag N%"
)
MORE = ". --p-values leave-one-out compares with all images of a clean reference, measured and not"


def render(path: Path, kind: str, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    render_scene(sample_scene(rng, kind), 64).save(path)


@pytest.fixture(scope="module")
def world(bliss, index, tmp_path_factory):
    """Twelve pictures a class with two strays and two wrong labels, fourteen clean ones, and the
    embeddings of both."""
    root, rng = tmp_path_factory.mktemp("decisions"), np.random.default_rng(3)
    for kind in KINDS:
        for number in range(12):
            render(root / "set" / kind / f"{number}.png", kind, rng)
        for number in range(14):
            render(root / "clean" / kind / f"c{number}.png", kind, rng)
    for path in STRAYS:
        render(root / "set" / path, Path(path).stem, rng)
    for path, kind in WRONG.items():
        render(root / "set" / path, kind, rng)
    for name in ("set", "clean"):
        out = root / f"{name}-run"
        assert bliss("audit", root / name, "--index", index, "-o", out).code == 0
        shutil.move(out / "images", root / f"{name}-embedded")
    return root


@pytest.fixture(scope="module")
def audit(bliss, index, world, tmp_path_factory):
    """`audit(*options)`: the outcome, and the output folder."""

    def run(*options: object):
        folder = tmp_path_factory.mktemp("run") / "out"
        asked = ("--embeddings", world / "set-embedded", "--index", index, "--model", "demo")
        return bliss("audit", *asked, "-o", folder, *options), folder

    return run


def table(folder: Path) -> dict[str, list]:
    return pq.read_table(folder / "scores.parquet").to_pydict()


def flagged(folder: Path) -> set[str]:
    found = table(folder)
    return {path for path, flag in zip(found["path"], found["flagged"], strict=True) if flag}


def facts(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def said(outcome) -> list[str]:
    """The lines below the table, without the issues and the names of the files."""
    assert outcome.code == 0, outcome.err
    return outcome.out.split("\n\n")[1].splitlines()


def test_a_set_that_is_its_own_reference_flags_nothing_unless_asked(audit):
    outcome, folder = audit()
    assert said(outcome)[1:] == [
        f"{OWN}; nothing is flagged: give --calibration DIR with other clean images, "
        "or say what to flag: --flag N, --flag N% or --flag empirical-null"
    ]
    found = table(folder)
    assert set(found["p"]) == set(found["q"]) == {None}
    assert flagged(folder) == set()
    assert facts(folder)["decision"]["rule"] == "none"


def test_a_number_flags_as_many(audit):
    outcome, folder = audit("--flag", 2)
    assert said(outcome)[1:] == [
        f"2 images flagged: the most anomalous, as many as --flag says; {OWN}"
    ]
    assert flagged(folder) == set(STRAYS)
    assert facts(folder)["decision"] | {"reason": ""} == {
        "rule": "top", "level": 2, "flagged": 2, "reason": ""
    }  # fmt: skip


def test_contamination_flags_a_share(audit):
    outcome, folder = audit("--flag", "10%", "--top", 1)
    assert said(outcome)[1:] == [f"4 images flagged: 0.1 of all, the most anomalous; {OWN}"]
    assert len(flagged(folder)) == 4 and flagged(folder) > set(STRAYS)


def test_the_guessed_null_promises_nothing(audit):
    outcome, folder = audit("--flag", "empirical-null")
    [line] = said(outcome)[1:]
    assert line.startswith(f"{len(flagged(folder))} images flagged against a null estimated from")
    assert line.endswith(f"at a nominal rate of 0.1: no guarantee; {OWN}")
    assert flagged(folder) >= set(STRAYS)
    strict, other = audit("--flag", "empirical-null=1e-12")
    assert strict.code == 0 and flagged(other) < flagged(folder)
    found = facts(folder)["decision"]
    assert found["guarantee"] is False and found["spread"] > 0


def test_calibration_gives_p_and_says_when_it_is_too_small(audit, world):
    for source in ("clean", "clean-embedded"):
        outcome, folder = audit("--calibration", world / source)
        assert said(outcome)[1:] == [
            "p is against 42 held-out clean images (guaranteed): it cannot be below 0.0233",
            "0 images flagged at a false discovery rate of 0.1: with 42 calibration images at "
            "least 10 of the 40 would have to look stranger than every one of those; to flag one, "
            f"399 are needed. {ADVICE}",
        ]
        found = table(folder)
        ordered = sorted(zip(found["score"], found["p"], found["q"], strict=True), reverse=True)
        assert ordered[0][1] == pytest.approx(1 / 43)
        assert [p for _, p, _ in ordered] == sorted(found["p"])
        assert [q for _, _, q in ordered] == sorted(found["q"])
        decision = facts(folder)["decision"]
        assert (decision["least_flagged"], decision["calibration_needed_for_one"]) == (10, 399)


def test_the_rate_decides_what_is_flagged(audit, world):
    outcome, folder = audit("--calibration", world / "clean-embedded", "--flag", "fdr=0.5")
    q = table(folder)["q"]
    assert sum(value <= 0.5 for value in q) == len(flagged(folder)) > 0
    assert flagged(folder) >= set(STRAYS)
    line = f"{len(flagged(folder))} images flagged at a false discovery rate of 0.5"
    assert said(outcome)[2] == line


def test_p_by_class(audit, world):
    _, folder = audit("--calibration", world / "clean-embedded")
    outcome, by_class = audit("--calibration", world / "clean-embedded", "--p-values", "per-class")
    assert said(outcome)[1:] == [
        "p is against 42 held-out clean images (guaranteed): it cannot be below 0.0667",
        "0 images flagged at a false discovery rate of 0.1: with 14 calibration images in a class "
        "at least 27 of the 40 would have to look stranger than every one of those; to flag one, "
        f"399 are needed. {ADVICE}",
    ]
    values = {round(15 * p, 6) for p in table(by_class)["p"]}
    assert values <= set(range(1, 16))
    assert table(by_class)["p"] != table(folder)["p"]
    assert table(by_class)["score"] == table(folder)["score"]


def test_a_clean_reference_keeps_a_fifth_back_where_that_is_of_use(audit, world, tmp_path):
    _, small = audit("--reference", world / "clean-embedded")
    assert facts(small)["reference"]["calibration_images"] == 0
    assert "no clean image was held out" in facts(small)["decision"]["reason"]
    outcome, folder = audit("--reference", world / "clean-embedded", "--flag", "fdr=0.15")
    assert facts(folder)["reference"]["calibration_images"] == 6
    line = "p is against 6 held-out clean images (guaranteed): it cannot be below 0.143"
    assert said(outcome)[1] == line
    assert MORE in facts(folder)["decision"]["reason"]
    taken, folder = audit(
        "--reference", world / "clean-embedded", "--calibration", world / "clean-embedded",
        "--flag", "fdr=0.15",
    )  # fmt: skip
    assert taken.code == 2
    assert "is in the reference. Needed: other clean images to compare with" in taken.err


def test_the_whole_reference_can_calibrate_without_a_guarantee(
    audit, bliss, index, world, tmp_path
):
    whole = ("--reference", world / "clean-embedded", "--p-values", "leave-one-out")
    outcome, folder = audit(*whole)
    found = facts(folder)
    assert sum(found["reference"]["images"]) == found["reference"]["calibration_images"] == 42
    assert said(outcome)[1] == (
        "p is against 42 images of the reference, each left out of its class (measured, not "
        "guaranteed): it cannot be below 0.0233"
    )
    assert found["decision"]["guaranteed"] is False
    assert found["decision"]["reason"].endswith("the reference's own images calibrate")
    _, held = audit("--reference", world / "clean-embedded", "--flag", "fdr=0.15")
    assert facts(held)["decision"]["guaranteed"] is True
    _, plus = audit(*whole, "--score", "bliss+")
    assert min(table(plus)["p"]) == pytest.approx(1 / 43)
    fit = ("reference", "fit", world / "clean", "--model", "demo", "--hold-out", 0)
    assert bliss(*fit, "-o", tmp_path / "ref").code == 0
    score = ("score", world / "set", "--reference", tmp_path / "ref", "--index", index)
    result = json.loads(bliss(*score, "--p-values", "leave-one-out", "--json").out)
    by_path = dict(zip(table(folder)["path"], table(folder)["p"], strict=True))
    for image in result["worst"]:
        assert image["p"] == pytest.approx(by_path[image["path"]])


def test_scoring_against_a_fitted_reference_flags_too(bliss, index, world, tmp_path):
    fit = ("reference", "fit", world / "clean", "--model", "demo", "-o", tmp_path / "ref")
    assert bliss(*fit, "--hold-out", 0.5).code == 0
    score = ("score", world / "set", "--reference", tmp_path / "ref", "--index", index)
    result = json.loads(bliss(*score, "--flag", "fdr=0.9", "--json", "--top", 40).out)
    assert result["decision"]["rule"] == "fdr"
    assert {image["path"] for image in result["worst"] if image["flagged"]} >= set(STRAYS)
    for image in result["worst"]:
        assert image["flagged"] == (image["q"] <= 0.9)
    by_class = json.loads(bliss(*score, "--p-values", "per-class", "--json").out)
    assert by_class["decision"]["smallest_possible_p"] == pytest.approx(1 / 8)
    failed = bliss(*score, "--flag", "fdr=0.9", "--fail-on", "flagged=1", "--top", 0)
    assert failed.code == 4
    assert failed.err.endswith(
        f"bliss: {result['decision']['flagged']} images flagged (fdr). Needed: at most 1, as "
        "--fail-on says. Look at them; the results are complete.\n"
    )
    assert load_reference(tmp_path / "ref").calibration_count == 21


def test_fail_on_counts_flagged_images_after_writing_them(audit):
    outcome, folder = audit("--flag", 3, "--fail-on", "flagged=2")
    assert (outcome.code, len(flagged(folder))) == (4, 3)
    assert outcome.err.endswith(
        "\nbliss: 3 images flagged (top). Needed: at most 2, as --fail-on says. Look at them; the "
        "results are complete.\n"
    )
    assert audit("--flag", 3, "--fail-on", "flagged=3")[0].code == 0


def test_deciding_anew_needs_no_new_folder(bliss, audit, index, world):
    _, folder = audit("--flag", 1)
    again = ("audit", "--embeddings", world / "set-embedded", "--index", index, "--model", "demo",
             "-o", folder)  # fmt: skip
    before = table(folder)
    assert bliss(*again, "--flag", 0.5).code == 0
    assert len(flagged(folder)) == 20
    assert table(folder)["score"] == before["score"]
    assert "(robust differ)" in bliss(*again, "--robust").err
    assert "(question differ)" in bliss(*again, "--question", "mislabel").err


def test_mislabelled_images_come_first_with_the_class_they_suit(audit):
    outcome, folder = audit("--question", "mislabel", "--top", 4)
    head, *lines = outcome.out.split("\n\n")[0].splitlines()
    assert head.split() == [
        "margin", "quality", "path", "labelled", "looks", "like", "resembles"
    ]  # fmt: skip
    paths = [line.split()[2] for line in lines]
    assert set(paths) == {*WRONG, *STRAYS}
    shown = {line.split()[2]: line.split()[3:5] for line in lines}
    for path, suits in WRONG.items():
        assert shown[path] == [path.split("/")[0], suits]
    assert said(outcome)[1:] == ["4 images flagged: another class suits them better"]
    found = table(folder)
    assert flagged(folder) == {
        path for path, issue in zip(found["path"], found["is_label_issue"], strict=True) if issue
    }
    margins = np.array(found["margin"])
    assert found["rank"] == (np.argsort(np.argsort(-margins, kind="stable")) + 1).tolist()
    np.testing.assert_allclose(found["label_quality"], 1 / (1 + np.exp(margins / 0.05)))
    assert found["given_label"] == found["label"]
    assert found["is_label_issue"] == [
        given != suits
        for given, suits in zip(found["given_label"], found["predicted_label"], strict=True)
    ]
    assert (np.array(found["cosine_margin"]) != margins).all()
    with open(folder / "label_issues.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == found["path"]
    for name in ("given_label", "predicted_label"):
        assert [row[name] for row in rows] == found[name]
    for name in ("label_quality", "margin", "cosine_margin"):
        assert [float(row[name]) for row in rows] == found[name]
    assert [row["is_label_issue"] == "True" for row in rows] == found["is_label_issue"]
    summary = json.loads(audit("--question", "mislabel", "--json", "--top", 1)[0].out)
    [worst] = summary["worst"]
    assert (summary["question"], summary["decision"]["rule"]) == ("mislabel", "label margin")
    assert worst["predicted_label"] == WRONG[worst["path"]]
    assert worst["margin"] == max(found["margin"])
    assert worst["label_quality"] == min(found["label_quality"])


def test_one_run_answers_every_question_in_one_table(audit):
    outcome, folder = audit("--flag", 5, "--top", 2)
    found, issues = table(folder), pq.read_table(folder / "issues.parquet").to_pydict()
    rows = list(zip(issues["image"], issues["kind"], issues["other"], strict=True))
    strays = {path for path, kind, _ in rows if kind == "stray"}
    assert strays == flagged(folder) and len(strays) == 5
    doubtful = {path: other for path, kind, other in rows if kind == "label"}
    assert doubtful.items() >= WRONG.items()
    wrong = np.flatnonzero(found["is_label_issue"])
    assert doubtful == {found["path"][i]: found["predicted_label"][i] for i in wrong}
    place = dict(zip(found["path"], found["read_first"], strict=True))
    assert issues["read_first"] == sorted(place[path] for path in issues["image"])
    assert sorted(place, key=place.get)[:4] == sorted({*WRONG, *STRAYS}, key=place.get)
    assert max(issues["severity"]) == 100 and min(issues["severity"]) > 0
    for path, better in WRONG.items():
        at = rows.index((path, "label", better))
        assert issues["suggestion"][at] == f"file under {better}"
        assert f"filed under {path.split('/')[0]}, looks like {better}" in issues["evidence"][at]
    told = zip(issues["kind"], issues["evidence"], issues["suggestion"], strict=True)
    unlike = {(", unlike every class, nearest to " in evidence, suggestion.startswith("file under"))
              for kind, evidence, suggestion in told if kind == "label"}  # fmt: skip
    assert unlike == {(True, False), (False, True)}
    counts = {kind: issues["kind"].count(kind) for kind in dict.fromkeys(issues["kind"])}
    assert facts(folder)["issues"].items() >= counts.items()
    assert f"{counts['label']:8,}  label      worst: " in outcome.out
    first, second = sorted(place, key=place.get)[:2]
    assert f"Read these first: {first}, {second}\n" in outcome.out
    with open(folder / "issues.csv", newline="", encoding="utf-8") as file:
        assert [line["image"] for line in csv.DictReader(file)] == issues["image"]


def test_a_question_restricts_the_issues_and_nothing_is_a_stray_unless_flagged(audit):
    _, folder = audit("--question", "stray")
    assert pq.read_table(folder / "issues.parquet").num_rows == 0
    assert "margin" not in table(folder)
    assert table(folder)["read_first"] == table(folder)["rank"]
    _, both = audit("--question", "mislabel,stray", "--json")
    kinds = set(pq.read_table(both / "issues.parquet")["kind"].to_pylist())
    assert not (both / "copies.parquet").exists() and not (both / "quality.parquet").exists()
    assert kinds == {"label"} and facts(both)["question"] == "stray"


def test_another_question_in_the_same_folder_leaves_no_stale_table(bliss, audit, index, world):
    _, folder = audit("--question", "mislabel")
    assert {"label_issues.csv", "issues.csv", "scores.csv"} <= set(facts(folder)["checksums"])
    again = bliss("audit", "--embeddings", world / "set-embedded", "--index", index, "--model",
                  "demo", "-o", folder, "--overwrite", "--robust")  # fmt: skip
    assert again.code == 0
    assert not (folder / "label_issues.csv").exists() and (folder / "dropped.csv").exists()
    assert facts(folder)["question"] == "stray"


def test_robust_leaves_out_what_another_class_explains_and_says_so(audit, index, world, bliss):
    _, before = audit("--top", 6)
    outcome, folder = audit("--robust", "--top", 6)
    with open(folder / "dropped.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    gone = {row["path"] for row in rows}
    assert gone == {*WRONG, *STRAYS}
    assert {row["path"]: row["better_label"] for row in rows}.items() >= WRONG.items()
    assert all(row["given_label"] == row["path"].split("/")[0] for row in rows)
    found, block = table(folder), facts(folder)["robust"]
    assert {p for p, d in zip(found["path"], found["dropped"], strict=True) if d} == gone
    assert found["left_out"] == [path not in gone for path in found["path"]]
    assert facts(folder)["reference"]["images"] == [12, 12, 12]
    shared = set(np.argsort(found["rank"])[:6]) & set(np.argsort(table(before)["rank"])[:6])
    assert block["top_in_common"] == len(shared)
    assert block["dropped_by_class"] == {"apple": 2, "boat": 1, "house": 1}
    assert said(outcome)[1] == (
        "left out of the fit: 4 of 40 reference images, from 3 classes, which another class "
        "explains (dropped.csv; --no-robust leaves them in): rank "
        f"correlation with the ranking before {block['rank_correlation']:.3f}, {len(shared)} of "
        f"the 6 most anomalous in common; λ is now {block['lambda']:.3g}, so that captions count "
        "as much as before"
    )
    weight = block["lambda"]
    assert weight > 0.5 and facts(folder)["settings"]["weight"] == weight
    without = shutil.copytree(world / "set", folder.parent / "without")
    for path in gone:
        (without / path).unlink()
    refit = bliss("audit", "--embeddings", world / "set-embedded", "--index", index, "--model",
                  "demo", "--reference", without, "--lambda", weight, "-o",
                  folder.parent / "refit")  # fmt: skip
    assert refit.code == 0
    np.testing.assert_allclose(
        found["score"], table(folder.parent / "refit")["score"], rtol=1e-4, atol=1e-4
    )


def test_its_own_reference_is_fitted_without_what_another_class_explains(audit, index, world):
    """By commands as users type them, without a word about it."""

    def typed(name: str, *options: object, code: int = 0) -> Path:
        words = ("audit", "--embeddings", world / "set-embedded", "--index", index, "--model",
                 "demo", "--report", "none", "-o", world / name, *options)  # fmt: skip
        assert command_line([*map(str, words)]) == code
        return world / name

    for score in ("auto", "bliss"):
        found, asked = typed(score, "--score", score), audit("--robust", "--score", score)[1]
        assert facts(found)["robust"] == facts(asked)["robust"]
        assert table(found)["score"] == table(asked)["score"]
    typed("auto", "--no-robust", code=2)  # another request
    others = ("--question", "mislabel"), ("--score", "mcm"), ("--reference", world / "set")
    for number, more in enumerate(others):
        assert facts(typed(f"other{number}", *more)).get("robust") is None


def test_robust_refits_bliss_plus_too(audit, index, world, bliss):
    found, block = (lambda folder: (table(folder), facts(folder)["robust"]))(
        audit("--robust", "--score", "bliss+")[1]
    )
    assert block["dropped"] == 4
    gone = {path for path, left in zip(found["path"], found["dropped"], strict=True) if left}
    without = shutil.copytree(world / "set", world.parent / "without-strays")
    for path in gone:
        (without / path).unlink()
    refit = bliss("audit", "--embeddings", world / "set-embedded", "--index", index, "--model",
                  "demo", "--reference", without, "--lambda", block["lambda"], "--score", "bliss+",
                  "-o", without.parent / "refit-plus")  # fmt: skip
    assert refit.code == 0
    again = table(without.parent / "refit-plus")["score"]
    np.testing.assert_allclose(found["score"], again, rtol=1e-3, atol=1e-3)
    assert not np.allclose(found["score"], table(audit("--score", "bliss+")[1])["score"])


def test_robust_says_so_where_there_is_nothing_to_leave_out(bliss, index, world, tmp_path):
    asked = ("--embeddings", world / "clean-embedded", "--index", index, "--model", "demo")
    outcome = bliss("audit", *asked, "-o", tmp_path / "out", "--robust")
    assert said(outcome)[1] == "--robust left none of 42 reference images out of the fit"
    assert (tmp_path / "out" / "dropped.csv").read_text() == "path,given_label,better_label\n"
    plain = bliss("audit", *asked, "-o", tmp_path / "plain")
    assert plain.code == 0 and facts(tmp_path / "plain").get("robust") is None
    assert table(tmp_path / "out")["score"] == table(tmp_path / "plain")["score"]


def test_robust_cleans_a_separate_reference_too(audit, world):
    _, before = audit("--reference", world / "set")
    _, folder = audit("--reference", world / "set", "--robust")
    assert facts(folder)["robust"]["dropped"] == 4
    found = table(folder)
    gone = {path for path, left in zip(found["path"], found["dropped"], strict=True) if left}
    assert gone == {*WRONG, *STRAYS}
    own = table(audit("--robust")[1])
    np.testing.assert_allclose(table(folder)["score"], own["score"], rtol=1e-4, atol=1e-4)
    assert facts(before).get("robust") is None


REFUSED = {
    ("--question", "stray,odd"): "question 'odd' is unknown. Needed: one of stray, mislabel, copy,",
    ("--question", "pairs,copy"): "quality. Ask it alone, or run 'bliss pairs'",
    ("--flag", "fdr=0"): "a false discovery rate of 0.0 was given. Needed: above 0, below 1.",
    ("--flag", "200%"): "--flag '200%' was given. Needed: fdr=RATE, a number of images, a share",
    (
        "--flag",
        "many",
    ): "--flag 'many' was given. Needed: fdr=RATE, a number of images",
    (
        "--p-values",
        "per-class",
    ): "--p-values per-class was given without clean images to compare with.",
    ("--p-values", "leave-one-out"): "--p-values leave-one-out was given and the images are their",
    (
        "--p-values",
        "leave-one-out",
        "--calibration",
        ".",
    ): "--p-values leave-one-out was given with",
    ("--fail-on", "flagged=0"): "--fail-on counts flagged images, and nothing flags any here.",
    (
        "--question",
        "mislabel",
        "--flag",
        "empirical-null",
    ): "--flag empirical-null was given with --question",
    (
        "--question",
        "mislabel",
        "--p-values",
        "per-class",
    ): "--p-values per-class was given with --question mislabel.",
    ("--robust", "--score", "energy"): "--robust was given with --score energy.",
    ("--question", "mislabel", "--score", "energy"): "--question mislabel was given with --score",
    ("--calibration", ".", "--score", "energy"): "--calibration was given with --score energy.",
    ("--normal", "apple", "--robust"): "--robust was given and 'apple' is the only class.",
    ("--normal", "apple", "--question", "mislabel"): "and 'apple' is the only class. Needed: "
    "another class that an image could belong to.",
}


@pytest.mark.parametrize("options", REFUSED, ids=lambda given: " ".join(map(str, given)))
def test_what_cannot_be_is_refused(options, audit):
    outcome, folder = audit(*options)
    assert (outcome.code, outcome.out) == (2, "")
    assert REFUSED[options] in outcome.err
    assert not (folder / "run.json").exists()


def test_refusals_that_depend_on_the_reference(bliss, audit, world, index, tmp_path):
    fit = ("reference", "fit", world / "clean", "--model", "demo", "-o", tmp_path / "ref")
    assert bliss(*fit, "--hold-out", 0).code == 0
    outcome, _ = audit("--reference", tmp_path / "ref", "--robust")
    assert outcome.code == 2
    assert "a fitted reference without its images. Needed: the images, to see" in outcome.err
    outcome, _ = audit("--reference", tmp_path / "ref", "--p-values", "per-class")
    assert "--p-values per-class was given without clean images" in outcome.err
    (tmp_path / "some" / "apple").mkdir(parents=True)
    for number in range(3):
        shutil.copy(world / "clean" / "apple" / f"c{number}.png", tmp_path / "some" / "apple")
    outcome, _ = audit("--calibration", tmp_path / "some", "--p-values", "per-class")
    assert outcome.code == 2
    assert "has no image of class 'boat'. Needed: clean images of every class" in outcome.err
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(4):
        shutil.copy(world / "clean" / "boat" / f"c{number}.png", flat)
    against = ("--reference", world / "clean", "--question", "mislabel")
    outcome = bliss("audit", flat, "--index", index, "-o", tmp_path / "x", *against)
    assert outcome.code == 2
    assert "has a label among the classes. Needed: class folders or labels" in outcome.err


def test_images_outside_the_classes_have_no_margin_and_come_last(audit):
    outcome, folder = audit("--question", "mislabel", "--normal", "apple", "--normal", "boat")
    assert outcome.code == 0
    found = table(folder)
    houses = [label == "house" for label in found["label"]]
    assert [margin is None for margin in found["margin"]] == houses
    assert [name is None for name in found["given_label"]] == houses
    assert min(r for r, house in zip(found["rank"], houses, strict=True) if house) == 28
    assert (folder / "label_issues.csv").read_text().count("\n") == 1 + 27
    assert said(outcome)[1].endswith(
        "; 13 images not questioned because the reference lacks the class house"
    )
    decision = facts(folder)["decision"]
    assert (decision["questioned"], decision["not_questioned"]) == (27, 13)
    assert decision["classes_not_in_reference"] == ["house"]


def test_scores_csv_holds_the_table_and_computes_nothing(bliss, index, world, tmp_path):
    images = shutil.copytree(world / "set", tmp_path / "set")
    (images / "=apple").mkdir()
    for number in range(3):
        shutil.copy(images / "apple" / f"{number}.png", images / "=apple")
    outcome = bliss("audit", images, "--index", index, "-o", tmp_path / "out", "--top", 2)
    assert outcome.code == 0
    found = table(tmp_path / "out")
    with open(tmp_path / "out" / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(found)
    assert [float(row["score"]) for row in rows] == found["score"]
    assert [row["flagged"] == "true" for row in rows] == found["flagged"]
    assert {row["p"] for row in rows} == {""}
    assert [row["captions"].split(" | ") for row in rows] == found["captions"]
    assert {row["label"] for row in rows} == {"'=apple", *KINDS}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "@"))]
