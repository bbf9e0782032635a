"""`bliss index`: build, describe and search caption indexes."""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import UsageError
from .index_kind import kind, set_kind
from .index_sharing import pull, push
from .index_upkeep import add, remove, verify
from .option_values import (
    model_choice,
    open_given_index,
    open_said,
    ray_engine,
    say_plans,
    search_choice,
)
from .options import CORPUS, ENGINE, JSON, MODEL, NEW_MODEL, SEARCH, options, say
from .presets import PRESET, with_preset
from .tune_index import tune


@click.group()
def index() -> None:
    """Build, describe and search caption indexes."""


for command in (add, remove, verify, push, pull, kind, tune):
    index.add_command(command)


@index.command()
@click.argument("corpus", nargs=-1)
@click.option("--embeddings", help="Index precomputed text embeddings; no model is needed.")
@click.option("-o", "--output", required=True, help="A folder, or an address such as s3://….")
@click.option("--prompt", multiple=True, help="Template; several are averaged [default: by corpus]")
@click.option(
    "--licence",
    multiple=True,
    metavar="TEXT",
    help="The licence of the captions, or NAME=TEXT for each corpus.",
)
@click.option(
    "--unicode",
    "unicode_form",
    metavar="FORM",
    default="NFC",
    show_default=True,
    help="Bring captions to this Unicode form: NFC, NFD, NFKC, NFKD or none.",
)
@click.option("--keep-whitespace", is_flag=True, help="Do not collapse runs of spaces.")
@click.option("--min-characters", default=1, show_default=True, help="Drop shorter captions.")
@click.option("--max-characters", default=2000, show_default=True, help="Drop longer captions.")
@click.option("--keep-duplicates", is_flag=True, help="Keep captions that repeat an earlier one.")
@click.option(
    "--near-duplicates",
    type=float,
    metavar="COSINE",
    help="Remove captions whose "
    "embedding has this cosine or more with an earlier one. Slow: every pair is compared.",
)
@click.option("--dtype", help="float16 or float32 [default: float16, or as given]")
@click.option("--part-rows", default=32_768, show_default=True, help="Captions per part.")
@click.option(
    "--shard",
    metavar="i/N",
    help="Only make the parts p with p mod N = i; `bliss index merge` ends it.",
)
@click.option("--kind", metavar="KIND", help="How it is searched, as `bliss index kind` says it.")
@click.option("--export", is_flag=True, help="Also write text.index for other programs.")
@click.option("--repair", is_flag=True, help="Look for damaged parts and make them again.")
@click.option("--overwrite", is_flag=True, help="Replace what another request left there.")
@options(CORPUS, NEW_MODEL, ENGINE, PRESET)
def build(**given: Any) -> None:
    """Embed the captions of every CORPUS, or index embeddings made elsewhere."""
    from ..audit.models import encoder_for
    from ..audit.report.terminal import progress_lines
    from ..indexer.build.build import build_index, build_shard, index_embeddings
    from ..indexer.build.shards import describe_missing, parse_shard
    from ..indexer.store.addresses import build_to, check_output
    from .text import built_text

    uses = ("corpus", "keep_duplicates", "prompt", "model", "pretrained")
    given = with_preset(given, () if given["embeddings"] else uses)
    corpora = given["corpus"]
    corpora = (corpora,) if isinstance(corpora, str) else corpora  # a preset names one
    if bool(corpora) == (given["embeddings"] is not None):
        raise UsageError(
            f"{'both' if corpora else 'neither'} of CORPUS and --embeddings were given",
            "one of them: the captions to index",
            "Give a corpus, or --embeddings DIR",
        )
    choices, output = _index_options(given), given["output"]
    check_output(output, [name for name in ("shard", "export", "repair", "kind") if given[name]])
    if given["embeddings"] is not None:
        for option, set_ in (("--shard", given["shard"]), ("--engine ray", choices.engine)):
            if set_ is not None:
                raise UsageError(
                    f"{option} was given with --embeddings",
                    "a corpus to embed",
                    f"Leave {option} out: indexing embeddings only copies them",
                )
        told = progress_lines()
        made = build_to(
            output,
            given["overwrite"],
            lambda at: index_embeddings(given["embeddings"], at, given["column"], choices, told),
            told,
        )
        click.echo(built_text(set_kind(made, given["kind"]), output))
        return
    shard = None if given["shard"] is None else parse_shard(given["shard"])
    if shard is not None and given["kind"]:
        raise UsageError(
            "--kind was given with --shard",
            "a whole index to build a search structure over",
            f"Leave it out; after `bliss index merge` run `bliss index kind {output} "
            f"{given['kind']}`",
        )
    sources = [open_said(corpus, given) for corpus in corpora]
    encoder = encoder_for(model_choice(given), None, None, say)
    if shard is None:
        told = progress_lines()
        made = build_to(
            output,
            given["overwrite"],
            lambda at: build_index(sources, encoder, at, choices, told),
            told,
        )
        click.echo(built_text(set_kind(made, given["kind"]), output))
        return
    missing = build_shard(sources, encoder, output, choices, shard, progress_lines())
    state = f"; {describe_missing(missing)}" if missing else ": every part is there"
    click.echo(f"{output}: shard {shard} is done{state}. `bliss index merge` ends the index")


def _index_options(given: dict[str, Any]) -> Any:
    """How the captions become an index."""
    from ..corpora.captions import CaptionRules
    from ..indexer.build.options import IndexOptions

    form = given["unicode_form"]
    rules = CaptionRules(
        None if form.lower() == "none" else form,
        not given["keep_whitespace"],
        given["min_characters"],
        given["max_characters"],
        not given["keep_duplicates"],
    )
    names = ("dtype", "part_rows", "near_duplicates", "export", "repair", "overwrite")
    return IndexOptions(
        rules,
        given["prompt"] or None,
        licences=given["licence"],
        engine=ray_engine(given),
        **{name: given[name] for name in names},
    )


@index.command()
@click.argument("folder", nargs=-1, required=True)
def merge(folder: tuple[str, ...]) -> None:
    """End the index that shards made in FOLDER, or in several, into the first of them."""
    from pathlib import Path

    from ..audit.report.terminal import index_text, progress_lines
    from ..indexer.build.shards import merge_index

    click.echo(index_text(merge_index([Path(each) for each in folder], progress_lines())))


@index.command()
@click.argument("folder")
@JSON
def info(folder: str, as_json: bool) -> None:
    """Say what an index holds; `bliss index verify` checks that its files are as written."""
    from ..indexer.search.index import open_index
    from .text import info_text

    opened = open_index(folder)
    click.echo(json.dumps(opened.manifest, indent=2) if as_json else info_text(opened))


@index.command()
@click.argument("index", metavar="FOLDER...", nargs=-1, required=True)
@click.option("--text", help="Search with a text.")
@click.option("--image", help="Search with an image file.")
@click.option("--k", default=10, show_default=True, help="Captions to show.")
@JSON
@options(SEARCH, MODEL)
def search(text: str | None, image: str | None, k: int, as_json: bool, **given: Any) -> None:
    """Show the captions nearest to a text or an image; of several indexes, the nearest of all."""
    from ..audit.fitting import embed_query
    from ..audit.models import encoder_for
    from ..audit.report.terminal import hits_text
    from ..indexer.search.captions import origin_names
    from ..indexer.search.captions import search as search_index
    from ..indexer.search.kinds import OWN

    if (text is None) == (image is None):
        raise UsageError(
            f"{'neither' if text is None else 'both'} of --text and --image were given",
            "one of them: what to search for",
            'Add --text "…" or --image FILE',
        )
    if search_choice(given) == OWN:  # else it is said anyway
        say_plans(given["index"], OWN)
    opened = open_given_index(given)
    encoder = encoder_for(model_choice(given), opened, None, say)
    query = embed_query(encoder, opened.model, given["index"][0], text, image)
    hits = search_index(opened, query, k)
    found: dict[str, list] = {
        "similarity": hits.similarity[0].tolist(),
        "row": hits.rows[0].tolist(),
        "caption": opened.captions_of(hits.rows[0]),
    }
    if len(opened.origins) > 1:
        found["origin"] = origin_names(opened, hits.rows[0])
    if as_json:
        lines = [dict(zip(found, hit, strict=True)) for hit in zip(*found.values(), strict=True)]
        click.echo(json.dumps(lines, indent=2))
    else:
        click.echo(hits_text(found))
