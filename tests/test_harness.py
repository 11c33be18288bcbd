"""What the tests ask of the processes they start."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from tests.harness import command_line, servers_of

LAUNCHER: Final = """
import os, subprocess, sys
if os.fork():
    server = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", *sys.argv[1:]])
    print(server.pid, flush=True)
sys.stdin.read()
"""
"""Has one child that executed a server, and another that executes nothing; all end with their standard input."""


def test_what_a_launcher_has_only_forked_is_no_server() -> None:
    """A child that is held before its exec has the launcher's command line, which names the server as well."""
    command = [sys.executable, "-c", LAUNCHER, "-m", "jobmaster.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        server = int(launcher.stdout.readline())
        while command_line(server) == command_line(launcher.pid):
            pass  # it is about to be executed
        assert servers_of(launcher.pid) == [server]


def test_a_process_that_was_reaped() -> None:
    """It has no command line."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert command_line(process.pid) == b""
