"""CLIPN's "no" text tower, a copy of a model's text tower with learnable no-prompts; its training.

The tower's parts have the names of the published checkpoints, so that their state dicts fit. The
"no" vectors of class prompts are encoded once by a trained tower and kept in the cache.

It is trained on image-caption pairs whose other vectors are computed once: images and "yes"
captions are arrays. As published, every caption of a step is read with a no-prompt drawn at random,
or with the mean of them. Pairs of a tenth of the images are held out, and the tower with the lowest
loss on them is kept.

The two losses (Wang et al., ICCV 2023, arXiv 2308.12213) are on unit rows: images x, captions'
"yes" vectors t and "no" vectors t_no; p_yes(i, j) is the softmax of the two cosines x_i·t_j and
x_i·t_no,j at CLIP's scale.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from ..errors import BlissError, UsageError
from ..indexer import ModelChoice, cache_folder, check_same_model, model_named_by, row_lengths
from ..progress import Progress, no_progress
from ..safe_text import some_of
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
        raise BlissError(
            f"{name} has {some_of(wrong, 5)}",
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


WARM_UP = 0.05
"""Share of the steps over which the rate rises; then it falls as a cosine to zero."""
POINTS = 40
"""Points of a whole loss curve."""
HELD_OUT = 0.1
"""Share of the images whose pairs are not trained on: their loss says which tower to keep."""
CHECKED = 256
"""Held-out pairs looked at together."""


@dataclass(frozen=True)
class Pairs:
    """n image-caption pairs over m images and c different captions, as a frozen model sees them."""

    images: np.ndarray
    """float32 [m, d], unit rows."""
    yes: np.ndarray
    """float32 [c, d], the model's own text vectors, unit rows."""
    tokens: np.ndarray
    """int32 [c, L], token ids."""
    lengths: np.ndarray
    """int64 [c], how many of a caption's tokens need to be read."""
    image: np.ndarray
    """int64 [n], rows of `images`."""
    caption: np.ndarray
    """int64 [n], rows of `yes`."""
    group: np.ndarray
    """int64 [n]; of two pairs of a group each caption is right for both images."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast to train."""

    steps: int = 1000
    pairs: int = 256
    """Pairs drawn for a step."""
    rate: float = 3e-4
    seed: int = 0
    minutes: float | None = None
    """Stop then, wherever the steps are."""

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("pairs", self.pairs), ("rate", self.rate)):
            if not 0 < value < math.inf:
                raise UsageError(f"--{name} {value} was given", "a number above 0", "Correct it")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(
                f"--minutes {self.minutes} was given", "a number above 0", "Leave it out"
            )


@dataclass(frozen=True)
class CurvePoint:
    """Mean losses of the steps since the point before, and the loss on held-out pairs."""

    step: int
    image_text: float
    text: float
    held_out: float
    """Both losses together, on the pairs that are not trained on."""


Save = Callable[[NoTower, list[CurvePoint]], None]
"""Called now and then, and at the end, with the best tower so far."""


def train_no_tower(
    tower: NoTower,
    pairs: Pairs,
    settings: TrainingSettings,
    progress: Progress = no_progress,
    save: Save = lambda tower, curve: None,
) -> list[CurvePoint]:
    """Train `tower` in place; returns its loss curve.

    The same pairs and settings give the same tower on the same machine and number of threads,
    unless the time ends first. Raises BlissError where vectors or the loss are not finite.
    """
    _check_pairs(pairs)
    rng = np.random.default_rng(settings.seed)
    kept_out = rng.random(len(pairs.images)) < HELD_OUT
    trained, checked = _split(pairs, kept_out)
    optimizer = torch.optim.AdamW(
        tower.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    every = max(1, settings.steps // POINTS)
    curve: list[CurvePoint] = []
    losses: list[tuple[float, float]] = []
    best, lowest = copy.deepcopy(tower.state_dict()), math.inf
    queue = np.zeros(0, np.int64)
    began = time.monotonic()
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * _rate_at(step / settings.steps)
        if len(queue) < min(settings.pairs, len(trained)):
            queue = np.concatenate([queue, rng.permutation(trained)])
        rows, queue = queue[: settings.pairs], queue[settings.pairs :]
        chosen = torch.from_numpy(rng.integers(0, PROMPTS + 1, len(rows)))
        first, second = _losses(tower, pairs, rows, chosen)
        optimizer.zero_grad(set_to_none=True)
        (first + second).backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        losses.append((float(first.detach()), float(second.detach())))
        _check_finite(sum(losses[-1]), step)
        optimizer.step()
        late = settings.minutes is not None and time.monotonic() - began > 60 * settings.minutes
        if step % every == 0 or step == settings.steps or late:
            held_out = _held_out_loss(tower, pairs, checked)
            _check_finite(held_out, step)
            image_text, text = np.mean(losses, axis=0).tolist()
            curve.append(CurvePoint(step, image_text, text, held_out))
            losses.clear()
            if held_out < lowest:
                best, lowest = copy.deepcopy(tower.state_dict()), held_out
                save(tower, curve)
        progress("steps trained", step, settings.steps)
        if late:
            break
    tower.load_state_dict(best)
    return curve


def _split(pairs: Pairs, kept_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to check with; where too few are kept out, all are both."""
    rows = np.arange(len(pairs.image))
    out = kept_out[pairs.image]
    if not (wrong_pairs(pairs, rows[out]).any() and (~out).any()):
        return rows, rows
    return rows[~out], rows[out]


def _losses(
    tower: NoTower, pairs: Pairs, rows: np.ndarray, chosen: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both losses of some pairs, each caption read with its chosen no-prompt."""
    device = tower.prompt_no.device
    captions = pairs.caption[rows]
    tokens = torch.from_numpy(pairs.tokens[captions, : pairs.lengths[captions].max()])
    no = tower(tokens.long().to(device), None if chosen is None else chosen.to(device))
    yes = torch.from_numpy(pairs.yes[captions]).to(device)
    images = torch.from_numpy(pairs.images[pairs.image[rows]]).to(device)
    wrong = torch.from_numpy(wrong_pairs(pairs, rows)).to(device)
    return image_text_loss(images, yes, no, wrong=wrong), text_loss(yes, no)


def _held_out_loss(tower: NoTower, pairs: Pairs, rows: np.ndarray) -> float:
    """Mean loss of batches of CHECKED rows, with the mean no-prompt."""
    with torch.no_grad():
        found = [
            sum(map(float, _losses(tower, pairs, some, None)))
            for some in np.array_split(rows, -(-len(rows) // CHECKED))
        ]
    return float(np.mean(found))


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise BlissError(
            f"the loss of step {step} is {loss}", "a finite one", "Train with a smaller --rate"
        )


def wrong_pairs(pairs: Pairs, rows: np.ndarray) -> np.ndarray:
    """bool [b, b]: where the caption of one of `rows` is wrong for the image of another.

    Those of one group or of one image are right for each other; the rest are taken for wrong.
    """
    group, image = pairs.group[rows], pairs.image[rows]
    return (group[:, None] != group) & (image[:, None] != image)


def _rate_at(done: float) -> float:
    """Share of the rate after a share of the steps."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _check_pairs(pairs: Pairs) -> None:
    for name, rows in (("image", pairs.images), ("caption", pairs.yes)):
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise BlissError(
                f"{len(bad)} {name} vectors are not finite (the first: row {bad[0]})",
                "finite vectors",
                "Embed them again or leave them out",
            )
    if len(np.unique(pairs.group)) < 2 or len(np.unique(pairs.image)) < 2:
        raise BlissError(
            f"the {len(pairs.image)} pairs hold fewer than 2 different captions or images",
            "pairs that can be told apart",
            "Give more of them",
        )


SCALE = 100.0
"""As published, whatever scale the model itself was trained with."""


def image_text_loss(
    images: torch.Tensor,
    yes: torch.Tensor,
    no: torch.Tensor,
    scale: float = SCALE,
    wrong: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary-opposite: each image says yes to its own caption and no to the others'.

    -mean_i log p_yes(i, i) - mean_{i≠j} log(1 - p_yes(i, j)) over N pairs, all unit rows [N, d];
    where no pair is wrong the second term is 0. `wrong` bool [N, N] says for which (i, j) caption j
    is wrong for image i; None means all i ≠ j, as published.

    Where yes and no vectors are equal, p_yes is 1/2 everywhere and the loss is 2·log 2. Here both
    images agree with their own "yes" and with the other's "no", so every margin is 1:

        >>> x = torch.eye(2)
        >>> float(image_text_loss(x, x, x)) == 2 * float(torch.log(torch.tensor(2.0)))
        True
        >>> round(float(image_text_loss(x, x, x.flip(0), scale=1.0)), 6)  # 2·log(1 + e^-1)
        0.626523
    """
    margin = scale * (images @ yes.T - images @ no.T)
    own = -functional.logsigmoid(margin.diagonal()).mean()
    if wrong is None:
        wrong = ~torch.eye(len(images), dtype=torch.bool, device=images.device)
    if not wrong.any():
        return own
    return own - functional.logsigmoid(-margin[wrong]).mean()


def text_loss(yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Semantic-opposite: a caption's "no" vector is far from its "yes" vector.

    mean_j (2 - sqrt(2 - 2 t_j·t_no,j + 1e-4)), unit rows [N, d]: 2 less their distance, so that
    equal vectors cost 1.99 and opposite ones nothing:

        >>> t = torch.tensor([[1.0, 0.0]])
        >>> round(float(text_loss(t, t)), 6), round(float(text_loss(t, -t)), 6)
        (1.99, -2.5e-05)
    """
    distance = (2 - 2 * (yes * no).sum(dim=1) + 1e-4).clamp(min=0).sqrt()
    return (2 - distance).mean()
