"""A launcher for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from jobmaster.run.launcher import attached_launcher, use_launcher
from tests.run.launching import Folder, Host, jobs_folder


@pytest.fixture
def folder() -> Iterator[Folder]:
    """A folder for jobs."""
    with jobs_folder() as made:
        yield made


@pytest.fixture
async def host(folder: Folder) -> AsyncIterator[Host]:
    """A launcher that puts its children into `folder`."""
    async with (
        attached_launcher() as sock,
        use_launcher(sock, kill_fd=folder.kill, lock_fd=folder.lock) as launcher,
    ):
        yield Host(launcher=launcher, folder=folder)
