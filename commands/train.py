"""`bliss train`: train what a score needs beside embeddings."""

from __future__ import annotations

import click

from .train_oecl import oecl


@click.group()
def train() -> None:
    """Train the scores that are trained."""


train.add_command(oecl)
