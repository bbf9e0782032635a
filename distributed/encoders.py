"""The encoder of a command, loaded again in a worker process, perhaps on another machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import BlissError
from ..indexer import IDENTITY, Encoder, ModelChoice, describe_model

CHECKED_FACTS = (*IDENTITY, "precision", "preprocessing")
"""Facts that must be the same in the worker."""


@dataclass(frozen=True)
class WorkerEncoder:
    """What a worker needs to load an encoder that gives the same vectors."""

    choice: ModelChoice
    facts: Mapping[str, Any]
    threads: int
    """Threads of torch, so that sums are taken in the same order."""


def for_workers(encoder: Encoder, choice: ModelChoice) -> WorkerEncoder:
    """How workers load `encoder`, which was loaded for `choice`; a worker sees only one GPU."""
    from ..indexer import threads_used

    facts, preprocessing = encoder.facts, encoder.preprocessing
    resolved = replace(
        choice,
        model=facts["model"],
        pretrained=facts.get("pretrained"),
        device="cuda" if (choice.device or "").startswith("cuda") else choice.device,
        precision=facts["precision"],
        batch_size=encoder.batch_size,
        statistics=(tuple(preprocessing.mean), tuple(preprocessing.std)),
    )
    return WorkerEncoder(resolved, {name: facts[name] for name in CHECKED_FACTS}, threads_used())


def load_for_worker(wanted: WorkerEncoder) -> Encoder:
    """The encoder in this process; errors as `load_encoder`, and BlissError for another model."""
    from ..indexer import load_encoder, use_threads

    use_threads(min(wanted.threads, os.cpu_count() or 1))
    encoder = load_encoder(wanted.choice)
    differing = [name for name in CHECKED_FACTS if encoder.facts[name] != wanted.facts[name]]
    if differing:
        raise BlissError(
            f"a worker loaded {describe_model(encoder.facts)}, whose {' and '.join(differing)} "
            f"differ{'s' * (len(differing) == 1)} from the driver's",
            "the same model on every machine",
            "Give all machines the same files, or the same download cache",
        )
    return encoder
