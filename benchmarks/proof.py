"""Run every benchmark in turn and record what it prints in results/: `make proof`.

Exits with 1 when one of them fails or misses a target; the others are run all the same.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from measuring import RESULTS, Report, setup_lines

HERE = Path(__file__).resolve().parent
RECORDING = (
    "statistics_cost",
    "search_cost",
    "search_kinds",
    "text_encoding",
    "encode_overlap",
    "audit_overhead",
    "report_in_browser",
    "clipn_demo",
    "scores_cost",
    "bulk_scoring",
    "swap_cost",
    "tuned_index",
    "explained_cells",
)
"""These write their own record when given --record."""
PRINTING = (
    "lower_bounds",
    "known_answer",
    "planted_strays",
    "planted_truth",
    "merged_order",
    "calibrated",
    "guessed_null",
    "learnt_weights",
    "label_evidence",
    "demo_accuracy",
    "broken_images",
    "killed_audits",
    "exit_codes",
    "fuzz",
    "ray_equal",
    "killed_index",
    "index_scale",
    "image_memory",
    "audit_memory",
    "label_filter",
)
"""The output of these is recorded here."""


def run_recording(name: str) -> int:
    """Run one benchmark with --record; its exit status."""
    return subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--record"]).returncode


def run_printing(name: str, *arguments: str) -> int:
    """Run one benchmark and record what it prints; its exit status."""
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    report = Report(name, record=done.returncode == 0, runs=1)
    report.say(name)
    for line in [*setup_lines(), "", *done.stdout.splitlines()]:
        report.say(line)
    report.finish()
    return done.returncode


def missed_targets(name: str) -> int:
    """How many targets the record of one benchmark says were missed."""
    record = RESULTS / f"{name}.txt"
    return record.read_text(encoding="utf-8").count("MISSED") if record.is_file() else 0


def main() -> int:
    outcomes: dict[str, str] = {}
    for name in (*RECORDING, *PRINTING):
        if not (HERE / f"{name}.py").is_file():
            outcomes[name] = "not there"
            continue
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        status = run_recording(name) if name in RECORDING else run_printing(name)
        missed = missed_targets(name)
        outcome = f"FAILED (exit status {status})" if status else "done"
        if not status and missed:
            outcome = f"MISSED {missed} target(s)"
        outcomes[name] = f"{outcome}, {time.monotonic() - start:.0f} s"
    print("\n=== summary")
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    return int(any("FAILED" in outcome or "MISSED" in outcome for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
