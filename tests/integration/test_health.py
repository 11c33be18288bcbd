"""What a client that watches the server's health hears while the server ends."""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

import trio

from tests.harness import Server, serving_program, until_output
from tests.integration.test_grpcurl import grpcurl_binary

DEAF: Final = "trap '' TERM; echo up; while :; do sleep 1; done"
UNAVAILABLE: Final = 14


def watch_command(server: Server) -> list[str]:
    """A grpcurl that watches the whole server, by reflection, so that a reflection stream stays open beside the watch."""
    folder = server.certificates
    return [
        *(grpcurl_binary(), "-cacert", str(folder / "server_ca_cert.pem")),
        *("-cert", str(folder / "client1_cert.pem"), "-key", str(folder / "client1_key.pem")),
        *(f"localhost:{server.port}", "grpc.health.v1.Health/Watch"),
    ]


async def read_until(process: trio.Process, word: bytes) -> bytes:
    """What the process writes, up to a word."""
    assert process.stdout is not None
    seen = b""
    with trio.fail_after(60):
        while word not in seen:
            chunk = await process.stdout.receive_some()
            assert chunk, f"it ended without {word!r}: {seen!r}"
            seen += chunk
    return seen


async def test_watch_through_the_shutdown(tmp_path: Path, certificates: Path) -> None:
    """A watch hears NOT_SERVING while jobs are still ending, then ends as UNAVAILABLE with the server, whom it does not keep."""
    async with (
        serving_program(tmp_path, certificates, "--grace", "3000") as (server, process),
        server.connect() as jobs,
        trio.open_nursery() as nursery,
    ):
        job_id = await jobs.start("sh", "-c", DEAF)
        await until_output(jobs, job_id, b"up\n")
        run = partial(trio.run_process, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        watcher = await nursery.start(run, watch_command(server))
        await read_until(watcher, b'"SERVING"')
        process.send_signal(signal.SIGTERM)
        await read_until(watcher, b'"NOT_SERVING"')
        with trio.fail_after(60):
            while not (await jobs.status(job_id)).job_msg.startswith("stopping"):
                await trio.lowlevel.checkpoint()
        process.send_signal(signal.SIGTERM)  # ends the grace period
        with trio.fail_after(60):
            assert await watcher.wait() == 64 + UNAVAILABLE
            errors = await watcher.stderr.receive_some()
            assert b"the server is shutting down" in errors
            assert b"google.rpc.RetryInfo" in errors
            assert await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True) == 0
