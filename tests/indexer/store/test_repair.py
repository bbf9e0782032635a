"""`bliss index build --repair`: damaged parts made again, if they come out alike."""

import json
import os

import pytest
from blissaudit.corpora.registry import open_corpus
from blissaudit.errors import BlissError
from blissaudit.indexer.build.add import add_captions
from blissaudit.indexer.build.build import IndexOptions, build_index

TEXTS = [f"caption {number}" for number in range(11)]
SMALL, REPAIR = IndexOptions(part_rows=4), IndexOptions(part_rows=4, repair=True)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(TEXTS))
    return open_corpus(str(tmp_path / "c.txt"))


def test_only_the_damaged_parts_are_embedded_again_and_only_damaged_files_replaced(
    source, small, tmp_path
):
    folder = build_index(source, small.small_encoder(), tmp_path / "index", SMALL).folder
    whole = small.files_of(folder)
    (folder / "text_emb/text_emb_1.npy").unlink()
    (folder / "captions/captions_2.bin").write_bytes(b"x")
    times = {path: os.stat(path).st_mtime_ns for path in folder.rglob("*_0.*")}
    seen = small.Seen()
    build_index(source, small.small_encoder(seen), folder, REPAIR)
    assert seen.texts == TEXTS[4:]
    assert small.files_of(folder) == whole
    assert {path: os.stat(path).st_mtime_ns for path in times} == times
    seen = small.Seen()
    build_index(source, small.small_encoder(seen), folder, REPAIR)
    assert seen.texts == []


def test_an_interrupted_repair_goes_on(source, small, tmp_path, monkeypatch):
    from blissaudit.indexer.build import parts as encoded_parts

    folder = build_index(source, small.small_encoder(), tmp_path / "index", SMALL).folder
    whole = small.files_of(folder)
    for number in range(3):
        (folder / f"metadata/metadata_{number}.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(encoded_parts, "CAPTIONS_AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        build_index(source, small.small_encoder(small.Seen([], 7)), folder, REPAIR)
    seen = small.Seen()
    build_index(source, small.small_encoder(seen), folder, REPAIR)
    assert seen.texts == TEXTS[4:]
    assert small.files_of(folder) == whole


def test_what_comes_out_differently_is_not_put_back(source, small, tmp_path, monkeypatch):
    folder = build_index(source, small.small_encoder(), tmp_path / "index", SMALL).folder
    vectors = folder / "text_emb/text_emb_1.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    damaged = small.files_of(folder)
    real = small.vector_of
    monkeypatch.setattr(small, "vector_of", lambda text: real(text + "!"))
    with pytest.raises(
        BlissError, match=r"text_emb_1\.npy of .* came out different when built again"
    ):
        build_index(source, small.small_encoder(), folder, REPAIR)
    assert small.files_of(folder) == damaged


def test_added_parts_and_other_files_are_beyond_repair(source, small, tmp_path):
    folder = build_index(source, small.small_encoder(), tmp_path / "index", SMALL).folder
    (tmp_path / "more.txt").write_text("more\n")
    add_captions(folder, [open_corpus(str(tmp_path / "more.txt"))], small.small_encoder())
    (folder / "text_emb/text_emb_3.npy").unlink()
    with pytest.raises(BlissError, match=r"part 3 of .*, which was added to the index later, is d"):
        build_index(source, small.small_encoder(), folder, REPAIR)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"]["../x"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BlissError, match=r"lists '\.\./x'\. Needed: only files that a caption in"):
        build_index(source, small.small_encoder(), folder, REPAIR)
