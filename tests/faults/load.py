"""Clients that start, follow and stop jobs whose ends and bytes are known, while servers die.

A client makes each call once: our library repeats what breaks. What it is told is kept, and held against the truth: the
mark that each command leaves where it runs, the bytes that it writes, the way in which it ends.
"""

from __future__ import annotations

import math
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.faults.commands import BYE_CODE, TO_BE_STOPPED, Command, Kind
from tests.faults.service import Service

CLIENTS: Final = ("client1", "client2", "client3", "superuser")
STOP_AFTER_SECONDS: Final = 1.0
"""By when a job that is to be stopped is, at the latest, after its first output."""
ABANDONED_SHARE: Final = 0.05
"""Of the Starts, those whose caller leaves."""
PATIENCE_SECONDS: Final = 900.0
"""More than all servers live that die at their first Start, one after the other."""
_SETTLE_SECONDS: Final = 30.0


@dataclass(slots=True, eq=False)
class Start:
    """A Start, and what its caller was told.

    Attributes:
        job_id: None until it is acknowledged.
        stopped_by: who was the first to ask the job to end.
        followed: what its followers received, each from the first byte to the end.
        record: the job's, as told when it had ended.
        error: what Start answered instead of an id.
        is_abandoned: the caller has left before it was answered.
        begun, done: the times of the first call and of the last answer.
    """

    client: str
    command: Command
    begun: float
    done: float = math.inf
    job_id: str | None = None
    stopped_by: str | None = None
    followed: list[bytes] = field(default_factory=list, repr=False)
    record: pb.JobResponse | None = None
    error: RpcFailedError | None = None
    is_abandoned: bool = False


class Load:
    """Clients at work, and what they were told. Made by `applied`."""

    def __init__(self, service: Service, marks: Path, chance: random.Random) -> None:
        self.starts: list[Start] = []
        self.bytes_followed = 0
        self._service = service
        self._marks = marks
        self._chance = chance
        self._is_over = False
        self._ends: list[tuple[float, float, str]] = []

    async def run(self, workers: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Works until `finish` is called, and what was begun has ended. Has started when every client is connected."""
        async with trio.open_nursery() as nursery:
            for number in range(workers):
                await nursery.start(self._work, CLIENTS[number % len(CLIENTS)])
            task_status.started()

    def finish(self) -> None:
        """Lets what was begun be the last."""
        self._is_over = True

    def expect_ends(self, since: float, kind: str) -> None:
        """Jobs were ended between `since` and now: what had not ended by then may have a cause of this kind."""
        self._ends.append((since, trio.current_time(), kind))

    def _other_ends(self, start: Start) -> frozenset[str]:
        return frozenset(kind for since, until, kind in self._ends if start.begun <= until and start.done >= since)

    # --- one client ---------------------------------------------------------------------------------------------------

    async def _work(self, client: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self._service.connect(client, patience=PATIENCE_SECONDS) as jobs:
            task_status.started()
            while not self._is_over:
                command = Command.any(f"r{len(self.starts):05d}", self._chance)
                start = Start(client, command, trio.current_time())
                self.starts.append(start)
                try:
                    await self._take(jobs, start)
                except (Exception, BaseExceptionGroup) as error:
                    error.add_note(f"{start}, which ran {self.ran()[command.name]} times")
                    raise

    async def _take(self, jobs: Jobs, start: Start) -> None:
        if self._chance.random() < ABANDONED_SHARE:
            await self._abandon(jobs, start)
        else:
            await self._start(jobs, start)
        start.done = trio.current_time()

    async def _abandon(self, jobs: Jobs, start: Start) -> None:
        start.is_abandoned = True
        with suppress(RpcFailedError), trio.move_on_after(self._chance.uniform(0, 0.1)):
            start.job_id = await jobs.start(*start.command.arguments(str(self._marks)), request_id=start.command.name)
        if start.job_id is not None:
            await jobs.stop(start.job_id)

    async def _start(self, jobs: Jobs, start: Start) -> None:
        try:
            start.job_id = await jobs.start(*start.command.arguments(str(self._marks)), request_id=start.command.name)
        except RpcFailedError as error:
            start.error = error
            return
        has_written = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, jobs, start, has_written)
            if self._chance.random() < 0.3:
                nursery.start_soon(self._follow_later, jobs, start, self._chance.uniform(0, 1.0))
            if start.command.kind in TO_BE_STOPPED:
                await self._stop(jobs, start, has_written)
        start.record = await jobs.wait(start.job_id)

    async def _follow_later(self, jobs: Jobs, start: Start, seconds: float) -> None:
        await trio.sleep(seconds)
        await self._follow(jobs, start, trio.Event())

    async def _follow(self, jobs: Jobs, start: Start, has_written: trio.Event) -> None:
        assert start.job_id is not None
        received = bytearray()
        async with jobs.stream_output(start.job_id) as chunks:
            async for chunk in chunks:
                received += chunk
                has_written.set()
        has_written.set()
        start.followed.append(bytes(received))
        self.bytes_followed += len(received)

    async def _stop(self, jobs: Jobs, start: Start, has_written: trio.Event) -> None:
        assert start.job_id is not None
        if start.command.kind is not Kind.SLEEPS:
            await has_written.wait()
        await trio.sleep(self._chance.uniform(0, STOP_AFTER_SECONDS))
        start.stopped_by = start.client
        start.record = await jobs.stop(start.job_id, reason_of(start))

    # --- what came of it ----------------------------------------------------------------------------------------------

    def ran(self) -> Counter[str]:
        """How often the command of each request ran."""
        return Counter(line.split()[0] for line in self._marks.read_text().splitlines())

    async def check(self) -> None:
        """Holds what was told against the truth; the servers live, and all has ended.

        Raises:
            AssertionError: with every difference.
        """
        listed = await self._listed()
        ran = self.ran()
        wrong = [
            problem
            for start in self.starts
            for problem in problems(
                start, ran[start.command.name], listed.get(start.job_id or ""), other_ends=self._other_ends(start)
            )
        ]
        known = {start.job_id for start in self.starts} | {
            record.job_id_response.job_id for record in listed.values() if self._is_of_abandoned(record)
        }
        wrong += [f"job {job_id} is nobody's" for job_id in listed.keys() - known]
        assert not wrong, "\n".join(wrong[:20]) + f"\n{len(wrong)} in all\n" + self._service.complaints()

    def _is_of_abandoned(self, record: pb.JobResponse) -> bool:
        names = {start.command.name for start in self.starts if start.is_abandoned or self._other_ends(start)}
        return any(argument in names for argument in record.cmd.args)

    async def _listed(self) -> dict[str, pb.JobResponse]:
        """Every record that the server has, when none of its jobs runs any more."""
        async with self._service.connect("superuser") as jobs:
            with trio.fail_after(_SETTLE_SECONDS):
                while True:
                    records = {record.job_id_response.job_id: record async for record in jobs.list()}
                    running = [job for job, record in records.items() if record.state == pb.JOBSTATE_RUNNING]
                    if not running:
                        return records
                    for job_id in running:  # of Starts whose callers had left when a server died
                        await jobs.stop(job_id)


def reason_of(start: Start) -> str:
    """Why a job is stopped."""
    return f"end of {start.command.name}"


def problems(start: Start, ran: int, kept: pb.JobResponse | None, *, other_ends: frozenset[str]) -> Sequence[str]:
    """What is not as it should be with one Start.

    Args:
        start: as its caller saw it.
        ran: how often its command ran.
        kept: the record that the server has of the job now.
        other_ends: kinds of causes that its job may have instead of its own, or of that of its stop.
    """
    wrong = []
    name = f"{start.command.name} ({start.command.kind.name}, job {start.job_id})"
    if ran > 1:
        wrong.append(f"{name} ran {ran} times")
    if start.is_abandoned:
        return wrong
    record = start.record
    if record is None:
        is_refused = start.command.kind is Kind.NOT_FOUND and ran == 0
        return wrong if is_refused else [*wrong, f"{name} was not started: {start.error}"]
    if kept != record:
        wrong.append(f"{name} was told as {record}, and is now {kept}")
    is_cut = record.cause.WhichOneof("kind") in other_ends
    if ran != 1 and not is_cut:
        wrong.append(f"{name} ran {ran} times: {record.job_msg}")
    if not is_cut and not has_true_end(start, record):
        wrong.append(f"{name} with {start.command.number} ended as {record.job_msg!r} ({record.cause})")
    wrong += [f"{name}: {problem}" for problem in output_problems(start, record, is_cut=is_cut)]
    return wrong


def has_true_end(start: Start, record: pb.JobResponse) -> bool:
    """Whether a job is said to have ended as its command does."""
    cause, number = record.cause, start.command.number
    match start.command.kind:
        case Kind.EXITS | Kind.COUNTS | Kind.FLOODS | Kind.LEAVES_OTHERS:
            return (
                cause.WhichOneof("kind") == "exited"
                and cause.exited.code == number == record.exit_code
                and record.state == pb.JOBSTATE_COMPLETED
            )
        case Kind.SIGNALLED:
            return cause.WhichOneof("kind") == "signalled" and cause.signalled.signal == number
        case _:
            return is_truly_stopped(start, record)


def is_truly_stopped(start: Start, record: pb.JobResponse) -> bool:
    """Whether a job is said to have been stopped as it was."""
    stopped = record.cause.stopped
    if record.cause.WhichOneof("kind") != "stopped" or (stopped.by, stopped.reason) != (
        start.stopped_by,
        reason_of(start),
    ):
        return False
    match start.command.kind:
        case Kind.HANDLES_STOP:
            return stopped.returned and stopped.exit_code == BYE_CODE and not stopped.killed
        case Kind.IGNORES_STOP:
            return stopped.signal == signal.SIGKILL and stopped.killed
        case Kind.SLEEPS:
            return stopped.signal == signal.SIGTERM and not stopped.killed
        case _:
            return False


def output_problems(start: Start, record: pb.JobResponse, *, is_cut: bool) -> Sequence[str]:
    """What is not as it should be with what the followers of a job received."""
    wrong = []
    if record.output_bytes_lost:
        wrong.append(f"{record.output_bytes_lost} bytes of its output are said to be lost")
    for received in start.followed:
        if len(received) != record.output_bytes:
            wrong.append(f"a follower received {len(received)} bytes of {record.output_bytes}")
        is_right = start.command.is_beginning(received) if is_cut else start.command.is_whole(received)
        if not is_right:
            wrong.append(f"a follower received {len(received)} bytes that are not its output: …{received[-60:]!r}")
    return wrong


@asynccontextmanager
async def applied(service: Service, marks: Path, chance: random.Random, *, workers: int = 12) -> AsyncIterator[Load]:
    """A load for the block, after which it comes to its end; then all that was told is checked."""
    load = Load(service, marks, chance)
    async with trio.open_nursery() as nursery:
        await nursery.start(load.run, workers)  # a first connection is not tried again
        yield load
        load.finish()
    await load.check()
