"""Ask pip whether the lower bounds in pyproject.toml resolve together: each pinned exactly.

Nothing is installed: `pip install --dry-run` reads the metadata of the versions named and of what
they need, from whatever index pip is set up with. Exits with 1 where pip finds no solution. Run it
with the oldest Python that the package supports, which is the one its floors are promised for.

    python benchmarks/lower_bounds.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ["--dry-run", "--ignore-installed", "--only-binary", ":all:"]


def project() -> dict:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def floors(requirements: Iterable[str]) -> list[str]:
    """`name==floor` for each requirement that applies to this machine, without repeats.

    Raises SystemExit for a requirement that has no floor.
    """
    pinned = []
    for each in map(Requirement, requirements):
        if each.marker and not each.marker.evaluate():
            continue
        lowest = [found.version for found in each.specifier if found.operator == ">="]
        if not lowest:
            raise SystemExit(f"{each.name} has no lower bound in pyproject.toml")
        extras = f"[{','.join(sorted(each.extras))}]" if each.extras else ""
        pinned.append(f"{each.name}{extras}=={lowest[0]}")
    return list(dict.fromkeys(pinned))


def resolve(pinned: list[str]) -> list[str]:
    """`name==version` of everything pip would install; SystemExit with its reason otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", *OPTIONS]
        done = subprocess.run(
            [*command, "--report", report, *pinned], capture_output=True, text=True
        )
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
            print("\n".join(reasons[:20]), file=sys.stderr)
            raise SystemExit(1)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = [each["metadata"] for each in found]
    return sorted(f"{canonicalize_name(each['name'])}=={each['version']}" for each in packages)


def wrapped(names: list[str]) -> str:
    """Names in lines of at most 100 characters."""
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > 97:
            lines.append("")
        lines[-1] += f" {name}"
    return "\n".join(f" {line}" for line in lines)


def main() -> None:
    table = project()
    extras = table["optional-dependencies"]
    of_users = [each for name in extras if name != "test" for each in extras[name]]
    oldest = re.search(r">=\s*([\d.]+)", table["requires-python"])
    running = "{}.{}".format(*sys.version_info)
    if oldest and oldest[1] != running:
        print(f"The oldest Python is {oldest[1]}, this is {running}: the answer is for this one.")
    print(f"Python {running}, pip {version('pip')}; pip install {' '.join(OPTIONS)}")
    for what, requirements in (
        ("dependencies", table["dependencies"]),
        ("dependencies and all extras but test", [*table["dependencies"], *of_users]),
    ):
        pinned = floors(requirements)
        print(f"\n{what}, each floor pinned exactly:\n{wrapped(pinned)}", flush=True)
        found = resolve(pinned)
        kept = {name.split("==")[0] for name in found}
        asked = {canonicalize_name(name.split("==")[0].split("[")[0]) for name in pinned}
        if not asked <= kept:
            raise SystemExit(f"pip left out {', '.join(sorted(asked - kept))}")
        print(f"they resolve together, to {len(found)} packages:\n{wrapped(found)}", flush=True)


if __name__ == "__main__":
    main()
