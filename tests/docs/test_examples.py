"""The scripts of examples/ run as printed, without a network."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest
from helpers import ROOT


def example(name: str) -> ModuleType:
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_audit_of_the_demo_finds_strays_and_writes_the_report(tmp_path, capsys):
    example("audit_folder").main(["--output", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    scores = [float(line.split()[0]) for line in lines[:10]]
    assert scores == sorted(scores, reverse=True) and scores[9] > 2
    assert lines[10] == f"Report: {tmp_path / 'audit' / 'report.html'}"
    for name in ("report.html", "scores.parquet", "run.json"):
        assert (tmp_path / "audit" / name).is_file()


def test_images_without_captions_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        example("audit_folder").main(["--images", "photos"])
    assert "--images and --captions go together" in capsys.readouterr().err


def test_arrays_are_scored_and_every_stray_comes_first(capsys):
    script = example("numpy_embeddings")
    script.main()
    out = capsys.readouterr().out
    assert "6 of 6 strays are the 6 most anomalous images" in out
    assert "10 of 10 errors are the 10 to read first" in out


def test_scores_of_arrays_are_those_of_the_formula():
    script = example("numpy_embeddings")
    collection, _, _ = script.make_collection(3)
    result = script.audit_collection(collection, k=5, score="bliss")
    scores, retrieved, classes = result.scores, result.retrieved, result.reference.classes
    assert classes == ("cup", "key", "shoe")
    here = 7
    own = collection.labels == collection.labels[here]
    assert result.refit is not None
    kept = ~result.refit.dropped
    rest = own & (np.arange(len(own)) != here) & kept
    expected = []
    for name, prompt in zip(classes, collection.prompts, strict=True):
        members = collection.images[rest if name == collection.labels[here] else
                                    (collection.labels == name) & kept].astype(float)  # fmt: skip
        to_prompt = members @ prompt.astype(float)
        image = collection.images[here].astype(float)
        ics = -(image @ prompt - to_prompt.mean()) / (to_prompt.std() + 1e-8)
        to_texts = members @ collection.texts[retrieved.rows[here]].T.astype(float)
        cosines = collection.texts[retrieved.rows[here]] @ image
        ets = ((cosines - to_texts.mean(0)) / (to_texts.std(0) + 1e-8)).mean()
        expected.append(ics + result.weight * ets)
    assert scores.score[here] == pytest.approx(min(expected), abs=1e-4)


def test_the_spread_of_a_caption_is_that_of_its_similarities():
    script = example("numpy_embeddings")
    collection, _, _ = script.make_collection()
    mean, std = script.text_spread(collection, 17)
    cups = collection.images[collection.labels == "cup"] @ collection.texts[17]
    assert mean[0] == pytest.approx(cups.mean(), abs=1e-5)
    assert std[0] == pytest.approx(cups.std(), rel=1e-3)
