"""Protocols as data, and the draws they make of small worlds."""

import json

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.evaluation.draws import (
    EmbeddedSet,
    Protocol,
    built_in_protocols,
    find_protocol,
    fingerprints,
    make_draws,
    make_world,
    protocol_facts,
    protocol_from,
    set_of,
)
from blissaudit.indexer.images.embedded import EmbeddedImages
from blissaudit.indexer.vectors.unit_rows import normalise_rows

NAMES = ("ant", "bee", "cat", "dog", "elk")


def a_set(seed, names=NAMES, each=4):
    rows = np.random.default_rng(seed).standard_normal((len(names) * each, 6))
    return EmbeddedSet(normalise_rows(rows).unit, tuple(np.repeat(names, each).tolist()))


def a_world(**outliers):
    return make_world(a_set(0, each=8), a_set(1), outliers)


def labels_of(world, rows):
    return {world.labels[row] for row in rows}


def test_one_class_alone():
    world = a_world()
    draws = make_draws(world, find_protocol("one-class"))
    assert [draw.normal for draw in draws] == [(name,) for name in NAMES]
    for draw in draws:
        assert labels_of(world, draw.reference) == set(draw.normal)
        assert (world.part[draw.reference] == 0).all() and (world.part[draw.test] == 1).all()
        assert len(draw.reference) == 8 and len(draw.test) == 20
        truth = [world.labels[row] not in draw.normal for row in draw.test]
        assert draw.anomalous.tolist() == truth and draw.groups == ("other classes",)


def test_leave_one_class_out():
    world = a_world()
    draws = make_draws(world, find_protocol("leave-one-out"))
    assert [set(NAMES) - set(draw.normal) for draw in draws] == [{name} for name in NAMES]
    assert all(draw.anomalous.sum() == 4 and len(draw.reference) == 32 for draw in draws)
    first = draws[0]
    filed = [first.normal[number] for number in first.labels]
    assert filed == [world.labels[row] for row in first.reference]


def test_random_classes_are_numpys_random_state():
    world = a_world()
    protocol = Protocol("p", "random", among=("elk", "ant", "cat"), size=2, draws=6, seed=3)
    rng = np.random.RandomState(3)
    expected = [tuple(rng.choice(("elk", "ant", "cat"), 2, replace=False)) for _ in range(6)]
    draws = make_draws(world, protocol)
    assert [draw.normal for draw in draws] == expected
    # The classes that may not be chosen are anomalies still.
    assert all(draw.anomalous.sum() == 12 for draw in draws)


def test_listed_splits_refer_to_sorted_classes():
    draws = make_draws(a_world(), Protocol("p", "listed", splits=((4, 0), (1,))))
    assert [draw.normal for draw in draws] == [("elk", "ant"), ("bee",)]


def test_outlier_sets_are_groups_of_their_own():
    world = a_world(far=a_set(5, ("x",)), near=a_set(6, ("y",), 3))
    (draw,) = make_draws(world, find_protocol("folders"))
    assert draw.groups == ("far", "near")
    assert np.bincount(draw.group).tolist() == [20, 4, 3]
    both = make_draws(world, Protocol("p", "random", size=2, draws=1))[0]
    assert both.groups == ("other classes", "far", "near")
    assert np.bincount(both.group).tolist() == [8, 12, 4, 3]


def test_unlabelled_tests_are_normal_where_only_outlier_sets_are_not():
    test = EmbeddedSet(a_set(1).images, (None,) * 20)
    world = make_world(a_set(0), test, {"far": a_set(5, ("x",))})
    (draw,) = make_draws(world, find_protocol("folders"))
    assert np.bincount(draw.group).tolist() == [20, 4]


def test_few_shots_are_that_many_of_each_class_and_the_classes_stay():
    world = a_world()
    plain = make_draws(world, Protocol("p", "random", size=2, draws=5))
    few = make_draws(world, Protocol("p", "random", size=2, draws=5, shots=2))
    assert [d.normal for d in few] == [d.normal for d in plain]
    for draw, whole in zip(few, plain, strict=True):
        assert np.bincount(draw.labels).tolist() == [2, 2]
        assert set(draw.reference) < set(whole.reference)
        assert np.array_equal(draw.test, whole.test)
    again = make_draws(world, Protocol("p", "each", draws=3, shots=2))
    assert len(again) == 15 and len({tuple(d.reference) for d in again[:3]}) > 1


def test_contamination_is_that_share_of_the_reference_from_other_classes():
    world = a_world()
    for draw in make_draws(world, Protocol("p", "random", size=2, draws=4, contamination=0.2)):
        filed = np.array([draw.normal[number] for number in draw.labels])
        true = np.array([world.labels[row] for row in draw.reference])
        assert (filed != true).mean() == 0.2 and len(true) == 20
        assert not set(true[filed != true]) & set(draw.normal)
        assert np.bincount(draw.labels).tolist() == [10, 10]
    clean = make_draws(world, Protocol("p", "random", size=2, draws=4, contamination=0))
    assert [len(draw.reference) for draw in clean] == [16] * 4


def test_contamination_from_an_outlier_set_leaves_its_tests():
    world = a_world(far=a_set(5, ("x",), 12))
    (draw,) = make_draws(world, Protocol("p", "all", others=False, contamination=0.1))
    strangers = draw.reference[world.part[draw.reference] == 2]
    assert len(strangers) == 4
    assert (draw.group == 1).sum() == 8 and not set(strangers) & set(draw.test)
    with pytest.raises(BlissError, match="12 anomalous images are there to contaminate 60"):
        small = make_world(a_set(0, each=12), a_set(1), {"far": a_set(5, ("x",), 12)})
        make_draws(small, Protocol("p", "all", others=False, contamination=0.2))


def with_the_same_address():
    named = [f"https://pictures.org/{row}.jpg" for row in range(40)]
    first = a_set(0, each=8)
    reference = EmbeddedSet(first.images, first.labels, ids=tuple(named))
    far = EmbeddedSet(a_set(5, ("x",)).images, ("x",) * 4, ids=("", "", named[7], ""))
    return make_world(reference, a_set(1), {"far": far})


def overlapping():
    world_set = a_set(0, each=8)
    copy = EmbeddedSet(world_set.images[[3]], ("x",))
    return make_world(world_set, a_set(1), {"far": copy})


@pytest.mark.parametrize(
    ("world", "protocol", "match"),
    [
        (a_world, Protocol("p", "all", among=("ant", "yak")), "names yak, which the reference set"),
        (a_world, Protocol("p", "random", size=6), "6 normal classes of 5 were asked for"),
        (a_world, Protocol("p", "listed", splits=((0, 5),)), "names class number 5"),
        (a_world, find_protocol("cifar10-zoc"), "has 5 classes. Needed: 10"),
        (a_world, Protocol("p", "all", far=("SUN",)), "outlier sets none were given. Needed: SUN"),
        (a_world, Protocol("p", "each", shots=9), "class 'ant' has 8 reference images. Needed"),
        (a_world, Protocol("p", "all"), "there are no anomalies to test"),
        (a_world, Protocol("p", "each", draws=2), "2 draws were asked of the protocol 'p', in wh"),
        (
            overlapping,
            Protocol("p", "all"),
            "'far' overlaps the normal images: its image 0 has the ",
        ),
        (with_the_same_address, Protocol("p", "all"), "image 2 has the same id as one of them"),
    ],
)
def test_a_protocol_that_does_not_fit(world, protocol, match):
    with pytest.raises(BlissError, match=match):
        make_draws(world(), protocol)


def test_a_test_set_without_the_normal_classes():
    world = make_world(a_set(0), a_set(1, ("x", "y")), {})
    with pytest.raises(BlissError, match="the test set has no image of ant"):
        make_draws(world, Protocol("p", "each"))


def broken(change):
    rows = a_set(1).images.copy()
    change(rows)
    return EmbeddedSet(rows, a_set(1).labels)


@pytest.mark.parametrize(
    ("test", "match"),
    [
        (broken(lambda r: r.__setitem__((2, 0), np.nan)), "the test set holds 1 vectors that are"),
        (broken(lambda r: r.__imul__(2)), "the test set holds vectors of length 2"),
        (EmbeddedSet(a_set(1).images[:, :5], a_set(1).labels), r"vectors of shape \(20, 5\)"),
        (EmbeddedSet(a_set(1).images, ("x",)), "20 images, 1 labels"),
    ],
)
def test_a_set_that_cannot_be_used(test, match):
    with pytest.raises(BlissError, match=match):
        make_world(a_set(0), test, {})
    with pytest.raises(BlissError, match=match.replace("the test set", "the outlier set 'far'")):
        make_world(a_set(0), a_set(1), {"far": test})


def test_a_reference_that_is_not_finite():
    bad = broken(lambda rows: rows.__setitem__((2, 0), np.inf))
    with pytest.raises(BlissError, match=r"the reference set holds 1 vectors .*the first: row 2"):
        make_world(bad, a_set(1), {})


def test_ids_are_addresses_and_absolute_paths_alone():
    vectors = a_set(0).images[:3]
    images = EmbeddedImages(
        vectors,
        np.arange(3),
        ("a/1.png", "/data/1.png", "s3://x/1.png"),
        ("a",) * 3,
        ("1", "2", "3"),
        (),
        {},
        "here",
    )
    assert set_of(images).ids == ("", "/data/1.png", "s3://x/1.png")


def test_fingerprints_follow_vectors_and_labels():
    first = fingerprints(a_world())
    assert first == fingerprints(a_world())
    assert first["reference"]["images"] == 40
    renamed = EmbeddedSet(a_set(1).images, ("z",) * 20)
    other = fingerprints(make_world(a_set(0, each=8), renamed, {}))
    assert other["reference"] == first["reference"] and other["test"] != first["test"]
    with pytest.raises(UsageError, match="an outlier set is called 'other classes'"):
        make_world(a_set(0), a_set(1), {"other classes": a_set(2)})


def test_the_shipped_protocols_hold_the_published_numbers():
    known = built_in_protocols()
    assert [len(known["cifar10-zoc"].splits), len(known["cifar100-zoc"].splits)] == [5, 5]
    assert {len(split) for split in known["cifar10-zoc"].splits} == {6}
    assert sorted(sum(known["cifar100-zoc"].splits, ())) == list(range(100))
    cac = known["tinyimagenet-cac"]
    assert [len(split) for split in cac.splits] == [20] * 5
    assert [split[0] for split in cac.splits] == [192, 156, 28, 128, 102]
    assert [split[-1] for split in cac.splits] == [166, 192, 46, 25, 26]
    assert max(max(split) for split in cac.splits) == 199
    assert known["openood-imagenet-1k"].near == ("SSB-hard", "NINCO")
    assert known["openood-cifar10"].far == ("MNIST", "SVHN", "Textures", "Places365")
    classic = known["imagenet-1k-classic"]
    assert classic.outliers == ("iNaturalist", "SUN", "Places", "Textures")
    assert classic.published["auroc_fpr95_id"]["NegLabel"] == [94.2, 25.4]
    assert known["cifar10-one-class"].published["auroc"]["BLISS"] == 99.1


def test_every_protocol_survives_its_json(tmp_path):
    for protocol in [*built_in_protocols().values(), find_protocol("random-7")]:
        assert protocol_from(protocol_facts(protocol), "x") == protocol
    (tmp_path / "mine.json").write_text(json.dumps({"choice": "random", "size": 3, "shots": 4}))
    mine = find_protocol(str(tmp_path / "mine.json"))
    assert (mine.name, mine.size, mine.shots) == ("mine", 3, 4)


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"choice": "some"}, "choice 'some'"),
        ({}, "has no field choice"),
        ({"choice": "all", "colour": 1}, "has the field colour"),
        ({"choice": "random"}, "size None"),
        ({"choice": "listed"}, "no splits"),
        ({"choice": "listed", "splits": [[1, 1]]}, "a repeated or negative class"),
        ({"choice": "listed", "splits": [[]]}, "an empty split"),
        ({"choice": "all", "contamination": 0.3}, "contamination 0.3"),
        ({"choice": "all", "shots": 0}, "0 shots"),
        ({"choice": "all", "draws": 0}, "0 draws"),
        ({"choice": "all", "seed": -1}, "seed -1"),
        ({"choice": "all", "draws": "two"}, "no usable 'draws'.*Needed: the types that docs/"),
        ({"choice": "random", "size": 2.5}, "no usable 'size'"),
        ({"choice": "random", "size": 2, "seed": 1.5}, "no usable 'seed'"),
        ({"choice": "listed", "splits": [[0, 0.5]]}, r"no usable 'splits\[0\]\[1\]'"),
        ({"choice": "listed", "splits": "ab"}, "no usable 'splits'"),
        ({"choice": "all", "among": "cup"}, "no usable 'among'"),
        ({"choice": "all", "others": "no"}, "no usable 'others'"),
    ],
)
def test_a_protocol_that_makes_no_sense(facts, match):
    with pytest.raises(UsageError, match=match):
        protocol_from({"name": "p", **facts}, "p.json")


def test_an_unknown_protocol():
    with pytest.raises(UsageError, match="the protocol 'cifar' was asked for"):
        find_protocol("cifar")
