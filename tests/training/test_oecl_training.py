"""Training of OECL's head on small worlds: what it learns, and that every setting matters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from blissaudit.errors import BlissError, UsageError
from blissaudit.scorer.scores.trained import feature_lengths
from blissaudit.training.oecl_training import (
    OeclSettings,
    batches,
    feature_views,
    folded,
    new_head,
    train_head,
    two_views,
)

D = 12
QUICK = OeclSettings(epochs=12, hidden=16, batch=16, rate=1e-2)


def unit(values):
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def world(seed=0, n=40, views=3):
    """Normals in two directions and outliers in a third, with views around each image."""
    rng = np.random.default_rng(seed)
    axes = np.eye(D)

    def around(choices):
        centres = axes[rng.integers(choices[0], choices[1], n)] + axes[5]
        images = centres + 0.2 * rng.standard_normal((n, D))
        return unit(images[:, None] + 0.15 * rng.standard_normal((n, views, D)))

    return around((0, 2)), around((2, 4))


@pytest.fixture(scope="module")
def trained():
    return train_head(*world(), replace(QUICK, epochs=60, hidden=64))


def test_outliers_become_short_and_normals_keep_the_floor(trained):
    normals, outliers = world(seed=1)
    long, short = (feature_lengths(trained.arrays, rows) for rows in (normals, outliers))
    assert long.min() > short.max()
    assert long.mean() > 1
    assert short.mean() < 0.3 * long.mean()


def test_the_floor_holds_normals_up():
    normals, _ = world(seed=1)
    ends = []
    for floor in (0.0, 6.0):
        found = train_head(*world(), replace(QUICK, epochs=40, floor=floor))
        ends.append(feature_lengths(found.arrays, normals).mean())
        assert (found.losses[:, 2] == 0).all() == (floor == 0)
    assert ends[1] > 1.5 * ends[0]


def test_losses_fall(trained):
    contrastive, length, floor = trained.losses.T
    assert len(trained.losses) == 60
    assert contrastive[-1] < contrastive[0]
    assert length[-1] < 0.5 * length[:3].mean()
    assert floor[-1] < 0.2


def test_the_folded_head_is_the_head_in_evaluation():
    torch.manual_seed(3)
    head = new_head(D, 7)
    with torch.no_grad():
        for value in head[1].parameters():
            value.uniform_(0.5, 1.5)
        head[1].running_mean.uniform_(-1, 1)
        head[1].running_var.uniform_(0.2, 3)
    images = world()[0][:, :1]
    with torch.no_grad():
        expected = head.eval()(torch.from_numpy(images[:, 0])).norm(dim=1).numpy()
    np.testing.assert_allclose(feature_lengths(folded(head), images), expected, rtol=1e-4)


def test_the_same_settings_give_the_same_head():
    torch.manual_seed(1)
    one = train_head(*world(), QUICK)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = train_head(*world(), QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one.losses, two.losses)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, two.arrays[name])


@pytest.mark.parametrize(
    "changed",
    [
        {"alpha": 0.1},
        {"floor": 3.0},
        {"epochs": 13},
        {"hidden": 8},
        {"batch": 8},
        {"rate": 1e-3},
        {"seed": 1},
        {"noise": 0.1},
        {"dropout": 0.3},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_setting_changes_the_head(changed):
    normals, outliers = (rows[:, :1] for rows in world())
    plain = train_head(normals, outliers, QUICK).arrays["second_bias"]
    other = train_head(normals, outliers, replace(QUICK, **changed)).arrays["second_bias"]
    assert np.abs(plain - other).max() > 1e-6


def test_further_views_change_the_head():
    normals, outliers = world()
    one = train_head(normals[:, :1], outliers[:, :1], QUICK).arrays["second"]
    assert np.abs(train_head(normals, outliers, QUICK).arrays["second"] - one).max() > 1e-6


def test_alpha_is_off_for_the_first_twentieth_of_the_epochs():
    early = [
        train_head(*world(), replace(QUICK, epochs=40, alpha=alpha)).losses for alpha in (0.0, 5.0)
    ]
    np.testing.assert_array_equal(early[0][:2], early[1][:2])
    assert np.abs(early[0][3] - early[1][3]).max() > 1e-6


def test_the_time_limit_ends_training_after_an_epoch():
    short = train_head(*world(), replace(QUICK, minutes=1e-9))
    np.testing.assert_array_equal(short.losses, train_head(*world(), QUICK).losses[:1])


def test_two_views_are_different_ones_of_the_same_image():
    views = np.arange(5 * 4, dtype=np.float32).reshape(5, 4, 1)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        one, two = two_views(views, rng)
        assert (one // 4 == np.arange(5)[:, None]).all()
        assert (two // 4 == np.arange(5)[:, None]).all()
        assert (one != two).all()
        seen |= set((one % 4).ravel().tolist())
    assert seen == {0.0, 1.0, 2.0, 3.0}
    for view in two_views(views[:, 2:3], rng):
        np.testing.assert_array_equal(view, views[:, 2])


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(10, 4, [4, 3, 3]), (5, 4, [3, 2]), (3, 2, [3]), (2, 9, [2]), (9, 3, [3, 3, 3])],
)
def test_batches_hold_every_row_once_and_never_one_alone(count, size, sizes):
    parts = batches(count, size, np.random.default_rng(0))
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))


def test_feature_views_by_hand_and_on_average():
    row = unit(np.array([[3.0, 4.0]]))
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(feature_views(row, 0.0, 0.0, rng), row, atol=1e-7)
    lost = feature_views(np.repeat(row, 400, axis=0), 0.0, 0.5, rng)
    kinds = {tuple(np.round(each.astype(float), 6).tolist()) for each in lost}
    assert kinds == {(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)}  # all lost: the row itself
    wide = unit(np.ones((2000, 64)))
    moved = feature_views(wide, 0.5, 0.0, rng)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=1e-6)
    # Noise of length 0.5 at right angles to a unit row: cosine 1/√1.25.
    assert (moved * wide).sum(axis=1).mean() == pytest.approx(1 / np.sqrt(1.25), abs=0.01)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": -1.0}, "alpha -1.0 was asked of OECL"),
        ({"alpha": float("nan")}, "alpha nan was asked"),
        ({"floor": -0.5}, "floor -0.5 was asked"),
        ({"epochs": 0}, "0 epochs was asked"),
        ({"minutes": 0.0}, "0.0 minutes was asked"),
        ({"noise": -1.0}, "noise -1.0 was asked"),
        ({"dropout": 1.0}, r"dropout 1\.0 was asked .* a share below 1"),
        ({"batch": 1}, "a batch of 2 or more"),
        ({"rate": 0.0}, "learning rate 0.0 was asked"),
        ({"seed": -1}, "seed -1 was asked"),
    ],
)
def test_settings_that_cannot_be(changed, message):
    with pytest.raises(UsageError, match=message):
        OeclSettings(**changed)


def test_too_few_images_and_numbers_that_are_not_finite():
    normals, outliers = world()
    with pytest.raises(BlissError, match=r"there are 3 of the normal images .* at least 4"):
        train_head(normals[:3], outliers, QUICK)
    with pytest.raises(BlissError, match="there are 0 of the outlier images"):
        train_head(normals, outliers[:0], QUICK)
    spoiled = outliers.copy()
    spoiled[7, 1, 2], spoiled[9, 0, 0] = np.nan, np.inf
    message = r"2 of the outlier images have embeddings that are not finite \(the first: number 7\)"
    with pytest.raises(BlissError, match=message):
        train_head(normals, spoiled, QUICK)
