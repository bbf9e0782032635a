"""Collections that change between runs, and output folders that another run works in."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blissaudit.artefacts import only_run_in
from blissaudit.corpora.images.folders import ImageList, list_images
from blissaudit.corpora.images.source import ImageItem, Skip
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.encode.encoder import Encoder, Preprocessing
from blissaudit.indexer.images import workers as decode_process
from blissaudit.indexer.images.decode_worker import image_request
from blissaudit.indexer.images.embedded import EmbeddedImages
from blissaudit.indexer.images.embedding import EmbedOptions, embed_images
from blissaudit.indexer.store import parts as stored_parts
from helpers.killing import kill_when_made
from PIL import Image

PARTS = EmbedOptions(part_rows=4, workers=1)


class Interrupted(Exception):
    """Stands for a kill between two batches."""


def counting_encoder(encoded: list[int], stop_after: int | None = None) -> Encoder:
    """Encodes an image as its first grey and its batch's size; notes every image it encodes."""

    def encode(pixels: np.ndarray) -> np.ndarray:
        if stop_after is not None and len(encoded) >= stop_after:
            raise Interrupted
        greys = pixels[:, 0, 0, 0].astype(np.float32)
        encoded.extend(int(grey) for grey in greys)
        return np.stack([greys + 1, np.full(len(greys), len(greys))], axis=1).astype(np.float32)

    facts = {
        "model": "greys", "pretrained": None, "weights_sha256": "0" * 64, "dimension": 2,
        "precision": "fp32", "preprocessing": {},
    }  # fmt: skip
    squash = Preprocessing((2, 2), "bicubic", "squash", (0.5,) * 3, (0.5,) * 3)
    return Encoder(facts, squash, 3, lambda texts: np.ones((len(texts), 2)), encode)


@pytest.mark.parametrize("seconds", [0, 7, 40])
def test_an_interrupt_loses_about_a_minute_of_an_unfinished_part_and_no_byte_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """A batch of three images takes that many seconds; the part has all twenty-four of them."""
    draw(tmp_path / "images", **{f"i{n:02d}": n // 2 for n in range(24)})
    listed, options = list_images(tmp_path / "images"), EmbedOptions(part_rows=50, workers=1)
    embed_images(listed, counting_encoder([]), tmp_path / "whole", options)
    now, work = [0.0], []

    def slow(stop_after: int | None) -> Encoder:
        encoder = counting_encoder(work, stop_after)

        def encode(pixels: np.ndarray) -> np.ndarray:
            made = encoder.encode_images(pixels)
            now[0] += seconds
            return made

        return replace(encoder, encode_images=encode)

    monkeypatch.setattr(stored_parts, "monotonic", lambda: now[0])
    with pytest.raises(Interrupted):
        embed_images(listed, slow(18), tmp_path / "out", options)
    embed_images(listed, slow(None), tmp_path / "out", options)
    lost = (len(work) - 24) // 3 * seconds
    assert lost < 60 and (seconds == 0) == (len(work) == 24 + 18)
    for name in ("img_emb/img_emb_0.npy", "metadata/metadata_0.parquet", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out" / "journal").exists()


def draw(root: Path, **greys: int) -> None:
    root.mkdir(exist_ok=True)
    for name, grey in greys.items():
        Image.new("L", (3, 3), grey).save(root / f"{name}.png")


def embedded(root: Path, folder: Path) -> tuple[EmbeddedImages, list[int]]:
    encoded: list[int] = []
    return embed_images(list_images(root), counting_encoder(encoded), folder, PARTS), encoded


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_grown_set_decodes_and_encodes_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = tmp_path / "images", tmp_path / "out"
    draw(root, **{f"i{n:02d}": n for n in range(10)})
    first, encoded = embedded(root, folder)
    assert sorted(encoded) == list(range(10))
    draw(root, i045=100, a=101, z=102)  # in the middle, before and behind
    (root / "i07.png").rename(root / "renamed.png")
    (root / "i08.png").unlink()
    decoded = []

    def watched(content: str, *rest: object) -> bytes:
        if rest[2:] != (True,):
            decoded.append(Path(content).name)
        return image_request(content, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(decode_process, "image_request", watched)
        second, encoded = embedded(root, folder)
    assert sorted(encoded) == [100, 101, 102]
    assert sorted(decoded) == ["a.png", "i045.png", "z.png"]
    known = dict(zip(first.hashes, first.vectors.tolist(), strict=True))
    again = dict(zip(second.hashes, second.vectors.tolist(), strict=True))
    assert len(again) == 12 and len(set(known) & set(again)) == 9
    assert {h: v for h, v in again.items() if h in known} == {
        h: v for h, v in known.items() if h in again
    }
    assert second.paths[0] == "a.png" and second.rows.tolist() == list(range(12))
    assert not (folder / "earlier").exists()
    before = content(folder)
    assert embedded(root, folder)[1] == []
    assert content(folder) == before


def test_an_interrupted_growth_continues_to_the_same_bytes(tmp_path: Path) -> None:
    root, folder = tmp_path / "images", tmp_path / "out"
    draw(root, **{f"i{n:02d}": n for n in range(9)})
    embedded(root, folder)
    shutil.copytree(folder, tmp_path / "whole")
    draw(root, **{f"j{n:02d}": 50 + n for n in range(9)}, a=99)
    assert sorted(embedded(root, tmp_path / "whole")[1]) == [*range(50, 59), 99]
    done: list[int] = []
    for _ in range(20):
        encoded: list[int] = []
        try:
            embed_images(list_images(root), counting_encoder(encoded, 4), folder, PARTS)
            break
        except Interrupted:
            assert not (folder / "manifest.json").exists()
        finally:
            done += encoded
    assert content(folder) == content(tmp_path / "whole")
    assert set(done) == {*range(50, 59), 99}


def test_growing_twice_without_finishing_forgets_nothing(tmp_path: Path) -> None:
    root, folder = tmp_path / "images", tmp_path / "out"
    draw(root, **{f"i{n:02d}": n for n in range(8)})
    embedded(root, folder)
    draw(root, **{f"j{n:02d}": 50 + n for n in range(8)})
    encoded: list[int] = []
    with pytest.raises(Interrupted, match=r"^$"):
        embed_images(list_images(root), counting_encoder(encoded, 4), folder, PARTS)
    finished = set(encoded[:4])
    draw(root, h=200)
    _, encoded = embedded(root, folder)
    assert set(encoded) == ({*range(50, 58), 200} - finished)


def test_embeddings_set_aside_are_checked_and_other_settings_still_refused(tmp_path: Path) -> None:
    root, folder = tmp_path / "images", tmp_path / "out"
    draw(root, **{f"i{n:02d}": n for n in range(8)})
    embedded(root, folder)
    vectors = folder / "img_emb" / "img_emb_1.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\x01")
    draw(root, z=200)
    with pytest.raises(UsageError, match=r"\(images, part_rows differ\)"):
        other = replace(PARTS, part_rows=5)
        embed_images(list_images(root), counting_encoder([]), folder, other)
    _, encoded = embedded(root, folder)
    assert encoded == [4, 5, 6, 7, 200]  # part 1 was damaged
    encoded = []
    again = replace(PARTS, overwrite=True)
    draw(root, y=201)
    embed_images(list_images(root), counting_encoder(encoded), folder, again)
    assert encoded == [201]


class Vanishing(ImageList):
    """A list whose folder goes away when row 14 is read."""

    def items(self, skip: Skip) -> Iterator[ImageItem]:
        for item in super().items(skip):
            if item.row == 14:
                os.rename(self.root, self.root + "-gone")
            yield item


def test_a_folder_that_vanishes_ends_the_run_and_not_its_images(tmp_path: Path) -> None:
    root, folder = tmp_path / "images", tmp_path / "out"
    draw(root, **{f"i{n:02d}": n for n in range(20)})
    listed = list_images(root)
    vanishing = Vanishing(listed.root, listed.paths, listed.labels)
    before: list[int] = []
    with pytest.raises(BlissError, match=r"images went away while it was read \(No such file"):
        embed_images(vanishing, counting_encoder(before), folder, PARTS)
    start = 4 * len(list((folder / "parts").iterdir()))
    assert start >= 4
    os.rename(f"{root}-gone", root)
    found, encoded = embedded(root, folder)
    assert len(found.paths) == 20 and found.failures == ()
    # Batches of an unfinished part are kept as well, however many were read in time.
    assert min(encoded) >= start and {*before, *encoded} == {*range(20)}


def test_one_run_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import sys, time, pathlib\nfrom blissaudit.artefacts import only_run_in\n"
        "with only_run_in(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "in\n"
        message = rf"another bliss run \(process {holder.pid}\) is working in {out}\. Needed: one"
        with pytest.raises(BlissError, match=message), only_run_in(out):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (out / ".bliss.lock").exists()
    with only_run_in(out):
        assert (out / ".bliss.lock").read_text() == str(os.getpid())
    assert list(out.iterdir()) == []
    with only_run_in(tmp_path / "new" / "er"):
        pass
    assert not (tmp_path / "new" / "er").exists()
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BlissError, match=r"/file is a file\. Needed: a folder.*Name a folder for"),
        only_run_in(tmp_path / "file" / "out"),
    ):
        pass


def test_commands_refuse_a_folder_in_use(bliss, collection, index, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with only_run_in(out):
        for command in (
            ("audit", collection, "--index", index),
            ("reference", "fit", collection, "--model", "demo"),
            ("eval", "--reference", collection, "--test", collection, "--index", index),
        ):
            refused = bliss(*command, "-o", out)
            assert (refused.code, refused.out) == (1, "")
            assert refused.err.endswith(
                f"\nbliss: another bliss run (process {os.getpid()}) is working in {out}. Needed: "
                "one run at a time in an output folder. Wait until it has ended, or choose "
                "another output folder.\n"
            )
    assert bliss("audit", collection, "--index", index, "-o", out).code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "copies.parquet", "failures.csv", "groups.json", "hits", "images", "issues.csv",
        "issues.parquet", "quality.parquet", "reference", "report.html", "run.json", "scores.csv",
        "scores.parquet",
    ]  # fmt: skip


KILLED = """
import inspect, sys, time
from blissaudit import cli
from blissaudit.indexer.images import embedding as image_embedding
made = inspect.unwrap(image_embedding.EmbedOptions.__init__)
made.__defaults__ = tuple(5 if value == 2048 else value for value in made.__defaults__)
write = image_embedding.write_part
image_embedding.write_part = lambda *given: (time.sleep(0.05), write(*given))
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_killed_audit_continues_to_the_same_scores(
    bliss, collection, index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["audit", str(collection), "--index", str(index), "--report", "none", "-o"]
    made = inspect.unwrap(EmbedOptions.__init__)
    of_five = tuple(5 if value == 2048 else value for value in made.__defaults__)
    monkeypatch.setattr(made, "__defaults__", of_five)
    assert bliss(*command, tmp_path / "whole").code == 0
    out = tmp_path / "out"
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path / "cache"))  # that has not seen the whole run
    kill_when_made(KILLED, [*command, str(out)], out, "images/parts/*.json", 2)
    assert not (out / "scores.parquet").exists()
    assert bliss(*command, out).code == 0
    for name in ("scores.parquet", "failures.csv", "images/manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((out / "images" / "manifest.json").read_text())["parts"] == [5] * 5 + [1]


def test_a_full_disk_and_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bliss, collection, index
) -> None:
    root, folder = tmp_path / "images", tmp_path / "out"
    draw(root, **{f"i{n:02d}": n for n in range(12)})
    sync = os.fsync

    def full_from_the_second_part_on(descriptor: int) -> None:
        if list(folder.glob("img_emb/.bliss-*.tmp/img_emb_1.npy")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_from_the_second_part_on)
        with pytest.raises(BlissError, match=r"could not write .*img_emb_1\.npy: No space left"):
            embedded(root, folder)
    assert not list(folder.rglob("*.tmp"))
    assert embedded(root, folder)[1] == list(range(4, 12))
    nowhere = bliss("audit", collection, "--index", index, "-o", "/proc/blissaudit")
    assert (nowhere.code, nowhere.out) == (1, "")
    assert nowhere.err.startswith("\nbliss: could not write /proc/blissaudit/.bliss.lock: ")


def test_another_model_or_size_does_not_reuse_embeddings(tmp_path: Path) -> None:
    root, folder = tmp_path / "images", tmp_path / "out"
    draw(root, a=1, b=2)
    embedded(root, folder)
    draw(root, c=3)
    encoder = counting_encoder([])
    other = replace(encoder, facts={**encoder.facts, "weights_sha256": "1" * 64})
    with pytest.raises(UsageError, match=r"\(images, weights_sha256 differ\)"):
        embed_images(list_images(root), other, folder, PARTS)
    assert (folder / "manifest.json").exists()
