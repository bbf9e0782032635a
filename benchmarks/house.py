"""The house in numbers: files, lines, folders, import cycles, the core, what one command reaches.

    python benchmarks/house.py [CHECKOUT] [--json] [--check]

Every imported name is resolved through the faces (a package's `__init__`, whether it re-exports
plainly, through a lazy table such as `_HOMES`, or through a stub beside it) to the module that
defines it. Imports inside functions and under TYPE_CHECKING count like any other. `--check` exits
with 1 where a number exceeds its target. Only the options of `bliss audit` need an interpreter with
click: the checkout's own `.venv` where it has one, else this one.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "blissaudit"
NOT_LIBRARY = ("tests", "benchmarks", "docs", "examples", "build", "dist")
CORES = (
    (
        "indexer/vectors/unit_rows",
        "indexer/vectors/nearest",
        "scorer/moments",
        "scorer/statistics",
        "scorer/leave_one_out",
        "scorer/bliss",
        "scorer/reference",
        "scorer/calibration",
    ),
    (
        "indexer/unit_rows",
        "indexer/nearest",
        "scorer/moments",
        "scorer/text_statistics",
        "scorer/leave_one_out",
        "scorer/bliss",
        "scorer/reference",
        "scorer/calibration",
    ),
)
"""The core of each layout, newest first: the first whose modules are all there is taken."""
NOT_CORE = ("errors", "arguments")
"""Modules that the core imports and that are not counted as its own."""
STARTS = {"audit/run.py": "audit/run", "the audit command": "commands/audit"}
ROOM_OF = {"cli": "commands"}
"""A module of the root that belongs to a room."""
APART = ("commands",)
"""Folders with one module a command: the target for the fullest folder leaves them aside."""
TARGETS = {
    "library files": 200,
    "library lines": 31_000,
    "modules in the fullest folder": 15,
    "files in an import cycle": 0,
    "lines of the core": 2_200,
    "modules reached from audit/run.py": 40,
    "modules reached from the audit command": 130,
    "options of bliss audit": 46,
    "names imported from a private module of another room": 0,
}

OPTIONS_CODE = """
import click
from blissaudit import cli
groups = [value for value in vars(cli).values() if isinstance(value, click.Group)]
found = [group.get_command(click.Context(group), "audit") for group in groups]
command = next(command for command in found if command is not None)
params = command.get_params(click.Context(command, help_option_names=["-h", "--help"]))
print(sum(isinstance(param, click.Option) for param in params))
"""


@dataclass
class Module:
    """One library file; names are relative to the package, '' being its root."""

    name: str
    path: Path
    is_face: bool
    tree: ast.Module
    lines: int
    defined: set[str] = field(default_factory=set)
    exported: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of a face: a public name, and the module and the name there that it stands for."""

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.is_face else self.name.rpartition("/")[0]


@dataclass(frozen=True)
class Import:
    """One imported name: who imports it, what the statement says, who defines it."""

    importer: str
    said: str
    """The module or package that the statement names."""
    name: str
    """The name in it; '' where the module itself is imported."""
    target: str
    """The module that defines it."""


class House:
    """Every module of a checkout and what it imports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules = {module.name: module for module in _read_modules(root)}
        for module in self.modules.values():
            _note_names(module, self.modules)
        self.imports = [found for name in self.modules for found in self._imports_of(name)]
        self.edges: dict[str, set[str]] = {name: set() for name in self.modules}
        for one in self.imports:
            if one.target != one.importer:
                self.edges[one.importer].add(one.target)

    def _imports_of(self, importer: str) -> Iterator[Import]:
        module = self.modules[importer]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    said = _absolute(alias.name)
                    if said in self.modules:
                        yield Import(importer, said, "", said)
            elif isinstance(node, ast.ImportFrom):
                said = _said(node, module)
                if said is None or said not in self.modules:
                    continue
                for alias in node.names:
                    for name in self._starred(said) if alias.name == "*" else [alias.name]:
                        target, inner = self.resolve(said, name)
                        yield Import(importer, said, inner and name, target)

    def _starred(self, said: str) -> list[str]:
        module = self.modules[said]
        return sorted({*module.defined, *module.exported})

    def resolve(self, said: str, name: str) -> tuple[str, str]:
        """The module that defines `name` of `said`, and its name there ('': a module itself)."""
        seen = set()
        while (said, name) not in seen:
            seen.add((said, name))
            module = self.modules[said]
            if not name:
                return said, ""
            if not module.is_face or name in module.defined:
                return said, name
            if name in module.exported:
                inner, name = module.exported[name]
                if inner not in self.modules:
                    return said, name
                said = inner
                continue
            below = _join(said, name)
            return (below, "") if below in self.modules else (said, name)
        return said, name

    def reached(self, *starts: str) -> set[str]:
        """The modules imported by `starts`, directly or through others, themselves included."""
        found, todo = set(), list(starts)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self.edges[name])
        return found

    def cycles(self) -> list[list[str]]:
        """The groups of modules that import one another, largest first."""
        reach = {name: self.reached(*self.edges[name]) for name in self.modules}
        inside = [name for name in self.modules if name in reach[name]]
        groups = {
            tuple(
                sorted(other for other in inside if other in reach[name] and name in reach[other])
            )
            for name in inside
        }
        return sorted((list(group) for group in groups), key=lambda group: (-len(group), group))

    def folders(self) -> Counter[str]:
        """Modules in each folder, `__init__` counted as one."""
        return Counter(
            module.path.parent.relative_to(self.root).as_posix() for module in self.modules.values()
        )

    def core(self) -> set[str]:
        """The core of this layout and what it imports; empty where no known layout fits."""
        for layout in CORES:
            if all(name in self.modules for name in layout):
                excluded = {*NOT_CORE, ""}
                return {name for name in self.reached(*layout) if name not in excluded}
        return set()

    def dataclasses(self) -> int:
        """How many classes are decorated as dataclasses."""
        return sum(
            any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
            for module in self.modules.values()
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef)
        )

    def private(self) -> list[Import]:
        """Imports of another room's module where its face should have been asked."""
        found = []
        for one in self.imports:
            room, own = one.said.split("/")[0], one.importer.split("/")[0]
            own = ROOM_OF.get(own, own)
            if not one.name:
                room = one.target.split("/")[0]
            is_room = room in self.modules and self.modules[room].is_face and room
            through_face = self.modules[one.said].is_face and one.name
            if is_room and room != own and not through_face:
                found.append(one)
        return found

    def lines(self, names: Iterable[str]) -> int:
        """Lines of these modules together."""
        return sum(self.modules[name].lines for name in names)


def _read_modules(root: Path) -> Iterator[Module]:
    for folder, below, files in os.walk(root):
        here = Path(folder).relative_to(root).as_posix()
        top = here == "."
        below[:] = sorted(
            name
            for name in below
            if not name.startswith((".", "__")) and not (top and name in NOT_LIBRARY)
        )
        if "__init__.py" not in files:
            below[:] = below if top else []
            continue
        for file in sorted(name for name in files if name.endswith(".py")):
            path = Path(folder) / file
            text = path.read_text(encoding="utf-8")
            is_face = file == "__init__.py"
            parts = [] if top else here.split("/")
            name = "/".join(parts if is_face else [*parts, file.removesuffix(".py")])
            yield Module(name, path, is_face, ast.parse(text), len(text.splitlines()))


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _absolute(dotted: str) -> str | None:
    head, _, rest = dotted.partition(".")
    return rest.replace(".", "/") if head == PACKAGE else None


def _said(node: ast.ImportFrom, module: Module) -> str | None:
    """The module that a from-import names; None outside the package."""
    if not node.level:
        return _absolute(node.module or "")
    return _relative("." * node.level + (node.module or ""), module.package)


def _relative(dotted: str, package: str) -> str | None:
    bare = dotted.lstrip(".")
    up = len(dotted) - len(bare) - 1
    parts = package.split("/") if package else []
    if up > len(parts):
        return None
    return _join(*parts[: len(parts) - up], bare.replace(".", "/"))


def _note_names(module: Module, modules: Mapping[str, Module]) -> None:
    """Fill what a module defines itself and, of a face, what it passes on."""
    for node in _top_level(module.tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            module.defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            module.defined.update(
                name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)
            )
            if module.is_face and isinstance(node.value, ast.Dict):
                module.exported.update(_lazy_table(node.value, module, modules))
        elif module.is_face and isinstance(node, ast.ImportFrom):
            said = _said(node, module)
            if said is not None and said != module.name:
                module.exported.update(
                    {alias.asname or alias.name: (said, alias.name) for alias in node.names}
                )
            elif said == module.name:
                for alias in node.names:
                    below = _join(module.name, alias.name)
                    if below in modules:
                        module.exported[alias.asname or alias.name] = (below, "")
    stub = module.path.with_suffix(".pyi")
    if module.is_face and stub.is_file():
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (said := _said(node, module)) is not None:
                module.exported.update({alias.name: (said, alias.name) for alias in node.names})
    if module.is_face:
        module.exported = {n: t for n, t in module.exported.items() if t[0] in modules}
        module.defined -= set(module.exported)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run on import: those inside `if` and `try` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _top_level([*node.body, *node.orelse])


def _lazy_table(
    table: ast.Dict, module: Module, modules: Mapping[str, Module]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Entries that name a module: {"name": "module"}, ("module", "name"), {"module": (names)}."""

    def home(dotted: str) -> str | None:
        for said in (
            _relative(dotted if dotted.startswith(".") else "." + dotted, module.package),
            _absolute(dotted),
        ):
            if said in modules:
                return said
        return None

    for key, node in zip(table.keys, table.values, strict=True):
        try:
            name, value = ast.literal_eval(key) if key else None, ast.literal_eval(node)
        except ValueError:
            continue
        if not isinstance(name, str):
            continue
        if isinstance(value, str):
            said = home(value)
            before, _, last = value.rpartition(".")
            if said is not None:
                yield name, (said, name)
            elif before and (said := home(before)) is not None:
                yield name, (said, last)
        elif isinstance(value, tuple | list | set) and all(isinstance(v, str) for v in value):
            listed, said = list(value), home(name)
            if said is not None:
                yield from ((one, (said, one)) for one in listed)
            elif len(listed) == 2 and (said := home(listed[0])) is not None:
                yield name, (said, listed[1])


def audit_options(root: Path) -> int | None:
    """Options of `bliss audit` as click has them, --help included; None where they can't be had.

    The checkout's own interpreter reads them, with the checkout on its path under the package's
    name, so that no installed copy is counted.
    """
    own = root / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(root, Path(folder) / PACKAGE)
        done = subprocess.run(
            [python, "-c", OPTIONS_CODE],
            env={**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    return int(done.stdout) if not done.returncode else None


def numbers(house: House) -> dict[str, int | None]:
    """Every number that has a target, and the dataclasses."""
    folders = Counter({name: n for name, n in house.folders().items() if name not in APART})
    core = house.core()
    found: dict[str, int | None] = {
        "library files": len(house.modules),
        "library lines": house.lines(house.modules),
        "modules in the fullest folder": max(folders.values(), default=0),
        "files in an import cycle": sum(map(len, house.cycles())),
        "lines of the core": house.lines(core) if core else None,
    }
    for said, start in STARTS.items():
        known = start in house.modules
        found[f"modules reached from {said}"] = len(house.reached(start)) - 1 if known else None
    found["options of bliss audit"] = audit_options(house.root)
    found["dataclasses"] = house.dataclasses()
    found["names imported from a private module of another room"] = len(house.private())
    return found


def lines(house: House, found: Mapping[str, int | None]) -> Iterator[str]:
    """The whole report."""
    for said, number in found.items():
        target = f"   (target: at most {TARGETS[said]:,})" if said in TARGETS else ""
        shown = "not counted" if number is None else f"{number:,}"
        yield f"{shown:>11}  {said}{target}"
    yield "\nmodules per folder, fullest first"
    for name, count in house.folders().most_common():
        yield f"{count:>11}  {name}"
    cycles = house.cycles()
    yield "\nimport cycles" + ("" if cycles else ": none")
    for cycle in cycles:
        yield f"{len(cycle):>11}  {', '.join(cycle)}"
    core = sorted(house.core())
    yield "\nthe core, lines of each file"
    for name in core:
        yield f"{house.modules[name].lines:>11}  {name}"
    rooms = Counter(
        f"{one.importer.split('/')[0]} from {one.target.split('/')[0]}" for one in house.private()
    )
    yield "\nnames imported from private modules, by room" + ("" if rooms else ": none")
    for name, count in rooms.most_common():
        yield f"{count:>11}  {name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("checkout", nargs="?", type=Path, default=here)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    chosen = parser.parse_args()
    root = chosen.checkout.resolve()
    if not (root / "__init__.py").is_file():
        parser.error(f"{chosen.checkout}: no __init__.py there; give the root of a checkout")
    house = House(root)
    found = numbers(house)
    print(json.dumps(found, indent=2) if chosen.json else "\n".join(lines(house, found)))
    missed = [said for said, most in TARGETS.items() if found[said] is None or found[said] > most]
    if chosen.check and missed:
        print(f"target missed: {', '.join(missed)}", file=sys.stderr)
    return int(chosen.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
