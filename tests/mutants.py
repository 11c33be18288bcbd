"""Mutation testing: `python -m tests.mutants [options] [PACKAGE or FILE …]`, of the packages in PACKAGES.

A mutant is a module with one small change. Each is written into a copy of the repository, one copy for each worker, and
the package's tests are run there until one fails, those of the same name first. A mutant that no test notices is reported
with file and line: it shows what no test holds, or a change that makes no difference. What is not mutated, because no
test should hold it: docstrings, annotations and what else is for mypy alone, imports, decorators, and texts that are only
read by people: of f-strings, of errors (in `raise`, or in a call of RAISING or of an error's class), of what is logged,
and of what describes a step to whoever reads the log (in a call of DESCRIBING). The call itself is mutated like any other,
and so is a text that is given by keyword, as `field="args"` is: that is data.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import trio

from jobmaster import errors

REPOSITORY: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = {
    "job": ("tests/job",),
    "run": ("tests/run", "tests/test_cancellation.py", "tests/test_leaks.py", "tests/integration/test_jobs.py"),
    "output": ("tests/output",),
    "http2": ("tests/http2",),
}
"""Each package of jobmaster with the tests that have to notice; those that are not there yet are left out."""
COPIED: Final = ("jobmaster", "proto", "tests", "pyproject.toml", "README.md", "noxfile.py", ".ci")
FIRST_TIMEOUT: Final = 600.0
"""Seconds that a package's tests may take unchanged."""
LEAST_TIMEOUT: Final = 20.0
"""Seconds for a mutant; five times what the slowest package takes unchanged, where that is more."""
TEST_TIMEOUT: Final = 30
"""Seconds for each test of a mutant; the slowest takes three."""
REAP_SECONDS: Final = 5.0
WORKERS: Final = 2

COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitAnd,
}  # `|` is left alone: mostly it joins types
UNTOUCHED_FIELDS: Final = {"annotation", "returns", "decorator_list", "bases"}
RAISING: Final = {"connection_error"}
"""Functions that raise an error with the text they are given: `http2` raises its ProtocolViolation in this way."""
ERRORS: Final = frozenset(name for name, value in vars(errors).items() if isinstance(value, type))
DESCRIBING: Final = {"_logged", "_lose", "_persist", "_step"}
"""Methods that are told in words what they do, or why, and only log it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One changed module."""

    file: Path
    line: int
    change: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"


class Fate(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=comparators):
            for other in COMPARISONS[type(operator)]:
                yield ast.Compare(left, [other()], comparators)
        case ast.BoolOp(op=operator, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
            yield ast.BinOp(left, ARITHMETIC[type(operator)](), right)
        case ast.Constant(value=value):
            yield from map(ast.Constant, other_constants(value))
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not isinstance(
            test, ast.Compare | ast.BoolOp | ast.UnaryOp
        ):
            yield negated(node, test)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Delete() | ast.Assert():
            yield from deletions(node)
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield ast.Pass()


def other_constants(value: object) -> tuple[int | float | str | bytes, ...]:
    """Constants beside this one; none for None, an ellipsis and what is empty."""
    match value:
        case bool():
            return (not value,)
        case int() | float():
            return (value + 1,)
        case str() if value:
            return (value + "X",)
        case bytes() if value:
            return (value + b"X",)
        case _:
            return ()


def negated(node: ast.If | ast.While | ast.IfExp, test: ast.expr) -> ast.AST:
    """The same with the opposite condition."""
    fields = {**dict(ast.iter_fields(node)), "test": ast.UnaryOp(ast.Not(), test)}
    return type(node)(**fields)


def deletions(node: ast.AST) -> Iterator[ast.AST]:
    """Nothing in place of a statement; an augmented assignment also counts the other way."""
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
    yield ast.Pass()


def places(parent: ast.AST, *, is_text: bool = False) -> Iterator[tuple[ast.AST, str, int, ast.AST]]:
    """Every node that may be replaced: the node that holds it, in which field, at which index (-1: no list), and it."""
    for field, value in ast.iter_fields(parent):
        if field in UNTOUCHED_FIELDS:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(-1, value)]:
            if not isinstance(node, ast.AST) or is_untouched(node):
                continue
            if not (is_text and isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
                yield parent, field, index, node
            is_data = isinstance(node, ast.keyword)
            yield from places(node, is_text=not is_data and (is_text or is_told(node)))


def is_told(node: ast.AST) -> bool:
    """Whether the texts in a node are for people alone: those of errors and of the log."""
    match node:
        case ast.Raise():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in RAISING or name in ERRORS
        case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"))):
            return True
        case ast.Call(func=ast.Attribute(attr="start_soon"), args=[ast.Attribute(attr=name), *_]):
            return name in DESCRIBING
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
            return name in DESCRIBING
        case _:
            return False


def is_untouched(node: ast.AST) -> bool:
    """Whether neither a node nor anything in it is changed."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant()):  # a docstring
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Expr(value=value) | ast.Assign(value=value) if is_for_mypy(value):
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in {"__all__", "__slots__"}
        case _:
            return is_for_mypy(node)


def is_for_mypy(node: ast.AST) -> bool:
    """Whether a node is a call that says something to mypy alone."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"NewType", "TypeVar", "assert_never"}
    )


def mutants_of(file: Path, text: str) -> Iterator[Mutant]:
    """Every mutant of a module; the tree is changed, written out, and put right again."""
    tree = ast.parse(text)
    for parent, field, index, node in list(places(tree)):
        for other in replacements(node):
            ast.copy_location(other, node)
            put(parent, field, index, other)
            source = ast.unparse(ast.fix_missing_locations(tree))
            put(parent, field, index, node)
            line = getattr(node, "lineno", 0)
            yield Mutant(file=file, line=line, change=f"{shown(node)}  →  {shown(other)}", source=source)


def put(parent: ast.AST, field: str, index: int, node: ast.AST) -> None:
    """Put a node in a place."""
    if index < 0:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def shown(node: ast.AST) -> str:
    """The first line of a node's source, shortened."""
    line = ast.unparse(node).partition("\n")[0]
    return line if len(line) <= 60 else f"{line[:59]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A mutant and how to try it."""

    mutant: Mutant
    tests: tuple[str, ...]
    seconds: float


class Copy:
    """A worker's copy of the repository. The caller owns the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(".*"))  # bytecode too
            else:
                shutil.copy(source, folder / name)

    async def run_tests(self, tests: Sequence[str], *, seconds: float, keeps_bytecode: bool = False) -> Fate:
        """What the tests make of the copy as it is, in so many seconds; their processes are killed at the end."""
        environment = {**os.environ, "PYTHONPATH": str(self._folder)}
        # Of a mutant none may be written: a module's time and size may be those of another.
        environment["PYTHONDONTWRITEBYTECODE"] = "" if keeps_bytecode else "1"
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not kernel and not abuse"]
        options += ["-o", f"faulthandler_timeout={TEST_TIMEOUT}", "-o", "faulthandler_exit_on_timeout=true"]
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            with trio.move_on_after(seconds):
                return Fate.SURVIVED if await process.wait() == 0 else Fate.KILLED
            return Fate.TIMED_OUT
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.move_on_after(REAP_SECONDS, shield=True):
                await process.wait()

    async def judge(self, task: Task) -> Fate:
        """What the tests make of a mutant; the copy is as before afterwards."""
        file = self._folder / task.mutant.file
        before = file.read_text()
        for bytecode in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            bytecode.unlink()
        file.write_text(task.mutant.source)
        try:
            return await self.run_tests(task.tests, seconds=task.seconds)
        finally:
            file.write_text(before)


def tests_of(file: Path) -> tuple[str, ...]:
    """The paths of the tests of a module, the one of its name first."""
    package = file.parts[1]
    own = Path("tests", *file.parts[1:-1], f"test_{file.name}")
    return present((str(own), *PACKAGES[package]))


def present(paths: Sequence[str]) -> tuple[str, ...]:
    """Those that are there."""
    return tuple(path for path in paths if (REPOSITORY / path).exists())


def files_of(names: Sequence[str]) -> list[Path]:
    """The modules of packages or of single files.

    Raises:
        SystemExit: one of them is not there.
    """
    found: list[Path] = []
    for name in names:
        path = Path("jobmaster", name) if name in PACKAGES else Path(name)
        if len(path.parts) < 2 or path.parts[1] not in PACKAGES or not (REPOSITORY / path).exists():
            sys.exit(f"mutants: {name} is neither a package ({', '.join(PACKAGES)}) nor a file of one")
        full = REPOSITORY / path
        found += sorted(file.relative_to(REPOSITORY) for file in (full.rglob("*.py") if full.is_dir() else [full]))
    return found


async def prepare(copies: Sequence[Copy], files: Sequence[Path]) -> list[Task]:
    """The tasks of these modules. In each copy the unchanged tests are run first, which also compiles them.

    Raises:
        SystemExit: they do not pass.
    """
    seconds = LEAST_TIMEOUT
    for package in sorted({file.parts[1] for file in files}):
        tests = present(PACKAGES[package])
        begin = time.monotonic()
        fates = await run_everywhere(copies, tests)
        if set(fates) != {Fate.SURVIVED}:
            sys.exit(f"mutants: the unchanged code does not pass {' '.join(tests)}; run them with pytest")
        seconds = max(seconds, 5 * (time.monotonic() - begin))
    return [
        Task(mutant=mutant, tests=tests_of(file), seconds=seconds)
        for file in files
        for mutant in mutants_of(file, (REPOSITORY / file).read_text())
    ]


async def run_everywhere(copies: Sequence[Copy], tests: Sequence[str]) -> list[Fate]:
    """What the tests make of each copy as it is, all at the same time."""
    fates: list[Fate] = []

    async def run_in(copy: Copy) -> None:
        fates.append(await copy.run_tests(tests, seconds=FIRST_TIMEOUT, keeps_bytecode=True))

    async with trio.open_nursery() as nursery:
        for copy in copies:
            nursery.start_soon(run_in, copy)
    return fates


async def try_all(copies: Sequence[Copy], tasks: Sequence[Task]) -> dict[Mutant, Fate]:
    """Every mutant's fate."""
    waiting = iter(tasks)
    fates: dict[Mutant, Fate] = {}

    async def work(copy: Copy) -> None:
        for task in waiting:
            fate = fates[task.mutant] = await copy.judge(task)
            if fate is Fate.SURVIVED:
                print(f"survived: {task.mutant}", flush=True)

    async with trio.open_nursery() as nursery:
        for copy in copies:
            nursery.start_soon(work, copy)
    return fates


async def run(files: Sequence[Path], sample: int | None, seed: int) -> dict[Mutant, Fate]:
    """Try the mutants of these files, or so many of them."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-mutants-") as folder:
        workers = WORKERS if sample is None else min(WORKERS, sample)
        copies = [Copy(Path(folder, str(number))) for number in range(workers)]
        tasks = await prepare(copies, files)
        if sample is not None and sample < len(tasks):
            tasks = random.Random(seed).sample(tasks, sample)
        print(f"{len(tasks)} mutants of {len(files)} files", flush=True)
        return await try_all(copies, tasks)


def report(fates: dict[Mutant, Fate]) -> float:
    """Tell how many died in each file; the share of all that did."""
    for file in sorted({mutant.file for mutant in fates}):
        counts = Counter(fate for mutant, fate in fates.items() if mutant.file == file)
        told = ", ".join(f"{counts[fate]} {fate.value}" for fate in Fate)
        print(f"{file}: {told}")
    survived = sum(fate is Fate.SURVIVED for fate in fates.values())
    share = 1 - survived / len(fates)
    print(f"{len(fates)} mutants, {survived} survived: {share:.1%} died")
    return share


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; 0 where enough of them die."""
    parser = argparse.ArgumentParser(
        prog="nox -s mutants --", description="Change the code and see whether a test fails."
    )
    parser.add_argument("names", nargs="*", metavar="PACKAGE or FILE", help=f"of {', '.join(PACKAGES)}; all by default")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many, at random")
    parser.add_argument("--seed", type=int, default=0, help="of that choice (0)")
    parser.add_argument("--at-least", type=float, default=90.0, metavar="PERCENT", help="that have to die (90)")
    options = parser.parse_args(arguments)
    files = files_of(
        options.names or [package for package in PACKAGES if (REPOSITORY / "jobmaster" / package).is_dir()]
    )
    fates = trio.run(run, files, options.sample, options.seed)
    return 0 if 100 * report(fates) >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
