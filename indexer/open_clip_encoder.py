"""The Encoder of an open_clip model: its functions on texts and pixels, and its facts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import open_clip
import torch

from .encode.encoder import Encoder, ModelChoice
from .encode.preprocessing import Preprocessing
from .encode.text_lengths import (
    encode_by_length,
    recall_truncation,
    remember_truncation,
    trial_captions,
)
from .open_clip_loading import LoadedModel, load_model, weights_sha256
from .tokenising import cut_by, tokeniser_of

TRUNCATION_TOLERANCE = 1e-5
"""Largest |Δ| of a unit vector's entries for which shorter input counts as the same."""


def load_encoder(choice: ModelChoice) -> Encoder:
    """The encoder for a model choice; errors as of `load_model`."""
    return encoder_of_model(load_model(choice))


def encoder_of_model(loaded: LoadedModel) -> Encoder:
    """The Encoder of a loaded model."""
    return encoder_of(
        loaded.model,
        loaded.tokenizer,
        loaded.facts,
        loaded.batch_size,
        loaded.chosen,
        loaded.statistics,
    )


def encoder_of(
    model: torch.nn.Module,
    tokenizer: Any,
    facts: Mapping[str, Any],
    batch_size: int,
    chosen: str = "",
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Encoder:
    """The Encoder of an open_clip model that is already loaded; `facts` may name it.

    `statistics` are mean and standard deviation per channel, where not the model's own.
    """
    device = next(model.parameters()).device
    weights = weights_sha256(model)
    preprocessing = _preprocessing(model)
    if statistics is not None:
        preprocessing = replace(preprocessing, mean=statistics[0], std=statistics[1])
    autocast = _autocast(device, facts.get("precision", "fp32"))
    tokenise, recipe = tokeniser_of(tokenizer)
    pad, context_length = int(tokenise(["a"])[0, -1]), tokenise(["a"]).shape[1]

    def encode_batch(tokens: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), autocast():
            return _unit(_text_features(model, torch.from_numpy(tokens).to(device)))

    def encode_images(pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(preprocessing.mean, device=device)[:, None, None]
        std = torch.tensor(preprocessing.std, device=device)[:, None, None]
        with torch.inference_mode(), autocast():
            return _unit(model.encode_image((images - mean) / std))  # type: ignore[operator]

    short = recall_truncation(weights)
    if short is None:
        short = truncation_is_exact(model, tokenise(trial_captions(context_length)), pad)
        remember_truncation(weights, short)

    def encode_tokens(tokens: np.ndarray) -> np.ndarray:
        if not len(tokens):
            return np.zeros((0, dimension), np.float32)
        return encode_by_length(tokens, pad if short else None, encode_batch, batch_size)

    dimension = encode_by_length(tokenise(["a"]), pad if short else None, encode_batch, 1).shape[1]
    complete = {
        "model": None,
        "pretrained": None,
        "precision": "fp32",
        **facts,
        "weights_sha256": weights,
        "dimension": dimension,
        "context_length": context_length,
        "short_captions_exact": short,
        "preprocessing": _json(asdict(preprocessing)),
    }
    return Encoder(
        facts=complete,
        preprocessing=preprocessing,
        batch_size=batch_size,
        encode_texts=lambda texts: encode_tokens(tokenise(texts)),
        encode_images=encode_images,
        chosen=chosen,
        tokenise=tokenise,
        encode_tokens=encode_tokens,
        is_cut=cut_by(tokenizer, recipe, context_length),
        recipe=recipe,
    )


def truncation_is_exact(model: torch.nn.Module, tokens: np.ndarray, pad: int) -> bool:
    """Whether token rows cut to their own length give the same unit vectors, in float32.

    True for causal towers pooled at end-of-text; False for towers that pool over padding.
    """
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            whole = _unit(_text_features(model, torch.from_numpy(tokens).to(device)))
            cut = encode_by_length(
                tokens,
                pad,
                lambda t: _unit(_text_features(model, torch.from_numpy(t).to(device))),
                batch_size=1,
            )
    except (RuntimeError, ValueError, IndexError):
        return False
    return bool(np.abs(whole - cut).max() <= TRUNCATION_TOLERANCE)


def _text_features(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Text features of token ids [b, L], where L may be below the model's context length.

    For a shorter input, position embeddings and causal mask are lent to the model cut to L.
    """
    length = tokens.shape[1]
    swapped = {}
    for prefix, tower in (("", model), ("text.", getattr(model, "text", None))):
        position = getattr(tower, "positional_embedding", None)
        mask = getattr(tower, "attn_mask", None)
        if prefix == "" and position is not None and position.shape[0] != length:
            swapped["positional_embedding"] = position[:length]
        if mask is not None and mask.shape[0] != length:
            swapped[prefix + "attn_mask"] = mask[:length, :length]
    if not swapped:
        return model.encode_text(tokens)  # type: ignore[operator]
    out = torch.func.functional_call(model, swapped, (), {"text": tokens})
    return out["text_features"] if isinstance(out, dict) else out[1]


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def _autocast(device: torch.device, precision: str) -> Any:
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}

    def context() -> AbstractContextManager[Any]:
        kind = kinds.get(precision)
        return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)

    return context


def _preprocessing(model: torch.nn.Module) -> Preprocessing:
    config = open_clip.get_model_preprocess_cfg(model)
    size = config.get("size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return Preprocessing(
        size=(height, width),
        interpolation=config.get("interpolation", "bicubic"),
        resize_mode=config.get("resize_mode", "shortest"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fill_color=config.get("fill_color", 0),
    )


def _json(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts as JSON gives them back: tuples become lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}


def threads_used() -> int:
    """How many threads torch uses in this process."""
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Have torch use `count` threads in this process."""
    torch.set_num_threads(count)
