"""`bliss index verify` finds every problem there is, names it and says what to do."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.artefacts import sha256_of, write_json
from blissaudit.indexer.build.build import IndexOptions, build_index, index_embeddings
from blissaudit.indexer.encode.encoder import Encoder, Preprocessing
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store.stored_rows import remove_rows
from blissaudit.indexer.store.verify import verify_index

TEXTS = ["a red dog", "naïve", "cat", "a red cat", "dogs", "emu", "fox", "gnu"]
D = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write_embeddings):
    root = tmp_path_factory.mktemp("verify")
    rows = np.random.default_rng(2).standard_normal((len(TEXTS), D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    source = write_embeddings(root / "pets", rows, TEXTS)
    folder = index_embeddings(source, root / "index", options=IndexOptions(part_rows=3)).folder
    remove_rows(folder, np.array([1, 7]), {"contains": "x"})
    remove_rows(folder, np.array([4]), {"contains": "y"})
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "index")


def no_encoder():
    raise AssertionError("no model is needed")


def found(folder, sample=0, encoder=no_encoder):
    """(check, problem) for all problems."""
    checks = list(verify_index(folder, sample, encoder, lambda *_: None))
    return [(check.name, problem.what) for check in checks for problem in check.problems]


def edit(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**manifest, **changes})


def put(folder, name, write):
    """Replace a file and make the manifest agree, as a careful forger would."""
    write(folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"][name] = sha256_of(folder / name)
    write_json(folder / "manifest.json", manifest)


def test_a_whole_index_passes_every_check(whole):
    checks = list(verify_index(whole, 0, no_encoder, lambda *_: None))
    assert [(check.name, check.problems) for check in checks] == [
        (name, ()) for name in ("manifest", "files", "checksums", "vectors and captions", "removed")
    ]
    assert checks[3].looked_at == "8 rows of 3 parts"
    assert checks[4].looked_at == "3 rows removed, in 2 steps"


FILES = (
    "text_emb/text_emb_1.npy",
    "metadata/metadata_1.parquet",
    "captions/captions_1.bin",
    "captions/offsets_1.npy",
    "removed.npy",
    "removed_2.npy",
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
        lambda path: path.unlink(),
    ],
    ids=["truncated", "flipped", "missing"],
)
def test_every_damaged_file_is_named(folder, name, damage):
    damage(folder / name)
    problems = found(folder)
    assert problems[0][0] == "checksums" and name in problems[0][1]
    assert all(name in what for _, what in problems)


def test_all_problems_are_told_not_only_the_first(folder):
    (folder / "text_emb/text_emb_0.npy").write_bytes(b"")
    (folder / "metadata/metadata_2.parquet").unlink()
    (folder / "notes.txt").write_text("mine")
    (folder / "metadata/.metadata_0.parquet.7.tmp").write_text("half")
    (folder / "adding").mkdir()
    (folder / "adding/building.json").write_text("{}")
    (folder / "captions/captions_9.bin").symlink_to("/etc/hostname")
    edit(folder, count=9)
    assert [what.replace(str(folder), "DIR") for _, what in found(folder)] == [
        "'count' is 9 and the parts hold 8 rows",
        "captions/captions_9.bin is a link out of the folder",
        "metadata/.metadata_0.parquet.7.tmp is left by an interrupted write",
        "notes.txt is not of the index",
        "adding/ is left by an interrupted `bliss index add`",
        "DIR/metadata/metadata_2.parquet is missing",
        "DIR/text_emb/text_emb_0.npy does not match the checksum in its manifest",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"parts": [3, 3, -1]}, "'parts' is not as bliss writes it"),
        ({"parts": [3, True, 2]}, "'parts' is not as bliss writes it"),
        ({"parts": [3, 3]}, "'count' is 8 and the parts hold 6 rows"),
        ({"dtype": "float64"}, "'dtype' is not as bliss writes it"),
        ({"model": {"dimension": "6"}}, "'model.dimension'"),
        ({"sources": []}, "'sources' is not as bliss writes it"),
        ({"sources": [7]}, "'sources' is not as bliss writes it"),
        ({"counts": {"read": 8}}, "'counts' is not as bliss writes it"),
        ({"search": {"kind": "Flat", "file": "/etc/x"}}, "its search structure is '/etc/x', which"),
        ({"search": {"kind": "Flat", "rows": 9}}, "the search structure covers 9 of 8 rows"),
        ({"counts": {"read": 8, "kept": 7}}, "kept is 7 in all and 8 by source"),
        ({"checksums": {"../up.npy": "0" * 64}}, "it lists '../up.npy', which is no file of an"),
        ({"checksums": {"a.pkl": "0" * 64}}, "it lists 'a.pkl', which is no file of an index"),
        ({"checksums": {}}, "it does not list captions/captions_0.bin"),
        ({"removed": {"file": "x"}}, "manifest.json has no usable 'removed'"),
        ({"kind": "reference"}, "is a reference folder"),
        ({"failures": 3}, "manifest.json has no usable 'failures'"),
    ],
)
def test_an_edited_manifest_is_found_out(folder, changes, problem):
    edit(folder, **changes)
    assert any(problem in what for _, what in found(folder))


def test_a_manifest_without_any_one_of_its_fields_is_found_out(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    needed = {*manifest} - {"failures", "prompts", "vector_kind", "normalised", "rules"}
    for name in sorted(needed - {"part_rows"}):
        write_json(folder / "manifest.json", {k: v for k, v in manifest.items() if k != name})
        assert found(folder), name


def vectors(change):
    def write(path):
        array = np.load(path)
        np.save(path, change(array))

    return write


def spoilt(row, value):
    def change(array):
        array[row] = value
        return array

    return vectors(change)


def metadata(change):
    def write(path):
        table = pq.read_table(path)
        changed = change(table.to_pydict())
        schema = pa.schema([table.schema.field(name) for name in changed])
        pq.write_table(pa.table(changed, schema=schema), path)

    return write


@pytest.mark.parametrize(
    ("name", "write", "problem"),
    [
        (FILES[0], spoilt(1, np.nan), "has 1 row holding NaN or infinity, the first 1"),
        (FILES[0], spoilt(2, 0), "has 1 row not of length 1, the first 2"),
        (FILES[0], vectors(lambda a: a[:2]), "holds float32 of shape (2, 6), not float32 of (3, "),
        (FILES[0], vectors(lambda a: a[:, :5]), "holds float32 of shape (3, 5), not float32"),
        (FILES[0], vectors(lambda a: a.astype("f8")), "holds float64 of shape (3, 6), not float32"),
        (FILES[0], lambda p: p.write_bytes(b"\x80\x04K\x01."), "text_emb_1.npy could not be read"),
        (FILES[1], metadata(lambda t: {"caption": t["caption"]}), "has the columns {'caption': "),
        (
            FILES[1],
            metadata(lambda t: t | {"caption": ["a red cat", "dog", "emu"]}),
            "metadata_1.parquet and captions/captions_1.bin hold different captions",
        ),
        (
            FILES[1],
            metadata(lambda t: t | {"source": ["pets", "pets", "other"], "licence": [""] * 3}),
            "names other sources or licences than the manifest",
        ),
        (FILES[1], lambda p: p.write_bytes(b"PAR1"), "metadata_1.parquet could not be read"),
        (FILES[2], lambda p: p.write_bytes(p.read_bytes() + b"x"), "does not cut"),
        (FILES[2], lambda p: p.write_bytes(b"\xff" + p.read_bytes()[1:]), "are not UTF-8"),
        (FILES[3], vectors(lambda a: a[::-1]), "offsets_1.npy does not cut"),
        (
            FILES[3],  # the differences overflow, and would be positive
            vectors(lambda a: np.array([0, 2**62, -(2**62) - 1, a[-1]])),
            "offsets_1.npy does not cut",
        ),
        (FILES[3], lambda p: p.write_bytes(b"\x80\x04K\x01."), "offsets_1.npy could not be read"),
        ("removed.npy", vectors(lambda a: a[:1]), "removed.npy does not add 2 rows"),
        ("removed_2.npy", vectors(lambda a: a[::-1]), "removed_2.npy does not list rows of the"),
        ("removed_2.npy", vectors(lambda a: np.array([2, 4, 7])), "removed_2.npy does not add 1"),
    ],
)
def test_contents_that_cannot_be_right_are_found_whatever_the_checksums_say(
    folder, name, write, problem
):
    put(folder, name, write)
    problems = found(folder)
    assert problems and problem in problems[0][1], problems


def letters(texts):
    """A toy encoder: how often each of some letters occurs."""
    rows = np.array([[text.count(c) + 0.1 for c in "adegno"] for text in texts], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_embedding_again_finds_vectors_of_other_captions_or_prompts(tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(TEXTS))
    from blissaudit.corpora.registry import open_corpus

    facts = {"model": "toy", "pretrained": None, "weights_sha256": "a", "dimension": D}
    facts |= {"preprocessing": {}, "context_length": 9, "precision": "fp32"}
    plain = Preprocessing((8, 8), "bilinear", "squash", (0.0,) * 3, (1.0,) * 3)
    encoder = Encoder(facts, plain, 4, letters, lambda images: images)
    options = IndexOptions(prompts=("an ode to {}", "no {}"), part_rows=3)
    folder = build_index(open_corpus(str(tmp_path / "c.txt")), encoder, tmp_path / "i", options)
    folder = folder.folder
    assert found(folder, 3, lambda: encoder) == []
    assert found(folder, 99, lambda: encoder) == []
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sources"][0]["prompts"] = ["{}"]
    write_json(folder / "manifest.json", manifest)
    problems = found(folder, 99, lambda: encoder)
    assert {name for name, _ in problems} == {"embeddings"}
    assert "row 0 has a cosine of 0.9" in problems[0][1]
    manifest["sources"][0]["prompts"] = ["an ode to {}", "no {}"]
    write_json(folder / "manifest.json", manifest)
    put(folder, "text_emb/text_emb_2.npy", vectors(lambda a: a[::-1]))
    assert [what[:6] for _, what in found(folder, 8, lambda: encoder)] == ["row 6 ", "row 7 "]
    assert open_index(folder).count == 8
