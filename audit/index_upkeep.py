"""What the upkeep of an index tells a person: what was removed, added and found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..corpora.addresses import is_remote
from ..errors import BlissError, UsageError
from ..indexer.build.add import Added
from ..indexer.caption_index import CaptionIndex
from ..indexer.encode.encoder import Encoder
from ..indexer.index_card import unknown_licences
from ..indexer.search.dispatch import describe_search
from ..indexer.verifying import Check
from ..safe_text import terminal_text
from .report.terminal import altered_text, index_text

EXAMPLES, CAPTION_WIDTH = 10, 90


def embedder(load: Callable[[], Encoder]) -> Callable[[str], np.ndarray]:
    """A function from a text to its unit row [d]; the model is loaded when it is first asked."""
    return lambda text: load().encode_texts([text])[0]


def choice_text(index: CaptionIndex, rows: np.ndarray, done: bool) -> str:
    """How many captions, stored rows int64 [u], are removed or would be, and some of them."""
    verb = "removed" if done else "would be removed"
    lines = [f"{len(rows):,} of {index.count:,} captions {verb}; "
             f"{index.count - len(rows):,} stay"]  # fmt: skip
    if len(rows):
        picked = rows[np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).astype(int))]
        lines.append("all of them:" if len(rows) <= EXAMPLES else "some of them:")
        lines += ["  " + terminal_text(c, CAPTION_WIDTH) for c in index.captions(picked)]
    return "\n".join(lines)


def built_text(index: CaptionIndex, output: str) -> str:
    """What an index holds that was built in `output`, a folder or an address."""
    if not is_remote(output):
        return index_text(index)
    head = terminal_text(f"{output}: copied from {index.folder}, which the cache may lose")
    return f"{index_text(index)}\n{head}"


def info_text(index: CaptionIndex) -> str:
    """What an index holds and what was removed from it."""
    lines = [index_text(index), describe_search(index.manifest)]
    if index.manifest["removed"]:
        lines.append(removals_text(index.manifest))
    lines.append("not compared with its checksums: `bliss index verify` does that")
    return "\n".join(lines)


def removals_text(manifest: Mapping[str, Any]) -> str:
    """One line for each removal that holds."""
    removed = manifest["removed"] or {"log": []}
    lines = [f"{entry['rows']:,} removed{_reason(entry)}" for entry in removed["log"]]
    return "\n".join(terminal_text(line) for line in lines) or "nothing is removed"


def _reason(entry: Mapping[str, Any]) -> str:
    where = entry.get("where")
    if isinstance(where, Mapping):
        return ": " + " and ".join(f"{name} {value!r}" for name, value in sorted(where.items()))
    return f": {entry['reason']}" if entry.get("reason") else ""


def check_text(check: Check) -> str:
    """One line where all is well, else one for each problem and what to do about it."""
    if not check.problems:
        return terminal_text(f"ok       {check.name}: {check.looked_at}")
    lines = [f"PROBLEM  {check.name}: {p.what}. {p.remedy}." for p in check.problems]
    return "\n".join(terminal_text(line) for line in lines)


def verdict(folder: str, checks: Sequence[Check]) -> str:
    """The last line of a check that found nothing; BlissError where it found something."""
    problems = sum(len(check.problems) for check in checks)
    if problems:
        raise BlissError(
            f"{folder} has {problems:,} problem{'s' * (problems > 1)}",
            "an index as bliss wrote it",
            "Do what is said of each above",
        )
    return f"{folder} is whole"


def added_text(added: Added) -> str:
    """What became of the texts that were to be added."""
    counts, index = added.counts, added.index
    dropped = ", ".join(
        f"{value:,} {name.replace('_', ' ')}"
        for name, value in sorted(counts.items())
        if name not in ("read", "kept") and value
    )
    done = "had been added before" if added.before else "added"
    lines = [
        f"{counts['kept']:,} captions {done}: {index.folder} has {index.count:,}",
        f"{counts['read']:,} texts read, " + (f"dropped: {dropped}" if dropped else "none dropped"),
    ]
    if not added.before:
        begun = index.manifest["additions"][-1]["first_source"]
        lines += altered_text(index.manifest["sources"][begun:], index.model.get("context_length"))
    if counts.get("duplicate"):
        lines.append("duplicates are of one another, or of captions the index has or had")
    if index.manifest["request"].get("near_duplicates") is not None:
        lines.append("near-duplicates were not looked for among the captions added")
    return "\n".join(terminal_text(line) for line in lines)


def pushed_text(index: CaptionIndex, repository: str, address: str, public: bool) -> str:
    """Where an index is now, who sees it, and which licences are not known."""
    lines = [
        f"{index.count:,} captions are at {address}, {'public' if public else 'private'}",
        f"get them with: bliss index pull {repository} DIR",
    ]
    unknown = unknown_licences(index.manifest)
    if unknown:
        lines.append(f"the licence of {', '.join(unknown[:5])} is not known: --licence states it")
    return "\n".join(terminal_text(line) for line in lines)


def check_one_given(corpora: Sequence[str], embeddings: str | None, prompts: object) -> None:
    """UsageError unless either corpora or embeddings were given, and these without prompts."""
    if bool(corpora) == (embeddings is not None):
        raise UsageError(
            f"{'both' if corpora else 'neither'} of CORPUS and --embeddings were given",
            "one of them: the captions to add",
            "Give a corpus, or --embeddings DIR",
        )
    if embeddings is not None and prompts:
        raise UsageError(
            "prompts were given with --embeddings",
            "no prompts: the texts are embedded already",
            "Leave --prompt out",
        )


def refuse_where(given: bool) -> None:
    """UsageError where an undoing also says which captions are meant."""
    if given:
        raise UsageError(
            "--undo was given with captions to remove", "one of the two", "Leave one out"
        )
