"""`bliss train clipn` and `clipn-import`: from a request to a CLIPN folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from ..artefacts import sha256_of
from ..indexer.embedded_images import EmbeddedImages
from ..indexer.encode.encoder import Encoder, ModelChoice
from ..indexer.images.embedding import EmbedOptions, embed_images
from ..indexer.open_clip_encoder import encoder_of_model
from ..indexer.open_clip_loading import LoadedModel, load_model
from ..indexer.stored_rows import whole_rows
from ..progress import Progress, no_progress
from .clipn_checkpoint import no_tower_of, read_checkpoint
from .clipn_folder import IMAGES, Clipn, check_output, open_clipn, write_clipn
from .clipn_pairs import demo_count, demo_pairs, listed_images, make_pairs, read_table
from .clipn_tower import NoTower, make_no_tower
from .clipn_training import CurvePoint, Pairs, TrainingSettings, train_no_tower

Say = Callable[[str], None]
TRIED = ["a dog", "This is a photo of a small red house near the water"]
"""Captions on which a fresh tower must equal the model's own."""


@dataclass(frozen=True)
class ClipnRequest:
    """What `bliss train clipn` was asked to do."""

    captions: str
    """`demo`, `demo:N`, or a table of image paths and captions."""
    output: str
    images: str | None = None
    """Where the table's paths start; its own folder if None."""
    column: str | None = None
    image_column: str | None = None
    model: ModelChoice = field(default_factory=ModelChoice)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    embed: EmbedOptions = field(default_factory=EmbedOptions)


def run_clipn(
    request: ClipnRequest, progress: Progress = no_progress, say: Say = lambda line: None
) -> Clipn:
    """Embed the pairs, train, and write the CLIPN; what is best so far is written on the way.

    Embeddings of an interrupted run in the same folder are used again. Errors as of the parts.
    """
    output, began = Path(request.output), time.monotonic()
    check_output(output, request.embed.overwrite)
    demo = demo_count(request.captions)
    table = None
    if demo is None:
        table = read_table(request.captions, request.image_column, request.column)
    loaded, encoder = _model(request.model, say)
    tower = make_no_tower(loaded.model, loaded.tokenizer(TRIED).to(_device(loaded)))
    counts: dict[str, int] = {"failures": 0, "dropped": 0}
    if demo is not None:
        pairs = demo_pairs(demo, request.settings.seed, encoder, loaded.tokenizer)
    else:
        assert table is not None
        listed = listed_images(table, request.images or str(Path(request.captions).parent))
        found = embed_images(listed, encoder, output / IMAGES, request.embed, progress)
        pairs = _table_pairs(found, table.paths, table.captions, encoder, loaded.tokenizer)
        counts = {"failures": len(found.failures), "dropped": table.dropped}
    counts |= {
        "pairs": len(pairs.image), "images": len(pairs.images), "captions": len(pairs.yes)
    }  # fmt: skip
    facts = {
        "source": "trained",
        "captions": request.captions if demo is not None else Path(request.captions).name,
        "counts": counts,
        "settings": asdict(request.settings),
    }

    def save(so_far: NoTower, curve: list[CurvePoint]) -> None:
        best = min(curve, key=lambda point: point.held_out)
        written = {
            **facts,
            "steps": best.step,
            "last_step": curve[-1].step,
            "finished": curve[-1].step == request.settings.steps,
            "losses": asdict(best),
            "seconds": round(time.monotonic() - began, 1),
        }
        rows = [asdict(point) for point in curve]
        write_clipn(output, _bytes(so_far), encoder.facts, rows, written)

    curve = train_no_tower(tower, pairs, request.settings, progress, save)
    save(tower, curve)
    return open_clipn(output)


def run_import(
    checkpoint: str, output: str, choice: ModelChoice, overwrite: bool, say: Say = lambda line: None
) -> Clipn:
    """Save the "no" tower of a published checkpoint as a CLIPN folder."""
    check_output(output, overwrite)
    state = read_checkpoint(checkpoint)
    loaded, encoder = _model(choice, say)
    make_no_tower(loaded.model, loaded.tokenizer(TRIED).to(_device(loaded)))
    tower = no_tower_of(state, loaded.model, checkpoint)
    source = {"name": Path(checkpoint).name, "sha256": sha256_of(Path(checkpoint))}
    write_clipn(Path(output), _bytes(tower), encoder.facts, [], {"source": source, "steps": 0})
    return open_clipn(output)


def _model(choice: ModelChoice, say: Say) -> tuple[LoadedModel, Encoder]:
    loaded = load_model(choice)
    tag = f" ({loaded.facts['pretrained']})" if loaded.facts["pretrained"] else ""
    say(f"model {loaded.facts['model']}{tag}, {loaded.chosen}")
    return loaded, encoder_of_model(loaded)


def _device(loaded: LoadedModel) -> Any:
    return next(loaded.model.parameters()).device


def _bytes(tower: NoTower) -> bytes:
    state: Mapping[str, Any] = tower.state_dict()
    return safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in state.items()}
    )


def _table_pairs(
    found: EmbeddedImages,
    paths: tuple[str, ...],
    captions: tuple[str, ...],
    encoder: Encoder,
    tokenizer: Any,
) -> Pairs:
    """The pairs whose image could be read."""
    numbers = {path: number for number, path in enumerate(found.paths)}
    kept = [at for at, path in enumerate(paths) if path in numbers]
    image = np.array([numbers[paths[at]] for at in kept], np.int64)
    return make_pairs(
        whole_rows(found.vectors), image, [captions[at] for at in kept], encoder, tokenizer
    )
