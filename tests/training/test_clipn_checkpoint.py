"""The published checkpoint's layout, on a synthetic one: names, prefixes, other models, rubbish."""

import copy

import open_clip
import pytest
import torch
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.encode.encoder import ModelChoice
from blissaudit.indexer.encode.open_clip import load_model
from blissaudit.training.clipn import no_tower_of, read_checkpoint
from blissaudit.training.clipn_tower import NoTower
from open_clip.model import CLIP

BLOCK = {
    "ln_1.weight": (512,), "ln_1.bias": (512,), "ln_2.weight": (512,), "ln_2.bias": (512,),
    "attn.in_proj_weight": (1536, 512), "attn.in_proj_bias": (1536,),
    "attn.out_proj.weight": (512, 512), "attn.out_proj.bias": (512,),
    "mlp.c_fc.weight": (2048, 512), "mlp.c_fc.bias": (2048,),
    "mlp.c_proj.weight": (512, 2048), "mlp.c_proj.bias": (512,),
}  # fmt: skip
PUBLISHED = {
    "prompt_no": (16, 77, 512),
    "token_embedding_no.weight": (49408, 512),
    "positional_embedding_no": (77, 512),
    "ln_final_no.weight": (512,),
    "ln_final_no.bias": (512,),
    "text_projection_no": (512, 512),
    **{
        f"transformer_no.resblocks.{number}.{name}": shape
        for number in range(12)
        for name, shape in BLOCK.items()
    },
}
"""The "no" tower of a ViT-B checkpoint."""


@pytest.fixture(scope="module")
def model():
    return load_model(ModelChoice("demo")).model


@pytest.fixture(scope="module")
def state(model):
    """What the authors' code saves for the demo's architecture: both towers, under one root."""
    generator = torch.manual_seed(0)
    tower = NoTower(model).state_dict()
    moved = {k: v + torch.randn(v.shape, generator=generator) for k, v in tower.items()}
    return {**copy.deepcopy(model.state_dict()), **moved}


def saved(folder, content):
    torch.save(content, folder / "clipn.pt")
    return folder / "clipn.pt"


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32"])
def test_a_tower_over_the_published_models_has_the_published_shapes(name):
    with torch.device("meta"):
        tower = NoTower(CLIP(**{**open_clip.get_model_config(name), "quick_gelu": False}))
    assert {key: tuple(value.shape) for key, value in tower.state_dict().items()} == PUBLISHED


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_raw_or_wrapped_with_or_without_prefix(model, state, tmp_path, prefix, wrapped):
    content = {prefix + key: value for key, value in state.items()}
    if wrapped:
        content = {"epoch": 10, "name": "clipn", "state_dict": content, "optimizer": {"lr": 0.1}}
    found = no_tower_of(read_checkpoint(saved(tmp_path, content)), model, "it")
    for key, value in found.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not found.training


def test_half_precision_and_another_scale_are_the_same_model(model, state):
    half = {key: value.half() for key, value in state.items()}
    half["logit_scale"] = torch.tensor(4.6)
    found = no_tower_of(half, model, "it")
    assert all(value.dtype == torch.float32 for value in found.state_dict().values())
    assert torch.equal(found.prompt_no, half["prompt_no"].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("prompt_no"), "it has no prompt_no. Needed"),
        (lambda s: s.pop("transformer.resblocks.1.ln_1.bias"),
         "has no transformer.resblocks.1.ln_1.bias"),
        (lambda s: s.update(prompt_yes=torch.zeros(1)), "has an unknown prompt_yes"),
        (lambda s: s.update(positional_embedding_no=torch.zeros(77, 64)),
         r"positional_embedding_no of shape \(77, 64\) instead of \(32, 64\)"),
        (lambda s: s.update(text_projection=torch.zeros(64, 512)),
         r"text_projection of shape \(64, 512\) instead of \(64, 128\)"),
        (lambda s: s.update(text_projection=s["text_projection"] * 1.1),
         "text_projection with other weights"),
        (lambda s: s["ln_final_no.weight"].fill_(torch.nan),
         "ln_final_no.weight with numbers that are not finite"),
        (lambda s: s["ln_final.weight"].fill_(torch.nan), "ln_final.weight with other weights"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(model, state, change, message):
    broken = copy.deepcopy(state)
    change(broken)
    with pytest.raises(BlissError, match=message):
        no_tower_of(broken, model, "it")


def test_a_plain_model_is_told_what_it_lacks(model):
    with pytest.raises(
        BlissError, match=r"has no ln_final_no\.bias, no ln_final_no.weight, .* more"
    ):
        no_tower_of(model.state_dict(), model, "it")


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_code_is_not_run(tmp_path, capsys):
    with pytest.raises(BlissError, match="could not be read as weights"):
        read_checkpoint(saved(tmp_path, {"prompt_no": Code()}))
    assert capsys.readouterr().out == ""


def test_rubbish_is_refused(state, tmp_path):
    path = saved(tmp_path, state)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(BlissError, match=r"clipn\.pt could not be read as weights"):
        read_checkpoint(path)
    with pytest.raises(BlissError, match="holds no state dict"):
        read_checkpoint(saved(tmp_path, [1, 2]))
    with pytest.raises(BlissError, match="holds epoch, which are no tensors"):
        read_checkpoint(saved(tmp_path, {"epoch": 3}))
    with pytest.raises(UsageError, match="there is no file"):
        read_checkpoint(tmp_path / "nothing.pt")
