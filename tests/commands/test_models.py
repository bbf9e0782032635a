"""What the command says of models that are unknown, are code, or do not fit together."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blissaudit.indexer.encode.encoder import demo_model
from safetensors.numpy import load_file, save_file

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
DEMO = Path(demo_model().removeprefix("local-dir:"))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of the demo's shape with other random weights."""
    folder = tmp_path_factory.mktemp("model") / "other"
    folder.mkdir()
    shutil.copy(DEMO / CONFIG, folder)
    rng = np.random.default_rng(1)
    tensors = load_file(DEMO / WEIGHTS)
    for name, values in tensors.items():
        if values.dtype.kind == "f" and values.ndim:
            tensors[name] = (values * rng.uniform(0.5, 1.5, values.shape)).astype(values.dtype)
    save_file(tensors, folder / WEIGHTS)
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def scripted_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo model with its weights in a TorchScript archive."""
    import open_clip
    import torch

    class Box(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def boxed(module: Any) -> Box:
        box, stored = Box(), set(module.state_dict())
        for name, child in module.named_children():
            box.add_module(name, boxed(child))
        for name, values in module.named_parameters(recurse=False):
            box.register_parameter(name, values)
        for name, values in module.named_buffers(recurse=False):
            if name in stored:
                box.register_buffer(name, values)
        return box

    folder = tmp_path_factory.mktemp("model") / "scripted"
    folder.mkdir()
    shutil.copy(DEMO / CONFIG, folder)
    model = boxed(open_clip.create_model(demo_model()).eval())
    traced = torch.jit.trace(model, torch.zeros(1), check_trace=False)
    traced.save(str(folder / "open_clip_pytorch_model.bin"))
    return f"local-dir:{folder}"


def test_unknown_models_and_weights(bliss, captions, tmp_path):
    command = ("index", "build", captions, "-o", tmp_path / "out")
    unknown = bliss(*command, "--model", "RN51")
    assert (unknown.code, unknown.out) == (2, "")
    assert unknown.err.startswith(
        "\nbliss: model 'RN51' is unknown. Needed: an open_clip model name, hf-hub:owner/name, "
        "local-dir:FOLDER, or demo. Did you mean RN50 or "
    )
    tags = "one of openai, yfcc15m, cc12m, or a weights file"
    assert bliss(*command, "--model", "RN50") == (
        2,
        "",
        f"\nbliss: model 'RN50' was given without weights. Needed: --pretrained with {tags}. "
        "Add --pretrained.\n",
    )
    assert bliss(*command, "--model", "RN50", "--pretrained", "open") == (
        2,
        "",
        f"\nbliss: weights 'open' are unknown for model 'RN50'. Needed: {tags}. "
        "Correct --pretrained.\n",
    )
    lost = bliss(*command, "--model", f"local-dir:{tmp_path}/lost")
    assert (lost.code, lost.out) == (1, "")
    assert f"model local-dir:{tmp_path}/lost could not be loaded (" in lost.err
    assert "--model demo works offline, for trying the program out only.\n" in lost.err
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_reached_are_missed_at_once(bliss, captions, tmp_path, monkeypatch):
    import open_clip
    from huggingface_hub import constants

    def no_address(*given):
        raise socket.gaierror("Name or service not known")

    def not_cached(config):
        assert constants.HF_HUB_OFFLINE and config["hf_hub"]
        raise FileNotFoundError("not in the cache")

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr(open_clip, "download_pretrained", not_cached)
    lost = bliss("index", "build", captions, "-o", tmp_path / "out")
    assert (lost.code, lost.out) == (1, "")
    assert (
        "the weights openai of model ViT-B-16 are not in the cache, and huggingface.co cannot be "
        "reached. Needed: a network, the weights in the cache, or a model on this machine."
    ) in lost.err
    assert "HF_HUB_OFFLINE=1" in lost.err and "--model local-dir:FOLDER" in lost.err
    assert constants.HF_HUB_OFFLINE is False


def test_torchscript_weights_are_refused_unless_allowed(bliss, captions, scripted_model, tmp_path):
    command = ("index", "build", captions, "--model", scripted_model, "-o", tmp_path / "out")
    assert bliss(*command) == (
        1,
        "",
        f"\nbliss: the weights of {scripted_model} are a TorchScript archive, which is code. "
        "Needed: weights only: safetensors, or a state dict. Convert them to safetensors, or pass "
        "--allow-torchscript if you trust their source.\n",
    )
    assert bliss(*command, "--allow-torchscript").code == 0


def test_an_index_and_a_reference_of_another_model(bliss, collection, index, other_model, tmp_path):
    command = ("audit", collection, "-o", tmp_path / "out", "--model", other_model)
    mixed = bliss(*command, "--index", index)
    assert (mixed.code, mixed.out) == (1, "")
    assert mixed.err.startswith(f"\nbliss: {index} was made with demo, 128 dimensions, weights ")
    assert f" and the model given with {other_model}, 128 dimensions, weights " in mixed.err
    assert mixed.err.endswith(
        ". Needed: both from the same model and weights. Give the model that "
        f"{index} was made with, or make {index} again with this one.\n"
    )
    reference = tmp_path / "reference"
    assert bliss("reference", "fit", collection, "--model", other_model, "-o", reference).code == 0
    score = bliss("score", collection, "--index", index, "--reference", reference)
    assert (score.code, score.out) == (1, "")
    assert f"the reference was made with {other_model}, 128 dimensions, weights " in score.err
    assert not (tmp_path / "out").exists()
