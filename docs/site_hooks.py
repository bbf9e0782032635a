"""What mkdocs needs beyond the pages in docs/; named under `hooks` in mkdocs.yml.

- A copy of the package's Python files for mkdocstrings, which reads source and imports nothing.
- `::: blissaudit.NAME` in docs/api.md becomes the module that defines NAME.
- CONTRIBUTING.md, CHANGELOG.md and the records of the benchmarks become pages.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import blissaudit

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results"
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_config(config: Any) -> Any:
    """Copy the packages that pyproject.toml names to build/docs-package/blissaudit."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copy = ROOT / "build" / "docs-package"
    shutil.rmtree(copy, ignore_errors=True)
    for package in project["tool"]["setuptools"]["packages"]:
        folder = Path(*package.split("."))
        source = ROOT / folder.relative_to("blissaudit")
        (copy / folder).mkdir(parents=True, exist_ok=True)
        for file in source.glob("*.py"):
            shutil.copyfile(file, copy / folder / file.name)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and records that are not in docs/."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_links_inside(text)))
    for record in sorted(RECORDS.glob("*.txt")):
        name = f"records/{record.name}"
        files.append(File.generated(config, name, content=record.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links at the generated pages, and API entries at the modules that define them."""
    markdown = markdown.replace("](../benchmarks/results/", "](records/")
    for name, source in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return re.sub(r"^::: blissaudit\.(\w+)$", _api_entry, markdown, flags=re.M)


def _links_inside(text: str) -> str:
    """Links of a page at the root of the repository, as they are in docs/."""
    return text.replace("](docs/", "](").replace("](benchmarks/results/", "](records/")


def _api_entry(found: re.Match[str]) -> str:
    name = found[1]
    value = getattr(blissaudit, name)
    lines = [
        f"::: {value.__module__}.{value.__qualname__}",
        "    options:",
        f"      heading: blissaudit.{name}",
        f"      toc_label: {name}",
    ]
    return "\n".join(lines)
