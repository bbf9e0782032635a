"""Options that commands share; option_values.py makes objects of what was given."""

from __future__ import annotations

from collections.abc import Callable

import click

from ..errors import UsageError


def say(line: str) -> None:
    """One line for the reader, on stderr."""
    from ..safe_text import terminal_text

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


def _check_address(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    from ..corpora.trust import is_address

    for value in values:
        if not is_address(value):
            raise UsageError(
                f"--allow-address {value} was given",
                "an address, such as hf:owner/name or https://host/images.tar",
                "Leave it out: a path on this machine needs no leave",
            )
    return values


ADDRESSES = click.option(
    "--allow-address",
    multiple=True,
    metavar="ADDRESS",
    expose_value=False,
    callback=_check_address,
    help="Contact this address, which RUN names. Repeatable.",
)
"""Needs no more than to be typed: see `corpora/trust.py`."""
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


def _removed(option: str, successor: str) -> Callable:
    """An option of earlier versions: given, it exits 2 and names what replaces it."""

    def refuse(context: click.Context, parameter: click.Parameter, value: object) -> None:
        if value is not None:
            raise UsageError(
                f"{option} {value} was given, but is no longer an option",
                f"it as part of the name: {successor}",
                f"Leave {option} out and write {successor}",
            )

    help = f"Removed: {successor}."
    return click.option(option, hidden=True, expose_value=False, callback=refuse, help=help)


_DATA_SET = "hf:owner/name[@revision][:[config/]split] or FOLDER:[config/]split"
CORPUS = options(
    click.option("--column", help="The corpus's caption column, or several: a,b. By number where "
                 "lines have no header."),
    click.option("--split-cells", metavar="TEXT",
                 help="Split each text there, such as at commas: lists of names."),
    click.option("--delimiter", metavar="SIGN",
                 help="What separates columns: comma, semicolon, tab or bar [default: found]"),
    click.option("--header", type=click.Choice(["yes", "no"]),
                 help="Whether the first line names the columns [default: found]"),
    *(_removed(f"--{name}", _DATA_SET) for name in ("config", "split", "revision")),
)  # fmt: skip
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
