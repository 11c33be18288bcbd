"""What the service manager is told, and when it cannot be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from jobmaster.launcher.notification import Notifier


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_both_kinds_of_addresses(kind: str, tmp_path: Path) -> None:
    """A path, and a name that "@" begins."""
    address = str(tmp_path / "notify") if kind == "path" else f"@jobmaster-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.setblocking(False)
        notifier = Notifier(address)
        notifier.ready()
        assert manager.recv(100) == b"READY=1\nSTATUS="
        notifier.ready()
        notifier.stopping()
        assert manager.recv(100) == b"STOPPING=1\nSTATUS="


@pytest.mark.parametrize("address", [None, ""])
def test_no_service_manager(address: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody is told, and that is no error."""
    Notifier(address).ready()
    assert capfd.readouterr().err == ""


def test_a_service_manager_that_is_gone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is said what could not be told, and the launcher goes on."""
    Notifier(str(tmp_path / "none")).ready()
    assert capfd.readouterr().err == "launcher: the service manager cannot be told READY=1: No such file or directory\n"


def test_signs_of_life(tmp_path: Path) -> None:
    """Each is told, and takes no state's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        notifier = Notifier(str(tmp_path / "notify"))
        notifier.ready()
        for _ in range(2):
            notifier.alive()
        notifier.ready()
        told = [manager.recv(100) for _ in range(3)]
        assert told == [b"READY=1\nSTATUS=", b"WATCHDOG=1", b"WATCHDOG=1"]
        assert notifier.told == "READY=1"
        with pytest.raises(BlockingIOError):
            manager.recv(100)
