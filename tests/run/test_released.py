"""A child that was released: its descriptor's number may be another process's by now."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from tests.run.launching import DEADLINE, Host


@contextmanager
def another_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no child of the launcher."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_signals_after_the_release(host: Host) -> None:
    """A signal to a child that was released reaches nobody, though its pidfd's number names another process."""
    with another_process() as other:
        async with host.child("true") as (child, _):
            number = child._pidfd
            child.release()
            with trio.fail_after(DEADLINE):
                await child.wait_forgotten()
            pidfd = os.pidfd_open(other.pid)
            assert os.dup2(pidfd, number) == number
            child.send_signal(signal.SIGKILL)
            assert child.has_died()
        other.terminate()
        assert other.wait() == -signal.SIGTERM
        for fd in {pidfd, number}:
            os.close(fd)
