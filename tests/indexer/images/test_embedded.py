"""What somebody else's metadata calls the images, and where the questioned labels go."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit import folder as label_issues
from blissaudit.errors import BlissError
from blissaudit.indexer.images import embedded as outside_metadata
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.indexer.vectors.string_columns import text_column
from blissaudit.scorer.questions.mislabel import LabelMargins


def write(folder, tables):
    """Embeddings of 4 dimensions, a part for each table."""
    rng = np.random.default_rng(0)
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, table in enumerate(tables):
        rows = rng.standard_normal((len(table), 4)).astype(np.float32)
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", rows)
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
    return folder


@pytest.mark.parametrize("at_once", [2, 65_536])
def test_each_part_names_its_rows_in_its_own_way(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(outside_metadata, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr("blissaudit.indexer.vectors.string_columns.ROWS_AT_ONCE", at_once)
    tables = [
        pa.table({"url": ["u0", "u1"], "path": ["p0", None], "label": ["cat", None]}),
        pa.table({"caption": ["c2", "c3", "c4"]}),
        pa.table({"image_path": pa.array([5, None]), "label": pa.array([1.0, 2.5])}),
        pa.table({"path": pa.array(["x"]).dictionary_encode(), "label": ["cat"]}),
        pa.table({"label": ["", " \t", " cat"]}),
        pa.table({"label": pa.array([np.nan, 2.5], from_pandas=False)}),
    ]
    images = read_image_embeddings(write(tmp_path / "all", tables))
    assert images.paths == ("p0", "row 1", "row 2", "row 3", "row 4", "5", "row 6", "x",
                            *(f"row {row}" for row in range(8, 13)))  # fmt: skip
    assert images.labels == ("cat", None, None, None, None, "1.0", "2.5", "cat",
                             None, None, " cat", None, "2.5")  # fmt: skip
    bare = read_image_embeddings(write(tmp_path / "bare", [tables[1]]))
    assert bare.labels == (None,) * 3 and bare.paths[1] == "row 1"
    assert bare.hashes != images.hashes and bare.fingerprint != images.fingerprint


def test_two_files_of_one_number_are_refused(tmp_path):
    folder = write(tmp_path / "two", [pa.table({"path": ["a", "b"]})])
    for name, suffix in (("img_emb", "npy"), ("metadata", "parquet")):
        path = folder / name / f"{name}_0.{suffix}"
        path.with_stem(f"{name}_00").write_bytes(path.read_bytes())
    with pytest.raises(BlissError, match=r"holds img_emb_0.npy and img_emb_00.npy\. Needed: one"):
        read_image_embeddings(folder)


def test_names_that_are_not_utf8_are_told(tmp_path):
    broken = pa.array([b"fine", b"\xff.jpg"], pa.binary()).view(pa.string())
    folder = write(tmp_path / "broken", [pa.table({"path": broken})])
    with pytest.raises(BlissError, match=r"column 'path' of .*metadata_0.parquet could not be"):
        read_image_embeddings(folder)


def test_issues_are_written_a_few_at_a_time(monkeypatch):
    n = 7
    numbers = np.arange(n) % 3 - 1
    margins = np.linspace(-0.3, 0.3, n)
    result = SimpleNamespace(
        labels=LabelMargins(numbers, np.zeros(n, np.int64), margins, margins / 2),
        reference=SimpleNamespace(classes=("ant", "bee")),
        images=SimpleNamespace(
            rows=np.arange(n) * 2, paths=text_column(f"=im {i}" for i in range(n))
        ),
    )
    whole: list[bytes] = []
    label_issues.write_labels_csv(result, whole.append)
    assert len(whole) == 1 and whole[0].count(b"\n") == 1 + (numbers >= 0).sum()
    monkeypatch.setattr(label_issues, "ROWS_AT_ONCE", 2)
    parts: list[bytes] = []
    label_issues.write_labels_csv(result, parts.append)
    assert b"".join(parts) == whole[0] and len(parts) == 4
