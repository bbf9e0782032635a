"""The published CLIPN checkpoints: a torch file of a whole model, read as weights only.

Its state dict, raw or under `state_dict`, perhaps with `module.` before every name, has all names
of the open_clip model and, beside them, those of the "no" tower, which carry the names used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ..errors import BlissError, UsageError
from .clipn_tower import NoTower, check_state

NOT_COMPARED = ("logit_scale",)
"""What training moves although the towers are frozen."""
SAME = 2e-3
"""Largest |Δ| of a frozen tensor, as a share of its largest entry: half precision rounds."""


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by their names without `module.`.

    Raises UsageError where there is no such file, BlissError where it is none of torch's, holds
    anything but weights, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "a CLIPN checkpoint", "Correct the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BlissError(
            f"{path} could not be read as weights ({' '.join(str(error).split())[:200]})",
            "a whole file that torch.save wrote, with tensors and plain values alone",
            "Fetch it again, or convert it where you trust its source",
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise BlissError(f"{path} holds no state dict", "a CLIPN checkpoint", "Give another file")
    strange = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise BlissError(
            f"{path} holds {', '.join(strange[:5])}, which are no tensors",
            "a state dict, raw or under state_dict",
            "Give another file",
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def no_tower_of(state: Mapping[str, torch.Tensor], model: nn.Module, name: str) -> NoTower:
    """The tower of a checkpoint over the frozen model it says it was trained over.

    Raises BlissError naming the tensors where the checkpoint lacks one of either tower, has one
    more, or where the frozen ones are of another shape or hold other weights than `model`'s.
    """
    tower = NoTower(model)
    wanted = set(tower.state_dict())
    frozen = model.state_dict()
    rest = {key: value for key, value in state.items() if key not in wanted}
    wrong = [f"no {key}" for key in sorted(set(frozen) - set(rest))]
    wrong += [f"an unknown {key}" for key in sorted(set(rest) - set(frozen))]
    wrong += [
        _difference(key, rest[key], frozen[key])
        for key in sorted(set(frozen) & set(rest))
        if key not in NOT_COMPARED
    ]
    wrong = [each for each in wrong if each]
    if wrong:
        more = f" and {len(wrong) - 5} more" if wrong[5:] else ""
        raise BlissError(
            f"{name} has {', '.join(wrong[:5])}{more}",
            "a CLIPN checkpoint over the model given",
            "Give the --model and --pretrained it was trained over",
        )
    own = {key: value.float() for key, value in state.items() if key in wanted}
    check_state(own, tower, name)
    tower.load_state_dict(own)
    return tower.eval()


def _difference(key: str, found: torch.Tensor, expected: torch.Tensor) -> str:
    """What is wrong with a frozen tensor; nothing where it is the model's."""
    if found.shape != expected.shape:
        return f"{key} of shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if not expected.is_floating_point():
        return ""
    expected = expected.cpu().float()
    apart = (found.float() - expected).abs().max() if expected.numel() else torch.zeros(())
    same = bool(apart <= SAME * expected.abs().max().clamp(min=1e-3))
    return "" if same else f"{key} with other weights"
