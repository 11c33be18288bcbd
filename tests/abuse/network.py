"""A network of its own for a test, of which nothing is left but the loopback device; and that can be cut."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_CLONE_NEWNET: Final = 0x40000000
"""Of linux/sched.h."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network namespace whose loopback device is up. Made by `own_network`."""

    name: str

    def command(self, *arguments: str) -> list[str]:
        """A command that runs in it."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def new_socket(self) -> socket.socket:
        """A TCP socket in it, for whoever uses it from wherever: a socket stays where it was made."""
        made: list[socket.socket] = []
        thread = threading.Thread(target=lambda: made.append(self._enter_and_make()))
        thread.start()
        thread.join()
        return made[0]

    def _enter_and_make(self) -> socket.socket:
        namespace = os.open(Path("/run/netns") / self.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):  # this thread alone
                raise OSError(ctypes.get_errno(), "setns")
            return socket.socket()
        finally:
            os.close(namespace)

    def cut(self) -> None:
        """From now on every packet is lost, in both directions, and nobody is told."""
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "down"], check=True)


@contextmanager
def own_network() -> Iterator[Network]:
    """Such a network, for the block."""
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip, of Debian's package iproute2")
    name = f"jobmaster-test-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], check=False).returncode:
        pytest.skip("needs to make a network namespace (CAP_SYS_ADMIN)")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Network(name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
