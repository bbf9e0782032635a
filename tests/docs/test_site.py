"""The documentation site: every page is in the navigation, every public name in the API page."""

from __future__ import annotations

import ast
import re
import shlex

import blissaudit
import click
import pytest
from blissaudit.cli import bliss as root
from helpers import DOCS, ROOT

PAGES = sorted(DOCS.glob("*.md"))
GENERATED = {"contributing.md", "changelog.md"}


def test_every_page_is_in_the_navigation_and_no_other():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w-]+\.md", text[text.index("\nnav:") :])
    assert sorted(named) == sorted({page.name for page in PAGES} | GENERATED)


def test_the_api_page_has_every_public_name_once():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: blissaudit\.(\w+)$", text, re.M)
    assert sorted(listed) == sorted(set(blissaudit.__all__) - {"__version__"})


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, heading = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), f"{page.name} links to {target}"
        if heading:
            assert heading in headings(place.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_out_of_the_documentation_lead_to_pages_of_the_site(page):
    """Those that `site_hooks` points at the records and at the pages it makes."""
    for target in re.findall(r"\]\(\.\./([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("benchmarks/results/") or target.lower() in GENERATED, target


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as the site and GitHub write them."""
    found = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in found}


FILE_AND_NAMES = re.compile(r"`([\w/]+\.py)` (`\w+`(?:, `\w+`)*)")


def test_functions_named_beside_equations_are_defined_there():
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    found = FILE_AND_NAMES.findall(text)
    assert len(found) > 12
    for file, names in found:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert set(re.findall(r"\w+", names)) <= defined, file


OF_OTHER_PROGRAMS = {
    "--check", "--constraint", "--index-url", "--made", "--no-deps", "--record", "--sort",
    "--address", "--block", "--exclusive", "--head", "--nodes", "--ntasks", "--ntasks-per-node",
    "--overlap", "--port",
}  # fmt: skip
"""Options of pip, tar, benchmarks, Ray and Slurm."""


def known_options(command: click.Command) -> set[str]:
    """The options of a command and of all commands below it."""
    found = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    if isinstance(command, click.Group):
        for each in command.commands.values():
            found |= known_options(each)
    return found | {"--help", "--version"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_options_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8").split("## Options that changed")[0]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - OF_OTHER_PROGRAMS
    if page.name not in ("cli.md", "results.md"):  # made by scripts, one of them from a record
        assert named <= known_options(root)


BLOCKS = re.compile(r"^```sh\n(.*?)^```|((?:^    .*\n)+)", re.M | re.S)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_on_a_page_have_the_options_that_they_give(page):
    for found in BLOCKS.findall(page.read_text(encoding="utf-8")):
        for line in "".join(found).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.strip().startswith("bliss ") else []
            if not words or {"…", "--from", "--config"} & {*words}:
                continue
            command, context, at = root, click.Context(root, help_option_names=["-h", "--help"]), 0
            while isinstance(command, click.Group):
                at += 1
                command = command.commands[words[at]]
                context = click.Context(command, parent=context, info_name=words[at])
            given = [word for word in words[at + 1 :] if word != "${LABELS[@]}"]
            command.make_context(words[at], given, parent=context.parent)


def test_options_that_messages_name_exist():
    """In every file but that of the options that went."""
    rooms = "audit commands corpora demo distributed evaluation indexer scorer training".split()
    known = known_options(root) | OF_OTHER_PROGRAMS
    for path in (path for room in rooms for path in (ROOT / room).rglob("*.py")):
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", path.read_text(encoding="utf-8")))
        if path.name != "removed.py":
            assert named <= known, path


PATHS = re.compile(r"`((?:audit|benchmarks|commands|corpora|demo|distributed|docs|evaluation|"
                   r"examples|indexer|scorer|tests|training)/[\w/.-]*)`")  # fmt: skip


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_files_of_the_package_that_a_page_names_are_there(page):
    for path in PATHS.findall(page.read_text(encoding="utf-8")):
        if "KIND" in path or "NAME" in path:
            continue
        assert (ROOT / path).exists(), f"{page.name} names {path}"
