"""What many tests share: one set of certificates, and a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobmaster.certs import authority
from tests.harness import Server, serving


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate folder as `jobmaster.certs init` makes it."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.initialise(folder)
    return folder


@pytest.fixture
async def server(tmp_path: Path, certificates: Path) -> AsyncIterator[Server]:
    """A server in this process, with no options but those that keep it to the test's folder."""
    async with serving(tmp_path, certificates) as running:
        yield running
