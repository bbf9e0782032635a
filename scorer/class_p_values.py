"""Conformal p-values class by class: is the image unlike the clean images of every class?

For class c, p_c(x) = (1 + #{calibration images of c whose score for c is at least x's})/(m_c + 1),
and p(x) is the largest p_c. A clean image of class y has p >= p_y, and p_y is valid, so p is too,
whatever the shares of the classes are. The price is size: p cannot be below 1/(m_c + 1) for the
class with the fewest calibration images.
"""

from __future__ import annotations

import numpy as np

from ..indexer.stored_rows import Rows
from .calibration import conformal_p_values
from .class_blocks import class_blocks
from .leave_one_out import LeftOut
from .reference import Reference
from .retrieved import Retrieved


def class_p_values(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float,
    left_out: LeftOut,
    calibration: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """float64 [n], the largest over classes of each image's p-value for the class.

    `calibration` is the classes int [m] and the own-class scores float64 [m] of the clean images;
    a class without any gives every image p = 1. Other parameters as of `bliss_scores`.
    """
    labels, scores = calibration
    p = np.zeros(len(images))
    for block in class_blocks(images, retrieved, reference, left_out):
        total = block.ics + weight * block.ets
        for column, number in enumerate(range(block.classes.start, block.classes.stop)):
            own = conformal_p_values(scores[labels == number], total[:, column])
            p[block.images] = np.maximum(p[block.images], own)
    return p
