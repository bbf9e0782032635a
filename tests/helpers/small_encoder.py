"""An encoder without a model, each text's vector from its hash, and two corpora for it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from blissaudit.corpora.registry import TextSource, open_corpus
from blissaudit.indexer.encode.encoder import Encoder

D = 16


@dataclass
class Seen:
    """The texts an encoder was given, in order, and after how many it raises."""

    texts: list[str] = field(default_factory=list)
    fails_after: int | None = None


def vector_of(text: str) -> np.ndarray:
    """float32 [D], a unit vector that depends on the text alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    row = np.random.default_rng(seed).standard_normal(D)
    return (row / np.linalg.norm(row)).astype(np.float32)


def small_encoder(seen: Seen | None = None, **facts: object) -> Encoder:
    """The encoder; `facts` replace those it states."""
    noted = seen or Seen()

    def encode(texts: Sequence[str]) -> np.ndarray:
        noted.texts.extend(texts)
        if noted.fails_after is not None and len(noted.texts) > noted.fails_after:
            raise KeyboardInterrupt
        return np.stack([vector_of(text) for text in texts])

    stated = {"model": "small", "pretrained": None, "weights_sha256": "0" * 64, "dimension": D}
    return Encoder(
        facts={**stated, "precision": "fp32", **facts},
        preprocessing=None,  # type: ignore[arg-type]
        batch_size=8,
        encode_texts=encode,
        encode_images=lambda pixels: pixels,
    )


def names_corpus(folder: Path) -> TextSource:
    """Four names, of three lines, one of which the captions hold too."""
    path = folder / "names.txt"
    path.write_text("ant\nbee, wasp\ncat\n")
    return open_corpus(f"paper-dictionary:{path}")


def captions_corpus(folder: Path) -> TextSource:
    """Eight captions: an empty one, one that is there twice, and a name."""
    path = folder / "captions.txt"
    path.write_text("a bee\nwasp\n\na  dog\na dog\nan eel\na fox\na gnu\n")
    return open_corpus(str(path))


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder but the log of timings, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
