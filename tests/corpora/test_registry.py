"""Presets of the user's own: kept, replaced, refused with the field that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blissaudit.corpora import registry
from blissaudit.corpora.registry import (
    Preset,
    add_presets,
    find_preset,
    open_corpus,
    preset_named,
    presets,
)
from blissaudit.errors import BlissError, UsageError

OWN = {"name": "own", "spec": "words.txt", "licence": "CC0"}


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLISS_CONFIG", str(tmp_path / "settings"))
    return tmp_path / "settings"


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_an_added_preset_is_opened_by_name_from_anywhere(
    tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").write_text("a mug\na cup\n")
    preset = {**OWN, "prompt": "a photo of {}", "texts": 2, "languages": ["en"]}
    assert add_presets(write(tmp_path / "mine.json", preset)) == ("own",)
    assert not [path for path in settings.iterdir() if path.name != "corpora.json"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    source = open_corpus("own")
    (batch,) = source.batches(10)
    assert batch.texts == ["a mug", "a cup"]
    assert (source.licence, source.preset, source.default_prompt) == ("CC0", "own", "a photo of {}")
    assert find_preset("own") == Preset(
        "own", str(tmp_path / "words.txt"), "CC0", prompt="a photo of {}", texts=2,
        languages=("en",),
    )  # fmt: skip
    assert list(presets())[-1] == "own"


def test_a_list_is_added_in_order_and_a_name_given_again_is_replaced(tmp_path: Path) -> None:
    both = {"presets": [OWN, {**OWN, "name": "more", "spec": "hf:a/b", "column": "x"}]}
    assert add_presets(write(tmp_path / "a.json", both)) == ("own", "more")
    assert add_presets(write(tmp_path / "b.json", {**OWN, "licence": "MIT"})) == ("own",)
    assert (find_preset("own").licence, find_preset("more").column) == ("MIT", "x")
    assert list(presets())[-2:] == ["own", "more"]


def test_what_is_shown_of_a_preset_can_be_added_under_another_name(tmp_path: Path) -> None:
    from dataclasses import asdict

    shown = {**asdict(find_preset("flickr8k")), "name": "again"}
    add_presets(write(tmp_path / "a.json", shown))
    assert {**asdict(find_preset("again")), "name": "flickr8k"} == asdict(find_preset("flickr8k"))


def test_a_name_comes_before_a_file_and_a_path_before_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").write_text("preset\n")
    add_presets(write(tmp_path / "mine.json", {**OWN, "name": "folder"}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("folder\n")
    monkeypatch.chdir(tmp_path)
    assert next(open_corpus("folder").batches(9)).texts == ["preset"]
    assert next(open_corpus("./folder").batches(9)).texts == ["folder"]


def test_settings_are_where_the_system_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLISS_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert registry.user_file() == tmp_path / "xdg" / "bliss-audit" / "corpora.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry.user_file() == tmp_path / ".config" / "bliss-audit" / "corpora.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "the name None. Needed: text"),
        ({"name": "Own"}, "the name 'Own'. Needed: lower-case letters, digits, - and _"),
        ({"name": "a.txt"}, "the name 'a.txt'. Needed: lower-case letters"),
        ({"licence": " "}, "the licence ' '. Needed: text"),
        ({"spec": 5}, "the spec 5. Needed: text"),
        ({"spec": "hf:name"}, "the spec 'hf:name'. Needed: hf:owner/name"),
        ({"column": ["a"]}, r"the column \['a'\]. Needed: text"),
        ({"texts": "many"}, "texts 'many'. Needed: a whole number"),
        ({"texts": True}, "texts True. Needed: a whole number"),
        ({"languages": "en"}, "the languages 'en'. Needed: a list such as"),
        ({"checked": "yes"}, "checked 'yes'. Needed: true or false"),
        ({"prompt": "a photo"}, "the prompt 'a photo' does not say where the text goes"),
        ({"colunm": "a"}, "a field 'colunm'. Needed: only name, spec, licence, column, config"),
        ({"name": "cc3m"}, "defines 'cc3m', which is shipped with bliss. Needed: a name of your"),
        ({"name": "imagenet-1k"}, "defines 'imagenet-1k', which is shipped with bliss"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_kept(
    tmp_path: Path, settings: Path, change: dict[str, Any], message: str
) -> None:
    good = {**OWN, "name": "good"}
    with pytest.raises(UsageError, match=message):
        add_presets(write(tmp_path / "mine.json", {"presets": [good, {**OWN, **change}]}))
    assert not settings.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"mine.json could not be read \(Expecting"),
        ("[1]", "mine.json holds no presets. Needed: a preset, or"),
        ({"presets": "x"}, "mine.json holds no presets"),
        ({"presets": [OWN, OWN]}, "mine.json defines 'own' twice"),
        ({"name": "own"}, r"preset 1 of .*mine.json has no spec. Needed: the fields name, spec"),
        ({"presets": [OWN, {"spec": "a", "licence": "b"}]}, r"preset 2 of .*has no name"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(BlissError, match=message):
        add_presets(write(tmp_path / "mine.json", content))
    with pytest.raises(BlissError, match=r"none.json could not be read \(No such file"):
        add_presets(tmp_path / "none.json")


def test_a_spoilt_user_file_is_named_and_harms_only_names_it_could_hold(
    tmp_path: Path, settings: Path
) -> None:
    settings.mkdir()
    write(settings / "corpora.json", "{")
    (tmp_path / "a.txt").write_text("a\n")
    assert open_corpus(str(tmp_path / "a.txt")).preset is None
    assert open_corpus("imagenet-1k").preset == "imagenet-1k"
    with pytest.raises(BlissError, match=r"settings/corpora.json could not be read"):
        open_corpus("own")
    with pytest.raises(BlissError, match=r"settings/corpora.json could not be read"):
        presets()


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no preset 'x'\. Needed: one of imagenet-1k, .*rsicd"):
        find_preset("x")
    assert preset_named("x") is None
    with pytest.raises(UsageError, match=r"'x' is not a text corpus.*`bliss corpora list` shows"):
        open_corpus("x")
