"""Options that several commands share, each group with the class its values become."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import BlissError, UsageError
from .base import SOURCE, grouped, option, say, section
from .option_types import (
    ENGINE_NAME,
    EXCLUSION,
    FLAG_RULE,
    SEARCH_WORDS,
    EngineName,
    FlagRule,
    Limits,
    limits,
    p_value_words,
)

if TYPE_CHECKING:
    from ..audit import AuditSettings, ClassWords, DecisionRule, NoPrompts
    from ..corpora import CorpusOptions, ImageOptions, TextSource
    from ..distributed import RayEngine
    from ..indexer import CaptionIndex, EmbedOptions, ModelChoice, SearchChoice


@dataclass(frozen=True)
class ModelOptions:
    """Which model encodes, and how."""

    model: str | None
    pretrained: str | None
    device: str | None
    precision: str | None
    batch_size: int | None
    allow_torchscript: bool
    statistics: Any = None
    """Mean and standard deviation of pixels in place of the model's; a preset sets it."""

    def choice(self) -> ModelChoice:
        """The options as `load_encoder` takes them; a foreign model that was typed is remembered.

        Raises ModelNotNamed for a foreign model that only a file of options names.
        """
        from ..indexer import DEFAULT_MODEL, ModelChoice, model_named_by, remember_model

        choice = ModelChoice(**dataclasses.asdict(self))
        context = click.get_current_context()
        sources = [
            context.get_parameter_source(name)
            for name in ("model", "pretrained")
            if getattr(self, name) is not None
        ]
        if ParameterSource.DEFAULT_MAP in sources:
            named = {"model": choice.model or DEFAULT_MODEL, "pretrained": choice.pretrained}
            return model_named_by(choice, named, context.meta[SOURCE], file="the file")
        if ParameterSource.COMMANDLINE in sources:
            try:
                remember_model(choice.model, choice.pretrained)
            except BlissError as error:
                say(f"could not remember that you named this model: {error}")
        return choice


def _model(default: str) -> Callable:
    return grouped("model", ModelOptions, section(
        "Model",
        option("--model", help=f"open_clip name, hf-hub:…, local-dir:… or demo "
               f"[default: {default}]"),
        option("--pretrained", help="Weights tag or file, for open_clip names."),
        option("--device", help="cpu, cuda, cuda:1 or mps [default: the best there is]"),
        option("--precision", help="fp32, bf16 or fp16 [default: fp16 on a GPU, else fp32]"),
        option("--batch-size", type=int, help="Images or captions per batch [default: by device]"),
        option("--allow-torchscript", is_flag=True, help="Load TorchScript weights, which can "
               "run any code."),
    ))  # fmt: skip


MODEL = _model("the index's, else ViT-B-16")
NEW_MODEL = _model("ViT-B-16")
"""For a command without an index whose model it could be."""


def _check_address(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> None:
    from ..corpora import is_address

    for value in values:
        if not is_address(value):
            raise UsageError(
                f"--allow-address {value} was given",
                "an address, such as hf:owner/name or https://host/images.tar",
                "Leave it out: a path on this machine needs no permission",
            )


ADDRESSES = option("--allow-address", multiple=True, metavar="ADDRESS", expose_value=False,
                   callback=_check_address, help="Contact this address, which RUN names. "
                   "Repeatable.")  # fmt: skip
"""Needs no more than to be typed: see `corpora/trust.py`."""
INDEX_HELP = "A caption index. Repeatable: several are searched as one."
INDEX = option("--index", multiple=True, help=INDEX_HELP)
INDEX_NEEDED = option("--index", multiple=True, required=True, help=INDEX_HELP)
OVERWRITE = option("--overwrite", is_flag=True, help="Replace the results of a different "
                   "request.")  # fmt: skip
TOP = option("--top", type=click.IntRange(0), default=20, show_default=True, help="Images to show.")


@dataclass(frozen=True)
class CorpusReading:
    """How a corpus is to be read."""

    column: str | None
    split_cells: str | None = None
    delimiter: str | None = None
    header: str | None = None

    def options(self) -> CorpusOptions:
        """The options as `open_corpus` takes them."""
        from ..corpora import SEPARATORS, CorpusOptions

        signs = {name: sign for sign, name in SEPARATORS.items()}
        return CorpusOptions(
            self.column,
            split_cells=self.split_cells,
            delimiter=signs.get(self.delimiter or "", self.delimiter),
            header=self.header,
        )

    def open(self, corpus: str) -> TextSource:
        """The corpus, after saying what was decided about how to read it."""
        from ..corpora import notices_of, open_corpus

        source = open_corpus(corpus, self.options())
        for line in notices_of(source):
            say(line)
        return source


CORPUS = grouped("reading", CorpusReading, section(
    "Corpus",
    option("--column", help="The corpus's caption column, or several: a,b. By number where lines "
           "have no header."),
    option("--split-cells", metavar="TEXT", help="Split each text at TEXT, such as a comma: "
           "lists of names."),
    option("--delimiter", metavar="SIGN", help="What separates columns: comma, semicolon, tab or "
           "bar [default: found]"),
    option("--header", type=click.Choice(["yes", "no"]), help="Whether the first line names the "
           "columns [default: found]"),
))  # fmt: skip


@dataclass(frozen=True)
class CollectionOptions:
    """Where the images and labels of a collection are."""

    image_column: str | None
    label_column: str | None
    labels: str | None
    follow_links: bool

    def options(self) -> ImageOptions:
        """The options as `open_images` takes them."""
        from ..corpora import ImageOptions

        given = dataclasses.asdict(self)
        return ImageOptions(**{**given, "follow_links": self.follow_links or None})


COLLECTION = grouped("collection", CollectionOptions, section(
    "Images",
    option("--image-column", metavar="NAME", help="The column of IMAGES with images or their "
           "paths; in tar archives the extension."),
    option("--label-column", metavar="NAME", help="The column of IMAGES with labels; in tar "
           "archives the extension or JSON field."),
    option("--labels", metavar="FILE", help="A csv, tsv or parquet file with a path and a label "
           "column, for a folder."),
    option("--follow-links", is_flag=True, help="Follow links out of a folder of images: those "
           "of DVC, git-annex, the Hub's cache."),
))  # fmt: skip


@dataclass(frozen=True)
class DecodingOptions:
    """How images are decoded."""

    ignore_exif: bool
    workers: int | None
    time_limit: float
    fail_on: Limits | None

    @property
    def limits(self) -> Limits:
        """What --fail-on says."""
        return self.fail_on or Limits()

    def embedding(self, overwrite: bool = False, engine: RayEngine | None = None) -> EmbedOptions:
        """How images are decoded and embedded."""
        from ..indexer import DecodingLimits, EmbedOptions, cache_folder

        return EmbedOptions(
            limits=DecodingLimits(seconds=self.time_limit),
            workers=self.workers,
            apply_exif=not self.ignore_exif,
            overwrite=overwrite,
            cache=cache_folder(),
            engine=engine,
        )


FAIL_ON = {
    "flagged": "flagged=N: exit with code 4 when more than N images are flagged",
    "unreadable": "unreadable=N: exit with code 3 when more than N images cannot be read",
    "small-classes": "small-classes: refuse classes with too few images, which are set aside "
    "otherwise",
}


def _decoding(*kinds: str) -> Callable:
    return grouped("decoding", DecodingOptions, section(
        "Decoding",
        option("--workers", type=click.IntRange(1), help="Decoding processes [default: one per "
               "core]"),
        option("--time-limit", type=click.FloatRange(0, min_open=True), default=30.0,
               show_default=True, metavar="SECONDS", help="Give up on an image after so long."),
        option("--ignore-exif", is_flag=True, help="Do not rotate images as their EXIF data says."),
    ), section(
        "Output",
        option("--fail-on", multiple=True, metavar="LIMIT", callback=limits(*kinds),
               help=f"{'; '.join(FAIL_ON[kind] for kind in kinds)}. Repeatable."),
    ))  # fmt: skip


DECODING = _decoding("unreadable")
FIT_DECODING = _decoding("unreadable", "small-classes")
SCORE_DECODING = _decoding("flagged", "unreadable")
AUDIT_DECODING = _decoding("flagged", "unreadable", "small-classes")
"""By what can be too much for the command."""


@dataclass(frozen=True)
class ClassOptions:
    """What the normal classes are called, and their prompts."""

    normal: tuple[str, ...]
    prompt: tuple[str, ...]
    class_prompt: tuple[str, ...]
    prompts: str | None = None

    def words(self) -> ClassWords:
        """The options as an audit takes them; UsageError for a --class-prompt without a name."""
        from ..audit import ClassWords, read_prompts
        from ..corpora import PAPER_PROMPT

        prompts: dict[str, str] = {}
        vectors: dict[str, tuple[float, ...]] = {}
        if self.prompts is not None and self.prompts != "means":
            prompts, vectors = read_prompts(self.prompts)
        if (vectors or self.prompts == "means") and (self.prompt or self.class_prompt):
            raise UsageError(
                f"--prompts {self.prompts} was given with --prompt or --class-prompt",
                "one way to make the classes' vectors",
                "Leave one out",
            )
        for pair in self.class_prompt:
            name, equals, prompt = pair.partition("=")
            if not (name and equals and prompt):
                raise UsageError(
                    f"--class-prompt {pair!r} was given",
                    "NAME=PROMPT",
                    'Write --class-prompt cup="a photo of a cup"',
                )
            prompts[name] = prompt
        return ClassWords(
            self.normal,
            self.prompt or (PAPER_PROMPT,),
            prompts,
            means=self.prompts == "means",
            vectors=vectors,
        )


CLASSES = grouped("classes", ClassOptions, section(
    "Classes",
    option("--normal", multiple=True, metavar="NAME", help="A normal class: a folder's name, or "
           "any name where there are no folders. Repeatable."),
    option("--prompt", multiple=True, metavar="TEXT", help="Template of label prompts, with "
           "{label}; several are averaged [default: This is a photo of a {label}]"),
    option("--class-prompt", multiple=True, metavar="NAME=PROMPT", help="The whole prompt of "
           "class NAME. Repeatable."),
    option("--prompts", metavar="FILE|means", help="A table of class and prompt, or of class and "
           "vector (parquet); or means: the mean of each class's images instead of a prompt."),
))  # fmt: skip


@dataclass(frozen=True)
class ScoringOptions:
    """What the BLISS score of an image depends on, beside the classes."""

    k: int
    weight: float
    exclude: tuple[tuple[str, float | None], ...]

    def settings(self, words: ClassWords | None = None) -> AuditSettings:
        """The options as an audit takes them."""
        from ..audit import AuditSettings, ClassWords
        from ..scorer import LabelFilter

        rules = dict(self.exclude)
        exclude = LabelFilter(rules.get("near-labels"), "label-words" in rules)
        return AuditSettings(self.k, self.weight, words or ClassWords(), exclude)


K = option("--k", default=10, show_default=True, help="Captions retrieved per image.")
LAMBDA = option("--lambda", "weight", type=float, default=0.5, show_default=True,
                help="λ, the weight of the captions in the score.")  # fmt: skip
SCORING = grouped("scoring", ScoringOptions, section(
    "Scoring",
    K,
    LAMBDA,
    option("--exclude", multiple=True, type=EXCLUSION, metavar="RULE", help="near-labels=COSINE or "
           "label-words: hide captions at least so near to a label's prompt, or with a label's "
           "words. Repeatable."),
))  # fmt: skip


@dataclass(frozen=True)
class FlaggingOptions:
    """Which images are flagged."""

    flag: FlagRule
    p_values: tuple[str, ...]

    def rule(self, most: int | None) -> DecisionRule:
        """The options as an audit takes them, with how many flagged images are not too many."""
        from ..audit import DecisionRule

        return DecisionRule(
            **self.flag.fields(),
            per_class="per-class" in self.p_values,
            leave_one_out="leave-one-out" in self.p_values,
            fail_on=most,
        )


FLAGGING = grouped("flagging", FlaggingOptions, section(
    "Flagging",
    option("--flag", type=FLAG_RULE, default="fdr=0.1", show_default=True,
           help="Which images are flagged. fdr=RATE: by q-values, where clean images give any; N "
           "or N%: the most anomalous; empirical-null[=RATE]: by a null estimated from the "
           "scores, without a guarantee."),
    option("--p-values", multiple=True, metavar="HOW", callback=p_value_words, help="held-out: "
           "compare with clean images that were held out, which guarantees the rate; "
           "leave-one-out: with all images of a clean reference, each left out of its class: more "
           "power, measured and not guaranteed; per-class: class by class. Repeatable, or "
           "separated by commas [default: held-out]"),
))  # fmt: skip
SEARCH = section(
    "Search",
    option("--search", type=SEARCH_WORDS, metavar="HOW", help="How to search, where not as the "
           "index says: exact, parameters such as nprobe=64, device=cuda or device=cuda:0,1, and "
           "shards, to spread the vectors over the GPUs; separated by commas."),
)  # fmt: skip
ENGINE = section(
    "Engine",
    option("--engine", type=ENGINE_NAME, metavar="ENGINE", default="local", show_default=True,
           help="Where to encode, search and score: local, or ray[:ADDRESS,actors=N], on a Ray "
           "cluster of this machine or at ADDRESS (host:port or auto), by N actors, one per GPU if "
           "not given."),
)  # fmt: skip
TRAINED = option("--trained", multiple=True, metavar="DIR", help="What `bliss train` made, for "
                 "the scores that need it: oecl, clipn_ctw and others. Repeatable.")  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """The folders that --trained names, by what is in them."""

    head: str | None
    clipn: str | None

    def no_prompts(self, model: ModelOptions) -> NoPrompts | None:
        """From prompt texts and a model's facts to the "no" vectors of a CLIPN, if one is given."""
        if self.clipn is None:
            return None
        from ..training import NoPromptEncoder, open_clipn

        return NoPromptEncoder(open_clipn(self.clipn), model.choice())


def sort_trained(folders: Sequence[str]) -> Trained:
    """Tell heads from CLIPNs by their manifests.

    Raises UsageError for two of a kind, BlissError for a folder that `bliss train` did not make.
    """
    from ..artefacts import MANIFEST, read_json
    from ..scorer import HEAD_KIND as HEAD
    from ..training import CLIPN_KIND as CLIPN

    found: dict[str, str] = {}
    for folder in folders:
        path = Path(folder) / MANIFEST
        kind = read_json(path).get("kind") if path.is_file() else None
        if kind not in (HEAD, CLIPN):
            raise BlissError(
                f"--trained {folder} was given, and nothing that `bliss train` made is there",
                "a folder that `bliss train oecl` or `bliss train clipn` finished",
                "Correct the path, or train first",
            )
        if kind in found:
            raise UsageError(
                f"--trained names two of the same kind: {found[kind]} and {folder}",
                "one OECL head and one CLIPN at most",
                "Leave one out",
            )
        found[kind] = folder
    return Trained(found.get(HEAD), found.get(CLIPN))


def ray_engine(engine: EngineName, model: ModelOptions) -> RayEngine | None:
    """The Ray engine that --engine names, which ends with the command; None for this process."""
    if engine.name == "local":
        return None
    from ..distributed import RayEngine

    opened = click.get_current_context().with_resource(ExitStack())
    return RayEngine(model.choice(), engine.address, engine.actors, opened)


def open_searched(folders: Sequence[str], search: SearchChoice | None) -> CaptionIndex:
    """The indexes, several as one, to be searched as --search says.

    With --search, says what the search of each takes.
    """
    from ..indexer import DEFAULT_SEARCH, open_indexes

    if search is not None:
        say_plans(folders, search)
    return open_indexes(folders, search or DEFAULT_SEARCH)


def say_plans(folders: Sequence[str], choice: SearchChoice) -> None:
    """Where the vectors of each index will lie when it is searched, and what that takes."""
    from ..indexer import describe_plan

    for folder in folders:
        say(describe_plan(folder, choice))


def recorded(*groups: object, **values: object) -> dict[str, Any]:
    """Options that were set, as JSON values by name, for run.json and eval.json."""
    for group in groups:
        values = {**values, **vars(group)}
    made = {
        name: value
        for name, value in values.items()
        if value is not None and value is not False and value != ()
    }
    plain: dict[str, Any] = json.loads(json.dumps(made, default=_text))
    if "weight" in plain:
        plain["lambda"] = plain.pop("weight")
    if "exclude" in plain:
        plain["exclude"] = [EXCLUSION.text(*rule) for rule in plain["exclude"]]
    return plain


def _text(value: object) -> str:
    from ..indexer import SearchChoice

    return SEARCH_WORDS.text(value) if isinstance(value, SearchChoice) else str(value)
