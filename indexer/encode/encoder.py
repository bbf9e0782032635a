"""What an encoder is to the rest of the program, and what it says of itself in manifests.

Nothing here imports torch; `open_clip_encoder.load_encoder` makes an Encoder from a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...corpora.prompts import fill_prompt
from ...errors import BlissError, UsageError
from ..vectors.unit_rows import row_lengths
from .preprocessing import Preprocessing
from .tokens import TokenizerRecipe

DEFAULT_MODEL = "ViT-B-16"
DEFAULT_PRETRAINED = "openai"
DEMO_MODEL = "demo"
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ModelChoice:
    """Which model to load and how to run it; None means: choose, and say what was chosen."""

    model: str | None = None
    """An open_clip name, `hf-hub:owner/name`, `local-dir:FOLDER`, or `demo`."""
    pretrained: str | None = None
    """A tag or weights file, for open_clip names only."""
    device: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    allow_torchscript: bool = False
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation per channel to standardise pixels with; None: the model's."""

    def __post_init__(self) -> None:
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError(
                f"precision '{self.precision}' was given",
                f"one of {', '.join(PRECISIONS)}",
                "Leave --precision out to have it chosen",
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(
                f"batch size {self.batch_size} was given", "1 or more", "Leave --batch-size out"
            )


def texts_as_ids(texts: Sequence[str]) -> np.ndarray:
    """object [n, 1]: the texts themselves, for encoders that have no tokeniser."""
    ids = np.empty((len(texts), 1), object)
    ids[:, 0] = texts
    return ids


def nothing_encoded(ids: np.ndarray) -> np.ndarray:
    """Stands for `encode_tokens` where it was not given."""
    raise NotImplementedError


@dataclass(frozen=True)
class Encoder:
    """A loaded model as two functions, and its facts."""

    facts: Mapping[str, Any]
    """model, pretrained, weights_sha256, preprocessing, dimension, context_length, precision."""
    preprocessing: Preprocessing
    batch_size: int
    encode_texts: Callable[[Sequence[str]], np.ndarray]
    """n texts -> float32 [n, d] unit rows."""
    encode_images: Callable[[np.ndarray], np.ndarray]
    """uint8 [b, height, width, 3] -> float32 [b, d] unit rows."""
    chosen: str = ""
    """One line saying device, precision and batch size, and which of them were chosen."""
    tokenise: Callable[[Sequence[str]], np.ndarray] = texts_as_ids
    """n texts -> ids [n, L]; the first half of `encode_texts`."""
    encode_tokens: Callable[[np.ndarray], np.ndarray] = nothing_encoded
    """ids [n, L] -> float32 [n, d] unit rows; the second half of `encode_texts`."""
    is_cut: Callable[[Sequence[str]], np.ndarray] | None = None
    """n texts -> bool [n], whether the token limit cuts each; None where that is not known."""
    recipe: TokenizerRecipe | None = None
    """How another process can tokenise alike; None where only this one can."""

    def __post_init__(self) -> None:
        """An encoder given without halves has texts for ids, so that the halves always compose."""
        if self.encode_tokens is nothing_encoded:
            encode = self.encode_texts
            object.__setattr__(self, "encode_tokens", lambda ids: encode([t for (t,) in ids]))


def demo_model() -> str:
    """The `local-dir:` name of the small model this package brings along."""
    return f"local-dir:{Path(__file__).resolve().parents[2] / 'demo' / 'model'}"


def encode_prompts(encoder: Encoder, texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """float32 [n, d]: each text in each prompt template, embedded, averaged, renormalised."""
    return average_prompts(
        encoder.encode_texts([fill_prompt(prompt, text) for text in texts]) for prompt in prompts
    )


def average_prompts(rows: Iterable[np.ndarray]) -> np.ndarray:
    """float32 [n, d] unit rows in the direction of the mean of several such arrays."""
    total = sum(rows)
    assert isinstance(total, np.ndarray)
    return (total / row_lengths(total)[:, None]).astype(np.float32)


IDENTITY = ("weights_sha256", "dimension")
"""The facts two artefacts must share for their vectors to be comparable."""


def check_same_model(
    first: Mapping[str, Any], first_name: str, second: Mapping[str, Any], second_name: str
) -> None:
    """Raise BlissError, naming both models, when two artefacts come from different ones.

    Embeddings made elsewhere carry no weights hash; for them only the dimension can be compared.
    """
    for fact in IDENTITY:
        one, other = first.get(fact), second.get(fact)
        if one is not None and other is not None and one != other:
            raise BlissError(
                f"{first_name} was made with {describe_model(first)} "
                f"and {second_name} with {describe_model(second)}",
                "both from the same model and weights",
                f"Make {second_name} again with the model of {first_name}, or the other way round",
            )


SEEN = ("size", "interpolation", "resize_mode", "mean", "std")
"""What of the preprocessing two sets of images must share to be comparable."""


def check_same_preprocessing(
    first: Mapping[str, Any], first_name: str, second: Mapping[str, Any], second_name: str
) -> None:
    """Raise BlissError when one model saw two sets of images through different preprocessing.

    Embeddings made elsewhere do not say how; for them nothing can be compared.
    """
    one, other = first.get("preprocessing") or {}, second.get("preprocessing") or {}
    differing = [n for n in SEEN if n in one and n in other and one[n] != other[n]]
    if differing:
        raise BlissError(
            f"{first_name} and {second_name} were preprocessed differently "
            f"({', '.join(differing)} differ)",
            "images that the model saw alike",
            f"Embed {second_name} again as {first_name} was, with --preset or without it",
        )


def describe_model(facts: Mapping[str, Any]) -> str:
    """One phrase naming a model: name, tag, dimensions and the start of its weights hash."""
    name = facts.get("model") or "a model it does not name"
    tag = f" ({facts['pretrained']})" if facts.get("pretrained") else ""
    weights = facts.get("weights_sha256")
    hashed = f", weights {weights[:12]}" if weights else ""
    return f"{name}{tag}, {facts.get('dimension')} dimensions{hashed}"
