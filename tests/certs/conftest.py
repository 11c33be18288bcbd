"""What the tests of certificates and identities share."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from jobmaster.certs.authority import initialise

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a certificate folder fresh from `initialise`, of a server reached as server.example too."""
    initialise(tmp_path / "certs", hosts=["server.example"])
    return tmp_path / "certs"


@pytest.fixture
def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the host's own names off the network: getfqdn asks the resolver."""
    monkeypatch.setattr(socket, "gethostname", lambda: "host")
    monkeypatch.setattr(socket, "getfqdn", lambda: "host.example")
