"""What becomes of the jobs of an earlier server: adopted where their processes are there, else ended truthfully."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from jobmaster.errors import JobmasterError
from jobmaster.job.cause import cause_of
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, evidence_of
from jobmaster.job.state import Finished, Held
from jobmaster.journal.stored import OpenJob
from jobmaster.output.survey import survey
from jobmaster.run.execution import ExecutionHost, Spawned
from jobmaster.run.recorder import Records
from jobmaster.run.removal import FileRemover
from jobmaster.threads import run_in_thread

logger = logging.getLogger(__name__)

RECOVERY_SECONDS: Final = 60.0
"""How long all of it may take; a job that is not adopted by then is ended."""
RECORD_SECONDS: Final = 10.0
"""How long the journal may take for the ends of jobs that are lost; a full disk does not keep the server from serving."""
ADOPTERS: Final = 8
"""Jobs that are adopted at a time: what each of them may take is no time in which it waits for others."""
_RUNNING: Final = "the launcher died or gave up, or the host was restarted, while it ran"
_HELD: Final = "the launcher died or gave up, or the host was restarted, as it was started: its command may have run"
"""Of a job of which no more than its launch is recorded. That is durable before the command is executed, and what comes
after need not be before the caller is told: so it is no job that was never executed, and a retry starts no other."""
_UNUSABLE: Final = "the server that followed could not open its output or its cgroup, and ended it"
LOOKERS: Final = trio.CapacityLimiter(4)
"""Threads that look at the files of jobs that are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What an earlier server left.

    Attributes:
        adopted: jobs that go on.
        lost: jobs whose processes are gone.
    """

    adopted: Sequence[tuple[JobRecord, Spawned]] = ()
    lost: Sequence[JobRecord] = ()

    @property
    def report(self) -> tuple[str, ...]:
        """One line for each case that was met."""
        lines = []
        if self.adopted:
            lines.append(f"{_jobs(len(self.adopted))} of an earlier server adopted")
        if self.lost:
            lines.append(
                f"{_jobs(len(self.lost))} of an earlier server lost: {_names([record.id for record in self.lost])}"
            )
        return tuple(lines)


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"


def _names(job_ids: Sequence[JobId], shown: int = 5) -> str:
    return ", ".join([*job_ids[:shown], "…"] if len(job_ids) > shown else job_ids)


async def recover(host: ExecutionHost, records: Records) -> Recovered:
    """Adopts every job that has not ended and whose processes are there; ends the others and what is nobody's.

    Raises:
        JournalUnavailable: the journal cannot be read.
    """
    found = await records.open_jobs()
    adopted: list[tuple[JobRecord, Spawned]] = []
    gone: set[JobId] = set()
    turns = trio.CapacityLimiter(ADOPTERS)
    with trio.move_on_after(RECOVERY_SECONDS):
        async with trio.open_nursery() as nursery:
            for job in found:
                nursery.start_soon(_adopt, host, job.record, turns, adopted, gone)
    ended = await host.end_others()
    _complain_of_unknown(sorted(set(ended) - {job.record.id for job in found}))
    known = {record.id for record, _ in adopted}
    lost = [job for job in found if job.record.id not in known]
    for job in lost:
        await _end_lost(host, records, job, is_gone=job.record.id in gone)
    with trio.move_on_after(RECORD_SECONDS):
        await records.settle()
    return Recovered(adopted=adopted, lost=[job.record for job in lost])


def _complain_of_unknown(job_ids: Sequence[JobId]) -> None:
    if job_ids:
        logger.error(
            "%s of an earlier server ran, and the journal knows of none that does: ended, and not recorded: %s; "
            "was the journal removed or replaced?",
            _jobs(len(job_ids)),
            _names(job_ids),
        )


async def _adopt(
    host: ExecutionHost,
    record: JobRecord,
    turns: trio.CapacityLimiter,
    adopted: list[tuple[JobRecord, Spawned]],
    gone: set[JobId],
) -> None:
    try:
        async with turns:
            spawned = await host.adopt(record)
    except (JobmasterError, OSError) as error:
        logger.error("job %s of an earlier server cannot be adopted, and is ended: %s", record.id, error)
    else:
        if spawned is None:
            gone.add(record.id)
        else:
            adopted.append((record, spawned))


async def _end_lost(host: ExecutionHost, records: Records, job: OpenJob, *, is_gone: bool) -> None:
    """Has the end of a job whose processes are gone recorded, with the best-known cause and time."""
    record = job.record
    evidence = evidence_of(
        record, lost_because=_UNUSABLE if not is_gone else _HELD if isinstance(record.state, Held) else _RUNNING
    )
    kept = await _look(host, record, job.last_event_at)
    records.post(
        record.id,
        Finished(
            cause=cause_of(evidence),
            at=kept.at,
            output_bytes=kept.size,
            output_bytes_lost=max(record.output_bytes_lost, kept.lost),
            output_bytes_dropped=max(record.output_bytes_dropped, kept.dropped),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    at: datetime
    size: int = 0
    lost: int = 0
    dropped: int = 0


async def _look(host: ExecutionHost, record: JobRecord, last_event_at: datetime) -> _Kept:
    """The size of the output that is kept, and when the job was last known to be there or to write any."""
    seen = _Kept(at=last_event_at)
    path = host.output_path(record.id)
    try:
        found = await run_in_thread(LOOKERS, survey, path, abandon=True)
    except OSError as error:
        logger.error("the output of job %s is not there: %s", record.id, error)
        return seen
    at = max(seen.at, datetime.fromtimestamp(found.modified, UTC))
    return _Kept(at=at, size=found.kept, lost=found.lost, dropped=found.dropped)


async def remove_half_made(
    host: ExecutionHost, records: Records, remover: FileRemover, is_live: Callable[[JobId], bool]
) -> None:
    """Removes the files of jobs that an earlier server had not recorded when it died; what fails is logged.

    Args:
        host: where the files are.
        records: of all jobs.
        remover: of files.
        is_live: whether a job is being started by this server; asked before and after the journal is.
    """
    try:
        for job_id in await host.empty_outputs():
            if not is_live(job_id) and await records.find(job_id) is None and not is_live(job_id):
                remover.remove(host.output_path(job_id))
    except (JobmasterError, OSError) as error:
        logger.warning("files of jobs that were never recorded may be left: %s", error)
