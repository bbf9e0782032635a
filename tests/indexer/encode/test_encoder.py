"""The encoder gives open_clip's own vectors, cuts captions only where that is exact."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import open_clip
import pytest
import torch
from blissaudit.demo.scenes import render_scene, sample_scene
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.encode.encoder import (
    ModelChoice,
    check_same_model,
    demo_model,
    encode_prompts,
)
from blissaudit.indexer.encode.open_clip import (
    encoder_of,
    load_encoder,
    truncation_is_exact,
    weights_sha256,
)
from blissaudit.indexer.encode.tokens import caption_lengths, encode_by_length
from blissaudit.indexer.images.decoding import DecodingLimits, decode_image
from safetensors.torch import save_file

CAPTIONS = [
    "a red apple",
    "a small picture with two chairs in a meadow",
    "This is a photo of a key",
    "",
    "three blue boats at sea under a dark sky with a very long tail of words " * 3,
]

VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CONFIG = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "short_captions.json"


@pytest.fixture(scope="module")
def demo():
    return load_encoder(ModelChoice("demo"))


def small_model(text_cfg, custom=False, seed=0):
    """A tiny open_clip model with random weights and a text tower of the given kind."""
    torch.manual_seed(seed)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = kind(embed_dim=16, vision_cfg=VISION, text_cfg={**TEXT, **text_cfg})
    open_clip.model.set_model_preprocess_cfg(model, {**OPENAI, "size": 32})
    return model.eval(), open_clip.SimpleTokenizer(context_length=24)


OPENAI = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def test_text_vectors_are_open_clips_own(demo):
    model = open_clip.create_model(demo_model()).eval()
    tokens = open_clip.get_tokenizer(demo_model())(CAPTIONS)
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(demo.encode_texts(CAPTIONS), expected, atol=2e-6)


def test_image_vectors_are_open_clips_own(demo, tmp_path):
    model, _, transform = open_clip.create_model_and_transforms(demo_model())
    pictures = [render_scene(sample_scene(np.random.default_rng(i)), 90 + i) for i in range(5)]
    with torch.inference_mode():
        batch = torch.stack([transform(picture) for picture in pictures])
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    pixels = []
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
        path = str(tmp_path / f"{i}.png")
        pixels.append(decode_image(path, demo.preprocessing, DecodingLimits())[0])
    np.testing.assert_allclose(demo.encode_images(np.stack(pixels)), expected, atol=2e-6)


@pytest.mark.parametrize("custom", [False, True], ids=["CLIP", "CustomTextCLIP"])
def test_causal_towers_are_cut_and_stay_exact(custom, own_cache):
    model, tokenizer = small_model({}, custom)
    encoder = encoder_of(model, tokenizer, {"model": "small"}, batch_size=2)
    assert encoder.facts["short_captions_exact"] is True
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(CAPTIONS), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), expected, atol=1e-6)
    assert json.loads(own_cache.read_text()) == {weights_sha256(model): True}


def test_towers_that_pool_over_padding_keep_the_full_length(own_cache):
    model, tokenizer = small_model({"pool_type": "last", "no_causal_mask": True}, custom=True)
    encoder = encoder_of(model, tokenizer, {"model": "siglip-like"}, batch_size=2)
    assert encoder.facts["short_captions_exact"] is False
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(CAPTIONS), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), expected, atol=1e-6)
    tokens = tokenizer(CAPTIONS).numpy()
    assert truncation_is_exact(model, tokens, pad=0) is False
    assert json.loads(own_cache.read_text()) == {weights_sha256(model): False}


def test_the_finding_is_remembered_by_weights(own_cache):
    model, tokenizer = small_model({})
    own_cache.parent.mkdir()
    own_cache.write_text(json.dumps({weights_sha256(model): False, "other": True}))
    encoder = encoder_of(model, tokenizer, {}, batch_size=2)
    assert encoder.facts["short_captions_exact"] is False
    own_cache.write_text("not json")
    assert encoder_of(model, tokenizer, {}, 2).facts["short_captions_exact"] is True


def test_short_batches_are_short_and_rows_come_back_in_order():
    tokens = np.array([[9, 1, 8, 0, 0, 0], [9, 8, 0, 0, 0, 0], [9, 1, 2, 3, 4, 8]])
    np.testing.assert_array_equal(caption_lengths(tokens, pad=0), [3, 2, 6])
    shapes = []

    def encode(batch):
        shapes.append(batch.shape)
        return batch.sum(axis=1, keepdims=True).astype(np.float32)

    sums = encode_by_length(tokens, 0, encode, batch_size=1)
    assert shapes == [(2, 3), (1, 6)]
    np.testing.assert_array_equal(sums[:, 0], [18, 17, 27])
    shapes.clear()
    encode_by_length(tokens, None, encode, batch_size=2)
    assert shapes == [(2, 6), (1, 6)]


def test_batch_size_and_company_do_not_change_a_vector(demo):
    whole = demo.encode_texts(CAPTIONS)
    alone = np.concatenate([demo.encode_texts([caption]) for caption in CAPTIONS])
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    one = load_encoder(ModelChoice("demo", batch_size=1))
    np.testing.assert_allclose(one.encode_texts(CAPTIONS), whole, atol=1e-6)
    assert demo.encode_texts([]).shape == (0, 128)


def test_precision_changes_the_vectors_a_little(demo):
    half = load_encoder(ModelChoice("demo", device="cpu", precision="bf16"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for one, other in (
        (half.encode_texts(CAPTIONS), demo.encode_texts(CAPTIONS)),
        (half.encode_images(pixels), demo.encode_images(pixels)),
        (half.map_cells(pixels, half.encode_images(pixels)).embedding, demo.encode_images(pixels)),
    ):
        assert one.shape == other.shape and 1e-6 < np.abs(one - other).max() < 0.05
    assert half.facts["weights_sha256"] == demo.facts["weights_sha256"]
    assert half.facts["precision"] == "pure_bf16"
    assert "device cpu, precision pure_bf16" in half.chosen
    message = "X was embedded in fp32, Y in pure_bf16: similarities differ a little"
    with pytest.warns(UserWarning, match=message):
        check_same_model(demo.facts, "X", half.facts, "Y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same_model(half.facts, "X", half.facts, "Y")
        check_same_model(half.facts, "X", {"dimension": 128}, "Y")


def test_weights_are_cast_in_a_copy(own_cache):
    model, tokenizer = small_model({}, custom=True)
    cast = encoder_of(model, tokenizer, {"precision": "pure_bf16"}, batch_size=2)
    same = encoder_of(model, tokenizer, {}, batch_size=2)
    assert {each.dtype for each in model.state_dict().values()} == {torch.float32}
    texts = cast.encode_texts(CAPTIONS), same.encode_texts(CAPTIONS)
    assert 0 < np.abs(texts[0] - texts[1]).max() < 0.05


def test_several_prompts_are_averaged_and_renormalised(demo):
    one, two = "a photo of a {}", "a drawing of a {}"
    first = encode_prompts(demo, ["key"], [one]).astype(np.float64)
    second = encode_prompts(demo, ["key"], [two]).astype(np.float64)
    expected = (first + second) / np.linalg.norm(first + second)
    np.testing.assert_allclose(encode_prompts(demo, ["key"], [one, two]), expected, atol=1e-6)


def test_weights_are_hashed_by_content(tmp_path):
    model, _ = small_model({})
    again, _ = small_model({})
    assert weights_sha256(model) == weights_sha256(again)
    with torch.no_grad():
        again.logit_scale += 1e-6
    assert weights_sha256(model) != weights_sha256(again)


def test_a_local_folder_loads_safetensors_and_checked_state_dicts(tmp_path):
    model, _ = small_model({})
    hashes = []
    for kind in ("safe", "state"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        if kind == "safe":
            save_file(state, folder / "open_clip_model.safetensors")
        else:
            torch.save(state, folder / "open_clip_pytorch_model.bin")
        hashes.append(load_encoder(ModelChoice(f"local-dir:{folder}")).facts["weights_sha256"])
    assert hashes == [weights_sha256(model)] * 2
    (tmp_path / "safe" / "open_clip_model.safetensors").unlink()
    with pytest.raises(BlissError, match=r"could not be loaded .*\. Needed: a folder with open_cl"):
        load_encoder(ModelChoice(f"local-dir:{tmp_path / 'safe'}"))


def test_torchscript_is_refused_as_code_and_loads_when_allowed(tmp_path):
    model, tokenizer = small_model({})
    model.attn_mask = None  # a trace would list it among the weights
    inputs = torch.zeros(1, 3, 32, 32), tokenizer(["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, inputs, strict=False, check_trace=False)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    traced.save(str(tmp_path / "open_clip_pytorch_model.bin"))
    name = f"local-dir:{tmp_path}"
    with pytest.raises(BlissError, match=r"a TorchScript archive, which is code\. Needed: weights"):
        load_encoder(ModelChoice(name))
    loaded = load_encoder(ModelChoice(name, allow_torchscript=True))
    expected = encoder_of(*small_model({}), {}, 2).encode_texts(CAPTIONS)
    np.testing.assert_allclose(loaded.encode_texts(CAPTIONS), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"model": "ViT-B-33"}, r"'ViT-B-33' is unknown.*Did you mean ViT-B-32"),
        ({"model": "ViT-B-32"}, r"without weights\. Needed: --pretrained with one of openai, "),
        ({"model": "ViT-B-32", "pretrained": "no"}, r"weights 'no' are unknown for model 'ViT-B"),
        ({"model": "demo", "pretrained": "openai"}, r"such a model brings its own weights"),
        ({"model": "demo", "device": "cuda:7"}, r"device 'cuda:7' cannot be used .*Leave --device"),
        ({"model": "demo", "device": "gpu"}, r"device 'gpu' cannot be used"),
        ({"precision": "fp8"}, r"precision 'fp8' was given\. Needed: one of fp32, bf16, fp16"),
        ({"batch_size": 0}, r"batch size 0 was given\. Needed: 1 or more"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(choice, message):
    with pytest.raises(UsageError, match=message):
        load_encoder(ModelChoice(**choice))


def test_models_that_differ_are_refused_and_both_named():
    one = {"model": "A", "pretrained": "t", "weights_sha256": "a" * 64, "dimension": 4}
    two = {"model": "B", "weights_sha256": "b" * 64, "dimension": 4}
    outside = {"model": None, "weights_sha256": None, "dimension": 4}
    check_same_model(one, "X", {**one}, "Y")
    check_same_model(one, "X", outside, "Y")
    with pytest.raises(
        BlissError, match=r"X was made with A \(t\), 4 dimensions, weights aaaa.* Y"
    ):
        check_same_model(one, "X", two, "Y")
    with pytest.raises(BlissError, match=r"an unnamed model, 5 dimensions"):
        check_same_model(one, "X", {**outside, "dimension": 5}, "Y")


@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_of_torch_leave_their_core_to_others(given, used):
    code = "import os, blissaudit.indexer.encode.open_clip; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == [used]
