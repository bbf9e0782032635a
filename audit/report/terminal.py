"""What is printed in a terminal: tables of images, indexes and captions, and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ...indexer import CaptionIndex, categories, describe_model
from ...progress import Progress
from ...safe_text import counted, terminal_text
from ...scorer import HiddenTexts
from ..fitting.robust import refit_facts, refit_text
from ..folder import count_facts
from ..issues import issue_counts, worst_issues
from ..result import AuditedImage, AuditResult

CAPTIONS_SHOWN = 2
READ_FIRST = 5
KIND_WIDTH, EVIDENCE_WIDTH = 9, 120
PATH_WIDTH, CLASS_WIDTH, CAPTION_WIDTH, HIT_WIDTH = 44, 18, 60, 300


def result_text(result: AuditResult, top: int, reasons: str = "failures.csv says why") -> str:
    """The table of the `top` most anomalous images, then the counts.

    `reasons` says where to find why images could not be read.
    """
    counts = count_facts(result)
    classes = counted(len(result.reference.classes), "class", "classes")
    line = (
        f"{counted(counts['scored'], 'image')} scored against {classes} and "
        f"{counted(result.index.count, 'caption')}"
    )
    if counts["left_out"] == 1:
        line += "; 1 of them is in the reference and was left out of its own class"
    else:
        line += (
            f"; {counts['left_out']:,} of them are in the reference and were left out of their own "
            "class"
        )
    worst = result.worst(top)
    table = _label_table(worst) if result.ranked_by_labels else table_text(worst)
    lines = [table, "", line]
    if counts["set_aside"]:
        classes = counted(len(result.reference.set_aside), "class", "classes")
        images = counted(counts["set_aside"], "image")
        lines.append(f"{images} of {classes} with too few images compared with the other classes")
    unlabelled = categories(result.images.labels).values.indices.null_count
    if counts["left_out"] and 0 < unlabelled < counts["scored"]:
        images = counted(unlabelled, "image")
        lines.append(f"{images} without a label in no class: compared with all classes")
    if result.hidden is not None:
        lines.append(_hidden_text(result.hidden))
    if result.p_values is not None:
        m = result.reference.calibration_count
        least = 1 / (m + 1)
        if result.decision is not None:
            least = result.decision.facts.get("smallest_possible_p", least)
        calibration = result.reference.calibration
        assert calibration is not None
        against, promise = counted(m, "held-out clean image"), "guaranteed"
        if calibration.in_moments:
            images = counted(m, "image")
            against = f"{images} of the reference, each left out of its class"
            promise = "measured, not guaranteed"
        lines.append(f"p is against {against} ({promise}): it cannot be below {least:.3g}")
    refit = refit_facts(result, top)
    if refit is not None:
        lines.append(refit_text(refit, int(result.reference.moments.counts.sum())))
    if result.decision is not None:
        lines.append(result.decision.reason)
    if result.chosen:
        lines.append(result.chosen)
    if result.score_name != "bliss":
        lines.append(
            f"ranked by {result.score_name}; nearest class and captions are BLISS's"
            f"{_learnt_text(result)}"
        )
    for name, one, many in (
        ("failed", f"image could not be read ({reasons})", f"images could not be read ({reasons})"),
        ("copies", "image is a copy of another", "images are copies of others"),
        (
            "exif_rotated",
            "image was rotated as its EXIF orientation says",
            "images were rotated as their EXIF orientation says",
        ),
        (
            "normalised",
            "embedding was not of unit length and was normalised",
            "embeddings were not of unit length and were normalised",
        ),
    ):
        if counts[name]:
            lines.append(counted(counts[name], one, many))
    return "\n".join(lines + _issue_lines(result, top))


def _issue_lines(result: AuditResult, top: int) -> list[str]:
    """How many issues there are of each kind, the worst of each, and what to read first."""
    issues = result.issues
    if issues is None:
        return []
    counts, images = issue_counts(issues), len(issues["row"].unique())
    lines = [f"{counted(len(issues), 'issue')} of {counted(images, 'image')}" + ":" * bool(counts)]
    for kind, worst in worst_issues(issues).items():
        path, evidence = worst["image"], terminal_text(worst["evidence"], EVIDENCE_WIDTH)
        shown = f"{_end_of(path)}: {evidence}"
        lines.append(f"{counts[kind]:8,}  {kind:<{KIND_WIDTH}}  worst: {shown}")
    lines += result.remarks
    first = result.first_order[: min(top, READ_FIRST)].tolist()
    if first and result.labels is not None and not result.ranked_by_labels:
        named = ", ".join(_end_of(result.images.paths[i]) for i in first)
        lines.append(f"Read these first: {named}")
    return ["", *lines]


def _learnt_text(result: AuditResult) -> str:
    """How far bliss+ trusts words and how far images, and how much of the worst scores is words."""
    apart = (result.learnt or {}).get("without_own_class")
    if apart is None or result.parts is None:
        return ""
    weights = result.learnt["weights"] if result.learnt else {}
    words = weights["bliss"] + weights["texts"]
    return (
        f". Reference images without their class are told from the others in "
        f"{apart['words_auroc']:.1%} of pairs by words, {apart['images_auroc']:.1%} by images; "
        f"weights: words {words:.2f}, images {weights['images']:.2f} (columns words and images)"
    )


def _hidden_text(hidden: HiddenTexts) -> str:
    """How many captions were hidden, why, and for example which."""
    examples = [*hidden.near_examples[:1], *hidden.worded_examples[:1]]
    shown = ", ".join(
        f"'{terminal_text(each.caption, CAPTION_WIDTH)}' for {terminal_text(each.label)}"
        for each in dict.fromkeys(examples)
    )
    return (
        f"{counted(hidden.count, 'more caption is', 'more captions are')} hidden: "
        f"{hidden.near:,} near a label's prompt, {hidden.worded:,} with a label's words"
        + (f" (such as {shown})" if shown else "")
    )


def table_text(images: Sequence[AuditedImage]) -> str:
    """One image a line: score, path, nearest class and the captions it resembles."""
    with_p = any(image.p is not None for image in images)
    head = f"{'score':>8}  {'p':>6}  " if with_p else f"{'score':>8}  "
    lines = [head + f"{'path':<{PATH_WIDTH}}  {'nearest class':<{CLASS_WIDTH}}  resembles"]
    for image in images:
        p = f"{image.p:6.3f}  " if image.p is not None else ""
        captions = _captions(image)
        lines.append(
            f"{image.score:8.2f}  {p}{_end_of(image.path):<{PATH_WIDTH}}  "
            f"{terminal_text(image.nearest, CLASS_WIDTH):<{CLASS_WIDTH}}  {captions}"
        )
    return "\n".join(lines)


def _label_table(images: Sequence[AuditedImage]) -> str:
    """One image a line: margin, quality, path, the class it is filed under, the one it suits."""
    lines = [
        f"{'margin':>8}  {'quality':>7}  {'path':<{PATH_WIDTH}}  {'labelled':<{CLASS_WIDTH}}  "
        f"{'looks like':<{CLASS_WIDTH}}  resembles"
    ]
    for image in images:
        if image.margin is None:
            continue
        lines.append(
            f"{image.margin:8.3f}  {image.label_quality:7.3f}  "
            f"{_end_of(image.path):<{PATH_WIDTH}}  "
            f"{terminal_text(image.label or '', CLASS_WIDTH):<{CLASS_WIDTH}}  "
            f"{terminal_text(image.predicted or '', CLASS_WIDTH):<{CLASS_WIDTH}}  "
            f"{_captions(image)}"
        )
    return "\n".join(lines)


def _captions(image: AuditedImage) -> str:
    return "; ".join(
        f"{terminal_text(caption.text, CAPTION_WIDTH)} ({caption.pull:+.1f})"
        for caption in image.captions[:CAPTIONS_SHOWN]
    )


def altered_text(sources: Sequence[Mapping[str, Any]], limit: int | None) -> list[str]:
    """How many texts were not embedded as written, and why."""
    names = ("undecodable", "truncated")
    lost, cut = (sum(each.get(name) or 0 for each in sources) for name in names)
    lines = []
    if lost:
        lines.append(
            f"{counted(lost, 'text')} with bytes that are not UTF-8, each now U+FFFD: texts that "
            "differ in these alone are duplicates"
        )
    if cut:
        lines.append(f"{counted(cut, 'caption')} longer than the model's {limit} tokens: truncated")
    return lines


def index_text(index: CaptionIndex) -> str:
    """What an index holds, in a few lines."""
    facts, counts = index.manifest, index.manifest["counts"]
    corpora = [source["corpus"] for source in facts["sources"]]
    dropped = ", ".join(
        f"{counts[name]:,} {name.replace('_', ' ')}"
        for name in counts
        if name not in ("read", "kept") and counts[name]
    )
    lines = [
        f"{index.folder}: {counted(index.count, 'caption')}, {describe_model(index.model)}, "
        f"{facts['dtype']}",
        ", ".join(f"corpus {corpus.get('spec')}{_column(corpus)}" for corpus in corpora)
        + f": {counted(counts['read'], 'text')} read"
        + (f", dropped: {dropped}" if dropped else ", none dropped"),
    ]
    lines += altered_text(facts["sources"], index.model.get("context_length"))
    if (prompts := facts.get("prompts") or ["{}"]) != ["{}"]:  # {} is the caption as it is
        lines.append("prompts: " + "; ".join(prompts))
    if facts.get("normalised") and not index.model.get("model"):
        count = counted(facts["normalised"], "vector was", "vectors were")
        lines.append(f"{count} not of unit length and normalised")
    for failure in facts["failures"][:5]:
        lines.append(f"left out: row {failure['source_row']}, {failure['reason']}")
    if facts["failures"][5:]:
        lines.append(f"left out: {len(facts['failures']) - 5:,} more")
    return "\n".join(terminal_text(line) for line in lines)


def _column(corpus: Mapping[str, Any]) -> str:
    """Which column the captions are from: a file without a header shows its first line here."""
    return f", column '{corpus['column']}'" if corpus.get("column") else ""


def hits_text(hits: Mapping[str, Sequence[Any]]) -> str:
    """One caption a line: similarity, row, caption and, where it is known, origin."""
    origins = hits.get("origin") or [None] * len(hits["row"])
    return "\n".join(
        f"{similarity:7.4f}  {row:>9,}  {terminal_text(caption, HIT_WIDTH)}"
        + (f"  ({terminal_text(origin)})" if origin else "")
        for similarity, row, caption, origin in zip(
            hits["similarity"], hits["row"], hits["caption"], origins, strict=True
        )
    )


def differences_text(summary: Mapping[str, Any]) -> str:
    """The images whose standing changed most, then how well the two audits agree."""
    lines = [f"{'change':>7}  {'from':>5}  {'to':>5}  {'path':<{PATH_WIDTH}}  nearest class"]
    for each in summary["changes"]:
        before, after = each["nearest_class_a"], each["nearest_class_b"]
        nearest = before if before == after else f"{before} → {after}"
        lines.append(
            f"{each['change']:+7.3f}  {each['standing_a']:5.3f}  {each['standing_b']:5.3f}  "
            f"{_end_of(each['path_b']):<{PATH_WIDTH}}  {terminal_text(nearest)}"
        )
    correlation = summary["rank_correlation"]
    methods = [summary["ranked_by_a"], summary["ranked_by_b"]]
    ranked = f"both ranked by {methods[0]}"
    if methods[0] != methods[1]:
        ranked = f"the first ranked by {methods[0]}, the second by {methods[1]}"
    agreement = "none, one score is constant" if correlation is None else f"{correlation:.3f}"
    lines += [
        "",
        f"{counted(summary['images_in_both'], 'image')} in both audits, "
        f"{summary['only_in_a']:,} only in the first, {summary['only_in_b']:,} only in the second",
        f"rank correlation {agreement}; of the {summary['worst']:,} most anomalous "
        f"{summary['worst_in_both']:,} are the same",
        f"{ranked}; images are compared by rank, from 0 (least anomalous) to 1, not by score",
    ]
    return "\n".join(lines)


def _end_of(path: str) -> str:
    """The end of a path, which says more than its beginning, in PATH_WIDTH characters."""
    shown = terminal_text(path)
    return shown if len(shown) <= PATH_WIDTH else "…" + shown[-(PATH_WIDTH - 1) :]


def progress_lines(stream: TextIO | None = None, every: float = 1.0) -> Progress:
    """A Progress that writes rate and remaining time to `stream` (default stderr).

    A total of 0 is not known yet; with 0 done as well, `what` is a remark and written as it is. On
    a terminal one line is rewritten; elsewhere a line is written every 10 x `every` seconds.
    """
    out = stream or sys.stderr
    live = out.isatty()
    pause = every if live else 10 * every
    state: dict[str, Any] = {"what": "", "start": 0.0, "first": 0, "last": 0.0, "done": 0}

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not done and not total:
            out.write("\r\x1b[2K" * live + what + "\n")
            out.flush()
            return
        if what != state["what"] or done < state["done"]:  # the latter: another set of images
            state.update(what=what, start=now, first=done, last=now if live else now - pause / 2)
            if done < total or not total:
                state["done"] = done
                return
        state["done"] = done
        finished = done >= total > 0
        if not finished and now - state["last"] < pause:
            return
        state["last"] = now
        seconds = max(1e-9, now - state["start"])
        rate = (done - state["first"]) / seconds
        left = _duration((total - done) / rate) if rate and total and not finished else ""
        remaining = f", {left} left" if left else ""
        speed = f", {rate:,.0f}/s" if rate else ""
        of_all = f" of {total:,}" if total else ""
        line = f"{what}: {done:,}{of_all}{speed}{remaining}"
        out.write(f"\r\x1b[2K{line}" + "\n" * finished if live else line + "\n")
        out.flush()

    return progress


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
