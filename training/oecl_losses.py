"""The three terms of OECL's loss (Le-Gia and Ahn, arXiv 2312.15288); the floor is our addition.

z = f(x) are features of the projection head before normalisation, one row an image.
"""

from __future__ import annotations

import torch
from torch.nn import functional


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
