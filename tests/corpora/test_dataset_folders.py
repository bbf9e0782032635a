"""A data set folder of texts or images that leads out of itself is refused before it is read."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora import datasets as data_sets
from blissaudit.corpora.images.opening import open_images
from blissaudit.corpora.images.source import ImageOptions
from blissaudit.corpora.registry import CorpusOptions, open_corpus
from blissaudit.errors import BlissError

from tests.corpora.images.test_source import png


def write_table(path: Path) -> None:
    """A parquet file that is one caption and one image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = {"bytes": png(0), "path": None}
    pq.write_table(pa.table({"caption": ["a"], "image": [image], "label": ["x"]}), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path / "outside" / "secret.parquet")
    write_table(tmp_path / "set" / "data" / "train-0.parquet")
    return tmp_path / "set"


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """(address, requests that came): a machine that must not hear of us."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", heard
        listening.shutdown()
        thread.join()


def both(folder: Path, message: str) -> None:
    """Texts and images of the folder are refused alike."""
    with pytest.raises(BlissError, match=message):
        open_corpus(str(folder), CorpusOptions("caption"))
    with pytest.raises(BlissError, match=message):
        open_images(folder)


def test_a_folder_that_names_its_own_files_is_read(folder: Path) -> None:
    head = "configs:\n- config_name: c\n  data_files: data/*\n"
    (folder / "README.md").write_text(f"---\n{head}---\n")
    (folder / "data" / "again.parquet").symlink_to("train-0.parquet")
    (batch,) = open_corpus(str(folder), CorpusOptions("caption")).batches(9)
    assert batch.texts == ["a", "a"]
    assert len(open_images(folder).addresses) == 2


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "place",
    [
        "../outside/secret.parquet",
        "../outside/*",
        "data/../../outside/*.parquet",
        "data\\\\..\\\\..\\\\outside",
        "/etc/hosts",
        "~/secret.parquet",
        "C:/secret.parquet",
        "C:\\\\secret.parquet",
        "\\\\\\\\host\\\\share.parquet",
        "file:///etc/hosts",
        "file:/etc/hosts",
        " file:/etc/hosts",
        "https://example.org/a.parquet",
        "hf://datasets/a/b/c.parquet",
        "s3://bucket/a.parquet",
        "zip://a.csv::https://example.org/a.zip",
        "zip://a.csv::../outside/a.zip",
        "data:text/plain,a",
    ],
)
def test_a_card_that_names_what_is_outside_is_refused(folder: Path, card: str, place: str) -> None:
    head = f'configs:\n- config_name: c\n  data_files: "{place}"\n'
    (folder / card).write_text(f"---\n{head}---\n" if card == "README.md" else head)
    both(folder, rf"{card} in .*set names .*, which leaves the folder\. Needed: files inside")


@pytest.mark.parametrize(
    "entry",
    [
        "data_files: {train: data/*, test: ADDRESS}",
        "data_files: [data/*, ADDRESS]",
        "data_files: [{split: train, path: data/*}, {split: test, path: [data/*, ADDRESS]}]",
        "data_dir: ADDRESS",
        "data_files: data/*\n- config_name: other\n  data_files: ADDRESS",
    ],
)
def test_no_entry_of_a_card_is_contacted(
    folder: Path, server: tuple[str, list[str]], entry: str
) -> None:
    address, heard = server
    entry = entry.replace("ADDRESS", f"{address}/a.parquet")
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: c\n  {entry}\n---\n")
    both(folder, "which leaves the folder")
    with pytest.raises(BlissError, match="which leaves the folder"):
        open_corpus(str(folder), CorpusOptions("caption", "c"))
    with pytest.raises(BlissError, match="which leaves the folder"):
        open_images(folder, ImageOptions(config="c"))
    assert heard == []


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("data/train-1.parquet", "../../outside/secret.parquet"),
        ("more", "../outside"),
        ("data/deep/er/more", "../../../../outside"),
        ("data/train-1.parquet", "/nowhere/at/all.parquet"),
        ("README.md", "../outside/README.md"),
        (".huggingface.yaml", "../outside/card.yaml"),
    ],
)
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, link: str, target: str) -> None:
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, folder / link)
    both(folder, r"is or lies below a link that leaves the folder\. .*Copy what it leads to")


def test_a_file_below_a_hidden_link_is_refused_when_the_card_names_it(folder: Path) -> None:
    (folder / ".hidden").symlink_to("../outside")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: c\n  data_files: .hidden/*.parquet\n---\n"
    )
    both(folder, "leaves the folder")


def test_archives_and_labels_that_are_links_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").symlink_to("../a.tar")
    with pytest.raises(BlissError, match=r"a\.tar .*a link that leaves the folder"):
        open_images(tmp_path / "tars")
    (tmp_path / "labels.csv").write_text("path,label\n0.png,x\n")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").write_bytes(png(0))
    (tmp_path / "flat" / "labels.csv").symlink_to("../labels.csv")
    with pytest.raises(BlissError, match=r"labels\.csv .*a link that leaves the folder"):
        open_images(tmp_path / "flat")


def test_scripts_and_old_descriptions_of_a_folder_are_not_obeyed(
    folder: Path, tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    address, heard = server
    ran = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    for name in ("set.py", "data.py", "loader.py", "__init__.py"):
        (folder / name).write_text(ran)
    (folder / "dataset_infos.json").write_text(
        f'{{"default": {{"homepage": "{address}", "download_checksums": '
        f'{{"{address}/a.parquet": {{"num_bytes": 1, "checksum": "0"}}}}}}}}'
    )
    for opened in (
        lambda: open_corpus(str(folder), CorpusOptions("caption")),
        lambda: open_images(folder),
    ):
        try:
            opened()
        except BlissError as error:
            assert "could not be opened" in str(error)
    assert not (tmp_path / "ran").exists()
    assert heard == []


@pytest.mark.parametrize("head", ["configs: [", "configs: &a\n- *a\n- data_files: [../x, *a]"])
def test_a_card_that_is_no_yaml_or_holds_itself_is_refused(folder: Path, head: str) -> None:
    (folder / ".huggingface.yaml").write_text(head)
    both(folder, r"\.huggingface\.yaml in .* (could not be read|names \.\./x)")


OWN = "hf://datasets/stranger/set@0123456789abcdef"


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A repository of the hub: its `card` and the files that `datasets` would list."""
    import datasets

    hub = SimpleNamespace(card="", standalone="", listed=[f"{OWN}/data/a.parquet"], loaded=0)

    def read(address: str, most: int) -> bytes:
        assert address.startswith("hf://datasets/stranger/set")
        text = hub.card if address.endswith("/README.md") else hub.standalone
        if not text:
            raise FileNotFoundError(address)
        return text.encode()[:most]

    def load(address: str, **options: object) -> SimpleNamespace:
        hub.loaded += 1
        config = SimpleNamespace(name="default", data_files={"train": hub.listed})
        return SimpleNamespace(name="parquet", config=config)

    monkeypatch.setattr(data_sets, "read_file", read)
    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    return hub


def opened(hub: SimpleNamespace) -> None:
    wanted = CorpusOptions("caption")
    address = "hf://datasets/stranger/set"
    data_sets.open_builder("hf:stranger/set", address, wanted, ("parquet",), "tables of text")


@pytest.mark.parametrize(
    "place",
    [
        "https://elsewhere/a.parquet",
        "hf://datasets/other/set/a.parquet",
        "hf://datasets/stranger/set-2/a.parquet",
        "hf://datasets/stranger/set/../../other/set/a.parquet",
        "/etc/passwd",
        "file:///etc/passwd",
        "../a.parquet",
        "zip://a.csv::hf://datasets/stranger/set/a.zip",
    ],
)
@pytest.mark.parametrize("card", ["card", "standalone"])
def test_a_repository_whose_card_names_another_place_is_refused(
    repository: SimpleNamespace, place: str, card: str
) -> None:
    head = f"configs:\n- config_name: c\n  data_files:\n  - split: train\n    path: '{place}'\n"
    setattr(repository, card, f"---\n{head}---\n" if card == "card" else head)
    with pytest.raises(BlissError, match=r"set names .*, which leaves the repository\. Need"):
        opened(repository)
    assert repository.loaded == 0  # the library has not looked at the place


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "https://elsewhere/a", f"{OWN}x/../../a", f"zip://a::{OWN}/a.zip"]
)
def test_a_file_that_the_library_lists_elsewhere_is_refused(
    repository: SimpleNamespace, file: str
) -> None:
    repository.listed.append(file)
    with pytest.raises(BlissError, match=r"its card in hf://datasets/stranger/set names .*leaves"):
        opened(repository)


def test_a_repository_that_names_its_own_files_is_read(repository: SimpleNamespace) -> None:
    places = ["data/*.parquet", "hf://datasets/stranger/set/data/a.parquet"]
    repository.card = f"---\nconfigs:\n- config_name: c\n  data_files: {places}\n---\n"
    opened(repository)
    repository.card += " " * (16 << 20)
    with pytest.raises(BlissError, match=r"README\.md of .* is larger than 16 MiB"):
        opened(repository)
