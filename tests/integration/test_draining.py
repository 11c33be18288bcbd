"""An admin has a server take no new jobs, over mTLS and over a crash and an upgrade of the server."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import PermissionDeniedError, UnavailableError

from tests.audit.entries import entries_in
from tests.harness import REPOSITORY, serving_program
from tests.integration.test_adoption import DEADLINE, wait_for_successor
from tests.integration.test_command_line import command


async def test_a_server_is_drained(tmp_path: Path, certificates: Path) -> None:
    """Who starts a job has the note at once, also from the servers that follow; one that runs goes on; then all is as before."""
    async with (
        serving_program(tmp_path, certificates) as (server, _),
        server.connect() as jobs,
        server.connect("superuser") as admins,
    ):
        job_id = await jobs.start("sleep", "1000", request_id="first")
        with pytest.raises(PermissionDeniedError):
            await jobs.drain("mine")
        with trio.fail_after(DEADLINE):
            await admins.drain("a disk is replaced", timeout_ms=3_600_000)
            for process, number in ((server.pid, signal.SIGKILL), (server.launcher, signal.SIGUSR2), (0, 0)):
                with pytest.raises(UnavailableError, match="a disk is replaced"):
                    await jobs.start("true")
                assert await jobs.start("sleep", "1000", request_id="first") == job_id
                if process:
                    old = server.pid
                    os.kill(process, number)
                    await wait_for_successor(server, old)
            run = partial(trio.run_process, cwd=REPOSITORY, capture_stdout=True, check=False)
            refused = await run(command(server, "run", "true"), capture_stderr=True)
            assert refused.returncode != 0
            assert b"a disk is replaced" in refused.stderr
            info = (await run(command(server, "info"))).stdout.decode()
            assert "NOT TAKEN" in info
            assert "superuser" in info
            told = (await jobs.server_info()).draining
            assert (told.note, told.by, told.until.seconds - told.since.seconds) == (
                "a disk is replaced",
                "superuser",
                3600,
            )
            assert (await run(command(server, "undrain", name="superuser"))).returncode == 0
            await jobs.start("true")
            assert not (await jobs.server_info()).HasField("draining")
            assert not (await jobs.status(job_id)).HasField("ended")
    called = [
        (entry["client"], entry["method"].rpartition("/")[2], entry.get("outcome"))
        for entry in entries_in(tmp_path / "output" / "audit")
        if entry["kind"] == "call" and entry["method"].endswith("rain")
    ]
    assert ("client1", "Drain", "PERMISSION_DENIED") in called
    assert ("superuser", "Drain", "OK") in called
    assert ("superuser", "Undrain", "OK") in called
