"""Finding images: labels, order, what is skipped, and what is said when there is nothing."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from blissaudit.corpora.images.folders import ImageList, display_path, list_image_files, list_images
from blissaudit.corpora.images.opening import open_images
from blissaudit.corpora.images.source import LEAVES_FOLDER, LINK_OUT, ImageOptions, read_everything
from blissaudit.corpora.sources import notices_of
from blissaudit.errors import BlissError, UsageError
from PIL import Image


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
    assert caught.value.needed == "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIF files"
    make(tmp_path, "a.txt", "sub/b.csv")
    (tmp_path / "away.png").symlink_to("/")
    with pytest.raises(BlissError, match="holds no images") as caught:
        list_images(tmp_path)
    assert caught.value.given == (
        f"{tmp_path} holds no images, only 2 other files (.csv 1, .txt 1) "
        "(links that leave the folder, not followed: 1)"
    )
    assert caught.value.exit_code == 1
    assert caught.value.remedy.startswith("Add --follow-links if you trust where the links lead")


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


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 40)).save(file, form)
    return file.getvalue()


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["picture", "picture.dat", "0123.abc", "a.b.c"])
def test_content_makes_an_image_whatever_its_name(tmp_path: Path, form: str, name: str) -> None:
    make(tmp_path, "cat/a.png")
    (tmp_path / "cat" / name).write_bytes(encoded(form))
    assert set(list_images(tmp_path).paths) == {"cat/a.png", f"cat/{name}"}
    assert open_images(tmp_path / "cat" / name).count == 1
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(tmp_path / "cat" / name, name)
    (item,) = open_images(tmp_path / "t.tar").items(read_everything)
    assert item.data == encoded(form)


def test_other_suffixes_of_images_count_without_a_look(tmp_path: Path) -> None:
    kept = ["a.jfif", "b.pjpeg", "c.MPO", "d.avif", "e.HEIC", "f.heif", "g.apng", "h.dib"]
    make(tmp_path, *kept)
    assert list(list_images(tmp_path).paths) == kept


def test_what_is_no_image_is_counted_by_suffix_and_said(tmp_path: Path) -> None:
    make(tmp_path, "cat/a.png", "cat/a.txt", "dog/b.png", "dog/b.TXT", "dog/c.svg", "README")
    (tmp_path / "cat" / "BMW.dat").write_bytes(b"BMW,1\n" * 20)
    os.mkfifo(tmp_path / "cat" / "pipe")
    found = list_images(tmp_path)
    assert found.paths == ("cat/a.png", "dog/b.png")
    assert found.notices == (
        f"{tmp_path}: 6 other files are no images (.txt 2, without suffix 2, .dat 1, .svg 1)",
    )
    (tmp_path / "flat").mkdir()
    make(tmp_path / "flat", "a.png")
    (tmp_path / "flat" / "labels.csv").write_text("path,label\na.png,x\n")
    assert notices_of(open_images(tmp_path / "flat")) == ()  # the label file is read
    make(tmp_path / "flat", "notes.md")
    assert notices_of(open_images(tmp_path / "flat")) == (
        f"{tmp_path}/flat: 1 other file is no image (.md 1)",
    )
    make(tmp_path / "none", "a.txt", "b.txt", "c.pdf")
    with pytest.raises(BlissError, match=r"holds no images, only 3 other files \(\.txt 2, \.pdf 1"):
        list_images(tmp_path / "none")


def pictures(root: Path, *names: str) -> Path:
    """Images below `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded("PNG"))
    return root


def labelled(source: object) -> dict[str, str | None]:
    return dict(zip(source.paths, source.labels, strict=True))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("labels.csv", ["path,label", "images/a.png,cat", "images/b.png,dog"]),
        ("labels.csv", ["filename,Category", "a.png,cat", "b.png,dog"]),
        ("metadata.csv", ["file_name,label", "images/a.png,cat", "images/b.png,dog"]),
        ("metadata.jsonl", ['{"file_name": "images/a.png", "label": "cat"}',
                            '{"file_name": "images/b.png", "label": "dog", "x": [1]}']),
    ],
)  # fmt: skip
def test_a_label_file_beside_a_folder_of_images(
    tmp_path: Path, name: str, lines: list[str]
) -> None:
    pictures(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / name).write_text("\n".join(lines))
    found = open_images(tmp_path)
    assert labelled(found) == {"images/a.png": "cat", "images/b.png": "dog"}
    assert notices_of(found) == (f"{tmp_path}: labels are those of {name}, not the folders' names",)


def test_a_label_file_that_meets_no_image_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "labels.csv").write_text("path,label\nx.png,cat\n")
    message = r"labels.csv names 1 image, x.png first, none of which is among the 2 of .*cat/a.png"
    with pytest.raises(UsageError, match=message):
        open_images(tmp_path)
    (tmp_path / "labels.csv").rename(tmp_path / "metadata.csv")
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/a.png,one\n")  # no labels: captions
    assert labelled(open_images(tmp_path)) == {"cat/a.png": "cat", "dog/b.png": "dog"}
    (tmp_path / "labels.csv").write_text("path,label\ncat/a.png,lion\n")
    with pytest.raises(UsageError, match=r"holds labels.csv and metadata.csv.*one file with labe"):
        open_images(tmp_path)


@pytest.mark.parametrize("splits", [("train", "test"), ("Train", "VAL", "test"), ("dev", "eval")])
def test_splits_are_no_classes(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        pictures(tmp_path, f"{split}/cat/a.png", f"{split}/dog/b.png")
    first = sorted(splits)[0]
    with pytest.raises(UsageError, match=rf"has the splits .*or {tmp_path}:{first}"):
        open_images(tmp_path)
    found = open_images(tmp_path, ImageOptions(split=splits[-1]))
    assert found.root == f"{tmp_path}/{splits[-1]}"
    assert labelled(found) == {"cat/a.png": "cat", "dog/b.png": "dog"}
    with pytest.raises(UsageError, match=r"has no split 'none', only "):
        open_images(tmp_path, ImageOptions(split="none"))
    pictures(tmp_path, "car/a.png")  # then they are classes
    assert set(open_images(tmp_path).labels) == {*splits, "car"}


def test_one_split_or_container_is_no_class(tmp_path: Path) -> None:
    pictures(tmp_path / "a", "train/cat/a.png", "train/dog/b.png")
    found = open_images(tmp_path / "a")
    assert labelled(found) == {"cat/a.png": "cat", "dog/b.png": "dog"}
    assert notices_of(found) == (f"{tmp_path}/a: the images are those of the split train",)
    pictures(tmp_path / "b", "images/a.png")
    assert open_images(tmp_path / "b").labels == (None,)
    pictures(tmp_path / "c", "Images/cat/a.png", "Images/dog/b.png")
    assert labelled(open_images(tmp_path / "c")) == {"cat/a.png": "cat", "dog/b.png": "dog"}
    pictures(tmp_path / "d", "train/a.png", "train/b.png")
    (tmp_path / "d" / "train" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "label": 3}\n\n{"file_name": "b.png", "label": "x"}\n'
    )
    assert labelled(open_images(tmp_path / "d")) == {"a.png": "3", "b.png": "x"}
    pictures(tmp_path / "e", "cat/a.png", "cat/deep/b.png")
    assert set(open_images(tmp_path / "e").labels) == {"cat"}


def test_folders_of_img2dataset_are_no_classes(tmp_path: Path) -> None:
    names = [f"0000{shard}/0000{shard}{n:04d}" for shard in (0, 1) for n in range(2)]
    pictures(tmp_path, *(f"{name}.jpg" for name in names))
    assert set(open_images(tmp_path).labels) == {"00000", "00001"}
    make(tmp_path, *(f"{name}.{suffix}" for name in names for suffix in ("json", "txt")))
    found = open_images(tmp_path)
    assert set(found.labels) == {None}
    assert any("shards of img2dataset, not classes" in line for line in notices_of(found))


def test_names_that_nearly_meet_are_named(tmp_path: Path) -> None:
    decomposed, composed = "cafe\u0301", "caf\xe9"
    pictures(tmp_path, f"{decomposed}/a.png", "Cat/b.png", "cat/c.png", f"{composed}/d.png")
    (line,) = notices_of(open_images(tmp_path))
    assert line == (
        "classes whose names differ in case, spaces or Unicode form alone: "
        r"'Cat' and 'cat'; 'cafe\u0301' and 'caf\xe9'"
    )
    pictures(tmp_path / "flat", f"{decomposed}.png", "B.png")
    (tmp_path / "flat" / "labels.csv").write_text(f"path,label\n{composed}.png,x\nb.PNG,y\n")
    found = open_images(tmp_path / "flat")
    assert labelled(found) == {"B.png": None, f"{decomposed}.png": "x", "b.PNG": "y"}
    assert found.problems[2].endswith("not among the images; B.png differs in case alone")


def test_lists_from_other_systems(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png", "dog/b.png", "dog\\c.png")
    file = tmp_path / "list.csv"
    rows = ["cat\\a.png,x", f"{tmp_path}/dog/b.png,y", "dog\\c.png,z", "https://host/d.png,x",
            "C:\\e.png,x", "/elsewhere/f.png,y"]  # fmt: skip
    file.write_text("\n".join(["path,label", *rows]))
    found = open_images(file)
    items = {item.row: item for item in found.items(read_everything)}
    assert [items[row].file for row in range(3)] == [
        f"{tmp_path}/cat/a.png",
        f"{tmp_path}/dog/b.png",
        f"{tmp_path}/dog\\c.png",
    ]
    assert items[3].problem == "it is an address, and images that a list names are not fetched"
    assert items[5].problem == LEAVES_FOLDER
    (tmp_path / "labels.csv").write_text("path,label\ncat\\a.png,x\n")
    assert labelled(open_images(tmp_path))["cat/a.png"] == "x"


@pytest.mark.parametrize(
    ("first", "remedy"),
    [("https://host/a.png", "Download the images"), ("/elsewhere/a.png", "Put the file into the")],
)
def test_a_list_of_nothing_in_its_folder_is_refused(
    tmp_path: Path, first: str, remedy: str
) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{first},x\n/elsewhere/b.png,y\n")
    with pytest.raises(UsageError, match=rf"names no file in its folder.*\(the first: .*{remedy}"):
        open_images(tmp_path / "list.csv")


def test_links_are_followed_where_the_user_says_so(tmp_path: Path) -> None:
    store = pictures(tmp_path / "store", "1.png", "2.png", "dog/3.png")
    root = pictures(tmp_path / "root", "cat/0.png")
    (root / "cat" / "1.png").symlink_to(store / "1.png")
    (root / "cat" / "unnamed").symlink_to(store / "2.png")
    (root / "dog").symlink_to(store / "dog")
    (root / "loop").symlink_to(tmp_path)
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    plain = open_images(root)
    assert plain.problems and all(why == LINK_OUT for why in plain.problems.values())
    found = open_images(root, ImageOptions(follow_links=True))
    assert not found.problems
    assert found.paths == ("cat/0.png", "cat/1.png", "cat/unnamed", "dog/3.png", "gone.png")
    assert found.facts()["fingerprint"] != plain.facts()["fingerprint"]
    (root / "labels.csv").symlink_to(tmp_path / "outside.csv")
    (tmp_path / "outside.csv").write_text("path,label\ncat/1.png,x\n")
    with pytest.raises(BlissError, match="is or lies below a link that leaves the folder"):
        open_images(root)
    labels = labelled(open_images(root, ImageOptions(follow_links=True)))
    assert labels["cat/1.png"] == "x"
    listed = open_images(root / "labels.csv", ImageOptions(follow_links=True))
    assert (listed.labels, listed.problems) == (("x",), {})
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(root / "cat" / "0.png", "0.png")
    with pytest.raises(UsageError, match="--follow-links given for"):
        open_images(tmp_path / "t.tar", ImageOptions(follow_links=True))


LAYOUTS = {
    "coco": ("train2017/a.png val2017/b.png", None),
    "sets": ("training_set/cup/a.png test_set/cup/b.png", None),
    "prefixed": ("seg_train/cup/a.png seg_test/cup/b.png", None),
    "folds": ("fold_1/cup/a.png fold_2/cup/b.png split3/mug/c.png", None),
    "classes that end alike": ("toy_train/a.png toy_car/b.png", ["toy_car", "toy_train"]),
    "nested": ("dataset/images/cup/a.png dataset/images/mug/b.png", ["cup", "mug"]),
    "one split and a picture": ("train/cup/a.png train/mug/b.png cover.png", ["cup", "mug"]),
    "of systems": ("cup/a.png mug/b.png __MACOSX/cup/a.png cup/@eaDir/a.png/t.png", ["cup", "mug"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_data_sets_are_recognised_or_refused(tmp_path, name):
    files, classes = LAYOUTS[name]
    make(tmp_path, *files.split())
    if classes is None:
        with pytest.raises(UsageError, match=r"has the splits .*Needed: one split"):
            open_images(tmp_path)
        return
    listed = open_images(tmp_path)
    assert sorted(listed.labels) == classes
    if "cover" in files:
        assert "split train, without 1 image beside it" in listed.notices[0]


def test_what_may_be_classes_or_labels_is_said(tmp_path):
    make(tmp_path, "cup/left/a.png", "cup/right/b.png")
    (tmp_path / "train.csv").write_text("id,label\n1,x\n")
    listed = open_images(tmp_path)
    assert listed.labels == ("cup", "cup")
    said = "\n".join(listed.notices)
    assert "one class, cup, with its images in 2 folders; if those are the classes, give" in said
    assert "train.csv is not read; labels are read from a table that --labels names" in said
    make(tmp_path / "d", *(f"{d}/{c}/a.png" for d in ("photo", "sketch") for c in ("dog", "cat")))
    make(tmp_path / "m", *(f"{c}/{s}/a.png" for c in ("cup", "mug") for s in ("train", "test")))
    listed = open_images(tmp_path / "d")
    assert sorted(set(listed.labels)) == ["photo", "sketch"]
    (said,) = listed.notices
    assert "each has the folders cat, dog; if those are the classes, give " in said
    assert said.endswith("/d/photo") and not open_images(tmp_path / "m").notices


@pytest.mark.parametrize("sign", [";", "\t", "|", ","])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_label_files_of_spreadsheets_are_read(tmp_path, sign, encoding):
    make(tmp_path, "a.png", "b.png")
    text = f"id{sign}Path{sign}label\n1{sign}a.png{sign}caf\u00e9\n2{sign}b.png{sign}mug\n"
    (tmp_path / "labels.csv").write_text(text, encoding=encoding)
    assert open_images(tmp_path).labels == ("caf\u00e9", "mug")
