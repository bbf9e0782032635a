"""The encoder of a model as the rest of the program sees it, and its preprocessing, without torch.

`open_clip.load_encoder` makes an Encoder. For RGB pictures resizing and cropping are bit for bit
those of `open_clip.transform.image_transform` at inference, before ToTensor and Normalize.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from ...arguments import checked_fields
from ...corpora import fill_prompt
from ...errors import BlissError, UsageError
from ..vectors.unit_rows import row_lengths

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")


class UnreadableImage(Exception):
    """An image that cannot be decoded; its text is the reason, one short sentence."""


@dataclass(frozen=True)
class Preprocessing:
    """The input of an image encoder: `size` is (height, width), `mean` and `std` are per channel.

    Raises UsageError for a size, interpolation or resize mode that open_clip does not have.
    """

    size: tuple[int, int]
    interpolation: str
    resize_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill_color: int = 0
    apply_exif: bool = True

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            wrong, needed = f"image size {self.size}", "a height and a width of at least 1"
        elif self.interpolation not in INTERPOLATIONS:
            wrong, needed = f"interpolation {self.interpolation!r}", " or ".join(INTERPOLATIONS)
        elif self.resize_mode not in RESIZE_MODES:
            wrong, needed = f"resize mode {self.resize_mode!r}", " or ".join(RESIZE_MODES)
        else:
            return
        remedy = "Correct the model's preprocess config"
        raise UsageError(f"the encoder needs {wrong}", needed, remedy)


class Resizable(Protocol):
    """An RGB image that need not be in memory as a whole."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def resize(self, size: tuple[int, int], interpolation: Image.Resampling, /) -> Image.Image:
        """As `PIL.Image.Image.resize`."""


def resize_and_crop(
    source: Resizable, preprocessing: Preprocessing, max_pixels: int
) -> Image.Image:
    """open_clip's inference transform of an RGB image, before ToTensor."""
    height, width = preprocessing.size
    mode = preprocessing.resize_mode
    new_height, new_width = resized_shape(source.height, source.width, preprocessing)
    if min(new_height, new_width) < 1 or new_height * new_width > max_pixels:
        raise UnreadableImage(
            f"the image is too long and thin to resize to {height} x {width} ({shape_of(source)})"
        )
    interpolation = INTERPOLATIONS[preprocessing.interpolation]
    if mode == "shortest" and height != width:  # open_clip ignores the interpolation here
        interpolation = Image.Resampling.BICUBIC
    image = source.resize((new_width, new_height), interpolation)
    missing_x, missing_y = max(width - new_width, 0), max(height - new_height, 0)
    if missing_x or missing_y:
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        fill = preprocessing.fill_color if mode == "longest" else 0
        image = ImageOps.expand(image, border, (fill, fill, fill))
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def resized_shape(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) before cropping, rounded as in torchvision and open_clip."""
    target_height, target_width = preprocessing.size
    if preprocessing.resize_mode == "squash":
        return target_height, target_width
    if preprocessing.resize_mode == "shortest" and target_height == target_width:
        if width <= height:
            return int(target_width * height / width), target_width
        return target_height, int(target_height * width / height)
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if preprocessing.resize_mode == "longest" else min(ratios)
    return round(height / ratio), round(width / ratio)


def visible_box(
    height: int, width: int, preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what the model sees, in widths and heights of the image.

    Below 0 or above 1 where the model sees a border that is not in the image.
    """
    sides = zip((width, height), preprocessing.size[::-1], strict=True)
    resized = resized_shape(height, width, preprocessing)[::-1]
    spans = [
        ((new - seen) / 2 / new, (new + seen) / 2 / new)
        for (_, seen), new in zip(sides, resized, strict=True)
    ]
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def shape_of(image: Resizable) -> str:
    """Width and height, for messages."""
    return f"{image.width} x {image.height} pixels"


DEFAULT_MODEL = "ViT-B-16"
DEFAULT_PRETRAINED = "openai"
DEMO_MODEL = "demo"
CAST_BF16 = "pure_bf16"
"""Weights and activations in bf16, as open_clip calls it; `bf16` and `fp16` are autocast."""
PRECISIONS = ("fp32", "bf16", "fp16", CAST_BF16)


@checked_fields
@dataclass(frozen=True)
class ModelChoice:
    """Which model to load and how to run it; None means that the value is chosen and reported."""

    model: str | None = None
    """An open_clip name, `hf-hub:owner/name`, `local-dir:FOLDER`, or `demo`."""
    pretrained: str | None = None
    """A tag or weights file, for open_clip names only."""
    device: str | None = None
    precision: str | None = None
    """One of PRECISIONS; `bf16` on a CPU is `pure_bf16`, which casts no weights at every step."""
    batch_size: int | None = None
    allow_torchscript: bool = False
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation per channel for normalising pixels; None: the model's."""

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
    """object [n, 1]: the texts themselves, for encoders without a tokeniser."""
    ids = np.empty((len(texts), 1), object)
    ids[:, 0] = texts
    return ids


Through = Callable[..., np.ndarray]
"""Given the ids of a batch [b, l] and the function `encode` of them: its vectors [b, d]."""


def nothing_encoded(ids: np.ndarray) -> np.ndarray:
    """The default of `encode_tokens`, replaced by `Encoder`."""
    raise NotImplementedError


@dataclass(frozen=True)
class CellMap:
    """Where in b images the product of their embedding with a direction comes from.

    For image i with unit embedding x and direction w: cells[i].sum() + constant[i] = w·x.
    """

    cells: np.ndarray
    """float64 [b, rows, columns], over the pixels that the model sees, top left first."""
    constant: np.ndarray
    """float64 [b], what belongs to no cell."""
    method: str
    """"exact", or "crops" where the model has no exact decomposition."""
    embedding: np.ndarray
    """float64 [b, d], the unit embeddings that the products are with."""


@dataclass(frozen=True)
class TokenizerRecipe:
    """What the ids of a SimpleTokenizer with open_clip's own vocabulary depend on."""

    context_length: int
    cleaning: str
    """One of CLEANINGS of `tokens.py`."""


@dataclass(frozen=True)
class Encoder:
    """A loaded model: its functions on texts and pixels, and its facts."""

    facts: Mapping[str, Any]
    """model, pretrained, weights_sha256, preprocessing, dimension, context_length, precision."""
    preprocessing: Preprocessing
    batch_size: int
    encode_texts: Callable[[Sequence[str]], np.ndarray]
    """n texts -> float32 [n, d] unit rows."""
    encode_images: Callable[[np.ndarray], np.ndarray]
    """uint8 [b, height, width, 3] -> float32 [b, d] unit rows."""
    chosen: str = ""
    """One line with device, precision and batch size, and which of them were chosen."""
    tokenise: Callable[[Sequence[str]], np.ndarray] = texts_as_ids
    """n texts -> ids [n, L]; the first half of `encode_texts`."""
    encode_tokens: Callable[..., np.ndarray] = nothing_encoded
    """ids [n, L] -> float32 [n, d] unit rows; the second half of `encode_texts`. With `through`,
    each batch is encoded by it: it is given the ids of the batch and the function that encodes
    them."""
    is_cut: Callable[[Sequence[str]], np.ndarray] | None = None
    """n texts -> bool [n], whether the token limit cuts each; None where unknown."""
    recipe: TokenizerRecipe | None = None
    """How another process can make the same tokeniser; None where it cannot."""
    map_cells: Callable[[np.ndarray, np.ndarray], CellMap] | None = None
    """uint8 [b, height, width, 3] and directions [b, d] -> their cells; None where it cannot."""

    def __post_init__(self) -> None:
        """Make `encode_tokens` of an encoder without a tokeniser, whose ids are texts."""
        if self.encode_tokens is nothing_encoded:

            def encode(ids: np.ndarray) -> np.ndarray:
                return self.encode_texts([text for (text,) in ids])

            object.__setattr__(
                self,
                "encode_tokens",
                lambda ids, through=None: through(ids, encode) if through else encode(ids),
            )


def demo_model() -> str:
    """The `local-dir:` name of the small model in this package."""
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
"""The facts that two artefacts must share for their vectors to be comparable."""


def check_same_model(
    first: Mapping[str, Any], first_name: str, second: Mapping[str, Any], second_name: str
) -> None:
    """Raise BlissError, naming both models, where two artefacts come from different ones.

    Embeddings from other programs have no weights hash; only their dimension is compared. Warns
    where one model was run in two precisions.
    """
    for fact in IDENTITY:
        one, other = first.get(fact), second.get(fact)
        if one is not None and other is not None and one != other:
            raise BlissError(
                f"{first_name} was made with {describe_model(first)} "
                f"and {second_name} with {describe_model(second)}",
                "both from the same model and weights",
                f"Make {second_name} again with the model of {first_name}, or vice versa",
            )
    one, other = first.get("precision"), second.get("precision")
    if one is not None and other is not None and one != other:
        warnings.warn(
            f"{first_name} was embedded in {one}, {second_name} in {other}: similarities differ a "
            "little from those in one precision; --precision chooses it",
            stacklevel=2,
        )


PREPROCESSING = ("size", "interpolation", "resize_mode", "mean", "std")
"""The preprocessing facts that two sets of images must share to be comparable."""


def check_same_preprocessing(
    first: Mapping[str, Any], first_name: str, second: Mapping[str, Any], second_name: str
) -> None:
    """Raise BlissError where two sets of images were preprocessed differently.

    Embeddings from other programs do not state their preprocessing and are not checked.
    """
    one, other = first.get("preprocessing") or {}, second.get("preprocessing") or {}
    differing = [n for n in PREPROCESSING if n in one and n in other and one[n] != other[n]]
    if differing:
        raise BlissError(
            f"{first_name} and {second_name} were preprocessed differently "
            f"({', '.join(differing)} differ)",
            "the same preprocessing for both",
            f"Embed {second_name} again as {first_name} was, with --preset or without it",
        )


def describe_model(facts: Mapping[str, Any]) -> str:
    """A model in one phrase: name, tag, dimensions and the start of its weights hash."""
    name = facts.get("model") or "an unnamed model"
    tag = f" ({facts['pretrained']})" if facts.get("pretrained") else ""
    weights = facts.get("weights_sha256")
    hashed = f", weights {weights[:12]}" if weights else ""
    return f"{name}{tag}, {facts.get('dimension')} dimensions{hashed}"
