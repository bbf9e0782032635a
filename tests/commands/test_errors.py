"""What the command says, whole, for every request it cannot meet: no traceback, no output."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from blissaudit.corpora.images.opening import ACCEPTED_COLLECTIONS
from blissaudit.demo.scenes import render_scene, sample_scene

MODEL_LINE = "model demo, device cpu (chosen), precision fp32 (chosen), batch 64 (chosen)\n"


def pictures(root: Path, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            render_scene(sample_scene(rng), 64).save(root / name / f"{number}.png")
    return root


def test_a_command_that_does_not_exist(bliss):
    outcome = bliss("frobnicate")
    assert outcome == (2, "", "\nbliss: No such command 'frobnicate'. Try `bliss --help`.\n")


def test_no_command_at_all_shows_the_help_as_it_is(bliss):
    outcome = bliss()
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == bliss("--help").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["audit"],
            "neither of IMAGES and --embeddings were given. Needed: one of them: the collection "
            "to audit. Give a folder of images, or --embeddings DIR.",
        ),
        (
            ["audit", "a", "--index", "b", "--corpus", "c"],
            "both --index and --corpus were given. Needed: one of them. Leave one out.",
        ),
        (
            ["index", "build", "-o", "x"],
            "neither of CORPUS and --embeddings were given. Needed: one of them: the captions to "
            "index. Give a corpus, or --embeddings DIR.",
        ),
        (
            ["reference", "fit", "a", "--embeddings", "b", "-o", "x"],
            "both of IMAGES and --embeddings were given. Needed: one of them: the clean images. "
            "Give a folder of images, or --embeddings DIR.",
        ),
        (
            ["audit", "a", "--class-prompt", "cup"],
            "--class-prompt 'cup' was given. Needed: NAME=PROMPT. "
            'Write --class-prompt cup="a photo of a cup".',
        ),
        (
            ["audit", "a", "--prompt", "a photo"],
            "the prompt 'a photo' does not say where the text goes. Needed: one placeholder, {} "
            "or {label}, used once or more, and no other braces. "
            "Write it like '{}' or 'This is a photo of a {label}'.",
        ),
        *(
            (
                words,
                f"{name} was given as an empty text. Needed: a value. Leave it out, or set the "
                "shell variable that it is read from.",
            )
            for words, name in (
                (["audit", "a", "-o", ""], "--output"),
                (["audit", "a", "--index", "b", "--index", ""], "--index"),
                (["score", "a", "", "--reference", "b", "--index", "c"], "IMAGES"),
            )
        ),
        (["audit", "a", "--k", "0"], "k = 0 was given. Needed: 1 or more. Correct --k."),
        (
            ["audit", "a", "--lambda", "nan"],
            "a weight of nan was given. Needed: a finite number, 0 or more. Try 0.5.",
        ),
        *(
            (
                [*command, "--seed", "-1"],
                "Invalid value for '--seed': -1 is not in the range 0<=x<=4294967295. Try `bliss "
                f"{' '.join(command[:words])} --help`.",
            )
            for words, command in (
                (1, ["demo"]),
                (2, ["index", "tune", "a", "--images", "b"]),
                (2, ["train", "oecl", "a", "--self"]),
                (2, ["train", "clipn", "--captions", "demo", "-o", "x"]),
            )
        ),
        (
            ["index", "build", "a", "-o", "x", "--dtype", "int8"],
            "dtype 'int8' was given. Needed: one of float16, float32. Correct --dtype.",
        ),
        (
            ["audit", "a", "--fail-on", "unreadable=-1"],
            "--fail-on unreadable=-1 was given. Needed: flagged=N, unreadable=N or small-classes. "
            "Write --fail-on flagged=0.",
        ),
        (
            ["score", "a", "--reference", "b", "--index", "c", "--fail-on", "unreadable=1,5"],
            "--fail-on 5 was given. Needed: flagged=N or unreadable=N. Write --fail-on flagged=5.",
        ),
        (
            ["reference", "fit", "a", "-o", "b", "--fail-on", "flagged=1"],
            "--fail-on flagged=1 was given. Needed: unreadable=N or small-classes. Write --fail-on "
            "unreadable=0.",
        ),
        (
            ["drift", "a", "b", "--fail-on", "small-classes"],
            "--fail-on small-classes was given. Needed: unreadable=N. Write --fail-on "
            "unreadable=0.",
        ),
        (
            ["audit", "a", "--p-values", "per-class,all"],
            "--p-values per-class,all was given. Needed: held-out or leave-one-out, per-class, or "
            "two of them separated by a comma. Write --p-values leave-one-out,per-class.",
        ),
        (
            ["audit", "a", "--p-values", "held-out", "--p-values", "leave-one-out"],
            "--p-values held-out,leave-one-out was given. Needed: held-out or leave-one-out, "
            "per-class, or two of them separated by a comma. Write --p-values "
            "leave-one-out,per-class.",
        ),
    ],
)
def test_requests_that_contradict_themselves(bliss, arguments, message):
    assert bliss(*arguments) == (2, "", f"\nbliss: {message}\n")


def test_a_missing_folder(bliss, index, tmp_path):
    outcome = bliss("audit", tmp_path / "nowhere", "--index", index, "-o", tmp_path / "out")
    assert outcome == (
        2,
        "",
        f"\nbliss: {tmp_path}/nowhere does not exist. Needed: {ACCEPTED_COLLECTIONS}. "
        "Check the spelling and the path.\n",
    )
    assert not (tmp_path / "out").exists()


def test_a_missing_reference_is_noticed_before_images_are_embedded(
    bliss, collection, index, tmp_path
):
    command = ("audit", collection, "--index", index, "-o", tmp_path / "out")
    outcome = bliss(*command, "--reference", tmp_path / "nowhere")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{tmp_path}/nowhere does not exist. Needed: a folder of images or" in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(bliss, index, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = bliss("audit", tmp_path / "empty", "--index", index, "-o", tmp_path / "out")
    assert outcome == (
        1,
        "",
        f"\nbliss: {tmp_path}/empty holds no images. Needed: JPEG, PNG, "
        "WebP, GIF, BMP, TIFF, AVIF or HEIF files. Choose the folder that holds the images.\n",
    )


def test_one_image_in_a_class_of_a_reference(bliss, tmp_path):
    images = pictures(tmp_path / "images", {"cup": 3, "spoon": 1})
    outcome = bliss("reference", "fit", images, "--model", "demo", "--fail-on", "small-classes",
                    "-o", tmp_path / "reference")  # fmt: skip
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(MODEL_LINE)
    assert "images embedded" not in outcome.err
    assert outcome.err.endswith(
        "\nbliss: class 'spoon' has 1 reference image. Needed: at least 2 in every class. "
        "Add reference images of that class or leave the class out, or leave --fail-on "
        "small-classes out to set it aside.\n"
    )


def test_two_images_in_a_class_that_are_left_out_of_it_in_turn(bliss, index, tmp_path):
    images = pictures(tmp_path / "images", {"cup": 3, "spoon": 2})
    own = bliss(
        "audit", images, "--fail-on", "small-classes", "--index", index, "-o", tmp_path / "out"
    )
    assert (own.code, own.out) == (1, "")
    needs_three = (
        "\nbliss: class 'spoon' has 2 reference images. Needed: at least 3 in every class. "
        "Add reference images of that class or leave the class out"
    )
    assert own.err.endswith(
        f"{needs_three}, or leave --fail-on small-classes out to set it aside.\n"
    )
    fit = ("reference", "fit", images, "--model", "demo", "--hold-out", 0)
    assert bliss(*fit, "-o", tmp_path / "reference").code == 0
    copy = tmp_path / "copy.png"
    shutil.copy(images / "spoon" / "0.png", copy)
    score = ("score", copy, "--index", index, "--reference", tmp_path / "reference")
    assert bliss(*score).err.endswith(f"{needs_three}.\n")


def test_images_without_folders_reference_or_names(bliss, collection, index, tmp_path):
    folder = collection / "boat"
    outcome = bliss("audit", folder, "--index", index, "-o", tmp_path / "out")
    assert outcome == (
        2,
        "",
        f"\nbliss: the images in {folder} have no class folders, and no reference or labels were "
        "given. Needed: to know what is normal. Sort them into one folder a class, or add "
        "--reference DIR with clean images, or name what they show with "
        '--normal "golden retriever".\n',
    )


def test_normal_names_no_class(bliss, collection, index, tmp_path):
    command = ("audit", collection, "--index", index, "-o", tmp_path / "out", "--normal", "bat")
    assert bliss(*command) == (
        2,
        "",
        f"\nbliss: --normal names 'bat', which is no class of {collection}. "
        "Needed: one of apple, boat, house. Correct --normal.\n",
    )


def test_more_captions_than_there_are(bliss, collection, index, tmp_path):
    out = tmp_path / "out"
    assert bliss("audit", collection, "--index", index, "-o", out, "--k", 301) == (
        2,
        "",
        f"{MODEL_LINE}\nbliss: k = 301 was asked of an index of M = 300 texts. "
        "Needed: k between 1 and 300. Ask for a smaller k or build a larger index.\n",
    )
    assert not out.exists()


def test_a_corpus_without_usable_text_and_without_the_column(bliss, tmp_path):
    corpus, out = tmp_path / "corpus.csv", tmp_path / "out"
    corpus.write_text("caption,number\n,1\n  ,2\n", encoding="utf-8")
    command = ("index", "build", corpus, "--model", "demo", "-o", out)
    assert bliss(*command) == (
        1,
        "",
        f"{MODEL_LINE}\nbliss: corpus.csv holds no usable text (2 read: 2 empty, 0 too short, "
        "0 too long, 0 duplicate). Needed: at least one text of 1 to 2000 characters. "
        "Check the column and the limits on length.\n",
    )
    wrong = bliss(*command, "--column", "title")
    assert (wrong.code, wrong.out) == (2, "")
    assert (
        f"in {corpus} there is no column 'title'. "
        "Needed: one of its columns ('caption', 'number'). Name the column"
    ) in wrong.err
