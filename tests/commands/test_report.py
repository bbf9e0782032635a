"""`bliss report`, and the page that `bliss audit` writes: what is on it is what the run found."""

from __future__ import annotations

import json
import re
import shutil
import sys

import blissaudit
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.artefacts import read_json, sha256_of, write_json


def page_data(path):
    """The data of a page, and its pictures."""
    page = path.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    pictures = re.findall(r'<script type="text/plain" id="picture-(\d+)">([^<]*)</script>', page)
    assert [int(number) for number, _ in pictures] == list(range(len(pictures)))
    return json.loads(data), [picture for _, picture in pictures]


def change_scores(run, change):
    """Replace the table of a run by `change(table)`, as a later version might write it."""
    table = change(pq.read_table(run / "scores.parquet"))
    pq.write_table(table, run / "scores.parquet")
    facts = read_json(run / "run.json")
    facts["checksums"]["scores.parquet"] = sha256_of(run / "scores.parquet")
    write_json(run / "run.json", facts)


@pytest.fixture(scope="module")
def made(bliss, collection, index, tmp_path_factory):
    """(run, collection, output) of an audit with a broken file and a copy of an image."""
    root = tmp_path_factory.mktemp("report")
    images = shutil.copytree(collection, root / "images")
    (images / "boat" / "empty.png").write_bytes(b"")
    shutil.copy(images / "boat" / "1.png", images / "boat" / "copy.png")
    outcome = bliss("audit", images, "--index", index, "--no-robust", "-o", root / "run")
    assert outcome.code == 0, outcome.err
    return root / "run", images, outcome


@pytest.fixture
def run(made, tmp_path):
    """A copy of that run to change."""
    return shutil.copytree(made[0], tmp_path / "run")


def test_the_audit_says_where_its_page_is_and_can_do_without(bliss, made, index, tmp_path):
    run, images, outcome = made
    assert outcome.out.endswith(f"\nTo look at them: {run / 'report.html'}\n")
    asked = ("audit", images, "--index", index, "--no-robust", "-o", tmp_path / "out")
    done = bliss(*asked, "--report", "none")
    assert "report.html" not in done.out
    assert not (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out/scores.parquet").read_bytes() == (run / "scores.parquet").read_bytes()
    few = ("--report", 3, "--workers", 1)
    assert bliss(*asked, *few).code == 0
    assert len(page_data(tmp_path / "out" / "report.html")[0]["images"]) == 3


def test_every_image_is_on_the_page_as_the_table_has_it(made):
    data, pictures = page_data(made[0] / "report.html")
    table = pq.read_table(made[0] / "scores.parquet").to_pylist()
    hashes = pq.read_table(made[0] / "images/metadata/metadata_0.parquet")["sha256"].to_pylist()
    assert len(data["images"]) == len(table) == 27
    assert [image["rank"] for image in data["images"]] == list(range(1, 28))
    by_row = {row["row"]: (row, content) for row, content in zip(table, hashes, strict=True)}
    for image in data["images"]:
        row, content = by_row[image["row"]]
        assert image["path"] == row["path"]
        assert image["sha256"] == content
        assert data["classes"][image["label"]] == row["label"]
        assert data["classes"][image["nearest"]] == row["nearest_class"]
        assert image["score"] == pytest.approx(row["score"], rel=1e-4)
        best = [(data["classes"][which], score) for which, score in image["best"]]
        assert [name for name, _ in best] == row["best_classes"]
        assert pictures[image["picture"]]
    assert data["failures"] == [[18, "boat/empty.png", "the file is empty"]]
    assert data["counts"]["copies"] == 1


def test_the_numbers_are_those_of_the_table(made):
    data, _ = page_data(made[0] / "report.html")
    table = {row["row"]: row for row in pq.read_table(made[0] / "scores.parquet").to_pylist()}
    assert data["weight"] == 0.5
    for image in data["images"]:
        row = table[image["row"]]
        ics, ets, *given = image["terms"]
        assert ics + 0.5 * ets == pytest.approx(image["score"], abs=2e-3)
        assert given == pytest.approx([row["given_ics"], row["given_ets"]], rel=1e-4)
        found = {data["captions"][which]: pulls for which, *pulls in image["captions"]}
        columns = zip(row["captions"], row["given_z"], row["z"], row["similarity"], strict=True)
        for text, *pulls in columns:
            assert found[text] == pytest.approx(pulls, rel=1e-4)
        pulls = [pull for _, pull, _, _ in image["captions"]]
        assert pulls == sorted(pulls, reverse=True)
        assert sorted(at for places in image["reasons"] for at in places) == [*range(len(pulls))]


def test_neighbours_are_the_nearest_others_of_each_class(made):
    run, _, _ = made
    data, pictures = page_data(run / "report.html")
    images = blissaudit.read_image_embeddings(run / "images")
    cosines = images.vectors @ images.vectors.T
    wrong = set(pq.read_table(run / "issues.parquet")["row"].to_pylist())
    sound = np.array([row not in wrong for row in images.rows])
    for image in data["images"]:
        at = images.paths.index(image["path"])
        others = [i for i in range(len(cosines)) if images.hashes[i] != images.hashes[at]]
        others.sort(key=lambda i: -cosines[at, i])
        own = data["classes"][image["label"]]
        nearest = data["classes"][image["nearest"]]
        expected = {
            "any": others[:3],
            "own": [i for i in others if sound[i] and images.labels[i] == own][:2],
            "other": [i for i in others if sound[i] and images.labels[i] == nearest != own][:2],
        }
        for name in expected if not image.get("is_label_issue") else ("any", "own"):
            found = image[name]
            assert len(found) == len(expected[name])
            for (picture, label, path, cosine, row, file), i in zip(
                found, expected[name], strict=True
            ):
                assert cosine == pytest.approx(cosines[at, i], abs=1e-4)
                assert images.hashes[images.paths.index(path)] == images.hashes[i]
                assert data["classes"][label] == images.labels[i]
                assert pictures[picture] and row in images.rows
                assert (run / file).is_file()


def test_histograms_count_every_image_once(made):
    spread = page_data(made[0] / "report.html")[0]["spread"]
    table = pq.read_table(made[0] / "scores.parquet")
    scores = table["score"].to_numpy()
    edges = np.linspace(np.quantile(scores, 0.005), scores.max(), 49)
    np.testing.assert_allclose(spread["edges"], edges, rtol=1e-4, atol=1e-4)
    everything, *classes = spread["rows"]
    assert everything["bins"] == np.histogram(np.clip(scores, edges[0], None), edges)[0].tolist()
    assert sum(everything["bins"]) == everything["images"] == 27
    assert [row["name"] for row in classes] == ["apple", "boat", "house"]
    assert np.sum([row["bins"] for row in classes], axis=0).tolist() == everything["bins"]
    of_boats = scores[np.array(table["label"].to_pylist()) == "boat"]
    expected = np.quantile(of_boats, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(classes[1]["quartiles"], expected, rtol=1e-4, atol=1e-6)
    assert spread["threshold"] is None


def test_groups_are_written_and_hold_each_grouped_image_once(made):
    run, _, _ = made
    groups = read_json(run / "groups.json")
    assert groups["scores"] == sha256_of(run / "scores.parquet")
    assert groups["of"] == "most unusual images"
    rows = [row for group in groups["groups"] for row in group["rows"]]
    table = pq.read_table(run / "scores.parquet").to_pydict()
    worst = sorted(range(27), key=lambda i: table["rank"][i])[:3]
    assert sorted(rows) == sorted(table["row"][i] for i in worst)
    for group in groups["groups"]:
        assert {*group["representatives"]} <= {*group["rows"]}
        at = [table["row"].index(row) for row in group["rows"]]
        assert group["captions"][0] in {text for i in at for text in table["captions"][i]}


def test_flagged_images_are_the_ones_grouped_and_set_the_threshold(bliss, run):
    flagged = [
        rank in (2, 3, 5, 7) for rank in pq.read_table(run / "scores.parquet")["rank"].to_pylist()
    ]

    def decided(table):
        q = pa.array([0.01 if each else 0.5 for each in flagged])
        kept = table.drop_columns(["flagged", "q"])
        return kept.append_column("flagged", pa.array(flagged)).append_column("q", q)

    change_scores(run, decided)
    assert bliss("report", run).code == 0
    data, _ = page_data(run / "report.html")
    groups = read_json(run / "groups.json")
    assert groups["of"] == data["grouped"] == "flagged images"
    grouped = {row for group in groups["groups"] for row in group["rows"]}
    assert grouped == {image["row"] for image in data["images"] if image["flagged"]}
    assert {image["rank"] for image in data["images"] if image["flagged"]} == {2, 3, 5, 7}
    assert {image["q"] for image in data["images"]} == {0.01, 0.5}
    assert data["counts"]["flagged"] == 4
    assert data["spread"]["threshold"] == data["images"][6]["score"]


def test_a_mislabel_run_shows_margins_and_calls_nothing_a_stray(bliss, made, index, tmp_path):
    command = ("audit", made[1], "--index", index, "--question", "mislabel", "-o", tmp_path / "out")
    outcome = bliss(*command)
    assert outcome.code == 0, outcome.err
    data, _ = page_data(tmp_path / "out" / "report.html")
    table = pq.read_table(tmp_path / "out" / "scores.parquet")
    margins = table["margin"].to_numpy()
    assert data["by_labels"] and data["spread"]["of"] == "Label margins"
    assert data["spread"]["edges"][-1] == pytest.approx(margins.max(), rel=1e-4)
    threshold = json.loads((tmp_path / "out/run.json").read_text())["decision"].get("threshold")
    flagged = margins[table["flagged"].to_numpy(zero_copy_only=False)]
    expected = threshold if threshold is not None else (flagged.min() if len(flagged) else None)
    assert data["spread"]["threshold"] == pytest.approx(expected, rel=1e-4)
    assert data["groups"] == [] and "stray" not in data["issues"]


def test_label_columns_and_a_decision_are_taken_over_where_a_run_has_them(bliss, run):
    def mislabelled(table):
        n = len(table)
        return (
            table.append_column("predicted_label", pa.array(["house"] * n))
            .append_column("label_quality", pa.array(np.linspace(0, 1, n)))
            .append_column("is_label_issue", pa.array([i < 2 for i in range(n)]))
        )

    change_scores(run, mislabelled)
    facts = read_json(run / "run.json")
    facts["decision"] = {"rule": "top 5", "threshold": 1.25, "guarantee": False, "kept": [1]}
    write_json(run / "run.json", facts)
    assert bliss("report", run).code == 0
    data, _ = page_data(run / "report.html")
    issues = [image for image in data["images"] if image["is_label_issue"]]
    assert len(issues) == 2
    assert {data["classes"][image["predicted_label"]] for image in issues} == {"house"}
    assert data["spread"]["threshold"] == 1.25
    assert ["Decision: rule", "top 5"] in data["facts"]
    assert ["Decision: guarantee", "no"] in data["facts"]


def test_fewer_images_and_another_place_can_be_asked_for(bliss, made, tmp_path):
    run, _, _ = made
    outcome = bliss("report", run, "-o", tmp_path / "few.html", "--top", 4)
    assert outcome.out.startswith(f"Report: {tmp_path / 'few.html'} (0.")
    data, pictures = page_data(tmp_path / "few.html")
    assert (len(data["images"]), data["left_out"]["images"]) == (4, 23)
    assert len(pictures) <= 4 + 4 * 7 + 2
    assert blissaudit.save_report(run, tmp_path / "py.html", 4) == tmp_path / "py.html"
    assert (tmp_path / "py.html").read_bytes() == (tmp_path / "few.html").read_bytes()
    outcome = bliss("report", run, "--top", 0)
    assert (outcome.code, "'--top': 0 is not in the range x>=1" in outcome.err) == (2, True)
    with pytest.raises(blissaudit.UsageError, match=r"0 images were asked for\. Needed: 1 or more"):
        blissaudit.save_report(run, tmp_path / "py.html", 0)


def test_a_clean_reference_gives_the_neighbours(bliss, made, index, collection, tmp_path):
    _, images, _ = made
    command = ("audit", images, "--index", index, "--reference", collection, "-o", tmp_path / "out")
    assert bliss(*command).code == 0
    data, pictures = page_data(tmp_path / "out" / "report.html")
    first = data["images"][0]
    assert len(first["any"]) == 3 and first["own"][0][1] == first["label"]
    assert all(pictures[near[0]] for near in first["any"])
    assert ["Reference", f"{collection}; 26 images in 3 classes"] in data["facts"]


def test_moved_pictures_are_missed_in_words(bliss, run, made, tmp_path):
    facts = read_json(run / "run.json")
    facts["images"]["source"] = str(tmp_path / "gone")
    write_json(run / "run.json", facts)
    before = (run / "report.html").read_bytes()
    refused = bliss("report", run)
    assert refused.code == 1 and (run / "report.html").read_bytes() == before
    assert f"none of the 27 pictures was found in {tmp_path / 'gone'} (the first: " in refused.err
    assert bliss("report", run, "-o", tmp_path / "bare.html").code == 0
    data, pictures = page_data(tmp_path / "bare.html")
    assert pictures == []
    (run / "report.html").write_bytes(b"")
    assert {image["no_picture"] for image in data["images"]} == {"the file does not exist"}
    assert (data["left_out"]["embeddings"], len(data["groups"])) == (False, 1)
    shutil.rmtree(run / "images")
    assert bliss("report", run).code == 0
    data, _ = page_data(run / "report.html")
    assert (data["left_out"]["embeddings"], data["groups"]) == (True, [])
    assert not [image for image in data["images"] if image["any"] or "sha256" in image]


@pytest.mark.parametrize(
    "spoil, code, words",
    [
        (lambda run: shutil.rmtree(run), 2, "does not exist. Needed: the output folder of a fin"),
        (lambda run: (run / "run.json").unlink(), 2, "has no run.json"),
        (lambda run: (shutil.rmtree(run), run.touch()), 2, "is no folder. Needed: the output fol"),
        (lambda run: (run / "run.json").write_text("[1]"), 1, "holds a list"),
        (lambda run: (run / "run.json").write_text('{"kind": "x"}'), 1, "is a x of format"),
        (lambda run: (run / "scores.parquet").unlink(), 1, "scores.parquet is missing"),
        (lambda run: (run / "failures.csv").write_text("x"), 1, "does not match the checksum"),
    ],
)
def test_a_folder_that_is_no_whole_run_is_refused_in_words(bliss, run, spoil, code, words):
    spoil(run)
    outcome = bliss("report", run)
    assert outcome.code == code
    assert words in outcome.err


def test_pictures_are_found_from_another_folder(bliss, collection, index, tmp_path, monkeypatch):
    shutil.copytree(collection, tmp_path / "here" / "photos")
    monkeypatch.chdir(tmp_path / "here")
    command = ("audit", "photos", "--index", index, "-o", "out")
    assert bliss(*command, "--report", "none").code == 0
    absolute = ("audit", tmp_path / "here" / "photos", *command[2:], "--report", "none")
    assert bliss(*absolute).code == 0, "another spelling of the same folder is the same request"
    other = ("audit", tmp_path / "here" / "photos" / "apple", *command[2:])
    assert "(images differ)" in bliss(*other).err
    monkeypatch.chdir(tmp_path)
    outcome = bliss("report", "here/out")
    assert outcome.code == 0 and "were not found" not in outcome.err
    data, pictures = page_data(tmp_path / "here" / "out" / "report.html")
    assert pictures and all(image["picture"] is not None for image in data["images"])
    (tmp_path / "here" / "photos" / data["images"][0]["path"]).unlink()
    assert "1 of 26 pictures" in bliss("report", "here/out").err


def test_plots_are_vector_files_the_same_each_time(bliss, made, tmp_path):
    pytest.importorskip("matplotlib", reason="the plots need matplotlib")
    run, _, _ = made
    for folder in ("one", "two"):
        outcome = bliss("report", run, "--plots", tmp_path / folder)
        assert outcome.code == 0, outcome.err
    names = ["classes.pdf", "classes.svg", "scores.pdf", "scores.svg"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        first = (tmp_path / "one" / name).read_bytes()
        assert first == (tmp_path / "two" / name).read_bytes()
        assert first.startswith(b"%PDF" if name.endswith("pdf") else b"<?xml")
    boxes = (tmp_path / "one" / "classes.svg").read_text(encoding="utf-8")
    for label in ("apple (9)", "boat (10)", "house (8)"):
        assert label in boxes
    assert "27 images" in (tmp_path / "one" / "scores.svg").read_text(encoding="utf-8")


def test_plots_without_matplotlib_say_what_to_install(bliss, made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = bliss("report", made[0], "--plots", tmp_path)
    assert (outcome.code, outcome.err) == (
        2,
        "\nbliss: plots were asked for and matplotlib is not installed. Needed: matplotlib. "
        "Install it with pip install 'bliss-audit[plots]'.\n",
    )


def test_precomputed_embeddings_make_a_page_without_pictures(bliss, made, index, tmp_path):
    run, _, _ = made
    command = ("audit", "--embeddings", run / "images", "--index", index, "--model", "demo")
    assert bliss(*command, "--no-robust", "-o", tmp_path / "out").code == 0
    data, pictures = page_data(tmp_path / "out" / "report.html")
    whole, _ = page_data(run / "report.html")
    assert pictures == []
    assert [image["sha256"] for image in data["images"]] == [
        image["sha256"] for image in whole["images"]
    ]
    from blissaudit.indexer.images.embedded import read_image_embeddings

    stored = read_image_embeddings(run / "images")  # as another program would have written them
    foreign = tmp_path / "foreign"
    (foreign / "img_emb").mkdir(parents=True)
    (foreign / "metadata").mkdir()
    np.save(foreign / "img_emb" / "img_emb_0.npy", stored.vectors)
    names = {"image_path": list(stored.paths), "label": list(stored.labels)}
    pq.write_table(pa.table(names), foreign / "metadata" / "metadata_0.parquet")
    command = ("audit", "--embeddings", foreign, "--index", index, "--model", "demo")
    assert bliss(*command, "--no-robust", "-o", tmp_path / "again").code == 0
    for image in page_data(tmp_path / "again" / "report.html")[0]["images"]:
        assert image["path"] not in [near[2] for near in image["any"]] and len(image["any"]) == 3
        assert image["path"] not in [near[2] for near in image["own"]] and len(image["own"]) == 2
    assert [near[1:5] for near in data["images"][0]["any"]] == [
        near[1:5] for near in whole["images"][0]["any"]
    ]
