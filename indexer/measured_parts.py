"""Parts made from whatever encodes them, with the rate of every stage logged and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..corpora.plan import RowPlan
from ..progress import Progress
from .build_log import log
from .part_building import build_parts
from .stage_rates import StageRates

Encode = Callable[[RowPlan, Sequence[int], StageRates], Iterator[tuple[int, np.ndarray]]]
"""The raw vectors of some parts; what is known of the stages' rates is filled in."""


def make_parts(
    folder: Path,
    plan: RowPlan,
    numbers: Sequence[int],
    encode: Encode,
    dtype: str,
    progress: Progress,
) -> None:
    """Encode and store the parts `numbers`; errors as of `build_parts`.

    Where the encoder's rate is known, it is said which stage set the pace.
    """
    rates = StageRates()
    build_parts(folder, plan, encode(plan, numbers, rates), dtype, rates)
    if rates.limit() is not None:
        log(folder, {"stage": "rates", **rates.facts()})
    for line in rates.report():
        progress(line, 0, 0)
