"""Texts that are not embedded as they were written are counted and said."""

import json

import pytest


def source_of(folder):
    return json.loads((folder / "manifest.json").read_text())["sources"][-1]


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_undecodable_bytes_are_counted(bliss, tmp_path, name):
    head = b"caption\n" if name == "a.csv" else b""
    lines = [b"a caf\xe9 by day", b"a caf\xe8 by day", "a café by day".encode(), b"a dog"]
    (tmp_path / name).write_bytes(head + b"\n".join(lines) + b"\n")
    made = bliss("index", "build", tmp_path / name, "--model", "demo", "-o", tmp_path / "i")
    assert made.code == 0
    assert "2 texts with bytes that are not UTF-8, each now U+FFFD" in made.out
    source = source_of(tmp_path / "i")
    assert (source["undecodable"], source["counts"]["duplicate"]) == (2, 1)
    (tmp_path / name).write_bytes(head + b"a \xff cat on a wall\n")
    added = bliss("index", "add", tmp_path / "i", tmp_path / name, "--model", "demo")
    assert "1 text with bytes that are not UTF-8" in added.out, added
    assert source_of(tmp_path / "i")["undecodable"] == 1


def test_captions_beyond_the_token_limit_are_counted(bliss, tmp_path):
    (tmp_path / "a.txt").write_text("a dog\na cat\n")
    made = bliss("index", "build", tmp_path / "a.txt", "--model", "demo", "-o", tmp_path / "short")
    facts = json.loads((tmp_path / "short" / "manifest.json").read_text())
    assert facts["sources"][0]["truncated"] == 0 and "tokens" not in made.out
    limit = facts["model"]["context_length"]
    for words, cut in ((limit - 2, 0), (limit - 1, 1)):
        (tmp_path / "a.txt").write_text("a cat\n" + "dog " * words + "\n")
        folder = tmp_path / str(words)
        made = bliss("index", "build", tmp_path / "a.txt", "--model", "demo", "-o", folder)
        assert source_of(folder)["truncated"] == cut
        said = f"1 caption longer than the model's {limit} tokens: truncated"
        assert (said in made.out) == bool(cut)
    in_prompts = bliss(
        "index", "build", tmp_path / "a.txt", "--model", "demo", "-o", tmp_path / "p",
        "--prompt", "{}", "--prompt", "dog " * (limit - 3) + "{}",
    )  # fmt: skip
    assert f"2 captions longer than the model's {limit} tokens" in in_prompts.out
