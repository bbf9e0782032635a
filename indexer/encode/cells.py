"""Where in an image a direction of the embedding space comes from: one value per grid cell.

For an image with embedding e before normalisation and a direction w, the cells r, c satisfy

    Σ cells[r, c] + constant = w·e/‖e‖

A linear path leads from the tokens of an image tower to its embedding once the attention weights
and the normalisation of the last layer keep the values that they have for the image. Each token's
share of that path is its cell. What belongs to no cell (biases, position embeddings, the class
token's own path) is the constant.

- VisionTransformer with a class token: token j adds, in every layer, its attention weight times its
  value, projected. The idea is that of Gandelsman, Efros and Steinhardt (ICLR 2024, arXiv
  2310.05916).
- VisionTransformer with average pooling: token j adds its own last state over the count.
- ModifiedResNet: the attention pool's values, where the mean token is shared by all cells.
- timm towers with average pooling, a norm and linear layers (ConvNeXt): each cell over the count.

Every decomposition is compared with the embedding that the model itself computes. Where they differ
by more than 1e-4, and for all other towers, crops of the image are embedded instead: a cell is the
mean of w·x over the crops that cover it, divided by the count of cells; the constant is the rest.
This module needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn
from torch.nn import functional

from .encoder import CellMap

TOLERANCE = 1e-4
"""Largest |Δ| of a unit embedding's entries for which a decomposition counts as exact."""

CROP_GRID = 4
"""Crops of half the size start at every quarter that leaves room for them: 3 x 3 of them."""

Shares = tuple[torch.Tensor, torch.Tensor]
"""[b, rows, columns] shares of the pre-norm product u·e, and [b, d], e as put together again."""


def cell_map(model: nn.Module, images: torch.Tensor, directions: np.ndarray) -> CellMap:
    """The cells of standardised images [b, 3, H, W] for directions [b, d], in float32.

    `images` are on the model's device. Nothing of the model is changed.
    """
    with torch.inference_mode():
        wanted = torch.from_numpy(np.ascontiguousarray(directions, np.float32)).to(images.device)
        visual: Any = getattr(model, "visual", None)
        shares_of = EXACT.get(type(visual))
        found = None if shares_of is None else _exact(visual, images, wanted, shares_of)
        return found or map_by_crops(model, images, wanted)


def _exact(
    visual: nn.Module,
    images: torch.Tensor,
    wanted: torch.Tensor,
    shares_of: Callable[[Any, torch.Tensor, torch.Tensor], tuple[Shares, torch.Tensor] | None],
) -> CellMap | None:
    """The exact cells; None where the decomposition does not apply or does not hold."""
    found = shares_of(visual, images, wanted)
    if found is None:
        return None
    (shares, rebuilt), embedding = found
    length = embedding.norm(dim=1)
    if not bool(((rebuilt - embedding).abs().amax(1) <= TOLERANCE * length).all()):
        return None
    cells = shares / length[:, None, None]
    total = (wanted * embedding).sum(1) / length
    constant = total.double() - cells.double().sum((1, 2))
    return CellMap(_numpy(cells), _numpy(constant), "exact", _numpy(embedding / length[:, None]))


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _through_norm(norm: Any, state: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """u [b, w] with u·v = after·lin(v), lin the norm of v with `state`'s own σ and no bias.

    `state` is [b, w] and `after` [b, w] the direction behind the norm.
    """
    scaled = after * norm.weight if norm.weight is not None else after
    scaled = scaled / torch.sqrt(state.var(-1, correction=0, keepdim=True) + norm.eps)
    return scaled - scaled.mean(-1, keepdim=True)


@contextmanager
def _recorded(modules: dict[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Run a forward pass inside; what it gave each module and got back, as (inputs, output)."""
    seen: dict[str, Any] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def keep(_: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                seen[name] = inputs, output

            hooks.callback(module.register_forward_hook(keep).remove)
        yield seen


def _transformer(
    visual: VisionTransformer, images: torch.Tensor, wanted: torch.Tensor
) -> tuple[Shares, torch.Tensor] | None:
    """VisionTransformer with a class token or average pooling."""
    blocks = list(visual.transformer.resblocks)
    if visual.attn_pool is not None or visual.proj is None or visual.pool_type == "none":
        return None
    if not isinstance(visual.ln_post, nn.LayerNorm):
        return None
    if visual.pool_type == "avg":
        return _pooled_tokens(visual, images, wanted)
    if not all(type(block) is ResidualAttentionBlock for block in blocks):
        return None
    parts = {f"{kind}{i}": getattr(b, kind) for i, b in enumerate(blocks) for kind in _BLOCK}
    with _recorded({**parts, "transformer": visual.transformer}) as seen:
        embedding = visual(images).float()
    first, last = seen["transformer"][0][0], seen["transformer"][1]
    states = last[:, 0]
    direction = _through_norm(visual.ln_post, states, wanted @ visual.proj.T)
    shares, rebuilt = torch.zeros_like(first[..., 0]), first[:, 0].clone()
    for i, block in enumerate(blocks):
        tokens = seen[f"ln_1{i}"][1]
        share, out = _attention_shares(block.attn, tokens, _scaled(block.ls_1, direction))
        shares += share
        rebuilt += _scaled(block.ls_1, out) + seen[f"ls_2{i}"][1][:, 0]
    grid = visual.grid_size
    cells = shares[:, 1:].reshape(len(shares), *grid)
    return (cells, visual.ln_post(rebuilt) @ visual.proj), embedding


_BLOCK = ("ln_1", "ls_2")


def _scaled(scale: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Times the factor of a LayerScale; an Identity has none."""
    gamma = getattr(scale, "gamma", None)
    return values if gamma is None else values * gamma


def _attention_shares(
    attention: nn.MultiheadAttention, tokens: torch.Tensor, direction: torch.Tensor
) -> Shares:
    """Each token's share [b, L] of direction·(output of token 0), and that output [b, w]."""
    width, heads = attention.embed_dim, attention.num_heads
    query, key, value = attention.in_proj_weight.split(width)
    bias = attention.in_proj_bias
    b_query, b_key, b_value = (None,) * 3 if bias is None else bias.split(width)
    asking = functional.linear(tokens[:, 0], query, b_query)
    weights = _weights(asking, functional.linear(tokens, key, b_key), heads)
    values = functional.linear(tokens, value)
    back = direction @ attention.out_proj.weight
    mixed = torch.einsum("bhl,blhe->bhe", weights, _heads(values, heads)).flatten(1)
    mixed = mixed if b_value is None else mixed + b_value
    return (weights * _along(values, back, heads)).sum(1), attention.out_proj(mixed)


def _heads(values: torch.Tensor, heads: int) -> torch.Tensor:
    """[..., w] as [..., heads, w / heads]."""
    return values.unflatten(-1, (heads, -1))


def _weights(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention weights [b, h, L] of one query [b, w] over keys [b, L, w]."""
    scores = torch.einsum("bhe,blhe->bhl", _heads(query, heads), _heads(key, heads))
    return (scores * (query.shape[1] // heads) ** -0.5).softmax(-1)


def _along(values: torch.Tensor, back: torch.Tensor, heads: int) -> torch.Tensor:
    """[b, h, L]: each head of `values` [b, L, w] times the same head of `back` [b, w]."""
    return torch.einsum("blhe,bhe->bhl", _heads(values, heads), _heads(back, heads))


def _pooled_tokens(
    visual: VisionTransformer, images: torch.Tensor, wanted: torch.Tensor
) -> tuple[Shares, torch.Tensor]:
    """The mean of the image tokens, with the norm before or after it."""
    with _recorded({"transformer": visual.transformer}) as seen:
        embedding = visual(images).float()
    tokens = seen["transformer"][1][:, 1:]
    behind = wanted @ visual.proj.T
    if visual.final_ln_after_pool:
        pooled = tokens.mean(1)
        direction = _through_norm(visual.ln_post, pooled, behind)[:, None]
        rebuilt = visual.ln_post(pooled) @ visual.proj
    else:
        direction = _through_norm(visual.ln_post, tokens, behind[:, None])
        rebuilt = visual.ln_post(tokens).mean(1) @ visual.proj
    shares = (tokens * direction).sum(-1) / tokens.shape[1]
    return (shares.reshape(len(shares), *visual.grid_size), rebuilt), embedding


def _resnet(
    visual: ModifiedResNet, images: torch.Tensor, wanted: torch.Tensor
) -> tuple[Shares, torch.Tensor]:
    """The attention pool of OpenAI's ResNets."""
    pool = visual.attnpool
    heads = pool.num_heads
    with _recorded({"pool": pool}) as seen:
        embedding = visual(images).float()
    features = seen["pool"][0][0]
    cells = features.flatten(2).transpose(1, 2)
    tokens = torch.cat([cells.mean(1, keepdim=True), cells], dim=1) + pool.positional_embedding
    weights = _weights(pool.q_proj(tokens[:, 0]), pool.k_proj(tokens), heads)
    values = functional.linear(cells, pool.v_proj.weight)
    # The mean token is no place of its own: its weight is shared by the cells.
    spread = weights[:, :, 1:] + weights[:, :, :1] / cells.shape[1]
    shares = (spread * _along(values, wanted @ pool.c_proj.weight, heads)).sum(1)
    mixed = torch.einsum("bhl,blhe->bhe", weights, _heads(pool.v_proj(tokens), heads))
    rebuilt = pool.c_proj(mixed.flatten(1))
    return (shares.unflatten(1, features.shape[2:]), rebuilt), embedding


def _timm(
    visual: TimmModel, images: torch.Tensor, wanted: torch.Tensor
) -> tuple[Shares, torch.Tensor] | None:
    """Average pooling over a grid, a norm, and linear layers behind it, as in ConvNeXt."""
    head = getattr(visual.trunk, "head", None)
    norm: Any = getattr(head, "norm", None)
    pooling: Any = getattr(head, "global_pool", None)
    behind = [getattr(head, name, nn.Identity()) for name in ("pre_logits", "fc")] + [*visual.head]
    plain = all(isinstance(each, nn.Linear | nn.Identity | nn.Dropout) for each in behind)
    averages = getattr(pooling, "pool_type", None) == "avg"
    if not (isinstance(norm, nn.LayerNorm) and plain and averages):
        return None
    linear = [each for each in behind if isinstance(each, nn.Linear)]
    with _recorded({"pooling": pooling}) as seen:
        embedding = visual(images).float()
    features = seen["pooling"][0][0]
    if features.ndim != 4:
        return None
    pooled = features.mean((2, 3))
    rebuilt = functional.layer_norm(pooled, pooled.shape[1:], norm.weight, norm.bias, norm.eps)
    for module in linear:
        rebuilt = module(rebuilt)
    direction = wanted
    for module in reversed(linear):
        direction = direction @ module.weight
    direction = _through_norm(norm, pooled, direction)
    shares = torch.einsum("bchw,bc->bhw", features, direction)
    return (shares / features[0, 0].numel(), rebuilt), embedding


EXACT: dict[type, Callable[[Any, torch.Tensor, torch.Tensor], Any]] = {
    VisionTransformer: _transformer,
    ModifiedResNet: _resnet,
    TimmModel: _timm,
}
"""The towers with an exact decomposition."""


def map_by_crops(model: Any, images: torch.Tensor, wanted: torch.Tensor) -> CellMap:
    """Cells from the embeddings of 3 x 3 crops of half the size, which overlap by half."""
    height, width = images.shape[2:]
    b, quarters = len(images), CROP_GRID
    embedding = functional.normalize(model.encode_image(images).float(), dim=1)
    sums = torch.zeros((b, quarters, quarters), device=images.device)
    covering = torch.zeros((quarters, quarters), device=images.device)
    for row in range(quarters // 2 + 1):
        for column in range(quarters // 2 + 1):
            top, left = row * height // quarters, column * width // quarters
            crop = images[:, :, top : top + height // 2, left : left + width // 2]
            crop = functional.interpolate(crop, (height, width), mode="bicubic", antialias=True)
            value = (functional.normalize(model.encode_image(crop).float(), dim=1) * wanted).sum(1)
            seen = np.s_[row : row + quarters // 2, column : column + quarters // 2]
            sums[:, *seen] += value[:, None, None]
            covering[seen] += 1
    cells = sums / covering / quarters**2
    total = (wanted * embedding).sum(1).double()
    return CellMap(
        _numpy(cells), _numpy(total - cells.double().sum((1, 2))), "crops", _numpy(embedding)
    )
