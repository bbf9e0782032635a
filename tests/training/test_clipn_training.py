"""CLIPN's losses against hand and oracle; the tower's copy; what a few steps of training change."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.encode.encoder import ModelChoice
from blissaudit.indexer.encode.open_clip import encoder_of_model, load_model
from blissaudit.training.clipn import demo_pairs
from blissaudit.training.clipn_tower import (
    NoTower,
    Pairs,
    TrainingSettings,
    encode_no,
    image_text_loss,
    make_no_tower,
    text_loss,
    train_no_tower,
    wrong_pairs,
)

TEXTS = ["a red key", "This is a photo of a house", "two blue boats on the sand", "a"]
FEW = TrainingSettings(steps=6, pairs=32, rate=1e-3)


def unit(rows):
    return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)


def three(n, d, seed):
    rng = np.random.default_rng(seed)
    yes = rng.standard_normal((n, d))
    return (
        unit(yes + 0.5 * rng.standard_normal((n, d))),
        unit(yes),
        unit(yes + 0.1 * rng.standard_normal((n, d))),
    )


def image_text_oracle(images, yes, no, scale, wrong):
    """Pair by pair, as published; for wrong pairs -log p_no."""
    right_sum, wrong_sum, wrong_count = 0.0, 0.0, 0
    for i, x in enumerate(images.numpy()):
        for j in range(len(yes)):
            a, b = (scale * float(np.dot(x, t[j].numpy())) for t in (yes, no))
            most = max(a, b)
            whole = most + math.log(math.exp(a - most) + math.exp(b - most))
            if i == j:
                right_sum -= a - whole
            elif wrong[i, j]:
                wrong_sum -= b - whole
                wrong_count += 1
    return right_sum / len(images) + (wrong_sum / wrong_count if wrong_count else 0)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_image_text_loss_is_the_oracles(n, scale):
    arrays = three(n, 8, n)
    every = ~np.eye(n, dtype=bool)
    expected = image_text_oracle(*arrays, scale, every)
    assert float(image_text_loss(*arrays, scale)) == pytest.approx(expected, rel=1e-10)
    some = every & (np.random.default_rng(n).random((n, n)) < 0.5)
    expected = image_text_oracle(*arrays, scale, some)
    found = float(image_text_loss(*arrays, scale, torch.from_numpy(some)))
    assert found == pytest.approx(expected, rel=1e-10)


def test_the_published_scale_is_the_default():
    arrays = three(5, 8, 0)
    assert float(image_text_loss(*arrays)) == float(image_text_loss(*arrays, 100.0))


def test_losses_by_hand():
    x = torch.eye(2, dtype=torch.float64)
    assert float(image_text_loss(x, x, x)) == pytest.approx(2 * math.log(2), rel=1e-12)
    found = float(image_text_loss(x, x, x.flip(0), scale=1.0))
    assert found == pytest.approx(2 * math.log(1 + math.exp(-1)), rel=1e-12)
    assert float(text_loss(x, x)) == pytest.approx(2 - math.sqrt(1e-4), rel=1e-12)
    assert float(text_loss(x, -x)) == pytest.approx(2 - math.sqrt(4 + 1e-4), rel=1e-9)
    assert float(text_loss(x, x.flip(0))) == pytest.approx(2 - math.sqrt(2 + 1e-4), rel=1e-12)


def test_text_loss_is_the_oracles_and_its_slope_is_finite_at_equal_vectors():
    _, yes, no = three(7, 5, 3)
    expected = np.mean(
        [2 - math.sqrt(2 - 2 * float(a @ b) + 1e-4) for a, b in zip(yes, no, strict=True)]
    )
    assert float(text_loss(yes, no)) == pytest.approx(expected, rel=1e-12)
    moving = yes.clone().requires_grad_()
    text_loss(yes, moving).backward()
    assert torch.isfinite(moving.grad).all()


@pytest.fixture(scope="module")
def loaded():
    return load_model(ModelChoice("demo"))


@pytest.fixture(scope="module")
def encoder(loaded):
    return encoder_of_model(loaded)


@pytest.fixture(scope="module")
def pairs(loaded, encoder):
    return demo_pairs(120, 3, encoder, loaded.tokenizer)


def fresh(loaded):
    return make_no_tower(loaded.model, loaded.tokenizer(TEXTS))


def test_a_fresh_tower_is_the_yes_tower(loaded, encoder):
    found = encode_no(fresh(loaded), loaded.tokenizer(TEXTS), 3)
    np.testing.assert_allclose(found, encoder.encode_texts(TEXTS), atol=2e-6)


def test_its_names_are_those_of_the_published_checkpoints(loaded):
    names = set(fresh(loaded).state_dict())
    tops = {name.split(".")[0] for name in names}
    assert tops == {
        "transformer_no", "token_embedding_no", "positional_embedding_no", "ln_final_no",
        "text_projection_no", "prompt_no",
    }  # fmt: skip
    inside = {name.removeprefix("transformer_no.") for name in names if "resblocks" in name}
    assert inside == set(loaded.model.transformer.state_dict())


def test_the_mean_prompt_is_added_and_a_chosen_one_where_asked(loaded):
    tower, tokens = fresh(loaded), loaded.tokenizer(TEXTS)
    plain = tower(tokens).detach()
    with torch.no_grad():
        added = torch.randn(tower.prompt_no.shape[1:], generator=torch.manual_seed(1))
        tower.prompt_no[3] = added
        mean, last = tower(tokens), tower(tokens, torch.tensor([16, 16, 16, 16]))
        third, first = (tower(tokens, torch.full((4,), number)) for number in (3, 0))
        moved = fresh(loaded)
        moved.positional_embedding_no += added / 16
    torch.testing.assert_close(mean, last)
    torch.testing.assert_close(first, plain)
    assert (third - plain).abs().max() > 0.05 and (mean - plain).abs().max() > 0.005
    torch.testing.assert_close(moved(tokens), mean, atol=1e-5, rtol=0)


def test_shorter_token_rows_give_the_same_vectors(loaded):
    tower, tokens = fresh(loaded), loaded.tokenizer(TEXTS)
    with torch.no_grad():
        tower.prompt_no += 0.1 * torch.randn(tower.prompt_no.shape, generator=torch.manual_seed(0))
        torch.testing.assert_close(tower(tokens[:, :12]), tower(tokens), atol=1e-5, rtol=0)


def test_another_build_of_text_tower_is_refused(loaded):
    with pytest.raises(BlissError, match="text tower of Linear has no transformer"):
        NoTower(torch.nn.Linear(2, 2))
    other = copy.deepcopy(loaded.model)
    plain = other.encode_text
    other.encode_text = lambda tokens: plain(tokens).flip(1)
    with pytest.raises(BlissError, match=r"gives vectors .* apart from its own"):
        make_no_tower(other, loaded.tokenizer(TEXTS))


def test_training_lowers_the_loss_and_moves_the_no_tower_alone(loaded, encoder, pairs):
    tower, facts = fresh(loaded), copy.deepcopy(loaded.model.state_dict())
    before = copy.deepcopy(tower.state_dict())
    copies = copy.deepcopy(pairs)
    curve = train_no_tower(tower, pairs, replace(FEW, steps=20))
    assert curve[-1].held_out < curve[0].held_out
    assert curve[-1].image_text + curve[-1].text < curve[0].image_text + curve[0].text
    for name, value in tower.state_dict().items():
        assert not torch.equal(value, before[name]), name
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, facts[name]), name
    for name, value in vars(copies).items():
        np.testing.assert_array_equal(value, getattr(pairs, name))


def trained(loaded, pairs, settings=FEW):
    tower = fresh(loaded)
    curve = train_no_tower(tower, pairs, settings)
    return curve, encode_no(tower, loaded.tokenizer(TEXTS), 4)


def test_the_same_seed_gives_the_same_tower_and_every_setting_another(loaded, pairs):
    curve, vectors = trained(loaded, pairs)
    again_curve, again = trained(loaded, pairs)
    assert curve == again_curve
    np.testing.assert_array_equal(vectors, again)
    for change in ({"seed": 1}, {"pairs": 16}, {"rate": 1e-4}, {"steps": 3}):
        other, moved = trained(loaded, pairs, replace(FEW, **change))
        assert other != curve and np.abs(moved - vectors).max() > 1e-5, change


def test_the_time_limit_ends_it(loaded, pairs):
    curve, _ = trained(loaded, pairs, replace(FEW, steps=100_000, minutes=1e-6))
    assert [point.step for point in curve] == [1]


def test_the_best_tower_on_held_out_pairs_is_kept_and_saved(loaded, pairs, monkeypatch):
    said = iter([3.0, 2.0, 5.0, 2.0, 4.0, 4.0])
    monkeypatch.setattr("blissaudit.training.clipn_tower._held_out_loss", lambda *given: next(said))
    tower, saved = fresh(loaded), []

    def save(so_far, curve):
        saved.append((copy.deepcopy(so_far.state_dict()), len(curve)))

    curve = train_no_tower(tower, pairs, FEW, save=save)
    assert [point.held_out for point in curve] == [3, 2, 5, 2, 4, 4]
    assert [points for _, points in saved] == [1, 2]
    for name, value in tower.state_dict().items():
        assert torch.equal(value, saved[-1][0][name]), name
    assert not torch.equal(saved[0][0]["prompt_no"], saved[1][0]["prompt_no"])


def test_pairs_of_a_group_or_an_image_are_not_wrong():
    pairs = Pairs(
        np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float32), np.zeros((4, 5), np.int32),
        np.ones(4, np.int64), image=np.array([0, 0, 1, 2]), caption=np.arange(4),
        group=np.array([5, 6, 7, 5]),
    )  # fmt: skip
    wrong = wrong_pairs(pairs, np.array([0, 1, 2, 3]))
    right = {(0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 0), (0, 3), (3, 0)}
    assert set(zip(*np.nonzero(~wrong), strict=True)) == right


@pytest.mark.parametrize("side", ["images", "yes"])
def test_vectors_that_are_not_finite_are_named(loaded, pairs, side):
    broken = getattr(pairs, side).copy()
    broken[7, 2] = np.nan
    with pytest.raises(BlissError, match=r"1 (image|caption) vectors .* \(the first: row 7\)"):
        train_no_tower(fresh(loaded), replace(pairs, **{side: broken}), FEW)


def test_a_loss_that_is_not_finite_ends_the_training(loaded, pairs):
    tower = fresh(loaded)
    with torch.no_grad():
        tower.text_projection_no[0, 0] = torch.nan
    with pytest.raises(BlissError, match="the loss of step 1 is nan"):
        train_no_tower(tower, pairs, FEW)


def test_pairs_that_cannot_be_told_apart_are_refused(loaded, pairs):
    same = replace(pairs, group=np.zeros_like(pairs.group))
    with pytest.raises(BlissError, match="fewer than 2 different captions or images"):
        train_no_tower(fresh(loaded), same, FEW)


@pytest.mark.parametrize("name", ["steps", "pairs", "rate", "minutes"])
def test_settings_must_be_above_nothing(name):
    with pytest.raises(UsageError, match=f"--{name} 0 was given"):
        replace(FEW, **{name: 0})
