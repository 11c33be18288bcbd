"""A job whose every byte is known by its offset, and followers that hold what they are told against it."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from jobmaster.client import Jobs
from jobmaster.jobs.v1 import jobs_pb2 as pb

CODE: Final = 42
"""What the job returns."""
_BLOCK: Final = 16
_KEY: Final = bytes(_BLOCK)
STREAM: Final = f"openssl enc -aes-128-ctr -K {_KEY.hex()} -iv {_KEY.hex()} </dev/zero 2>/dev/null"
"""A command of sh that writes the known bytes, as quickly as any disk takes them."""
_TOLD: Final = f'exec 3<"$0"; {STREAM} | while read -r count <&3; do head -c "$count"; done; exit {CODE}'


def known(start: int, length: int) -> bytes:
    """The bytes from an offset on."""
    counter, skipped = divmod(start, _BLOCK)
    stream = Cipher(AES(_KEY), CTR(counter.to_bytes(_BLOCK))).encryptor()
    return stream.update(bytes(skipped + length))[skipped:]


@dataclass(slots=True, eq=False)
class Told:
    """What one follower was told, from the first byte on.

    Attributes:
        end: the offset behind it.
        kept: bytes that came.
        gaps: bytes that did not, by reason.
    """

    end: int = 0
    kept: int = 0
    gaps: Counter[int] = field(default_factory=Counter)

    @property
    def missing(self) -> int:
        """Bytes in gaps."""
        return self.gaps.total()

    def take(self, chunk: pb.OutputChunk) -> None:
        """Takes the next chunk, which has to be the truth and to leave nothing out."""
        assert chunk.offset == self.end, f"{chunk.offset - self.end} bytes are left out at {self.end}"
        if chunk.HasField("gap"):
            assert chunk.gap.length > 0
            self.gaps[chunk.gap.reason] += chunk.gap.length
            self.end += chunk.gap.length
            return
        assert chunk.data == known(self.end, len(chunk.data)), f"not what was written at {self.end}"
        self.kept += len(chunk.data)
        self.end += len(chunk.data)

    async def follow(self, jobs: Jobs, job_id: str) -> Told:
        """Follows a job to its end."""
        async with jobs.follow_output(job_id) as chunks:
            async for chunk in chunks:
                self.take(chunk)
        return self

    def agrees_with(self, record: pb.JobResponse, written: int) -> None:
        """Fails unless every byte that was written is told as kept or missing, as the record has it."""
        accounted = accounted_for(record)
        assert accounted == written == self.end, f"{written} written, {accounted} in the record, {self.end} told"
        assert self.kept == record.output_bytes
        assert self.gaps[pb.GAPREASON_CAPPED] == record.output_bytes_dropped
        assert self.missing == record.output_bytes_lost + record.output_bytes_dropped


def accounted_for(record: pb.JobResponse) -> int:
    """Bytes of a job's output, kept or not."""
    return record.output_bytes + record.output_bytes_lost + record.output_bytes_dropped


class KnownJob:
    """A job that writes as many known bytes as it is told, and then returns CODE. Made by `known_job`."""

    def __init__(self, jobs: Jobs, job_id: str, orders: int) -> None:
        self.jobs = jobs
        self.id = job_id
        self.written = 0
        self._orders = orders

    def write(self, count: int) -> None:
        """Has it write so many bytes; does not wait for that."""
        self.written += count
        os.write(self._orders, b"%d\n" % count)

    async def settle(self) -> pb.JobResponse:
        """The record when all that it has written is accounted for."""
        with trio.fail_after(150):
            while accounted_for(record := await self.jobs.status(self.id)) < self.written:
                await trio.sleep(0.02)
        return record

    def finish(self) -> None:
        """Has it return."""
        orders, self._orders = self._orders, -1
        if orders >= 0:
            os.close(orders)

    async def ended(self) -> pb.JobResponse:
        """Has it return; its record then."""
        self.finish()
        with trio.fail_after(150):
            record = await self.jobs.wait(self.id)
        assert record.cause.exited.code == CODE, record
        return record


@asynccontextmanager
async def known_job(jobs: Jobs) -> AsyncIterator[KnownJob]:
    """Starts one."""
    with _fifo() as path:
        orders = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            job = KnownJob(jobs, await jobs.start("sh", "-c", _TOLD, str(path)), orders)
        except BaseException:
            os.close(orders)
            raise
        try:
            yield job
        finally:
            job.finish()


@contextmanager
def _fifo() -> Iterator[Path]:
    """A FIFO that the jobs' user can read."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-known-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        path = folder / "orders"
        os.mkfifo(path)
        path.chmod(0o644)
        yield path
