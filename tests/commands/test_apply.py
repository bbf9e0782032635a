"""`bliss apply`: a cleaned list or copy; originals stay, and nothing lands outside the target."""

from __future__ import annotations

import csv
import os
import re
import shutil

import pyarrow.parquet as pq
import pytest
from blissaudit.artefacts import read_json, sha256_of, write_json
from blissaudit.audit.review.apply import COLUMNS, label_problem
from blissaudit.corpora.images.opening import open_images
from blissaudit.safe_text import text_cell


@pytest.fixture(scope="module")
def made(bliss, collection, index, tmp_path_factory):
    """(run, collection): class folders with a deep, an odd and an unreadable file."""
    root = tmp_path_factory.mktemp("apply")
    images = shutil.copytree(collection, root / "images")
    (images / "apple" / "deep").mkdir()
    shutil.move(images / "apple" / "1.png", images / "apple" / "deep" / "1.png")
    shutil.move(images / "boat" / "3.png", images / "boat" / "=1+1.png")
    shutil.move(images / "boat" / "4.png", images / "boat" / os.fsdecode(b"caf\xe9.png"))
    (images / "house" / "empty.png").write_bytes(b"")
    shutil.copy(images / "house" / "1.png", images / "flat.png")
    command = ("audit", images, "--index", index, "-o", root / "run", "--report", "none")
    assert bliss(*command).code == 0
    return root / "run", images


@pytest.fixture
def images_of(made):
    """path -> (row, hash) of the run."""
    table = pq.read_table(made[0] / "scores.parquet").to_pydict()
    hashes = pq.read_table(made[0] / "images/metadata/metadata_0.parquet")["sha256"].to_pylist()
    return {
        path: (row, content)
        for path, row, content in zip(table["path"], table["row"], hashes, strict=True)
    }


@pytest.fixture
def decided(images_of, tmp_path):
    """`decided((path, decision, label), …, **cells)` writes a decisions file."""

    def write(*decisions, **cells):
        with open(tmp_path / "decisions.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for path, decision, label in decisions:
                row, content = images_of[path]
                line = {"row": row, "path": text_cell(path), "sha256": content}
                writer.writerow({**line, "decision": decision, "new_label": label, **cells})
        return tmp_path / "decisions.csv"

    return write


def files(folder):
    """What lies below a folder: relative path -> content."""
    return {
        os.path.relpath(os.path.join(where, name), folder): open(
            os.path.join(where, name), "rb"
        ).read()
        for where, _, names in os.walk(folder)
        for name in names
    }


DECISIONS = (
    ("apple/clock.png", "remove", ""),
    ("boat/umbrella.png", "relabel", "parasol"),
    ("apple/deep/1.png", "relabel", "house"),
    ("house/2.png", "keep", ""),
)
SUMMARY = (
    "1 decided to keep, 1 to remove, 2 to relabel; 26 images stay\n"
    "  1 from apple to house\n"
    "  1 from boat to parasol\n"
    "1 unreadable file is left out (failures.csv says why)\n"
)


def test_without_an_output_it_says_what_would_be_done(bliss, made, decided):
    outcome = bliss("apply", decided(*DECISIONS), "--run", made[0])
    assert outcome == (
        0,
        SUMMARY + "Nothing was written: add --list OUT.csv or --copy DIR\n",
        "",
    )


def test_the_list_holds_what_stays_with_its_new_label_and_no_formula(
    bliss, made, decided, tmp_path
):
    out = tmp_path / "clean.csv"
    outcome = bliss("apply", decided(*DECISIONS), "--run", made[0], "--list", out)
    assert outcome == (0, SUMMARY + f"List: {out}\n", "")
    head, *rows = csv.reader(out.read_text(encoding="utf-8").splitlines())
    table = pq.read_table(made[0] / "scores.parquet").to_pydict()
    changed = {"boat/umbrella.png": "parasol", "apple/deep/1.png": "house"}
    assert head == ["path", "label"]
    assert rows == [
        [path, changed.get(path, label or "")]
        for path, label in zip(table["path"], table["label"], strict=True)
        if path != "apple/clock.png"
    ]
    assert ["boat/=1+1.png", "boat"] in rows
    assert bliss("apply", decided(*DECISIONS), "--run", made[0], "--list", out) == outcome
    again = bliss("apply", decided(*DECISIONS[1:]), "--run", made[0], "--list", out)
    assert again.code == 2
    assert "already exists. Needed: a new file. Choose another name." in again.err


def test_paths_and_labels_of_the_list_are_no_formulas(bliss, collection, index, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(collection, images)
    shutil.move(images / "apple", images / "=apple")
    shutil.move(images / "boat" / "3.png", images / "boat" / "a;=1, b\n.png")
    assert bliss("audit", images, "--index", index, "-o", tmp_path / "run").code == 0
    (tmp_path / "none.csv").write_text(",".join(COLUMNS) + "\n")
    out = tmp_path / "out.csv"
    command = ("apply", tmp_path / "none.csv", "--run", tmp_path / "run", "--list", out)
    assert bliss(*command).code == 0
    rows = list(csv.reader(out.read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["escaped_path", "escaped_label"]
    assert ["'=apple/0.png", "'=apple"] in rows
    assert ["boat/a;'=1, b\\x0a.png", "boat"] in rows
    assert not [cell for row in rows for cell in row if re.search(r"(^|[;,])[=+@-]", cell)]
    again = open_images(shutil.copy(out, images / "clean.csv"))
    table = pq.read_table(tmp_path / "run" / "scores.parquet").to_pydict()
    assert again.paths == tuple(table["path"])
    assert again.labels == tuple(table["label"])
    assert again.problems == {}


def test_decisions_of_the_first_pages_fit_their_run(bliss, made, decided):
    odd = "boat/caf\\xe9.png"
    for cell in (text_cell(odd), odd):
        path = decided((odd, "remove", ""), path=cell)
        assert "1 to remove" in bliss("apply", path, "--run", made[0]).out


def test_the_copy_is_the_cleaned_folder_and_the_original_stays(bliss, made, decided, tmp_path):
    run, images = made
    before = files(images)
    outcome = bliss("apply", decided(*DECISIONS), "--run", run, "--copy", tmp_path / "clean")
    assert outcome.code == 0, outcome.err
    assert outcome.out == SUMMARY + f"Copy: {tmp_path / 'clean'}\n"
    expected = {
        {"boat/umbrella.png": "parasol/umbrella.png", "apple/deep/1.png": "house/deep/1.png"}.get(
            path, path
        ): content
        for path, content in before.items()
        if path not in ("apple/clock.png", "house/empty.png")
    }
    assert files(tmp_path / "clean") == expected
    assert files(images) == before
    command = ("apply", tmp_path / "decisions.csv", "--run", run, "--copy", tmp_path / "clean")
    assert bliss(*command)[:2] == outcome[:2]  # as after a kill just past the rename
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "decisions.csv"]
    (tmp_path / "clean" / "house" / "1.png").write_bytes(b"another")
    again = bliss(*command)
    assert (again.code, "is not empty" in again.err) == (2, True)


def test_a_taken_name_is_changed_and_said(bliss, made, decided, tmp_path):
    run, images = made
    moved = [("boat/1.png", "relabel", "house"), ("flat.png", "relabel", "house"),
             ("boat/2.png", "relabel", "HOUSE")]  # fmt: skip
    (tmp_path / "clean").mkdir()
    outcome = bliss("apply", decided(*moved), "--run", run, "--copy", tmp_path / "clean")
    assert outcome.code == 0, outcome.err
    assert "2 of them under another name, because theirs was taken" in outcome.out
    found = files(tmp_path / "clean")
    taken = (images / "boat" / "1.png").read_bytes(), (images / "house" / "1.png").read_bytes()
    assert {found["house/1.png"], found["house/1-2.png"]} == {*taken}
    assert {"HOUSE/2-2.png", "HOUSE/2.png"} & {*found}
    assert found["house/flat.png"] == taken[1]
    assert len(found) == 27


@pytest.mark.parametrize(
    "label, words",
    [
        ("../out", "slash"),
        ("..", "dot"),
        ("/etc", "slash"),
        ("a\\b", "backslash"),
        ("c:", "colon"),
        (".hidden", "dot"),
        ("", "empty"),
        (" x", "space"),
        ("a\x00b", "invisible"),
        ("a\u202eb", "invisible"),
        ("é" * 101, "longer than 200 bytes"),
    ],
)
def test_a_label_that_is_no_folder_name_is_refused(bliss, made, decided, tmp_path, label, words):
    assert words in label_problem(label)
    if "\x00" in label:
        return
    path = decided(("boat/1.png", "relabel", label))
    outcome = bliss("apply", path, "--run", made[0], "--copy", tmp_path / "clean")
    assert outcome.code == 1
    assert f"line 2 of {path} does not fit the run: the new label" in outcome.err
    assert words in outcome.err
    assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize("label", ["cup", "coffee cup", "=cup", "Ångström", "杯", "a.b"])
def test_plain_names_of_any_script_are_labels(label):
    assert label_problem(label) is None


def test_an_apostrophe_before_a_formula_is_taken_away_again(bliss, made, decided, tmp_path):
    path = decided(("boat/1.png", "relabel", "'=cup"), ("boat/2.png", "relabel", "'tis"),
                   ("boat/5.png", "relabel", "a;'-b"))  # fmt: skip
    assert bliss("apply", path, "--run", made[0], "--copy", tmp_path / "clean").code == 0
    assert {path.name for path in (tmp_path / "clean").iterdir()} > {"=cup", "'tis", "a;-b"}


@pytest.mark.parametrize(
    "cells, words",
    [
        ({"row": 999}, "row '999' is not in the run"),
        ({"row": "x"}, "row 'x' is not in the run"),
        ({"path": "other.png"}, "is another image in the run than other.png"),
        ({"sha256": "0" * 64}, "had other content in the run"),
        ({"decision": "delete"}, "'delete' is not a decision"),
    ],
)
def test_decisions_of_another_run_are_refused_by_line(bliss, made, decided, cells, words):
    path = decided(("boat/1.png", "remove", ""), **cells)
    outcome = bliss("apply", path, "--run", made[0])
    assert outcome.code == 1
    assert f"line 2 of {path} does not fit the run: " in outcome.err
    assert words in outcome.err


def test_an_image_decided_twice_and_a_file_that_is_none_are_refused(bliss, made, decided, tmp_path):
    twice = decided(("boat/1.png", "remove", ""), ("boat/1.png", "keep", ""))
    assert "appears twice" in bliss("apply", twice, "--run", made[0]).err
    other = tmp_path / "other.csv"
    other.write_text("row,path\n1,2\n")
    outcome = bliss("apply", other, "--run", made[0])
    assert outcome.code == 2
    assert "has no column sha256, decision, new_label" in outcome.err
    other.write_bytes(b"\xff\xfe")
    assert "could not be read" in bliss("apply", other, "--run", made[0]).err
    other.write_text(",".join(COLUMNS) + "\n1,2\n")
    assert "more or fewer cells" in bliss("apply", other, "--run", made[0]).err
    assert "could not be read" in bliss("apply", tmp_path / "none", "--run", made[0]).err


def test_only_a_new_or_empty_target_outside_the_collection_will_do(bliss, made, decided, tmp_path):
    run, images = made
    full, link, plain = tmp_path / "full", tmp_path / "link", tmp_path / "plain"
    full.mkdir()
    (full / "x").write_text("x")
    link.symlink_to(tmp_path / "elsewhere")
    plain.write_text("x")
    before = files(images)
    for target, words in (
        (full, "is not empty"),
        (link, "is not a folder"),
        (plain, "is not a folder"),
        (images / "new", "lies in the collection"),
        (images, "is not empty"),
    ):
        outcome = bliss("apply", decided(*DECISIONS), "--run", run, "--copy", target)
        assert outcome.code == 2
        assert words in outcome.err
    assert files(images) == before
    assert (full / "x").read_text() == "x"
    assert not (tmp_path / "elsewhere").exists()


def test_a_changed_missing_or_linked_original_stops_the_copy_whole(bliss, made, decided, tmp_path):
    run = shutil.copytree(made[0], tmp_path / "run")
    images = shutil.copytree(made[1], tmp_path / "images")
    facts = read_json(run / "run.json")
    facts["images"]["source"] = str(images)
    write_json(run / "run.json", facts)
    victim = images / "house" / "7.png"
    data = victim.read_bytes()
    (tmp_path / "secret.png").write_bytes(data)
    for spoil, words in (
        (lambda: victim.write_bytes(data + b"x"), "its content has changed since the audit"),
        (lambda: victim.unlink(), "the file does not exist"),
        (
            lambda: victim.symlink_to(tmp_path / "secret.png"),
            "a link that leaves the folder of the collection is not followed",
        ),
    ):
        spoil()
        outcome = bliss("apply", decided(*DECISIONS), "--run", run, "--copy", tmp_path / "clean")
        assert outcome.code == 1
        assert f"house/7.png cannot be copied: {words}" in outcome.err
        assert not (tmp_path / "clean").exists()
        assert not list(tmp_path.glob(".bliss-*"))


@pytest.mark.parametrize(
    "path, label, words",
    [
        ("../../evil.png", "boat", "its path leaves the folder of the collection"),
        ("/etc/hostname", "boat", "its path leaves the folder of the collection"),
        ("boat/1.png", "../evil", "holds a slash"),
        ("boat/1.png", "..", "dot"),
    ],
)
def test_a_run_that_was_tampered_with_writes_nothing_outside(
    bliss, made, tmp_path, path, label, words
):
    run = shutil.copytree(made[0], tmp_path / "deep" / "run")
    table = pq.read_table(run / "scores.parquet")
    columns = table.to_pydict()
    columns["path"][3], columns["label"][3] = path, label
    pq.write_table(table.from_pydict(columns, schema=table.schema), run / "scores.parquet")
    facts = read_json(run / "run.json")
    facts["checksums"]["scores.parquet"] = sha256_of(run / "scores.parquet")
    write_json(run / "run.json", facts)
    (tmp_path / "none.csv").write_text(",".join(COLUMNS) + "\n")
    target = tmp_path / "deep" / "clean"
    outcome = bliss("apply", tmp_path / "none.csv", "--run", run, "--copy", target)
    assert outcome.code == 1
    assert words in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "none.csv"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["run"]
