"""The "no" vectors of class prompts, encoded once by a trained tower and kept in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST, digest, sha256_of, write_array
from ..errors import BlissError
from ..indexer.encode.encoder import ModelChoice, check_same_model
from ..indexer.encode.text_lengths import cache_folder
from ..indexer.encode.trust import model_named_by
from ..indexer.vectors.unit_rows import row_lengths
from .clipn_folder import Clipn


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
    from ..indexer.open_clip_loading import load_model, weights_sha256
    from .clipn_tower import encode_no, load_no_tower

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
