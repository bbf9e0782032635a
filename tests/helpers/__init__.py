"""What several test files share: oracles, small worlds, stand-ins; and where the project is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the checkout."""
BENCHMARKS = ROOT / "benchmarks"
DOCS = ROOT / "docs"
