"""What benchmarks/same_outputs.py sees, what it leaves out, and how it spells options."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def script():
    import importlib.util

    path = ROOT / "benchmarks" / "same_outputs.py"
    spec = importlib.util.spec_from_file_location("same_outputs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, values):
    kind = path.suffix
    if kind == ".npy":
        np.save(path, np.asarray(values))
    elif kind == ".parquet":
        pq.write_table(pa.table({"row": [0, 1], "score": values}), path)
    elif kind == ".csv":
        path.write_text("row,score\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))
    elif kind == ".json":
        path.write_text(json.dumps({"a": [{"score": v} for v in values], "seconds": values[1]}))
    else:
        path.write_text(f"score {values[1]} after {values[1]} seconds\n")


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (".npy", ""),
        (".parquet", "score"),
        (".csv", "score"),
        (".json", "a[1]/score"),
        (".html", "line 1"),
    ],
)
def test_a_difference_is_listed_by_column_or_key_with_its_size(script, tmp_path, kind, key):
    def plain(text):
        return script.tidy(text, tmp_path / "nowhere", tmp_path / "nobody")

    old, same, new = (tmp_path / f"{name}{kind}" for name in ("old", "same", "new"))
    for path, value in ((old, 0.5), (same, 0.5), (new, 0.75)):
        write(path, [1.0, value])
    assert list(script.compare_files(old, same, (plain, plain))) == []
    ((found, what),) = script.compare_files(old, new, (plain, plain))
    assert found == key
    if kind != ".html":
        assert "0.25" in what


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("built in 1.2 s", "built in 3.4 s", True),
        ("at 2026-01-01T10:00:00Z", "at 2026-01-02T11:00:00Z", True),
        ("bliss-audit 0.1.0", "bliss-audit 0.2.0", True),
        ("3 images flagged", "4 images flagged", False),
        ("λ = 0.5", "λ = 0.501", False),
    ],
)
def test_times_and_versions_are_left_out_and_results_are_not(script, tmp_path, old, new, same):
    one, two = (script.tidy(text, tmp_path / "a", tmp_path / "b") for text in (old, new))
    assert (list(script.compare_text(one, two)) == []) is same


@pytest.mark.parametrize(
    ("token", "known", "spelt"),
    [
        ("lambda=0.3", {"--weight"}, ["--weight", "0.3"]),
        ("lambda=0.3", {"--lambda"}, ["--lambda", "0.3"]),
        ("report=none", {"--no-report"}, ["--no-report"]),
        ("report=none", {"--report"}, ["--report", "none"]),
        ("report=5", {"--no-report"}, ["--report-images", "5"]),
        ("trained=head", {"--head"}, ["--head", "head"]),
        ("trained=head", {"--trained"}, ["--trained", "head"]),
        ("search=exact", set(), ["--search-kind", "exact"]),
        ("search=nprobe=4,device=cpu", set(), "--search-set nprobe=4 --search-device cpu".split()),
        ("search=nprobe=4", {"--search"}, ["--search", "nprobe=4"]),
        ("engine=ray:auto,actors=2", {"--ray-address"},
         "--engine ray --ray-address auto --ray-actors 2".split()),
    ],
)  # fmt: skip
def test_a_renamed_option_is_spelt_as_the_checkout_knows_it(script, token, known, spelt):
    name, _, value = token.partition("=")
    assert script.SPELLINGS[name](value, known) == spelt


def test_there_are_thirty_commands_or_more_and_names_are_not_given_twice(script):
    names = [command.name for command in (*script.COMMANDS, *script.LATER)]
    assert len(script.COMMANDS) >= 30 and len(names) == len(set(names))


def test_intended_differences_name_commands_that_are_run(script):
    names = [command.name for command in (*script.COMMANDS, *script.LATER)]
    for pattern, reason in script.INTENDED:
        command = pattern.partition(":")[0]
        assert reason and any(script.fnmatch(name, command) for name in names), pattern


def test_a_pattern_excuses_nothing_beside_its_key(script):
    def intended(file, key, what="only in the new"):
        return script.Difference("audit", file, key, what).intended

    assert intended("first/run.json", "index/sources[0]/truncated")
    assert not intended("first/run.json", "index/sources[0]/rows")
    assert not intended("first/scores.parquet", "score", "3 of 9 differ, at most by 1e-08")


def test_reports_are_compared_by_their_data_and_not_by_their_program(script):
    def page(flagged, program, text="Collection"):
        data = json.dumps({"flagged": flagged})
        return (
            f"<meta content=\"script-src 'sha256-{program}'\">\n<p>{text}</p>\n"
            f'<script type="application/json" id="data">{data}</script>\n'
            f"<script>{program}</script>\n"
        )

    def found(*pages):
        return list(script.compare_pages(*pages, (str, str)))

    assert found(page(3, "a"), page(3, "b")) == []
    ((key, what),) = found(page(3, "a"), page(4, "a"))
    assert key == "data/flagged" and "a difference of 1" in what
    ((key, _),) = found(page(3, "a"), page(3, "a", "Picture"))
    assert key == "line 2"


def test_lists_of_unequal_length_are_compared_by_name(script):
    old = [{"name": "coco", "texts": 3}, {"name": "cc3m", "texts": 5}]
    new = [{"name": "new", "texts": 1}, {"name": "coco", "texts": 4}, {"name": "cc3m", "texts": 5}]
    found = dict(script.compare_json("", old, new, (str, str)))
    assert found == {"coco/texts": "3 became 4, a difference of 1", "new": "only in the new"}


def test_renamed_settings_are_compared_by_value(script):
    def found(old, new):
        return list(script.compare_json("request", old, new, (str, str)))

    assert found({"weight": 0.5}, {"lambda": 0.5}) == []
    assert [key for key, _ in found({"weight": 0.5}, {"lambda": 0.3})] == ["request/lambda"]


def test_saved_hits_are_compared_by_their_vectors(script, tmp_path):
    hits = tmp_path / "run" / "hits"
    hits.mkdir(parents=True)
    about = {"vectors": "0123456789abcdef", "k": 5, "captions": 9}
    (hits / "name.json").write_text(json.dumps(about))
    np.save(hits / "name.npy", np.zeros(3))
    files = {"run/hits/name.json": "x", "run/hits/name.npy": "x", "run/hits/gone.npy": ""}
    names = script.written(script.Ran(0, files, tmp_path))
    assert sorted(names) == [f"run/hits/<0123456789ab-5-9>.{kind}" for kind in ("json", "npy")]
