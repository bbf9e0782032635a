"""Text files at addresses, and several at once: the same texts, and every change noticed."""

from __future__ import annotations

import http.server
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.registry import CorpusOptions, TextSource, open_corpus
from blissaudit.errors import BlissError, UsageError

LINES = ["a cat", "a dog, asleep", "two birds"]


def parquet_bytes(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), "caption": texts}), file)
    return file.getvalue()


FORMATS = {
    "a.txt": "\n".join(LINES).encode(),
    "a.csv": ("id,caption\n" + "".join(f'1,"{line}"\n' for line in LINES)).encode(),
    "a.tsv": ("id\tcaption\n" + "".join(f"1\t{line}\n" for line in LINES)).encode(),
    "a.jsonl": "".join(json.dumps({"id": 1, "caption": line}) + "\n" for line in LINES).encode(),
    "a.parquet": parquet_bytes(LINES),
    "a.json": json.dumps({"annotations": [{"caption": line} for line in LINES]}).encode(),
}
CAPTION = CorpusOptions("caption")


def options(name: str) -> CorpusOptions:
    return CAPTION if name.endswith((".csv", ".tsv")) else CorpusOptions()


def read(source: TextSource) -> list[tuple[int, str]]:
    return [
        pair
        for batch in source.batches(2)
        for pair in zip(batch.rows.tolist(), batch.texts, strict=True)
    ]


class Web:
    """What a small web server holds, and how it answers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.version: str | None = '"1"'
        self.ranges = True
        self.kept_back = 0
        """Bytes missing at the end of every file."""
        self.cut = False
        """Whether an answer promises these bytes, and breaks off."""
        self.sent: Callable[[int], object] = int
        """Told how many bytes each answer holds."""


@contextmanager
def serving(web: Web) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            data = web.files.get(self.path.partition("?")[0])
            if data is None:
                self.send_error(404)
                return
            size, status, first, last = len(data), 200, 0, len(data) - 1
            asked = self.headers.get("Range")
            if web.ranges and asked:
                start, _, end = asked.removeprefix("bytes=").partition("-")
                first, last, status = int(start), min(int(end or last), last), 206
            whole, data = data[first : last + 1], data[: size - web.kept_back][first : last + 1]
            self.send_response(status)
            sent = whole if web.cut else data
            self.send_header("Content-Length", str(len(sent) if body else size))
            if web.version is not None:
                self.send_header("ETag", web.version)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if body:
                web.sent(len(data))
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def web() -> Iterator[tuple[Web, str]]:
    pytest.importorskip("aiohttp", reason="addresses of the web need the package aiohttp")
    made = Web()
    with serving(made) as address:
        yield made, address


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_same_from_memory_file_and_web(
    name: str, memory: Any, web: tuple[Web, str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    memory.pipe(f"/corpus/{name}", FORMATS[name])
    web[0].files[f"/data/{name}"] = FORMATS[name]
    local = open_corpus(str(tmp_path / name), options(name))
    assert read(local) == list(enumerate(LINES))
    for address in (
        (tmp_path / name).as_uri(),
        f"memory://corpus/{name}",
        f"{web[1]}/data/{name}",
        f"{web[1]}/data/{name}?signature=secret",
    ):
        source = open_corpus(address, options(name))
        assert read(source) == list(enumerate(LINES))
        facts = source.facts()
        if address.startswith("file:"):
            assert facts == local.facts()
        else:
            assert str(facts["fingerprint"]).startswith("remote:")
            assert {**facts, "fingerprint": 0} == {**local.facts(), "fingerprint": 0}
        assert "secret" not in json.dumps(facts)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://corpus/none.txt", r"memory://corpus/none\.txt could not be read"),
        ("memory://corpus/none.parquet", r"none\.parquet could not be read"),
        ("memory://corpus/a.doc", r"files ending in '\.doc' are not read"),
        ("memory://corpus", "files ending in '' are not read"),
        ("nosuch://corpus/a.txt", "is no address that fsspec knows"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, message: str, memory: Any) -> None:
    with pytest.raises(BlissError, match=message):
        open_corpus(address)


def test_options_without_use_are_refused_at_addresses_too(memory: Any) -> None:
    memory.pipe("/corpus/a.csv", b"caption\na\n")
    with pytest.raises(UsageError, match=r"split given for 'memory://corpus/a.csv'"):
        open_corpus("memory://corpus/a.csv", CorpusOptions(split="train"))


def test_a_web_server_without_version_or_time_is_refused(web: tuple[Web, str]) -> None:
    web[0].files["/a.txt"] = b"a\n"
    web[0].version = None
    with pytest.raises(BlissError, match=r"/a\.txt gives neither a version.*Copy the file"):
        open_corpus(f"{web[1]}/a.txt")


def test_a_missing_web_file_says_so(web: tuple[Web, str]) -> None:
    with pytest.raises(BlissError, match=r"/none\.txt could not be read \(.*404|it is not there"):
        open_corpus(f"{web[1]}/none.txt")


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (False, r"beyond row 2 \(it ended after 8 of 14 bytes\)"),
        (True, r"beyond row \d+ \(.*payload"),
    ],
)
def test_an_answer_that_ends_early_names_file_and_row(
    web: tuple[Web, str], cut: bool, reason: str
) -> None:
    web[0].files["/a.txt"] = b"one\ntwo\nthree\n"
    source = open_corpus(f"{web[1]}/a.txt")
    web[0].kept_back, web[0].cut = 6, cut
    with pytest.raises(BlissError, match=rf"/a\.txt could not be read.*{reason}"):
        read(source)
    web[0].kept_back = 0
    assert read(source) == [(0, "one"), (1, "two"), (2, "three")]


@pytest.mark.parametrize("where", ["local", "memory", "web"])
def test_a_change_between_opening_and_the_end_of_reading_is_noticed(
    where: str, memory: Any, web: tuple[Web, str], tmp_path: Path
) -> None:
    def put(content: bytes, version: int) -> str:
        if where == "local":
            (tmp_path / "a.txt").write_bytes(content)
            os.utime(tmp_path / "a.txt", ns=(version, version))
            return str(tmp_path / "a.txt")
        if where == "memory":
            memory.pipe("/corpus/a.txt", content)
            return "memory://corpus/a.txt"
        web[0].files["/a.txt"], web[0].version = content, f'"{version}"'
        return f"{web[1]}/a.txt"

    spec = put(b"one\ntwo\n", 1)
    source = open_corpus(spec)
    before = source.facts()["fingerprint"]
    assert read(source) == [(0, "one"), (1, "two")]
    put(b"one\nsix\n", 2)
    found: list[str] = []
    with pytest.raises(BlissError, match=r"a\.txt was changed while it was in use"):
        found += [text for batch in source.batches(1) for text in batch.texts]
    assert open_corpus(spec).facts()["fingerprint"] != before
    with suppress(BlissError):
        assert next(source.batches(1)).texts == ["one"]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.parquet"])
def test_a_file_removed_between_fingerprint_and_reading(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    source = open_corpus(str(tmp_path / name), options(name))
    assert source.facts()
    (tmp_path / name).unlink()
    with pytest.raises(BlissError, match=rf"{name} could not be read \(No such file"):
        read(source)


def test_a_reader_that_fails_midway_names_file_and_row(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blissaudit.corpora import files as text_records

    def broken(file: Any, name: str, column: None) -> Iterator[tuple[int, str]]:
        yield from text_records.read_lines(file, name)
        raise RuntimeError("the line went dead")

    monkeypatch.setitem(text_records.SUFFIXES, ".txt", broken)
    memory.pipe("/corpus/0.txt", b"one\ntwo\n")
    source = open_corpus("memory://corpus/{0..0}.txt")
    with pytest.raises(BlissError, match=r"0\.txt could not be read beyond row 2 \(the line went"):
        read(source)


def test_a_parquet_file_cut_short_at_an_address(memory: Any) -> None:
    memory.pipe("/corpus/a.parquet", FORMATS["a.parquet"])
    source = open_corpus("memory://corpus/a.parquet")
    memory.pipe("/corpus/a.parquet", FORMATS["a.parquet"][:50])
    with pytest.raises(BlissError, match=r"a\.parquet could not be read beyond row 0"):
        read(source)


def test_addresses_left_half_way_neither_trace_back_nor_hang_at_exit(
    web: tuple[Web, str],
) -> None:
    web[0].files["/a.parquet"] = parquet_bytes([f"text {n}" for n in range(10_000)])
    web[0].files["/a.txt"] = b"one\ntwo\n"
    code = f"""
from blissaudit.corpora.registry import open_corpus
first = open_corpus("{web[1]}/a.parquet").batches(1)
second = open_corpus("{web[1]}/a.txt").batches(1)
print(next(first).texts, next(second).texts)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("['text 0'] ['one']\n", "")
