"""Indexes pushed to a folder that plays the hub and pulled from it; the real client, offline."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from blissaudit.corpora.registry import open_corpus
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.add import add_captions
from blissaudit.indexer.build.build import IndexOptions, build_index
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store import hub as hub_index
from blissaudit.indexer.store.hub import index_card, pull_index, push_index
from blissaudit.indexer.store.stored_rows import remove_rows, restore_rows

NAME = "me/captions"


def quiet(what, done, total):
    pass


def build(small, root, licences=("CC BY 4.0",)):
    (root / "c.txt").write_text("\n".join(f"caption {n}" for n in range(10)))
    options = IndexOptions(part_rows=4, licences=licences)
    return build_index(
        open_corpus(str(root / "c.txt")), small.small_encoder(), root / "index", options
    ).folder


@pytest.fixture
def folder(small, tmp_path):
    return build(small, tmp_path)


@pytest.fixture
def hub(load_test_file, tmp_path, monkeypatch):
    made = load_test_file("hub_folder").HubFolder(tmp_path / "hub")
    monkeypatch.setattr(hub_index, "hub_api", lambda: made)
    return made


def shown(folder):
    index = open_index(folder)
    return index.captions_of(np.arange(index.count))


def bytes_of(folder, small):
    return small.files_of(folder)


def test_there_and_back_again_is_the_same_bytes(folder, small, hub, tmp_path):
    remove_rows(folder, np.array([3]), {"contains": "3"})
    address = push_index(folder, NAME, False, False, quiet)
    assert address == "https://hub/datasets/me/captions" and hub.private is True
    names = {*bytes_of(folder, small), "README.md"}
    assert set(hub.files()) == names and len(hub.commits) == 1
    pulled = pull_index(NAME, tmp_path / "deep" / "copy", None, quiet)
    assert bytes_of(pulled.folder, small) == bytes_of(folder, small)
    assert shown(pulled.folder) == shown(folder)
    left = sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert left == ["copy"]
    again = pull_index(NAME, tmp_path / "deep" / "copy", None, quiet)
    assert again.count == 9
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["copy"]


def test_a_later_push_replaces_what_changed_and_a_revision_can_be_asked_for(
    folder, small, hub, tmp_path
):
    remove_rows(folder, np.array([3]), {"contains": "3"})
    push_index(folder, NAME, False, False, quiet)
    hub.put({**{n: p.read_bytes() for n, p in hub.files().items()}, "picture.png": b"mine"})
    restore_rows(folder, last_only=True)
    (tmp_path / "more.txt").write_text("more\n")
    add_captions(folder, [open_corpus(str(tmp_path / "more.txt"))], small.small_encoder())
    push_index(folder, NAME, False, False, quiet)
    assert "removed.npy" not in hub.files() and "picture.png" in hub.files()
    assert pull_index(NAME, tmp_path / "new", None, quiet).count == 11
    assert not (tmp_path / "new" / "picture.png").exists()
    assert pull_index(NAME, tmp_path / "old", "commit-0", quiet).count == 9
    with pytest.raises(UsageError, match=r"new holds something else\. Needed: a new folder"):
        pull_index(NAME, tmp_path / "new", "commit-0", quiet)
    with pytest.raises(BlissError, match=r"captions could not be reached \(LookupError: 404 Clie"):
        pull_index(NAME, tmp_path / "x", "commit-7", quiet)


def test_captions_of_unknown_licence_are_published_only_by_a_word(small, hub, tmp_path):
    folder = build(small, tmp_path, licences=())
    with pytest.raises(UsageError, match=r"the licence of c\.txt is not known.*without --public"):
        push_index(folder, NAME, True, False, quiet)
    assert hub.private is None
    push_index(folder, NAME, True, True, quiet)
    assert hub.private is False
    with pytest.raises(UsageError, match=r"me/captions is public\. Needed: a private repository"):
        push_index(folder, NAME, False, False, quiet)
    other = type(hub)(tmp_path / "other")
    hub.__dict__.update(other.__dict__)
    push_index(folder, NAME, False, False, quiet)
    assert hub.private is True


def test_what_is_not_pushed(folder, small, hub, tmp_path):
    for name in ("captions", "a/b/c", "../captions", "me/", "me/x y", "hf:me/x"):
        with pytest.raises(UsageError, match=r"names no repository\. Needed: owner/name"):
            push_index(folder, name, False, False, quiet)
    hub.private = True
    hub.put({"train.csv": b"a"})
    with pytest.raises(UsageError, match=r"me/captions holds other files \(train\.csv\)"):
        push_index(folder, NAME, False, False, quiet)
    vectors = folder / "text_emb/text_emb_1.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    (folder / "virus.pkl").write_bytes(b"x")
    with pytest.raises(BlissError, match=r"is not whole: virus\.pkl is not of the ind"):
        push_index(folder, NAME, False, False, quiet)
    assert hub.calls == [] and len(hub.commits) == 1


def test_a_line_that_goes_dead_leaves_what_was_there_and_the_same_command_goes_on(
    folder, small, hub, tmp_path
):
    hub.broken = "text_emb/text_emb_2.npy"
    with pytest.raises(BlissError, match=r"be reached \(ConnectionError: the line went dead\)"):
        push_index(folder, NAME, False, False, quiet)
    assert hub.commits == []
    hub.broken = None
    push_index(folder, NAME, False, False, quiet)
    hub.broken = "metadata/metadata_1.parquet"
    with pytest.raises(BlissError, match=r"be reached \(ConnectionError: the line went dead\)"):
        pull_index(NAME, tmp_path / "copy", None, quiet)
    assert not (tmp_path / "copy").exists() and (tmp_path / ".copy.pulling").is_dir()
    hub.broken = None
    pull_index(NAME, tmp_path / "copy", None, quiet)
    assert bytes_of(tmp_path / "copy", small) == bytes_of(folder, small)
    assert not (tmp_path / ".copy.pulling").exists()


def repository(folder, hub, **changes):
    """A commit of the index with some files, or fields of its manifest, changed."""
    files = {name: path.read_bytes() for name, path in hub.files().items()}
    for name, data in changes.pop("files", {}).items():
        files[name] = data
    manifest = {**json.loads(files["manifest.json"]), **changes}
    hub.put({**files, "manifest.json": json.dumps(manifest).encode()})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"files": {"text_emb/text_emb_0.npy": b"x"}}, r"in me/captions is damaged: .*text_emb_0"),
        ({"count": 7}, r"is damaged: .*'count' is 7 and the parts hold 10 rows"),
        ({"kind": "reference"}, r"me/captions holds no caption index: .*is a reference folder"),
        (
            {"checksums": {"../../evil": "0" * 64}},
            r"me/captions lists '\.\./\.\./evil'\. Nee",
        ),
        ({"checksums": {"/etc/passwd": "0" * 64}}, r"lists '/etc/passwd'"),
        ({"checksums": {"model.pkl": "0" * 64}}, r"lists 'model\.pkl'\. Needed: only files that a"),
        ({"checksums": {"metadata/*.parquet": "0" * 64}}, r"lists 'metadata/\*\.parquet'"),
        ({"checksums": {}}, r"is damaged: .*it does not list captions/captions_0\.bin"),
    ],
)
def test_a_repository_that_is_no_sound_index_is_not_pulled(folder, hub, tmp_path, changes, match):
    push_index(folder, NAME, False, False, quiet)
    repository(folder, hub, **changes)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(BlissError, match=match):
        pull_index(NAME, tmp_path / "copy", None, quiet)
    new = {path.name for path in set(tmp_path.rglob("*")) - before}
    assert new <= {".copy.pulling", "manifest.json"}


def test_a_repository_without_an_index_and_a_taken_target(folder, hub, tmp_path):
    hub.private = True
    hub.put({"README.md": b"nothing"})
    with pytest.raises(BlissError, match=r"me/captions holds no manifest\.json"):
        pull_index(NAME, tmp_path / "copy", None, quiet)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine holds something else"):
        pull_index(NAME, tmp_path / "mine", None, quiet)
    assert hub.calls == []


def test_the_card_shows_the_captions_to_datasets_and_no_markup_of_others(folder, hub, tmp_path):
    push_index(folder, NAME, False, False, quiet)
    code = (
        "import sys, datasets; found = datasets.load_dataset(sys.argv[1])['train'];"
        "print(found.column_names, len(found), found[0]['caption'], found[0]['licence'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(hub.root / hub.commits[-1])],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )
    assert done.stdout.strip() == (
        "['caption', 'source_row', 'source', 'licence'] 10 caption 0 CC BY 4.0"
    ), done.stderr
    manifest = json.loads((folder / "manifest.json").read_text())
    card = hub.files()["README.md"].read_text()
    assert card == index_card(manifest, NAME)
    assert 'license: "cc-by-4.0"' in card and 'size_categories: ["n<1K"]' in card
    assert "| c.txt | CC BY 4.0 | 10 | &#123;&#125; |" in card
    hostile = {**manifest["sources"][0], "name": "a|b\n# <script>x</script> [l](j)", "rows": 3}
    card = index_card({**manifest, "sources": [hostile, manifest["sources"][0]]}, NAME)
    assert "<script" not in card and "[l]" not in card and "\n# &" not in card
    unknown = {**hostile, "licence": None}
    assert 'license: "unknown"' in index_card({**manifest, "sources": [unknown]}, NAME)
    other = {**hostile, "licence": "see their page"}
    assert 'license: "other"' in index_card({**manifest, "sources": [other]}, NAME)


def test_from_the_command_line(bliss, folder, hub, tmp_path):
    done = bliss("index", "push", folder, NAME)
    assert (done.code, done.out) == (
        0,
        "10 captions are at https://hub/datasets/me/captions, private\n"
        "get them with: bliss index pull me/captions DIR\n",
    )
    pulled = bliss("index", "pull", NAME, tmp_path / "copy", "--revision", "commit-0")
    assert pulled.code == 0
    assert pulled.out.startswith(f"{tmp_path}/copy: 10 captions, small, 16 dimensions")
    refused = bliss("index", "push", folder, NAME, "--public")
    assert refused.code == 0 and "public" in refused.out
    shutil.rmtree(tmp_path / "copy")
    bad = bliss("index", "pull", NAME, tmp_path / "copy", "--revision", "commit-9")
    assert bad.code == 1 and "(LookupError: 404 Client Error. Revision Not Found" in bad.err


@pytest.mark.parametrize("words", [("push", "FOLDER", NAME), ("pull", NAME, "copy")])
def test_no_hub_is_one_message_with_the_reason(folder, tmp_path, words):
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_TOKEN": "none",
        "HF_HOME": str(tmp_path / "home"),
    }
    command = [str(folder) if word == "FOLDER" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "blissaudit", "index", *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert "bliss: me/captions could not be reached (" in done.stderr
    assert "the network and your login" in done.stderr
    assert not (tmp_path / "copy").exists() and not (tmp_path / ".copy.pulling").exists()
