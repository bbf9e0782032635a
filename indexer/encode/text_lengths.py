"""Encode captions sorted by length, so that short ones are not padded to the longest.

A causal text tower pooled at end-of-text never sees the padding after it, so its input can be cut
to the longest caption of a batch without changing the result. Whether a model is of this kind is
measured once and cached by the hash of its weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...artefacts import write_json
from ...errors import BlissError


def caption_lengths(tokens: np.ndarray, pad: int) -> np.ndarray:
    """int64 [n], tokens before the trailing padding in each row of ids [n, L]."""
    used = tokens != pad
    return np.where(used.any(axis=1), tokens.shape[1] - used[:, ::-1].argmax(axis=1), 1)


def encode_by_length(
    tokens: np.ndarray,
    pad: int | None,
    encode: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
) -> np.ndarray:
    """float32 [n, d] for token ids [n, L], batched by length; with `pad` None at full length.

    `encode` maps ids [b, l] to [b, d]. A batch holds at most `batch_size` captions of full
    length, and proportionally more short ones. Rows are returned in the order of the input.
    """
    n, full = tokens.shape
    lengths = np.full(n, full) if pad is None else caption_lengths(tokens, pad)
    order = np.argsort(lengths, kind="stable")
    out: np.ndarray | None = None
    start = 0
    while start < n:
        room = max(1, batch_size * full // int(lengths[order[start]]))
        ahead = lengths[order[start : start + room]]
        fitting = (np.arange(1, len(ahead) + 1) * ahead <= batch_size * full).sum()
        rows = order[start : start + max(1, int(fitting))]
        longest = int(lengths[rows[-1]])
        vectors = encode(np.ascontiguousarray(tokens[rows, :longest]))
        if out is None:
            out = np.empty((n, vectors.shape[1]), np.float32)
        out[rows] = vectors
        start += len(rows)
    assert out is not None
    return out


def trial_captions(context_length: int) -> list[str]:
    """Captions from one word up to the context length, to compare cut with padded input."""
    words = (
        "a small brown dog runs along the beach with two children and an old man who holds "
        "a red umbrella near some boats while the evening sun goes down behind the harbour wall"
    ).split()
    most = max(1, min(len(words), context_length - 4))
    return [" ".join(words[:count]) for count in range(1, most + 1)]


def recall_truncation(weights: str) -> bool | None:
    """The result that `remember_truncation` stored for these weights, or None."""
    try:
        known = json.loads(_results_file().read_text(encoding="utf-8")).get(weights)
    except (OSError, ValueError, AttributeError):
        return None
    return known if isinstance(known, bool) else None


def remember_truncation(weights: str, exact: bool) -> None:
    """Store the result; where the cache cannot be written, it is measured again next time."""
    try:
        known = json.loads(_results_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    try:
        write_json(_results_file(), {**known, weights: exact})
    except BlissError:
        pass


def cache_folder() -> Path:
    """The folder for what can be measured or computed again."""
    cache = os.environ.get("BLISS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bliss-audit"
    )
    return Path(cache)


def _results_file() -> Path:
    return cache_folder() / "short_captions.json"
