"""`bliss train`: train what some scores need, over a frozen model."""

from __future__ import annotations

import cloup

from .train_clipn import clipn, clipn_import
from .train_oecl import oecl


@cloup.group()
def train() -> None:
    """Train what some scores need, over a frozen model."""


for command in (clipn, clipn_import, oecl):
    train.add_command(command)
