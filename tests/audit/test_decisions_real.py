"""Small versions of the benchmarks of decisions, on real embeddings."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from helpers import BENCHMARKS
from scipy.stats import kstest


@pytest.fixture(scope="module")
def benchmark():
    """`benchmark(name)`: the file of that name in benchmarks/, as a module."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path.remove(str(BENCHMARKS))
    for name in {"planted_strays", "planted_truth", "calibrated", "measuring"} - before:
        sys.modules.pop(name, None)


def test_a_refit_finds_more_planted_strays_and_margins_find_swapped_labels(
    benchmark, real_data, tmp_path
):
    pytest.importorskip("cleanlab", reason="cleanlab is not installed: it is compared with")
    planted_truth = benchmark("planted_truth")
    strays, labels, out = planted_truth.contaminated(real_data, tmp_path, range(2))
    mean = {way: np.mean(values, axis=0) for way, values in strays.items()}
    alone, robust = mean["BLISS, leave-one-out"], mean["BLISS, --robust"]
    assert robust[0] > alone[0] + 0.005 and robust[1] > alone[1] + 0.04
    assert robust[0] > mean["plain cosine"][0] + 0.02
    dropped = out.mean(axis=0)
    assert dropped[0] > 0.8 and dropped[1] > 0.9 and dropped[2] < 0.01
    ours = np.mean(labels["margin (prompt + half mean cosine)"], axis=0)
    assert ours[1] > 0.97 and ours[3] > 0.97
    assert ours[1] > np.mean(labels["BLISS margin"], axis=0)[1]


def test_a_refit_takes_little_from_a_set_with_nothing_wrong(benchmark, real_data, tmp_path):
    planted_truth = benchmark("planted_truth")
    draws = np.array(
        list(planted_truth.clean_draws(real_data, tmp_path, "caltech101/test", 20, range(2)))
    )
    assert draws[:, 1] == pytest.approx(draws[:, 0], abs=0.002)
    assert draws[:, 2].max() < 0.02


def test_flags_are_false_as_often_as_promised_and_p_is_uniform(benchmark, real_data):
    calibrated = benchmark("calibrated")
    found = list(calibrated.resamples(real_data, 30))
    false = np.array([each.fdp for each in found])
    assert false.mean() <= 0.1 + false.std(ddof=1) / np.sqrt(len(false))
    assert np.mean([each.power for each in found]) > 0.5
    assert kstest([each.p for each in found], "uniform").pvalue > 0.01
