"""`bliss eval`: measure scores on the draws of a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from ..safe_text import counted, terminal_text
from . import options as opt
from .base import OUTPUT, SOURCE, Command, Output, grouped, option, progress_lines, say, section
from .option_types import SEED, EngineName
from .presets import CLEANPATRICK, ENCODER, EVAL_PRESET, was_given, with_preset

if TYPE_CHECKING:
    from ..audit import ClassWords
    from ..evaluation import Protocol
    from ..indexer import CaptionIndex, EmbeddedImages, EmbedOptions, Encoder, SearchChoice

EFFORT = ("folder", "repeats", "as_json", "device", "workers", "overwrite", "fail_on",
          "engine")  # fmt: skip
"""Options that say how an evaluation is done, not what it measures."""


def _repeat(context: click.Context, parameter: click.Parameter, path: str | None) -> dict | None:
    """Take every option that is not given from the evaluation recorded at `path`."""
    if path is None:
        return None
    from ..audit import current_names
    from ..evaluation import read_evaluation

    recorded = read_evaluation(path)
    options = current_names(recorded["asked"])
    options.pop("allow_torchscript", None)  # no file may say that code is to be run
    if isinstance(options.get("index"), str):  # before several could be given
        options["index"] = [options["index"]]
    context.default_map = {**options, **(context.default_map or {})}
    context.meta.setdefault(SOURCE, "the evaluation to repeat")
    return recorded


@dataclass(frozen=True)
class Measurement:
    """What is measured, on which images, against which captions."""

    repeats: dict[str, Any] | None
    """The recorded evaluation to repeat."""
    reference: str | None
    test: str
    ood: tuple[str, ...]
    index: tuple[str, ...]
    protocol: str
    draws: int | None
    seed: int | None
    shots: str | None
    contamination: float | None
    scores: tuple[str, ...]
    trained: tuple[str, ...]
    baseline: str | None
    k: int

    def outliers(self) -> dict[str, str]:
        """Name -> folder of each outlier set."""
        from ..evaluation import parse_outliers

        return parse_outliers(self.ood)

    def settled_protocol(self, normal: tuple[str, ...]) -> Protocol:
        """The protocol, or the one recorded, with what other options change of it."""
        from ..evaluation import find_protocol, parse_shots, protocol_from

        protocol = None
        if self.repeats is not None and self.protocol == self.repeats["asked"].get("protocol"):
            protocol = protocol_from(self.repeats["protocol"], "the evaluation to repeat")
        changes: dict[str, Any] = {
            "draws": self.draws,
            "seed": self.seed,
            "contamination": self.contamination,
            "among": normal or None,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if self.shots is not None:
            changes["shots"] = parse_shots(self.shots)  # None: all, whatever the protocol has
        return replace(protocol or find_protocol(self.protocol), **changes)


MEASUREMENT = grouped(
    "measurement",
    Measurement,
    section(
        "Images",
        option("--from", "repeats", metavar="FILE", is_eager=True, callback=_repeat,
               help="Repeat the evaluation of an eval.json, and compare its numbers."),
        option("--reference", metavar="DIR", help="Clean images in class folders, or embeddings; "
               "needed unless --preset cleanpatrick."),
        option("--test", required=True, metavar="DIR", help="Images to test, or embeddings."),
        option("--ood", multiple=True, metavar="NAME=DIR", help="An outlier set. Repeatable."),
    ),
    section("Captions", opt.INDEX_NEEDED, opt.K),
    section(
        "Protocol",
        option("--protocol", default="random-6", show_default=True, help="A shipped protocol's "
               "name, random-K, or a JSON file."),
        option("--draws", type=int, help="Random draws [default: the protocol's]"),
        option("--seed", type=SEED, help="Seed of every random choice [default: the protocol's]"),
        option("--shots", help="Reference images per class: 1, 2, 4, 8, 16, all."),
        option("--contamination", type=float, metavar="SHARE", help="Share of the reference that "
               "is anomalous."),
    ),
    section(
        "Scores",
        option("--score", "scores", multiple=True, metavar="NAME[:PARAMETER=NUMBER,…]",
               help="A score. Repeatable [default: every one]"),
        opt.TRAINED,
        option("--baseline", metavar="SCORE", help="The score that the others are compared with, "
               "draw by draw."),
    ),
)  # fmt: skip


@click.command("eval", cls=Command)
@MEASUREMENT
@opt.SEARCH
@opt.CLASSES
@opt.COLLECTION
@opt.MODEL
@section("Model", EVAL_PRESET)
@opt.ENGINE
@opt.DECODING
@section(
    "Output",
    option("-o", "--output", "folder", default="bliss-eval", show_default=True, metavar="DIR",
           help="The folder for embeddings and results."),
    opt.OVERWRITE,
)  # fmt: skip
@OUTPUT
def evaluate(
    *,
    measurement: Measurement,
    search: SearchChoice | None,
    classes: opt.ClassOptions,
    collection: opt.CollectionOptions,
    model: opt.ModelOptions,
    preset: str | None,
    decoding: opt.DecodingOptions,
    engine: EngineName,
    folder: str,
    overwrite: bool,
    output: Output,
) -> None:
    """Measure scores on the draws of a protocol: one table, and eval.json to repeat it."""
    from ..artefacts import MANIFEST, only_run_in, read_json
    from ..audit import check_failures, class_prompts, encoder_for, prompt_vectors
    from ..evaluation import (
        SUMMARY,
        EvalRequest,
        LabelVectors,
        differences,
        heading,
        holds_images,
        markdown_table,
        notes,
        run_eval,
    )
    from ..scorer import SCORES

    if preset == CLEANPATRICK:
        index = opt.open_searched(measurement.index, search)
        judge = encoder_for(model.choice(), index, None, say)
        embed = decoding.embedding(overwrite, opt.ray_engine(engine, model))
        found = _judge_issues(measurement, index, judge, embed, classes.words(), Path(folder))
        output.show(*found[:2])
        check_failures(found[2].failures, decoding.limits.unreadable)
        return
    reference = measurement.reference
    if reference is None:
        raise UsageError(
            "--reference was not given", "clean images, or embeddings", "Add --reference DIR"
        )
    given = click.get_current_context().params
    asked = {name: v for name, v in given.items() if name not in EFFORT and was_given(name)}
    _check_addresses()
    names_a_model, outliers = model.model is not None, measurement.outliers()
    images = holds_images([reference, measurement.test, *outliers.values()])
    measurement, classes, model = with_preset(
        preset,
        (*(ENCODER if images else ()), "prompt", "k"),
        measurement, classes, model,
        index=measurement.index,
    )  # fmt: skip
    trained, words = opt.sort_trained(measurement.trained), classes.words()
    request = EvalRequest(
        reference=reference,
        test=measurement.test,
        outliers=outliers,
        protocol=measurement.settled_protocol(classes.normal),
        worded=tuple(words.labels),
        scores=measurement.scores,
        k=measurement.k,
        baseline=measurement.baseline,
        output=folder,
        embed=decoding.embedding(overwrite, opt.ray_engine(engine, model)),
        asked=opt.recorded(**asked),
        head=trained.head,
        image_options=collection.options(),
    )
    index = opt.open_searched(measurement.index, search)
    encoder: Encoder | None = None
    no = trained.no_prompts(model)
    if names_a_model or images:
        encoder = encoder_for(model.choice(), index, None, say)
    labels = LabelVectors(
        lambda names: prompt_vectors(names, words, index, encoder),
        None if no is None else lambda names: no(class_prompts(names, words), index.model),
        read_json(Path(trained.clipn) / MANIFEST) if trained.clipn else None,
    )
    with only_run_in(Path(folder)):
        if not overwrite:
            _check_output(Path(folder) / SUMMARY, request.asked)
        result, rows, sets = run_eval(request, index, labels, SCORES, encoder, progress_lines())

    def text() -> str:
        lines = [heading(result, request.protocol), "", *markdown_table(rows).splitlines(), ""]
        lines += [*notes(result), f"All of it: {Path(folder) / SUMMARY}"]
        return "\n".join(map(terminal_text, lines))

    output.show(rows, text)
    if measurement.repeats is not None:
        for line in differences(measurement.repeats, read_json(Path(folder) / SUMMARY)):
            say(line)
    for each in sets:
        check_failures(each.failures, decoding.limits.unreadable)


def _check_output(summary: Path, asked: Mapping[str, Any]) -> None:
    """UsageError, naming what differs, where an evaluation with other options is recorded."""
    from ..artefacts import read_json
    from ..audit import differing_options

    before = read_json(summary).get("asked") if summary.is_file() else None
    if not isinstance(before, dict):
        return
    differing = sorted(differing_options(before, asked, summary.parent))
    if differing:
        raise UsageError(
            f"{summary} is of an evaluation with other options ({', '.join(differing)} differ)",
            "the same options, or another folder",
            "Choose another --output, or pass --overwrite to replace it",
        )


def _judge_issues(
    measurement: Measurement,
    index: CaptionIndex,
    encoder: Encoder,
    embed: EmbedOptions,
    words: ClassWords,
    folder: Path,
) -> tuple[dict[str, Any], str, EmbeddedImages]:
    """Audit the collection of CleanPatrick as its own reference, and judge every issue.

    Facts and text to show, and the images.
    """
    from ..artefacts import only_run_in, write_json
    from ..audit import AuditQuestion, AuditSettings, audit_own, decide
    from ..corpora import list_paths
    from ..evaluation import cleanpatrick_lines, judge_cleanpatrick, read_cleanpatrick
    from ..indexer import embed_images

    for name in ("reference", "ood", "draws", "shots", "contamination", "scores", "baseline"):
        if getattr(measurement, name):
            shown = {"scores": "score"}.get(name, name)
            raise UsageError(
                f"--{shown} was given with --preset {CLEANPATRICK}",
                "--test and --index: the benchmark says what is judged",
                "Leave it out",
            )
    truth = read_cleanpatrick(measurement.test)
    settings = AuditSettings(k=measurement.k, words=words)
    with only_run_in(folder):
        listed = list_paths(truth.root, truth.paths, truth.labels)
        images = embed_images(listed, encoder, folder / "images", embed, progress_lines(), say)
        result = audit_own(images, index, encoder, settings, progress_lines())
        result = decide(result, AuditQuestion(("stray", "mislabel")), settings, own=True)
        assert result.labels is not None
        scores = {"off-topic": result.scores.score, "label error": result.labels.margin}
        rows = judge_cleanpatrick(truth, images.rows, scores, images.vectors[:])
        facts = {"images": len(images.rows), "missing": truth.missing, "issues": rows}
        write_json(folder / "cleanpatrick.json", facts)
    lines = cleanpatrick_lines(rows)
    if truth.missing:
        lines.append(f"{counted(truth.missing, 'image')} of the table without a file")
    return facts, "\n".join([*lines, f"All of it: {folder / 'cleanpatrick.json'}"]), images


def _check_addresses() -> None:
    """AddressNotNamed where only a file of options names an address to read from."""
    from ..corpora import addresses_in, is_named, not_named

    context, unnamed, again = click.get_current_context(), [], []
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) != ParameterSource.DEFAULT_MAP:
            continue
        value = context.params.get(name)
        several = list(value or ()) if parameter.multiple else []
        words = [value] if isinstance(value, str) else several
        found = [each for each in addresses_in(words) if not is_named(each)]
        if found:
            unnamed += found
            again += [part for word in words for part in (parameter.opts[0], word)]
    if unnamed:
        raise not_named(unnamed, context.meta[SOURCE], again)
