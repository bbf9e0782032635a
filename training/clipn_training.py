"""Train CLIPN's "no" tower on image-caption pairs whose other vectors are computed once.

Only the tower is trained: images and "yes" captions are arrays. As published, every caption of a
step is read with a no-prompt drawn at random, or with the mean of them. Pairs of a tenth of the
images are held out, and the tower with the lowest loss on them is kept.

The two losses (Wang et al., ICCV 2023, arXiv 2308.12213) are on unit rows: images x, captions'
"yes" vectors t and "no" vectors t_no; p_yes(i, j) is the softmax of the two cosines x_i·t_j and
x_i·t_no,j at CLIP's scale.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..errors import BlissError, UsageError
from ..progress import Progress, no_progress
from .clipn_tower import PROMPTS, NoTower

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
