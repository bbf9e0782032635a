"""Processes that each make a shard of an index, on one or more machines, and their merging."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefacts import link_file, read_json
from ...errors import BlissError, UsageError
from ..search.captions import CaptionIndex
from ..search.index import open_index
from ..store.lock import only_run_in
from ..store.parts import BUILDING, differing_fields, drop_records, files_of, is_finished
from .finish import finish_index
from .parts import missing_parts, whole_part
from .plan import RowPlan, open_plan

SHARDS = "shards"


@dataclass(frozen=True)
class Shard:
    """The parts p of a plan with p mod `count` = `number`, made by one process."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard that `i/N` names; UsageError unless i is one of 0 to N - 1."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UsageError(
            f"the shard {text!r} was given",
            "i/N, with i from 0 to N - 1",
            "Write --shard 0/4 for the first of four",
        )
    return Shard(int(found[1]), int(found[2]))


@contextmanager
def running_shard(folder: Path, shard: Shard) -> Iterator[None]:
    """Lock one shard of a folder, and leave its name there for `merge_index`."""
    mine = folder / SHARDS / f"{shard.number}-of-{shard.count}"
    mine.mkdir(parents=True, exist_ok=True)
    with only_run_in(mine):
        yield


def refuse_while_shards_run(folder: Path) -> None:
    """Raise FolderInUse where a process is making a shard of the folder."""
    for mine in sorted((folder / SHARDS).glob("*-of-*")):
        with only_run_in(mine):
            pass


def merge_index(folders: Sequence[Path], progress: Callable[[str, int, int], None]) -> CaptionIndex:
    """Finish the index that shards made, in the first folder, with undamaged parts of the others.

    Raises UsageError where the folders were begun for different requests, naming the fields;
    BlissError where a folder holds no unfinished index or one of another plan, or where parts are
    missing, naming them and the shards that make them.
    """
    folder = folders[0]
    if is_finished(folder):
        drop_records(folder)
        return open_index(folder)
    _begun(folder)
    with only_run_in(folder):
        refuse_while_shards_run(folder)
        for other in folders[1:]:
            _check_same(folder, other)
        plan = open_plan(folder / "plan")
        if plan is None:
            raise BlissError(
                f"{folder} has no complete plan",
                "the plan that each --shard run makes first",
                "Run the shard of this folder again, then merge",
            )
        missing = missing_parts(folder, plan)
        for number in missing:
            progress("parts collected", len(plan.parts) - len(missing), len(plan.parts))
            _collect(folder, folders[1:], plan, number)
        missing = tuple(p for p in missing if whole_part(folder, plan, p) is None)
        if missing:
            _refuse_missing(folders, missing)
        finish_index(folder, plan, progress)
    return open_index(folder)


def _begun(folder: Path) -> dict[str, Any]:
    path = folder / BUILDING
    if not path.is_file():
        raise BlissError(
            f"{folder} holds no unfinished index",
            "a folder that `bliss index build --shard i/N` wrote",
            "Check the path; a finished index is not merged",
        )
    return read_json(path)


def _check_same(folder: Path, other: Path) -> None:
    differing = differing_fields(_begun(folder)["request"], _begun(other)["request"])
    if differing:
        raise UsageError(
            f"{folder} and {other} were begun with different settings "
            f"({', '.join(differing)} differ)",
            "shards of one request",
            "Run the shards again with the same command",
        )
    plans = [open_plan(each / "plan") for each in (folder, other)]
    if plans[0] and plans[1] and plans[0].digest != plans[1].digest:
        raise BlissError(
            f"{folder} and {other} hold different plans",
            "shards of one plan",
            "Run the shards again with the same version of bliss-audit",
        )


def _collect(folder: Path, others: Sequence[Path], plan: RowPlan, number: int) -> None:
    """Link or copy a part from the first folder that has it undamaged, its record last."""
    for other in others:
        record = whole_part(other, plan, number)
        if record is not None:
            names = files_of("text", number) if record["rows"] else ()
            for name in (*names, f"parts/part_{number}.json"):
                link_file(other / name, folder / name)
            return


def _refuse_missing(folders: Sequence[Path], missing: Sequence[int]) -> None:
    raise BlissError(
        f"{describe_missing(missing)} in {', '.join(map(str, folders))}",
        "every part of the plan",
        f"Run {_makers(folders, missing)}, then merge again",
    )


def no_part_text(shard: Shard, parts: int) -> str | None:
    """A message where a shard has none of the `parts` parts of a plan, else None."""
    if shard.number < parts:
        return None
    of_all = "the only part is" if parts == 1 else f"the {parts:,} parts are"
    return f"there is no part for shard {shard}, so nothing to do: {of_all} for those before it"


def describe_missing(missing: Sequence[int]) -> str:
    """`parts 1 and 3 are missing`, the first ten named."""
    named = [str(number) for number in missing[:10]]
    if len(missing) > 10:
        named.append(f"{len(missing) - 10:,} more")
    if len(named) == 1:
        return f"part {named[0]} is missing"
    return f"parts {', '.join(named[:-1])} and {named[-1]} are missing"


def _makers(folders: Sequence[Path], missing: Sequence[int]) -> str:
    """The commands that make the missing parts, as far as the folders tell the number of shards."""
    counts = {
        int(mine.name.partition("-of-")[2])
        for folder in folders
        for mine in (folder / SHARDS).glob("*-of-*")
        if mine.name.partition("-of-")[2].isdigit()
    }
    if len(counts) != 1:
        return "the same build without --shard, or the shards that are missing"
    count = counts.pop()
    return "the build with " + " and ".join(
        f"--shard {number}/{count}" for number in sorted({p % count for p in missing})
    )
