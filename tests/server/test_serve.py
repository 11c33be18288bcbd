"""By which interpreter, and from where, the server is started that `python -m jobmaster.serve` asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobmaster import serve
from jobmaster.serve import _interpreter_options

SERVER = """
import json, os, sys
print(json.dumps({
    "file": __file__, "argv": sys.argv[1:], "path": sys.path, "warnings": sys.warnoptions, "x": sys._xoptions,
    "flags": {name: getattr(sys.flags, name) for name in ("isolated", "no_user_site", "safe_path", "optimize", "verbose")},
    "home": os.environ.get("PYTHONWARNINGS"),
}))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with another version of the package, whose launcher starts the server at once, which tells what it is."""
    package = tmp_path / "jobmaster"
    for name, text in (
        ("__init__.py", ""),
        ("launcher/__main__.py", "import os, sys; os.execv(sys.argv[2], sys.argv[2:])"),
        ("server/__init__.py", ""),
        ("server/__main__.py", SERVER),
    ):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    shutil.copy(serve.__file__, package / "serve.py")
    return tmp_path


def started(
    folder: Path, *options: str, module: tuple[str, ...] = ("-m", "jobmaster.serve"), **env: str
) -> dict[str, Any]:
    """What the server tells that these options start in this folder."""
    command = [sys.executable, *options, *module, "--listen", "here"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["argv"] == ["--listen", "here"]
    return told


@pytest.mark.parametrize("options", [(), ("-E",), ("-sE",), ("-E", "-B", "-O"), ("-X", "dev")])
def test_a_checkout_starts_its_own_version(checkout: Path, options: tuple[str, ...]) -> None:
    """Whatever the interpreter is to ignore, and without looking for modules in the working folder."""
    told = started(checkout, *options)
    assert told["file"] == str(checkout / "jobmaster" / "server" / "__main__.py")
    assert told["flags"]["safe_path"]
    assert "" not in told["path"]
    assert told["flags"]["optimize"] == options.count("-O")
    assert told["flags"]["no_user_site"] == any("s" in option for option in options)


def test_an_environment_that_is_ignored(checkout: Path) -> None:
    """What it says to Python is ignored by the server, too, and elsewhere it is not."""
    assert started(checkout, PYTHONWARNINGS="ignore")["warnings"] == ["ignore"]
    assert started(checkout, "-E", PYTHONWARNINGS="ignore", PYTHONOPTIMIZE="2")["warnings"] == []
    assert started(checkout, "-E", PYTHONOPTIMIZE="2")["flags"]["optimize"] == 0


def test_options_in_one_word(checkout: Path) -> None:
    """However they are written, the server has them."""
    told = started(checkout, "-OWerror::ImportWarning", "-Xutf8", module=("-sm", "jobmaster.serve"))
    assert (told["warnings"], told["x"]) == (["error::ImportWarning"], {"utf8": True})
    assert (told["flags"]["optimize"], told["flags"]["no_user_site"]) == (1, 1)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["-I", "-m", "jobmaster.serve"], ["-I"]),
        (["-mjobmaster.serve"], []),
        (["-W", "error", "-mjobmaster.serve", "-E"], ["-W", "error"]),
        (["--check-hash-based-pycs", "never", "-m", "jobmaster.serve"], ["--check-hash-based-pycs", "never"]),
        (["-OO", "-m", "jobmaster.serve"], ["-O", "-O"]),
        (["-E", "-m", "pytest", "-m", "jobmaster.serve"], []),
        (["-c", "import jobmaster.serve", "-m", "jobmaster.serve"], []),
        (["-E", "program.py", "-m", "jobmaster.serve"], []),
    ],
)
def test_interpreter_options(words: list[str], options: list[str]) -> None:
    """They are those before the module, where that is this one; none are taken from a program's arguments."""
    assert _interpreter_options(["python", *words]) == options
