"""A job's nursery: one Trio nursery that owns the main process, the output pump and the look at memory.events.

Theory of operation
-------------------
A supervisor is made of an execution, a log and a pump. `run` records a job that is held, gives leave to execute its
command, says that it runs, and lives until it has ended; `resume` does the same from where an earlier server left off.
Four tasks run beside it, or up to three more:

* the *pump* moves output from the pipe to the log;
* the *input* (`stdin`), where the job has one, moves what clients write into its pipe;
* the *loss watch* (`live_record`) records that output could not be kept, and how much;
* the *memory watch* (`death_watch`) reads memory.events when it is told that they have changed (by the registry, which
  looks at the counters of all jobs together), so that a child killed for memory is told while the job runs;
* the *run time* (`run_time`), where it is bounded, orders the end of the job when that is over;
* the *stop* (`termination`) carries out a stop order: its signal, the grace period, SIGKILL.

The body waits for the main process to die. Then the job gives back what it has of the host (`teardown`), the cause is
decided and recorded, and the log sealed. An end is told to nobody before it is durable.

A supervisor that is cancelled hands its job over, until the last of its processes has died: it leaves the processes, the
pipe and the log as they are, to a server that comes after this one. Where it is its caller's alone that are cancelled, or the server ends with its jobs,
cancellation is the end of the job. Whatever happens, who waits for the end is released: by the end, with everything in
its final place, or by `HandedOver`.

The pieces know each other in one direction: record, death watch, termination, teardown, supervisor; what happens to the
job goes through the record alone.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import CommandNotRunnableNow, ExecutionUnknown, HandedOver, JobmasterError
from jobmaster.job.cause import Cause, FailedToStart, cause_of
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, Launched, evidence_of
from jobmaster.job.request import RequestError, request_error_of
from jobmaster.job.state import Closing, Ended, Held, Stopping
from jobmaster.run.control import GONE_ON, Control
from jobmaster.run.death_watch import DeathWatch
from jobmaster.run.execution import age_of
from jobmaster.run.live_record import LiveRecord
from jobmaster.run.run_time import RunTimeLimit
from jobmaster.run.start_errors import host_errors_translated
from jobmaster.run.teardown import Teardown
from jobmaster.run.termination import Termination
from jobmaster.run.usages import Sampling

if TYPE_CHECKING:
    from jobmaster.job.cause import StopOrder
    from jobmaster.output.log import OutputLog
    from jobmaster.output.pump import Pump
    from jobmaster.run.execution import Execution
    from jobmaster.run.recorder import Recorder
    from jobmaster.run.stdin import Stdin

logger = logging.getLogger(__name__)

EXECUTE_SECONDS: Final = 10.0
"""How long the kernel may take to look up and execute a command, as the job's user."""
RETRY_SECONDS: Final = 1.0
"""After an error in one of a job's tasks that is a bug."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the end of a job depends on.

    Attributes:
        grace_seconds: between the signal and SIGKILL of a stop, where the job has no grace period of its own.
    """

    grace_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Departure:
    """How a supervisor's life ended before the job did.

    Attributes:
        not_executed: why the command was not executed, where it was not.
        request_error: what the job's request id is to be answered then, if anything.
        is_bug: an exception that nobody expects.
    """

    not_executed: str = "the server gave it up"
    request_error: RequestError | None = None
    is_bug: bool = False


class Supervisor:
    """One job to its end. `run` or `resume` it in a nursery; everything else may be called from any task."""

    def __init__(
        self,
        record: JobRecord,
        execution: Execution,
        log: OutputLog,
        pump: Pump,
        terms: Terms,
        recorder: Recorder,
        *,
        stdin: Stdin | None = None,
        hands_over: Callable[[], bool] = lambda: False,
        on_end: Callable[[], None] = _nothing,
    ) -> None:
        """Takes over the execution and the pump.

        Args:
            record: the job as it was recorded last; of a new job, as it will be.
            execution: its processes.
            log: its output.
            pump: of its output.
            terms: on which it ends.
            recorder: makes its events durable.
            stdin: its input, which the execution closes; None where it has none.
            hands_over: whether the whole server is being cancelled and another one goes on with its jobs; asked when this
                supervisor is cancelled, a round of the event loop later.
            on_end: called when the record is final, or the job handed over, before who waits is woken.
        """
        self._hands_over = hands_over
        self._on_end = on_end
        self._pump = pump
        self._is_given_up = False
        self._is_to_be_found = False
        self._record = LiveRecord(record, recorder, log, hands_over=hands_over)
        self._death_watch = DeathWatch(self._record, execution)
        grace_seconds = terms.grace_seconds
        self._termination = Termination(
            self._record,
            execution,
            self._death_watch,
            grace_seconds=grace_seconds if record.stop is None else record.stop.grace_seconds(grace_seconds),
            last_grace_seconds=grace_seconds,
        )
        self._teardown = Teardown(self._record, execution, pump, self._death_watch, self._termination)
        self.execution = execution
        self.output = log
        self.stdin = stdin
        self.executed = trio.Event()
        """Set when the command is executed, or never will be."""
        self.ended = trio.Event()
        self.control = Control(self._record, execution, executed=self.executed, ended=self.ended)
        """What clients order that is no end."""
        self.sampling = Sampling(execution)
        """What it uses."""
        self.has_failed = False
        """Whether its command could not be executed, or too late: it is no caller's wish that it ends."""
        self.is_executing = False
        """Whether its command is being executed, or has been."""
        self.is_told = False
        """Whether the caller of Start has been told that the command is executed."""

    def __repr__(self) -> str:
        return repr(self._record)

    @property
    def job_id(self) -> JobId:
        """The job's."""
        return self._record.id

    @property
    def record(self) -> JobRecord:
        """The job as of now."""
        return self._record.now

    @property
    def was_never_executed(self) -> bool:
        """Whether its command has not been executed (yet)."""
        match self._record.state:
            case Held() | Ended(cause=FailedToStart()):
                return True
            case _:
                return False

    @property
    def is_handed_over(self) -> bool:
        """Whether another server goes on with it."""
        return self.ended.is_set() and not isinstance(self._record.state, Ended)

    @property
    def is_end_given(self) -> bool:
        """Whether the journal was given its end, and writes it in its turn."""
        return self._record.is_end_given

    def is_end_settled(self) -> bool:
        """Whether the journal has its end, or will never know of it."""
        return self._record.is_end_settled

    @property
    def leaves_nothing(self) -> bool:
        """Whether it closes its execution itself at its end. Else somebody else has to, later.

        A process could not be killed, or the journal has not settled yet what became of a job that nobody was told of.
        """
        return self._teardown.leaves_nothing

    async def wait_ended(self) -> None:
        """Waits until the job has ended and its record is final.

        Raises:
            HandedOver: this server does not see the job to its end; another one will.
        """
        await self.ended.wait()
        if self.is_handed_over:
            raise HandedOver(GONE_ON)

    def order_stop(self, by: str | None, reason: str = "", *, force: bool = False) -> None:
        """Asks the job to end: the stop's signal, grace, SIGKILL. The first order counts; one that comes after the end, none.

        Args:
            by: the client who asks, or None for the server itself.
            reason: why, in the client's words.
            force: without a grace period, or with no more of the one that has begun, whoever asked for the end.
        """
        self._termination.order(by, reason, force=force)

    def hurry(self) -> None:
        """Ends the grace period of a stop, now or when there is one."""
        self._termination.hurry()

    def give_up(self) -> None:
        """Says that nobody was told of the job, nor will be."""
        self._is_given_up = True

    def end_with_server(self) -> None:
        """Asks the job to end because the server does; it is not handed over any more."""
        self._record.end_with_server()
        self._termination.end_with_server()

    def memory_has_changed(self) -> None:
        """Says that the counters of memory.events are not what they were."""
        self._death_watch.memory_has_changed()

    # --- the life -----------------------------------------------------------------------------------------------------

    async def run(
        self,
        launched: Launched,
        *,
        admitted: Callable[[], Awaitable[None]] | None = None,
        task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Records a held job, executes its command, says so, and lives until the job has ended or is handed over.

        Args:
            launched: its first event.
            admitted: awaited before that is recorded, where there is something to await.
            task_status: told when its command is executed.

        Raises:
            JobError, RequestError, HostError: it was not executed; nothing of it is left.
        """
        self._is_to_be_found = launched.request is not None
        async with self._to_its_end():
            await self._record.record_launch(launched, admitted)
            await (
                trio.lowlevel.checkpoint_if_cancelled()
            )  # a commit takes its time, and who left meanwhile wants nothing
            await self._execute()
            self._termination.note_executed()
            self.is_told = True
            task_status.started(self)
            await self._live()

    async def resume(self, order: StopOrder | None = None, *, is_killed: bool = False, is_early: bool = False) -> None:
        """Goes on with a job of an earlier server; returns when it has ended.

        Args:
            order: a stop order that was noted, and may not be in the record.
            is_killed: likewise, that its grace period was over.
            is_early: the order was noted before the command was executed.

        Raises:
            JobError, RequestError, HostError: it was never executed; nothing of it is left.
        """
        self._is_to_be_found = not self._is_given_up  # its request may have an id
        if order is not None:  # the launcher does not know the signal
            order = replace(order, signal=self._record.stop_signal)
        async with self._to_its_end():
            if self._is_given_up:
                return
            is_held = isinstance(self._record.state, Held)
            if is_held:
                self._record.early_order = order or self._record.early_order
                await self._execute()
            self.executed.set()
            self._termination.go_on(order, is_killed=is_killed, is_early=is_early and is_held)
            self._termination.note_executed()
            self.control.go_on()
            self._death_watch.memory_has_changed()  # since nobody looked
            if not isinstance(self._record.state, Closing) or self._termination.has_others_to_end:
                await self._live()

    @asynccontextmanager
    async def _to_its_end(self) -> AsyncIterator[None]:
        """Ends the job, or hands it over, after the block."""
        is_to_end = True
        departure = _Departure()
        try:
            try:
                yield
            except ExecutionUnknown:
                self.has_failed = True
                self._record.take_for_executed()
                raise
            except JobmasterError as error:
                self.has_failed = True
                departure = _Departure(not_executed=str(error), request_error=request_error_of(error))
                await self._teardown.see_all_die()  # noqa: ASYNC120  # who is cancelled leaves it, and the error, to another server
                raise
            if isinstance(self._record.state, Stopping | Closing) or self._is_given_up:
                await self._teardown.see_all_die()  # likewise
        except JobmasterError:
            raise
        except Exception:
            departure = _Departure(is_bug=True)
            raise
        except BaseException:  # cancelled
            await trio.lowlevel.cancel_shielded_checkpoint()
            is_alone = not self._record.is_in_journal or not self._hands_over()
            is_to_end = is_alone or self._record.ends_with_server
            raise
        finally:
            if is_to_end:
                await self._close(departure)  # noqa: ASYNC102  # shields itself
            else:
                await self._hand_over()  # noqa: ASYNC102  # shields itself

    async def _execute(self) -> None:
        self.is_executing = True
        try:
            with host_errors_translated(), trio.fail_after(EXECUTE_SECONDS):
                await self.execution.execute()
        except trio.TooSlowError:
            raise CommandNotRunnableNow(
                f"the host did not find and execute the command within {EXECUTE_SECONDS:.0f} s; "
                "is its file on a disk that does not answer, or are the job's limits of CPU or memory too small?"
            ) from None
        self._record.note_executed()
        self.executed.set()

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._persist, "the output", self._pump.run)
            if self.stdin is not None:
                nursery.start_soon(self._persist, "the input", self.stdin.run)
            nursery.start_soon(self._persist, "the look at memory.events", self._death_watch.watch_memory)
            nursery.start_soon(self._record.watch_losses)
            if self._record.now.ends_when_full:
                nursery.start_soon(self._end_when_full)
            if (run_time := self._record.now.run_time) is not None:
                limit = RunTimeLimit(run_time, self._record, self.execution, self._termination)
                nursery.start_soon(self._persist, "the bound of its run time", limit.enforce)
            nursery.start_soon(self._carry_out_stop, nursery.cancel_scope)
            if not isinstance(self._record.state, Closing):
                await self._death_watch.see_death()
            if isinstance(self._record.state, Closing) and self._record.state.order is not None:
                await self._teardown.wait_empty()  # its other processes have the rest of the grace period
            nursery.cancel_scope.cancel()

    async def _persist(self, what: str, task: Callable[[], Awaitable[None]]) -> None:
        """Runs a task to its end; a bug in it does not end the job."""
        while True:
            try:
                return await task()
            except Exception:
                logger.exception("%r: a bug in %s", self, what)
            await trio.sleep(RETRY_SECONDS)

    async def _end_when_full(self) -> None:
        await self.output.is_full.wait()
        self._termination.order(None, for_output=True)

    async def _carry_out_stop(self, life: trio.CancelScope) -> None:
        await self._termination.carry_out()
        life.cancel()

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _close(self, departure: _Departure) -> None:
        try:
            was_wanted = not (self.has_failed or self._is_given_up)  # though it may be executed in this instant
            if (was_wanted or self._record.was_executed) and not departure.is_bug:
                self._termination.order(None)  # where it still runs, the server is what ends it
            await self._teardown.end_execution_and_output()
        finally:
            try:
                await self._end(departure)  # noqa: ASYNC102  # to be cancelled: who waits for the disk hands over
            finally:
                await self._teardown.release()  # noqa: ASYNC102  # shields itself

    @property
    def _is_for_nobody(self) -> bool:
        """Whether its caller neither was told of it nor can find it."""
        return self._is_given_up or not (self.is_told or self._is_to_be_found)

    async def _hand_over(self) -> None:
        if self._is_for_nobody:
            self._termination.give_up()
        elif self.has_failed:
            self._termination.note_late_start()
        try:
            await self._teardown.hand_over()
        finally:
            self._tell_end()

    async def _end(self, departure: _Departure) -> None:
        """Has the end recorded, and then tells it; what cannot be recorded any more is left to another server."""
        try:
            cause = self._cause(departure)
            is_nobodys = self._is_given_up or (self.has_failed and not self._is_to_be_found)
            if self._record.was_executed and not is_nobodys:
                age = age_of(self.execution) if self.record.paused else None
                await self._record.end(cause, self._teardown.ended_at(), age=age)
            else:
                await self._record.end_unknown(
                    cause, departure.request_error, ended_at=self._teardown.ended_at(), forget=is_nobodys
                )
        finally:
            self._tell_end()

    def _cause(self, departure: _Departure) -> Cause:
        evidence = evidence_of(
            self.record,
            never_executed=None if self._record.was_executed else departure.not_executed,
            is_death_known=not departure.is_bug,
            usage=self._record.usage,
            lost_because="a bug in the server ended it" if departure.is_bug else self._death_watch.why_unknown(),
        )
        return cause_of(evidence)

    def _tell_end(self) -> None:
        self.executed.set()
        self.ended.set()
        on_end, self._on_end = self._on_end, _nothing  # whose owner has this supervisor: no cycle is left
        on_end()  # before anybody who waited runs
