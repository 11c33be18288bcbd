"""How much is done, by the command line, and where jobs leave their marks."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

FEW_KILLS: Final = 5
MANY_KILLS: Final = 100
"""From so many on, all of each table is done, and not a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is to be done.

    Attributes:
        kills: deaths of servers at random moments.
        seed: of all that is random but the kernel.
    """

    kills: int
    seed: int

    @property
    def is_short(self) -> bool:
        """Whether a sample is to do instead of all of the table."""
        return self.kills < MANY_KILLS


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the nox session is told."""
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=FEW_KILLS, help="deaths of servers at random moments")
    group.addoption("--seed", type=int, default=None, help="of all that is random but the kernel")


@pytest.fixture(scope="session")
def extent(pytestconfig: pytest.Config) -> Extent:
    """As the command line says; where these tests are some of many, the short form."""
    seed = pytestconfig.getoption("--seed", None)
    if seed is None:
        seed = random.randrange(1_000_000)
    print(f"to do it again: --seed {seed}")
    return Extent(kills=pytestconfig.getoption("--kills", FEW_KILLS), seed=seed)


@pytest.fixture
def chance(extent: Extent) -> random.Random:
    """Random numbers that the seed repeats."""
    return random.Random(extent.seed)


@pytest.fixture
def marks() -> Iterator[Path]:
    """A file that the jobs' user can append to."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-faults-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        file = folder / "ran"
        file.touch()
        file.chmod(0o666)
        yield file
