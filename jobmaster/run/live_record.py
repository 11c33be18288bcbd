"""The record of a job that has not ended: as of now in memory, and after it in the journal.

The pieces of a supervisor change a job by events, which are applied here and posted to the journal in the order in which
they happened. Two of them are waited for: the launch, before the command is executed, and the end, before anybody is
told of it.

Of a job whose command was never executed the journal is told nothing but its launch and its end: a server that comes
after this one would take the death of the process that held it for the command's.

A failure of the host or of the journal keeps no job from its end: `failures_logged` is for every step of a supervisor
that may fail.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import HostError, JobError, JournalUnavailable
from jobmaster.job.cause import describe
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent, JobRecord, Launched, OomKillsCounted, OutputLost, SignalOrdered, apply
from jobmaster.job.state import Ended, Executed, Finished, Held, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from jobmaster.job.cause import Cause, StopOrder
    from jobmaster.job.request import RequestError
    from jobmaster.job.usage import Usage
    from jobmaster.output.log import OutputLog
    from jobmaster.run.recorder import Recorder

logger = logging.getLogger(__name__)

LOSS_SECONDS: Final = 1.0
MOST_LOSS_SECONDS: Final = 60.0
"""Between two records of how much output could not be kept, at first and at last."""
RECORD_SECONDS: Final = 10.0
"""How long, when the server ends, the journal may take for the end of a job."""


class LiveRecord:
    """One job's record. Nothing here blocks, and what is not asynchronous may be called from any task."""

    def __init__(
        self, record: JobRecord, recorder: Recorder, output: OutputLog, *, hands_over: Callable[[], bool]
    ) -> None:
        """Begins with what was recorded last.

        Args:
            record: as it was recorded last; of a new job, as it will be.
            recorder: makes its events durable.
            output: of the job; its size is a part of the record.
            hands_over: as of `Supervisor`.
        """
        self._record = record
        self._recorder = recorder
        self._output = output
        self._hands_over = hands_over
        self._complaints: set[str] = set()
        self._recording_end = trio.CancelScope()
        self.was_executed = not isinstance(record.state, Held)
        """Whether its command was executed, or may have been."""
        self.oom_kills = record.oom_kills
        """How many of its processes the kernel is known to have killed for memory; the journal is told by `note_oom_kills`."""
        self.usage: Usage | None = None
        """What it has used, once it is over and where that is known; told with the end."""
        self.early_order: StopOrder | None = None
        """The first stop order that was given before its command was executed, of which the journal is told when it is."""
        self.is_in_journal = True
        """Whether its launch is durable."""
        self._may_be_in_journal = True
        """Whether it is, or may become so though its caller is refused."""
        self.is_end_given = False
        """Whether the journal was given its end, and writes it in its turn."""
        self._is_end_recorded = False
        self.pausing_changes = trio.Event()
        """Set, and replaced, when it is paused or goes on."""
        self.ends_with_server = False
        """Whether the server ends it, and hands it over no more."""

    def __repr__(self) -> str:
        return f"<job {self._record.id} of {self._record.owner}: {type(self._record.state).__name__}>"

    @property
    def id(self) -> JobId:
        """The job's."""
        return self._record.id

    @property
    def is_end_settled(self) -> bool:
        """Whether the journal has its end, or will never know of it; of a job that nobody was told of, that may come later."""
        return self._is_end_recorded or (self._has_ended and self._record.id not in self._recorder.unwritten)

    @property
    def _has_ended(self) -> bool:
        return isinstance(self._record.state, Ended)

    @property
    def now(self) -> JobRecord:
        """The record as of now."""
        if self._has_ended:
            return self._record
        output = self._output
        return replace(
            self._record,
            oom_kills=self.oom_kills,
            output_bytes=output.kept,
            output_bytes_lost=output.lost,
            output_bytes_dropped=output.dropped,
        )

    @property
    def state(self) -> State:
        """The state as of now."""
        return self._record.state

    @property
    def stop_signal(self) -> int:
        """As of `JobRecord`."""
        return self._record.stop_signal

    # --- what happens -------------------------------------------------------------------------------------------------

    async def record_launch(self, launched: Launched, admitted: Callable[[], Awaitable[None]] | None) -> None:
        """Returns when the first event is durable; `admitted` is awaited before it is given to the journal.

        Raises:
            JournalUnavailable, RequestTaken: it is not.
            Exception: whatever `admitted` raises.
        """
        self.is_in_journal = self._may_be_in_journal = False
        if admitted is not None:
            await admitted()
        try:
            await self._recorder.record(self._record.id, launched)
        except JournalUnavailable as error:
            self._may_be_in_journal = error.is_doubtful
            raise
        self.is_in_journal = self._may_be_in_journal = True

    def apply(self, event: JobEvent) -> None:
        """Changes the record, and has the journal follow.

        Raises:
            InvalidTransition: a bug: it cannot happen in this state.
        """
        was_paused = self._record.paused
        self._record = apply(self._record, event)
        if self._record.paused != was_paused:
            self.pausing_changes.set()
            self.pausing_changes = trio.Event()
        if self.is_in_journal and self.was_executed:
            self._post(event)

    def note_executed(self) -> None:
        """The command is executed."""
        self.was_executed = True
        self.apply(Executed())

    def take_for_executed(self) -> None:
        """For all that anybody knows, the command may have been executed."""
        self.was_executed = True

    def withdraw_signal(self, order: SignalOrdered, earlier: SignalOrdered | None) -> None:
        """A signal was not sent: the cause of the end, which the journal is told as it is here, is not to name who ordered it.

        Args:
            order: that of the signal.
            earlier: the one of the same number that stood before it.
        """
        others = tuple(each for each in self._record.signals if each is not order)
        if others != self._record.signals:
            self._record = replace(self._record, signals=others if earlier is None else (*others, earlier))

    async def settle(self) -> None:
        """Returns when all that has happened until now is durable."""
        if self.is_in_journal:
            await self._recorder.settle()

    def _post(self, event: JobEvent, request_error: RequestError | None = None, *, forget: bool = False) -> None:
        with self.failures_logged("recording what happens"):
            self._recorder.post(self._record.id, event, request_error, forget=forget)

    @contextmanager
    def failures_logged(self, what: str) -> Iterator[None]:
        """Goes on after the block whatever that meets; of each step, named by `what`, the first failure is logged."""
        try:
            yield
        except Exception as error:  # nothing may keep a job from its end
            if what not in self._complaints:
                self._complaints.add(what)
                is_a_bug = not isinstance(error, HostError | OSError | JobError)
                logger.error("%r: %s failed: %s", self, what, error, exc_info=is_a_bug)

    @property
    def has_oom_kills_to_note(self) -> bool:
        """Whether the journal has not been told of all OOM kills that are known."""
        return self.oom_kills > self._record.oom_kills

    def note_oom_kills(self) -> None:
        """Records the OOM kills that are known."""
        if self.has_oom_kills_to_note:
            self.apply(OomKillsCounted(count=self.oom_kills))

    # --- output that is lost ------------------------------------------------------------------------------------------

    async def watch_losses(self) -> None:
        """Records that output is lost: a server that comes after this one goes on behind the gap."""
        await self._output.has_lost.wait()
        pause = LOSS_SECONDS
        while True:
            self.note_losses()
            await trio.sleep(pause)
            pause = min(2 * pause, MOST_LOSS_SECONDS)

    def note_losses(self) -> None:
        """Records what is lost for good, and that something was dropped: how much, the output's index tells.

        Of what is dropped in a gap that is still open the index does not know.

        What was left in the pipe is told with the end alone: until that is durable, the next server finds it there.
        """
        record, (lost, dropped) = self._record, self._output.gone_for_good
        has_dropped = dropped > record.output_bytes_dropped and (
            self._output.gap is not None or not record.output_bytes_dropped
        )
        if lost > record.output_bytes_lost or has_dropped:
            self.apply(OutputLost(count=max(0, lost), dropped=max(0, dropped)))

    # --- the end ------------------------------------------------------------------------------------------------------

    def end_with_server(self) -> None:
        """The server ends the job: from now on the journal has RECORD_SECONDS for its end."""
        self.ends_with_server = True
        self._recording_end.deadline = min(self._recording_end.deadline, trio.current_time() + RECORD_SECONDS)

    async def end(self, cause: Cause, ended_at: datetime | None = None, *, age: int | None = None) -> None:
        """Has the end recorded and then applies it: when this returns, the job has ended or is another server's.

        The journal is given it once, and writes it as soon as it can. Where jobs are handed over, a cancelled caller does
        not wait for that: the next server finds the end, or tells it.

        Args:
            cause: of the end.
            ended_at: when that was; None: now.
            age: as of `Finished`.
        """
        end = replace(self._finished(cause, ended_at), age=age)
        self.is_end_given = True
        try:
            deadline = trio.current_time() + RECORD_SECONDS if self.ends_with_server else math.inf
            with trio.CancelScope(deadline=deadline) as self._recording_end:
                await self._record_end(end, self._recorder.record(self._record.id, end))
        except trio.Cancelled:
            await trio.lowlevel.cancel_shielded_checkpoint()
            if not self._hands_over():
                deadline = trio.current_time() + RECORD_SECONDS
                with trio.CancelScope(shield=True, deadline=deadline) as self._recording_end:
                    await self._record_end(end, self._settle())
                self._complain_if_late(end)
            raise
        self._complain_if_late(end)

    async def end_unknown(
        self, cause: Cause, request_error: RequestError | None, *, ended_at: datetime | None = None, forget: bool
    ) -> None:
        """As `end`, of a job that nobody was told of: its end is recorded in its turn, or later.

        Args:
            cause: of the end.
            request_error: what its request id is to be answered from now on, if anything.
            ended_at: as of `end`.
            forget: the journal is to forget it, though its command was executed.
        """
        end = self._finished(cause, ended_at)
        with trio.move_on_after(RECORD_SECONDS, shield=True):
            if self._may_be_in_journal:
                self._post(end, request_error, forget=forget)
                await self._recorder.settle()
        self._accept(end)

    def _finished(self, cause: Cause, ended_at: datetime | None) -> Finished:
        now = datetime.now(UTC)
        return Finished(
            cause=cause,
            at=now if ended_at is None else min(now, max(self._record.state.started_at, ended_at)),
            output_bytes=self._output.kept,
            output_bytes_lost=self._output.lost,
            output_bytes_dropped=self._output.dropped,
            usage=self.usage,
        )

    async def _record_end(self, end: Finished, recording: Awaitable[object]) -> None:
        """Accepts the end when it is recorded."""
        try:
            await recording
        except JournalUnavailable as error:
            await trio.lowlevel.checkpoint()  # who was cancelled while it was being written learns that here
            self.is_end_given = self._record.id in self._recorder.unwritten
            self._complain_of_end(end, error)
        else:
            self._accept(end)
            self._is_end_recorded = True

    async def _settle(self) -> None:
        await self._recorder.settle()
        if self._record.id in self._recorder.unwritten:
            raise JournalUnavailable("the journal has ended")

    def _complain_if_late(self, end: Finished) -> None:
        if self._recording_end.cancelled_caught:
            self._complain_of_end(end, "its disk does not answer")

    def _complain_of_end(self, end: Finished, why: object) -> None:
        logger.error("%r: the journal has not recorded yet that it %s: %s", self, describe(end.cause), why)

    def _accept(self, end: Finished) -> None:
        self._record = apply(self._record, end)
        self._output.seal()
