"""OECL's three losses: by hand, against the float64 oracle, and what must not change them."""

import doctest
import math

import numpy as np
import pytest
import torch
from blissaudit.training import oecl_training as oecl_losses
from blissaudit.training.oecl_training import floor_hinge, mean_length, nt_xent
from hypothesis import given, settings
from hypothesis import strategies as st


def rows(seed, n, d):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


def test_the_worked_examples_in_the_docstrings():
    found = doctest.testmod(oecl_losses)
    assert (found.failed, found.attempted) == (0, 4)


def test_nt_xent_by_hand():
    # Three views alike and one opposed, temperature 1: cosines 1, 1 (partner) and -1.
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[5.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    e = math.e
    alike = -math.log(e / (e + e + 1 / e))  # row 0 and row 2: the partner is at 1
    apart = -math.log((1 / e) / (e + e + 1 / e))  # row 1: its partner is the opposed one
    opposed = -math.log(1 / 3)  # row 3: everything is at -1
    expected = (2 * alike + apart + opposed) / 4
    assert float(nt_xent(first, second, 1.0)) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(1, 5), st.floats(0.1, 2.0))
@settings(max_examples=40, deadline=None)
def test_losses_equal_the_oracle(oecl_oracle, seed, n, d, temperature):
    one, two = rows(seed, n, d), rows(seed + 1, n, d)
    found = float(nt_xent(one, two, temperature))
    assert found == pytest.approx(
        oecl_oracle.nt_xent(one.numpy(), two.numpy(), temperature), rel=1e-9
    )
    assert float(mean_length(one)) == pytest.approx(oecl_oracle.mean_length(one.numpy()), rel=1e-12)
    assert float(floor_hinge(one, temperature)) == pytest.approx(
        oecl_oracle.floor_hinge(one.numpy(), temperature), rel=1e-12, abs=1e-15
    )


def test_nt_xent_sees_neither_lengths_nor_the_order_of_views_and_images():
    one, two = rows(0, 6, 4), rows(1, 6, 4)
    stretch = torch.linspace(0.1, 9, 6, dtype=torch.float64)[:, None]
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    expected = float(nt_xent(one, two, 0.5))
    for other in ((stretch * one, two), (two, one), (one[order], two[order])):
        assert float(nt_xent(*other, 0.5)) == pytest.approx(expected, rel=1e-12)
    assert abs(float(nt_xent(one, two[order], 0.5)) - expected) > 1e-3


def test_lengths_fall_down_the_gradient_and_the_floor_holds_them():
    z = rows(2, 5, 3).requires_grad_()
    mean_length(z).backward()
    unit = z.detach() / z.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(z.grad, unit / 5)
    held = (10 * z.detach()).requires_grad_()
    floor_hinge(held, 0.5).backward()
    assert float(held.grad.abs().max()) == 0.0
