"""A network of its own for a test, of which nothing is left but the loopback device; and that can be cut.

The namespace is held by a process and entered through /proc. Those of `ip netns` are held by mounts, which cannot be made
where / is no mount point, as in a chroot.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import pytest

_CLONE_NEWNET: Final = 0x40000000
"""Of linux/sched.h."""
_PROGRAMS: Final = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
"""The programs that are needed, each with its Debian package."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network namespace whose loopback device is up. Made by `own_network`, which owns the process that holds it."""

    holder: int

    @property
    def _path(self) -> str:
        return f"/proc/{self.holder}/ns/net"

    def command(self, *arguments: str) -> list[str]:
        """A command that runs in it."""
        return ["nsenter", f"--net={self._path}", *arguments]

    def new_socket(self) -> socket.socket:
        """A TCP socket in it, for whoever uses it from wherever: a socket stays where it was made."""
        made: list[socket.socket] = []
        thread = threading.Thread(target=lambda: made.append(self._enter_and_make()))
        thread.start()
        thread.join()
        return made[0]

    def _enter_and_make(self) -> socket.socket:
        namespace = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):  # this thread alone
                raise OSError(ctypes.get_errno(), "setns")
            return socket.socket()
        finally:
            os.close(namespace)

    def set_loopback(self, state: str) -> None:
        """Bring its loopback device `up` or `down`."""
        subprocess.run(self.command("ip", "link", "set", "lo", state), check=True)

    def cut(self) -> None:
        """From now on every packet is lost, in both directions, and nobody is told."""
        self.set_loopback("down")


@contextmanager
def own_network() -> Iterator[Network]:
    """Such a network, for the block."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}, of Debian's package {package}")
    # It echoes a line, and ends with its standard input, so with this process too.
    holding = ["unshare", "--net", "cat"]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        with suppress(BrokenPipeError):
            holder.stdin.write(b"made\n")
        if holder.stdout.readline() != b"made\n":
            pytest.skip("needs to make a network namespace (CAP_SYS_ADMIN)")
        network = Network(holder.pid)
        network.set_loopback("up")
        yield network
