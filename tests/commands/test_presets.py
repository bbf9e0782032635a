"""--preset paper: what it sets in each command, what it says, and that a flag beside it wins."""

import json

import numpy as np
import pytest
from blissaudit.artefacts import read_manifest
from blissaudit.commands.presets import PRESETS
from blissaudit.demo.scenes import render_scene, sample_scene
from blissaudit.indexer.images.embedded import read_image_embeddings
from PIL import Image

MEAN, STD = [0.4913, 0.4821, 0.4465], [0.2470, 0.2434, 0.2615]
SAID = "pixel mean and standard deviation 0.4913, 0.4821, 0.4465 / 0.247, 0.2434, 0.2615"


def test_the_preset_is_what_was_published():
    assert PRESETS["paper"] == {
        "model": "ViT-B-16",
        "pretrained": "openai",
        "statistics": (tuple(MEAN), tuple(STD)),
        "corpus": "paper-dictionary-raw",
        "keep_duplicates": True,
        "prompt": ("This is a photo of a {label}",),
        "score": "bliss",
        "k": 10,
        "weight": 0.5,
        "robust": False,
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory, bliss):
    """Class folders clean and test, and the paper's index with the demo model."""
    root, rng = tmp_path_factory.mktemp("preset"), np.random.default_rng(3)
    for part, each in (("clean", 4), ("test", 3)):
        for kind in ("cup", "key", "tree"):
            (root / part / kind).mkdir(parents=True)
            for number in range(each):
                picture = render_scene(sample_scene(rng, kind), 96)
                picture.save(root / part / kind / f"{number}.png")
    done = bliss("index", "build", "--preset", "paper", "--model", "demo", "-o", root / "index")
    assert done.code == 0, done.err
    (root / "said").write_text(done.err)
    return root


def test_an_index_of_the_papers_dictionary(folders):
    manifest = read_manifest(folders / "index", "caption-index", "")
    assert manifest["sources"][0]["name"] == "paper-dictionary-raw" and manifest["count"] == 1860
    assert manifest["prompts"] == ["This is a photo of a {label}"]
    assert (folders / "said").read_text().splitlines()[:2] == [
        "preset paper: corpus paper-dictionary-raw; equal captions kept; "
        "prompt 'This is a photo of a {label}'",
        "model demo was given and wins over preset paper",
    ]


def test_an_audit_with_the_preset(bliss, folders):
    asked = ("audit", folders / "clean", "--index", folders / "index", "--workers", "1")
    plain = bliss(*asked, "-o", folders / "plain")
    done = bliss(
        *asked, "-o", folders / "paper", "--preset", "paper", "--model", "demo", "--k", "4"
    )
    assert plain.code == done.code == 0
    assert done.err.splitlines()[:3] == [
        f"preset paper: {SAID}; prompt 'This is a photo of a {{label}}'; score bliss; λ 0.5; "
        "every image in the fit",
        "model demo was given and wins over preset paper",
        "k 4 was given and wins over preset paper",
    ]
    facts = json.loads((folders / "paper" / "run.json").read_text())
    assert facts["model"]["preprocessing"]["mean"] == MEAN
    assert facts["model"]["preprocessing"]["std"] == STD
    assert (facts["request"]["preset"], facts["settings"]["k"]) == ("paper", 4)
    vectors = [
        read_image_embeddings(folders / name / "images").vectors for name in ("plain", "paper")
    ]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    again = bliss(
        *asked, "-o", folders / "paper", "--preset", "paper", "--model", "demo", "--k", "4"
    )
    assert again.code == 0 and again.out == done.out


def test_pixels_are_standardised_with_the_presets_statistics(folders):
    """The vector of an image equals what open_clip gives for pixels standardised by hand."""
    import open_clip
    import torch
    from blissaudit.indexer.encode.encoder import ModelChoice, demo_model
    from blissaudit.indexer.encode.open_clip import load_encoder

    statistics = PRESETS["paper"]["statistics"]
    encoder = load_encoder(ModelChoice("demo", device="cpu", statistics=statistics))
    height, width = encoder.preprocessing.size
    path = folders / "clean" / "cup" / "0.png"
    picture = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(picture)
    model = open_clip.create_model(demo_model(), None).eval()
    by_hand = torch.tensor((pixels / 255 - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.encode_image(by_hand[None]), dim=-1)
    np.testing.assert_allclose(encoder.encode_images(pixels[None]), expected.numpy(), atol=1e-5)


def test_a_reference_with_the_preset_is_scored_against_as_it_was_seen(bliss, folders):
    """`bliss score` takes the pixel statistics from the reference; an audit without refuses."""
    fitted = bliss(
        *("reference", "fit", folders / "clean", "--preset", "paper", "--model", "demo"),
        *("-o", folders / "fitted", "--hold-out", "0"),
    )
    assert fitted.code == 0, fitted.err
    manifest = read_manifest(folders / "fitted", "reference", "")
    assert manifest["model"]["preprocessing"]["mean"] == MEAN
    image = folders / "clean" / "cup" / "0.png"
    scored = bliss(
        *("score", image, "--reference", folders / "fitted", "--index", folders / "index"),
        "--json",
    )
    assert scored.code == 0, scored.err
    against = ("--reference", folders / "fitted", "--index", folders / "index", "--workers", "1")
    audited = bliss("audit", folders / "clean", *against, "-o", folders / "against", "--json")
    assert audited.code == 0, audited.err
    facts = json.loads((folders / "against" / "run.json").read_text())
    assert facts["model"]["preprocessing"]["mean"] == MEAN
    # Embeddings that were made without the preset do not fit this reference.
    bliss("audit", folders / "clean", "--index", folders / "index", "-o", folders / "plainly")
    refused = bliss(
        "audit", "--embeddings", folders / "plainly" / "images", *against, "-o", folders / "no"
    )
    assert refused.code == 1
    assert "were preprocessed differently (mean, std differ)" in refused.err


def test_an_evaluation_with_the_preset(bliss, folders):
    asked = (
        *("eval", "--reference", folders / "clean", "--test", folders / "test"),
        *("--index", folders / "index", "--protocol", "leave-one-out", "--workers", "1"),
        *("--score", "bliss", "--score", "clip_ad"),
    )
    done = bliss(*asked, "--preset", "paper", "--model", "demo", "-o", folders / "e1")
    assert done.code == 0, done.err
    assert done.err.startswith(f"preset paper: {SAID}; prompt 'This is a photo of a {{label}}'; k ")
    facts = json.loads((folders / "e1" / "eval.json").read_text())
    assert facts["asked"]["preset"] == "paper" and facts["asked"]["model"] == "demo"
    assert facts["model"]["preprocessing"]["std"] == STD
    plain = bliss(*asked, "-o", folders / "e2")
    assert plain.code == 0
    other = json.loads((folders / "e2" / "eval.json").read_text())
    assert [row["auroc"] for row in other["table"]] != [row["auroc"] for row in facts["table"]]
    mixed = bliss(
        *("eval", "--reference", folders / "e1" / "sets" / "reference", "--model", "demo"),
        *("--test", folders / "e2" / "sets" / "test", "--index", folders / "index"),
        *("--protocol", "leave-one-out", "-o", folders / "e3", "--score", "bliss"),
    )
    assert mixed.code == 1
    assert "reference and test were preprocessed differently (mean, std differ)" in mixed.err


def test_without_an_index_the_audit_builds_the_papers(bliss, folders):
    done = bliss(
        *("audit", folders / "clean", "--preset", "paper", "--model", "demo", "--workers", "1"),
        *("-o", folders / "built"),
    )
    assert done.code == 0, done.err
    assert "corpus paper-dictionary-raw; equal captions kept" in done.err
    assert read_manifest(folders / "built" / "index", "caption-index", "")["count"] == 1860


def test_embeddings_need_no_model_and_the_preset_sets_none(bliss, folders):
    embedded = folders / "plainly" / "images"
    if not embedded.is_dir():
        bliss("audit", folders / "clean", "--index", folders / "index", "-o", folders / "plainly")
    words = folders / "words.txt"
    words.write_text("".join(f"This is a photo of a {w}\n" for w in ("cup", "key", "tree", "dog")))
    assert bliss("index", "build", words, "--model", "demo", "-o", folders / "small").code == 0
    done = bliss(
        *("audit", "--embeddings", embedded, "--index", folders / "small", "--preset", "paper"),
        *("--k", "2", "-o", folders / "embedded"),
    )
    assert done.code == 0, done.err
    assert done.err.splitlines()[:3] == [
        "preset paper: prompt 'This is a photo of a {label}'; score bliss; λ 0.5; "
        "every image in the fit",
        "k 2 was given and wins over preset paper",
        "the index holds words.txt, not the preset's paper-dictionary-raw",
    ]
