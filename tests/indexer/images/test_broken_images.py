"""A small version of benchmarks/broken_images.py: every broken image listed, every other scored."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from helpers import ROOT

BENCHMARK = ROOT / "benchmarks" / "broken_images.py"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
def test_every_way_of_being_broken_is_listed_and_everything_else_is_scored(
    index: Path,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARK.parent))
        check_a_small_collection(patch, index)


def check_a_small_collection(patch: pytest.MonkeyPatch, index: Path) -> None:
    spec = importlib.util.spec_from_file_location("broken_images", BENCHMARK)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    said: list[str] = []
    patch.setenv("BLISS_CACHE", os.environ.get("BLISS_CACHE", ""))  # put back afterwards
    assert benchmark.check(said.append, 48, 16, archives=False, index=index), said
    ways = dict(line.split()[:2] for line in said[:-1])
    assert ways == dict.fromkeys(benchmark.REASONS, "1")
    assert said[-1].startswith(
        "folder: 16 of 16 broken images in failures.csv (exactly those, 0 with another reason), "
        "32 of 32 scored, "
    )
