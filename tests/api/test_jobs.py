"""The calls of JobService where the registry changes under them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from jobmaster.api.followers import Followers
from jobmaster.api.jobs import JobService
from jobmaster.errors import JobNotFound, OutputIncomplete, OutputUnreadable, ServerBusy
from jobmaster.identity.policy import Identity, Role
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.dropping import drop
from jobmaster.output.log import OutputLog
from jobmaster.output.sharing import KeptFile
from jobmaster.output.stored_output import StoredOutput
from jobmaster.run.registry import Registry


class ChangingRegistry:
    """One that knows a job whose file is gone, for the first so many questions."""

    def __init__(self, output: StoredOutput | OutputLog, questions: int) -> None:
        self._output = output
        self._answers: Iterable[bool] = iter([True] * questions)

    async def find(self, _caller: Identity, _job_id: str) -> Any:
        """As `Registry.find`."""
        if not next(iter(self._answers), False):
            raise JobNotFound("no such job")
        return SimpleNamespace(output=self._output, wait_ended=trio.lowlevel.checkpoint)


async def follow(registry: ChangingRegistry, followers: Followers | None = None) -> None:
    """Reads a job's output to its end."""
    request = pb.JobIDRequest(job_id_request=pb.JobID(job_id="job"))
    service = JobService(cast(Registry, registry), followers or Followers())
    async for _ in service.StreamOutput(request, Identity(name="client1", role=Role.USER)):
        pass


async def test_what_is_removed() -> None:
    """Remove asks for the job that the request names, as who calls, and answers nothing but that it is done."""
    asked: list[tuple[Identity, str]] = []

    async def remove(*arguments: Any) -> None:
        await trio.lowlevel.checkpoint()
        asked.append(arguments)

    service = JobService(cast(Registry, SimpleNamespace(remove=remove)), Followers())
    caller = Identity(name="client1", role=Role.USER)
    assert await service.Remove(pb.JobIDRequest(job_id_request=pb.JobID(job_id="job")), caller) == pb.RemoveResponse()
    assert asked == [(caller, "job")]


@pytest.mark.parametrize(("questions", "answer"), [(1, JobNotFound), (2, OutputUnreadable)])
async def test_output_whose_file_cannot_be_read(tmp_path: Path, questions: int, answer: type[Exception]) -> None:
    """A job forgotten between the question and the opening of its file is not found; else it is the host's error."""
    (tmp_path / "file").touch()
    output = StoredOutput(path=tmp_path / "file" / "job.log", kept=5, lost=0)
    with pytest.raises(answer):
        await follow(ChangingRegistry(output, questions))


@pytest.mark.parametrize(("there", "lost", "gone"), [(None, 0, 5), (2, 0, 3), (2, 4, 7)])
async def test_output_that_a_power_cut_has_taken(tmp_path: Path, there: int | None, lost: int, gone: int) -> None:
    """A follower of an ended job is told how much of its output is not there any more."""
    if there is not None:
        (tmp_path / "job.log").write_bytes(bytes(there))
    output = StoredOutput(path=tmp_path / "job.log", kept=5, lost=lost)
    with pytest.raises(OutputIncomplete, match=f"does not have {gone} bytes of this job's output"):
        await follow(ChangingRegistry(output, 2))


@pytest.mark.parametrize(
    ("lost", "dropped", "named"), [(3, 0, "3 that its disk"), (0, 7, "7 that are more"), (3, 7, "10 bytes")]
)
async def test_output_that_is_not_all_there(tmp_path: Path, lost: int, dropped: int, named: str) -> None:
    """A follower that was sent all there is is told how much there is not, and why."""
    (tmp_path / "job.log").write_bytes(bytes(5))
    output = StoredOutput(path=tmp_path / "job.log", kept=5, lost=lost, dropped=dropped)
    with pytest.raises(OutputIncomplete, match=named):
        await follow(ChangingRegistry(output, 2))


@pytest.mark.parametrize(
    ("lost", "dropped", "named"),
    [(0, 0, "5 bytes of this job's output: 5 that were removed to make room"), (3, 2, "10 bytes")],
)
async def test_output_that_was_removed_to_make_room(tmp_path: Path, lost: int, dropped: int, named: str) -> None:
    """A follower of an output that was pruned is told how many bytes went, and how many were never kept."""
    file = KeptFile(is_pruned=True)
    output = StoredOutput(path=tmp_path / "job.log", kept=5, lost=lost, dropped=dropped, file=file)
    with pytest.raises(OutputIncomplete, match=named):
        await follow(ChangingRegistry(output, 2))


async def test_output_that_was_dropped_after_it_was_sent(tmp_path: Path) -> None:
    """A follower that has had every byte is told of none that is missing, though some are no longer kept."""
    log = OutputLog(tmp_path / "job.log", Cap(SMALLEST))
    os.write(log.fd, bytes(2 * SMALLEST))
    log.advance(SMALLEST)

    request = pb.JobIDRequest(job_id_request=pb.JobID(job_id="job"))
    service = JobService(cast(Registry, ChangingRegistry(log, 2)), Followers())
    sent = 0
    async for messages in service.StreamOutput(request, Identity(name="client1", role=Role.USER)):
        sent += messages.length
        if sent >= log.end and not log.sealed:
            if log.end < 2 * SMALLEST:
                log.advance(SMALLEST)
            else:
                while (plan := log.plan_drop()) is not None:
                    log.record_drop(plan, drop(log, plan))
                log.seal()
    assert log.dropped > 0
    log.close()


async def test_no_more_followers_than_files(tmp_path: Path) -> None:
    """Where a client follows as many outputs as it may, a further call is refused; it may call again when one has ended."""
    (tmp_path / "job.log").write_bytes(b"x")
    output = StoredOutput(path=tmp_path / "job.log", kept=1, lost=0)
    followers = Followers(4)
    with followers.counted("client1"), pytest.raises(ServerBusy, match="client1 follows 1 outputs"):
        await follow(ChangingRegistry(output, 1), followers)
    await follow(ChangingRegistry(output, 1), followers)


def test_followers_of_all_clients() -> None:
    """A client has a quarter of them and leaves the rest to others, until all are taken."""
    followers = Followers(4)
    with ExitStack() as following:
        for client in ("client1", "client2", "client3", "superuser"):
            following.enter_context(followers.counted(client))
        with pytest.raises(ServerBusy, match="4 outputs are followed"):
            following.enter_context(followers.counted("another"))
    with followers.counted("client1"):
        pass
