"""Broken manifests, tables, .npy headers and option values: none ends as an error of bliss itself.

Each reader is given inputs that hypothesis draws: whole files with a value replaced, removed, put
elsewhere or nested 100,000 deep; bytes changed or cut off; tables of other columns, types and rows;
headers of arrays rewritten; texts for every option. A reader may refuse an input (BlissError, an
error of click's, or the system's) or read it. Anything else is a fault, and so is an input that
takes longer than ten seconds. With --each N, N inputs each.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import io
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.artefacts import sha256_of
from blissaudit.audit import ClassWords, open_run, save_audit, save_report
from blissaudit.audit.review.apply import clean, read_decisions
from blissaudit.audit.review.photographs import run_photographs
from blissaudit.audit.run import AuditSettings, audit_own
from blissaudit.cli import bliss
from blissaudit.corpora.images.opening import open_images
from blissaudit.corpora.images.source import ImageOptions
from blissaudit.corpora.opening import open_spec
from blissaudit.corpora.sources import CorpusOptions
from blissaudit.errors import BlissError
from blissaudit.indexer.build.build import IndexOptions, build_index, index_embeddings
from blissaudit.indexer.encode.encoder import Encoder
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.indexer.search.captions import CaptionIndex
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store.manifest import IndexFolder
from blissaudit.indexer.store.parts import Part, begin_building, finish_building, write_part
from blissaudit.indexer.store.stored_rows import read_rows, remove_rows
from blissaudit.indexer.store.verify import verify_index
from blissaudit.indexer.vectors.rows import load_vectors
from blissaudit.scorer import load_reference, save_reference
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

D, SLOW = 4, 10.0
CLASSES = ("cat", "dog")
EXPECTED = (BlissError, click.ClickException, click.exceptions.Exit, OSError, MemoryError)
DEEP, AT_ONCE = 100_000, 500

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from(["", "..", "/etc/passwd", "0" * 64, "\ud800", "text_emb/text_emb_0.npy", 1e308,
                     2**63, -(2**70), "exact", "Flat", "float32", "manifest.json"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.sampled_from(["rows", "kind", "file"]), inner,
                      max_size=3),
    max_leaves=5,
)  # fmt: skip
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 10_000), st.sampled_from(["set", "set", "drop", "copy", "key"]), VALUES
    ),
    min_size=1,
    max_size=3,
)


@dataclass
class Target:
    """One kind of input: what is drawn, and the readers that get it."""

    drawn: st.SearchStrategy[Any]
    read: Callable[[Any], object]
    seen: Counter[str] = field(default_factory=Counter)
    """How many inputs were read or refused."""
    faults: dict[str, str] = field(default_factory=dict)
    """Where an unexpected error was raised -> the first input that did, and its traceback."""
    slowest: float = 0.0

    def once(self, value: Any) -> None:
        """Read one input and note how that ended."""
        begun = time.monotonic()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
                io.StringIO()
            ):  # fmt: skip
                self.read(value)
            self.seen["read"] += 1
        except EXPECTED as error:
            self.seen["refused"] += 1
            self.seen["refused by the system"] += isinstance(error, OSError | MemoryError)
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "blissaudit" in f.name
                      or "/site-packages/" not in f.filename]  # fmt: skip
            last = frames[-1]
            where = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
            self.faults.setdefault(
                where, f"  {error!r:.200}\n{value!r:.600}\n{traceback.format_exc()[-1500:]}"
            )
            self.seen["faults"] += 1
        took = time.monotonic() - begun
        if took > SLOW:
            self.faults.setdefault(f"{took:.0f} s", f"{value!r:.600}")
        self.slowest = max(self.slowest, took)

    def run(self, count: int, seconds: float = float("inf")) -> None:
        """Draw that many inputs and read each, none after so many seconds."""
        end = time.monotonic() + seconds
        for first in range(0, count, AT_ONCE):
            if time.monotonic() > end:
                break

            @seed(first)
            @settings(
                max_examples=min(AT_ONCE, count - first),
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(self.drawn)
            def each(value: Any) -> None:
                self.once(value)

            each()


def changed(content: Any, changes: list[tuple[int, str, Any]]) -> Any:
    """JSON content with some of its values set, dropped, copied elsewhere or renamed."""
    content = copy.deepcopy(content)
    for number, how, value in changes:
        places = list(_places(content))
        holder, key = places[number % len(places)]
        if how == "drop":
            del holder[key]
        elif how == "copy":
            other, name = places[number * 7 % len(places)]
            with contextlib.suppress(KeyError, IndexError):
                other[name] = copy.deepcopy(holder[key])
        elif how == "key" and isinstance(holder, dict):
            holder[str(value)[:20]] = holder.pop(key)
        else:
            holder[key] = value
        if not list(_places(content)):
            break
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


def put_json(path: Path, whole: Any, drawn: tuple[str, Any]) -> None:
    """Write JSON that was changed, or bytes that are hardly any."""
    how, value = drawn
    if how == "changed":
        text = json.dumps(changed(whole, value))
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    elif how == "deep":
        keys = list(whole)
        opened = {**whole, keys[value % len(keys)]: "HERE"}
        nested = "[" * DEEP + "]" * DEEP
        path.write_text(json.dumps(opened).replace('"HERE"', nested))
    else:
        path.write_bytes(value)


JSON = st.one_of(
    *[st.tuples(st.just("changed"), CHANGES)] * 8,
    st.tuples(st.just("deep"), st.integers(0, 50)),
    st.tuples(st.just("bytes"), st.binary(max_size=30)),
)


def encoder() -> Encoder:
    """Vectors of texts by their letters."""

    def encode(texts: Any) -> np.ndarray:
        rows = [np.random.default_rng(sum(map(ord, t))).standard_normal(D) for t in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)

    facts = {"model": "letters", "pretrained": None, "weights_sha256": "0" * 64, "dimension": D,
             "precision": "fp32"}  # fmt: skip
    return Encoder(facts, None, 8, encode, lambda pixels: pixels)  # type: ignore[arg-type]


def make_world(folder: Path) -> None:
    """An index, image embeddings of both kinds, a reference, a run, decisions."""
    texts = [*CLASSES, *(f"a thing, number {n}" for n in range(10))]
    (folder / "texts.txt").write_text("\n".join(texts))
    captions = open_spec(str(folder / "texts.txt"))
    build_index(captions, encoder(), folder / "index", IndexOptions(part_rows=5))
    remove_rows(folder / "index", np.array([4, 7]), {"contains": "number"})
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((12, D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = list(CLASSES) * 6
    paths = [f"{label}/{n}.png" for n, label in enumerate(labels)]
    hashes = [f"{n:064x}" for n in range(12)]
    plain = folder / "plain"
    (plain / "img_emb").mkdir(parents=True)
    (plain / "metadata").mkdir()
    np.save(plain / "img_emb" / "img_emb_0.npy", rows)
    table = pa.table({"image_path": paths, "label": labels})
    pq.write_table(table, plain / "metadata" / "metadata_0.parquet")
    shutil.copytree(plain / "metadata", folder / "texts" / "metadata")
    (folder / "texts" / "text_emb").mkdir()
    np.save(folder / "texts" / "text_emb" / "text_emb_0.npy", rows)
    begin_building(folder / "images", {"images": "none"}, False)
    metadata = table.append_column("row", pa.array(range(12))).append_column(
        "sha256", pa.array(hashes)
    )
    metadata = metadata.append_column("exif_rotated", pa.array([False] * 12))
    failures = ({"row": 12, "path": "x.png", "reason": "empty"},)
    write_part(folder / "images", "img", 0, Part(rows, metadata, failures))
    model = {**encoder().facts, "preprocessing": {}}
    facts = {"kind": "image-embeddings", "model": model, "images_listed": 13, "collection": "x"}
    finish_building(folder / "images", "img", 1, facts)
    index = open_index(folder / "index")
    made = AuditSettings(k=3, words=ClassWords(prompts=("{}",)))
    result = audit_own(read_image_embeddings(folder / "images"), index, None, made)
    save_reference(result.reference, folder / "reference", source="x", calibration_share=0.0)
    save_audit(result, made, folder / "run", {"command": "audit", "images": "x", "output": "run"})
    shutil.copytree(folder / "images", folder / "run" / "images")
    (folder / "decisions.csv").write_text(
        f"row,path,sha256,decision,new_label\n0,{paths[0]},{hashes[0]},remove,\n"
    )


def manifests(folder: Path) -> Target:
    """The JSON files of all artefacts."""
    world = folder / "manifests"
    shutil.copytree(folder, world, ignore=lambda *_: {"manifests", "tables", "arrays"})

    def index(path: Path) -> None:
        found = open_index(path)
        found.nearest(np.eye(1, D, dtype=np.float32), 2)
        found.captions_of(np.arange(found.count))
        found.origins_of(np.arange(found.count))

    def verify(path: Path) -> None:
        list(verify_index(path, 0, encoder, lambda what, done, total: None))

    def removal(path: Path) -> None:
        with IndexFolder.locked(path) as opened:
            opened.with_fields(searched_as=1)

    def run(path: Path) -> None:
        opened = open_run(path)
        opened.failures()
        str(opened.source)
        run_photographs(opened)
        clean(opened, read_decisions(world / "decisions.csv", opened))
        save_report(path, images=2)

    readers: list[tuple[str, Callable[[Path], object]]] = [
        ("index/manifest.json", index),
        ("index/manifest.json", verify),
        ("index/manifest.json", removal),
        ("images/manifest.json", read_image_embeddings),
        ("reference/manifest.json", load_reference),
        ("run/run.json", run),
        ("run/images/manifest.json", lambda path: run(path.parent)),
    ]
    whole = {name: json.loads((world / name).read_text()) for name, _ in readers}

    def read(drawn: tuple[int, tuple[str, Any]]) -> None:
        name, reader = readers[drawn[0] % len(readers)]
        put_json(world / name, whole[name], drawn[1])
        try:
            reader((world / name).parent)
        finally:
            (world / name).write_text(json.dumps(whole[name]))

    return Target(st.tuples(st.integers(0, len(readers) - 1), JSON), read)


ARROW = st.sampled_from([
    pa.string(), pa.large_string(), pa.binary(), pa.int64(), pa.float16(), pa.bool_(), pa.null(),
    pa.timestamp("us"), pa.list_(pa.string()), pa.dictionary(pa.int8(), pa.string()), pa.binary(3),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.decimal128(5, 2), pa.date32(),
])  # fmt: skip
NAMES = st.text(max_size=4) | st.sampled_from([
    "image_path", "path", "url", "label", "caption", "text", "image", "", "a.b", "sha256", "row",
    " Label", "\x00",
])  # fmt: skip


@st.composite
def tables(draw: Any) -> tuple[str, Any]:
    """A parquet file of other columns, types and rows, or the bytes of a text table."""
    how = draw(st.sampled_from(["parquet", "parquet", "bytes", "text"]))
    if how == "bytes":
        return how, draw(
            st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)
        )
    if how == "text":
        cells = st.sampled_from(
            [
                "a",
                "image",
                "label",
                ",",
                ";",
                "\t",
                "\n",
                '"',
                "|",
                "\\",
                "é",
                "\ufeff",
                "{",
                "}",
                ":",
                "[",
                "]",
                "null",
                "1",
                "\r",
                "\x00",
                " ",
            ]
        )
        return how, "".join(draw(st.lists(cells | st.text(max_size=3), max_size=30)))
    columns = draw(st.lists(st.tuples(NAMES, ARROW), max_size=4))
    rows = draw(st.sampled_from([0, 1, 2, 12]))
    arrays = []
    for _, kind in columns:
        values = [None] * rows
        if draw(st.booleans()) and pa.types.is_string(kind):
            values = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                                   min_size=rows, max_size=rows))  # fmt: skip
        elif pa.types.is_integer(kind):
            values = draw(st.lists(st.integers(-2, 15), min_size=rows, max_size=rows))
        arrays.append(pa.array(values, kind))
    return how, (arrays, [name for name, _ in columns])


def tables_of(folder: Path) -> Target:
    """Parquet, csv, tsv and JSON files: as metadata, captions, lists of images, decisions."""
    world = folder / "tables"
    shutil.copytree(folder, world, ignore=lambda *_: {"manifests", "tables", "arrays"})
    whole = (world / "plain/metadata/metadata_0.parquet").read_bytes()

    def put(path: Path, drawn: tuple[str, Any]) -> None:
        how, value = drawn
        if how == "text":
            path.write_bytes(value.encode("utf-8", "surrogatepass"))
        elif how == "bytes":
            content = bytearray(whole)
            for at, byte in value:
                content[at % len(content)] = byte
            path.write_bytes(bytes(content[: len(content) - len(value) ** 3 % 50]))
        else:
            pq.write_table(pa.Table.from_arrays(value[0], names=value[1]), path)

    def corpus(path: Path) -> None:
        for column in (None, "label", "caption"):
            with contextlib.suppress(BlissError):
                for batch in open_spec(str(path), CorpusOptions(column=column)).batches(5):
                    len(batch.texts)

    def images(path: Path) -> None:
        source = open_images(str(path), ImageOptions())
        source.facts()
        for item in source.items(lambda row: False):
            if callable(item.data):
                item.data()

    def metadata(path: Path) -> None:
        for kind in ("plain", "texts"):
            shutil.copy(path, world / kind / "metadata" / "metadata_0.parquet")
        with contextlib.suppress(BlissError):
            read_image_embeddings(world / "plain")
        shutil.rmtree(world / "made", ignore_errors=True)
        index_embeddings(world / "texts", world / "made")

    def own(path: Path) -> None:
        """With checksums that fit: written by another program that knows the layout."""
        name = "metadata/metadata_0.parquet"
        manifest = json.loads((world / "images/manifest.json").read_text())
        shutil.copy(path, world / "images" / name)
        manifest["checksums"][name] = sha256_of(path)
        (world / "images/manifest.json").write_text(json.dumps(manifest))
        read_image_embeddings(world / "images")

    def scores(path: Path) -> None:
        facts = json.loads((world / "run/run.json").read_text())
        shutil.copy(path, world / "run/scores.parquet")
        facts["checksums"]["scores.parquet"] = sha256_of(path)
        (world / "run/run.json").write_text(json.dumps(facts))
        opened = open_run(world / "run")
        clean(opened, read_decisions(world / "decisions.csv", opened))

    def decisions(path: Path) -> None:
        read_decisions(path, open_run(folder / "run"))

    readers = [("x.parquet", corpus), ("x.parquet", images), ("x.parquet", metadata),
               ("x.parquet", own), ("x.parquet", scores), ("x.csv", corpus), ("x.tsv", corpus),
               ("x.jsonl", corpus), ("x.json", corpus), ("x.txt", corpus), ("x.csv", images),
               ("x.tsv", images), ("x.csv", decisions)]  # fmt: skip

    def read(drawn: tuple[int, tuple[str, Any]]) -> None:
        name, reader = readers[drawn[0] % len(readers)]
        put(world / name, drawn[1])
        reader(world / name)

    return Target(st.tuples(st.integers(0, len(readers) - 1), tables()), read)


def arrays_of(folder: Path) -> Target:
    """Headers of .npy files: of vectors, of captions' offsets, of removed rows."""
    world = folder / "arrays"
    shutil.copytree(folder, world, ignore=lambda *_: {"manifests", "tables", "arrays"})

    def vectors(path: Path) -> None:
        shutil.copy(path, world / "plain/img_emb/img_emb_0.npy")
        found = read_image_embeddings(world / "plain")
        found.vectors[:]

    def in_index(name: str) -> Callable[[Path], None]:
        def read(path: Path) -> None:
            manifest = json.loads((folder / "index/manifest.json").read_text())
            before = (world / "index" / name).read_bytes()
            shutil.copy(path, world / "index" / name)
            manifest["checksums"][name] = sha256_of(path)
            (world / "index/manifest.json").write_text(json.dumps(manifest))
            try:
                found: CaptionIndex = open_index(world / "index")
                found.nearest(np.eye(1, D, dtype=np.float32), 2)
                found.captions_of(np.arange(found.count))
                list(verify_index(world / "index", 0, encoder, lambda what, done, total: None))
            finally:
                (world / "index" / name).write_bytes(before)

        return read

    removed = json.loads((folder / "index/manifest.json").read_text())["removed"]["file"]
    names = ("text_emb/text_emb_0.npy", "captions/offsets_0.npy", removed)
    readers: list[Callable[[Path], object]] = [
        vectors, load_vectors, lambda path: read_rows(path, 12), *map(in_index, names),
    ]  # fmt: skip
    plain, removed = "plain/img_emb/img_emb_0.npy", f"index/{removed}"
    originals = [plain, plain, removed, *(f"index/{name}" for name in names)]
    types = st.sampled_from([
        "<f4", "<f2", "<i8", "|O", "|u1", "<c8", "<U3", ">f4", "", "x", [("a", "<f4")], "<f8",
        "|b1", 3, "|V7", "<M8[s]",
    ])  # fmt: skip
    shapes = st.lists(st.integers(-2, 15), max_size=3).map(tuple) | st.sampled_from(
        [(), (2**62, 4), (-1,), 5, "a", (D, 12), (12, D), (6,), (5, D), (2,)]
    )
    orders = st.sampled_from([False, False, True, None, "no"])
    fields = {"descr": types, "fortran_order": orders, "shape": shapes}
    magics = st.sampled_from(
        [b"\x93NUMPY\x03\x00", b"\x93NUMPY\x09\x00", b"PK\x03\x04", b"\x80\x04", b""]
    ) | st.binary(max_size=8)
    drawn = st.tuples(
        st.integers(0, len(readers) - 1),
        st.lists(
            st.one_of(
                *[st.tuples(st.just(name), values) for name, values in fields.items()],
                st.tuples(st.just("magic"), magics),
                st.tuples(st.just("more"), st.integers()),
                st.tuples(st.just("without"), st.sampled_from(list(fields))),
                st.tuples(st.just("text"), st.text(max_size=20) | st.just("(" * 500)),
                st.tuples(st.just("size"), st.integers(0, 3000)),
                st.tuples(st.just("filling"), st.binary(max_size=3)),
            ),
            max_size=3,
        ),
    )  # fmt: skip

    def read(value: tuple[int, list[tuple[str, Any]]]) -> None:
        which, changes = value
        whole = (folder / originals[which]).read_bytes()
        length = int.from_bytes(whole[8:10], "little")
        header, body = ast.literal_eval(whole[10 : 10 + length].decode()), whole[10 + length :]
        magic, text = b"\x93NUMPY\x01\x00", None
        for what, change in changes:
            if what == "magic":
                magic = change
            elif what == "text":
                text = change
            elif what == "without":
                header.pop(change, None)
            elif what == "size":
                body = (body * 100)[:change]
            elif what == "filling":
                body = (change * len(body))[: len(body)] or body
            else:
                header[what] = change
        line = (repr(header) if text is None else text).encode("utf-8", "replace") + b" \n"
        wide = magic[6:7] == b"\x03"
        path = world / "x.npy"
        path.write_bytes(magic + len(line).to_bytes(4 if wide else 2, "little") + line + body)
        readers[which](path)

    return Target(drawn, read)


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from([
        "", "-", "--", "0", "-1", "1e999", "nan", "inf", "-inf", "1_000", "٣", "²", "\x00", "=",
        "a=", "=b", "a=b=c", ",", ",,", "device=", "nprobe=1", "fdr=", "fdr=nan", "%", "nan%",
        "9" * 400,
        "ray:", "ray:actors=0", "near-labels=", "near-labels=nan", "hf:a/b", "hf:a/b@c:d/e", "s3://",
        "http://[", "file://", "~x", "a:b/c", "{0..9}", "{1..99999999999}", "*", "[", "local-dir:",
        "hf-hub:", "../..", "\ud800", "1/0", "0/1", "3/2", "{}{}", "{", "a{b}", "/dev/null", ".",
    ]),
    st.lists(st.sampled_from(list("a=,:/09%.-{}@x")), max_size=9).map("".join),
)  # fmt: skip


def options_of(folder: Path) -> Target:
    """A value for each option and argument of each command, up to where the command would begin.

    Commands are parsed with all types and callbacks, and then made to stop before they work; those
    that read only the small files here do their work.
    """
    commands: list[tuple[tuple[str, ...], click.Command]] = []

    def collect(path: tuple[str, ...], command: click.Command) -> None:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                collect((*path, name), inner)
        else:
            commands.append((path, command))

    collect((), bliss)
    works = {("corpora", "peek"), ("index", "info"), ("diff",), ("apply",)}
    given_first = {
        ("audit",): ["--embeddings", str(folder / "plain"), "--index", str(folder / "index")],
        ("index", "info"): [str(folder / "index")],
        ("index", "verify"): [str(folder / "index")],
        ("diff",): [str(folder / "run"), str(folder / "run")],
        ("apply",): [str(folder / "decisions.csv"), "--run", str(folder / "run")],
    }

    def words(drawn: tuple[int, list[tuple[int, str]]]) -> tuple[click.Command, list[str], bool]:
        path, command = commands[drawn[0] % len(commands)]
        options = [p for p in command.params if isinstance(p, click.Option) and not p.is_eager]
        found = list(given_first.get(path, []))
        for number, text in drawn[1] if options else ():
            option = options[number % len(options)]
            safe = option.name not in ("file", "folder", "list_file", "target", "output", "config")
            if option.is_flag:
                found.append(option.opts[0])
            elif safe:
                found += [option.opts[0], text]
        if path in {("corpora", "peek")}:
            found.append(drawn[1][0][1])
        return command, found, path in works

    def read(drawn: tuple[int, list[tuple[int, str]]]) -> None:
        command, found, work = words(drawn)
        context = command.make_context("bliss", list(found), help_option_names=["-h", "--help"])
        with context:
            if work:
                command.invoke(context)
            else:
                _made(context)

    pairs = st.lists(st.tuples(st.integers(0, 200), TEXTS), min_size=1, max_size=3)
    return Target(st.tuples(st.integers(0, len(commands) - 1), pairs), read)


def _made(context: click.Context) -> None:
    """What a command makes of its options before it opens anything."""
    from blissaudit.commands import options as opt

    values = dict(context.params)
    for name, convert in (
        ("search", lambda value: opt.check_search(value) if hasattr(opt, "check_search") else None),
        ("corpus", lambda value: [open_spec(v) for v in [value] if isinstance(v, str)]),
        ("images", lambda value: open_images(value) if isinstance(value, str) else None),
    ):
        if values.get(name) is not None and not str(values[name]).startswith(
            ("hf:", "http", "s3:")
        ):
            convert(values[name])


TARGETS = {"manifests": manifests, "tables": tables_of, "npy headers": arrays_of,
           "option values": options_of}  # fmt: skip


def fuzz(
    folder: Path, each: int, names: list[str], seconds: float = float("inf")
) -> Iterator[tuple[str, Target]]:
    """Every target of `names` with `each` inputs, in a world made in `folder`."""
    make_world(folder)
    for name in names:
        target = TARGETS[name](folder)
        target.run(each, seconds)
        yield name, target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each kind")
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument("--show", type=int, default=3, help="faults shown in full")
    chosen = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        names = chosen.only or list(TARGETS)
        for target, made in fuzz(Path(name), chosen.each, names, chosen.seconds):
            seen, total = made.seen, sum(made.seen[how] for how in ("read", "refused", "faults"))
            faults += len(made.faults)
            print(
                f"{target}: {total:,} inputs, {seen['read']:,} read, {seen['refused']:,} refused "
                f"({seen['refused by the system']:,} by the system), {seen['faults']:,} faults in "
                f"{len(made.faults)} places; the slowest took {made.slowest:.1f} s"
            )
            for number, (where, what) in enumerate(made.faults.items()):
                print(f"  {where}{what if number < chosen.show else what.split(chr(10))[0]}")
            sys.stdout.flush()
        print(f"{time.monotonic() - begun:.0f} s")
    print(f"=> no input ends as an error of bliss itself: {'MISSED' if faults else 'met'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
