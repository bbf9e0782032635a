"""The manifest of a caption index: read into fields, refused where edited, written as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store.manifest import IndexFolder


@pytest.fixture
def folder(tmp_path, write_embeddings):
    rows = np.eye(4, dtype=np.float32)
    source = write_embeddings(tmp_path / "source", rows, ["ant", "bee", "cat", "dog"])
    return index_embeddings(source, tmp_path / "index").folder


def test_fields_are_those_of_the_file_and_unknown_ones_stay(folder):
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), "later": {"version": 2}}
    path.write_text(json.dumps(content))
    opened = IndexFolder.open(folder)
    manifest = opened.manifest
    assert (manifest.parts, manifest.stored_count, manifest.dimension) == ((4,), 4, 4)
    assert [(source.name, source.rows) for source in manifest.sources] == [("source", 4)]
    assert manifest.to_json() == content
    opened.with_fields(search={"kind": "exact"}).write_manifest()
    assert json.loads(path.read_text()) == content


def test_the_same_fields_are_written_as_the_same_bytes(folder):
    before = (folder / "manifest.json").read_bytes()
    IndexFolder.open(folder).write_manifest()
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parts", [2, "2"]),
        ("parts", []),
        ("model", {"dimension": 0}),
        ("model", {"dimension": "4"}),
        ("dtype", "int8"),
        ("sources", ["source"]),
        ("checksums", {"text_emb/text_emb_0.npy": 1}),
    ],
)
def test_edited_fields_are_refused_by_name(folder, field, value):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(BlissError, match=rf"manifest\.json has no usable '{field}"):
        open_index(folder)
