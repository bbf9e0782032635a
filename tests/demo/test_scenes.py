"""The demo's drawn world: scenes, captions, and the model trained on them."""

import itertools
import json
import re
from pathlib import Path

import blissaudit.demo
import numpy as np
import pytest
from blissaudit.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    COUNT_WORDS,
    COUNTS,
    KINDS,
    SETTINGS,
    Scene,
    all_captions,
    caption,
    describe,
    label_forms,
    plural,
    render_scene,
    sample_captions,
    sample_scene,
    with_article,
)

MODEL = Path(blissaudit.demo.__file__).parent / "model"
HELD_OUT_SEED = 977_001

GOLDEN = [
    "somebody drew three yellow houses at night",
    "This is a photo of one ladder",
    "an image showing a yellow moon on a checkered background",
    "somebody drew a cactus on the sand",
    "a drawing of a purple clock",
    "This is a photo of three balloons",
    "a drawing of two orange hearts",
    "a small picture with a key",
    "somebody drew three rockets",
    "somebody drew a rocket at night",
    "a drawing of a black ladder",
    "look at a boat in front of stripes",
]


def small(scene: Scene) -> np.ndarray:
    return np.asarray(render_scene(scene, 64), dtype=np.int64)


def test_kinds_are_enough_single_words():
    assert 20 <= len(KINDS) <= 24
    assert len(set(KINDS)) == len(KINDS)
    assert all(re.fullmatch("[a-z]+", kind) for kind in KINDS)


def test_sampling_is_deterministic_and_covers_every_value():
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    scenes = [sample_scene(first) for _ in range(600)]
    assert scenes == [sample_scene(second) for _ in range(600)]
    assert {scene.kind for scene in scenes} == set(KINDS)
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert {scene.count for scene in scenes} == set(COUNTS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert sample_scene(first, "key").kind == "key"


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="zebra"):
        sample_scene(np.random.default_rng(0), "zebra")
    with pytest.raises(ValueError, match="cannot draw 4 things in 64 pixels"):
        render_scene(Scene("key", "red", 4, "plain", 0), 64)
    with pytest.raises(ValueError, match="cannot draw 1 things in 4 pixels"):
        render_scene(Scene("key", "red", 1, "plain", 0), 4)
    with pytest.raises(KeyError, match="jungle"):
        render_scene(Scene("key", "red", 1, "jungle", 0), 64)


def test_rendering_is_deterministic_and_follows_the_seed():
    scene = sample_scene(np.random.default_rng(9))
    assert np.array_equal(small(scene), small(scene))
    moved = Scene(scene.kind, scene.colour, scene.count, scene.background, scene.seed + 1)
    assert not np.array_equal(small(scene), small(moved))
    assert render_scene(scene, 96).size == (96, 96)
    assert render_scene(scene, 96).mode == "RGB"


def test_every_kind_differs_from_every_other():
    pictures = {kind: small(Scene(kind, "red", 1, "plain", 11)) for kind in KINDS}
    for one, other in itertools.combinations(KINDS, 2):
        changed = np.abs(pictures[one] - pictures[other]).max(axis=2) > 60
        assert changed.mean() > 0.05, (one, other)


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_the_named_colour_is_what_is_painted(colour: str):
    channel = ("red", "green", "blue").index(colour)
    for kind in ("apple", "heart", "star", "balloon"):
        centre = small(Scene(kind, colour, 1, "plain", 3))[24:40, 24:40].mean(axis=(0, 1))
        assert centre.argmax() == channel, kind


def test_all_captions_are_many_and_distinct():
    captions = list(all_captions())
    assert len(captions) >= 20_000
    assert len(set(captions)) == len(captions)
    for kind in KINDS:
        assert f"This is a photo of a {kind}" in captions


def test_sampled_captions_are_distinct_and_reproducible():
    captions = sample_captions(np.random.default_rng(5), 20_000)
    assert len(set(captions)) == 20_000
    assert captions[:500] == sample_captions(np.random.default_rng(5), 500)
    assert set(captions) <= set(all_captions())
    with pytest.raises(ValueError, match=r"0 to \d+ different captions, not -1"):
        sample_captions(np.random.default_rng(5), -1)


def test_captions_of_a_seed_stay_as_they_are():
    assert sample_captions(np.random.default_rng(12), len(GOLDEN)) == GOLDEN


def test_captions_are_grammatical():
    bare = {form for kind in KINDS for form in label_forms(kind)}
    for text in sample_captions(np.random.default_rng(6), 5000):
        if text in bare:
            continue
        assert not re.search(r"\ba [aeiou]", text), text
        assert not re.search(r"\ban [^aeiou]", text), text
        assert not re.search(r"  |\bNone\b|[{}]", text), text
        if re.search(r"\b(two|three)\b", text):
            assert any(re.search(rf"\b{plural(kind)}\b", text) for kind in KINDS), text
        else:
            assert any(re.search(rf"\b{kind}\b", text) for kind in KINDS), text


def test_plurals_and_articles():
    assert [plural(word) for word in ("key", "fish", "cactus")] == ["keys", "fish", "cacti"]
    assert plural("butterfly") == "butterflies"
    assert with_article("apple") == "an apple"
    assert with_article("red apple") == "a red apple"


def test_a_caption_says_only_what_its_scene_shows():
    rng = np.random.default_rng(7)
    for _ in range(2000):
        scene = sample_scene(rng)
        text = caption(scene, rng)
        words = set(text.split())
        forms = {form for kind in KINDS for form in (kind, plural(kind))}
        assert words & forms <= {scene.kind, plural(scene.kind)} and words & forms
        assert words & set(COLOURS) <= {scene.colour}
        assert words & {"one", "single", "two", "three"} <= {COUNT_WORDS[scene.count], "single"}
        assert "single" not in words or scene.count == 1
        told = {name for name, ends in SETTINGS.items() if any(text.endswith(end) for end in ends)}
        assert told <= {scene.background}


def test_describe_names_what_it_is_given():
    rng = np.random.default_rng(8)
    for _ in range(50):
        text = describe(rng, "key", "orange", 2, "desert")
        assert "two orange keys" in text
        assert text.endswith(SETTINGS["desert"])


def test_model_files_are_small_and_name_their_preprocessing():
    assert (MODEL / "open_clip_model.safetensors").stat().st_size <= 16_000_000
    config = json.loads((MODEL / "open_clip_config.json").read_text(encoding="utf-8"))
    assert config["preprocess_cfg"]["interpolation"] == "bicubic"
    assert config["model_cfg"]["vision_cfg"]["image_size"] == 64


def test_model_tells_the_kinds_of_held_out_scenes():
    import open_clip
    import torch

    name = f"local-dir:{MODEL.resolve()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    tokens = open_clip.get_tokenizer(name)([f"This is a photo of a {kind}" for kind in KINDS])
    rng = np.random.default_rng(HELD_OUT_SEED)
    scenes = [sample_scene(rng) for _ in range(300)]
    right = 0
    with torch.inference_mode():
        texts = model.encode_text(tokens, normalize=True)
        for start in range(0, len(scenes), 100):
            part = scenes[start : start + 100]
            batch = torch.stack([preprocess(render_scene(scene, 128)) for scene in part])
            nearest = (model.encode_image(batch, normalize=True) @ texts.T).argmax(dim=1)
            right += sum(KINDS[at] == scene.kind for at, scene in zip(nearest, part, strict=True))
    assert right >= 285
