"""The objects that options shared by commands stand for, made of what was given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from ..errors import BlissError, UsageError
from .options import say


def search_choice(given: dict[str, Any]) -> Any:
    """How the index is to be searched; as it says itself where a command has no such options."""
    from ..indexer.search.kinds import SearchChoice

    parameters = named_numbers("--search-set", given.get("search_set", ()))
    device, shards = given.get("search_device") or "cpu", given.get("search_shards", False)
    return SearchChoice(given.get("search_kind"), parameters or None, device, shards)


def open_given_index(given: dict[str, Any]) -> Any:
    """What --index names, several as one, to be searched as given.

    Where that is not as the indexes say themselves, it is said what it will take.
    """
    from ..indexer.search.index import open_indexes
    from ..indexer.search.kinds import OWN

    choice = search_choice(given)
    if choice != OWN:
        say_plans(given["index"], choice)
    return open_indexes(given["index"], choice)


def say_plans(folders: Sequence[str], choice: Any) -> None:
    """Where the vectors of each index will lie when it is searched, and what that takes."""
    from ..indexer.search.dispatch import describe_plan

    for folder in folders:
        say(describe_plan(folder, choice))


def named_numbers(option: str, pairs: Sequence[str]) -> dict[str, int]:
    """NAME=NUMBER options as a mapping."""
    numbers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value.isascii() and value.isdigit()):
            raise UsageError(
                f"{option} {pair!r} was given", "NAME=NUMBER", f"Write {option} nprobe=64"
            )
        numbers[name] = int(value)
    return numbers


def model_choice(given: dict[str, Any]) -> Any:
    """The model options as one choice; a foreign model that was typed is remembered.

    Raises ModelNotNamed for a foreign model that only the file of `--from` names.
    """
    from ..indexer.encode.encoder import DEFAULT_MODEL, ModelChoice
    from ..indexer.encode.trust import model_named_by, remember_model

    names = ("model", "pretrained", "device", "precision", "batch_size", "allow_torchscript")
    choice = ModelChoice(
        **{name: given[name] for name in names}, statistics=given.get("statistics")
    )
    source = click.get_current_context().get_parameter_source
    given_in = [source(name) for name in ("model", "pretrained") if given[name] is not None]
    if ParameterSource.DEFAULT_MAP in given_in:
        named = {"model": choice.model or DEFAULT_MODEL, "pretrained": choice.pretrained}
        return model_named_by(choice, named, "the evaluation to repeat", file="the file")
    if ParameterSource.COMMANDLINE in given_in:
        try:
            remember_model(choice.model, choice.pretrained)
        except BlissError as error:
            say(f"the model named is not remembered: {error}")
    return choice


def check_repeated_addresses(given: dict[str, Any]) -> None:
    """AddressNotNamed where only the file of `--from` names an address to read from."""
    from ..corpora.trust import addresses_in, is_named, not_named

    context, unnamed, again = click.get_current_context(), [], []
    for option in context.command.params:
        value = given.get(option.name or "")
        if context.get_parameter_source(option.name or "") != ParameterSource.DEFAULT_MAP:
            continue
        words = [value] if isinstance(value, str) else list(value or ()) if option.multiple else []
        found = [each for each in addresses_in(words) if not is_named(each)]
        if found:
            unnamed += found
            again += [part for word in words for part in (option.opts[0], word)]
    if unnamed:
        raise not_named(unnamed, "the evaluation to repeat", again)


def ray_engine(given: dict[str, Any]) -> Any:
    """What the engine options say: a RayEngine, or None for this process."""
    if given["engine"] == "ray":
        from ..distributed.engine import RayEngine

        return RayEngine(model_choice(given), given["ray_address"], given["ray_actors"])
    for name in ("ray_address", "ray_actors"):
        if given[name] is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} was given without --engine ray", "both", "Add --engine ray")
    return None


def no_prompts(given: dict[str, Any]) -> Any:
    """What --clipn names: from prompt texts and a model's facts to "no" vectors; or None."""
    if given["clipn"] is None:
        return None
    from ..training.clipn_folder import open_clipn
    from ..training.clipn_tower import NoPromptEncoder

    return NoPromptEncoder(open_clipn(given["clipn"]), model_choice(given))


def corpus_options(given: dict[str, Any]) -> Any:
    """How the corpus is to be read."""
    from ..corpora.sources import SEPARATORS, CorpusOptions

    signs = {name: sign for sign, name in SEPARATORS.items()}
    sign = given["delimiter"]
    return CorpusOptions(
        given["column"],
        split_cells=given["split_cells"],
        delimiter=signs.get(sign, sign),
        header=given["header"],
    )


def open_said(corpus: str, given: dict[str, Any]) -> Any:
    """The corpus, after what was decided about it has been said."""
    from ..corpora.registry import open_corpus
    from ..corpora.sources import notices_of

    source = open_corpus(corpus, corpus_options(given))
    for line in notices_of(source):
        say(line)
    return source


def image_options(given: dict[str, Any]) -> Any:
    """Which part of an image collection is to be read, and where its labels are."""
    from ..corpora.images.source import ImageOptions

    names = ("image_column", "label_column", "labels")
    of_data_set = {name: given[f"images_{name}"] for name in ("config", "split", "revision")}
    return ImageOptions(**{name: given[name] for name in names}, **of_data_set)


def class_words(given: dict[str, Any]) -> Any:
    """What the normal classes are called, and their prompts."""
    from ..audit.classes import ClassWords
    from ..corpora.prompts import PAPER_PROMPT

    labels = {}
    for pair in given["label"]:
        name, equals, prompt = pair.partition("=")
        if not (name and equals and prompt):
            raise UsageError(
                f"--label {pair!r} was given", "NAME=PROMPT", 'Write --label cup="a photo of a cup"'
            )
        labels[name] = prompt
    return ClassWords(given["normal"], given["prompt"] or (PAPER_PROMPT,), labels)


def audit_settings(given: dict[str, Any]) -> Any:
    """What a score depends on."""
    from ..audit.classes import ClassWords
    from ..audit.run import AuditSettings
    from ..scorer.label_filter import LabelFilter

    words = class_words(given) if "label" in given else ClassWords()
    exclude = LabelFilter(given["exclude_near_labels"], given["exclude_label_words"])
    return AuditSettings(given["k"], given["weight"], words, exclude)


def decision_rule(given: dict[str, Any]) -> Any:
    """How images are flagged."""
    from ..audit.decisions import DecisionRule

    names = ("fdr", "per_class", "top", "contamination", "empirical_null", "fail_on")
    return DecisionRule(**{name: given[name] for name in names})


def embed_options(given: dict[str, Any]) -> Any:
    """How images are decoded and embedded."""
    from ..indexer.encode.text_lengths import cache_folder
    from ..indexer.images.decoding import DecodingLimits
    from ..indexer.images.embedding import EmbedOptions

    return EmbedOptions(
        limits=DecodingLimits(seconds=given["time_limit"]),
        workers=given["workers"],
        apply_exif=not given["ignore_exif"],
        overwrite=given.get("overwrite", False),
        cache=cache_folder(),
    )


def plain_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were set, as JSON values."""
    made = {
        name: value
        for name, value in given.items()
        if value is not None and value is not False and value != ()
    }
    values: dict[str, Any] = json.loads(json.dumps(made))
    return values
