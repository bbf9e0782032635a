"""Lines of a key, a tab and a text: what is read, and what is refused."""

import pytest
from blissaudit.corpora.texts import CorpusOptions, open_corpus
from blissaudit.errors import BlissError, UsageError


def read(spec):
    return [
        (int(row), text)
        for batch in open_corpus(spec).batches(2)
        for row, text in zip(batch.rows, batch.texts, strict=True)
    ]


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("n1\tentity\nn2\tabstraction, abstract entity\nn3\ta\tb, c\nn4\t\n")
    return path


def test_keys_are_left_out_and_words_are_parted(lines):
    assert read(f"keyed-captions:{lines}") == [
        (0, "entity"),
        (1, "abstraction, abstract entity"),
        (2, "a\tb, c"),
        (3, ""),
    ]
    assert read(f"keyed-words:{lines}") == [
        (0, "entity"),
        (1, "abstraction"),
        (1, "abstract entity"),
        (2, "a\tb"),
        (2, "c"),
        (3, ""),
    ]


def test_facts_and_prompts(lines):
    words, captions = (open_corpus(f"keyed-{kind}:{lines}") for kind in ("words", "captions"))
    assert words.default_prompt == "This is a photo of a {label}"
    assert captions.default_prompt == "{}"
    assert captions.facts() == {
        "kind": "keyed-lines",
        "spec": "keyed-captions:lines.txt",
        "column": None,
        "config": None,
        "split": None,
        "revision": None,
        "fingerprint": words.facts()["fingerprint"],
    }
    before = words.facts()["fingerprint"]
    lines.write_text("n1\tentity\n")
    assert words.facts()["fingerprint"] != before


def test_what_is_no_such_file_is_refused(lines, tmp_path):
    lines.write_text("n1\tentity\nno tab here\n")
    with pytest.raises(BlissError, match=r"line 2 of .*lines\.txt has no tab\. Needed: a key, a t"):
        read(f"keyed-captions:{lines}")
    with pytest.raises(UsageError, match=r"keyed-words:.*none\.txt names no file"):
        open_corpus(f"keyed-words:{tmp_path / 'none.txt'}")
    with pytest.raises(
        UsageError, match=r"'keyed-words:' is not a text corpus: the file's path is"
    ):
        open_corpus("keyed-words:")
    with pytest.raises(UsageError, match=r"column given for 'keyed-words:.*no such option there"):
        open_corpus(f"keyed-words:{lines}", CorpusOptions(column="a"))
    (tmp_path / "wide.txt").write_bytes("n1\tentity\n".encode("utf-16"))
    with pytest.raises(BlissError, match=r"wide\.txt is not UTF-8: it starts like UTF-16"):
        open_corpus(f"keyed-captions:{tmp_path / 'wide.txt'}")
