"""Which models may be loaded because an artefact names them, and which only the user may name.

The manifest of an index, a reference, a run or a trained head names its model, and may come from
anybody. `demo` and open_clip's own architectures with weights that open_clip itself lists are
loaded on its word. Any other is *foreign*: it is loaded if the user has named it with `--model` on
this machine (see `choosing`) and refused otherwise, before any file is read or address
contacted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import BlissError, ModelNotNamed
from .choosing import FOLDER, HUB, named_state
from .choosing import remember_model as remember_model
from .encoder import DEMO_MODEL, ModelChoice, demo_model


def model_named_by(
    choice: ModelChoice, facts: Mapping[str, Any], made_by: str, *, file: str = "the manifest"
) -> ModelChoice:
    """`choice` with the model that `facts` name: the only way from an artefact to a model to load.

    `made_by` is the artefact, for messages. Raises ModelNotNamed for a foreign model that the user
    has not named on this machine, BlissError where the facts hold no names.
    """
    model, pretrained = facts.get("model"), facts.get("pretrained")
    if not isinstance(model, str) or not isinstance(pretrained, str | None):
        raise BlissError(
            f"{file} of {made_by} does not name its model with text",
            "the name of a model, and of its weights where it needs any",
            "Give --model, and --pretrained with it, or restore the file from a backup",
        )
    if _is_foreign(model, pretrained):
        state = named_state(model, pretrained)
        if state != "named":
            what = f"weights {pretrained} for {model}" if pretrained else f"the model {model}"
            problem = "has changed since you named it"
            if state == "unknown":
                problem = "you have not named on this machine"
            raise ModelNotNamed(
                f"{made_by} names {what}, which {problem}",
                "your own word for a model that does not come with open_clip: only what you name "
                "with --model is loaded or fetched",
                ("--model", model, *(("--pretrained", pretrained) if pretrained else ())),
            )
    return replace(choice, model=model, pretrained=pretrained)


def _is_foreign(model: str, pretrained: str | None) -> bool:
    if model in (DEMO_MODEL, demo_model()):
        return False
    if model.startswith((HUB, FOLDER)):
        return True
    if pretrained is None:
        return False
    from .open_clip import lists_weights

    return not lists_weights(model, pretrained)
