"""Named corpora: the presets shipped with the package, and those that users add in the same form.

A preset says where a corpus is and how it is read; all of them are data, in `presets.json` and in
the user's `corpora.json`. `open_corpus` opens any text corpus, named or not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..arguments import checked
from ..artefacts import home_folder, write_json
from ..errors import BlissError, UsageError
from .addresses import is_remote
from .captions import CAPTION_PROMPT, check_prompts
from .names import NAMED
from .opening import HUB_SPEC, open_spec
from .sources import JSON, NO_OPTIONS, CorpusOptions, TextBatch, TextSource, batch_values

SHIPPED = Path(__file__).with_name("presets.json")
USER_FILE = "corpora.json"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class Preset:
    """Where a corpus is, how it is read, and what a person needs to know to choose it."""

    name: str
    spec: str
    """hf:owner/name, a built-in name, or the path or address of files."""
    licence: str
    column: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    split_cells: str | None = None
    """What parts the texts within a cell, such as a comma."""
    prompt: str = CAPTION_PROMPT
    """The template its texts are made for."""
    texts: int | None = None
    """How many there are, about, before any is dropped."""
    download: str = ""
    """What a build fetches."""
    languages: tuple[str, ...] = ()
    good_for: str = ""
    homepage: str = ""
    note: str = ""
    checked: bool = False
    """Whether the coordinates were tried; others are as the corpus's own pages give them."""


_REQUIRED = ("name", "spec", "licence")
_TEXT = (
    "config",
    "split",
    "revision",
    "column",
    "split_cells",
    "prompt",
    "download",
    "good_for",
    "homepage",
    "note",
)


def presets() -> dict[str, Preset]:
    """Every preset by name, shipped ones first; BlissError where the user's file is unusable."""
    return {**_shipped(), **_added()}


def find_preset(name: str) -> Preset:
    """The preset of that name; UsageError that lists the names where there is none."""
    known = presets()
    if name not in known:
        raise UsageError(
            f"there is no preset {name!r}",
            f"one of {', '.join(known)}",
            "Correct the name, or add one with `bliss corpora add FILE`",
        )
    return known[name]


def preset_named(spec: str) -> Preset | None:
    """The preset that `spec` is the name of, if it is one."""
    if spec in _shipped():
        return _shipped()[spec]
    return _added().get(spec) if _NAME.fullmatch(spec) else None


def open_preset(preset: Preset, options: CorpusOptions = NO_OPTIONS) -> TextSource:
    """The corpus of a preset, carrying its name, licence and prompt; errors as of `open_corpus`.

    What `options` say comes before what the preset says.
    """
    ours = {name: getattr(preset, name, None) for name in vars(options)}
    given = {name: value for name, value in vars(options).items() if value is not None}
    source = open_spec(preset.spec, CorpusOptions(**{**ours, **given}))
    carried = {"preset": preset.name, "licence": preset.licence, "default_prompt": preset.prompt}
    return replace(source, **carried)  # type: ignore[type-var]


def add_presets(file: str | Path) -> tuple[str, ...]:
    """Keep the presets of a JSON file among the user's; their names, in the file's order.

    The file holds one preset, or {"presets": [...]}. A user's preset of the same name is
    replaced. Relative paths are taken from the file's folder. UsageError, and nothing is kept,
    where a field is wrong or missing, or a name is a shipped one's.
    """
    path = Path(file)
    new = read_presets(path)
    for name in new:
        if name in _shipped():
            raise UsageError(
                f"{path} defines {name!r}, which is shipped with bliss",
                "a name of your own",
                "Rename it in the file",
            )
    kept = {name: asdict(each) for name, each in {**_added(), **new}.items()}
    write_json(user_file(), {"presets": list(kept.values())})
    return tuple(new)


def user_file() -> Path:
    """Where the user's presets are kept."""
    return settings_folder() / USER_FILE


def settings_folder() -> Path:
    """Where the user's own files are kept: BLISS_CONFIG, or in the system's settings folder."""
    given, settings = os.environ.get("BLISS_CONFIG"), os.environ.get("XDG_CONFIG_HOME")
    return Path(given) if given else Path(settings or home_folder(".config")) / "bliss-audit"


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Preset]:
    return read_presets(SHIPPED)


def _added() -> dict[str, Preset]:
    return read_presets(user_file()) if user_file().is_file() else {}


def read_presets(path: Path) -> dict[str, Preset]:
    """The presets of a file by name; UsageError naming file, preset and field."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BlissError(
            f"{path} could not be read ({reason})",
            'JSON: a preset, or {"presets": [...]}',
            "Correct the file",
        ) from error
    listed = content.get("presets", [content]) if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UsageError(
            f"{path} holds no presets", 'a preset, or {"presets": [...]}', "Correct the file"
        )
    found: dict[str, Preset] = {}
    for number, each in enumerate(listed, 1):
        preset = _preset(each, f"preset {number} of {path}", path.parent)
        if preset.name in found:
            raise UsageError(
                f"{path} defines {preset.name!r} twice", "each name once", "Rename one of them"
            )
        found[preset.name] = preset
    return found


def _preset(given: Mapping[str, Any], where: str, folder: Path) -> Preset:
    """One checked preset; UsageError naming the field that is wrong and what it needs."""
    known = [field.name for field in fields(Preset)]
    for name in given:
        if name not in known:
            raise _wrong(where, f"has a field {name!r}", f"only {', '.join(known)}")
    for name in _REQUIRED:
        if name not in given:
            raise _wrong(where, f"has no {name}", f"the fields {', '.join(_REQUIRED)}")
    made = {name: value for name, value in given.items() if value is not None}
    for name in (*_REQUIRED, *_TEXT):
        value = given[name] if name in _REQUIRED else made.get(name, "")
        if not isinstance(value, str) or (name in _REQUIRED and not value.strip()):
            raise _wrong(where, f"has the {name} {value!r}", "text")
    if not _NAME.fullmatch(made["name"]):
        needed = "lower-case letters, digits, - and _"
        raise _wrong(where, f"has the name {made['name']!r}", needed)
    texts = made.get("texts", 0)
    if type(texts) is not int or texts < 0:
        raise _wrong(where, f"has texts {texts!r}", "a whole number, about how many there are")
    languages = made.get("languages", [])
    if not isinstance(languages, list) or not all(isinstance(each, str) for each in languages):
        raise _wrong(where, f"has the languages {languages!r}", 'a list such as ["en"]')
    if not isinstance(made.get("checked", False), bool):
        raise _wrong(where, f"has checked {made['checked']!r}", "true or false")
    check_prompts((made.get("prompt", CAPTION_PROMPT),))
    made["spec"] = _absolute(made["spec"], where, folder)
    return Preset(**{**made, "languages": tuple(languages)})


def _absolute(spec: str, where: str, folder: Path) -> str:
    """A spec that means the same in every folder."""
    if spec in NAMED or HUB_SPEC.fullmatch(spec) or is_remote(spec):
        return spec
    if spec.startswith("hf:"):
        raise _wrong(where, f"has the spec {spec!r}", "hf:owner/name")
    return str((folder / Path(spec).expanduser()).absolute())


def _wrong(where: str, given: str, needed: str) -> UsageError:
    return UsageError(f"{where} {given}", needed, "Correct that field")


__all__ = ["JSON", "CorpusOptions", "TextBatch", "TextSource", "batch_values", "open_corpus"]


@checked
def open_corpus(spec: str | os.PathLike[str], options: CorpusOptions = NO_OPTIONS) -> TextSource:
    """Open the corpus that `spec` names; `opening.ACCEPTED_SPECS` lists the accepted forms.

    A preset's name comes before a file of that name, which can be given as ./NAME or a Path; what
    `options` leave out is then as the preset says. UsageError where nothing fits `spec`, the
    column, config or split is not there, or an option does not apply; BlissError where the data
    cannot be read or reached.
    """
    preset = preset_named(spec) if isinstance(spec, str) else None
    if preset is not None:
        return open_preset(preset, options)
    return open_spec(os.fspath(spec), options)
