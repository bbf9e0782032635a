"""`bliss find` and `bliss diff`, on finished audits."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit import BlissError, UsageError
from blissaudit.artefacts import sha256_of
from blissaudit.audit.compare import compare_runs
from blissaudit.audit.folder import open_run
from blissaudit.audit.report.page import save_report
from blissaudit.audit.review.apply import clean, read_decisions
from blissaudit.audit.review.find import find_like
from blissaudit.audit.review.photographs import wanted_images
from blissaudit.indexer.images.embedded import read_image_embeddings


@pytest.fixture(scope="module")
def run(bliss, collection, index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    assert bliss("audit", collection, "--index", index, "-o", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def cleaned(bliss, collection, index, tmp_path_factory):
    """The same audit after the clock is taken out and a boat is filed as a house."""
    root = tmp_path_factory.mktemp("cleaned")
    shutil.copytree(collection, root / "images")
    (root / "images/apple/clock.png").unlink()
    (root / "images/boat/3.png").rename(root / "images/house/boat.png")
    assert bliss("audit", root / "images", "--index", index, "-o", root / "out").code == 0
    return root / "out"


@dataclass(frozen=True)
class FakeRun:
    folder: str
    table: pa.Table
    facts: dict = field(default_factory=dict)

    def columns(self, names):
        return self.table.select(names)


def fake_run(contents, scores, name="fake"):
    table = pa.table(
        {
            "content": contents,
            "score": np.array(scores, float),
            "path": [f"{c}{i}" for i, c in enumerate(contents)],
            "nearest_class": ["x"] * len(contents),
        }
    )
    return FakeRun(name, table)


def test_standings_by_hand():
    # In both: a, b, b, c. First scores 1 < 2 = 2 < 9: standings 0, .5, .5, 1.
    first = fake_run(["a", "b", "b", "c", "gone"], [1, 2, 2, 9, 50])
    second = fake_run(["c", "new", "b", "a", "b"], [-3, 7, 40, 60, 50])
    found = compare_runs(first, second)
    assert found.rows_a.tolist() == [0, 1, 2, 3]
    assert found.rows_b.tolist() == [3, 2, 4, 0]
    np.testing.assert_allclose(found.standing_a, [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(found.standing_b, [1, 1 / 3, 2 / 3, 0])
    np.testing.assert_allclose(found.change, [1, -1 / 6, 1 / 6, -1])
    assert found.order.tolist() == [0, 3, 1, 2]
    assert (found.only_a, found.only_b) == (1, 1)
    assert found.common_worst(1) == 0
    assert found.common_worst(3) == 2
    # Spearman by hand: covariance of (-.5, 0, 0, .5) and (.5, -1/6, 1/6, -.5) over their lengths.
    np.testing.assert_allclose(found.correlation, -0.5 / np.sqrt(0.5 * (0.5 + 1 / 18)))


def test_runs_are_compared_by_what_ranked_them(bliss, run, collection, index, tmp_path):
    command = ("audit", collection, "--index", index, "-o", tmp_path / "labels")
    assert bliss(*command, "--question", "mislabel").code == 0
    found = json.loads(bliss("diff", run, tmp_path / "labels", "--json", "--top", 26).out)
    assert (found["ranked_by_a"], found["ranked_by_b"]) == ("bliss", "label margin")
    margins = pq.read_table(tmp_path / "labels" / "scores.parquet")["margin"].to_numpy()
    changes = sorted(found["changes"], key=lambda each: each["rank_b"])
    assert [each["rank_b"] for each in changes] == list(range(1, 27))
    expected = np.argsort(np.argsort(-margins, kind="stable"))
    np.testing.assert_allclose([1 - each["standing_b"] for each in changes], np.sort(expected) / 25)
    assert any(each["change"] for each in changes)
    assert (
        "the first ranked by bliss, the second by label margin; images are compared by rank"
        in bliss("diff", run, tmp_path / "labels").out
    )


def test_spearman_is_scipys():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, 60), rng.integers(0, 20, 60)
    names = [str(i) for i in range(60)]
    found = compare_runs(fake_run(names, a), fake_run(names, b))
    np.testing.assert_allclose(found.correlation, spearmanr(a, b).statistic, rtol=1e-12)


def test_one_image_alone_and_a_constant_score():
    found = compare_runs(fake_run(["a"], [3]), fake_run(["a"], [9]))
    assert found.change.tolist() == [0]
    assert np.isnan(found.correlation)


def test_runs_without_a_common_image_are_refused():
    with pytest.raises(BlissError, match="one and two have no image in common"):
        compare_runs(fake_run(["a"], [1], "one"), fake_run(["b"], [1], "two"))


def test_diff_knows_an_image_that_was_filed_elsewhere(bliss, run, cleaned, tmp_path):
    outcome = bliss("diff", run, cleaned, "--top", 2, "--json", "-o", tmp_path / "diff.csv")
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert (found["images_in_both"], found["only_in_a"], found["only_in_b"]) == (25, 1, 0)
    rows = list(csv.DictReader((tmp_path / "diff.csv").open(encoding="utf-8")))
    assert [row["path_b"] for row in rows[:2]] == [each["path_b"] for each in found["changes"]]
    changes = np.abs([float(row["change"]) for row in rows])
    assert len(rows) == 25
    moved = [row["path_b"] for row in rows if row["path_a"] == "boat/3.png"]
    assert moved == ["house/boat.png"]
    assert all(row["path_a"] == row["path_b"] for row in rows if row["path_a"] != "boat/3.png")
    assert (np.diff(changes) <= 0).all()
    shown = bliss("diff", run, cleaned, "--top", 1).out.splitlines()
    assert found["changes"][0]["path_b"] in shown[1]
    assert shown[3] == "25 images in both audits, 1 only in the first, 0 only in the second"
    assert shown[4].startswith(f"rank correlation {found['rank_correlation']:.3f}; of the 1 most")


def test_a_run_and_itself_do_not_differ(bliss, run):
    found = json.loads(bliss("diff", run, run, "--json", "--top", 5).out)
    assert found["rank_correlation"] == pytest.approx(1)
    assert {each["change"] for each in found["changes"]} == {0}
    assert (found["worst"], found["worst_in_both"]) == (5, 5)
    assert bliss("diff", run, run, "--json", "--top", "9" * 40).code == 0


def test_find_by_text_puts_the_kind_first(bliss, run):
    outcome = bliss("find", run, "--text", "a photo of a house", "--top", 8, "--json")
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert {each["path"].split("/")[0] for each in found} == {"house"}
    similarity = [each["similarity"] for each in found]
    assert similarity == sorted(similarity, reverse=True)
    table = pq.read_table(run / "scores.parquet").to_pydict()
    for each in found:
        row = table["path"].index(each["path"])
        assert (each["score"], each["rank"]) == (table["score"][row], table["rank"][row])
    lines = bliss("find", run, "--text", "a photo of a house", "--top", 2).out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [each["path"] for each in found[:2]]


def test_find_like_an_image_of_the_run_needs_no_model_and_leaves_itself_out(bliss, run):
    outcome = bliss("find", run, "--image", "apple/clock.png", "--json", "--top", 25)
    assert outcome.err == ""
    found = json.loads(outcome.out)
    images = read_image_embeddings(run / "images")
    own = images.paths.index("apple/clock.png")
    cosine = images.vectors.astype(float) @ images.vectors[own].astype(float)
    order = [i for i in np.argsort(-cosine, kind="stable") if i != own]
    assert [each["path"] for each in found] == [images.paths[i] for i in order]
    np.testing.assert_allclose([each["similarity"] for each in found], cosine[order], atol=1e-6)


def test_find_like_a_file_finds_its_twin(bliss, run, collection, tmp_path):
    shutil.copy(collection / "boat/2.png", tmp_path / "x.png")
    found = json.loads(bliss("find", run, "--image", tmp_path / "x.png", "--top", 3, "--json").out)
    assert found[0]["path"] == "boat/2.png"
    assert found[0]["similarity"] > 0.999
    assert len(found) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "neither of --text and --image"),
        (("--text", "a", "--image", "b"), "both of --text and --image"),
        (("--image", "no/such.png"), "neither an image of"),
        (("--text", "a", "--model", "ViT-B-32"), "ViT-B-32"),
    ],
)
def test_find_says_what_it_cannot_do(bliss, run, options, words):
    outcome = bliss("find", run, *options)
    assert outcome.code in (1, 2)
    assert words in outcome.err


def test_a_folder_without_an_audit_and_changed_scores_are_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"has no run\.json.*output folder of a finished"):
        open_run(tmp_path)
    shutil.copytree(run, tmp_path / "copy")
    with (tmp_path / "copy/scores.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BlissError, match=r"scores\.parquet does not match the checksum"):
        open_run(tmp_path / "copy")
    facts = json.loads((run / "run.json").read_text())
    (tmp_path / "copy/run.json").write_text(json.dumps({**facts, "format_version": 99}))
    with pytest.raises(BlissError, match="format version 99"):
        open_run(tmp_path / "copy")


def test_embeddings_that_are_gone_or_others_are_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/images")
    with pytest.raises(BlissError, match=r"embeddings that .*copy scored are gone"):
        find_like(open_run(tmp_path / "copy"), "apple/clock.png", lambda: None)


def test_find_by_a_vector_of_any_length(bliss, run, tmp_path):
    images = read_image_embeddings(run / "images")
    np.save(tmp_path / "v.npy", 7 * images.vectors[4])
    found = json.loads(bliss("find", run, "--vector", tmp_path / "v.npy", "--json").out)
    assert (found[0]["path"], len(found)) == (images.paths[4], 20)
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-6)
    for wrong, words in (
        (np.zeros(images.vectors.shape[1]), "is zero or not finite"),
        (np.ones(3), "has shape (3,) and type float64. Needed: one row of"),
    ):
        np.save(tmp_path / "w.npy", wrong)
        outcome = bliss("find", run, "--vector", tmp_path / "w.npy")
        assert outcome.code == 2 and words in outcome.err
    assert bliss("find", run, "--vector", tmp_path / "v.npy", "--top", 0, "--json").out == "[]\n"
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", images.vectors[4])
    for name in ("none.npy", "empty.npy", "several.npz"):
        outcome = bliss("find", run, "--vector", tmp_path / name)
        assert outcome.code == 2 and f"{name} could not be read" in outcome.err, outcome.err
    both = bliss("find", run, "--vector", tmp_path / "v.npy", "--text", "a boat")
    assert (both.code, "both of --text and --vector" in both.err) == (2, True)
    assert "neither of --text and --image" in bliss("find", run).err


def reseal(folder):
    """The manifest that bliss would have written for the files as they are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"] = {name: sha256_of(folder / name) for name in manifest["checksums"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_vectors(folder):
    path = folder / "img_emb" / "img_emb_0.npy"
    np.save(path, np.roll(np.load(path), 1, axis=0))


def change_table(folder):
    path = folder / "metadata" / "metadata_0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.roll(np.arange(len(table)), 1)), path)


def begin_again(folder):
    (folder / "manifest.json").rename(folder / "building.json")


def find_in(run):
    return find_like(open_run(run), "apple/clock.png", lambda: None)


def apply_to(run):
    header = "row,path,sha256,decision,new_label\n"
    (run / "decisions.csv").write_text(header)
    opened = open_run(run)
    return clean(opened, read_decisions(run / "decisions.csv", opened))


def export_of(run):
    return wanted_images(open_run(run))


CHANGES = {
    "vectors": change_vectors,
    "table": change_table,
    "vectors made again": lambda folder: (change_vectors(folder), reseal(folder)),
    "table made again": lambda folder: (change_table(folder), reseal(folder)),
    "begun again": begin_again,
}


@pytest.mark.parametrize("of_version", ["this", "0.1"])
@pytest.mark.parametrize("change", CHANGES)
def test_embeddings_that_changed_after_the_audit_are_refused(run, tmp_path, change, of_version):
    """By each command that reads them, in a run's own folder; 0.1 recorded no fingerprint."""
    copy = shutil.copytree(run, tmp_path / "copy")
    if of_version == "0.1":
        if change == "vectors made again":
            pytest.skip("a run of 0.1 does not tell")
        facts = json.loads((copy / "run.json").read_text())
        del facts["images"]["fingerprint"]
        (copy / "run.json").write_text(json.dumps(facts))
    assert find_in(copy) and apply_to(copy) and export_of(copy)
    CHANGES[change](copy / "images")
    for read in (find_in, save_report, apply_to, export_of):
        with pytest.raises(BlissError, match=r"checksum|not those that|has no manifest") as error:
            read(copy)
        assert "Run the same audit again" in str(error.value) or "Restore" in str(error.value)


def test_given_embeddings_that_changed_after_the_audit_are_refused(run, tmp_path):
    """Rows of another program, whose manifest nobody wrote; and more rows than there were."""
    given = shutil.copytree(run / "images", tmp_path / "given")
    (given / "manifest.json").unlink()
    copy = shutil.copytree(run, tmp_path / "copy")
    facts = json.loads((copy / "run.json").read_text())
    facts["request"]["embeddings"] = str(given)
    found = read_image_embeddings(given)
    facts["images"]["fingerprint"] = found.fingerprint
    table = pq.read_table(copy / "scores.parquet")
    place = table.schema.get_field_index("content")
    table = table.set_column(place, "content", pa.array(found.hashes, pa.string()))
    pq.write_table(table, copy / "scores.parquet")
    facts["checksums"]["scores.parquet"] = sha256_of(copy / "scores.parquet")
    (copy / "run.json").write_text(json.dumps(facts))
    assert find_in(copy) and apply_to(copy)  # though images/ holds those of an earlier run
    rows, described = np.load(given / "img_emb/img_emb_0.npy"), given / "metadata"
    for changed in (np.roll(rows, 1, axis=0), np.concatenate([rows, rows[:1]])):
        np.save(given / "img_emb/img_emb_0.npy", changed)
        names = pq.read_table(run / "images/metadata/metadata_0.parquet")
        pq.write_table(
            names.take(np.arange(len(changed)) % len(rows)), described / "metadata_0.parquet"
        )
        for read in (find_in, save_report, apply_to):
            with pytest.raises(BlissError, match=r"given are not those that .*copy was made from"):
                read(copy)


def test_an_image_changed_in_place_is_noticed_where_it_is_read(bliss, collection, index, tmp_path):
    """Same size, same time of change: an audit does not read it again, pages and exports do."""
    images = shutil.copytree(collection, tmp_path / "images")
    audit = ("audit", images, "--index", index, "--report", "none", "-o", tmp_path / "out")
    assert bliss(*audit).code == 0
    path = images / "apple" / "clock.png"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    page = save_report(tmp_path / "out", tmp_path / "page.html").read_text()
    assert not (tmp_path / "out" / "groups.json").exists()  # the run may be read-only
    assert page.count("its content has changed since the audit") == 1
    exported = bliss("export", tmp_path / "out", "--save-to-disk", tmp_path / "saved")
    assert exported.code == 1 and "apple/clock.png" in exported.err
    assert "its content has changed since the audit" in exported.err
    assert bliss(*audit).code == 0


def test_images_known_by_vectors_alone_are_matched_by_path_between_models():
    first = fake_run(["vector:1", "vector:2", "a"], [1, 2, 3])
    second = fake_run(["vector:8", "vector:9", "a"], [1, 2, 3])
    paths = pa.array(["x", "y", "z"])
    first, second = (
        FakeRun("fake", each.table.set_column(2, "path", paths)) for each in (first, second)
    )
    found = compare_runs(first, second)
    assert found.rows_a.tolist() == found.rows_b.tolist() == [0, 1, 2]
    files = FakeRun("fake", second.table.set_column(0, "content", pa.array(["b", "c", "a"])))
    assert compare_runs(files, files).rows_a.tolist() == [0, 1, 2]
    other = FakeRun("fake", files.table.set_column(0, "content", pa.array(["d", "e", "a"])))
    assert compare_runs(files, other).rows_a.tolist() == [2]
