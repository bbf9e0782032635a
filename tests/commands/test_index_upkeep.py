"""`bliss index remove` and `verify` from the command line: whole outputs, and what they change."""

import json
import re
import shutil

import pytest


@pytest.fixture
def copied(index, tmp_path):
    return shutil.copytree(index, tmp_path / "index")


def hits(bliss, folder, text, k=5):
    found = json.loads(bliss("index", "search", folder, "--text", text, "--top", k, "--json").out)
    return [hit["caption"] for hit in found]


def test_remove_dry_run_then_really_then_undo(bliss, copied, captions):
    lines = captions.read_text().splitlines()
    boats = [line for line in lines if "boat" in line.lower()]
    before = (copied / "manifest.json").read_bytes()
    dry = bliss("index", "remove", copied, "--contains", "BOAT", "--dry-run")
    head = f"{len(boats)} of 300 captions would be removed; {300 - len(boats)} stay\n"
    assert dry.code == 0 and dry.out.startswith(head)
    shown = re.findall("^  (.*)$", dry.out, flags=re.MULTILINE)
    assert shown and set(shown) <= set(boats)
    assert (copied / "manifest.json").read_bytes() == before
    assert boats[0] in hits(bliss, copied, boats[0], 3)
    done = bliss("index", "remove", copied, "--contains", "BOAT")
    assert (done.code, done.out) == (0, dry.out.replace("would be removed", "removed"))
    assert not any("boat" in hit for hit in hits(bliss, copied, boats[0], 20))
    info = bliss("index", "info", copied).out
    assert f"{300 - len(boats)} captions" in info
    assert f"{len(boats)} removed: contains 'BOAT'" in info
    assert "`bliss index verify` does that" in info
    undone = bliss("index", "remove", copied, "--undo", "last")
    assert undone.out == f"{len(boats)} captions are back; nothing is removed\n"
    for how in ("last", "all"):
        again = bliss("index", "remove", copied, "--undo", how)
        assert (again.code, again.out) == (0, "nothing to undo; nothing is removed\n")
    assert (copied / "manifest.json").read_bytes() == before


def test_each_condition_narrows_and_the_model_is_the_indexs(bliss, copied):
    first = hits(bliss, copied, "a red apple", 1)[0]
    near = ("index", "remove", copied, "--dry-run", "--like", first, "--above")
    counts = []
    for above in (-1, 0.5, 0.9, 0.999):
        outcome = bliss(*near, above)
        assert outcome.code == 0 and "model demo" in outcome.err
        counts.append(int(outcome.out.split()[0]))
    assert counts[0] == 300 and sorted(counts, reverse=True) == counts and counts[-1] >= 1
    source = json.loads((copied / "manifest.json").read_text())["sources"][0]["name"]
    both = bliss(*near, -1, "--caption", "^a picture", "--source", source)
    assert 0 < int(both.out.split()[0]) < 300
    other = bliss(*near, 0.5, "--source", "elsewhere")
    assert (other.code, other.out) == (2, "")
    assert f"has no source 'elsewhere'. Needed: one of {source}." in other.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing says which captions are meant"),
        (("--caption", "("), "--caption '(' is no pattern (missing ): (). Needed: a regular"),
        (("--undo", "all", "--contains", "a"), "--undo was given with captions to remove"),
        (("--contains", "a", "--like", "b"), "--like was given without --above"),
        (("--contains", "no such text"), "none of the 300 captions of"),
        (("--caption", "."), "all 300 captions of"),
    ],
)
def test_requests_that_cannot_be_met(bliss, copied, options, words):
    before = {path: path.read_bytes() for path in copied.rglob("*.*")}
    outcome = bliss("index", "remove", copied, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err
    assert {path: path.read_bytes() for path in copied.rglob("*.*")} == before


def test_captions_cannot_write_to_the_terminal(bliss, tmp_path, write_embeddings):
    import numpy as np

    source = write_embeddings(
        tmp_path / "s", np.eye(3, dtype=np.float32), ["ok", "\u202ered", "evil\u200b"]
    )
    assert bliss("index", "build", "--embeddings", source, "-o", tmp_path / "i").code == 0
    outcome = bliss("index", "remove", tmp_path / "i", "--caption", "e", "--dry-run")
    assert "  \\u202ered\n  evil\\u200b\n" in outcome.out
    named = bliss("index", "remove", tmp_path / "i", "--contains", "\u202ered")
    assert named.code == 0
    assert "contains '\\u202ered'" in bliss("index", "info", tmp_path / "i").out


def test_the_same_removal_again_after_a_kill_past_its_commit_succeeds(bliss, copied):
    command = ("index", "remove", copied, "--contains", "boat")
    assert bliss(*command).code == 0
    before = (copied / "manifest.json").read_bytes()
    again = bliss(*command)
    assert (again.code, again.out) == (
        0, "nothing changed: these captions were removed before\n",
    )  # fmt: skip
    assert (copied / "manifest.json").read_bytes() == before


def test_verify_prints_a_line_for_each_check(bliss, copied):
    assert bliss("index", "remove", copied, "--contains", "boat").code == 0
    outcome = bliss("index", "verify", copied, "--embed", 7)
    assert outcome.code == 0
    shown = re.sub(r"[\d.]+ MB", "… MB", outcome.out)
    removed = shown.split("removed: ")[1].split()[0]
    assert shown == (
        "ok       manifest: 5 files listed\n"
        "ok       files: 6 there\n"
        "ok       checksums: 5 files, … MB\n"
        "ok       vectors and captions: 300 rows of 1 part\n"
        f"ok       removed: {removed} rows removed, in 1 step\n"
        "ok       embeddings: 7 captions embedded again\n"
        f"{copied} is whole\n"
    )
    vectors = copied / "text_emb" / "text_emb_0.npy"
    vectors.write_bytes(vectors.read_bytes()[:-9])
    (copied / "removed.npy").unlink()
    outcome = bliss("index", "verify", copied)
    assert outcome.code == 1
    assert outcome.out.splitlines()[2:] == [
        f"PROBLEM  checksums: {copied}/removed.npy is missing. Restore it from a backup or "
        "`bliss index pull` the index again.",
        f"PROBLEM  checksums: {vectors} does not match the checksum in its manifest. Run the same "
        "`bliss index build` with --repair: it makes part 0 again.",
        "ok       vectors and captions: 0 rows of 0 parts",
        f"PROBLEM  removed: {copied}/removed.npy is missing. Restore it from a backup or build "
        "the folder again.",
    ]
    assert outcome.err.endswith(
        f"\nbliss: {copied} has 3 problems. Needed: an index as bliss wrote it. Follow the "
        "remedies above.\n"
    )


def test_upkeep_of_an_address_or_of_nothing(bliss, tmp_path):
    for command in (("remove", "--contains", "a"), ("verify",)):
        remote = bliss("index", command[0], "s3://bucket/index", *command[1:])
        assert remote.code == 2
        assert "s3://bucket/index is not a folder on this machine" in remote.err
        nothing = bliss("index", command[0], tmp_path / "no", *command[1:])
        assert nothing.code == 1 and "no does not exist" in nothing.out + nothing.err
        assert not (tmp_path / "no").exists()


def test_add_from_the_command_line(bliss, copied, tmp_path, captions):
    (tmp_path / "more.txt").write_text(
        captions.read_text().splitlines()[0] + "\na kite over the sea\n\n"
    )
    command = ("index", "add", copied, tmp_path / "more.txt")
    outcome = bliss(*command, "--licence", "CC0", "--batch-size", 8)
    assert outcome.code == 0 and "model demo" in outcome.err
    rest = (
        f"{copied} has 301\n"
        "3 texts read, dropped: 1 duplicate, 1 empty\n"
        "duplicates are of one another, or of captions the index has or had\n"
    )
    assert outcome.out == f"1 caption added: {rest}"
    assert hits(bliss, copied, "a kite over the sea", 1) == ["a kite over the sea"]
    again = bliss(*command, "--licence", "CC0")
    assert again.out == f"1 caption had been added before: {rest}"
    assert bliss("index", "verify", copied, "--embed", 301).code == 0
    sources = json.loads((copied / "manifest.json").read_text())["sources"]
    assert [source["licence"] for source in sources] == [None, "CC0"]
    model = bliss(*command, "--model", "ViT-B-32", "--pretrained", "nowhere")
    assert (model.code, model.out) == (2, "")
    removed = bliss("index", "remove", copied, "--source", "more.txt")
    assert removed.out == (
        "1 of 301 captions removed; 300 stay\nall of them:\n  a kite over the sea\n"
    )


def test_what_add_and_repair_cannot_do(bliss, copied, captions, tmp_path):
    for words, options in (
        ("neither of CORPUS and --embeddings", ()),
        ("both of CORPUS and --embeddings", (captions, "--embeddings", tmp_path)),
        ("prompts were given with --embeddings", ("--embeddings", tmp_path, "--prompt", "{}")),
        ("every caption given is already in", (captions,)),
    ):
        outcome = bliss("index", "add", copied, *options)
        assert (outcome.code, outcome.out) == (2, "") and words in outcome.err
    build = ("index", "build", captions, "--model", "demo", "-o", copied)
    whole = (copied / "text_emb" / "text_emb_0.npy").read_bytes()
    (copied / "text_emb" / "text_emb_0.npy").write_bytes(whole[:-1])
    assert bliss(*build).code == 1
    assert bliss(*build, "--repair").code == 0
    assert (copied / "text_emb" / "text_emb_0.npy").read_bytes() == whole
