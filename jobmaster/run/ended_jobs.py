"""What is kept of the jobs that have ended: a record in the journal and a file, and the last ones in memory.

A job without a request id that was executed and whose caller has left meanwhile is ended and then forgotten: nobody was told
of it, nor is.
The journal remembers until its output is gone, too, whatever server that comes to.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn
from weakref import WeakValueDictionary

import trio

from jobmaster.errors import HostError, JournalUnavailable, ServerBusy
from jobmaster.job.record import apply
from jobmaster.output.sharing import KeptFile
from jobmaster.output.stored_output import StoredOutput
from jobmaster.run.ledger import Ledger
from jobmaster.run.retention import forget_expired, remove_output

if TYPE_CHECKING:
    from jobmaster.job.identifier import JobId
    from jobmaster.job.record import JobRecord, OutputPruned
    from jobmaster.journal.stored import Retention
    from jobmaster.output.cap import Range
    from jobmaster.run.execution import ExecutionHost
    from jobmaster.run.recorder import Records
    from jobmaster.run.removal import FileRemover
    from jobmaster.run.supervisor import Supervisor

logger = logging.getLogger(__name__)

RETENTION_SECONDS: Final = 60.0
"""Between two looks for jobs that are not to be kept any longer, where none has ended meanwhile."""
GATHER_SECONDS: Final = 0.5
"""Between two looks, at least: a client that starts and ends hundreds of jobs a second has no look for each."""
FORGET_SECONDS: Final = 5.0
"""How long the journal may take to remove a record whose output is gone already, whoever leaves meanwhile."""
RECENT: Final = 1_000
"""Records of ended jobs that are kept in memory, too: those that ended, or were asked for, last."""


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What is kept of a job that has ended."""

    record: JobRecord
    output: StoredOutput

    async def wait_ended(self) -> None:
        """Returns at once."""


class EndedJobs:
    """Those in memory, and those that are to be forgotten."""

    def __init__(
        self,
        host: ExecutionHost,
        records: Records,
        remover: FileRemover,
        retention: Retention,
        *,
        bounds_outputs: bool,
    ) -> None:
        self._host = host
        self._records = records
        self._remover = remover
        self.retention = retention
        """What is kept."""
        self._recent: OrderedDict[JobId, EndedJob] = OrderedDict()
        self._given_up: set[JobId] = set()
        self._half_removed: set[JobId] = set()
        """Jobs whose output a thread is removing, or has removed, for a caller that has left."""
        self._have_changed = trio.Event()
        self._files: WeakValueDictionary[JobId, KeptFile] = WeakValueDictionary()
        self.ledger = Ledger(counts_earlier=bounds_outputs)
        """What outputs take of the disk."""
        self.forgotten = 0
        """How many jobs have been forgotten, or their outputs removed: what was read of the journal before may be of one
        of them."""

    def get(self, job_id: JobId) -> EndedJob | None:
        """The job called so, where it is in memory."""
        return self._recent.get(job_id)

    def is_given_up(self, job_id: JobId) -> bool:
        """Whether nobody was told of it, and its record is still to be removed."""
        return job_id in self._given_up

    def add(self, supervisor: Supervisor) -> None:
        """A job has ended."""
        record = supervisor.record
        self._files[record.id] = supervisor.output.file
        self.ledger.note_ended(record.id, record.owner)
        self._remember(EndedJob(record, supervisor.output.stored()))
        self._have_changed.set()

    def add_lost(self, record: JobRecord) -> None:
        """A job of an earlier server is recorded to have ended: after the journal was asked for those that have, perhaps."""
        self.ledger.note_ended(record.id, record.owner)

    def file_of(self, job_id: JobId) -> KeptFile:
        """What readers of a job's output share. Who holds it is told where the output is pruned."""
        return self._files.setdefault(job_id, KeptFile())

    def recall(self, record: JobRecord, file: KeptFile, *, forgotten: int) -> EndedJob:
        """The job of a record of the journal; it is kept in memory from now on, unless it may have been forgotten since.

        Args:
            record: of the job.
            file: of its output; from `file_of`, before the record was read.
            forgotten: what `forgotten` was before the record was read.
        """
        path = self._host.output_path(record.id)
        file.is_pruned |= record.output_pruned is not None
        output = StoredOutput(
            path=path,
            file=file,
            kept=record.output_bytes,
            lost=record.output_bytes_lost,
            dropped=record.output_bytes_dropped,
        )
        job = EndedJob(record, output)
        if forgotten == self.forgotten:
            self._remember(job)
        return job

    def _remember(self, job: EndedJob) -> None:
        self._recent[job.record.id] = job
        self._recent.move_to_end(job.record.id)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def give_up(self, supervisor: Supervisor) -> None:
        """A job has ended of which nobody was told, nor is to be."""
        job_id = supervisor.record.id
        self._recent.pop(job_id, None)
        self.ledger.forget(job_id)
        if supervisor.was_never_executed:  # of which the journal keeps nothing
            self._remover.remove(supervisor.output.path)  # empty: what fails is found by the next server
        else:
            self._given_up.add(job_id)
            self._have_changed.set()

    async def remove(self, job_id: JobId) -> None:
        """Removes the output and then the record of a job whose end is recorded; its request id is remembered for a time.

        Where the caller leaves meanwhile, the removal is gone on with soon: the thread is, and the output would be missing.

        Raises:
            HostError: the disk of the output fails.
            ServerBusy: there is no thread.
            JournalUnavailable: the output is gone, and the record may still be there.
        """
        try:
            await remove_output(self._host, job_id)
        except trio.Cancelled:
            self._half_removed.add(job_id)
            self._have_changed.set()
            raise
        except OSError as error:
            raise HostError(f"{self._host.output_path(job_id)} cannot be removed: {error.strerror}") from error
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FORGET_SECONDS):
                await self._records.remove((job_id,))
                return
        finally:
            self._forget(job_id)
        raise JournalUnavailable("the server's journal cannot be written: its disk does not answer; try again later")

    def _forget(self, job_id: JobId) -> None:
        self._recent.pop(job_id, None)
        self.ledger.forget(job_id)
        self.forgotten += 1

    def note_pruned(self, job_id: JobId, event: OutputPruned) -> tuple[Range, ...]:
        """The output of a job is being removed to make room: nobody reads it any more.

        Returns what of it followers are being sent.
        """
        self.forgotten += 1
        if (job := self._recent.get(job_id)) is not None:
            self._recent[job_id] = replace(job, record=apply(job.record, event))
        file = self._files.get(job_id, KeptFile())
        file.is_pruned = True
        return tuple(file.pins)

    async def _go_on_removing(self) -> None:
        """Removes what callers that have left wanted to be removed."""
        for job_id in tuple(self._half_removed):
            try:
                await self.remove(job_id)
            except (JournalUnavailable, ServerBusy) as error:
                logger.warning("job %s is removed in part, and the rest later: %s", job_id, error)
            except HostError as error:
                logger.warning("job %s is not removed, as somebody who did not wait has asked: %s", job_id, error)
                self._half_removed.discard(job_id)
            else:
                self._half_removed.discard(job_id)

    async def forget_expired(self) -> None:
        """Removes what is not to be kept; what fails is logged and left for another time."""
        await self._go_on_removing()
        forgotten = await forget_expired(self._host, self._records, self.retention, tuple(self._given_up))
        self._given_up.difference_update(forgotten)
        for job_id in forgotten:
            self._forget(job_id)

    async def keep_within_bounds(self) -> NoReturn:
        """Does so soon after a job has ended, and from time to time, until cancelled."""
        while True:
            with trio.move_on_after(RETENTION_SECONDS):
                await self._have_changed.wait()
            self._have_changed = trio.Event()
            await self.forget_expired()
            await trio.sleep(GATHER_SECONDS)
