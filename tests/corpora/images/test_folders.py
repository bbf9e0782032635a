"""Finding images: labels, order, what is skipped, and what is said when there is nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blissaudit.corpora.images.folders import ImageList, display_path, list_image_files, list_images
from blissaudit.corpora.images.source import LINK_OUT, read_everything
from blissaudit.errors import BlissError, UsageError


def make(root: Path, *names: str) -> Path:
    """Empty files below `root`; listing never opens them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_class_folders_give_labels_and_byte_order(tmp_path: Path) -> None:
    make(tmp_path, "dog/b.JPG", "dog/deep/er/a.png", "Cat/x.webp", "cat-2/y.gif", "é/z.tiff")
    make(tmp_path, "loose.bmp")
    found = list_images(tmp_path)
    assert found.root == str(tmp_path)
    assert list(zip(found.paths, found.labels, strict=True)) == [
        ("Cat/x.webp", "Cat"),
        ("cat-2/y.gif", "cat-2"),
        ("dog/b.JPG", "dog"),
        ("dog/deep/er/a.png", "dog"),
        ("loose.bmp", None),
        ("é/z.tiff", "é"),
    ]
    assert found.classes == ("Cat", "cat-2", "dog", "é")


def test_order_is_by_bytes_not_by_folder_or_locale(tmp_path: Path) -> None:
    make(tmp_path, "a/z.png", "a-b.png", "B.png", "a0.png", "ä.png")
    # '-' (2d) < '/' (2f) < '0' (30), upper case before lower case, non-ASCII last
    assert list_images(tmp_path).paths == ("B.png", "a-b.png", "a/z.png", "a0.png", "ä.png")


def test_list_images_is_flat_when_subfolders_hold_no_images(tmp_path: Path) -> None:
    make(tmp_path, "one.png", "notes/readme.txt", "notes/.hidden.png")
    assert list_images(tmp_path).labels == (None,)
    make(tmp_path, "notes/figure.png")
    assert list_images(tmp_path).labels == ("notes", None)


def test_only_image_suffixes_count_and_hidden_names_do_not(tmp_path: Path) -> None:
    kept = ["a.jpg", "b.jpeg", "c.jpe", "d.png", "e.webp", "f.bmp", "g.gif", "h.tif", "i.TIFF"]
    make(tmp_path, *kept, "jpg", "x.jpg.txt", "y.svg", ".z.jpg", ".cache/w.jpg", "._a.jpg")
    assert list(list_images(tmp_path).paths) == kept


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_names_that_are_not_utf8_survive_and_can_be_shown(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    try:
        os.mkdir(folder)
        Path(os.fsdecode(os.path.join(folder, b"\xff.jpg"))).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = list_images(tmp_path)
    assert found.paths == ("caf\udce9/\udcff.jpg",)
    assert os.path.exists(os.path.join(found.root, found.paths[0]))
    assert display_path(found.paths[0]) == r"caf\xe9/\xff.jpg"
    assert found.labels == (r"caf\xe9",)


def test_display_path_keeps_valid_text_and_escapes_lone_surrogates() -> None:
    assert display_path("naïve/日本.png") == "naïve/日本.png"
    assert display_path("a\ud800b") == r"a\ud800b"


def test_links_out_of_the_root_are_not_followed(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", "secret.png")
    root = make(tmp_path / "root", "in/a.png")
    (root / "out").symlink_to(outside)
    (root / "in" / "b.png").symlink_to(outside / "secret.png")
    (root / "in" / "c.png").symlink_to(root / "in" / "a.png")
    (root / "rootless").symlink_to(tmp_path / "root2")  # a sibling whose name starts the same
    make(tmp_path / "root2", "d.png")
    (root / "in" / "passwords.txt").symlink_to("/etc/passwd")  # named like no image
    found = list_images(root)
    assert found.paths == ("in/a.png", "in/b.png", "in/c.png", "out", "rootless")
    assert found.problems == dict.fromkeys((1, 3, 4), LINK_OUT)
    items = {item.row: item for item in found.items(read_everything)}
    assert [items[row].problem for row in (1, 3, 4)] == [LINK_OUT] * 3
    assert {row: item.file for row, item in items.items()} == {
        0: f"{root}/in/a.png",
        1: None,
        2: f"{root}/in/c.png",
        3: None,
        4: None,
    }


def test_an_empty_folder_named_like_an_image_is_listed_and_fails_later(tmp_path: Path) -> None:
    make(tmp_path, "cat/a.png", "dog.jpg/b.png")
    (tmp_path / "cat" / "c.jpg").mkdir()
    found = list_images(tmp_path)
    assert found.paths == ("cat/a.png", "cat/c.jpg", "dog.jpg/b.png")
    assert found.labels == ("cat", "cat", "dog.jpg")


def test_a_folder_that_went_away_is_noticed(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "a.png")
    found = list_images(root)
    found.check()
    (root / "a.png").unlink()
    with pytest.raises(BlissError, match="went away while it was read \\(it is empty now\\)"):
        found.check()
    root.rmdir()
    with pytest.raises(BlissError, match="went away while it was read \\(No such file"):
        found.check()


def test_the_fingerprint_follows_names_sizes_times_and_labels(tmp_path: Path) -> None:
    make(tmp_path, "a/x.png", "b/y.png")
    prints = [list_images(tmp_path).facts()["fingerprint"]]
    (tmp_path / "a" / "x.png").write_bytes(b"1")
    prints.append(list_images(tmp_path).facts()["fingerprint"])
    os.utime(tmp_path / "a" / "x.png", ns=(5, 5))
    prints.append(list_images(tmp_path).facts()["fingerprint"])
    (tmp_path / "b" / "y.png").rename(tmp_path / "b" / "z.png")
    found = list_images(tmp_path)
    prints.append(found.facts()["fingerprint"])
    other = ImageList(found.root, found.paths, ("a", None))
    prints.append(other.facts()["fingerprint"])
    assert len(set(prints)) == 5
    assert list_images(tmp_path).facts()["fingerprint"] == prints[3]


def test_a_linked_class_folder_inside_the_root_is_a_class(tmp_path: Path) -> None:
    make(tmp_path, ".store/one.png")
    (tmp_path / "shown").symlink_to(tmp_path / ".store")
    found = list_images(tmp_path)
    assert (found.paths, found.labels) == (("shown/one.png",), ("shown",))


def test_loops_of_links_end(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(12)]
    make(tmp_path, *(f"{name}/a.png" for name in names))
    for here in names:
        (tmp_path / here / "up").symlink_to("..")
        (tmp_path / here / "self.png").symlink_to("self.png")
        for there in names:
            (tmp_path / here / there).symlink_to(tmp_path / there)
    found = list_images(tmp_path)
    expected = {f"{here}/{file}" for here in names for file in ("a.png", "self.png")}
    for here in names:
        for there in names:
            if here != there:
                expected |= {f"{here}/{there}/a.png", f"{here}/{there}/self.png"}
    assert set(found.paths) == expected and len(found.paths) == len(expected)


def test_a_root_that_is_itself_a_link_works(tmp_path: Path) -> None:
    make(tmp_path / "real", "a/b.png")
    (tmp_path / "link").symlink_to("real")
    assert list_images(tmp_path / "link").paths == ("a/b.png",)


def test_missing_folder_and_file_in_its_place_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere does not exist\. Needed: a folder with images"):
        list_images(tmp_path / "nowhere")
    make(tmp_path, "a.png")
    with pytest.raises(UsageError, match=r"a\.png is not a folder"):
        list_images(tmp_path / "a.png")


def test_an_empty_folder_says_what_it_holds_and_what_counts(tmp_path: Path) -> None:
    with pytest.raises(BlissError, match="holds no images") as caught:
        list_images(tmp_path)
    assert caught.value.given == f"{tmp_path} holds no images"
    assert caught.value.needed == (
        "files that end in .jpg, .jpeg, .jpe, .png, .webp, .bmp, .gif, .tif, .tiff, in any case"
    )
    make(tmp_path, "a.txt", "sub/b.csv")
    (tmp_path / "away.png").symlink_to("/")
    with pytest.raises(BlissError, match="holds no images") as caught:
        list_images(tmp_path)
    assert caught.value.given == (
        f"{tmp_path} holds no images, only 2 other files "
        "(links that leave the folder, not followed: 1)"
    )
    assert caught.value.exit_code == 1


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "open/a.png", "locked/b.png")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("locked"):  # permissions do not bind root, who may run the tests
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BlissError, match=r"locked could not be read \(Permission denied\)"):
        list_images(tmp_path)


def test_named_files_keep_their_order_under_their_common_folder(tmp_path: Path) -> None:
    make(tmp_path, "b/two.png", "a/one", "a/.hid.jpg")
    found = list_image_files([tmp_path / "b/two.png", tmp_path / "a/one", tmp_path / "a/.hid.jpg"])
    assert found.root == str(tmp_path)
    assert found.paths == ("b/two.png", "a/one", "a/.hid.jpg")
    assert found.labels == (None, None, None)
    single = list_image_files([str(tmp_path / "b/two.png")])
    assert (single.root, single.paths) == (str(tmp_path / "b"), ("two.png",))


def test_named_files_must_be_files_and_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image file was named"):
        list_image_files([])
    with pytest.raises(UsageError, match=r"gone\.png does not exist"):
        list_image_files([tmp_path / "gone.png"])
    with pytest.raises(UsageError, match=f"{tmp_path.name} is a folder"):
        list_image_files([tmp_path])
