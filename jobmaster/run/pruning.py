"""Keeps the outputs of all jobs within what they may take of the disk.

Theory of operation: in a thread of its own, the outputs that have grown and those that have ended are measured (st_blocks),
and the file system is asked what it has free; the sums are kept by client (`ledger`). While too much is taken, the outputs
of ended jobs are removed: of the client that takes most, the one that ended first. Their records stay and say so. That is
an event of the journal, written before the file goes; a journal that cannot be written, as on a full disk, is not waited
for longer than SETTLE_SECONDS, and writes it when there is room.

Nothing of a running job is removed. A client of which nothing else is left starts no more jobs while its outputs take most,
and what its running jobs write is lost as on a full disk, with its extent in a gap (`rooms`), until there is room again. Where
no ended job's output is left, the others have a reserve; all clients are blocked when that is taken, too.

What an earlier server has left is counted once, beside everything else; until that is done nothing is removed. An output
that cannot be measured, as by an error of the disk, is named and left out; all others are kept within the bounds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from jobmaster.errors import JournalUnavailable, ServerBusy
from jobmaster.job.record import OutputPruned
from jobmaster.output.dropping import prune_file
from jobmaster.output.files import index_path
from jobmaster.run.bounds import Disk, OutputBounds, Shortage
from jobmaster.run.ledger import Victim
from jobmaster.threads import NoThread, run_in_thread

if TYPE_CHECKING:
    from jobmaster.job.identifier import JobId
    from jobmaster.output.log import OutputLog
    from jobmaster.run.ended_jobs import EndedJobs
    from jobmaster.run.execution import ExecutionHost
    from jobmaster.run.ledger import Choice
    from jobmaster.run.live_jobs import LiveJobs
    from jobmaster.run.recorder import Records
    from jobmaster.run.removal import FileRemover
    from jobmaster.run.rooms import Rooms

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks: outputs grow above their bound by what is written in that time, at most."""
RETRY_SECONDS: Final = 5.0
"""Before the journal is asked once more that could not be read; and before more is removed for the disk's sake: some file
systems give blocks back only after a while."""
SETTLE_SECONDS: Final = 5.0
"""How long the journal may take to write what is to be removed."""
PRUNED_AT_ONCE: Final = 50
"""Outputs that are removed between two looks at the bounds."""
SHOWN: Final = 5
"""Jobs that are named in one line of the log."""
LOOKERS: Final = trio.CapacityLimiter(1)
"""The thread that measures; a disk that holds it up keeps nobody waiting but the next look."""
PRUNERS: Final = trio.CapacityLimiter(1)
"""The thread that removes outputs; likewise."""


class Pruner:
    """The task that does so."""

    def __init__(
        self,
        host: ExecutionHost,
        records: Records,
        bounds: OutputBounds,
        *,
        live: LiveJobs,
        ended: EndedJobs,
        remover: FileRemover,
        rooms: Rooms,
    ) -> None:
        self._host = host
        self._records = records
        self.bounds = bounds
        """May change; a registry that began without any has nobody to keep them."""
        self._live = live
        self._ended = ended
        self._ledger = ended.ledger
        self._remover = remover
        self._rooms = rooms
        self._measured: dict[JobId, int] = {}
        """The ends of running jobs' outputs when they were measured last."""
        self._unmeasurable: set[JobId] = set()
        self._wait_for_disk_until = 0.0
        self._most_excess: int | None = None
        """What others may exceed the bound by, where nothing but outputs of running jobs is left; None where more is."""

    def admit(self, owner: str) -> None:
        """Returns where a client may start one more job.

        Raises:
            ServerBusy: there is no room for more output.
        """
        if (why := self._rooms.of(owner).why_full) is not None:
            whose = "running jobs" if self._rooms.why_full else f"running jobs of {owner}"
            raise ServerBusy(f"{why}, and what can be removed of it is: try again when {whose} have ended")

    async def keep_within_bounds(self) -> NoReturn:
        """Does so until cancelled."""
        await self._count_earlier()
        said = ""
        while True:
            try:
                await self.look()
            except (OSError, NoThread) as error:
                if said != (said := str(error)):  # it may stay so for long
                    logger.warning("what the outputs take of the disk cannot be measured: %s", error)
            else:
                if said:
                    logger.warning("what the outputs take of the disk can be measured again")
                said = ""
            await trio.sleep(LOOK_SECONDS)

    async def _count_earlier(self) -> None:
        """Counts the outputs that are there of ended jobs; what a server that was killed had begun to remove goes now."""
        found: list[tuple[int, Victim]] = []
        key = 0
        while True:
            try:
                page = await self._records.ended_outputs(key)
            except JournalUnavailable as error:
                logger.warning("the outputs of ended jobs are not counted yet: %s", error)
                await trio.sleep(RETRY_SECONDS)
                continue
            if not page:
                break
            key = page[-1].key
            sizes = self._measurable(await self._sizes([each.job_id for each in page]))
            for each in page:
                size = sizes.get(each.job_id)
                if each.is_pruned and size != 0:
                    self._remover.remove(self._host.output_path(each.job_id))
                elif not each.is_pruned and size is not None:
                    found.append((each.ended_seq, Victim(each.job_id, each.owner, size)))
        found.sort(key=lambda each: each[0])
        self._ledger.note_earlier(victim for _, victim in found)

    async def _sizes(self, job_ids: Sequence[JobId]) -> dict[JobId, int | OSError]:
        while True:
            try:
                sizes = await run_in_thread(LOOKERS, _sizes_of, map(self._host.output_path, job_ids), abandon=True)
            except NoThread as error:
                logger.warning("the outputs of ended jobs are not counted yet: %s", error)
                await trio.sleep(RETRY_SECONDS)
            else:
                return dict(zip(job_ids, sizes, strict=True))

    def _measurable(self, sizes: Mapping[JobId, int | OSError]) -> dict[JobId, int]:
        """What could be measured; of the others each is named once, until it can be."""
        failed = {job_id: found for job_id, found in sizes.items() if isinstance(found, OSError)}
        if new := [job_id for job_id in failed if job_id not in self._unmeasurable]:
            names = ", ".join([*new[:SHOWN], "…"] if len(new) > SHOWN else new)
            logger.warning(
                "the outputs of %d jobs cannot be measured, and do not count until they can be: %s: %s",
                len(new),
                names,
                failed[new[0]],
            )
        self._unmeasurable = (self._unmeasurable - sizes.keys()) | failed.keys()
        return {job_id: found for job_id, found in sizes.items() if not isinstance(found, OSError)}

    async def look(self) -> None:
        """Measures once, and removes what is to go.

        Raises:
            OSError, NoThread: it could not be measured.
        """
        last_sizes = self._ledger.unmeasured
        job_ids = [*self._grown(), *last_sizes]
        sizes, disk = await run_in_thread(
            LOOKERS, _measure, self._host.output_folder, self._paths(job_ids), abandon=True
        )
        measured = self._measurable(dict(zip(job_ids, sizes, strict=True)))
        for job_id in set(job_ids) - measured.keys():
            self._measured.pop(job_id, None)  # to be tried again
        for job_id, size in measured.items():
            if job_id in last_sizes or job_id not in self._ledger.unmeasured:  # else it has grown and ended meanwhile
                self._ledger.note_size(job_id, size)
        await self._pay_debts()
        while (shortage := self.bounds.shortage(self._ledger.total, disk)) is not None:
            missing = shortage.excess + (shortage.slack if self._rooms.why_full else 0)
            if missing <= 0:
                self._most_excess = None
                break
            if shortage.is_of_disk and trio.current_time() < self._wait_for_disk_until:
                return
            choice = self._ledger.choose(missing, PRUNED_AT_ONCE)
            self._block(choice, shortage)
            if not choice.victims:
                return
            await self._prune(choice.victims, shortage.reason)
            if shortage.is_of_disk:
                self._wait_for_disk_until = trio.current_time() + RETRY_SECONDS
            disk = Disk(size=disk.size, free=disk.free + sum(victim.size for victim in choice.victims))
        room = self._rooms.most_debt if shortage is None else -shortage.excess - shortage.slack
        if self._rooms.relax(room):
            logger.warning("there is room for output again")

    async def _pay_debts(self) -> None:
        """Removes outputs of clients in whose stead others have lost theirs, as their jobs end, and lets the clients go."""
        for owner in self._rooms.debts:
            self._rooms.limit_debt(owner, self._ledger.of(owner))
        for owner, debt in self._rooms.debts.items():
            if victims := self._ledger.oldest_of(owner, debt, PRUNED_AT_ONCE):
                await self._prune(victims, f"running jobs of {owner} took so much that others lost outputs")
                self._rooms.note_given(owner, sum(victim.size for victim in victims))
            if self._ledger.oldest_of(owner, 1, 1) or not self._ledger.runs_any(owner):
                self._rooms.release(owner)

    def _block(self, choice: Choice, shortage: Shortage) -> None:
        reason = shortage.reason
        for owner in choice.stuck:
            if self._rooms.block(owner, reason):
                logger.error("%s, most of it of running jobs of %s: what they write is lost", reason, owner)
        if choice.victims:
            if choice.stuck:
                others = sum(victim.size for victim in choice.victims if victim.owner not in choice.stuck)
                self._rooms.note_evicted(choice.stuck[0], others)
            return
        if self._most_excess is None:
            self._most_excess = shortage.excess + shortage.reserve
        if (not choice.stuck or shortage.excess >= self._most_excess) and self._rooms.block_all(reason):
            logger.error("%s, all of it of running jobs: what they write is lost, and no job is started", reason)

    def _grown(self) -> list[JobId]:
        """The running jobs whose outputs have grown."""
        before, self._measured = self._measured, {}
        grown = []
        for job_id, output in self._running():
            if before.get(job_id) != output.end:
                grown.append(job_id)
            self._measured[job_id] = output.end
        self._ledger.keep_running(self._measured)
        return grown

    def _running(self) -> Iterable[tuple[JobId, OutputLog]]:
        for live in self._live.all():
            if live.supervisor is not None:
                job_id = live.supervisor.job_id
                self._ledger.note_running(job_id, live.owner)
                yield job_id, live.supervisor.output

    def _paths(self, job_ids: Iterable[JobId]) -> list[Path]:
        return [self._host.output_path(job_id) for job_id in job_ids]

    async def _prune(self, victims: Sequence[Victim], reason: str) -> None:
        """Removes outputs; what fails is left to the remover, which tries it again."""
        event = OutputPruned(at=datetime.now(UTC), reason=reason)
        try:
            for victim in victims:
                self._records.post(victim.job_id, event)
            with trio.move_on_after(SETTLE_SECONDS):
                await self._records.settle()
        except JournalUnavailable as error:
            logger.warning("that outputs are removed cannot be recorded: %s", error)
        for victim in victims:
            path = self._host.output_path(victim.job_id)
            pinned = self._ended.note_pruned(victim.job_id, event)
            self._ledger.forget(victim.job_id)
            try:
                await run_in_thread(PRUNERS, prune_file, path, pinned, abandon=True)
            except (OSError, NoThread) as error:
                logger.warning("%s cannot be removed to make room: %s", path, error)
                self._remover.remove(path)
        logger.info("the outputs of %d ended jobs were removed: %s", len(victims), reason)


def _measure(folder: Path, paths: Iterable[Path]) -> tuple[list[int | OSError], Disk]:
    return _sizes_of(paths), disk_of(folder)


def disk_of(folder: Path) -> Disk:
    """The file system of a folder. Blocks as long as the disk does.

    Raises:
        OSError: it fails.
    """
    found = os.statvfs(folder)
    return Disk(size=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize)


def _sizes_of(paths: Iterable[Path]) -> list[int | OSError]:
    """Bytes that outputs with their indexes take of the disk; 0 of one that is not there, or why it cannot be told."""
    return [_size_of(path) for path in paths]


def _size_of(path: Path) -> int | OSError:
    try:
        return _blocks_of(path) + _blocks_of(index_path(path))
    except OSError as error:
        return error


def _blocks_of(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0
