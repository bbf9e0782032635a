"""What is held out of training, and outliers that are not apart from the normals."""

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.training import oecl as outlier_split
from blissaudit.training.oecl import check_apart, split_rows


def test_a_fifth_of_the_images_and_copies_stay_together():
    hashes = [f"picture {i // 2}" for i in range(40)]
    split = split_rows(hashes, [None] * 40, 0.2, 0)
    assert sorted([*split.kept, *split.held]) == list(range(40))
    assert len(split.held) == 8 and split.classes == ()
    assert {hashes[i] for i in split.held}.isdisjoint({hashes[i] for i in split.kept})


def test_whole_classes_are_held_out_where_there_are_four():
    labels = [name for name in "abcde" for _ in range(6)]
    hashes = [str(i) for i in range(30)]
    split = split_rows(hashes, labels, 0.4, 0)
    assert len(split.classes) == 2
    assert {labels[i] for i in split.held} == set(split.classes)
    assert {labels[i] for i in split.kept} == set("abcde") - set(split.classes)
    few = split_rows(hashes, ["a"] * 10 + ["b"] * 10 + ["c"] * 10, 0.4, 0)
    assert few.classes == () and len(few.held) == 12


def test_the_seed_and_the_share_change_what_is_held_out():
    hashes = [str(i) for i in range(50)]
    usual = split_rows(hashes, [None] * 50, 0.2, 0).held.tolist()
    assert usual == split_rows(hashes, [None] * 50, 0.2, 0).held.tolist()
    assert usual != split_rows(hashes, [None] * 50, 0.2, 1).held.tolist()
    assert len(split_rows(hashes, [None] * 50, 0.5, 0).held) == 25


def test_too_few_images_and_a_share_that_cannot_be():
    with pytest.raises(BlissError, match=r"there are 9 images, of which 2 would be held out"):
        split_rows([str(i) for i in range(9)], [None] * 9, 0.2, 0)
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match=f"a held-out share of {share} was given"):
            split_rows([str(i) for i in range(50)], [None] * 50, share, 0)


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("at_once", [1, 3, 2048])
def test_overlapping_sets_are_counted_and_the_first_is_named(monkeypatch, at_once):
    monkeypatch.setattr(outlier_split, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    normal, outlier = unit(rng.standard_normal((7, 16))), unit(rng.standard_normal((6, 16)))
    names, others = [f"n{i}" for i in range(7)], [f"o{i}" for i in range(6)]
    paths = [f"far/{i}.png" for i in range(6)]
    check_apart((normal, names), (outlier, others, paths), "far")
    outlier[4] = unit(normal[5:6] + 0.002 * rng.standard_normal((1, 16)))  # nearly the same
    one = r"1 outlier image in far is also among the normal ones \(the first: far/4\.png\)"
    with pytest.raises(BlissError, match=one):
        check_apart((normal, names), (outlier, others, paths), "far")
    others[2] = "n0"  # the same content, whatever its vector
    two = r"2 outlier images in far are also among the normal ones \(the first: far/2\.png\)"
    with pytest.raises(BlissError, match=two):
        check_apart((normal, names), (outlier, others, paths), "far")


def test_a_neighbour_below_the_cosine_is_no_copy():
    normal = unit(np.array([[1.0, 0.0]]))
    for angle, same in ((0.016, False), (0.012, True)):  # cosines 0.99987 and 0.99993
        outlier = np.array([[np.cos(angle), np.sin(angle)]], np.float32)
        sets = (normal, ["a"]), (outlier, ["b"], ["b.png"])
        if same:
            with pytest.raises(BlissError, match="1 outlier image in there is also"):
                check_apart(*sets, "there")
        else:
            check_apart(*sets, "there")
