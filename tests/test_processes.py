"""What is told of a launcher's children, from its fork to the death of the server."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from tests.processes import command_line, servers_of

LAUNCHER: Final = """
import os, subprocess, sys
if os.fork():
    server = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", *sys.argv[3:]])
    print(server.pid, flush=True)
sys.stdin.read()
"""
"""Has one child that executed a server, and another that executes nothing; all end with their standard input."""


def test_what_a_launcher_has_only_forked_is_no_server() -> None:
    """A child that is held before its exec has the launcher's command line, which names the server as well."""
    command = [sys.executable, "-c", LAUNCHER, "--", "python", "-m", "jobmaster.server", "--listen"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        server = int(launcher.stdout.readline())
        while command_line(server) in (command_line(launcher.pid), b""):
            pass  # it is about to be executed, or just being so
        assert servers_of(launcher.pid) == [server]


def test_a_process_that_was_reaped() -> None:
    """It has no command line."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert command_line(process.pid) == b""
