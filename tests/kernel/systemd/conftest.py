"""These tests need a guest whose first process is systemd."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import REPOSITORY
from tests.kernel.systemd.service import RUNNING_SYSTEMD, Service


@pytest.fixture
async def service(tmp_path: Path, certificates: Path) -> AsyncIterator[Service]:
    """The unit of `jobmaster install-unit`, for a program that was installed for it; not started yet, and stopped at the end."""
    if not RUNNING_SYSTEMD.exists():
        pytest.skip("runs in the guest with systemd of `nox -s power`")
    shutil.copytree(REPOSITORY / "jobmaster", tmp_path / "installed" / "jobmaster")
    service = Service(installed=tmp_path / "installed", output=tmp_path / "output", certificates=certificates)
    await service.install()
    yield service
    await service.systemctl("stop")
