"""`bliss train clipn` and `clipn-import`: from a request to a CLIPN folder.

A published checkpoint is a torch file of a whole model, read as weights only. Its state dict, raw
or under `state_dict`, perhaps with `module.` before every name, has all names of the open_clip
model and those of the "no" tower, which have the same names here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from ..artefacts import sha256_of
from ..corpora import COLUMN_SUFFIXES, ImageList, open_text_file
from ..demo import FILE_SIZE, KINDS, Scene, caption, picture_as_file, sample_scene
from ..errors import BlissError, UsageError
from ..indexer import (
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    LoadedModel,
    ModelChoice,
    Preprocessing,
    caption_lengths,
    embed_images,
    encoder_of_model,
    load_model,
    resize_and_crop,
    whole_rows,
)
from ..progress import Progress, no_progress
from ..safe_text import some_of
from .clipn_folder import IMAGES, Clipn, check_output, open_clipn, write_clipn
from .clipn_tower import (
    CurvePoint,
    NoTower,
    Pairs,
    TrainingSettings,
    check_state,
    make_no_tower,
    train_no_tower,
)

IMAGE_COLUMNS = ("image", "image_path", "path", "file_name", "filename", "filepath", "file")
DEMO = "demo"
DEMO_PAIRS = 4800
"""Pairs of `demo`, evenly over its kinds; `demo:N` draws N."""
_CHUNK = 200


@dataclass(frozen=True)
class CaptionTable:
    """n pairs as a file names them; the i-th caption is of the i-th image path."""

    paths: tuple[str, ...]
    captions: tuple[str, ...]
    dropped: int
    """Records without a caption or without a path."""


def read_table(path: str, image_column: str | None, column: str | None) -> CaptionTable:
    """The pairs of a csv, tsv, jsonl or parquet file.

    The captions' column is the obvious one, the images' the first of IMAGE_COLUMNS, where none is
    named. UsageError where a column is missing or the file is of another kind; BlissError where
    fewer than two pairs are in it.
    """
    file = Path(path)
    if not file.is_file() or file.suffix.lower() not in COLUMN_SUFFIXES:
        raise UsageError(
            f"--captions {path} was given",
            f"demo, or a {', '.join(COLUMN_SUFFIXES)} file of image paths and captions",
            "Correct --captions",
        )
    image_column = image_column or _image_column(file)
    images: dict[int, str] = {}
    for batch in open_text_file(file, image_column).batches(4096):
        images.update(zip(batch.rows.tolist(), batch.texts, strict=True))
    paths: list[str] = []
    captions: list[str] = []
    dropped = 0
    for batch in open_text_file(file, column).batches(4096):
        for row, text in zip(batch.rows.tolist(), batch.texts, strict=True):
            text, image = " ".join(text.split()), images.get(row, "")
            if text and image:
                paths.append(image)
                captions.append(text)
            else:
                dropped += 1
    if len(paths) < 2:
        raise BlissError(
            f"{path} holds {len(paths)} pairs of an image and a caption",
            "two at least, and better thousands",
            "Check its columns",
        )
    return CaptionTable(tuple(paths), tuple(captions), dropped)


def listed_images(table: CaptionTable, root: str) -> ImageList:
    """Each image of the table once, under `root`; UsageError where the first is not there."""
    different = tuple(dict.fromkeys(table.paths))
    if not os.path.exists(os.path.join(root, different[0])):
        raise UsageError(
            f"there is no {different[0]} in {root}",
            "the folder the image paths start from",
            "Add --image-root DIR",
        )
    return ImageList(root, different, (None,) * len(different))


def make_pairs(
    images: np.ndarray,
    image: np.ndarray,
    captions: Sequence[str],
    encoder: Encoder,
    tokenizer: Any,
    group: np.ndarray | None = None,
) -> Pairs:
    """Pairs of unit rows `images` [m, d] by their rows `image` [n], and n captions.

    Pairs with the same caption are of one group, unless groups int64 [n] are given. Each different
    caption is tokenised and embedded once.
    """
    texts, caption_rows = np.unique(np.array(captions, object), return_inverse=True)
    tokens = tokenizer(list(texts)).numpy().astype(np.int32)
    pad = int(tokenizer(["a"])[0, -1])
    lengths = np.full(len(tokens), tokens.shape[1])
    if encoder.facts["short_captions_exact"]:
        lengths = caption_lengths(tokens, pad)
    yes = encoder.encode_texts(list(texts))
    group = caption_rows if group is None else group
    return Pairs(images, yes, tokens, lengths, np.asarray(image), caption_rows, group)


def demo_pairs(count: int, seed: int, encoder: Encoder, tokenizer: Any) -> Pairs:
    """Drawn scenes with a right caption each; pairs of a kind are of one group."""
    rng = np.random.default_rng([seed, 11])
    scenes = [sample_scene(rng, KINDS[number % len(KINDS)]) for number in range(count)]
    captions = [caption(scene, rng) for scene in scenes]
    render = partial(_rendered, preprocessing=encoder.preprocessing)
    chunks = [scenes[at : at + _CHUNK] for at in range(0, count, _CHUNK)]
    if len(chunks) == 1:
        pixels = render(chunks[0])
    else:
        with ProcessPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as pool:
            pixels = np.concatenate(list(pool.map(render, chunks)))
    size = encoder.batch_size
    rows = [encoder.encode_images(pixels[at : at + size]) for at in range(0, count, size)]
    kinds = np.arange(count) % len(KINDS)
    return make_pairs(
        np.concatenate(rows), np.arange(count), captions, encoder, tokenizer, group=kinds
    )


def demo_count(spec: str) -> int | None:
    """How many pairs `demo` or `demo:N` asks for; None for anything else."""
    name, colon, count = spec.partition(":")
    if name != DEMO:
        return None
    if not colon:
        return DEMO_PAIRS
    if not count.isascii() or not count.isdigit() or int(count) < 2:
        raise UsageError(f"--captions {spec} was given", "demo:N with N 2 or more", "Correct it")
    return int(count)


def _rendered(scenes: list[Scene], preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [b, height, width, 3], what a reader of the scenes' files gives the model."""
    pictures = [picture_as_file(scene, 80 + scene.seed % 16) for scene in scenes]
    most = FILE_SIZE**2 * 64
    return np.stack([np.asarray(resize_and_crop(one, preprocessing, most)) for one in pictures])


def _image_column(file: Path) -> str:
    for name in IMAGE_COLUMNS:
        try:
            return open_text_file(file, name).column or name
        except UsageError:
            continue
    raise UsageError(
        f"{file} has no column {', '.join(IMAGE_COLUMNS[:-1])} or {IMAGE_COLUMNS[-1]}",
        "one with the path of each image",
        "Name it with --image-column",
    )


Say = Callable[[str], None]
TRIED = ["a dog", "This is a photo of a small red house near the water"]
"""Captions on which a fresh tower must equal the model's own."""


@dataclass(frozen=True)
class ClipnRequest:
    """What `bliss train clipn` is to do."""

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
        raise BlissError(
            f"{name} has {some_of(wrong, 5)}",
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
