"""Golden counts on corpora as their authors publish them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blissaudit.corpora.registry import CorpusOptions, open_corpus

DATA = os.environ.get("BLISS_TEST_DATA")

pytestmark = pytest.mark.skipif(
    DATA is None, reason="the real corpora are not here: BLISS_TEST_DATA is not set"
)


@pytest.fixture(scope="module")
def kept(kept_captions: Callable[..., Any]) -> Callable[..., Any]:
    """`kept(name, options)` is what an index would hold of one of the corpora."""
    return lambda name, *options: kept_captions(open_corpus(str(Path(DATA or "") / name), *options))


@pytest.mark.parametrize(
    ("name", "texts", "first", "last"),
    [
        (
            "texts/flickr8k-dataset",
            (40_460, 0, 254),
            "A child in a pink dress is climbing up a set of stairs in an entry way .",
            40_459,
        ),
        ("texts/coco_captions_val2017.json", (25_014, 0, 225), None, 25_013),
        ("texts/flavors.txt", (100_970, 1, 15), "highly detailed", 100_969),
        ("texts/wordnet_words.txt", (82_115, 0, 0), "n00001740 entity", 82_114),
        ("texts/laion-words.txt", (37_445, 0, 0), "uncondition", 37_444),
        ("texts/laion-bigrams.txt", (15_000, 0, 0), "bath shower", 14_999),
    ],
)
def test_counts(
    kept: Callable[..., Any],
    name: str,
    texts: tuple[int, int, int],
    first: str | None,
    last: int,
) -> None:
    read, empty, duplicate = texts
    found = kept(name)
    assert found.counts == {
        "read": read,
        "empty": empty,
        "too_short": 0,
        "too_long": 0,
        "duplicate": duplicate,
        "kept": read - empty - duplicate,
    }
    assert found.captions[0] == (first or "A black Honda motorcycle parked in front of a garage.")
    assert len(set(found.captions)) == len(found.captions) == len(found.rows)
    assert found.rows[-1] == last


def test_parquet_metadata_has_the_same_captions_as_its_readme_says(
    kept: Callable[..., Any],
) -> None:
    found = kept("real/texts/photo-of-a/metadata/metadata_0.parquet", CorpusOptions("caption"))
    assert found.counts["read"] == 2283
    assert found.captions[:2] == ["a photo of a tench", "a photo of a goldfish"]


def test_all_texts_there_are() -> None:
    """Synsets split into words, Flickr8k's captions without their keys."""
    folder = Path(DATA or "") / "texts"
    cut = {
        "flickr8k.token.txt": CorpusOptions("2"),
        "wordnet_words.txt": CorpusOptions("2", split_cells=","),
    }
    names = sorted(path.name for path in folder.glob("*.*") if path.is_file())
    texts: list[str] = []
    for name in names:
        source = open_corpus(str(folder / name), cut.get(name, CorpusOptions()))
        texts += [text for batch in source.batches(4096) for text in batch.texts]
    assert (len(texts), len(set(texts))) == (375_735, 318_055)
    assert len({text.strip().lower() for text in texts}) == 313_501


def test_the_tab_file_and_the_dataset_hold_the_same_captions(kept: Callable[..., Any]) -> None:
    lines = kept("texts/flickr8k.token.txt", CorpusOptions("2"))
    assert lines.counts["read"] == 40_460
    assert set(lines.captions) == set(kept("texts/flickr8k-dataset").captions)
