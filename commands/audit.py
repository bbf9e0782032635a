"""`bliss audit`: score every image of a collection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..safe_text import terminal_text
from . import options as opt
from .base import OUTPUT, Command, Output, command, grouped, option, progress_lines, say, section
from .option_types import REPORT_SIZE, EngineName, split_names
from .presets import ENCODER, PRESET, with_preset

if TYPE_CHECKING:
    from ..indexer import SearchChoice


@dataclass(frozen=True)
class Inputs:
    """The folders and names that an audit reads, and the score it computes."""

    embeddings: str | None
    image_root: str | None
    reference: str | None
    calibration: str | None
    against: str | None
    index: tuple[str, ...]
    corpus: str | None
    score: str
    question: tuple[str, ...]
    robust: bool | None
    trained: tuple[str, ...]
    keep_duplicates: bool = False
    """Whether an index built for this audit keeps equal captions; a preset sets it."""


INPUTS = grouped(
    "inputs",
    Inputs,
    section(
        "Images",
        option("--embeddings", metavar="DIR", help="Precomputed image embeddings instead of "
               "IMAGES."),
        option("--image-root", metavar="DIR", help="The folder that the paths of --embeddings, and "
               "of an embedded --reference, are relative to [default: theirs]"),
        option("--reference", metavar="DIR", help="Clean images, their embeddings, or a fitted "
               "reference [default: IMAGES themselves]"),
        option("--calibration", metavar="DIR", help="Further clean images, or their embeddings, "
               "for p-values."),
        option("--against", metavar="DIR", help="Another collection, its embeddings, or a fitted "
               "reference: copies of its images are leaks. Or column=NAME, which says the split of "
               "each image: copies in several splits are."),
    ),
    section(
        "Captions",
        opt.INDEX,
        option("--corpus", help="A corpus to build an index from [default: imagenet-1k]"),
    ),
    section(
        "Scoring",
        option("--score", default="auto", show_default=True, help="Score that ranks the images; "
               "auto: bliss+ where it can be fitted, else bliss."),
        option("--question", multiple=True, metavar="NAME", callback=split_names, help="stray: "
               "does an image belong to any class? mislabel: to its own? copy: is it there twice? "
               "quality: is it a bad picture? Repeatable, or separated by commas [default: all but "
               "pairs, which is the command of that name]"),
        option("--robust/--no-robust", default=None, help="Fit again without the images that "
               "another class explains better [default: where IMAGES are their own reference]"),
        opt.TRAINED,
    ),
)  # fmt: skip


class _Audit(Command):
    """`bliss audit DATA --question pairs …` is `bliss pairs DATA …`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:  # fmt: skip
        for question in (["--question", "pairs"], ["--question=pairs"]):
            for at in range(len(args)):
                if args[at : at + len(question)] == question and parent is not None:
                    assert isinstance(parent.command, click.Group)
                    pairs = parent.command.commands["pairs"]
                    rest = args[:at] + args[at + len(question) :]
                    return pairs.make_context("pairs", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@command(kind=_Audit)
@click.argument("images", required=False)
@INPUTS
@opt.COLLECTION
@opt.CLASSES
@opt.SCORING
@section("Scoring", PRESET)
@opt.SEARCH
@opt.FLAGGING
@opt.MODEL
@opt.ENGINE
@opt.AUDIT_DECODING
@section(
    "Output",
    option("-o", "--output", "folder", default="bliss-audit", show_default=True, metavar="DIR",
           help="The folder for scores and report."),
    opt.OVERWRITE,
    option("--report", type=REPORT_SIZE, metavar="N|none", default=1000, show_default=True,
           help="Images that report.html shows one by one, or none to write no report."),
    opt.TOP,
)  # fmt: skip
@OUTPUT
def audit(
    *,
    images: str | None,
    inputs: Inputs,
    collection: opt.CollectionOptions,
    classes: opt.ClassOptions,
    scoring: opt.ScoringOptions,
    preset: str | None,
    search: SearchChoice | None,
    flagging: opt.FlaggingOptions,
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    engine: EngineName,
    folder: str,
    overwrite: bool,
    report: int,
    top: int,
    output: Output,
) -> None:
    """Score every image of a collection, most anomalous first.

    IMAGES is a folder with one folder per class (the collection is then its own reference), or any
    folder of images with --reference or --normal; a csv, tsv or parquet file of paths and labels;
    tar shards; parquet or Arrow files; hf:owner/name or a dataset folder; the address of any of
    these.
    """
    from ..artefacts import only_run_in
    from ..audit import (
        AuditQuestion,
        AuditRequest,
        are_embedded,
        check_failures,
        check_flagged,
        check_output,
        json_summary,
        result_text,
        run_audit,
        save_audit,
        save_report,
    )
    from ..indexer import DEFAULT_SEARCH, reused_workers

    if inputs.image_root is not None and not (
        inputs.embeddings or (inputs.reference and are_embedded(inputs.reference))
    ):
        raise UsageError("--image-root was given without --embeddings", "both", "Leave it out")
    if inputs.image_root is not None and not Path(inputs.image_root).is_dir():
        raise UsageError(
            f"--image-root {inputs.image_root} is no folder",
            "the folder of the images",
            "Correct it",
        )
    index_set = () if inputs.index else ("corpus", "keep_duplicates")
    model_set = () if inputs.index and not images else ENCODER
    inputs, scoring, classes, model = with_preset(
        preset,
        (*model_set, *index_set, "prompt", "score", "k", "weight", "robust"),
        inputs, scoring, classes, model,
        index=inputs.index,
    )  # fmt: skip
    limits = decoding.limits
    rule, trained = flagging.rule(limits.flagged), opt.sort_trained(inputs.trained)
    if search is not None:
        opt.say_plans(inputs.index, search)
    request = AuditRequest(
        images=images,
        embeddings=inputs.embeddings,
        image_root=inputs.image_root,
        reference=inputs.reference,
        indexes=inputs.index,
        corpus=inputs.corpus,
        image_options=collection.options(),
        search=search or DEFAULT_SEARCH,
        output=folder,
        model=model.choice(),
        settings=scoring.settings(classes.words()),
        embed=decoding.embedding(overwrite, opt.ray_engine(engine, model)),
        score=inputs.score,
        keep_duplicates=inputs.keep_duplicates,
        head=trained.head,
        question=AuditQuestion(inputs.question, inputs.robust, inputs.calibration, rule),
        strict=limits.small_classes,
        against=inputs.against,
    )
    asked = {
        "command": "audit",
        **opt.recorded(
            inputs, collection, classes, scoring, flagging, model, decoding,
            images=images, preset=preset, search=search, engine=engine, output=folder,
            overwrite=overwrite, top=top,
        ),
    }  # fmt: skip
    if inputs.robust is False:  # another request than none
        asked["robust"] = False
    with only_run_in(Path(folder)), reused_workers():
        if not overwrite:
            check_output(folder, asked)
        result = run_audit(request, progress_lines(), say, trained.no_prompts(model))
        save_audit(result, request.settings, folder, asked)
        facts, text = json_summary(result, top), result_text(result, top)
        failures, decision = result.images.failures, result.decision
        reference = result.reference
        del result  # its vectors: the page has its own
        text += f"\nAll scores: {terminal_text(str(Path(folder) / 'scores.parquet'))}"
        if report >= 0:
            page = save_report(folder, images=report, reference=reference)
            text += f"\nTo look at them: {terminal_text(str(page))}"
    output.show(facts, text)
    check_failures(failures, limits.unreadable)
    assert decision is not None
    check_flagged(decision, limits.flagged)
