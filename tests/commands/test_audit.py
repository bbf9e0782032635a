"""The whole way from pictures to scores: what the files hold, and that it is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import blissaudit
import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.cli import run

COLUMNS = {
    "row": "int64",
    "path": "string",
    "label": "string",
    "content": "string",
    "score": "double",
    "rank": "int64",
    "read_first": "int64",
    "nearest_class": "string",
    "ics": "double",
    "ets": "double",
    "p": "double",
    "q": "double",
    "flagged": "bool",
    "given_ics": "double",
    "given_ets": "double",
    "left_out": "bool",
    "dropped": "bool",
    "best_classes": "list<element: string>",
    "best_scores": "list<element: double>",
    "captions": "list<element: string>",
    "caption_rows": "list<element: int64>",
    "similarity": "list<element: float>",
    "z": "list<element: double>",
    "given_z": "list<element: double>",
}
STRAYS = ("apple/clock.png", "boat/umbrella.png")


@pytest.fixture(scope="module")
def audited(bliss, collection, index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited") / "out"
    audit = ("audit", collection, "--index", index, "--question", "stray", "-o", folder)
    outcome = bliss(*audit, "--no-robust", "--top", 2, "--flag", 2)
    assert outcome.code == 0
    return folder, outcome


@pytest.fixture(scope="module")
def reference(bliss, collection, tmp_path_factory):
    """A reference fitted on half of each class, a quarter of that held out."""
    root = tmp_path_factory.mktemp("reference")
    for path in sorted(collection.glob("*/[0-5].png")):
        (root / "images" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "images" / path.parent.name)
    fit = ("reference", "fit", root / "images", "--model", "demo", "--hold-out", 0.34)
    outcome = bliss(*fit, "-o", root / "fitted")
    assert outcome.out == (
        f"12 images of 3 classes, 6 held out for calibration, 0 unreadable: {root}/fitted\n"
    )
    return root / "fitted"


def table(folder: Path) -> dict[str, list]:
    return pq.read_table(folder / "scores.parquet").to_pydict()


def test_planted_strays_come_first_and_the_screen_says_why(audited):
    folder, outcome = audited
    head, first, second, *rest = outcome.out.splitlines()
    empty, counts, flagged, gap, issues, worst, where, page = rest
    assert head.split() == ["score", "path", "nearest", "class", "resembles"]
    assert {line.split()[1] for line in (first, second)} == set(STRAYS)
    for line in (first, second):
        kind = Path(line.split()[1]).stem
        assert line.count(kind) >= 2
    assert empty == ""
    assert counts == (
        "26 images scored against 3 classes and 300 captions; 26 of them are in the reference and "
        "were left out of their own class"
    )
    assert flagged == (
        "2 images flagged: the most anomalous, as many as --flag says; p and q are empty: the "
        "images are their own reference, and p-values among them would only be ranks"
    )
    assert (gap, issues) == ("", "2 issues of 2 images:")
    assert worst.split()[:4] == ["2", "stray", "worst:", f"{first.split()[1]}:"]
    assert where == f"All scores: {folder}/scores.parquet"
    assert page == f"To look at them: {folder}/report.html"
    model, *progress = outcome.err.splitlines()
    assert model == "model demo, device cpu (chosen), precision fp32 (chosen), batch 64 (chosen)"
    assert [line.split(",")[0] for line in progress] == [
        "images embedded: 26 of 26",
        "images searched: 26 of 26",
    ]


def test_scores_are_those_of_a_loop_over_the_formula(audited, index, oracle):
    folder, _ = audited
    found = table(folder)
    assert {f.name: str(f.type) for f in pq.read_schema(folder / "scores.parquet")} == COLUMNS
    images = np.load(folder / "images" / "img_emb" / "img_emb_0.npy")
    stored = np.load(index / "text_emb" / "text_emb_0.npy").astype(np.float32)
    texts = oracle.unit_rows(stored)
    names = sorted(set(found["label"]))
    numbers = [names.index(label) for label in found["label"]]
    encoder = blissaudit.load_encoder(blissaudit.ModelChoice("demo"))
    prompts = encoder.encode_texts([f"This is a photo of a {name}" for name in names])
    classes = [[images[i] for i in range(26) if numbers[i] == c] for c in range(3)]
    hits = oracle.brute_force(images, texts, 10)
    own = {(i, number) for i, number in enumerate(numbers)}
    ics, pull = oracle.terms(images, hits, texts, classes, prompts, own)
    total = ics + 0.5 * pull.mean(axis=2)
    nearest, every = total.argmin(axis=1), np.arange(26)
    assert found["caption_rows"] == hits[1].tolist()
    captions = pq.read_table(index / "metadata" / "metadata_0.parquet")["caption"].to_pylist()
    assert found["captions"] == [[captions[row] for row in rows] for rows in hits[1]]
    assert found["nearest_class"] == [names[c] for c in nearest]
    expected = {
        "score": total.min(axis=1),
        "ics": ics[every, nearest],
        "ets": pull.mean(axis=2)[every, nearest],
        "given_ics": ics[every, numbers],
        "given_ets": pull.mean(axis=2)[every, numbers],
        "best_scores": np.sort(total, axis=1),
        "similarity": hits[0],
        "z": pull[every, nearest],
        "given_z": pull[every, numbers],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    assert found["rank"] == (np.argsort(np.argsort(-total.min(axis=1))) + 1).tolist()
    assert (found["p"], found["left_out"]) == ([None] * 26, [True] * 26)


def test_the_run_file_repeats_the_run_and_keeps_no_secret(bliss, collection, audited, monkeypatch):
    folder, _ = audited
    facts = json.loads((folder / "run.json").read_text())
    assert facts["request"]["images"] == str(collection)
    assert facts["settings"]["prompts"] == ["This is a photo of a {label}"]
    assert facts["images"]["scored"] == facts["images"]["left_out"] == 26
    assert facts["reference"]["images"] == [9, 9, 8]
    assert len(facts["model"]["weights_sha256"]) == 64
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    flags = [
        part
        for name, value in facts["request"].items()
        if name not in ("command", "images", "output", "robust")
        for one in (value if isinstance(value, list) else [value])
        for part in (f"--{name.replace('_', '-')}", one)
    ]
    flags.append("--no-robust")
    again = folder.parent / "again"
    assert bliss("audit", facts["request"]["images"], *flags, "-o", again).code == 0
    assert (again / "scores.parquet").read_bytes() == (folder / "scores.parquet").read_bytes()
    assert "hf_secret" not in (again / "run.json").read_text()
    unweighted = ("audit", collection, *flags, "-o", again, "--lambda", 0, "--overwrite")
    assert bliss(*unweighted).code == 0
    assert json.loads((again / "run.json").read_text())["request"]["lambda"] == 0


def test_json_alone_on_standard_output(bliss, collection, audited, index):
    folder, _ = audited
    asked = ("--index", index, "--no-robust", "-o", folder)
    outcome = bliss("audit", collection, *asked, "--json", "--top", 1)
    summary = json.loads(outcome.out)
    assert summary["counts"]["scored"] == 26
    assert summary["failures"] == []
    assert summary["classes"] == ["apple", "boat", "house"]
    [worst] = summary["worst"]
    found = table(folder)
    at = found["rank"].index(1)
    assert (worst["path"], worst["score"]) == (found["path"][at], found["score"][at])
    assert {c["caption"] for c in worst["captions"]} == set(found["captions"][at])
    pulls = [caption["z"] for caption in worst["captions"]]
    assert pulls == sorted(found["given_z"][at], reverse=True)


def test_the_python_calls_give_the_same_numbers(collection, audited, index, tmp_path):
    opened = blissaudit.open_index(index)
    encoder = blissaudit.load_encoder(blissaudit.ModelChoice("demo"))
    listed = blissaudit.list_images(collection)
    images = blissaudit.embed_images(listed, encoder, tmp_path)
    result = blissaudit.audit_own(images, opened, encoder)
    assert result.scores.score.tolist() == table(audited[0])["score"]


def test_scoring_is_auditing_against_a_fitted_reference(
    bliss, collection, reference, index, tmp_path
):
    against = ("--index", index, "--reference", reference, "--json", "--top", 26)
    strays = ("--question", "stray", "-o", tmp_path / "out")
    audit = json.loads(bliss("audit", collection, *against, *strays).out)
    score = json.loads(bliss("score", collection, *against).out)
    assert score == audit
    values = {image["p"] for image in score["worst"]}
    assert values <= {number / 7 for number in range(1, 8)}
    assert score["worst"][0]["p"] == pytest.approx(1 / 7)
    assert score["counts"]["left_out"] == 12
    from_python = blissaudit.audit_against(
        blissaudit.read_image_embeddings(tmp_path / "out" / "images"),
        blissaudit.open_index(index),
        blissaudit.load_reference(reference),
    )
    assert from_python.scores.score.tolist() == table(tmp_path / "out")["score"]


def test_a_copy_under_another_name_is_left_out_of_its_class_only(
    bliss, collection, reference, index, tmp_path
):
    clean = reference.parent / "images"
    new = tmp_path / "new"
    (new / "house").mkdir(parents=True)
    for name in ("one.png", "two.png"):
        shutil.copy(clean / "apple" / "1.png", new / "house" / name)
    shutil.copy(collection / "boat" / "7.png", new / "house" / "other.png")
    common = ("--index", index, "-o", tmp_path / "out", "--reference", clean, "--top", 1)
    outcome = bliss("audit", new, *common)
    assert "3 images scored against 3 classes and 300 captions; 2 of them are in" in outcome.out
    assert "1 image is a copy of another" in outcome.out
    found = table(tmp_path / "out")
    assert found["left_out"] == [True, False, True]
    own = bliss("audit", clean, "--index", index, "-o", tmp_path / "own")
    assert own.code == 0
    truth = table(tmp_path / "own")
    at = truth["path"].index("apple/1.png")
    assert found["score"][0] == found["score"][2] == pytest.approx(truth["score"][at], abs=1e-4)
    assert found["given_ics"][0] != truth["given_ics"][at]


def test_precomputed_embeddings_need_no_model(bliss, audited, captions, tmp_path):
    folder, _ = audited
    corpus = tmp_path / "corpus.txt"
    prompts = "".join(f"This is a photo of a {name}\n" for name in ("apple", "boat", "house"))
    corpus.write_text(captions.read_text() + prompts, encoding="utf-8")
    made, taken = tmp_path / "made", tmp_path / "taken"
    assert bliss("index", "build", corpus, "--model", "demo", "-o", made).code == 0
    build = ("index", "build", "--embeddings", made, "-o", taken)
    assert bliss(*build, "--column", "caption").code == 0
    audit = ("audit", "--embeddings", folder / "images", "-o", tmp_path / "out")
    outcome = bliss(*audit, "--index", taken)
    assert outcome.code == 0
    assert "model" not in outcome.err
    asked = bliss("audit", "--embeddings", folder / "images", "-o", tmp_path / "b", "--index", made)
    assert asked.code == 0
    first, second = table(tmp_path / "out"), table(tmp_path / "b")
    assert [path for path, rank in zip(first["path"], first["rank"], strict=True) if rank < 3]
    np.testing.assert_allclose(first["score"], second["score"], atol=1e-3)


def test_bliss_plus_ranks_by_default_and_the_output_says_so(
    bliss, collection, index, tmp_path, capsys
):
    """Without --score, as users type it; `--preset paper` ranks by BLISS."""
    for output, more in (("default", ()), ("auto", ("--score", "auto"))):
        words = ("audit", collection, "--index", index, "--report", "none", "-o")
        assert run([*map(str, words), str(tmp_path / output), *more]) == 0
        assert "score auto: bliss+, from " in capsys.readouterr().out
    default, auto = (
        pq.read_table(tmp_path / name / "scores.parquet") for name in ("default", "auto")
    )
    assert default["score"] == auto["score"] and "words" in default.column_names
