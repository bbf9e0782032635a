"""Commands on a finished audit: `bliss report`, `apply`, `find`, `diff` and `export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..safe_text import counted, terminal_text
from . import options as opt
from .base import OUTPUT, Output, command, only_one, option, progress_lines, say, section

if TYPE_CHECKING:
    from ..indexer import Encoder


@command()
@click.argument("run")
@section(
    "Output",
    option("-o", "--output", "file", metavar="FILE", help="[default: report.html in RUN]"),
    option("--top", type=click.IntRange(1), default=1000, show_default=True,
           help="Images to show one by one, the most anomalous."),
    option("--heatmaps", is_flag=True, help="Map each shown image's score over its picture; they "
           "pass through the model again."),
    option("--plots", metavar="DIR", help="Write vector plots for papers to DIR instead."),
)  # fmt: skip
@section("Output", opt.ADDRESSES)
@opt.MODEL
@OUTPUT
def report(
    *,
    run: str,
    file: str | None,
    top: int,
    heatmaps: bool,
    plots: str | None,
    model: opt.ModelOptions,
    output: Output,
) -> None:
    """Write one self-contained page to look at, review and decide: report.html.

    RUN is the output folder of a finished `bliss audit`. Pictures are looked for where the audit
    found them; a relative path also in the folders around RUN.
    """
    from ..audit import save_report

    if plots is None:
        choice = model.choice() if heatmaps else None
        path = save_report(run, file, top, keep_pictures=True, heatmaps=choice, say=say)
        size = path.stat().st_size
        output.show(
            {"report": str(path), "bytes": size},
            f"Report: {terminal_text(str(path))} ({size / 1e6:.1f} MB; open it in a browser)",
        )
        return
    from ..audit import save_plots

    made = [str(path) for path in save_plots(run, plots)]
    output.show({"plots": made}, "\n".join(f"Plot: {terminal_text(path)}" for path in made))


@command()
@click.argument("decisions")
@section(
    "Decisions",
    option("--run", "run_folder", required=True, metavar="DIR", help="The run whose report they "
           "were made on."),
    option("--list", "list_file", metavar="OUT.csv", help="Write path,label of what stays."),
    option("--copy", "target", metavar="DIR", help="Copy what stays into a new folder, "
           "relabelled images under their new label."),
)  # fmt: skip
@section("Output", opt.ADDRESSES)
@OUTPUT
def apply(
    *,
    decisions: str,
    run_folder: str,
    list_file: str | None,
    target: str | None,
    output: Output,
) -> None:
    """Carry out a decisions file that the report page saved.

    Without --list or --copy it only says what would be done. Originals are never changed, moved or
    deleted; undecided images stay.
    """
    from ..audit import (
        clean,
        copy_cleaned,
        open_run,
        read_decisions,
        run_photographs,
        summary,
        write_list,
    )

    run = open_run(run_folder)
    pictures = run_photographs(run) if target is not None else None
    cleaned = clean(run, read_decisions(decisions, run))
    if not output.as_json:
        output.show(None, summary(cleaned))
    renamed, lines = 0, []
    if list_file is not None:
        write_list(cleaned, list_file)
        lines.append(f"List: {terminal_text(list_file)}")
    if target is not None and pictures is not None:
        renamed = copy_cleaned(cleaned, pictures, target, progress_lines())
        lines.append(f"Copy: {terminal_text(target)}")
        if renamed:
            lines.append(f"{renamed:,} of them under another name, because theirs was taken")
    facts = {
        "decided": cleaned.counts,
        "stay": len(cleaned.images),
        "unreadable": cleaned.failed,
        "list": list_file,
        "copy": target,
        "renamed": renamed,
    }
    output.show(facts, "\n".join(lines) or "Nothing was written: add --list OUT.csv or --copy DIR")


@command()
@click.argument("run")
@section(
    "Query",
    option("--text", help="Find images of this, worded as a caption."),
    option("--image", help="Find images like this one: a path in the run, or a file."),
    option(
        "--vector",
        metavar="FILE",
        help="Find images near this vector: an .npy file of one row, such as a text's embedding.",
    ),
)
@opt.MODEL
@section("Output", opt.TOP)
@OUTPUT
def find(
    *,
    run: str,
    text: str | None,
    image: str | None,
    vector: str | None,
    model: opt.ModelOptions,
    top: int,
    output: Output,
) -> None:
    """Find images in an audited collection: what else looks like this?

    RUN is the output folder of `bliss audit`.
    """
    from ..audit import (
        encoder_of_run,
        find_by_text,
        find_by_vector,
        find_like,
        found_text,
        open_run,
    )

    if vector is None or text or image:
        query = text if vector is None else text or vector
        only_one("what to look for", 'Add --text "…", --image IMAGE or --vector FILE', text=query,
                 image=image)  # fmt: skip
        if vector is not None:
            raise UsageError("both of --text and --vector were given", "one", "Leave one out")
    opened = open_run(run)

    def encoder() -> Encoder:
        return encoder_of_run(model.choice(), opened.facts["model"], run, say)

    if vector is not None:
        found = find_by_vector(opened, vector, top)
    elif text is not None:
        found = find_by_text(opened, text, encoder(), top)
    else:
        assert image is not None
        found = find_like(opened, image, encoder, top)
    output.show([asdict(each) for each in found], lambda: found_text(found))


@command()
@click.argument("run_a")
@click.argument("run_b")
@section(
    "Output",
    option("-o", "--output", "file", metavar="FILE", help="Also write every image's change to "
           "this CSV file."),
    opt.TOP,
)  # fmt: skip
@OUTPUT
def diff(*, run_a: str, run_b: str, file: str | None, top: int, output: Output) -> None:
    """Compare two audits of the same images: another model, corpus, reference or cleaning.

    RUN_A and RUN_B are output folders of `bliss audit`. Images are matched by content and compared
    by their rank among the images of both, from 0 (least anomalous) to 1.
    """
    from ..artefacts import write_atomically
    from ..audit import (
        ROWS_AT_ONCE,
        compare_runs,
        differences_summary,
        differences_table,
        differences_text,
        open_run,
        write_scores_csv,
    )

    first, second = open_run(run_a), open_run(run_b)
    found = compare_runs(first, second)
    table = differences_table(first, second, found)
    if file is not None:
        batches = table.to_batches(ROWS_AT_ONCE)
        names = table.column_names
        write_atomically(Path(file), lambda out: write_scores_csv(names, batches, out.write))
    summary = differences_summary(found, table, top)
    output.show(summary, lambda: differences_text(summary))


@command()
@click.argument("run")
@section(
    "Destination",
    option("--save-to-disk", "folder", metavar="DIR", help="A new folder, for "
           "datasets.load_from_disk."),
    option("--push-to-hub", "repository", metavar="OWNER/NAME", help="A dataset repository of "
           "the Hugging Face Hub."),
    option("--public", is_flag=True, help="Make a new repository public [default: private]"),
)  # fmt: skip
@section("Output", opt.ADDRESSES)
@OUTPUT
def export(
    *, run: str, folder: str | None, repository: str | None, public: bool, output: Output
) -> None:
    """Write the audited images with their scores as a Hugging Face dataset.

    RUN is the output folder of `bliss audit`. Pictures are copied as they are, with their EXIF
    data.
    """
    from ..audit import open_run, push_dataset, save_dataset

    only_one(
        "where the dataset goes",
        "Add --save-to-disk DIR or --push-to-hub OWNER/NAME",
        save_to_disk=folder,
        push_to_hub=repository,
    )
    if public and repository is None:
        raise UsageError("--public was given with --save-to-disk", "a repository", "Leave it out")
    opened = open_run(run)
    if repository is not None:
        rows = push_dataset(opened, repository, public)
    else:
        assert folder is not None
        rows = save_dataset(opened, folder)
    target = repository or folder or ""
    output.show(
        {"images": rows, "written_to": target}, f"{counted(rows, 'image')}: {terminal_text(target)}"
    )
