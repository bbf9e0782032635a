"""The field study on a tiny synthetic copy of its data: every cell of what it writes."""

import hashlib
import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.evaluation.run import Chosen, EvalResult, ScoreResult
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from blissaudit.scorer.scores.registry import SCORES
from helpers import BENCHMARKS
from scipy.stats import false_discovery_control, rankdata

CLASSES, D, VAL, TEST = 32, 12, 60, 8
NAMES = [f"thing_{number:02d}" for number in range(CLASSES)]


@pytest.fixture
def field(monkeypatch, load_benchmark):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return load_benchmark("field_results")


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(folder, kind, rows, **columns):
    (folder / f"{kind}_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / f"{kind}_emb" / f"{kind}_emb_0.npy", rows)
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0.parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folders of the real data, small and drawn: classes around their texts."""
    root, rng = tmp_path_factory.mktemp("field"), np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, D))
    sets = {}
    for part, each in (("val", VAL), ("test", TEST)):
        rows = unit(np.repeat(centres, each, axis=0) + 0.3 * rng.normal(size=(CLASSES * each, D)))
        labels = np.repeat([name.replace("_", " ") for name in NAMES], each).tolist()
        sets[part] = rows, np.array(labels)
        write(root / "real" / "caltech101" / part, "img", rows, label=labels)
    (root / "real" / "caltech101" / "classes.json").write_text(json.dumps(NAMES))
    texts = unit(np.vstack([centres, rng.normal(size=(48, D))]))
    names = [name.replace("_", "-") for name in NAMES] + [f"other {n}" for n in range(48)]
    captions = [f"a photo of a {name}" for name in names]
    write(root / "real" / "texts" / "photo-of-a", "text", texts, caption=captions, name=names)
    for place in ("sun397/val", "dtd/test", "ucf101/test", "stanford_cars/val"):
        write(root / "real" / place, "img", unit(rng.normal(size=(5, D))), label=["x"] * 5)
    shots = unit(np.repeat(rng.normal(size=(6, D)), 4, axis=0))
    write(root / "real" / "imagenet-4shot", "img", shots, label=["x"] * 24)
    return SimpleNamespace(root=root, sets=sets, texts=texts)


def auroc(scores, anomalous):
    high, low = anomalous.sum(), (~anomalous).sum()
    return (rankdata(scores)[anomalous].sum() - high * (high + 1) / 2) / (high * low)


def drawn(data, size, draws):
    """For each draw the class numbers, and what is normal among the reference and the tests."""
    rng = np.random.RandomState(0)
    for _ in range(draws):
        chosen = rng.choice(CLASSES, size, replace=False)
        words = [NAMES[number].replace("_", " ") for number in chosen]
        yield chosen, np.isin(data.sets["val"][1], words), np.isin(data.sets["test"][1], words)


def by_hand(data, size, draws):
    """name -> AUROC of each draw, by plain float64 numpy."""
    found = {"knn:k=1": [], "maximum_cosine": [], "mcm": []}
    tests = data.sets["test"][0].astype(float)
    for chosen, reference, normal in drawn(data, size, draws):
        cosines = tests @ data.texts[chosen].T.astype(float)
        weights = np.exp(cosines - cosines.max(axis=1, keepdims=True))
        near = tests @ data.sets["val"][0][reference].T.astype(float)
        found["maximum_cosine"].append(auroc(-cosines.max(axis=1), ~normal))
        found["mcm"].append(auroc(1 - 1 / weights.sum(axis=1), ~normal))
        found["knn:k=1"].append(auroc(-near.max(axis=1), ~normal))
    return found


def flags_by_hand(data, size, draws):
    """[draws, 2] realised FDP and power of the maximum cosine, and how many were held out."""
    found, counts = [], []
    rows = normalise_rows(data.sets["val"][0]).unit
    for chosen, _, normal in drawn(data, size, draws):
        texts, held = data.texts[chosen].astype(float), []
        for number in chosen:
            mine = range(number * VAL, (number + 1) * VAL)
            by_hash = sorted(mine, key=lambda i: hashlib.sha256(rows[i].tobytes()).hexdigest())
            held += by_hash[: VAL // 5]
        clean = -(rows[held].astype(float) @ texts.T).max(axis=1)
        scores = -(data.sets["test"][0].astype(float) @ texts.T).max(axis=1)
        p = np.array([(1 + (clean >= s).sum()) / (len(clean) + 1) for s in scores])
        flagged = false_discovery_control(p, method="bh") <= 0.1
        found.append([(flagged & normal).sum() / max(1, flagged.sum()), flagged[~normal].mean()])
        counts.append(len(held))
    return np.array(found), counts


def rows_of(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]


def test_every_cell_of_the_written_tables(field, data, monkeypatch, tmp_path, capsys):
    written = tmp_path / "results.md"
    monkeypatch.setenv("BLISS_TEST_DATA", str(data.root))
    monkeypatch.setattr(field, "RESULTS", written)
    monkeypatch.setattr(field, "TEXT_SETS", (("forty", 40), ("all", 80)))
    scores = [part for name in ("maximum_cosine", "mcm", "knn:k=1") for part in ("--score", name)]
    monkeypatch.setattr(
        "sys.argv", ["field_results.py", "--record", "--draws", "2", "--setting", "6", *scores]
    )
    field.main()
    text = written.read_text()
    assert text.startswith("# All scores on real embeddings\n")
    assert re.findall("^## .*", text, re.M) == [
        "## External texts: forty",
        "## External texts: all",
    ]
    assert "Caltech 6" in capsys.readouterr().out
    expected = by_hand(data, 6, 2)
    order = sorted(expected, key=lambda name: -np.mean(expected[name]))
    flags, counts = flags_by_hand(data, 6, 2)
    assert flags[:, 1].mean() > 0.1
    table = [["score", "Caltech 6", "mean", "worst"]]
    table += [[name, *[f"{100 * np.mean(expected[name]):.2f}"] * 3] for name in order]
    found = rows_of(text)
    half = len(found) // 2
    for part in (found[:half], found[half:]):
        assert part[:4] == table
        assert part[4:6] == [
            ["FDP / power", "Caltech 6"],
            ["images held out", f"{min(counts)} to {max(counts)}"],
        ]
        fdp, power = 100 * flags.mean(axis=0)
        assert ["maximum_cosine", f"{fdp:.1f} / {power:.1f}"] in part[6:]
        assert sorted(row[0] for row in part[6:]) == sorted(expected)


def test_the_settings_are_those_of_the_study(field, data):
    names = [f"thing {number:02d}" for number in range(CLASSES)]
    made = {s.name: s for s in field.settings(data.root / "real", names)}
    assert [made[f"Caltech {n}"].protocol.size for n in (1, 6, 20, 30)] == [1, 6, 20, 30]
    assert [made[f"Caltech 20, {n}-shot"].protocol.shots for n in (1, 2, 4, 8)] == [1, 2, 4, 8]
    assert made["Caltech 20, all-shot"].protocol.shots is None
    shares = [made[f"Caltech 20, {n} % strangers"].protocol.contamination for n in (5, 10, 20)]
    assert shares == [0.05, 0.1, 0.2]
    hard = [name for name, s in made.items() if s.table == "hard"]
    assert hard == ["Caltech 20, 1-shot", *(f"Caltech 20, {n} % strangers" for n in (5, 10, 20))]
    assert [made[f"ImageNet {n}"].protocol.size for n in (50, 200)] == [50, 200]
    far = [made[f"Caltech 30, {name}"] for name in ("SUN397", "DTD", "UCF101", "cars")]
    assert all(not s.protocol.others and s.protocol.size == 30 for s in far)


def test_poor_labels_and_every_second_class_by_hand(load_benchmark):
    made = load_benchmark("field_settings")
    rows = unit(np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.9, 0.1], [0, 0, 1]]))
    each = made.EmbeddedSet(rows, ("a", "a", "b", "b", "c"))
    world = made.odd_classes(each, each)
    assert world.labels == ("b", "b") * 2
    np.testing.assert_array_equal(world.images[:2], rows[2:4])
    texts = unit(np.array([[0, 1, 0], [0, 1, 0.05], [0.2, 1, 0.9]]))
    # The nearest text to the mean of b is the second; the first two name b, so the third is left.
    assert made.nearest_texts(world, ["b"], texts, {}) == {"b": 1}
    assert made.nearest_texts(world, ["b"], texts, {"b": 0}) == {"b": 2}


def result_of(aurocs, skipped):
    scores = []
    for name, values in aurocs.items():
        metrics = np.zeros((len(values), 1, 8))
        metrics[:, 0, 0] = values
        scores.append(ScoreResult(Chosen(name, SCORES["mcm"]), metrics, 0.0, 0, None, "none"))
    return EvalResult(("other classes",), (), tuple(scores), skipped, 0)


def test_means_differences_and_reasons_by_hand(field):
    results = {
        "A": result_of({"bliss+": [0.9, 0.7], "one": [0.5, 0.5]}, {"two": "no."}),
        "B": result_of({"bliss+": [0.6, 0.6], "one": [0.8, 0.6], "two": [0.9, 0.9]}, {}),
    }
    lines = field.tables(results)
    assert lines[2:5] == [
        "| bliss+ | 80.00 | 60.00 | 70.00 | 60.00 |",
        "| one | 50.00 | 70.00 | 60.00 | 50.00 |",
        "| two | – | 90.00 | – | – |",
    ]
    assert "Skipped in A: two. no." in lines
    # Two draws: the bootstrap's ends are the smaller and the larger of the two differences.
    assert lines[-2:] == [
        "| one | +30.00 [+20.00, +40.00] | -10.00 [-20.00, +0.00] | +10.00 [+10.00, +10.00] |",
        "| two | – | -30.00 [-30.00, -30.00] | -30.00 [-30.00, -30.00] |",
    ]
    assert field.flag_table(results) == []
