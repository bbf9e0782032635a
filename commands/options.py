"""Options that commands share, and the objects they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from ..errors import UsageError


def say(line: str) -> None:
    """One line for the reader, on stderr."""
    from ..audit.safe_text import terminal_text

    click.echo(terminal_text(line), err=True)


def options(*each: Callable) -> Callable:
    """Several options as one decorator, in the order given."""

    def add(command: Callable) -> Callable:
        for option in reversed(each):
            command = option(command)
        return command

    return add


def _model(default: str) -> Callable:
    named = f"open_clip name, hf-hub:…, local-dir:… or demo [default: {default}]"
    return options(click.option("--model", help=named), *_LOADING)


_LOADING = (
    click.option("--pretrained", help="Weights tag or file, for open_clip names."),
    click.option("--device", help="cpu, cuda, cuda:1, mps [default: chosen]"),
    click.option("--precision", help="fp32, bf16 or fp16 [default: chosen]"),
    click.option("--batch-size", type=int, help="Images or captions at once [default: chosen]"),
    click.option("--allow-torchscript", is_flag=True, help="Load weights that are code."),
)  # fmt: skip
MODEL = _model("the index's, else ViT-B-16")
NEW_MODEL = _model("ViT-B-16")
"""For a command without an index whose model it could be."""
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for other programs, instead of text."
)
CLIPN = click.option(
    "--clipn", help="What `bliss train clipn` made, for the scores clipn_ctw and clipn_atd."
)
INDEX = click.option(
    "--index", multiple=True, help="A caption index. Repeatable: several are searched as one."
)
INDEX_NEEDED = click.option(
    "--index",
    multiple=True,
    required=True,
    help="A caption index. Repeatable: several are searched as one.",
)
CORPUS = options(
    click.option("--column", help="The corpus's caption column, or several: a,b."),
    click.option("--config", help="The Hugging Face dataset's configuration."),
    click.option("--split", help="The data set's split."),
    click.option("--revision", help="The Hugging Face dataset's revision."),
)
EXCLUDE = options(
    click.option("--exclude-near-labels", type=float, metavar="COSINE",
                 help="Hide captions this near to a label's prompt, such as 0.95."),
    click.option("--exclude-label-words", is_flag=True,
                 help="Hide captions with a label's words."),
)  # fmt: skip
SCORE = options(
    click.option("--k", default=10, show_default=True, help="Captions retrieved per image."),
    click.option("--weight", default=0.5, show_default=True, help="λ, weight of the captions."),
)
WORDS = options(
    click.option("--prompt", multiple=True, help="Template of label prompts, with {label}; "
                 "several are averaged [default: This is a photo of a {label}]"),
    click.option("--normal", multiple=True, help="A normal class: a folder's name, or a name "
                 "where there are no folders. Repeatable."),
    click.option("--label", multiple=True, metavar="NAME=PROMPT",
                 help="The whole prompt of class NAME. Repeatable."),
)  # fmt: skip
DECODING = options(
    click.option("--ignore-exif", is_flag=True, help="Do not turn images as EXIF says."),
    click.option("--workers", type=int, help="Decoding processes [default: one per core]"),
    click.option("--time-limit", type=click.FloatRange(0, min_open=True), default=30.0,
                 show_default=True, help="Seconds per image."),
    click.option("--max-failures", type=click.IntRange(0),
                 help="Exit 3 when more images are unreadable."),
)  # fmt: skip
IMAGES = options(
    DECODING,
    click.option("--overwrite", is_flag=True, help="Replace what another request left there."),
)
IMAGES_NOT_KEPT = options(
    DECODING,
    click.option("--overwrite", is_flag=True, help="Changes nothing: no embeddings are kept here."),
)
ENGINE = options(
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local",
                 show_default=True, help="ray: decode and encode with Ray (the extra [ray])."),
    click.option("--ray-address", metavar="HOST:PORT",
                 help="A running Ray cluster, or auto [default: one on this machine]"),
    click.option("--ray-actors", type=int,
                 help="Encoders on the cluster [default: one for each GPU, without any 1]"),
)  # fmt: skip
DECIDE = options(
    click.option("--fdr", type=float, default=0.1, show_default=True,
                 help="False discovery rate at which q-values flag."),
    click.option("--per-class", is_flag=True, help="Take p-values class by class."),
    click.option("--contamination", type=float, help="Flag this share of the images."),
    click.option("--empirical-null", is_flag=True,
                 help="Flag by a null guessed from the scores: no guarantee."),
    click.option("--fail-on", type=click.IntRange(0), help="Exit 4 when more images are flagged."),
)  # fmt: skip
COLLECTION = options(
    click.option("--image-column", help="The column of IMAGES with images or their paths; in tar "
                 "archives the extension."),
    click.option("--label-column", help="The column of IMAGES with labels; in tar archives the "
                 "extension or JSON field."),
    click.option("--labels", metavar="FILE", help="A csv, tsv or parquet file with a path and a "
                 "label column, for a folder."),
    click.option("--images-config", help="The configuration of the image data set."),
    click.option("--images-split", help="The split of the image data set [default: train]"),
    click.option("--images-revision", help="The revision of the image data set."),
)  # fmt: skip
SHOW = options(
    click.option("--top", type=click.IntRange(0), help="Images to show; where no p-value or other "
                 "rule decides, they are also flagged [default: 20 shown]"),
    JSON,
)  # fmt: skip


SEARCH = options(
    click.option("--search-kind", metavar="KIND", help="exact, to scan an index that has another "
                 "kind [default: the index's own]"),
    click.option("--search-set", multiple=True, metavar="NAME=NUMBER", help="A search parameter "
                 "in place of the index's own, such as nprobe=64. Repeatable."),
    click.option("--search-device", metavar="DEVICE",
                 help="cpu, cuda, cuda:1 or cuda:0,1 [default: cpu]"),
    click.option("--search-shards", is_flag=True, help="Spread the vectors over the GPUs."),
)  # fmt: skip


def search_choice(given: dict[str, Any]) -> Any:
    """How the index is to be searched; as it says itself where a command has no such options."""
    from ..indexer.search_choice import SearchChoice

    parameters = named_numbers("--search-set", given.get("search_set", ()))
    device, shards = given.get("search_device") or "cpu", given.get("search_shards", False)
    return SearchChoice(given.get("search_kind"), parameters or None, device, shards)


def open_given_index(given: dict[str, Any]) -> Any:
    """What --index names, several as one, to be searched as given.

    Where that is not as the indexes say themselves, it is said what it will take.
    """
    from ..indexer.joined_index import open_indexes
    from ..indexer.search_choice import OWN

    choice = search_choice(given)
    if choice != OWN:
        say_plans(given["index"], choice)
    return open_indexes(given["index"], choice)


def say_plans(folders: Sequence[str], choice: Any) -> None:
    """Where the vectors of each index will lie when it is searched, and what that takes."""
    from ..indexer.search_dispatch import describe_plan

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
    """The model options as one choice."""
    from ..indexer.encoding import ModelChoice

    names = ("model", "pretrained", "device", "precision", "batch_size", "allow_torchscript")
    return ModelChoice(**{name: given[name] for name in names}, statistics=given.get("statistics"))


def ray_engine(given: dict[str, Any]) -> Any:
    """What the engine options say: a RayEngine, or None for this process."""
    if given["engine"] == "ray":
        from ..indexer.ray_cluster import RayEngine

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
    from ..training.clipn_vectors import no_vectors

    clipn, choice = open_clipn(given["clipn"]), model_choice(given)
    return lambda prompts, model: no_vectors(clipn, prompts, model, choice)


def corpus_options(given: dict[str, Any]) -> Any:
    """How the corpus is to be read."""
    from ..corpora.texts import CorpusOptions

    return CorpusOptions(given["column"], given["config"], given["split"], given["revision"])


def image_options(given: dict[str, Any]) -> Any:
    """Which part of an image collection is to be read, and where its labels are."""
    from ..corpora.image_source import ImageOptions

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
    from ..indexer.decoding import DecodingLimits
    from ..indexer.image_embedding import EmbedOptions
    from ..indexer.text_lengths import cache_folder

    return EmbedOptions(
        limits=DecodingLimits(seconds=given["time_limit"]),
        workers=given["workers"],
        apply_exif=not given["ignore_exif"],
        overwrite=given["overwrite"],
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
