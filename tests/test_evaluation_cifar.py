"""CIFAR's binary format, on a few synthetic records."""

import numpy as np
import pytest
from blissaudit.corpora.images import list_images
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
