"""These tests run on the host, and boot guests themselves."""

from __future__ import annotations

import shutil

import pytest

PROGRAMS = ("linux.uml", "setpriv")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long to try."""
    parser.addoption("--cuts", type=int, default=3, help="how often the power is cut")


@pytest.fixture(scope="session", autouse=True)
def guest() -> None:
    """In place of that of the folder above: no guest is needed."""


@pytest.fixture(scope="session")
def kernel() -> None:
    """Skip where no guest can be booted."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}; run by `nox -s power`")
