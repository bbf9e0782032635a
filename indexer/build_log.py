"""`build.log.jsonl`: how long each stage of a building took, one JSON object a line.

Nothing else depends on it: it differs from run to run, and no checksum covers it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG = "build.log.jsonl"


@contextmanager
def timed(folder: Path, stage: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Log how long a stage took once it ends well; facts can be added to what this yields.

    Where `rows` is among them, their rate is logged too.
    """
    start = time.perf_counter()
    yield facts
    seconds = time.perf_counter() - start
    if "rows" in facts:
        facts["rows_per_second"] = round(facts["rows"] / max(seconds, 1e-9), 1)
    log(folder, {"stage": stage, "seconds": round(seconds, 4), **facts})


def log(folder: Path, entry: dict[str, Any]) -> None:
    """Append one entry; a log that cannot be written is no reason to stop."""
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry})
    with suppress(OSError), open(folder / LOG, "a", encoding="utf-8") as file:
        file.write(line + "\n")
