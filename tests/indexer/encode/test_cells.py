"""Maps of a direction over an image: exact parts of small towers, crops for the others."""

import numpy as np
import pytest
import torch
from blissaudit.indexer.encode.cells import EXACT, TOLERANCE, cell_map
from blissaudit.indexer.encode.encoder import ModelChoice, demo_model
from blissaudit.indexer.encode.open_clip import load_encoder
from helpers import BENCHMARKS
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

SIZE, D = 64, 24


class Tower(nn.Module):
    """A model with nothing but an image tower."""

    def __init__(self, visual):
        super().__init__()
        self.visual = visual

    def encode_image(self, images):
        return self.visual(images)


def tower(kind, **changed):
    torch.manual_seed(3)
    if kind == "transformer":
        shape = dict(image_size=SIZE, patch_size=16, width=32, layers=3, heads=4, mlp_ratio=2.0)
        visual = VisionTransformer(**shape, output_dim=D, **changed)
    elif kind == "resnet":
        visual = ModifiedResNet([1, 1, 1, 1], D, heads=4, image_size=SIZE, width=8)
    else:
        visual = TimmModel("convnext_atto", D, image_size=SIZE, **changed)
    for name, parameter in visual.named_parameters():
        if "bias" in name or "ls_" in name:
            nn.init.normal_(parameter, std=0.3)
        if "ln_" in name and "weight" in name:
            nn.init.normal_(parameter, mean=1, std=0.3)
    return Tower(visual.eval())


def made(kind, **changed):
    model = tower(kind, **changed)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    directions = np.random.default_rng(5).standard_normal((2, D))
    with torch.inference_mode():
        embedding = nn.functional.normalize(model.encode_image(images), dim=1).numpy()
    return model, images, directions, embedding


@pytest.mark.parametrize(
    ("kind", "changed", "grid"),
    [
        ("transformer", {}, (4, 4)),
        ("transformer", {"ls_init_value": 0.1, "no_ln_pre": True}, (4, 4)),
        ("transformer", {"pool_type": "avg"}, (4, 4)),
        ("transformer", {"pool_type": "avg", "final_ln_after_pool": True}, (4, 4)),
        ("resnet", {}, (2, 2)),
        ("timm", {}, (2, 2)),
    ],
)
def test_cells_and_constant_are_the_product_and_the_parts_make_the_embedding(kind, changed, grid):
    model, images, directions, embedding = made(kind, **changed)
    found = cell_map(model, images, directions)
    assert (found.method, found.cells.shape) == ("exact", (2, *grid))
    product = (embedding * directions).sum(1)
    np.testing.assert_allclose(found.cells.sum((1, 2)) + found.constant, product, atol=1e-5)
    np.testing.assert_allclose(found.embedding, embedding, atol=1e-6)
    with torch.inference_mode():
        wanted = torch.from_numpy(directions).float()
        (_, rebuilt), own = EXACT[type(model.visual)](model.visual, images, wanted)
    assert (rebuilt - own).abs().max() <= TOLERANCE * own.norm(dim=1).min()


def test_a_cell_of_a_transformer_is_the_sum_over_layers_and_heads_of_its_value():
    model, images, directions, _ = made("transformer", ls_init_value=0.1)
    visual = model.visual
    with torch.inference_mode():
        state = visual._embeds(images)
        sums = np.zeros((2, 16, 32))
        for block in visual.transformer.resblocks:
            normed = block.ln_1(state)
            _, weights = block.attn(
                normed, normed, normed, need_weights=True, average_attn_weights=False
            )
            values = normed @ block.attn.in_proj_weight[64:].T
            for head in range(4):
                part = slice(8 * head, 8 * head + 8)
                moved = values[..., part] @ block.attn.out_proj.weight[:, part].T * block.ls_1.gamma
                sums += (weights[:, head, 0, :, None] * moved)[:, 1:].numpy()
            state = block(state)
        last = state[:, :1].numpy()
        embedding = visual(images).numpy()
    sigma = np.sqrt(last.var(-1, keepdims=True) + visual.ln_post.eps)
    scaled = (sums - sums.mean(-1, keepdims=True)) / sigma * visual.ln_post.weight.detach().numpy()
    added = scaled @ visual.proj.detach().numpy()
    expected = (added * directions[:, None]).sum(-1) / np.linalg.norm(embedding, axis=1)[:, None]
    found = cell_map(model, images, directions).cells.reshape(2, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_resnet_cell_is_what_changes_when_only_its_value_is_taken_away():
    model, images, directions, _ = made("resnet")
    pool, seen = model.visual.attnpool, {}
    pool.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], e=output))
    found = cell_map(model, images, directions).cells.reshape(2, 4)
    x = seen["x"].double().flatten(2).transpose(1, 2)
    double = pool.double()
    tokens = torch.cat([x.mean(1, keepdim=True), x], 1) + double.positional_embedding
    query, key = double.q_proj(tokens[:, :1]), double.k_proj(tokens)
    for j in range(4):
        kept = x.clone()
        kept[:, j] = 0
        changed = torch.cat([kept.mean(1, keepdim=True), kept], 1) + double.positional_embedding
        outputs = []
        for content in (tokens, changed):
            value = double.v_proj(content)
            heads = [each.unflatten(-1, (4, -1)).transpose(1, 2) for each in (query, key, value)]
            mixed = nn.functional.scaled_dot_product_attention(*heads)
            outputs.append(double.c_proj(mixed.transpose(1, 2).flatten(2))[:, 0])
        share = ((outputs[0] - outputs[1]).detach().numpy() * directions).sum(1)
        length = outputs[0].norm(dim=1).detach().numpy()
        np.testing.assert_allclose(found[:, j], share / length, atol=1e-5)


def test_a_cell_of_convnext_is_its_part_of_the_mean_through_the_norm_as_it_was():
    model, images, directions, _ = made("timm")
    head, seen = model.visual.trunk.head, {}
    head.global_pool.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0]))
    found = cell_map(model, images, directions).cells
    x, norm = seen["x"].double(), head.norm
    pooled = x.mean((2, 3))
    deviation = torch.sqrt(pooled.var(1, correction=0, keepdim=True) + norm.eps)
    length = model.visual(images).norm(dim=1)
    for row in range(2):
        for column in range(2):
            part = x[:, :, row, column] / 4
            state = (part - part.mean(1, keepdim=True)) / deviation * norm.weight
            for module in [each for each in model.visual.head if isinstance(each, nn.Linear)]:
                state = state @ module.weight.double().T
            expected = (state.detach().numpy() * directions).sum(1) / length.detach().numpy()
            np.testing.assert_allclose(found[:, row, column], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("transformer", {"attentional_pool": True, "attn_pooler_heads": 4}),
        ("transformer", {"block_type": "custom"}),
        ("timm", {"proj": "mlp"}),
    ],
)
def test_other_towers_are_mapped_by_crops_and_say_so(kind, changed):
    model, images, directions, embedding = made(kind, **changed)
    found = cell_map(model, images, directions)
    assert (found.method, found.cells.shape) == ("crops", (2, 4, 4))
    product = (embedding * directions).sum(1)
    np.testing.assert_allclose(found.cells.sum((1, 2)) + found.constant, product, atol=1e-5)


def test_a_tower_whose_parts_do_not_make_its_embedding_is_mapped_by_crops():
    model, images, directions, _ = made("transformer")
    model.visual.transformer.resblocks[1].register_forward_hook(lambda *seen: seen[2] * 1.05)
    assert cell_map(model, images, directions).method == "crops"


def test_the_map_finds_the_quarter_of_the_demo_picture_that_shows_a_kind(
    load_benchmark, monkeypatch
):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = load_benchmark("explained_cells")
    assert benchmark.right_quarters("exact", 20) >= 0.8
    assert benchmark.right_quarters("crops", 10) >= 0.9


def test_an_encoder_maps_the_pixels_that_it_embeds():
    encoder = load_encoder(ModelChoice(demo_model(), device="cpu"))
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    directions = np.random.default_rng(1).standard_normal((2, 128))
    found = encoder.map_cells(pixels, directions)
    np.testing.assert_allclose(found.embedding, encoder.encode_images(pixels), atol=1e-6)
    assert found.cells.shape == (2, 2, 2)
