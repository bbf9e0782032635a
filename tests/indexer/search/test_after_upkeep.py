"""An approximate structure stays right while its index grows and loses captions."""

import numpy as np
from blissaudit.corpora.registry import open_corpus
from blissaudit.indexer.build.add import add_captions
from blissaudit.indexer.build.build import IndexOptions, build_index
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.search.install import set_search_kind
from blissaudit.indexer.search.row_choice import CaptionFilter, matching_rows
from blissaudit.indexer.store.stored_rows import remove_rows, restore_rows
from blissaudit.indexer.store.verify import verify_index


def corpus(path, texts):
    path.write_text("\n".join(texts))
    return open_corpus(str(path))


def test_added_captions_are_found_and_removed_ones_are_not(small, tmp_path):
    old, new = [f"old {n}" for n in range(60)], [f"new {n}" for n in range(25)]
    source = corpus(tmp_path / "old.txt", old)
    options = IndexOptions(part_rows=16, dtype="float32")
    folder = build_index(source, small.small_encoder(), tmp_path / "index", options).folder
    set_search_kind(folder, "HNSW16", {"efSearch": 512}, threads=1)
    add_captions(folder, [corpus(tmp_path / "new.txt", new)], small.small_encoder())

    def check(texts):
        index = open_index(folder)
        queries = np.stack([small.vector_of(f"query {n}") for n in range(20)])
        rows = np.stack([small.vector_of(text) for text in texts])
        hits = search(index, queries, 4)
        order = np.argsort(-(queries @ rows.T), axis=1)[:, :4]
        expected = [[texts[i] for i in line] for line in order]
        assert [index.captions_of(line) for line in hits.rows] == expected

    check(old + new)
    rows = matching_rows(open_index(folder), CaptionFilter(caption="[13579]$"))
    remove_rows(folder, rows, {"caption": "[13579]$"})
    check([text for text in old + new if text[-1] in "02468"])
    assert open_index(folder).manifest["search"]["rows"] == 60
    checks = list(verify_index(folder, 0, small.small_encoder, lambda *_: None))
    assert [problem for check_ in checks for problem in check_.problems] == []
    structure = next((folder / "search").glob("*.faiss"))
    structure.write_bytes(structure.read_bytes()[:-1])
    checks = list(verify_index(folder, 0, small.small_encoder, lambda *_: None))
    problems = [problem for check_ in checks for problem in check_.problems]
    assert len(problems) == 1 and problems[0].what.startswith(str(structure))
    assert f"`bliss index kind {folder} HNSW16`" in problems[0].remedy
    set_search_kind(folder, "exact")
    restore_rows(folder, last_only=True)
    check(old + new)
