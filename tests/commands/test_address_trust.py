"""Addresses that artefacts name: contacted only where the user has named them."""

from __future__ import annotations

import json
import os
import shlex
import shutil

import pytest
from blissaudit.audit.report.page import save_report
from blissaudit.corpora import trust
from blissaudit.errors import AddressNotNamed

REPOSITORY = "hf:stranger/pictures"


@pytest.fixture
def unknown(tmp_path, monkeypatch):
    """The list of a user who has named no address, as a path."""
    monkeypatch.setenv("BLISS_CONFIG", str(tmp_path / "settings"))
    monkeypatch.setattr(trust, "_named_here", set())
    return tmp_path / "settings" / trust.ADDRESS_LIST


def naming(run, target, images=None, reference=None):
    """A copy of a run that names other collections."""
    shutil.copytree(run, target)
    facts = json.loads((target / "run.json").read_text())
    for name, value in (("images", images), ("reference", reference)):
        if value is not None:
            facts["request"][name] = value
    (target / "run.json").write_text(json.dumps(facts))
    for name in ("report.html", "groups.json"):
        (target / name).unlink(missing_ok=True)
    manifest = target / "images" / "manifest.json"
    described = {**json.loads(manifest.read_text()), "collection": "image-tars"}
    manifest.write_text(json.dumps(described))
    return target


def test_no_command_contacts_an_address_that_only_a_run_names(
    commands, hub, made, collection, tmp_path
):
    refused, served, runs = [], [], []
    for number, place in enumerate((REPOSITORY, f"{hub.url}/a.tar", "s3://bucket/a.parquet")):
        root = tmp_path / str(number)
        run = naming(made / "run", root / "run", images=place)
        by_reference = naming(made / "run", root / "other", reference=place)
        saved = root / "saved"
        refused += [
            (("report", run), run, place),
            (("report", by_reference), by_reference, place),
            (("export", run, "--save-to-disk", saved), run, place),
            (("apply", root / "decisions.json", "--run", run, "--copy", saved), run, place),
        ]
        served += [("find", run, "--image", "boat/1.png"), ("diff", run, made / "run")]
        runs.append((run, saved))
    before = list(hub.requests)
    answers = commands([*(line for line, *_ in refused), *served], AWS_ENDPOINT_URL=hub.url)
    for (command, named, place), answer in zip(refused, answers, strict=False):
        again = shlex.join(["bliss", *map(str, command), "--allow-address", place])
        assert answer.code == 2, (command, answer)
        assert f"{named} names the address {place}, which you have not named" in answer.err
        assert answer.err.endswith(f"If you trust it, run: {again}\n"), answer.err
    for command, answer in zip(served, answers[len(refused) :], strict=True):
        assert answer.code == 0, (command, answer)
    assert hub.requests == before
    for run, saved in runs:
        assert not (run / "report.html").exists() and not (run / "groups.json").exists()
        assert not saved.exists()


def test_an_address_that_was_named_is_contacted_and_remembered(commands, hub, made, tmp_path):
    place = f"{hub.url}/named.tar"
    run = naming(made / "run", tmp_path / "run", images=place)
    (named,) = commands([("report", run, "--allow-address", place)])
    assert named.code == 0, named.err
    assert any("/named.tar" in line for line in hub.requests)
    asked = len(hub.requests)
    remembered, wrong = ("report", run), ("report", run, "--allow-address", str(tmp_path))
    later, other = commands([remembered, wrong])
    assert later.code == 0, later.err
    assert len(hub.requests) > asked
    assert other.code == 2
    assert "Needed: an address, such as hf:owner/name" in other.err


def test_an_evaluation_contacts_no_address_of_its_file(commands, hub, made, collection, tmp_path):
    facts = json.loads((made / "eval" / "eval.json").read_text())
    path = tmp_path / "eval.json"
    places = {"test": f"{hub.url}/test.tar", "reference": REPOSITORY, "preset": "paper"}
    places["ood"] = [f"far={collection}", f"near={hub.url}/near.tar"]
    places["index"] = [str(made / "index"), f"{hub.url}/index"]
    path.write_text(json.dumps({**facts, "asked": {**facts["asked"], **places}}))
    command = ("eval", "--from", str(path), "-o", str(tmp_path / "out"))
    hub.requests.clear()
    (refused,) = commands([command])
    assert refused.code == 2, refused
    assert hub.requests == []
    again = shlex.split(refused.err.rpartition("run: ")[2])
    assert again[: len(command) + 1] == ["bliss", *command]
    repeated = again[len(command) + 1 :]
    for option in ("test", "reference"):
        assert repeated[repeated.index(f"--{option}") + 1] == places[option]
    assert [w for n, w in enumerate(repeated) if repeated[n - 1] == "--ood"] == places["ood"]
    assert [w for n, w in enumerate(repeated) if repeated[n - 1] == "--index"] == places["index"]
    (answer,) = commands([again[1:]])  # the whole command, as it was printed
    assert "which you have not named" not in answer.err
    assert hub.requests


def test_in_python_the_call_is_said_and_local_places_need_none(made, tmp_path, unknown):
    run = naming(made / "run", tmp_path / "run", images=REPOSITORY)
    message = r"If you trust it, call blissaudit\.corpora\.trust\.remember_addresses\(\['hf:str"
    with pytest.raises(AddressNotNamed, match=message):
        save_report(run)
    local = naming(made / "run", tmp_path / "local", images=(tmp_path / "a.tar").as_uri())
    assert save_report(local).is_file()
    assert not unknown.exists()


def test_addresses_are_told_from_paths():
    there = ["hf:a/b", "https://host/x", "s3://b/x", "zip://a::https://host/x", "file://a::s3://b"]
    here = ["a.tar", "/a/b", "file:///a/b.tar", "C:/a", "hf-hub:a/b", "name=1", "https:/one"]
    assert trust.addresses_in([*here, *there]) == there
    assert trust.addresses_in(["--test=s3://b", "far=hf:a/b"]) == ["s3://b", "hf:a/b"]


def test_a_list_that_cannot_be_written_ends_no_run(unknown, bliss, made, tmp_path):
    unknown.parent.write_text("")
    run = naming(made / "run", tmp_path / "run", images="nowhere://x/a.tar")
    assert bliss("report", run).code == 2
    answer = bliss("report", run, "--allow-address", "nowhere://x/a.tar")
    assert answer.code == 0, answer.err
    assert "could not remember that you named this address: " in answer.err
    assert os.path.isfile(run / "report.html")
