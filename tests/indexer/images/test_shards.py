"""`--shard i/N`: parts embedded by several jobs make the folder that one run makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from blissaudit.corpora.images.folders import list_images
from blissaudit.errors import FolderInUse
from blissaudit.indexer.build.shards import Shard, running_shard
from blissaudit.indexer.images.embedding import EmbedOptions, embed_images, embed_shard
from blissaudit.progress import no_progress

PARTS = EmbedOptions(part_rows=4, workers=1)


@pytest.fixture(scope="module")
def growing(load_test_file):
    """The helpers of test_embedding.py."""
    return load_test_file("../indexer/images/test_embedding")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bliss` cuts images into parts of five."""
    defaults = EmbedOptions.__init__.__defaults__
    assert defaults is not None
    monkeypatch.setattr(
        EmbedOptions.__init__, "__defaults__", tuple(5 if v == 2048 else v for v in defaults)
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_shards_and_the_same_command_without_give_what_one_run_gives(
    bliss, collection, index, tmp_path, small_parts
):
    shutil.copytree(collection, tmp_path / "clean")
    audit = ("audit", collection, "--index", index, "--reference", tmp_path / "clean")
    audit = (*audit, "--report", "none", "-o")
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert bliss(*audit, whole).code == 0
    ending = "The same command without --shard embeds what is missing and scores the images\n"
    first = bliss(*audit, out, "--shard", "1/2")
    assert (first.code, first.out) == (
        0,
        f"{out}/images: shard 1/2 is done, parts 0, 2 and 4 are missing\n"
        f"{out}/reference-images: shard 1/2 is done, parts 0, 2 and 4 are missing\n{ending}",
    )
    assert sorted(path.name for path in (out / "images" / "img_emb").iterdir()) == [
        "img_emb_1.npy", "img_emb_3.npy", "img_emb_5.npy",
    ]  # fmt: skip
    second = bliss(*audit, out, "--shard", "0/2")
    assert second.code == 0 and second.out.count("shard 0/2 is done, no part is missing\n") == 2
    idle = bliss(*audit, out, "--shard", "9/10")
    assert idle.err.count("there is no part for shard 9/10, so nothing to do: the ") == 2
    last = bliss(*audit, out)
    assert last.code == 0 and "images read, none of them new: 26 of 26" in last.err
    for name in ("images", "reference-images"):
        assert content(out / name) == content(whole / name)
    assert (out / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()
    late = bliss(*audit, out, "--shard", "0/2")
    assert late.code == 0 and "no part is missing" in late.out
    assert content(out / "images") == content(whole / "images")


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "0/0", "a/b", "1/2/3"])
def test_a_shard_that_is_none_of_n_is_refused(bliss, collection, index, tmp_path, shard):
    audit = ("audit", collection, "--index", index, "-o", tmp_path / "out", f"--shard={shard}")
    refused = bliss(*audit)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith(
        f"bliss: the shard '{shard}' was given. Needed: i/N, with i from 0 to N - 1. Write --shard "
        "0/4 for the first of four.\n"
    )
    assert not (tmp_path / "out").exists()


def test_embeddings_need_no_shards_and_another_request_is_refused(
    bliss, collection, index, tmp_path
):
    out = tmp_path / "out"
    assert bliss("audit", collection, "--index", index, "-o", out).code == 0
    shard = ("--index", index, "-o", tmp_path / "other", "--shard", "0/2")
    refused = bliss("audit", "--embeddings", out / "images", *shard)
    assert refused.code == 2 and "--shard 0/2 was given with --embeddings" in refused.err
    refused = bliss("audit", collection, "--index", index, "-o", out, "--k", 3, "--shard", "0/2")
    assert refused.code == 2 and "(k differ)" in refused.err


def test_shards_of_a_grown_set_embed_what_is_new_and_run_one_at_a_time(growing, tmp_path):
    root, folder = tmp_path / "images", tmp_path / "out"
    growing.draw(root, **{f"i{n:02d}": n for n in range(10)})
    growing.embedded(root, folder)
    growing.draw(root, **{f"j{n:02d}": 50 + n for n in range(6)})
    encoded: list[int] = []
    encoder, listed = growing.counting_encoder(encoded), list_images(root)

    def shard(number: int, count: int = 2) -> tuple[int, ...]:
        return embed_shard(listed, encoder, folder, PARTS, Shard(number, count), no_progress)

    assert shard(0) == (1, 3)
    with running_shard(folder, Shard(1, 2)):
        with pytest.raises(FolderInUse, match=r"is working in .*/out/shards/1-of-2\."):
            shard(1)
        with pytest.raises(FolderInUse, match=r"is working in .*/out/shards/1-of-2\."):
            embed_images(listed, encoder, folder, PARTS)
        growing.draw(root, z=200)
        other = list_images(root)
        with pytest.raises(FolderInUse, match=r"is working in .*/out/shards/1-of-2\."):
            embed_shard(other, encoder, folder, PARTS, Shard(0, 2), no_progress)
        (root / "z.png").unlink()
    assert shard(1) == ()
    assert sorted(encoded) == list(range(50, 56))
    embed_images(listed, encoder, folder, PARTS)
    assert sorted(encoded) == list(range(50, 56))
    assert not (folder / "shards").exists() and not (folder / "earlier").exists()
