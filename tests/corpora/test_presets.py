"""Every preset's reading code, on folders of the schema its corpus is published in."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora import registry
from blissaudit.corpora.registry import CorpusOptions, TextSource, open_corpus, open_preset
from blissaudit.errors import UsageError

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURES = pa.array([{"bytes": b"\x89PNG", "path": "a.png"}, {"bytes": b"", "path": None}], PICTURE)
SHIPPED = {
    name: each for name, each in registry.presets().items() if each.spec not in registry.NAMED
}


class Published(NamedTuple):
    """Files of a corpus as published, and the texts of the split a preset reads."""

    files: Mapping[str, Mapping[str, Any] | str]
    """Columns of a parquet file, or the text of another."""
    texts: list[tuple[int, str]]


def other(columns: Mapping[str, Any], *captions: str) -> dict[str, Any]:
    """The columns of another split, whose captions may not be read."""
    wrong = {
        name: [["wrong"]] * 2 if isinstance(columns[name][0], list) else ["wrong"] * 2
        for name in captions
    }
    return {**columns, **wrong}


def card(*configs: str) -> str:
    return "---\nconfigs:\n" + "".join(configs) + "---\n"


def config(name: str, **splits: str) -> str:
    files = ", ".join(f"{{split: {split}, path: '{path}'}}" for split, path in splits.items())
    return f"- config_name: {name}\n  data_files: [{files}]\n"


COCO = {
    "license": [3, 4], "file_name": ["1.jpg", "2.jpg"], "coco_url": ["u", "v"], "height": [1, 2],
    "image_id": [1, 2], "ids": [[5, 6], [7]], "captions": [["a cat sat", "cats"], ["two trains"]],
}  # fmt: skip
FLICKR30K = {
    "image": PICTURES, "caption": [["man at a stall", "a stall"], ["two girls"]],
    "sentids": [["0", "1"], ["5"]], "img_id": ["0", "1"], "filename": ["1.jpg", "2.jpg"],
}  # fmt: skip
FLICKR8K = {"image": PICTURES} | {
    f"caption_{n}": [f"text {n} of the first", f"text {n} of the second"] for n in range(5)
}
CC3M = {"image_url": ["http://t/1", "http://t/2"], "caption": ["a tree", "person at a desk"]}
LABELED = {**CC3M, "labels": [["tree"], ["desk"]], "MIDs": [["/m/1"], ["/m/2"]],
           "confidence_scores": [[0.5], [0.6]]}  # fmt: skip
PIXELPROSE = {
    "uid": ["1", "2"], "url": ["u", "v"], "key": ["1", "2"], "status": ["success", "success"],
    "original_caption": ["itap of my cat", "my first pot"], "vlm_model": ["gemini", "gemini"],
    "vlm_caption": ["This image displays a cat.", "A pot."], "aesthetic_score": [5.0, 6.0],
}  # fmt: skip
DATACOMP = {
    "uid": ["1", "2"], "url": ["u", "v"], "text": ["EARRINGS SPIKE", "红楼梦"],
    "original_width": [560, 280], "original_height": [840, 280],
    "clip_b32_similarity_score": [0.3, 0.2], "clip_l14_similarity_score": [0.2, 0.2],
    "face_bboxes": [[[0.1, 0.2]], []], "sha256": ["a", "b"],
}  # fmt: skip
ROCO = {
    "image": PICTURES, "image_id": ["ROCOv2_1", "ROCOv2_2"],
    "caption": ["CT of the chest", "X-ray of the left hand"], "cui": [["C1"], ["C2", "C3"]],
}  # fmt: skip
RSICD = {"filename": ["airport_1.jpg", "park_2.jpg"],
         "captions": [["many planes at a terminal", "planes"], ["a park with trees"]],
         "image": PICTURES}  # fmt: skip

PUBLISHED = {
    "coco-captions": Published(
        {"data/train-00000-of-00001-0084.parquet": COCO,
         "data/validation-00000-of-00001-e3c3.parquet": other(COCO, "captions")},
        [(0, "a cat sat"), (0, "cats"), (1, "two trains")],
    ),
    "flickr30k": Published(
        {"README.md": card(config("default", test="data/test-*")),
         "data/test-00000-of-00009.parquet": FLICKR30K},
        [(0, "man at a stall"), (0, "a stall"), (1, "two girls")],
    ),
    "flickr8k": Published(
        {"data/train-00000-of-00002.parquet": FLICKR8K,
         "data/test-00000-of-00001.parquet": other(FLICKR8K, "caption_0")},
        [(row, f"text {n} of the {which}") for row, which in enumerate(("first", "second"))
         for n in range(5)],
    ),
    "cc3m": Published(
        {"README.md": card(config("labeled", train="labeled/train-*"),
                           config("unlabeled", train="unlabeled/train-*",
                                  validation="unlabeled/validation-*")),
         "labeled/train-00000-of-00002.parquet": other(LABELED, "caption"),
         "unlabeled/train-00000-of-00002.parquet": CC3M,
         "unlabeled/train-00001-of-00002.parquet": {**CC3M, "caption": ["a third", "a fourth"]},
         "unlabeled/validation-00000-of-00001.parquet": other(CC3M, "caption")},
        [(0, "a tree"), (1, "person at a desk"), (2, "a third"), (3, "a fourth")],
    ),
    "cc12m": Published(
        {"data/train-00000-of-00003-980d.parquet": {"text": ["metal design on a door", "dolls"]}},
        [(0, "metal design on a door"), (1, "dolls")],
    ),
    "sbu-captions": Published(
        {"default/train/0000.parquet": {"image_url": ["u", "v"], "user_id": ["x", "y"],
                                        "caption": ["My dog at the beach", "Tower in the mist"]}},
        [(0, "My dog at the beach"), (1, "Tower in the mist")],
    ),
    "redcaps": Published(
        {"README.md": card(config("default", train="data/vlm_captions_*.parquet",
                                  cc12m="data/vlm_captions_cc12m_*.parquet",
                                  redcaps="data/vlm_captions_redcaps_*.parquet")),
         "data/vlm_captions_cc12m_00.parquet": other(PIXELPROSE, "original_caption"),
         "data/vlm_captions_redcaps_00.parquet": PIXELPROSE},
        [(0, "itap of my cat"), (1, "my first pot")],
    ),
    "datacomp": Published(
        {"0035af9f90f581816acf269df5eb37ad.parquet": DATACOMP,
         "0035af9f90f581816acf269df5eb37ad.npz": "not read"},
        [(0, "EARRINGS SPIKE"), (1, "红楼梦")],
    ),
    "openimages-labels": Published(
        {"oidv7-class-descriptions.csv":
         'LabelName,DisplayName\n/m/011k07,Tortoise\n/m/0x1,"Magpie, blue"\n'},
        [(0, "Tortoise"), (1, "Magpie, blue")],
    ),
    "roco": Published(
        {"README.md": card(config("default", train="data/train-*", test="data/test-*")),
         "data/train-00000-of-00027.parquet": ROCO,
         "data/test-00000-of-00005.parquet": other(ROCO, "caption")},
        [(0, "CT of the chest"), (1, "X-ray of the left hand")],
    ),
    "flickr30k-quintets": Published(
        {"quintets.jsonl": '{"set": ["a man", "a stall"]}\n{"set": ["girls"]}\n'},
        [(0, "a man"), (0, "a stall"), (1, "girls")],
    ),
    "localized-narratives": Published(
        {"open_images_train_v6_captions.jsonl":
         '{"dataset_id": "open_images_train", "image_id": "1", "annotator_id": 3, '
         '"caption": "In this image, there is a cat. It sits."}\n'},
        [(0, "In this image, there is a cat. It sits.")],
    ),
    "pixmo-cap": Published(
        {"data/train-00000-of-00002.parquet":
         {"image_url": ["u"], "caption": ["A long text."], "transcripts": [["uh", "a cat"]]}},
        [(0, "A long text.")],
    ),
    "diffusiondb-prompts": Published(
        {"metadata.parquet": {"image_name": ["1.png"], "prompt": ["a cat, oil"], "seed": [1]}},
        [(0, "a cat, oil")],
    ),
    "product-titles": Published(
        {"data/train-00000-of-00002.parquet":
         {"query": ["cup"], "product_title": ["Blue Cup"], "product_description": ["wrong"]}},
        [(0, "Blue Cup")],
    ),
    "multi30k-de": Published(
        {"train.jsonl": '{"en": "two men", "de": "zwei Männer"}\n',
         "val.jsonl": '{"en": "wrong", "de": "wrong"}\n'},
        [(0, "zwei Männer")],
    ),
    "rsicd": Published(
        {"data/train-00000-of-00001.parquet": RSICD,
         "data/valid-00000-of-00001.parquet": other(RSICD, "captions"),
         "data/test-00000-of-00001.parquet": other(RSICD, "captions")},
        [(0, "many planes at a terminal"), (0, "planes"), (1, "a park with trees")],
    ),
}  # fmt: skip


def publish(folder: Path, files: Mapping[str, Mapping[str, Any] | str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            pq.write_table(pa.table(dict(content)), path)


def read(source: TextSource) -> list[tuple[int, str]]:
    return [
        pair
        for batch in source.batches(3)
        for pair in zip(batch.rows.tolist(), batch.texts, strict=True)
    ]


def test_every_preset_with_coordinates_has_a_published_schema_here() -> None:
    assert set(PUBLISHED) == set(SHIPPED)
    assert len(registry.presets()) == len(PUBLISHED) + 3


@pytest.mark.parametrize("name", SHIPPED)
def test_the_texts_of_every_preset_are_read_as_published(name: str, tmp_path: Path) -> None:
    publish(tmp_path, PUBLISHED[name].files)
    preset = SHIPPED[name]
    file = preset.spec.rpartition("/")[2]
    place = tmp_path / file if preset.spec.startswith("https:") else tmp_path
    source = open_preset(replace(preset, spec=str(place), revision=None))
    assert read(source) == PUBLISHED[name].texts
    assert (source.preset, source.licence) == (name, preset.licence)
    assert source.default_prompt == preset.prompt


@pytest.mark.parametrize("name", ["imagenet-1k", "imagenet-21k", "paper-dictionary"])
def test_built_in_presets_hold_as_many_texts_as_they_say(name: str) -> None:
    preset = registry.find_preset(name)
    source = open_corpus(name)
    assert len(read(source)) == preset.texts
    assert (source.spec, source.preset, source.licence) == (name, name, preset.licence)
    assert preset.checked


def test_only_what_could_be_tried_here_is_called_checked() -> None:
    assert not [name for name, preset in SHIPPED.items() if preset.checked]


def test_imagenet_21k_has_the_names_of_each_synset_in_its_order() -> None:
    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    names = {}
    for line in (folder / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines():
        synset, _, words = line.partition("\t")
        names[synset] = [word.strip() for word in words.split(",")]
    synsets = (folder / "imagenet21k_goog_synsets.txt").read_text("utf-8").split()
    expected = [(row, word) for row, synset in enumerate(synsets) for word in names[synset]]
    assert read(open_corpus("imagenet-21k")) == expected
    assert expected[:3] == [(0, "organism"), (0, "being"), (1, "benthos")]


def test_imagenet_21k_without_timm_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match="imagenet-21k comes with timm, which is not installed"):
        open_corpus("imagenet-21k")


def test_what_the_user_says_comes_before_the_preset(tmp_path: Path) -> None:
    publish(tmp_path, PUBLISHED["cc3m"].files)
    preset = replace(SHIPPED["cc3m"], spec=str(tmp_path))
    assert read(open_preset(preset, CorpusOptions(split="validation")))[0] == (0, "wrong")
    assert read(open_preset(preset, CorpusOptions(column="image_url")))[0] == (0, "http://t/1")
    assert open_preset(preset, CorpusOptions(config="labeled")).facts()["config"] == "labeled"
    with pytest.raises(UsageError, match=r"no config 'x'\. Needed: one of labeled, unlabeled"):
        open_preset(preset, CorpusOptions(config="x"))


def test_name_revision_and_config_of_a_preset_reach_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    asked: list[tuple[object, ...]] = []

    def load(address: str, **options: object) -> None:
        asked.append((address, options))
        raise RuntimeError("stop here")

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    for name, options in (
        ("sbu-captions", CorpusOptions()),
        ("sbu-captions", CorpusOptions(revision="main")),
        ("cc3m", CorpusOptions()),
    ):
        with pytest.raises(Exception, match="RuntimeError: stop here"):
            open_corpus(name, options)
    sbu, cc3m = (
        "hf://datasets/vicenteor/sbu_captions",
        "hf://datasets/google-research-datasets/conceptual_captions",
    )
    assert asked == [
        (sbu, {"name": None, "revision": "c1a731839b5347effeb3064adc5484f21a38dd47"}),
        (sbu, {"name": None, "revision": "main"}),
        (cc3m, {"name": "unlabeled", "revision": None}),
    ]


def test_options_a_built_in_preset_has_no_use_for_are_refused() -> None:
    with pytest.raises(UsageError, match="split given for 'imagenet-21k'"):
        open_corpus("imagenet-21k", CorpusOptions(split="train"))
