"""CIFAR's binary and parquet formats, on a few synthetic records."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.images.folders import list_images
from blissaudit.errors import BlissError, UsageError
from blissaudit.evaluation.cifar import unpack_cifar
from PIL import Image


def records(labels, label_bytes, seed=0):
    rng = np.random.default_rng(seed)
    planes = rng.integers(256, size=(len(labels), 3, 32, 32), dtype=np.uint8)
    heads = np.zeros((len(labels), label_bytes), np.uint8)
    heads[:, -1] = labels
    heads[:, :-1] = 19  # the coarse label of CIFAR-100 is not the class
    return np.hstack([heads, planes.reshape(len(labels), -1)]).tobytes(), planes


def cifar10(folder):
    (folder / "batches.meta.txt").write_text("cat\ndog\n\n")
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(records([0, 1], 1, number)[0])
    data, planes = records([1, 0, 1], 1)
    (folder / "test_batch.bin").write_bytes(data)
    return planes


def test_cifar_10(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    planes = cifar10(source)
    assert unpack_cifar(source, target) == {"train": 10, "test": 3}
    listed = list_images(target / "test")
    assert listed.paths == ("cat/00001.png", "dog/00000.png", "dog/00002.png")
    assert list_images(target / "train").labels.count("cat") == 5
    pixels = np.asarray(Image.open(target / "test" / "dog" / "00002.png"))
    assert np.array_equal(pixels, planes[2].transpose(1, 2, 0))
    with pytest.raises(UsageError, match="is not empty"):
        unpack_cifar(source, target)


def test_cifar_100_uses_the_fine_label(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "fine_label_names.txt").write_text("apple\nwolf\n")
    (source / "coarse_label_names.txt").write_text("fruit\nbeast\n")
    for name in ("train.bin", "test.bin"):
        (source / name).write_bytes(records([1, 0], 2)[0])
    assert unpack_cifar(source, tmp_path / "out") == {"train": 2, "test": 2}
    assert (tmp_path / "out" / "train" / "wolf" / "00000.png").is_file()


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("test_batch.bin", b"x" * 100, "has 100 bytes. Needed: records of 3073 bytes"),
        ("test_batch.bin", b"", "has 0 bytes"),
        ("test_batch.bin", records([7], 1)[0], "has the label 7. Needed: 0 to 1"),
        ("data_batch_3.bin", None, "data_batch_3.bin is missing"),
    ],
)
def test_a_broken_file(tmp_path, file, content, match):
    cifar10(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(BlissError, match=match):
        unpack_cifar(tmp_path, tmp_path / "out")


def test_another_folder(tmp_path):
    with pytest.raises(UsageError, match=r"holds neither batches\.meta\.txt nor fine_label_names"):
        unpack_cifar(tmp_path, tmp_path / "out")


def write_parquet(path, labels, names, seed=0, image="img", label="label"):
    """Hugging Face's layout of CIFAR: PNG bytes in a struct, names in the schema's metadata."""
    pixels = np.random.default_rng(seed).integers(256, size=(len(labels), 32, 32, 3), dtype="u1")
    rows = []
    for picture in pixels:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "PNG")
        rows.append({"bytes": out.getvalue(), "path": None})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {image: pa.array(rows, kind), label: pa.array(labels, pa.int64())}
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    if label == "fine_label":
        columns["coarse_label"] = pa.array([0] * len(labels), pa.int64())
        features["coarse_label"] = {"names": ["fruit"], "_type": "ClassLabel"}
    facts = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": facts}), path)
    return pixels


def test_cifar_10_from_parquet(tmp_path):
    source, target = tmp_path / "in" / "plain_text", tmp_path / "out"
    write_parquet(source / "train-00000-of-00002.parquet", [0, 1, 1], ["cat", "dog"])
    write_parquet(source / "train-00001-of-00002.parquet", [1], ["cat", "dog"])
    pixels = write_parquet(source / "test-00000-of-00001.parquet", [1, 0], ["cat", "dog"], 5)
    assert unpack_cifar(tmp_path / "in", target) == {"train": 4, "test": 2}
    assert list_images(target / "test").paths == ("cat/00001.png", "dog/00000.png")
    assert list_images(target / "train").labels == ("cat", "dog", "dog", "dog")
    found = np.asarray(Image.open(target / "test" / "cat" / "00001.png"))
    assert np.array_equal(found, pixels[1])


def test_cifar_100_from_parquet_uses_the_fine_label(tmp_path):
    for part in ("train", "test"):
        path = tmp_path / "in" / part / "0000.parquet"
        write_parquet(path, [1, 0], ["apple", "wolf"], image="image", label="fine_label")
    assert unpack_cifar(tmp_path / "in", tmp_path / "out") == {"train": 2, "test": 2}
    assert (tmp_path / "out" / "train" / "wolf" / "00000.png").is_file()


def without_names(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def without_bytes(path):
    table = pq.read_table(path)
    column = pa.array([1] * len(table))
    pq.write_table(table.set_column(0, "img", column), path)


def broken_picture(path):
    table = pq.read_table(path)
    kind = table.schema.field("img").type
    column = pa.array([{"bytes": b"no", "path": None}] * len(table), kind)
    pq.write_table(table.set_column(0, "img", column), path)


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (without_names, "has the columns img, label and no class names. Needed: a column img"),
        (without_bytes, "has the columns img, label. Needed: a column img or image with bytes"),
        (broken_picture, "has no readable picture in row 0"),
        (lambda path: path.write_bytes(b"no"), "could not be read"),
        (lambda path: write_parquet(path, [1, 2], ["cat", "dog"]), "has the label 2 in row 1"),
        (lambda path: write_parquet(path, [None], ["cat", "dog"]), "has the label None in row 0"),
    ],
)
def test_a_broken_parquet_file(tmp_path, harm, match):
    write_parquet(tmp_path / "in" / "train-0.parquet", [0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "in" / "test-0.parquet", [0, 1], ["cat", "dog"])
    harm(tmp_path / "in" / "test-0.parquet")
    with pytest.raises(BlissError, match=match):
        unpack_cifar(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["../cat", "/cat", "..", ""])
def test_a_class_name_never_leaves_the_target(tmp_path, name):
    for part in ("train", "test"):
        write_parquet(tmp_path / "in" / f"{part}-0.parquet", [0, 1], [name, "dog"])
    with pytest.raises(BlissError, match=r"has a class called .* names that can name a folder"):
        unpack_cifar(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "cat").exists()


def test_one_part_alone_is_not_enough(tmp_path):
    write_parquet(tmp_path / "in" / "train-0.parquet", [0, 1], ["cat", "dog"])
    with pytest.raises(UsageError, match="nor train and test parquet files"):
        unpack_cifar(tmp_path / "in", tmp_path / "out")
