"""The page of commands is what the commands say of themselves."""

from __future__ import annotations

import importlib.util
import re

import pytest
from helpers import DOCS


@pytest.fixture(scope="module")
def page() -> str:
    spec = importlib.util.spec_from_file_location("make_cli_docs", DOCS / "make_cli_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.command_docs()


def test_the_page_is_up_to_date(page):
    stored = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert stored == page, "run python docs/make_cli_docs.py"


def test_every_command_and_its_options_are_on_the_page(bliss, page):
    commands = (
        "apply", "audit", "corpora", "corpora add", "corpora compare", "corpora list",
        "corpora peek", "corpora show", "demo", "diff", "drift", "eval", "explain", "export",
        "find", "index", "index add", "index build", "index info", "index kind", "index pull",
        "index push", "index remove", "index search", "index tune", "index verify", "pairs",
        "reference", "reference fit", "report", "score", "train", "train clipn",
        "train clipn-import", "train oecl",
    )  # fmt: skip
    headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["bliss", *(f"bliss {command}" for command in commands)]
    for command in commands:
        outcome = bliss(*command.split(), "--help")
        assert (outcome.code, outcome.err) == (0, "")
        section = page.split(f"\n## bliss {command}\n")[1].split("\n## ")[0]
        shown, section = (re.sub(r"-\n\s+", "-", text) for text in (outcome.out, section))
        words = {word for word in shown.split() if not word.endswith("...")}
        assert words <= set(section.split())


def test_every_option_says_what_it_does(bliss, page):
    import click
    from blissaudit.cli import bliss as root

    def silent(command: click.Command, path: str) -> list[str]:
        if isinstance(command, click.Group):
            each = command.commands.items()
            return [found for name, one in each for found in silent(one, f"{path} {name}")]
        return [
            f"{path} {option.opts[0]}"
            for option in command.params
            if isinstance(option, click.Option) and not option.help
        ]

    assert silent(root, "bliss") == []
    built = bliss("index", "build", "--help").out
    assert "[default: ViT-B-16]" in built and "the index's" not in built
