"""Which encoder a command uses when it is not told, and what it says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import BlissError, UsageError
from ..indexer.caption_index import CaptionIndex
from ..indexer.encoding import Encoder, ModelChoice, check_same_model
from ..scorer.reference import Reference

Say = Callable[[str], None]
"""Told, in one line, what was chosen where a request left a choice."""


def encoder_for(
    choice: ModelChoice, index: CaptionIndex | None, reference: Reference | None, say: Say
) -> Encoder:
    """The encoder asked for, or else the one the index or the reference was made with.

    Pixels are standardised as the reference's were, where the choice does not say how.
    Raises UsageError when they were made from embeddings and so name no model, BlissError when
    one of them was made with another model.
    """
    from ..indexer.open_clip_encoder import load_encoder

    made = [artefact for artefact in (index, reference) if artefact is not None]
    if choice.model is None and choice.pretrained is None and made:
        facts = next((each.model for each in made if each.model.get("model")), None)
        if facts is None:
            raise UsageError(
                f"{index.folder if index else 'the reference'} was made from embeddings "
                "and names no model",
                "the model those embeddings came from, to embed anything else",
                "Add --model, and --pretrained with it",
            )
        choice = replace(choice, model=facts["model"], pretrained=facts.get("pretrained"))
    seen = reference.model.get("preprocessing") if reference else None
    if choice.statistics is None and seen:
        choice = replace(choice, statistics=(tuple(seen["mean"]), tuple(seen["std"])))
    encoder = load_encoder(choice)
    tag = f" ({encoder.facts['pretrained']})" if encoder.facts["pretrained"] else ""
    for each in made:
        _check_model(each, encoder)
    say(f"model {encoder.facts['model']}{tag}, {encoder.chosen}")
    return encoder


def encoder_of_run(choice: ModelChoice, facts: Mapping[str, Any], run: str, say: Say) -> Encoder:
    """The encoder asked for, or else the one whose `facts` a finished run states.

    Raises UsageError when the run's embeddings came from elsewhere and name no model.
    """
    from ..indexer.open_clip_encoder import load_encoder

    if choice.model is None and choice.pretrained is None:
        if not facts.get("model"):
            raise UsageError(
                f"{run} was made from embeddings and names no model",
                "the model those embeddings came from",
                "Add --model, and --pretrained with it",
            )
        choice = replace(choice, model=facts["model"], pretrained=facts.get("pretrained"))
    encoder = load_encoder(choice)
    say(f"model {encoder.facts['model']}, {encoder.chosen}")
    return encoder


def _check_model(artefact: CaptionIndex | Reference, encoder: Encoder) -> None:
    name = str(artefact.folder) if isinstance(artefact, CaptionIndex) else "the reference"
    try:
        check_same_model(artefact.model, name, encoder.facts, "the model given")
    except BlissError as error:
        raise BlissError(
            error.given,
            error.needed,
            f"Give the model that {name} was made with, or make {name} again with this one",
        ) from error
