"""The same encoder again in another process, perhaps on another machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import BlissError
from .encoder import IDENTITY, Encoder, ModelChoice, describe_model

SAME = (*IDENTITY, "precision", "preprocessing")
"""Facts that must be the same there."""


@dataclass(frozen=True)
class WorkerEncoder:
    """What another process needs to load an encoder that gives the same vectors."""

    choice: ModelChoice
    facts: Mapping[str, Any]
    threads: int
    """Threads of the numerical libraries, so that sums are taken in the same order."""


def for_workers(encoder: Encoder, choice: ModelChoice) -> WorkerEncoder:
    """How workers load `encoder`, for which `choice` was asked; a worker sees but one GPU."""
    from .open_clip import threads_used

    facts, seen = encoder.facts, encoder.preprocessing
    exact = replace(
        choice,
        model=facts["model"],
        pretrained=facts.get("pretrained"),
        device="cuda" if (choice.device or "").startswith("cuda") else choice.device,
        precision=facts["precision"],
        batch_size=encoder.batch_size,
        statistics=(tuple(seen.mean), tuple(seen.std)),
    )
    return WorkerEncoder(exact, {name: facts[name] for name in SAME}, threads_used())


def load_for_worker(wanted: WorkerEncoder) -> Encoder:
    """The encoder in this process; errors as `load_encoder`, and BlissError for another model."""
    from .open_clip import load_encoder, use_threads

    use_threads(min(wanted.threads, os.cpu_count() or 1))
    encoder = load_encoder(wanted.choice)
    differing = [name for name in SAME if encoder.facts[name] != wanted.facts[name]]
    if differing:
        raise BlissError(
            f"a worker loaded {describe_model(encoder.facts)}, and other {' and '.join(differing)} "
            f"than the machine that asked",
            "the same model on every machine",
            "Give all of them the same files, or the same download cache",
        )
    return encoder
