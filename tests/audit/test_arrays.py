"""Audits of arrays: equal to those of files bit for bit, and one clear error for each bad array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit import (
    AuditQuestion,
    AuditSettings,
    ClassWords,
    DecisionRule,
    audit_against,
    audit_arrays,
    fit_reference,
    index_embeddings,
    load_encoder,
    open_scorer,
)
from blissaudit.audit import AuditRequest, FittedPlus, rescored, run_audit, save_audit, scores
from blissaudit.audit.retrieval import HitsCache
from blissaudit.audit.run import in_reference
from blissaudit.errors import UsageError
from blissaudit.indexer import ArrayIndex, ModelChoice, embedded_arrays
from blissaudit.scorer import NOTHING_LEFT_OUT, SCORES, Query, TextPass
from helpers.small_worlds import unit
from PIL import Image

K = AuditSettings(k=4)


@pytest.fixture(scope="module")
def world():
    """24 images of three classes, two of them filed wrongly, 30 texts; rows of any length."""
    rng = np.random.default_rng(5)
    centres = unit(rng.standard_normal((3, 8)))
    shown = np.repeat(np.arange(3), 8)
    images = unit(centres[shown] + 0.3 * rng.standard_normal((24, 8)))
    images = (images * rng.uniform(0.5, 15, (24, 1))).astype(np.float32)
    labels = np.array(["ant", "bee", "cow"])[shown]
    labels[[3, 12]] = "cow", "ant"
    texts = rng.standard_normal((30, 8)).astype(np.float32)
    return images, labels, texts


def write(folder, kind, vectors, **columns):
    import pyarrow as pa

    (folder / f"{kind}_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / f"{kind}_emb" / f"{kind}_emb_0.npy", vectors)
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0.parquet")
    return folder


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("prompted", [True, False])
def test_arrays_give_what_files_give_bit_for_bit(world, tmp_path, dtype, prompted):
    images, labels, texts = world[0].astype(dtype), world[1], world[2].astype(dtype)
    images[5] = images[4]
    words = [f"a word {i}" for i in range(30)]
    names = [f"{i}.jpg" for i in range(24)]
    write(tmp_path / "images", "img", images, image_path=names, label=labels)
    write(tmp_path / "texts", "text", texts, caption=words)
    index_embeddings(tmp_path / "texts", tmp_path / "index", "caption")
    at = {"ant": 3, "bee": 7, "cow": 11}
    worded = ClassWords(labels={name: words[row] for name, row in at.items()})
    settings = AuditSettings(k=4, words=worded if prompted else ClassWords(means=True))
    rule = AuditQuestion(rule=DecisionRule(top=3))
    folders = {name: str(tmp_path / name) for name in ("images", "index", "run")}
    result = run_audit(
        AuditRequest(
            embeddings=folders["images"],
            indexes=(folders["index"],),
            output=folders["run"],
            settings=settings,
            question=rule,
        )
    )
    prompts = texts[list(at.values())] if prompted else None
    arrays = audit_arrays(images, labels, texts=words, text_vectors=texts, prompts=prompts,
                          paths=names, settings=K, question=rule)  # fmt: skip
    assert arrays.table().equals(result.table())
    assert arrays.issues is not None and arrays.issues.equals(result.issues)
    assert arrays.copies is not None and len(arrays.copies) and arrays.copies.equals(result.copies)
    assert arrays.images.normalised == result.images.normalised == 24
    by_name = None if prompts is None else dict(zip(at, prompts, strict=True))
    again = audit_arrays(images.tolist() if dtype == np.float32 else images, list(labels),
                         texts=words, text_vectors=texts, prompts=by_name, paths=names,
                         settings=K, question=rule)  # fmt: skip
    if dtype == np.float16:  # a list of floats has 64 bits
        assert again.table().equals(result.table())
    save_audit(arrays, K, tmp_path / "out", {"command": "audit", "images": tmp_path})
    assert pq.read_table(tmp_path / "out" / "scores.parquet").equals(result.table())


def test_matrices_are_arrays_and_lone_surrogates_are_written_out(world):
    images, labels, texts = world
    plain = audit_arrays(images, labels, text_vectors=texts, settings=K)
    names = [f"a\udcff{i}" for i in range(24)]
    found = audit_arrays(np.matrix(images), labels.astype(object), text_vectors=np.matrix(texts),
                         texts=["t\ud800"] * 30, paths=names, settings=K)  # fmt: skip
    assert np.array_equal(found.scores.score, plain.scores.score)
    assert found.table()["path"][0].as_py() == "a\\xff0"
    assert found.table()["captions"][0].as_py() == ["t\\ud800"] * 4


def test_tensors_and_mapped_arrays_are_arrays_too(world, tmp_path, monkeypatch):
    import torch

    images, labels, texts = world
    plain = audit_arrays(images, labels, text_vectors=texts, settings=K)
    assert plain.index.captions_of(np.array([2])) == ["text 2"] and plain.images.paths[1] == "row 1"
    tensor = torch.tensor(images, requires_grad=True)
    assert (
        audit_arrays(tensor, labels, text_vectors=torch.tensor(texts), settings=K)
        .table()
        .equals(plain.table())
    )
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    monkeypatch.setattr("blissaudit.indexer.vectors.rows.RESIDENT_BYTES", 0)
    result = audit_arrays(mapped, labels, text_vectors=texts, settings=K)
    assert not isinstance(result.images.vectors, np.ndarray)
    assert result.table().equals(plain.table())


def test_another_reference_and_images_without_labels(world):
    images, labels, texts = world
    clean = audit_arrays(images[::2], labels[::2], text_vectors=texts, settings=K).reference
    against = audit_arrays(images[1::2], text_vectors=texts, reference=clean, settings=K)
    assert against.reference is clean and len(against.left_out.images) == 0
    assert against.labels is None and against.first_order[:2].tolist() == (
        against.order[:2].tolist()
    )
    named = audit_arrays(images, text_vectors=texts, prompts={"b": texts[0], "a": texts[1]},
                         settings=K)  # fmt: skip
    assert named.reference.classes == ("a", "b") and named.images.labels[0] is None


def bad(images, labels, vectors, **changed):
    return {"images": images, "labels": labels, "text_vectors": vectors, "settings": K, **changed}


def spoilt(rows, row, value):
    made = rows.copy()
    made[row] = value
    return made


REFUSED = {
    "NaN": (lambda i, w, t: bad(spoilt(i, 4, np.nan), w, t), "row 4 of the images is zero or not"),
    "zero": (lambda i, w, t: bad(spoilt(i, [2, 9], 0), w, t), "row 2 .* not finite, and 1 more"),
    "bad text": (lambda i, w, t: bad(i, w, spoilt(t, 1, np.inf)), "row 1 of text_vectors is zero"),
    "1-d": (lambda i, w, t: bad(i[0], w, t), r"images: shape \(8,\).* Needed: numbers in an array"),
    "masked": (lambda i, w, t: bad(np.ma.masked_less(i, 0), w, t), "with masked entries"),
    "generator": (lambda i, w, t: bad(i, iter(w), t), "Needed: a list or None"),
    "set": (lambda i, w, t: bad(i, {*range(24)}, t), "labels=a set. Needed: a list or None"),
    "ragged": (lambda i, w, t: bad([[1.0], [1.0, 2.0]], w, t), "images: .*Needed: numbers in an"),
    "text": (lambda i, w, t: bad(i.astype(str), w, t), "images: shape .* and type <U"),
    "other dimension": (lambda i, w, t: bad(i, w, t[:, :5]), "have 5 dimensions and images have 8"),
    "few labels": (lambda i, w, t: bad(i, w[:5], t), "5 labels were given for 24 rows of images"),
    "few names": (lambda i, w, t: bad(i, w, t, texts=["one"]), "1 texts were given for 30 rows of"),
    "k": (lambda i, w, t: bad(i, w, t[:3]), "k = 4 was given with 3 text_vectors"),
    "one class": (
        lambda i, w, t: bad(i, ["ant"] * 24, t, question=AuditQuestion(("mislabel",))),
        "'ant' is the only class. Needed: another class",
    ),
    "two images": (
        lambda i, w, t: bad(i, ["ant"] * 22 + ["bee"] * 2, t),
        "class 'bee' has 2 reference images. Needed: at least 3",
    ),
    "no labels": (lambda i, w, t: bad(i, None, t), "neither labels nor prompts were given"),
    "few prompts": (lambda i, w, t: bad(i, w, t, prompts=t[:2]), r"\(2, 8\) were given for 3 cla"),
    "no prompt": (lambda i, w, t: bad(i, w, t, prompts={"ant": t[0]}), "no vector for class 'bee'"),
    "zero prompt": (lambda i, w, t: bad(i, w, t, prompts=0 * t[:3]), "row 0 of prompts is zero"),
    "prompt of 5": (lambda i, w, t: bad(i, w, t, prompts=t[:3, :5]), "prompts have 5 dimensions"),
}


def test_labels_that_stand_for_none_are_none(world):
    import pandas as pd

    images, labels, texts = world
    for nothing in (None, np.nan, np.float32("nan"), pd.NA, pd.NaT, "", " "):
        given = [nothing, *labels[1:].tolist()]
        result = audit_arrays(images, given, text_vectors=texts, settings=K)
        assert result.reference.classes == ("ant", "bee", "cow"), nothing
        assert result.images.labels[0] is None
    as_bytes = audit_arrays(images, labels.astype("S3"), text_vectors=texts, settings=K)
    assert as_bytes.reference.classes == ("ant", "bee", "cow")
    for field in ("top", "fail_on"):
        with pytest.raises(UsageError, match=f"{field} = -3 was given"):
            DecisionRule(**{field: -3})


@pytest.mark.parametrize("what", REFUSED)
def test_bad_arrays_each_give_one_clear_error(what, world):
    make, message = REFUSED[what]
    with pytest.raises(UsageError, match=message):
        audit_arrays(**make(*world))


def test_pictures_in_memory_are_scored_as_their_files(collection, index, bliss, tmp_path):
    encoder = load_encoder(ModelChoice("demo"))
    from blissaudit import embed_images, open_images, open_index

    embedded = embed_images(open_images(str(collection)), encoder, tmp_path / "images")
    reference = fit_reference(embedded, None, encoder)
    scorer = open_scorer(reference, index, score="bliss")
    paths = [collection / path for path in list(embedded.paths)[:3]]
    found = scorer.score([Image.open(path) for path in paths])
    scores = bliss_scores_of(embedded, open_index(index), reference, 3)
    assert found.scores.score == pytest.approx(scores, rel=1e-3)
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    again = scorer.score(pixels, ["apple"] * 3)
    assert again.scores.score == pytest.approx(found.scores.score)
    assert again.labels is not None and found.labels is None
    best = open_scorer(reference, index)
    whole = rescored(audit_against(embedded, open_index(index), reference), SCORES["bliss+"], 0.5)
    for _ in range(2):  # fitted once
        plus = best.score(pixels)
        assert plus.score_name == "bliss+" and plus.chosen.startswith("score auto: bliss+, from")
        assert plus.scores.score == pytest.approx(whole.scores.score[:3], rel=1e-3)
    for wrong, message in (
        ([pixels[0] / 255], "image 0 is an array of shape .* and type float64. Needed: uint8"),
        ([paths[0]], "image 0 is of type PosixPath"),
        ([], "no image was given"),
    ):
        with pytest.raises(UsageError, match=message):
            scorer.score(wrong)


def bliss_scores_of(embedded, index, reference, count):
    """The scores of the first images, each left out of its class."""
    return audit_against(embedded, index, reference).scores.score[:count]


def test_a_result_shows_itself(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels, texts = world
    Image.new("RGB", (300, 200), "red").save(tmp_path / "a.png")
    paths = ["a.png"] * 24
    paths[:2] = "<b>.png", "/etc/hostname"
    result = audit_arrays(images, labels, text_vectors=texts, paths=paths, settings=K)
    line = repr(result)
    assert line.startswith("<AuditResult: 24 images, 3 classes, 30 captions, 0 flagged, ")
    assert "\n" not in line and line.endswith(" issues>")
    page = result._repr_html_()
    assert page.count("<tr>") == 11 and "<b>" not in page
    assert page.count('src="data:image/webp;base64,') == page.count("<td>a.png</td>") >= 8
    frame = result.to_pandas()
    assert list(frame["score"]) == result.scores.score.tolist()
    assert list(frame.columns) == result.table().column_names


@pytest.mark.parametrize("name", ["neglabel", "external_gap", "mcm", "mcm+rscin"])
def test_another_score_is_computed_of_a_few_images_at_once(world, monkeypatch, name):
    images, labels, texts = world
    given = {"text_vectors": texts, "settings": K, "score": name}
    expected = audit_arrays(images, labels, **given).scores.score
    asked = []
    monkeypatch.setattr(scores, "IMAGES_AT_ONCE", 5)
    monkeypatch.setattr(
        scores, "Query", lambda images, *rest: asked.append(len(images)) or Query(images, *rest)
    )
    found = audit_arrays(images, labels, **given).scores.score
    assert asked == ([24] if name.endswith("rscin") else [5, 5, 5, 5, 4])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_search_makes_the_sums_of_bliss_plus(world, tmp_path, monkeypatch):
    images, labels, texts = world
    facts, words = {"dimension": 8}, ClassWords(means=True)
    index = ArrayIndex([f"a word {i}" for i in range(30)], unit(texts), facts)
    clean, every = (
        embedded_arrays(unit(images[some]), labels[some], None, facts, "images")
        for some in ([0, 1, 2, 8, 9, 10, 16, 17, 18], slice(None))
    )
    reference = fit_reference(clean, index, None, words)
    plus, products = FittedPlus(SCORES["bliss+"], 0.5), []
    real = TextPass.__call__
    monkeypatch.setattr(
        TextPass, "__call__", lambda *given: products.append(len(given[1])) or real(*given)
    )
    alone = rescored(audit_against(every, index, reference, K), SCORES["bliss+"], 0.5)
    assert products == [24]
    for _ in range(2):  # the second time the hits are read and the sums made
        hits = HitsCache(tmp_path)
        result = audit_against(every, index, reference, K, hits=hits, plus=plus)
        found = rescored(result, SCORES["bliss+"], 0.5, plus=plus)
        np.testing.assert_array_equal(found.scores.score, alone.scores.score)
    assert products == [24] * 3
    sums = plus.sums_of(result)
    assert sums is not None
    sums += 1.0
    changed = rescored(result, SCORES["bliss+"], 0.5, plus=plus).scores.score
    assert (changed > found.scores.score).sum() == 15  # those left out have sums of their own
    again = replace(result, reference=replace(reference))
    assert plus.sums_of(again) is None  # another reference
    itself = fit_reference(every, index, None, words)  # too many are left out
    assert plus.plan(every, index, itself, in_reference(every, itself)) is None
    assert plus.plan(every, index, reference, NOTHING_LEFT_OUT) is not None
    monkeypatch.setattr(scores, "searches_all", lambda index: False)
    assert plus.plan(every, index, reference, NOTHING_LEFT_OUT) is None
