"""The encoder of a command: the one given, or the one its index, reference or run names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import BlissError, UsageError
from ..indexer import CaptionIndex, Encoder, ModelChoice, check_same_model, model_named_by
from ..scorer import Reference

Say = Callable[[str], None]
"""Called with a line on what was chosen where a request left a choice."""

Made = tuple[str, Mapping[str, Any]]
"""The name of something a model made, and that model's facts."""


def encoder_for(
    choice: ModelChoice, index: CaptionIndex | None, reference: Reference | None, say: Say
) -> Encoder:
    """The encoder of `choice`, or by default the one the index or the reference was made with.

    Pixels are standardised as the reference's were, where the choice does not say how.
    Raises UsageError when they were made from embeddings and so name no model, BlissError when
    one of them was made with another model, ModelNotNamed for a foreign one (see `model_named_by`).
    """
    made = [(str(index.folder), index.model)] if index is not None else []
    if reference is not None:
        made.append(("the reference", reference.model))
    return _encoder_like(choice, made, reference.model if reference else {}, say)


def encoder_of_run(choice: ModelChoice, facts: Mapping[str, Any], run: str, say: Say) -> Encoder:
    """The encoder of `choice`, or by default the one whose `facts` a finished run states."""
    return _encoder_like(choice, [(run, facts)], facts, say)


def _encoder_like(
    choice: ModelChoice, made: Sequence[Made], seen: Mapping[str, Any], say: Say
) -> Encoder:
    """`seen` are the facts of the model whose pixels are to be standardised alike."""
    if choice.model is None and choice.pretrained is None and made:
        named = next((each for each in made if each[1].get("model")), None)
        if named is None:
            raise UsageError(
                f"{made[0][0]} was made from embeddings and names no model",
                "the model those embeddings came from, to embed anything else",
                "Add --model, and --pretrained with it",
            )
        choice = model_named_by(choice, named[1], named[0])
    from ..indexer import load_encoder

    pixels = seen.get("preprocessing")
    if choice.statistics is None and pixels:
        choice = replace(choice, statistics=(tuple(pixels["mean"]), tuple(pixels["std"])))
    encoder = load_encoder(choice)
    tag = f" ({encoder.facts['pretrained']})" if encoder.facts["pretrained"] else ""
    for name, model in made:
        try:
            check_same_model(model, name, encoder.facts, "the model given")
        except BlissError as error:
            remedy = f"Give the model that {name} was made with, or make {name} again with this one"
            raise BlissError(error.given, error.needed, remedy) from error
    say(f"model {encoder.facts['model']}{tag}, {encoder.chosen}")
    return encoder
