"""A listening socket in place of the Hugging Face hub, and artefacts to tamper with."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

CHILD = """
import contextlib, io, json, sys
from blissaudit.cli import run
for command in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(command)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture
def named_models(tmp_path, monkeypatch):
    """The list of named models of a user who has named none, as a path."""
    monkeypatch.setenv("BLISS_CONFIG", str(tmp_path / "settings"))
    return tmp_path / "settings" / "models.txt"


@pytest.fixture(scope="module")
def hub():
    """A listening socket in place of the Hugging Face hub, and the `requests` that it got."""
    server, requests = socket.create_server(("127.0.0.1", 0)), []

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(65536).decode(errors="replace").split("\r\n")[0])
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    yield SimpleNamespace(url=url, requests=requests)
    server.close()


@pytest.fixture(scope="module")
def commands(hub, tmp_path_factory):
    """`commands([...])` runs command lines in one new process that knows only `hub`."""
    home = tmp_path_factory.mktemp("home")

    def run(lines, **environment):
        environ = {
            **os.environ,
            "BLISS_CONFIG": str(home / "settings"),
            "BLISS_CACHE": str(home / "cache"),
            "HF_HOME": str(home / "hub"),
            "HF_ENDPOINT": hub.url,
            "HTTPS_PROXY": hub.url,
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps([[str(word) for word in line] for line in lines]),
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return [SimpleNamespace(**dict(zip(("code", "out", "err"), json.loads(line), strict=True)))
                for line in done.stdout.splitlines()]  # fmt: skip

    return run


@pytest.fixture(scope="module")
def made(bliss, collection, index, tmp_path_factory):
    """A folder with a run, a reference and an evaluation of the demo model."""
    folder = tmp_path_factory.mktemp("made")
    assert bliss("audit", collection, "--index", index, "-o", folder / "run").code == 0
    fit = ("reference", "fit", collection, "--model", "demo", "-o", folder / "reference")
    assert bliss(*fit).code == 0
    asked = ("--reference", collection, "--test", collection, "--index", index, "--model", "demo")
    how = ("--protocol", "random-2", "--draws", 1, "--score", "maximum_cosine")
    done = bliss("eval", *asked, *how, "-o", folder / "eval")
    assert done.code == 0, done.err
    shutil.copytree(index, folder / "index")
    return folder
