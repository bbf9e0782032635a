"""`bliss corpora`: what each command prints, whole; and presets where a corpus is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LIST = """\
name                       texts  languages   licence                          good for
imagenet-1k                1,000  en          MIT (open_clip's list)           quick checks, objects
imagenet-21k              40,742  en          WordNet licence; timm's cop…     names of things, from animals to tools; no scenes
paper-dictionary           1,860  en          WordNet licence; timm's cop…     repeating the BLISS paper
coco-captions            591,753  en          none on the card; CC BY 4.0…  *  everyday scenes and what people and things do in them
flickr30k                158,915  en          none on the card; its autho…  *  people and what they do
flickr8k                  30,000  en          none on the card              *  small tests with people and animals
cc3m                   3,318,333  en          Conceptual Captions licence…  *  web pictures of every kind, names replaced by kinds
cc12m                 12,423,374  en          Conceptual 12M licence: any…  *  web pictures of every kind, rare things too
sbu-captions           1,000,000  en          unknown (as its card says)    *  holiday and home photographs, in their owners' words
redcaps                1,290,000  en          CC BY 4.0                     *  everyday things people share: pets, crafts, food, plants
datacomp              12,800,000  many        CC BY 4.0                     *  unfiltered web text in many languages, products above all
openimages-labels         20,931  en          CC BY 4.0                     *  names of things, parts, materials and activities
roco                      59,962  en          CC BY-NC-SA 4.0               *  radiology: X-ray, CT, MRI, ultrasound
rsicd                     43,670  en          none on the card              *  satellite and aerial pictures
flickr30k-quintets       158,915  en          MIT on the card, for the co…  *  people and what they do
localized-narratives              en          CC BY 4.0                     *  scenes described aloud, where things are in them
pixmo-cap                707,647  en          ODC-BY 1.0                    *  dense descriptions of web pictures
diffusiondb-prompts    2,000,000  en          CC0                           *  generated pictures
product-titles         2,027,874  en, es, ja  Apache-2.0                    *  products
multi30k-de               29,000  de          none on the card              *  people and what they do, in German

* coordinates not checked: as the corpus's own pages give them
"""  # noqa: E501

SHOW = """\
name       cc3m
corpus     hf:google-research-datasets/conceptual_captions (coordinates not checked)
config     unlabeled
split      train
column     caption
prompt     {}
texts      about 3,318,333
download   at most 374 MB, no images
languages  en
licence    Conceptual Captions licence: any use, with thanks to Google
good for   web pictures of every kind, names replaced by kinds
homepage   https://ai.google.com/research/ConceptualCaptions
note       As in a stored copy of its card.
"""

PEEK = """\
words.jsonl: 5 texts in the first 4 rows, and there are more
empty 1; repeated 25.0%; 5 to 44 characters

characters        texts
1 to 9                2  ██████████████████████████████
10 to 19              1  ███████████████
20 to 39              0
40 to 79              1  ███████████████
80 to 159             0
160 to 319            0
320 to 639            0
640 to 2,000          0
2,001 or more         0

letters: Latin 81.6%, Cyrillic 18.4%; ASCII 81.6%
language (a hint): English

  a cat
  the owner \\u202eof the dog is on the way to the c
  пять \\U000e0041 котов
"""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLISS_CONFIG", str(tmp_path / "settings"))
    return tmp_path / "settings"


def test_list_shows_every_preset_and_which_coordinates_were_not_checked(bliss):
    assert bliss("corpora", "list") == (0, LIST, "")
    listed = json.loads(bliss("corpora", "list", "--json").out)
    lines = LIST.splitlines()[1:21]
    assert [each["name"] for each in listed] == [line.split()[0] for line in lines]
    assert [each["checked"] for each in listed] == [" * " not in line for line in lines]


def test_show_says_all_there_is_to_know(bliss):
    assert bliss("corpora", "show", "cc3m") == (0, SHOW, "")
    shown = json.loads(bliss("corpora", "show", "sbu-captions", "--json").out)
    assert (shown["revision"], shown["texts"]) == (
        "c1a731839b5347effeb3064adc5484f21a38dd47",
        1_000_000,
    )
    outcome = bliss("corpora", "show", "cc4m")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("\nbliss: there is no preset 'cc4m'. Needed: one of imagenet-1k,")


def test_peek_counts_and_shows_untrusted_texts_harmlessly(bliss, tmp_path):
    rows = [
        ["a cat", "a  cat"],
        "the owner \u202eof the dog is on the way to the c",
        "пять \U000e0041 котов",
        "",
        "beyond the rows",
    ]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps({"caption": row}) + "\n" for row in rows))
    outcome = bliss("corpora", "peek", path, "--rows", 4)
    assert outcome == (0, PEEK, "")


def test_peek_as_json_and_its_options(bliss, tmp_path):
    (tmp_path / "a.csv").write_text("en,de\na dog \x1b[31m,ein Hund\nno,nein\n")
    found = json.loads(
        bliss("corpora", "peek", tmp_path / "a.csv", "--column", "de,en", "--json").out
    )
    assert found["examples"] == ["ein Hund", "a dog [31m", "nein", "no"]
    assert (found["corpus"], found["preset"], found["licence"]) == ("a.csv", None, None)
    assert (found["rows"], found["whole"], found["duplicates"]) == (2, True, 0)
    assert dict(zip(found["length_edges"], found["lengths"], strict=True))[10] == 1
    of_preset = json.loads(bliss("corpora", "peek", "imagenet-1k", "--rows", 2, "--json").out)
    assert (of_preset["preset"], of_preset["whole"]) == ("imagenet-1k", False)
    assert of_preset["examples"] == ["tench", "goldfish"]
    outcome = bliss("corpora", "peek", "imagenet-1k", "--rows", 0)
    assert outcome.code == 2
    assert outcome.err == "\nbliss: 0 rows were asked for. Needed: at least 1. Ask for more rows.\n"


def test_a_preset_that_was_added_is_listed_peeked_and_indexed(bliss, tmp_path, settings, captions):
    own = {
        "name": "own-words", "spec": str(captions), "licence": "CC0 \x1b[31m", "texts": 300,
        "prompt": "a picture of {}", "good_for": "tests",
    }  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(own))
    outcome = bliss("corpora", "add", tmp_path / "mine.json")
    assert outcome == (0, f"added own-words to {settings / 'corpora.json'}\n", "")
    line = bliss("corpora", "list").out.splitlines()[21]
    assert line.split() == ["own-words", "300", "CC0", "\\x1b[31m", "*", "tests"]
    assert bliss("corpora", "peek", "own-words").out.startswith("own-words: 300 texts in the first")
    folder = tmp_path / "index"
    built = bliss("index", "build", "own-words", "--model", "demo", "-o", folder)
    assert built.code == 0
    assert "prompts: a picture of {}\n" in built.out
    (source,) = json.loads((folder / "manifest.json").read_text())["sources"]
    assert (source["name"], source["licence"]) == ("own-words", own["licence"])
    given = bliss(
        "index", "build", "own-words", "--model", "demo", "-o", tmp_path / "b", "--prompt", "{}"
    )
    assert "prompts" not in given.out


def test_add_refuses_what_is_wrong_in_one_message(bliss, tmp_path, settings):
    (tmp_path / "mine.json").write_text('{"name": "cc3m", "spec": "a.txt", "licence": "CC0"}')
    outcome = bliss("corpora", "add", tmp_path / "mine.json")
    assert outcome == (
        2,
        "",
        f"\nbliss: {tmp_path}/mine.json defines 'cc3m', which is shipped with bliss. Needed: a "
        "name of your own. Rename it in the file.\n",
    )
    assert not settings.exists()


def test_an_audit_takes_a_preset_as_its_corpus(bliss, collection, tmp_path, captions):
    own = {"name": "own-words", "spec": str(captions), "licence": "CC0"}
    (tmp_path / "mine.json").write_text(json.dumps(own))
    assert bliss("corpora", "add", tmp_path / "mine.json").code == 0
    audit = ("audit", collection, "--model", "demo", "--report", "none")
    assert bliss(*audit, "--corpus", "own-words", "-o", tmp_path / "a").code == 0
    manifest = json.loads((tmp_path / "a" / "index" / "manifest.json").read_text())
    assert "captions.txt" in json.dumps(manifest)


def test_an_index_is_built_from_an_address_and_notices_another_content(bliss, captions, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/cli/captions.txt", captions.read_bytes())
    command = ("index", "build", "memory://cli/captions.txt", "--model", "demo", "-o")
    built = bliss(*command, tmp_path / "remote")
    assert built.code == 0
    assert "300 captions" in built.out
    assert bliss(*command, tmp_path / "remote").code == 0
    memory.pipe("/cli/captions.txt", captions.read_bytes() + b"one more\n")
    refused = bliss(*command, tmp_path / "remote")
    assert (refused.code, "sources[0].fingerprint differ" in refused.err) == (2, True)
    assert bliss(*command, tmp_path / "remote", "--overwrite").code == 0
    memory.rm("/cli", recursive=True)


def test_a_local_source_that_changed_after_an_index_was_built_is_noticed(bliss, captions, tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(captions.read_bytes())
    command = ("index", "build", copy, "--model", "demo", "-o", tmp_path / "out")
    assert bliss(*command).code == 0
    copy.write_bytes(copy.read_bytes().replace(b"a", b"o", 1))
    refused = bliss(*command)
    assert (refused.code, "sources[0].fingerprint differ" in refused.err) == (2, True)
