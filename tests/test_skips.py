"""A test that is skipped says what its place lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.harness import REPOSITORY

SKIPS = """
import pytest, trio

def test_plain(): pytest.skip("no disk")

async def test_asynchronous():
    async with trio.open_nursery():
        pytest.skip("no network")
"""


def test_reasons_are_told(tmp_path: Path) -> None:
    """The reason is in the summary, be the test asynchronous or not."""
    file = tmp_path / "test_it.py"
    file.write_text(SKIPS)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-o", "trio_mode=true", "-rs", f"--rootdir={tmp_path}"]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert run.returncode == 0, run.stdout
    assert "no disk" in run.stdout
    assert "no network" in run.stdout
