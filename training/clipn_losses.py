"""The two losses of CLIPN (Wang et al., ICCV 2023, arXiv 2308.12213), on unit rows.

Images x, captions' "yes" vectors t and "no" vectors t_no; p_yes(i, j) is the softmax of the two
cosines x_i·t_j and x_i·t_no,j at CLIP's scale.
"""

from __future__ import annotations

import torch
from torch.nn import functional

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
    said = -functional.logsigmoid(margin.diagonal()).mean()
    if wrong is None:
        wrong = ~torch.eye(len(images), dtype=torch.bool, device=images.device)
    if not wrong.any():
        return said
    return said - functional.logsigmoid(-margin[wrong]).mean()


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
