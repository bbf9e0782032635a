"""OECL's projection head on frozen embeddings: Linear-BN-ReLU-Linear, and how it is trained.

Published (Le-Gia and Ahn, arXiv 2312.15288): the loss, its temperature, α and when α begins. Ours,
because the encoder is frozen: views are made in feature space (noise and lost coordinates) of
cached views where there are any; the floor under the lengths of normals; AdamW. z = f(x) are the
features of the projection head before normalisation, one row an image.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..errors import BlissError, UsageError
from ..progress import Progress, no_progress

TEMPERATURE = 0.5
WIDTH = 128
WARM_UP = 0.05
"""Share of the epochs before α counts: 50 of the published 1,000."""
FEWEST = 4
"""Images of either kind below which there is nothing to train on."""


@dataclass(frozen=True)
class OeclSettings:
    """What training depends on besides the images."""

    alpha: float = 1.0
    """Weight of the outliers' mean length; published: 1, or 0.1 for aerial, microscope images."""
    floor: float = 1.0
    """Length that normal features are held to by the hinge of ours; 0 leaves it out."""
    epochs: int = 200
    minutes: float | None = None
    """Training stops after the epoch that ends later than this."""
    noise: float = 1.0
    """Length of the noise of a feature-space view."""
    dropout: float = 0.1
    """Share of the coordinates that a feature-space view has lost."""
    hidden: int = 512
    batch: int = 256
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            (not 0 <= self.alpha < np.inf, f"alpha {self.alpha}", "a number, 0 or more"),
            (not 0 <= self.floor < np.inf, f"floor {self.floor}", "a number, 0 or more"),
            (self.epochs < 1, f"{self.epochs} epochs", "1 or more"),
            (self.minutes is not None and not self.minutes > 0, f"{self.minutes} minutes", "> 0"),
            (not 0 <= self.noise < np.inf, f"noise {self.noise}", "a number, 0 or more"),
            (not 0 <= self.dropout < 1, f"dropout {self.dropout}", "a share below 1"),
            (self.batch < 2 or self.hidden < 1, "an empty batch or layer", "a batch of 2 or more"),
            (not 0 < self.rate < np.inf, f"learning rate {self.rate}", "a number above 0"),
            (not 0 <= self.seed < 2**32, f"seed {self.seed}", "a whole number below 2^32"),
        ]
        for wrong, given, needed in problems:
            if wrong:
                raise UsageError(f"{given} was asked of OECL", needed, "Correct it")


@dataclass(frozen=True)
class TrainedHead:
    """A trained head as plain arrays, and how its loss fell."""

    arrays: Mapping[str, np.ndarray]
    """As `scorer/scores/trained.py` reads them."""
    losses: np.ndarray
    """float64 [epochs, 3]: contrastive loss, outliers' mean length, floor hinge; mean of steps."""


def train_head(
    normals: np.ndarray,
    outliers: np.ndarray,
    settings: OeclSettings,
    progress: Progress = no_progress,
) -> TrainedHead:
    """Train on unit rows: `normals` [n, V, d] and `outliers` [m, W, d], V and W views an image.

    Every step takes two different views of each normal image (the one there is twice, where V is
    1) and one of each outlier, and makes a feature-space view of each. The same settings, machine
    and number of threads give the same head. Raises BlissError for fewer than 4 images of either
    kind and for embeddings that are not finite.
    """
    check_rows(normals, "the normal images")
    check_rows(outliers, "the outlier images")
    rng = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = new_head(normals.shape[2], settings.hidden)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    losses, began = [], time.monotonic()
    for epoch in range(settings.epochs):
        alpha = settings.alpha if epoch >= WARM_UP * settings.epochs else 0.0
        terms = []
        for rows in batches(len(normals), settings.batch, rng):
            strange = rng.integers(len(outliers), size=len(rows))
            shown = [*two_views(normals[rows], rng), two_views(outliers[strange], rng)[0]]
            inputs = feature_views(np.concatenate(shown), settings.noise, settings.dropout, rng)
            features = head(torch.from_numpy(inputs))
            one, two, far = features.split(len(rows))
            parts = (
                nt_xent(one, two, TEMPERATURE),
                mean_length(far),
                floor_hinge(features[: 2 * len(rows)], settings.floor),
            )
            loss = parts[0] + alpha * parts[1] + parts[2]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            terms.append([float(part.detach()) for part in parts])
        schedule.step()
        losses.append(np.mean(terms, axis=0))
        progress("epochs trained", epoch + 1, settings.epochs)
        if settings.minutes is not None and time.monotonic() - began > 60 * settings.minutes:
            break
    return TrainedHead(folded(head), np.array(losses))


def new_head(dimension: int, hidden: int) -> nn.Sequential:
    """An untrained head from `dimension` numbers to 128, from torch's random state."""
    return nn.Sequential(
        nn.Linear(dimension, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, WIDTH),
    )


def folded(head: nn.Sequential) -> dict[str, np.ndarray]:
    """The head as four float32 arrays, batch normalisation (as in evaluation) in the first two."""
    into, norm, _, out = head
    values = {
        f"{name}.{key}": value.detach().double()
        for name, layer in (("into", into), ("norm", norm), ("out", out))
        for key, value in layer.state_dict().items()
    }
    gain = values["norm.weight"] / torch.sqrt(values["norm.running_var"] + norm.eps)
    moved = gain * (values["into.bias"] - values["norm.running_mean"]) + values["norm.bias"]
    made = {
        "first": gain[:, None] * values["into.weight"],
        "first_bias": moved,
        "second": values["out.weight"],
        "second_bias": values["out.bias"],
    }
    return {name: value.numpy().astype(np.float32) for name, value in made.items()}


def batches(count: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """All rows once in random order, in equal parts of at most `size` and at least 2 rows."""
    order = rng.permutation(count)
    return np.array_split(order, max(1, min(-(-count // size), count // 2)))


def two_views(rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two different views [b, d] of each image of [b, V, d]; twice the same one where V is 1."""
    b, count, _ = rows.shape
    one = rng.integers(count, size=b)
    two = (one + rng.integers(1, count, size=b)) % count if count > 1 else one
    each = np.arange(b)
    return rows[each, one], rows[each, two]


def check_rows(rows: np.ndarray, name: str) -> None:
    """Raise BlissError naming the set where there are too few images or a row is not finite."""
    if len(rows) < FEWEST:
        raise BlissError(
            f"there are {len(rows)} of {name} to train on", f"at least {FEWEST}", "Add images"
        )
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2)))
    if len(bad):
        raise BlissError(
            f"{len(bad)} of {name} have embeddings that are not finite "
            f"(the first: number {bad[0]})",
            "finite embeddings",
            "Embed them again or leave them out",
        )


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent (Chen et al., SimCLR, arXiv 2002.05709) of two views [n, p] of the same n images.

    Each of the 2n rows is to find its other view among the 2n - 1 other rows, by cosine over
    `temperature`; the mean of the 2n cross-entropies. Lengths of rows do not matter.

    Two images whose views agree and are at right angles to the other image's: every row has its
    partner at cosine 1 and two others at 0, so with temperature 0.5 the loss is log(1 + 2/e²).

    >>> z = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> round(float(nt_xent(z, 2 * z, 0.5)), 4)
    0.2395
    """
    n = len(first)
    unit = functional.normalize(torch.cat([first, second]), dim=1)
    logits = unit @ unit.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=logits.device)
    partner = torch.arange(2 * n, device=logits.device).roll(n)
    return functional.cross_entropy(logits.masked_fill(itself, -torch.inf), partner)


def mean_length(features: torch.Tensor) -> torch.Tensor:
    """mean ‖z‖₂ over rows [n, p]: what outliers are to keep small.

    >>> float(mean_length(torch.tensor([[3.0, 4.0], [0.0, 1.0]])))
    3.0
    """
    return torch.linalg.vector_norm(features, dim=1).mean()


def floor_hinge(features: torch.Tensor, floor: float) -> torch.Tensor:
    """mean max(0, floor - ‖z‖₂) over rows [n, p] of normal images. OURS, not in the paper.

    The contrastive loss does not see lengths. Training a whole network, they grow by themselves;
    a head on frozen embeddings shrinks with the outliers' instead, and the floor holds it up.

    >>> float(floor_hinge(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 2.0))
    0.5
    """
    return functional.relu(floor - torch.linalg.vector_norm(features, dim=1)).mean()


def feature_views(
    rows: np.ndarray, noise: float, dropout: float, rng: np.random.Generator
) -> np.ndarray:
    """float32 [n, d], one random view of each unit row: normalise(mask ∘ x + noise·ε/√d).

    ε is standard normal, so the noise has a length of about `noise`; every coordinate of x is lost
    with chance `dropout`. A view of nothing but lost coordinates and no noise stays x.
    """
    kept = rng.random(rows.shape, np.float32) >= dropout
    moved = rows * kept
    moved += np.float32(noise / np.sqrt(rows.shape[1])) * rng.standard_normal(
        rows.shape, np.float32
    )
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.where(length > 1e-6, moved / np.maximum(length, 1e-6), rows).astype(np.float32)
