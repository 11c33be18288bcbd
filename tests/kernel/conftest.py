"""Everything in this folder changes the cgroups of the whole machine, so it runs in a guest alone."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def guest() -> None:
    """Skip outside a guest, whatever markers were asked for."""
    if os.environ.get("JOBMASTER_GUEST") != "1":
        pytest.skip("runs in the guest of `nox -s kernel`")
