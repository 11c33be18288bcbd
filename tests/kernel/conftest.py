"""Everything in this folder changes the cgroups of the whole machine, so it runs in the virtual machine alone."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def guest() -> None:
    """Skip outside the virtual machine, whatever markers were asked for."""
    if os.environ.get("JOBMASTER_GUEST") != "1":
        pytest.skip("runs in the virtual machine of `nox -s kernel`")
