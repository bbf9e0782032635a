"""Every public function called with values of other kinds: it works, or says what it needs."""

import contextlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import blissaudit as ba
import numpy as np
import pytest
from blissaudit.arguments import checked
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.encode.encoder import Encoder, Preprocessing
from helpers import ROOT

D = 4
ROWS = np.random.default_rng(0).standard_normal((12, D)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
LABELS = ["cat", "dog"] * 6


class Tensor:
    """As much of a torch tensor as NumPy reads; like those of a GPU, it has to move first."""

    def __init__(self, rows, here=False):
        self.rows, self.here, self.shape = rows, here, rows.shape

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.rows, True)

    def __array__(self, dtype=None, copy=None):
        if not self.here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return np.asarray(self.rows, dtype)


WRONG = {
    "None": None,
    "text": "nowhere",
    "path": Path("nowhere"),
    "bytes": b"nowhere",
    "number": 2.5,
    "not a number": float("nan"),
    "huge": 2**70,
    "negative": -1,
    "list": ["a", "b"],
    "tuple": (),
    "ragged": [[1.0], [1.0, 2.0]],
    "mapping": {"a": 1},
    "empty": np.zeros((0, D), np.float32),
    "one row": ROWS[0],
    "narrow": ROWS[:, :2],
    "doubles": ROWS.astype(np.float64),
    "halves": ROWS.astype(np.float16),
    "whole numbers": np.arange(12),
    "objects": np.array([None, "a"], object),
    "names": np.array(LABELS),
    "nan": np.full((12, D), np.nan, np.float32),
    "tensor": Tensor(ROWS),
    "class": Encoder,
    "object": SimpleNamespace(),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory, write_embeddings):
    """Name -> a public function with arguments that fit."""
    root = tmp_path_factory.mktemp("arguments")
    source = write_embeddings(root / "texts", ROWS, [f"a {i}" for i in range(12)])
    index = ba.index_embeddings(source, root / "index")
    made = ba.audit_arrays(ROWS, LABELS, text_vectors=ROWS, settings=ba.AuditSettings(k=3))
    images, reference, settings = made.images, made.reference, ba.AuditSettings(k=3)
    ba.save_reference(reference, root / "reference")
    numbers = np.array([0, 1] * 6)
    moments = ba.fit_moments(("cat", "dog"), ROWS, numbers)
    hits = ba.exact_search(ROWS, ROWS, 3)
    retrieved = ba.gather_texts(hits, ROWS)
    encoder = Encoder(
        {"model": "none", "pretrained": None, "weights_sha256": "0" * 64, "dimension": D,
         "precision": "fp32", "preprocessing": {}},
        Preprocessing((8, 8), "bicubic", "shortest", (0.5,) * 3, (0.5,) * 3), 8,
        lambda texts: ROWS[: len(texts)], lambda pixels: ROWS[: len(pixels)],
    )  # fmt: skip
    (root / "captions.txt").write_text("a\nb\n")
    corpus = ba.open_corpus(root / "captions.txt")
    from PIL import Image

    (root / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "photos" / "cat" / "a.png")
    photos = ba.open_images(root / "photos")
    return {
        "open_corpus": dict(spec=root / "captions.txt"),
        "open_images": dict(spec=root / "photos"),
        "list_images": dict(root=root / "photos"),
        "read_image_bytes": dict(source=photos, rows=[0]),
        "embed_images": dict(images=photos, encoder=encoder, folder=root / "out"),
        "read_image_embeddings": dict(folder=source),
        "build_index": dict(sources=corpus, encoder=encoder, folder=root / "out"),
        "index_embeddings": dict(folder=source, output=root / "out"),
        "open_index": dict(folder=root / "index"),
        "search": dict(index=index, queries=ROWS, k=3),
        "load_encoder": dict(choice=ba.ModelChoice(model="no-such-model")),
        "audit_own": dict(images=images, index=index, encoder=None, settings=settings),
        "audit_against": dict(images=images, index=index, reference=reference, settings=settings),
        "audit_arrays": dict(images=ROWS, labels=LABELS, text_vectors=ROWS,
                             texts=LABELS, prompts=ROWS[:2], paths=LABELS, settings=settings),
        "open_scorer": dict(reference=reference, index=index, model=encoder, settings=settings),
        "explain": dict(images=[root / "photos" / "cat" / "a.png"], reference=reference,
                        index=index, encoder=encoder, settings=settings, part="total"),
        "save_map": dict(each=None, folder=root / "maps", name="map"),
        "save_audit": dict(result=made, settings=settings, folder=root / "run", request={}),
        "save_report": dict(run_folder=root / "run", output=root / "out", images=3),
        "save_plots": dict(run_folder=root / "no run", folder=root / "out"),
        "audit_pairs": dict(images=ROWS, texts=ROWS, image=numbers, text=numbers),
        "compare_collections": dict(old=images, new=images, index=index),
        "fit_reference": dict(images=images, index=index, encoder=encoder, calibration_share=0.2),
        "save_reference": dict(reference=reference, folder=root / "out"),
        "load_reference": dict(folder=root / "reference"),
        "exact_search": dict(queries=ROWS, texts=ROWS, k=3),
        "fit_moments": dict(classes=("cat", "dog"), images=ROWS, labels=numbers),
        "merge": dict(first=moments, second=moments),
        "remove_images": dict(moments=moments, images=ROWS[:2], labels=numbers[:2]),
        "text_statistics": dict(moments=moments, texts=ROWS, needed=1),
        "gather_texts": dict(hits=hits, texts=ROWS),
        "bliss_matrices": dict(images=ROWS, retrieved=retrieved, reference=reference, weight=0.5),
        "bliss_scores": dict(images=ROWS, retrieved=retrieved, reference=reference, weight=0.5,
                             given=numbers),
    }  # fmt: skip


def public_functions():
    stub = (ROOT / "__init__.pyi").read_text()
    names = [line.split()[-1] for line in stub.splitlines() if line.startswith("from ")]
    return [name for name in names if name[0].islower() and name != "kernels_in_use"]


@pytest.mark.parametrize("name", public_functions())
def test_arguments_of_other_kinds_work_or_are_refused(calls, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, given, faults = getattr(ba, name), calls[name], []
    for argument in given:
        for kind, value in WRONG.items():
            try:
                made = function(**{**given, argument: value})
                if inspect.isgenerator(made):
                    list(made)
            except BlissError as error:
                assert error.given and error.needed and error.remedy
            except Exception as error:
                faults.append(f"{name}({argument}: {kind}) ended with {error!r}")
    assert not faults, "\n".join(faults)


OPTIONS = [
    each for name in dir(ba) if is_dataclass(each := getattr(ba, name))
    and name.endswith(("Settings", "Options", "Question", "Rule", "Rules", "Choice", "Words"))
]  # fmt: skip


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: kind.__name__)
def test_options_of_other_kinds_are_refused_where_they_are_made(kind):
    assert len(OPTIONS) == 12
    for each in fields(kind):
        for value in WRONG.values():
            with contextlib.suppress(BlissError):
                kind(**{each.name: value})


def test_messages_name_the_argument_its_value_and_the_function(tmp_path):
    for call, words in (
        (partial(ba.AuditSettings, k="3"), "AuditSettings was called with k='3' (str). Needed: a "
         "whole number. Correct the argument `k`; help(AuditSettings) explains it."),
        (partial(ba.exact_search, ROWS, ROWS, True), "k=True. Needed: a whole number."),
        (partial(ba.AuditQuestion, "stray"), "kinds='stray' (str). Needed: a list."),
        (partial(ba.open_index, [tmp_path]), "open_index was called with folder=a list. Needed: "
         "text or a path. Correct the argument `folder`; help(open_index) explains it."),
        (partial(ba.embed_images, [ROWS], None, tmp_path), "images=a list. Needed: a collection "
         "that open_images opened."),
        (partial(ba.exact_search, ROWS, ROWS[:, :2], 1), "texts=vectors of 2 dimensions. Needed: "
         "vectors of 4 dimensions"),
        (partial(ba.exact_search, ROWS, ROWS, "3"), "k='3' (str). Needed: a whole number."),
        (partial(ba.fit_moments, "ab", ROWS, [0.5]), "labels=an array of shape (1,) and type "
         "float64. Needed: an array [rows] of whole numbers."),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=re.escape(words)):
            call()


def test_numbers_of_numpy_are_numbers():
    for k in (np.int64(2), np.uint8(2), np.array(2)):
        assert np.array_equal(
            ba.exact_search(ROWS, ROWS, k).rows, ba.exact_search(ROWS, ROWS, 2).rows
        )
        assert type(ba.AuditSettings(k=k, weight=np.float32(0.5)).k) is int
    for wrong in (np.bool_(True), np.float64(2), np.array([2])):
        with pytest.raises(UsageError, match=r"Needed: a whole number"):
            ba.AuditSettings(k=wrong)


def test_arrays_are_read_from_lists_and_tensors():
    @checked
    def rows(given: np.ndarray | None, names: Sequence[str] = ()) -> np.ndarray | None:
        return given

    for given in (ROWS.tolist(), Tensor(ROWS), ROWS):
        assert np.asarray(rows(given) == ROWS).all()
    assert rows(None) is None and rows(ROWS, np.array(["a"])) is ROWS
