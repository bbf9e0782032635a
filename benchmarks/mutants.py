"""Mutants of the core and of what decides: are they noticed by the tests of their modules?

The mutants are cosmic-ray's (https://cosmic-ray.readthedocs.io; `pip install cosmic-ray`): one
operator, number or keyword of a line is replaced. Those in annotations are left out, since nothing
runs them. --count are drawn with a fixed seed, at least ten of each module. For each one the
module's tests run in a process forked from one that has imported the libraries, until a test fails.
Hypothesis draws the same examples each time and does not shrink.

A mutant that survives is listed with its verdict: "equivalent" and why, from
mutants_equivalent.json, or "not caught".

The whole takes about an hour of one core. With --outcomes FILE it can be run module by module, and
only what changed is run again: a mutant stays caught while its module (but for imports) and the
test that failed for it are the same, and has survived while its module and all of the module's
tests are.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib.abc
import importlib.util
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.json")
SEED, AT_LEAST, TARGET = 12, 10, 0.97
TESTS = {
    "indexer/vectors/unit_rows": ("indexer/vectors/test_unit_rows",),
    "indexer/vectors/blas": ("indexer/vectors/test_blas",),
    "indexer/vectors/nearest": ("indexer/vectors/test_nearest",),
    "scorer/moments": ("scorer/test_core_examples", "scorer/test_moments"),
    "scorer/statistics": ("scorer/test_core_examples", "scorer/test_statistics"),
    "scorer/leave_one_out": ("scorer/test_core_examples", "scorer/test_leave_one_out"),
    "scorer/bliss": ("scorer/test_core_examples", "scorer/test_bliss"),
    "scorer/reference": (
        "scorer/test_core_examples",
        "scorer/test_bliss",
        "scorer/test_reference_sample",
    ),
    "scorer/calibration": ("scorer/test_calibration", "audit/test_decisions"),
    "audit/decisions": ("audit/test_decisions",),
    "indexer/build/finish": ("indexer/build/test_near_duplicates", "indexer/build/test_add"),
    "indexer/store/stored_rows": ("indexer/store/test_removed", "indexer/search/test_index"),
    "indexer/search/row_choice": ("indexer/store/test_removed",),
}
"""The modules, and the test files that run for a mutant of each."""


@dataclass(frozen=True)
class Mutant:
    """One changed module: its source, and the change as 'line: before -> after'."""

    module: str
    operator: str
    source: str
    line: int
    before: str
    after: str

    @property
    def key(self) -> str:
        return f"{self.module}: {self.before} -> {self.after}"


class Module:
    """A module and the places where cosmic-ray's operators change it."""

    def __init__(self, name: str) -> None:
        from cosmic_ray.ast import ast_nodes, get_ast
        from cosmic_ray.plugins import get_operator, operator_names

        self.name, self.source = name, (ROOT / f"{name}.py").read_text(encoding="utf-8")
        self.seen, nodes = {_executed(self.source)}, list(ast_nodes(get_ast(self.source)))
        self.places: list[tuple[str, int]] = []
        for operator in sorted(operator_names()):
            if "Variable" not in operator:  # those need names to replace
                positions = get_operator(operator)().mutation_positions
                count = sum(len(list(positions(node))) for node in nodes)
                self.places += [(operator, number) for number in range(count)]

    def mutant(self, operator: str, number: int) -> Mutant | None:
        """The mutant of a place; None where only annotations differ, or as one made before."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        changed = mutate_code(self.source, get_operator(operator)(), number)
        try:
            executed = _executed(changed)
        except SyntaxError:
            return None
        if executed in self.seen:
            return None
        self.seen.add(executed)
        return _mutant(self.name, operator.partition("/")[2], self.source, changed)


def _executed(source: str) -> str:
    """A module as a tree without annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def _mutant(module: str, operator: str, source: str, changed: str) -> Mutant:
    old, new = source.splitlines(), changed.splitlines()
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    _, first, last, start, stop = next(block for block in blocks if block[0] != "equal")
    before, after = (
        " ".join(line.strip() for line in lines) for lines in (old[first:last], new[start:stop])
    )
    return Mutant(module, operator, changed, first + 1, before, after)


def sample(count: int) -> list[Mutant]:
    """AT_LEAST mutants of every module, the rest from all of them."""
    rng, drawn, rest = random.Random(SEED), [], []
    for name in TESTS:
        module = Module(name)
        rng.shuffle(module.places)
        first: list[Mutant] = []
        while module.places and len(first) < AT_LEAST:
            if (mutant := module.mutant(*module.places.pop())) is not None:
                first.append(mutant)
        drawn += first
        rest += [(module, place) for place in module.places]
    rng.shuffle(rest)
    while rest and len(drawn) < count:
        module, place = rest.pop()
        if (mutant := module.mutant(*place)) is not None:
            drawn.append(mutant)
    order = list(TESTS)
    return sorted(drawn, key=lambda m: (order.index(m.module), m.line, m.after))


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a changed source in place of the module's own."""

    def __init__(self, module: str, source: str) -> None:
        self.name, self.path = "blissaudit." + module.replace("/", "."), ROOT / f"{module}.py"
        self.source = source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def exec_module(self, module: Any) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


class FirstFailure:
    """A plugin of pytest's that notes the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.name = self.name or report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.name = self.name or f"{report.nodeid} (import)"


def run_tests(module: str, source: str | None, limit: float) -> tuple[str, float, list[str]]:
    """The first test that fails ('' where none does), seconds, and the libraries imported."""
    reading, writing = os.pipe()
    begun, child = time.monotonic(), os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        answer: dict[str, Any] = {"failed": "the process ended", "libraries": []}
        try:
            sink = os.open(os.environ.get("MUTANT_LOG", os.devnull), os.O_WRONLY | os.O_CREAT)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            answer = _tests_in_child(module, source)
        finally:
            with os.fdopen(writing, "w") as pipe:
                json.dump(answer, pipe)
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], limit)
    with os.fdopen(reading) as pipe:
        content = pipe.read() if ready else ""
    if not ready:
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    answer = json.loads(content or '{"failed": "timed out or ended", "libraries": []}')
    return answer["failed"], time.monotonic() - begun, answer["libraries"]


def _tests_in_child(module: str, source: str | None) -> dict[str, Any]:
    import pytest
    from hypothesis import Phase, settings

    os.chdir(ROOT)
    if source is not None:
        sys.meta_path.insert(0, Changed(module, source))
    settings.register_profile(
        "mutants", deadline=None, database=None, derandomize=True,
        phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    settings.load_profile("mutants")
    type.__setattr__(settings, "load_profile", staticmethod(lambda name: None))  # tests load one
    failure = FirstFailure()
    files = [str(ROOT / "tests" / f"{name}.py") for name in TESTS[module]]
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[failure])
    failed = failure.name.rpartition("/")[2] or ("" if status == 0 else f"exit status {status}")
    own = ("blissaudit", "tests", "helpers", "conftest", "test_")
    return {"failed": failed, "libraries": [n for n in sys.modules if not n.startswith(own)]}


@cache
def sources_of_tests(module: str) -> dict[str, str]:
    """The source of each test that runs for a module; under "" that of all their files."""
    found = {"": ""}
    for name in TESTS[module]:
        text = (ROOT / "tests" / f"{name}.py").read_text(encoding="utf-8")
        found[""] += text
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                first = min(each.lineno for each in (node, *node.decorator_list))
                found[node.name] = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return found


@cache
def without_imports(source: str) -> str:
    """The digest of a module but for its imports."""
    tree = ast.parse(source)
    tree.body = [each for each in tree.body if not isinstance(each, ast.Import | ast.ImportFrom)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def digest(mutant: Mutant, failed: str) -> str:
    """Changes with the mutant and with the test that failed for it, or with any where none did."""
    sources = sources_of_tests(mutant.module)
    test = sources.get(failed.rpartition("::")[2].partition("[")[0], sources[""])
    read = "\0".join([without_imports(mutant.source), failed, test])
    return hashlib.sha256(read.encode()).hexdigest()


def known_outcomes(path: Path | None, mutants: list[Mutant]) -> dict[str, str]:
    """By the source of a mutant, the test that failed for it, of outcomes that still hold."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    found = dict(map(json.loads, lines))
    tests = sorted(set(found.values()))
    return {
        mutant.source: failed
        for mutant in mutants
        for failed in tests
        if found.get(digest(mutant, failed)) == failed
    }


def outcomes(mutants: list[Mutant], path: Path | None) -> Iterator[tuple[Mutant, str, float]]:
    """Each mutant, the first test that fails for it, and seconds; new ones are added to a file."""
    imported: set[str] = set()
    known = known_outcomes(path, mutants)
    for module in dict.fromkeys(mutant.module for mutant in mutants):
        own = [mutant for mutant in mutants if mutant.module == module]
        yield from ((m, known[m.source], 0.0) for m in own if m.source in known)
        own = [mutant for mutant in own if mutant.source not in known]
        if not own:
            continue
        failed, seconds, libraries = run_tests(module, None, 600)
        if failed:
            raise SystemExit(f"without a mutant, {module} fails at {failed}")
        for name in sorted(set(libraries) - imported, key=len):
            imported.add(name)
            try:
                importlib.import_module(name)
            except Exception:  # part of a library that is not there
                continue
        print(f"  {module}: its tests take {seconds:.1f} s", file=sys.stderr, flush=True)
        for mutant in own:
            failed, took, _ = run_tests(module, mutant.source, 20 + 5 * seconds)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps([digest(mutant, failed), failed]) + "\n")
            yield mutant, failed, took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--only", choices=TESTS, action="append", help="modules")
    parser.add_argument("--outcomes", type=Path, help="outcomes that are known, and new ones")
    chosen = parser.parse_args()
    drawn = [m for m in sample(chosen.count) if not chosen.only or m.module in chosen.only]
    reasons: dict[str, str] = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    survivors: list[Mutant] = []
    counts: dict[str, list[int]] = {}
    earlier = len(known_outcomes(chosen.outcomes, drawn))
    for mutant, failed, took in outcomes(drawn, chosen.outcomes):
        counts.setdefault(mutant.module, [0, 0])[bool(failed)] += 1
        if not failed:
            survivors.append(mutant)
        print(
            f"  {mutant.module}:{mutant.line} {took:.1f} s {failed or 'SURVIVED ' + mutant.key}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    print(
        f"{len(drawn)} mutants, seed {SEED}; {earlier} outcomes are of earlier runs with the same"
    )
    print("module and test; caught and surviving, by module:")
    for module, (alive, caught) in counts.items():
        print(f"  {module}.py: {caught} caught, {alive} survive ({', '.join(TESTS[module])})")
    equivalent = [mutant for mutant in survivors if mutant.key in reasons]
    print(f"{len(survivors)} survive, {len(equivalent)} of them equivalent:")
    for mutant in sorted(survivors, key=drawn.index):
        verdict = f"equivalent: {reasons[mutant.key]}" if mutant.key in reasons else "not caught"
        print(f"  {mutant.module}.py:{mutant.line} {mutant.operator}")
        print(f"    {mutant.before}\n    {mutant.after}\n    {verdict}")
    others = len(drawn) - len(equivalent)
    share = (len(drawn) - len(survivors)) / max(others, 1)
    met = "met" if share >= TARGET else "MISSED"
    print(f"=> {TARGET:.0%} of the {others} others are caught, {share:.1%}: {met}")
    return 0


if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = scratch
        sys.exit(main())
