"""An index built in parts from one or several corpora, interrupted anywhere and gone on with."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.captions import CaptionRules
from blissaudit.corpora.registry import CorpusOptions, open_corpus
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.build import IndexOptions, build_index

SMALL = IndexOptions(part_rows=4)
TEXT = CorpusOptions(column="text")


@pytest.fixture
def names(small, tmp_path):
    return small.names_corpus(tmp_path)


@pytest.fixture
def captions(small, tmp_path):
    return small.captions_corpus(tmp_path)


def test_several_corpora_keep_their_order_prompts_names_and_licences(
    names, captions, small, tmp_path
):
    seen = small.Seen()
    options = IndexOptions(part_rows=4, licences=("names.txt=CC0", "captions.txt=CC BY 4.0"))
    with pytest.raises(UsageError, match=r"'names\.txt=CC0' names no source.*paper-dictionary:na"):
        build_index([names, captions], small.small_encoder(), tmp_path / "x", options)
    options = IndexOptions(
        part_rows=4, licences=("paper-dictionary:names.txt=CC0", "captions.txt=CC BY 4.0")
    )
    folder = tmp_path / "index"
    index = build_index([names, captions], small.small_encoder(seen), folder, options)
    kept = ["ant", "bee", "wasp", "cat", "a bee", "a dog", "an eel", "a fox", "a gnu"]
    assert index.captions_of(np.arange(9)) == kept
    asked = [f"This is a photo of a {name}" for name in kept[:4]] + kept[4:]
    assert seen.texts == asked
    expected = np.stack([small.vector_of(text) for text in asked])
    np.testing.assert_allclose(index.vectors[np.arange(9)], expected, atol=1e-3)
    manifest = index.manifest
    assert manifest["parts"] == [4, 4, 1] and manifest["count"] == 9
    assert manifest["prompts"] is None and manifest["removed"] is None
    first, second = manifest["sources"]
    assert (first["name"], first["licence"], first["rows"]) == (names.spec, "CC0", 4)
    assert (second["name"], second["licence"], second["rows"]) == (captions.spec, "CC BY 4.0", 5)
    assert first["corpus"] == names.facts() and second["prompts"] == ["{}"]
    zero = {"too_short": 0, "too_long": 0, "unusable": 0}
    assert first["counts"] == {**zero, "read": 4, "empty": 0, "duplicate": 0, "kept": 4}
    assert second["counts"] == {**zero, "read": 8, "empty": 1, "duplicate": 2, "kept": 5}
    assert manifest["counts"] == {**zero, "read": 12, "empty": 1, "duplicate": 2, "kept": 9}
    table = pq.read_table(folder / "metadata" / "metadata_1.parquet").to_pylist()
    assert table[0] == {
        "caption": "a bee",
        "source_row": 0,
        "source": "captions.txt",
        "licence": "CC BY 4.0",
    }
    assert [origin.licence for origin in index.origins_of(np.array([3, 4]))] == [
        "CC0",
        "CC BY 4.0",
    ]
    left = {path.name for path in folder.iterdir()}
    assert left == {"manifest.json", "captions", "metadata", "text_emb"}


def test_one_prompt_for_all_and_one_licence_for_all(names, captions, small, tmp_path):
    seen = small.Seen()
    options = IndexOptions(part_rows=4, prompts=("a {}", "b {}"), licences=("CC0",))
    index = build_index([captions, names], small.small_encoder(seen), tmp_path / "index", options)
    assert [source["licence"] for source in index.manifest["sources"]] == ["CC0", "CC0"]
    assert index.manifest["prompts"] == ["a {}", "b {}"]
    assert seen.texts[:2] == ["a a bee", "a wasp"]
    pair = small.vector_of("a wasp") + small.vector_of("b wasp")
    np.testing.assert_allclose(
        index.vectors[np.array([1])][0], pair / np.linalg.norm(pair), atol=1e-3
    )
    twice = build_index([names, names], small.small_encoder(), tmp_path / "twice", SMALL)
    assert [source["name"] for source in twice.manifest["sources"]] == [
        names.spec,
        f"{names.spec}#2",
    ]
    assert twice.manifest["sources"][1]["counts"]["duplicate"] == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rules": CaptionRules(max_characters=9)}, r"rules\.max_characters"),
        ({"dtype": "float32"}, "dtype"),
        ({"part_rows": 5}, "part_rows"),
        ({"near_duplicates": 0.9}, "near_duplicates"),
        ({"licences": ("CC0",)}, r"sources\[0\]\.licence, sources\[1\]\.licence"),
        ({"prompts": ("{}",)}, r"sources\[0\]\.prompts"),
    ],
)
def test_another_option_is_refused_by_name(names, captions, small, tmp_path, change, named):
    folder = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        build_index([names, captions], small.small_encoder(small.Seen([], 0)), folder, SMALL)
    options = IndexOptions(**{"part_rows": 4, **change})
    with pytest.raises(
        UsageError, match=rf"was made with other settings \({named} differ\)\. Need"
    ):
        build_index([names, captions], small.small_encoder(), folder, options)


def test_another_model_source_or_content_is_refused_by_name(names, captions, small, tmp_path):
    folder = tmp_path / "index"
    build_index([names, captions], small.small_encoder(), folder, SMALL)
    before = small.files_of(folder)

    def refused(sources, encoder, named):
        with pytest.raises(UsageError, match=rf"other settings \({named} differ\)"):
            build_index(sources, encoder, folder, SMALL)

    other = small.small_encoder(weights_sha256="1" * 64)
    refused([names, captions], other, "weights_sha256")
    refused([names], small.small_encoder(), r"sources\[1\]")
    (tmp_path / "captions.txt").write_text("a bee\n")
    captions = open_corpus(str(tmp_path / "captions.txt"))
    refused([names, captions], small.small_encoder(), r"sources\[1\]\.fingerprint")
    assert small.files_of(folder) == before
    again = IndexOptions(part_rows=4, overwrite=True)
    index = build_index([names, captions], other, folder, again)
    assert index.model["weights_sha256"] == "1" * 64 and index.count == 5
    fresh = build_index([names, captions], other, tmp_path / "fresh", SMALL)
    assert small.files_of(folder) == small.files_of(fresh.folder)


def test_a_torn_corpus_leaves_nothing_behind_that_its_repaired_file_would_not_fit(
    names, small, tmp_path
):
    torn, folder = tmp_path / "torn.jsonl", tmp_path / "index"
    torn.write_text('{"text": "a cow"}\n{"text": "a h')
    with pytest.raises(BlissError, match=r"line 2 of .*torn\.jsonl cannot be read"):
        build_index([names, open_corpus(str(torn), TEXT)], small.small_encoder(), folder, SMALL)
    torn.write_text('{"text": "a cow"}\n{"text": "a hen"}\n')
    index = build_index([names, open_corpus(str(torn), TEXT)], small.small_encoder(), folder, SMALL)
    assert index.captions_of(np.arange(4, 6)) == ["a cow", "a hen"]


def test_no_corpus_and_impossible_options(small, tmp_path, captions):
    with pytest.raises(UsageError, match=r"no corpus was given\. Needed: at least one"):
        build_index([], small.small_encoder(), tmp_path / "x", SMALL)
    with pytest.raises(
        UsageError,
        match=r"cosine of 1\.0 was given for near duplicates\. Needed: a cosine above",
    ):
        IndexOptions(near_duplicates=1.0)
    for licences in (("a=b",), ("CC0", "MIT")):
        with pytest.raises(
            UsageError, match=r"names no source\. Needed: NAME=TEXT with one of cap"
        ):
            build_index(
                captions, small.small_encoder(), tmp_path / "x", IndexOptions(licences=licences)
            )
    both = IndexOptions(licences=("captions.txt=CC0", "captions.txt=MIT"))
    with pytest.raises(
        UsageError, match=r"two licences were given for captions\.txt\. Needed: one"
    ):
        build_index(captions, small.small_encoder(), tmp_path / "x", both)
