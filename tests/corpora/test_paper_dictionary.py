"""The paper's dictionary: 1,000 ImageNet synset strings, rebuilt from the data timm carries."""

import importlib.util
from pathlib import Path

import pytest
from blissaudit.corpora.captions import CaptionRules
from blissaudit.corpora.registry import CorpusOptions, open_corpus
from blissaudit.errors import BlissError, UsageError


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    info = Path(importlib.util.find_spec("timm").submodule_search_locations[0]) / "data" / "_info"
    lemmas = dict(
        line.split("\t")
        for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    )
    synsets = (info / "imagenet_synsets.txt").read_text().split()
    path = tmp_path_factory.mktemp("dictionary") / "imagenet.txt"
    path.write_text("\n".join(lemmas[synset] for synset in synsets) + "\n")
    return path


def test_raw_terms_are_the_published_1860_with_their_stray_spaces(dictionary, kept_captions):
    rules = CaptionRules(deduplicate=False)
    terms = kept_captions(open_corpus(f"paper-dictionary-raw:{dictionary}"), rules).captions
    assert len(terms) == 1860
    assert len({term.strip().lower() for term in terms}) == 1841
    assert sum(term.startswith(" ") for term in terms) == 860
    assert terms[:4] == ["tench", " Tinca tinca", "goldfish", " Carassius auratus"]


def test_stripped_terms_are_the_same_without_spaces(dictionary, kept_captions):
    rules = CaptionRules(deduplicate=False)
    raw = kept_captions(open_corpus(f"paper-dictionary-raw:{dictionary}"), rules)
    stripped = kept_captions(open_corpus(f"paper-dictionary:{dictionary}"), rules)
    assert stripped.captions == [term.strip() for term in raw.captions]
    assert stripped.rows.tolist() == raw.rows.tolist()
    assert stripped.rows[-1] == 999
    once = kept_captions(open_corpus(f"paper-dictionary:{dictionary}"))
    assert once.counts["kept"] == 1860 - once.counts["duplicate"] == len(set(stripped.captions))


@pytest.mark.parametrize("scheme", ["paper-dictionary", "paper-dictionary-raw"])
def test_without_a_path_the_dictionary_is_rebuilt(dictionary, kept_captions, scheme):
    rules = CaptionRules(deduplicate=False)
    given, built = open_corpus(f"{scheme}:{dictionary}"), open_corpus(scheme)
    ours, theirs = kept_captions(built, rules), kept_captions(given, rules)
    assert ours.captions == theirs.captions
    assert ours.rows.tolist() == theirs.rows.tolist()
    assert (built.spec, built.keeps_spaces) == (scheme, given.keeps_spaces)
    assert built.facts()["kind"] == "dictionary"
    with pytest.raises(UsageError, match="column given for 'paper-dictionary"):
        open_corpus(scheme, CorpusOptions(column="x"))


def test_without_timm_the_dictionary_must_be_given(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BlissError, match="paper-dictionary comes with timm, which is not installed"
    ):
        open_corpus("paper-dictionary")
