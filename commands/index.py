"""`bliss index`: build, describe, search, share, and choose how an index is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from ..errors import UsageError
from . import options as opt
from .base import OUTPUT, Command, Output, grouped, only_one, option, progress_lines, say, section
from .index_upkeep import add, remove, tune, verify
from .option_types import EngineName
from .presets import PRESET, with_preset

if TYPE_CHECKING:
    from ..distributed import RayEngine
    from ..indexer import CaptionIndex, IndexOptions, SearchChoice


@click.command(cls=Command)
@click.argument("folder")
@click.argument("repository", metavar="OWNER/NAME")
@section(
    "Publishing",
    option("--public", is_flag=True, help="Make a new repository public [default: private]"),
    option("--licence-unknown-ok", is_flag=True, help="Publish captions whose licence is not "
           "known."),
)  # fmt: skip
@OUTPUT
def push(
    *, folder: str, repository: str, public: bool, licence_unknown_ok: bool, output: Output
) -> None:
    """Share an index as a dataset repository of the Hugging Face Hub, private by default.

    The index is verified first. Log in with `hf auth login`.
    """
    from ..indexer import local_folder, open_index, push_index
    from .text import pushed_text

    path = local_folder(folder)
    address = push_index(path, repository, public, licence_unknown_ok, progress_lines())
    index = open_index(path)
    output.show(
        {"address": address, "public": public, "captions": index.count},
        lambda: pushed_text(index, repository, address, public),
    )


@click.command(cls=Command)
@click.argument("repository", metavar="OWNER/NAME")
@click.argument("folder")
@section("Source", option("--revision", help="A branch, tag or commit [default: the newest]"))
@OUTPUT
def pull(*, repository: str, folder: str, revision: str | None, output: Output) -> None:
    """Download a shared index into a new FOLDER, and verify it.

    The same command again continues where it stopped.
    """
    from ..audit import index_text
    from ..indexer import local_folder, pull_index

    target = Path(local_folder(folder))
    index = pull_index(repository, target, revision, progress_lines())
    output.show(index.manifest, lambda: index_text(index))


@click.command(cls=Command)
@click.argument("folder")
@click.argument("kind")
@section(
    "Search",
    option("--set", "pairs", multiple=True, metavar="NAME=NUMBER", help="A search parameter that "
           "the index stores, such as nprobe=64. Repeatable [default: as before, else by kind]"),
    option("--threads", type=click.IntRange(1), help="Threads to build with [default: FAISS's, "
           "and 1 where there is a graph]"),
)  # fmt: skip
@OUTPUT
def kind(
    *, folder: str, kind: str, pairs: tuple[str, ...], threads: int | None, output: Output
) -> None:
    """Search the index in FOLDER by KIND from now on.

    KIND is exact, auto, or a factory string as FAISS spells it: SQfp16, IVF1024,SQ8, HNSW32,
    IVF1024,RaBitQ4 … Its structure is built from the stored vectors; until it is complete the
    index stays as it is.
    """
    from ..indexer import describe_search, open_index, set_search_kind

    found = _chosen_kind(folder, kind)
    set_search_kind(folder, found, _named_numbers(pairs) or None, threads)
    manifest = open_index(folder).manifest
    output.show(
        {"folder": folder, "search": manifest.get("search")},
        lambda: f"{folder}: {describe_search(manifest)}",
    )


def set_kind(index: CaptionIndex, kind: str | None) -> CaptionIndex:
    """A finished index with `kind` as its search; unchanged for None, or the kind it has."""
    from ..indexer import open_index, set_search_kind

    if kind is None:
        return index
    set_search_kind(index.folder, _chosen_kind(index.folder, kind))
    return open_index(index.folder)


def _chosen_kind(folder: str | Path, kind: str) -> str:
    """The kind to set, after saying why that one, and whether the index is small for it."""
    from ..indexer import chosen_kind, size_note

    found, why = chosen_kind(folder, kind)
    if why:
        say(f"{kind} is {found}: {why}")
    note = size_note(folder, found)
    if note:
        say(note)
    return found


def _named_numbers(pairs: Sequence[str]) -> dict[str, int]:
    """NAME=NUMBER options as a mapping."""
    numbers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value.isascii() and value.isdigit()):
            raise UsageError(f"--set {pair!r} was given", "NAME=NUMBER", "Write --set nprobe=64")
        numbers[name] = int(value)
    return numbers


@cloup.group()
def index() -> None:
    """Build, describe and search caption indexes."""


for each in (add, remove, verify, push, pull, kind, tune):
    index.add_command(each)


@dataclass(frozen=True)
class BuildOptions:
    """What is indexed, and how captions become an index."""

    corpus: tuple[str, ...] | str
    """Corpora; a preset names a single one."""
    embeddings: str | None
    folder: str
    prompt: tuple[str, ...]
    licence: tuple[str, ...]
    unicode_form: str
    keep_whitespace: bool
    min_characters: int
    max_characters: int
    keep_duplicates: bool
    near_duplicates: float | None
    dtype: str | None
    part_rows: int
    kind: str | None
    export: bool
    repair: bool
    overwrite: bool

    def options(self, engine: RayEngine | None) -> IndexOptions:
        """The options as `build_index` takes them."""
        from ..corpora import CaptionRules
        from ..indexer import IndexOptions

        form = self.unicode_form
        rules = CaptionRules(
            None if form.lower() == "none" else form,
            not self.keep_whitespace,
            self.min_characters,
            self.max_characters,
            not self.keep_duplicates,
        )
        return IndexOptions(
            rules,
            self.prompt or None,
            licences=self.licence,
            engine=engine,
            dtype=self.dtype,
            part_rows=self.part_rows,
            near_duplicates=self.near_duplicates,
            export=self.export,
            repair=self.repair,
            overwrite=self.overwrite,
        )


BUILD = grouped(
    "build",
    BuildOptions,
    click.argument("corpus", nargs=-1),
    section(
        "Captions",
        option("--embeddings", metavar="DIR", help="Index precomputed text embeddings; no model "
               "is needed."),
        option("--prompt", multiple=True, metavar="TEXT", help="Template; several are averaged "
               "[default: by corpus]"),
        option("--licence", multiple=True, metavar="TEXT", help="The licence of the captions, or "
               "NAME=TEXT for each corpus."),
    ),
    section(
        "Which captions are kept",
        option("--unicode", "unicode_form", metavar="FORM", default="NFC", show_default=True,
               help="Normalise captions to this Unicode form: NFC, NFD, NFKC, NFKD or none."),
        option("--keep-whitespace", is_flag=True, help="Do not collapse runs of spaces."),
        option("--min-characters", default=1, show_default=True, help="Drop shorter captions."),
        option("--max-characters", default=2000, show_default=True, help="Drop longer captions."),
        option("--keep-duplicates", is_flag=True, help="Keep captions that repeat an earlier "
               "one."),
        option("--near-duplicates", type=float, metavar="COSINE", help="Drop captions whose "
               "embedding has this cosine or more with an earlier one. Slow: every pair is "
               "compared."),
    ),
    section(
        "Index",
        option("-o", "--output", "folder", required=True, help="A folder, or an address such as "
               "s3://…."),
        option("--dtype", help="float16 or float32 [default: float16, or as given]"),
        option("--part-rows", default=32_768, show_default=True, help="Captions per part."),
        option("--kind", help="How it is searched, as in `bliss index kind`."),
        option("--export", is_flag=True, help="Also write text.index for other programs."),
        option("--repair", is_flag=True, help="Look for damaged parts and build them again."),
        opt.OVERWRITE,
    ),
)  # fmt: skip


@index.command(cls=Command)
@BUILD
@opt.CORPUS
@opt.NEW_MODEL
@section("Model", PRESET)
@opt.ENGINE
@OUTPUT
def build(
    *,
    build: BuildOptions,
    reading: opt.CorpusReading,
    model: opt.ModelOptions,
    preset: str | None,
    engine: EngineName,
    output: Output,
) -> None:
    """Embed the captions of every CORPUS, or index embeddings made elsewhere."""
    from ..audit import encoder_for
    from ..indexer import (
        build_index,
        build_to,
        check_output,
        index_embeddings,
    )
    from .text import built_text

    uses = ("corpus", "keep_duplicates", "prompt", "model", "pretrained")
    build, model = with_preset(preset, () if build.embeddings else uses, build, model)
    corpora = (build.corpus,) if isinstance(build.corpus, str) else build.corpus
    embeddings, folder = build.embeddings, build.folder
    only_one(
        "the captions to index",
        "Give a corpus, or --embeddings DIR",
        CORPUS=corpora,
        embeddings=embeddings,
    )
    options = build.options(opt.ray_engine(engine, model))
    check_output(
        folder,
        [name for name in ("export", "repair", "kind") if getattr(build, name)],
    )
    if embeddings is not None and options.engine is not None:
        raise UsageError(
            "--engine ray was given with --embeddings",
            "a corpus to embed",
            "Leave --engine ray out: indexing embeddings only copies them",
        )
    progress = progress_lines()
    if embeddings is None:
        sources = [reading.open(corpus) for corpus in corpora]
        encoder = encoder_for(model.choice(), None, None, say)
        made = build_to(
            folder,
            build.overwrite,
            lambda at: build_index(sources, encoder, at, options, progress),
            progress,
        )
    else:
        made = build_to(
            folder,
            build.overwrite,
            lambda at: index_embeddings(embeddings, at, reading.column, options, progress),
            progress,
        )
    finished = set_kind(made, build.kind)
    output.show(finished.manifest, lambda: built_text(finished, folder))


@index.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1)
def merge(words: tuple[str, ...]) -> None:
    raise UsageError(
        "`bliss index merge` was given, but is no longer a command",
        "one build for the whole index, on several machines with --engine ray",
        "Run `bliss index build` with the folder of a shard as --output: it makes what is missing",
    )


@index.command(cls=Command)
@click.argument("folder")
@OUTPUT
def info(*, folder: str, output: Output) -> None:
    """Describe an index; `bliss index verify` checks that its files are as written."""
    from ..indexer import open_index
    from .text import info_text

    opened = open_index(folder)
    output.show(opened.manifest, lambda: info_text(opened))


@index.command(cls=Command)
@click.argument("index", metavar="FOLDER...", nargs=-1, required=True)
@section(
    "Query",
    option("--text", help="Search with a text."),
    option("--image", help="Search with an image file."),
)
@opt.SEARCH
@opt.MODEL
@section(
    "Output",
    option("--top", type=click.IntRange(1), default=10, show_default=True,
           help="Captions to show."),
)  # fmt: skip
@OUTPUT
def search(
    *,
    index: tuple[str, ...],
    text: str | None,
    image: str | None,
    search: SearchChoice | None,
    model: opt.ModelOptions,
    top: int,
    output: Output,
) -> None:
    """Show the captions nearest to a text or an image; of several indexes, the nearest of all."""
    from ..audit import embed_query, encoder_for, hits_text
    from ..indexer import DEFAULT_SEARCH, origin_names, search_index

    only_one("what to search for", 'Add --text "…" or --image FILE', text=text, image=image)
    if search is None:  # otherwise open_searched says it
        opt.say_plans(index, DEFAULT_SEARCH)
    opened = opt.open_searched(index, search)
    encoder = encoder_for(model.choice(), opened, None, say)
    query = embed_query(encoder, opened.model, index[0], text, image)
    hits = search_index(opened, query, top)
    found: dict[str, list] = {
        "similarity": hits.similarity[0].tolist(),
        "row": hits.rows[0].tolist(),
        "caption": opened.captions_of(hits.rows[0]),
    }
    if len(opened.origins) > 1:
        found["origin"] = origin_names(opened, hits.rows[0])
    output.show(
        [dict(zip(found, hit, strict=True)) for hit in zip(*found.values(), strict=True)],
        lambda: hits_text(found),
    )
