"""What becomes of the jobs of an earlier server: adopted where their processes are there, else ended truthfully."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from signal import SIGKILL
from typing import Final

import trio

from jobmaster.errors import JobmasterError, JournalUnavailable, ServerBusy
from jobmaster.job.cause import Signalled, cause_of, describe
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, OomKillsCounted, apply, evidence_of
from jobmaster.job.state import (
    Closing,
    Event,
    Finished,
    Held,
    MainProcessDied,
    Running,
    StopOrdered,
    Stopping,
    StopSignalled,
)
from jobmaster.job.usage import Usage
from jobmaster.journal.stored import OpenJob
from jobmaster.output.survey import survey
from jobmaster.run.execution import ExecutionHost, KnownEnd, Spawned
from jobmaster.run.job_files import HostTooSlow
from jobmaster.run.recorder import Records
from jobmaster.run.removal import FileRemover
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

RECOVERY_SECONDS: Final = 60.0
"""How long all of it may take; a job that is not adopted by then is ended."""
RECORD_SECONDS: Final = 10.0
"""How long the journal may take for the ends of jobs that are lost; a full disk does not keep the server from serving."""
ADOPTERS: Final = 8
"""Jobs that are adopted at a time: what each of them may take is no time in which it waits for others."""
ADOPTION_PAUSES: Final = (0.1, 0.5, 1.0, 2.0)
"""Seconds between tries to adopt a job for which the host has no thread, descriptor or memory; one lives that long
without a reader of its output, for which a pipe has room."""
_RUNNING: Final = "the launcher died or gave up, or the host was restarted, while it ran"
_HELD: Final = "the launcher died or gave up, or the host was restarted, as it was started: its command may have run"
"""Of a job of which no more than its launch is recorded. That is durable before the command is executed, and what comes
after need not be before the caller is told: so it is no job that was never executed, and a retry starts no other."""
_NEVER_EXECUTED: Final = "it was given up before its command was executed"
_CUT: Final = "before all of its output was kept; how much is missing is not known"
_UNUSABLE: Final = "the server that followed could not open its output or its cgroup, and ended it"
LOOK_SECONDS: Final = 20.0
"""How long the disks of the outputs of all lost jobs may take to tell their sizes. A job is not told to have ended before
its output is known: it would be cut at a size that nobody has looked at."""
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
    known = {record.id for record, _ in adopted}
    lost = [job for job in found if job.record.id not in known]
    oom_kills = {job.record.id: host.outlived_oom_kills(job.record) for job in lost}
    ends = await _known_ends(host, [job.record.id for job in lost])
    kept = await _look_at_all(host, lost)
    lost = [job for job in lost if job.record.id in kept]
    usages = await _usages(host, [job.record for job in lost])

    def end(job: OpenJob) -> None:
        job_id = job.record.id
        if oom_kills[job_id] > job.record.oom_kills:
            records.post(job_id, OomKillsCounted(count=oom_kills[job_id]))
        _end_lost(records, job, known=ends[job_id], kept=kept[job_id], usage=usages.get(job_id), is_gone=job_id in gone)

    known_ends = [job for job in lost if ends[job.record.id] is not None]
    never_executed = {job.record.id for job in lost if _was_never_executed(job.record, ends[job.record.id])}
    for job in known_ends:
        end(job)
    if known_ends:
        await _settle(records)  # the launcher forgets them with the others
    ended = await host.end_others()
    for job in lost:
        if ends[job.record.id] is None:
            end(job)
    await _settle(records)
    await _complain_of_unknown(records, sorted(set(ended) - {job.record.id for job in found}))
    return Recovered(adopted=adopted, lost=[job.record for job in lost if job.record.id not in never_executed])


async def _settle(records: Records) -> None:
    with trio.move_on_after(RECORD_SECONDS):
        await records.settle()


async def _known_ends(host: ExecutionHost, job_ids: Sequence[JobId]) -> dict[JobId, KnownEnd | None]:
    """Of each job; None where nothing is known, or not in time."""
    ends: dict[JobId, KnownEnd | None] = dict.fromkeys(job_ids)

    async def ask(job_id: JobId) -> None:
        ends[job_id] = await host.known_end(job_id)

    with trio.move_on_after(LOOK_SECONDS):
        async with trio.open_nursery() as nursery:
            for job_id in job_ids:
                nursery.start_soon(ask, job_id)
    return ends


async def _usages(host: ExecutionHost, records: Sequence[JobRecord]) -> Mapping[JobId, Usage]:
    """Of each job of which it is known."""
    if not records:
        return {}
    try:
        return await host.usages(records)
    except (JobmasterError, OSError) as error:
        logger.error("what %s of an earlier server used cannot be read: %s", _jobs(len(records)), error)
        return {}


async def _look_at_all(host: ExecutionHost, lost: Sequence[OpenJob]) -> dict[JobId, _Kept]:
    """What is kept of the output of each; of none on a disk that does not answer in time."""
    kept: dict[JobId, _Kept] = {}

    async def look(job: OpenJob) -> None:
        try:
            kept[job.record.id] = await _look(host, job.record, job.last_event_at)
        except NoThread as error:
            logger.error("the output of job %s cannot be looked at: %s", job.record.id, error)
        except Exception:
            logger.exception("the output of job %s cannot be looked at: a bug in the server", job.record.id)
            kept[job.record.id] = _Kept(at=job.last_event_at)

    with trio.move_on_after(LOOK_SECONDS):
        async with trio.open_nursery() as nursery:
            for job in lost:
                nursery.start_soon(look, job)
    if late := [job.record.id for job in lost if job.record.id not in kept]:
        logger.error(
            "the disk of the output of %s does not answer: the next server tells how they ended: %s",
            _jobs(len(late)),
            _names(late),
        )
    return kept


async def _complain_of_unknown(records: Records, job_ids: Sequence[JobId]) -> None:
    """Of those that have ended the journal knows: a process of theirs could not be killed."""
    try:
        with trio.fail_after(RECORD_SECONDS):
            job_ids = await _unknown(records, job_ids)
    except (JournalUnavailable, trio.TooSlowError):
        logger.error(
            "%s of an earlier server ran and is ended; whether it is known the journal cannot tell now: %s",
            _jobs(len(job_ids)),
            _names(job_ids),
        )
        return
    if job_ids:
        logger.error(
            "%s of an earlier server ran, and the journal knows of none that does: ended, and not recorded: %s; "
            "was the journal removed or replaced?",
            _jobs(len(job_ids)),
            _names(job_ids),
        )


async def _unknown(records: Records, job_ids: Sequence[JobId]) -> list[JobId]:
    return [job_id for job_id in job_ids if await records.find(job_id) is None]


async def _adopt(
    host: ExecutionHost,
    record: JobRecord,
    turns: trio.CapacityLimiter,
    adopted: list[tuple[JobRecord, Spawned]],
    gone: set[JobId],
) -> None:
    try:
        async with turns:
            spawned = await _patiently(host, record)
    except (JobmasterError, OSError) as error:
        logger.error("job %s of an earlier server cannot be adopted, and is ended: %s", record.id, error)
    except Exception:
        logger.exception("job %s of an earlier server cannot be adopted, and is ended: a bug in the server", record.id)
    else:
        if spawned is None:
            gone.add(record.id)
        else:
            adopted.append((record, spawned))


async def _patiently(host: ExecutionHost, record: JobRecord) -> Spawned | None:
    """As `adopt`; where the host lacks something for now, tried again."""
    for pause in ADOPTION_PAUSES:
        try:
            return await host.adopt(record)
        except HostTooSlow:
            raise
        except ServerBusy:
            await trio.sleep(pause)
    return await host.adopt(record)


def _end_lost(
    records: Records, job: OpenJob, *, known: KnownEnd | None, kept: _Kept, usage: Usage | None, is_gone: bool
) -> None:
    """Has the end of a job whose processes are gone recorded, with the best-known cause and time."""
    record = job.record
    never_executed = _NEVER_EXECUTED if _was_never_executed(record, known) else None
    for event in () if known is None else _what_is_known(record, known):
        records.post(record.id, event)
        record = apply(record, event)
    # With the launcher went what was in the pipe: that a job returned 0 must not be told of output that is cut.
    is_whole = not is_gone or not isinstance(record.state, Closing)
    evidence = evidence_of(
        record,
        never_executed=never_executed,
        lost_because=_why_lost(record, is_gone=is_gone),
        is_death_known=is_whole,
        usage=usage,
    )
    records.post(
        record.id,
        Finished(
            cause=cause_of(evidence),
            at=kept.at if known is None or known.died_at is None else max(kept.at, known.died_at),
            output_bytes=kept.size,
            output_bytes_lost=max(record.output_bytes_lost, kept.lost)
            + (known.left_in_pipe if known is not None else 0),
            output_bytes_dropped=max(record.output_bytes_dropped, kept.dropped),
            usage=usage,
        ),
        forget=known is not None and known.is_given_up,
    )


def _was_never_executed(record: JobRecord, known: KnownEnd | None) -> bool:
    """Whether nobody was told of the job: the journal forgets it with its end, and its request id."""
    return known is not None and (known.is_given_up or (isinstance(record.state, Held) and known.death is None))


def _why_lost(record: JobRecord, *, is_gone: bool) -> str:
    match record.state:
        case Held() if is_gone:
            return _HELD
        case Closing(death=death) if is_gone:
            return f"its main process {describe(death)}, but the launcher died, or the host was restarted, {_CUT}"
        case _:
            return _RUNNING if is_gone else _UNUSABLE


def _what_is_known(record: JobRecord, known: KnownEnd) -> Iterator[Event]:
    """What happened to a job that ran, as its record does not have it yet."""
    # SIGKILL may have been the kernel's, for memory: what the job's cgroup has counted nobody knows.
    if known.death in {None, Signalled(SIGKILL)} or not isinstance(record.state, Running | Stopping):
        return
    if known.order is not None:
        if isinstance(record.state, Running):
            yield StopOrdered(order=replace(known.order, signal=record.stop_signal))
        if not (isinstance(record.state, Stopping) and record.state.unsent):
            yield StopSignalled()
    yield MainProcessDied(death=known.death, killed_for_memory=False)


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
