"""What all commands share: help in sections, removed options, --config, --json, --quiet, logs."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import click
import pytest
from blissaudit.audit.folder import current_names
from blissaudit.cli import bliss as root
from blissaudit.commands.option_types import ENGINE_NAME, FLAG_RULE, SEARCH_WORDS, limits
from blissaudit.commands.removed import REMOVED, translate


def commands(group: click.Group = root, path: str = "") -> dict[str, click.Command]:
    found = {}
    for name, command in group.commands.items():
        if command.hidden:  # it only names its successor
            continue
        inner = isinstance(command, click.Group)
        found |= commands(command, f"{path}{name} ") if inner else {f"{path}{name}": command}
    return found


EVERY = commands()


def options_of(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option)]


@pytest.mark.parametrize("name", EVERY)
def test_every_option_is_shown_in_a_section(name: str) -> None:
    options = options_of(EVERY[name])
    assert [option.opts for option in options if option.hidden] == []
    assert [option.opts for option in options if getattr(option, "group", None) is None] == []
    shared = {spelling for option in options for spelling in option.opts}
    assert shared >= {"--json", "--quiet", "--verbose", "--config"}


def test_audit_has_its_options_in_ten_sections(bliss) -> None:
    shown = bliss("audit", "--help").out
    titles = [line[:-1] for line in shown.splitlines() if line[:1].isalpha() and line[-1:] == ":"]
    assert titles == [
        "Images", "Captions", "Scoring", "Classes", "Search", "Flagging", "Model", "Engine",
        "Decoding", "Output", "Other options",
    ]  # fmt: skip
    assert len(options_of(EVERY["audit"])) + 1 <= 46  # and --help


def test_one_spelling_has_one_type_in_every_command() -> None:
    seen: dict[str, set] = {}
    for command in EVERY.values():
        for option in options_of(command):
            seen.setdefault(option.opts[-1], set()).add((option.is_flag, option.type.name))
    differing = {name: kinds for name, kinds in seen.items() if len(kinds) > 1}
    assert differing == {}


WHERE = {
    "--like": "find", "--images": "report", "--k": "find", "--calibration": "reference fit",
    "--kinds": "index tune", "--split": "index build", "--revision": "index build",
}  # fmt: skip
"""A command that had the option, where that is not `audit`."""


@pytest.mark.parametrize("option", REMOVED)
def test_a_removed_option_names_its_successor(bliss, option: str) -> None:
    entry = REMOVED[option]
    words = [option] if entry.is_flag else [option, "7"]
    outcome = bliss(*WHERE.get(option, "audit").split(), "x", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{' '.join(words)} was given, but is no longer an option" in outcome.err
    assert entry.successor in outcome.err
    if entry.value is not None:
        command = outcome.err.split("Run: bliss ")[1].strip().rstrip(".").split()
        assert option not in command
        name = WHERE.get(option, "audit")
        known = {
            spelling
            for each in options_of(EVERY[name])
            for spelling in (*each.opts, *each.secondary_opts)
        }
        assert {word for word in command if word.startswith("--")} <= known


def test_a_removed_command_names_its_successor(bliss) -> None:
    outcome = bliss("index", "merge", "a", "b", "--json")
    assert (outcome.code, outcome.out) == (2, "") and "--engine ray" in outcome.err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "x --search-set nprobe=4 --search-kind exact --search-device=cuda --search-shards",
            "x --search exact,nprobe=4,device=cuda,shards",
        ),
        ("--engine ray --ray-actors 2 --ray-address h:1", "--engine ray:h:1,actors=2"),
        ("--engine ray --ray-actors 2 -- --weight", "--engine ray,actors=2 -- --weight"),
        ("--empirical-null --fdr 0.2", "--flag empirical-null=0.2"),
        ("--fdr 0.2 --contamination 0.1", "--flag 0.1"),
        ("--head a --clipn b --weight=2", "--trained a --trained b --lambda 2"),
        ("--no-report --exclude-near-labels 0.9", "--report none --exclude near-labels=0.9"),
        ("--strict --max-failures=3", "--fail-on small-classes --fail-on unreadable=3"),
        ("--per-class", "--p-values per-class"),
    ],
)
def test_old_commands_are_translated(old: str, new: str) -> None:
    known = {spelling for each in options_of(EVERY["audit"]) for spelling in each.opts}
    assert translate(old.split(), known) == new.split()


def test_values_with_a_form_of_their_own() -> None:
    for text in ("exact", "IVF16,SQ8,nprobe=4", "nprobe=4,device=cuda:0,1,shards"):
        assert SEARCH_WORDS.text(SEARCH_WORDS.convert(text, None, None)) == text
    for text in ("local", "ray", "ray:auto", "ray:h:1,actors=2", "ray:actors=2"):
        assert str(ENGINE_NAME.convert(text, None, None)) == text
    for text, shown in (("7", "7"), ("5%", "5%"), ("0.05", "5%"), ("fdr=0.2", "fdr=0.2")):
        assert str(FLAG_RULE.convert(text, None, None)) == shown
    every = limits("flagged", "unreadable", "small-classes")
    for given in ((), ("unreadable=3",), ("flagged=0,unreadable=2", "small-classes")):
        assert str(every(None, None, given) or "") == ",".join(given)


def test_options_come_from_a_file_unless_they_are_given(bliss, collection, index, tmp_path) -> None:
    config = tmp_path / "bliss.toml"
    config.write_text(
        f'\ufeff[audit]\nindex = ["{index}"]\nlambda = 2.0\ntop = 1\nreport = "none"\n'
        f'output = "{tmp_path / "run"}"\n[index.build]\nmodel = "demo"\n'
    )
    done = bliss("audit", collection, "--config", config, "--json", "--top", 3)
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["worst"]) == 3
    request = json.loads((tmp_path / "run" / "run.json").read_text())["request"]
    assert (request["lambda"], request["index"]) == (2.0, [str(index)])
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[audit]\nlamda = 2", "sets 'lamda'. Needed: options of `audit`.*Did you mean 'lambda'"),
        ("[adit]\nk = 2", "has 'adit'. Needed: a table for a command.*Did you mean 'audit'"),
        ("[index.bild]\n", "has 'index.bild'"),
        ("k = 2", "has 'k'. Needed: a table for a command"),
        ("[audit]\nrobust = 3", "robust is 3. Needed: true or false"),
        ("[audit]\nk = true", "k is True. Needed: a text or a number"),
        ("[audit]\nk = [1, 2]", "k is .1, 2.. Needed: a text or a number"),
        ("[audit]\nk = 2.5", "'2.5' is not a valid integer"),
        ("[audit]\ntop = inf", "'inf' is not a valid integer"),
        ("[audit]\nlambda = 2026-01-02", "lambda is datetime.date.*Needed: a text or a number"),
        ("[audit]\nindex = [07:00:00]", "index is .datetime.time.*Needed: a text, a number, or a"),
        ("[audit]\nreport = 2.5", "--report '2.5' was given"),
        ("[audit]\nreport = 0", "--report '0' was given. Needed: how many images .* 1 or more"),
        ("[audit]\nreport = -5", "--report '-5' was given"),
        ("[audit]\nengine = 'ray:actors=0'", "--engine 'ray:actors=0' was given"),
        ("[audit]\nengine = 3", "--engine '3' was given"),
        ("[audit]\ntime-limit = nan", "a time limit of nan seconds was given"),
        ("[audit]\nweight = 2", "sets 'weight'"),
        ("[audit]\nallow-torchscript = true", "it lets weights run code"),
        ("[audit\n", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(bliss, tmp_path, content, message) -> None:
    import re

    config = tmp_path / "bliss.toml"
    config.write_text(content)
    outcome = bliss("audit", tmp_path, "--config", config)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.search(message, outcome.err), outcome.err


def test_a_model_that_only_a_file_names_is_not_loaded(bliss, collection, index, tmp_path) -> None:
    config = tmp_path / "bliss.toml"
    config.write_text('[audit]\nmodel = "hf-hub:some/body"\n')
    outcome = bliss("audit", collection, "--index", index, "--config", config, "-o", tmp_path / "o")
    assert outcome.code == 2 and f"{config} names" in outcome.err
    assert "--model hf-hub:some/body" in outcome.err


def test_commands_report_as_json(bliss, collection, index, tmp_path) -> None:
    def facts(*arguments: object):
        outcome = bliss(*arguments, "--json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    run = tmp_path / "run"
    assert bliss("audit", collection, "--index", index, "-o", run, "--report", "none").code == 0
    assert Path(facts("report", run)["report"]).stat().st_size == facts("report", run)["bytes"]
    fitted = facts("reference", "fit", "--embeddings", run / "images", "--index", index,
                   "--normal", "apple", "-o", tmp_path / "fit", "--model", "demo")  # fmt: skip
    assert fitted["images"] + fitted["held_out"] > 0 and fitted["classes"] == ["apple"]
    checks = facts("index", "verify", index)
    assert len(checks) > 3 and not any(check["problems"] for check in checks)
    where = ("index", "remove", index, "--contains", "boat", "--dry-run")
    assert facts(*where)["removed"] == 0 < facts(*where)["matching"]
    assert facts("export", run, "--save-to-disk", tmp_path / "set")["images"] == 26


def test_quiet_leaves_out_notes_and_progress_but_not_errors(bliss, collection, index, tmp_path):
    audit = ("audit", collection, "--index", index, "--report", "none", "-o")
    loud = bliss(*audit, tmp_path / "a")
    quiet = bliss(*audit, tmp_path / "b", "-q")
    assert loud.err.startswith("model demo") and quiet.err == ""
    assert quiet.out == loud.out.replace(str(tmp_path / "a"), str(tmp_path / "b"))
    assert "k = 0 was given" in bliss(*audit, tmp_path / "c", "-q", "--k", 0).err
    both = bliss(*audit, tmp_path / "c", "--quiet", "--verbose")
    assert both.code == 2 and "--quiet and --verbose were given" in both.err


@pytest.mark.parametrize(("name", "is_fault"), [(None, False), ("blissaudit", True)])
def test_a_library_that_does_not_load_is_no_error_of_bliss(bliss, monkeypatch, name, is_fault):
    def fail(*arguments, **options):
        raise ImportError("libx.so: failed to map segment", name=name)

    monkeypatch.setattr(root, "main", fail)
    done = bliss("corpora", "list")
    assert done.code == 1 and ("error in bliss itself" in done.err) == is_fault
    assert "libx.so: failed to map segment" in done.err


def test_libraries_write_to_the_terminal_only_with_verbose(bliss, monkeypatch) -> None:
    from blissaudit.corpora import registry

    own = registry.presets

    def noisy() -> dict:
        logging.getLogger("some.library").error("a library's error")
        logging.warning("a root warning")
        for _ in range(2):
            warnings.warn("a library's warning", stacklevel=1)
        return own()

    monkeypatch.setattr(registry, "presets", noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert bliss("corpora", "list").err == ""
        shown = bliss("corpora", "list", "--verbose").err
    assert "some.library: a library's error" in shown and "a root warning" in shown
    assert shown.count("UserWarning: a library's warning") == 1


def test_runs_of_earlier_versions_are_the_same_request(bliss, collection, index, tmp_path) -> None:
    run = tmp_path / "run"
    audit = ("audit", collection, "--index", index, "--report", "none", "-o", run)
    more = ("--search", "exact", "--class-prompt", "boat=a ship", "--exclude", "label-words")
    assert bliss(*audit, *more).code == 0
    facts = json.loads((run / "run.json").read_text())
    request = facts["request"]
    for name in ("search", "class_prompt", "exclude", "flag"):
        del request[name]
    request |= {"weight": request.pop("lambda"), "label": ["boat=a ship"], "fdr": 0.1}
    request |= {"search_kind": "exact", "exclude_label_words": True}
    (run / "run.json").write_text(json.dumps(facts))
    assert bliss(*audit, *more).code == 0
    (run / "run.json").write_text(json.dumps(facts))
    other = bliss(*audit, *more[:4], "--exclude", "near-labels=0.9")
    assert other.code == 2 and "(exclude differ)" in other.err


def test_names_of_earlier_versions_are_read_as_now() -> None:
    old = {
        "search_set": ["nprobe=4"], "search_device": "cuda:0,1", "search_shards": True,
        "head": "a", "clipn": "b", "weight": 0.0, "images": "hf:a/b", "images_split": "test",
        "images_revision": "v1", "corpus": "hf:c/d", "config": "en", "split": "train",
        "exclude_near_labels": 0.95,
    }  # fmt: skip
    new = {
        "search": "nprobe=4,device=cuda:0,1,shards", "trained": ["a", "b"], "lambda": 0.0,
        "images": "hf:a/b@v1:test", "corpus": "hf:c/d:en/train", "exclude": ["near-labels=0.95"],
    }  # fmt: skip
    assert current_names(old) == new == current_names(new)
