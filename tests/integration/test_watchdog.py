"""A server that hangs, under a service manager that waits for signs of life."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Final

import trio

from jobmaster.launcher.watchdog import MICROSECONDS, PID
from tests.harness import first_chunk, serving_program
from tests.integration.test_upgrade import is_replaced

SECONDS: Final = 8


async def test_a_server_that_hangs_is_replaced(tmp_path: Path, certificates: Path) -> None:
    """It is killed though it hears no signal; another one goes on with its job, and the manager is told that all goes on."""
    log = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, log.open("wb") as stderr:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        words = f"NOTIFY_SOCKET={tmp_path / 'notify'} {MICROSECONDS}={SECONDS}000000 {PID}=$$"
        under = ("sh", "-c", f'exec env {words} "$@"', "sh")  # as systemd does: it names the process that it starts
        async with (
            serving_program(tmp_path, certificates, under=under, stderr=stderr.fileno()) as (server, _),
            server.connect() as jobs,
        ):
            job_id = await jobs.start("sh", "-c", "trap 'exit 7' USR1; echo up; while :; do sleep 0.01; done")
            await first_chunk(jobs, job_id)
            pid, old = (await jobs.status(job_id)).pid, server.pid
            os.kill(old, signal.SIGSTOP)
            with trio.fail_after(120):
                while not is_replaced(server, old):
                    await trio.sleep(0.05)
            os.kill(pid, signal.SIGUSR1)
            record = await jobs.wait(job_id)
            assert (record.pid, record.exit_code) == (pid, 7)
        assert "the server has not said that it is alive for 9 s, and was killed; its jobs go on" in log.read_text()
        assert {b"READY=1\nSTATUS=", b"WATCHDOG=1"} <= told(manager)


def told(manager: socket.socket) -> set[bytes]:
    """What the service manager was told."""
    found = set()
    try:
        while True:
            found.add(manager.recv(1000))
    except BlockingIOError:
        return found
