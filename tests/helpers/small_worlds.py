"""Small worlds for the tests of scores: unit rows, fittings without reference images, retrieval.

Read by several test files: in importlib mode, tests cannot import one another.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from blissaudit.scorer.bliss import Retrieved
from blissaudit.scorer.scores.contract import Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from hypothesis import strategies as st


def unit(rows):
    """float32 rows of length 1, along the last axis."""
    rows = np.asarray(rows, float)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def fitting_of(prompts, texts=None, something=None):
    """Normal classes with prompts and no reference image, and external texts."""
    nothing = np.zeros((0, prompts.shape[1]), np.float32)
    names = tuple(f"class {i}" for i in range(len(prompts)))
    normals = Normals(names, prompts, nothing, np.zeros(0, np.int64))
    extras = {} if something is None else {Need.SOMETHING: something}
    return Fitting(normals, nothing if texts is None else texts, extras)


def retrieve(images, texts, k):
    """The k texts nearest to each image, by sorting all cosines in float64."""
    cosines = images.astype(float) @ texts.T.astype(float)
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    distinct, position = np.unique(rows, return_inverse=True)
    return Retrieved(
        np.take_along_axis(cosines, rows, axis=1).astype(np.float32),
        rows,
        position.reshape(rows.shape).astype(np.int32),
        texts[distinct],
    )


def run(name, fitting, images, k=None, **changed):
    """Scores of `images` by the score called `name`, fitted with some parameters `changed`."""
    k = min(k or 5, len(fitting.texts))
    retrieved = retrieve(images, fitting.texts, k) if k else None
    return fit_score(SCORES[name], fitting, **changed)(Query(images, retrieved))


@st.composite
def worlds(draw_value):
    """(fitting, images): C = 1 included, few texts, and texts that occur twice."""
    rng = np.random.default_rng(draw_value(st.integers(0, 2**32 - 1)))
    d, classes = draw_value(st.integers(2, 7)), draw_value(st.integers(1, 5))
    texts = unit(rng.standard_normal((draw_value(st.integers(1, 30)), d)))
    if draw_value(st.booleans()):
        texts = texts[rng.integers(0, len(texts), len(texts) + 2)]
    prompts = unit(rng.standard_normal((classes, d)))
    something = unit(rng.standard_normal(d))
    images = unit(rng.standard_normal((draw_value(st.integers(1, 6)), d)))
    return fitting_of(prompts, texts, something), images


def write_embeddings(folder, kind, rows, **columns):
    """A folder in clip-retrieval's layout: unit rows and a metadata table."""
    (folder / f"{kind}_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / f"{kind}_emb" / f"{kind}_emb_0.npy", normalise_rows(rows).unit)
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0.parquet")
