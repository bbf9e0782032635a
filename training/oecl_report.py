"""What is printed of a training."""

from __future__ import annotations

from pathlib import Path

from ..scorer.head_file import LOSSES
from .oecl_request import OeclResult


def result_lines(result: OeclResult, output: str) -> list[str]:
    """Counts, losses, the table of AUROCs in %, and who wins."""
    counts, losses = result.counts, result.head.losses
    first, last = losses[0], losses[-1]
    return [
        f"Trained on {counts['normals']} normal and {counts['outliers']} outlier images, "
        f"{len(result.failures)} unreadable, for {len(losses)} epochs.",
        f"Contrastive loss {first[0]:.3f} to {last[0]:.3f}, outlier length {first[1]:.3f} to "
        f"{last[1]:.3f}, floor {first[2]:.3f} to {last[2]:.3f}: {Path(output) / LOSSES}",
        result.held_out,
        "",
        f"{'score':<20}{'AUROC':>7}",
        *(f"{name:<20}{100 * value:>7.2f}" for name, value in result.auroc.items()),
        "",
        result.verdict,
        f"Score with it: bliss audit … --score oecl --head {output}",
    ]
