"""Much output and three followers: each byte for byte, within the memory bound."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs
from tests.harness import serving_program

MIB: Final = 1024**2
OUTPUT: Final = int(os.environ.get("OUTPUT_MIB", "256")) * MIB
"""More than the server may have of memory; a gibibyte in the nox session `abuse`."""
MOST_MEMORY: Final = 150 * 1024
"""KiB."""
# Pseudo-random, so that a piece out of place shows; the generator is as quick as a disk.
WRITER: Final = (
    f"openssl enc -aes-128-ctr -pass pass:jobmaster -nosalt -iter 1 </dev/zero 2>/dev/null | head -c {OUTPUT}"
)


@pytest.fixture
def roomy_folder() -> Iterator[Path]:
    """A folder with room for the output, in memory where the host has it, so that the disk is not what is tried."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > 2 * OUTPUT
    with tempfile.TemporaryDirectory(dir=shared if roomy else None) as folder:
        yield Path(folder)


async def digest(jobs: Jobs, job_id: str, digests: list[str]) -> None:
    """Follows a job and notes the SHA-256 of what came."""
    total = hashlib.sha256()
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            total.update(chunk)
    digests.append(total.hexdigest())


async def test_much_output_to_three_followers(roomy_folder: Path, certificates: Path) -> None:
    """Followers that join at the start, in the middle and after the end receive all of it; the server stays small."""
    digests: list[str] = []
    async with serving_program(roomy_folder, certificates) as (server, _process):
        async with server.connect() as early, server.connect() as late, server.connect() as after:
            job_id = await early.start("sh", "-c", WRITER)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(digest, early, job_id, digests)
                while (await late.status(job_id)).output_bytes < OUTPUT // 4:
                    await trio.sleep(0.01)
                nursery.start_soon(digest, late, job_id, digests)
            record = await after.status(job_id)
            await digest(after, job_id, digests)
        memory = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
        with (server.output / f"{job_id}.log").open("rb") as log:
            kept = hashlib.file_digest(log, "sha256").hexdigest()
    assert (record.output_bytes, record.output_bytes_lost) == (OUTPUT, 0)
    assert digests == [kept] * 3
    assert memory is not None
    assert int(memory[1]) < MOST_MEMORY
