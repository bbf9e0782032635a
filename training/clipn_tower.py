"""CLIPN's "no" text tower: a copy of a model's text tower with learnable no-prompts.

Its parts have the names of the published checkpoints, so that their state dicts fit. The "no"
vectors of class prompts are encoded once by a trained tower and kept in the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from open_clip.transformer import text_global_pool
from torch import nn
from torch.nn import functional

from ..artefacts import MANIFEST, digest, sha256_of, write_array
from ..errors import BlissError
from ..indexer import ModelChoice, cache_folder, check_same_model, model_named_by, row_lengths
from .clipn_folder import Clipn

PROMPTS = 16
"""No-prompts; any caption may be read with one of them, or with their mean."""
COPIED = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
"""What a text tower consists of; here each is followed by `_no`."""
EQUAL = 1e-4
"""Largest |Δ| of a unit vector's entries for which a fresh copy counts as the same tower."""


class NoTower(nn.Module):
    """The trainable tower; a fresh one, whose prompts are zero, is the model's own text tower."""

    transformer_no: nn.Module
    token_embedding_no: nn.Module
    positional_embedding_no: nn.Parameter
    ln_final_no: nn.Module
    text_projection_no: nn.Parameter
    attn_mask: torch.Tensor | None

    def __init__(self, model: Any) -> None:
        """Copy the text tower of an open_clip model; BlissError where it is of another build."""
        super().__init__()
        missing = [name for name in COPIED if getattr(model, name, None) is None]
        if missing or not isinstance(model.text_projection, torch.Tensor):
            raise BlissError(
                f"the text tower of {type(model).__name__} has no {', '.join(missing) or 'matrix'} "
                "to project with",
                "a CLIP model with a plain text transformer, such as ViT-B-16 or ViT-B-32",
                "Choose another --model",
            )
        for name in COPIED:
            setattr(self, f"{name}_no", copy.deepcopy(getattr(model, name)))
        context, width = model.positional_embedding.shape
        self.prompt_no = nn.Parameter(torch.zeros(PROMPTS, context, width))
        self.register_buffer("attn_mask", copy.deepcopy(model.attn_mask), persistent=False)
        self._pooling = (model.text_pool_type, getattr(model, "text_eos_id", None))
        self.requires_grad_(True)

    def forward(self, tokens: torch.Tensor, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """Unit rows [n, d] of token ids [n, L], L at most the context length.

        `chosen` int64 [n] in 0..16 says which no-prompt is added to the token embeddings of each
        caption, 16 being their mean, which None gives to all.
        """
        length = tokens.shape[1]
        mean = self.prompt_no.mean(dim=0, keepdim=True)
        prompts = mean if chosen is None else torch.cat([self.prompt_no, mean])[chosen]
        x = self.token_embedding_no(tokens) + self.positional_embedding_no[:length]
        x = x + prompts[:, :length]
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length]
        x = self.ln_final_no(self.transformer_no(x, attn_mask=mask))
        pool_type, end = self._pooling
        pooled = text_global_pool(x, tokens, pool_type, eos_token_id=end)
        return functional.normalize(pooled @ self.text_projection_no, dim=1)


def make_no_tower(model: nn.Module, tokens: torch.Tensor) -> NoTower:
    """A fresh tower, checked on captions' token ids [n, L] to equal the model's text tower.

    Raises BlissError where it does not: then the model has other parts too.
    """
    tower = NoTower(model).to(next(model.parameters()).device).float().eval()
    with torch.no_grad():
        own = functional.normalize(model.encode_text(tokens).float(), dim=1)  # type: ignore[operator]
        apart = float((tower(tokens) - own).abs().max())
    if not apart <= EQUAL:
        raise BlissError(
            f"a copy of the text tower of {type(model).__name__} gives vectors {apart:.2g} apart "
            "from its own",
            "a CLIP model with a plain text transformer, such as ViT-B-16 or ViT-B-32",
            "Choose another --model",
        )
    return tower


def load_no_tower(model: nn.Module, weights: Path) -> NoTower:
    """The tower of a safetensors file over its frozen model; BlissError where they do not fit."""
    try:
        state = safetensors.torch.load_file(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise BlissError(
            f"{weights} could not be read ({error})",
            "the tower as bliss wrote it",
            "Restore it or train again",
        ) from error
    tower = NoTower(model)
    check_state(state, tower, str(weights))
    tower.load_state_dict(state)
    return tower.to(next(model.parameters()).device).float().eval()


def check_state(state: Mapping[str, torch.Tensor], tower: NoTower, name: str) -> None:
    """Raise BlissError naming the tensors of `state` that are missing, unknown, of another shape
    than the tower's, or not finite."""
    wanted = tower.state_dict()
    wrong = [
        f"no {key}" if key not in state else f"an unknown {key}"
        for key in sorted(set(wanted) ^ set(state))
    ]
    wrong += [
        f"{key} of shape {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(set(wanted) & set(state))
        if state[key].shape != wanted[key].shape
    ]
    wrong += [
        f"{key} with numbers that are not finite"
        for key in sorted(state)
        if not torch.isfinite(state[key]).all()
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if wrong[5:] else ""
        raise BlissError(
            f"{name} has {', '.join(wrong[:5])}{more}",
            "the no tower of this very model",
            "Give the model it was trained over, or another file",
        )


def encode_no(tower: NoTower, tokens: torch.Tensor, batch_size: int) -> np.ndarray:
    """float32 [n, d], unit rows of token ids [n, L], with the mean no-prompt."""
    device = tower.prompt_no.device
    with torch.inference_mode():
        rows = [tower(some.to(device)).cpu() for some in tokens.split(batch_size)]
    return torch.cat(rows).numpy()


class NoPromptEncoder:
    """A trained CLIPN as a function from classes' prompts to their "no" vectors.

    `choice` may say where the frozen model is now.
    """

    def __init__(self, clipn: Clipn, choice: ModelChoice) -> None:
        self._clipn, self._choice = clipn, choice

    @property
    def model(self) -> Mapping[str, Any]:
        """Facts of the frozen model it was trained over."""
        return self._clipn.model

    @property
    def folder(self) -> str:
        """Where it is, for messages."""
        return str(self._clipn.folder)

    def __call__(self, prompts: Sequence[Sequence[str]], model: Mapping[str, Any]) -> np.ndarray:
        """float32 [C, d], as `no_vectors`."""
        return no_vectors(self._clipn, prompts, model, self._choice)


def no_vectors(
    clipn: Clipn, prompts: Sequence[Sequence[str]], model: Mapping[str, Any], choice: ModelChoice
) -> np.ndarray:
    """float32 [C, d], unit rows: each class's prompts encoded, averaged and normalised again.

    `model` are the facts of the model the images were embedded with; `choice` may say where the
    frozen model is now. Raises BlissError where it is not the one the CLIPN was trained over,
    ModelNotNamed where it is a foreign one that only the CLIPN names.
    """
    check_same_model(model, "the images' index", clipn.model, str(clipn.folder))
    texts = [text for each in prompts for text in each]
    path = _cached(clipn, prompts)
    found = _read(path, (len(prompts), clipn.model["dimension"]))
    if found is None:
        vectors = _encoded(clipn, texts, choice).astype(np.float64)
        starts = np.cumsum([0, *[len(each) for each in prompts[:-1]]])
        total = np.add.reduceat(vectors, starts, axis=0)
        found = (total / row_lengths(total)[:, None]).astype(np.float32)
        try:
            write_array(path, found)
        except BlissError:
            pass  # a cache that cannot be written only means encoding again
    return found


def _encoded(clipn: Clipn, texts: Sequence[str], choice: ModelChoice) -> np.ndarray:
    from ..indexer import load_model, weights_sha256

    if choice.model is None and choice.pretrained is None:
        choice = model_named_by(choice, clipn.model, str(clipn.folder))
    loaded = load_model(choice)
    own = {
        **loaded.facts,
        "weights_sha256": weights_sha256(loaded.model),
        "dimension": clipn.model["dimension"],
    }
    check_same_model(own, "the model given", clipn.model, str(clipn.folder))
    tower = load_no_tower(loaded.model, clipn.weights)
    return encode_no(tower, loaded.tokenizer(list(texts)), loaded.batch_size)


def _cached(clipn: Clipn, prompts: Sequence[Sequence[str]]) -> Path:
    key = {"clipn": sha256_of(clipn.folder / MANIFEST), "prompts": [list(each) for each in prompts]}
    return cache_folder() / "clipn" / f"{digest(key)}.npy"


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The cached rows, unless they are not there or not unit rows of that shape."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    usable = found.shape == shape and found.dtype == np.float32
    return found if usable and np.abs(row_lengths(found) - 1).max() < 1e-3 else None
