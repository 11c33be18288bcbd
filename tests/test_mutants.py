"""What is changed by mutation testing, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants
from tests.harness import REPOSITORY
from tests.mutants import Fate, Mutant


def changes(source: str) -> list[str]:
    """The changed modules of this one."""
    return [mutant.source for mutant in mutants.mutants_of(Path("jobmaster/job/made.py"), source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["a <= b", "a >= b"]),
        ("a == b", ["a != b"]),
        ("a is b", ["a is not b"]),
        ("a not in b", ["a in b"]),
        ("a and b", ["a or b"]),
        ("not a", ["a"]),
        ("a + b", ["a - b"]),
        ("a % b", ["a * b"]),
        ("7", []),  # a statement of a constant says nothing
        ("f(7)", ["pass", "f(8)"]),
        ("f(True)", ["pass", "f(False)"]),
        ("f(b'x')", ["pass", "f(b'xX')"]),
        ("x = y", ["pass"]),
        ("x += y", ["x -= y", "pass"]),
        ("x: int = 7", ["x: int = 8"]),
        ("raise E('text')", ["pass"]),
        ("raise E(7)", ["pass", "raise E(8)"]),
        ("connection_error(E, 'text')", ["pass"]),
        ("connection_error(7, 'text')", ["pass", "connection_error(8, 'text')"]),
        ("raise E('text', field='x')", ["pass", "raise E('text', field='xX')"]),
        ("return HostError('text')", ["return None"]),
        ("logger.error('%s text', 7)", ["pass", "logger.error('%s text', 8)"]),
        ("self._logged('text')", ["pass"]),
        ("nursery.start_soon(self._persist, 'text')", ["pass"]),
        (
            "with self._logged('text'):\n    f('x')",
            ["with self._logged('text'):\n    pass", "with self._logged('text'):\n    f('xX')"],
        ),
        ("f('text')", ["pass", "f('textX')"]),
        ('def f():\n    """Says."""\n    return x', ['def f():\n    """Says."""\n    return None']),
        ("if a:\n    b", ["if not a:\n    b"]),
        ("while a > b:\n    pass", ["while a >= b:\n    pass", "while a <= b:\n    pass"]),
    ],
)
def test_changes(source: str, expected: list[str]) -> None:
    """Each kind of change, one at a time."""
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "'text'",
        "import a",
        "from a import b",
        "a: int | 7",
        "f'{a} text 7'",
        "__all__ = ['a']",
        "None\n...",
        "assert_never(unreachable)",
        "T = TypeVar('T')",
        "a | b",
    ],
)
def test_what_no_test_should_hold(source: str) -> None:
    """Texts, annotations, imports and unions of types stay as they are."""
    assert changes(source) == []


def test_where() -> None:
    """A mutant tells its file, its line, and both texts."""
    (mutant,) = mutants.mutants_of(Path("jobmaster/job/made.py"), "\n\nx = y\n")
    assert str(mutant) == "jobmaster/job/made.py:3: x = y  →  pass"


def test_every_module_has_mutants_that_compile() -> None:
    """All mutants of a real package are Python, and differ from what they were made of."""
    files = mutants.files_of(["job"])
    found = [mutant for file in files for mutant in mutants.mutants_of(file, (REPOSITORY / file).read_text())]
    assert len(found) > len(files)
    for mutant in found:
        compile(mutant.source, mutant.file, "exec")
    assert len({(mutant.file, mutant.source) for mutant in found}) > 0.9 * len(found)


def test_share(capsys: pytest.CaptureFixture[str]) -> None:
    """A mutant that timed out died; what survived counts against the package."""
    fates = {
        Mutant(file=Path("a.py"), line=line, change="", source=""): fate
        for line, fate in enumerate([Fate.KILLED, Fate.KILLED, Fate.TIMED_OUT, Fate.SURVIVED])
    }
    assert mutants.report(fates) == 0.75
    assert "2 killed, 1 timed out, 1 survived" in capsys.readouterr().out


def test_unknown_room() -> None:
    """A name that is neither package nor file is refused with the packages there are."""
    with pytest.raises(SystemExit, match="neither a package"):
        mutants.files_of(["jobmaster/serve.py"])


def test_program() -> None:
    """A sample of a real package is tried; a mutant is judged by the package's tests, not by the installed package's code."""
    command = [sys.executable, "-m", "tests.mutants", "--sample", "1", "--at-least", "0", "jobmaster/job/identifier.py"]
    run = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "1 mutants of 1 files" in run.stdout
    assert run.stdout.splitlines()[-1].startswith("1 mutants, ")
