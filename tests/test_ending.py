"""The end of a program."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

PROGRAM: Final = "import atexit; from jobmaster.ending import end; atexit.register(print, 'taken apart'); end(7)"


def test_nothing_is_taken_apart() -> None:
    """The process ends at once, with its status."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"")


def test_a_profile_is_written() -> None:
    """A program that is profiled ends as any other, so that its profile is written."""
    script = f"import sys; sys.argv = ['-']; exec({PROGRAM!r})"
    profiled = f"import cProfile; cProfile.run({script!r})"
    done = subprocess.run([sys.executable, "-c", profiled], capture_output=True, check=False)
    assert b"function calls" in done.stdout
    assert b"taken apart" in done.stdout
