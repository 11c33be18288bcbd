"""A job's nursery: one Trio nursery that owns the main process, the output pump and the look at memory.events.

Theory of operation
-------------------
A supervisor is made of an execution, a log and a pump. `run` records a job that is held, gives leave to execute its
command, says that it runs, and lives until it has ended; `resume` does the same from where an earlier server left off.
Four tasks run beside it:

* the *pump* moves output from the pipe to the log;
* the *loss watch* records that output could not be kept, and how much;
* the *memory watch* reads memory.events when it is told that they have changed (by the registry, which looks at the
  counters of all jobs together), so that a child killed for memory is told while the job runs;
* the *stop* carries out a stop order: SIGTERM, the grace period, SIGKILL.

The body waits for the main process to die. Then the job is closed, shielded, step by step, each step with a deadline
and none depending on another's success: what is left is killed until the cgroup is empty, the pipe is drained and what
remains in it counted, the cgroup is removed, the cause is decided and recorded, the log sealed. An end is told to nobody
before it is durable.

A supervisor that is cancelled hands its job over: it leaves the processes, the pipe and the log as they are, to a server
that comes after this one. Where it
is its caller's alone that are cancelled, or the server ends with its jobs, cancellation is the end of the job. Whatever happens, who waits for the end
is released: by the end, with everything in its final place, or by `HandedOver`.

OOM kills. memory.events counts kills, not whom they hit. A count that has risen is held against the main process only
until that is seen to live on: at the first look at which it neither has died nor is dying (by a SIGKILL of which it has
not died yet), the kill was another's.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import (
    CommandNotRunnable,
    ExecutionUnknown,
    HandedOver,
    HostError,
    JobError,
    JobmasterError,
    JournalUnavailable,
)
from jobmaster.job.cause import Death, Evidence, Signalled, StopOrder, cause_of, describe
from jobmaster.job.record import JobEvent, JobRecord, Launched, OomKillsCounted, OutputLost, apply
from jobmaster.job.request import RequestError, request_error_of
from jobmaster.job.state import (
    Closing,
    Ended,
    Executed,
    Finished,
    Held,
    KillSent,
    MainProcessDied,
    Running,
    StopOrdered,
    Stopping,
    StopSignalled,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobmaster.output.log import OutputLog
    from jobmaster.output.pump import Pump
    from jobmaster.run.execution import Execution
    from jobmaster.run.recorder import Recorder
    from jobmaster.run.stdin import Stdin

logger = logging.getLogger(__name__)

EXECUTE_SECONDS: Final = 10.0
"""How long the kernel may take to look up and execute a command, as the job's user."""
LOSS_SECONDS: Final = 1.0
MOST_LOSS_SECONDS: Final = 60.0
"""Between two records of how much output could not be kept, at first and at last."""
SETTLE_SECONDS: Final = 0.1
"""Between an OOM kill and the look whether the main process lives on."""
CLOSING_SECONDS: Final = 20.0
"""How long killed processes may take to die; only uninterruptible sleep takes so long."""
REMOVAL_SECONDS: Final = 1.0
"""How long the kernel may find an empty cgroup busy."""
OUTPUT_SECONDS: Final = 10.0
"""How long the pump may take for the rest of the output; it has shorter deadlines of its own."""
RELEASE_SECONDS: Final = 5.0
"""How long the execution may take to close what it holds of the output."""
RECORD_SECONDS: Final = 10.0
"""How long, when the server ends, the journal may take for the end of a job."""
KILL_AGAIN_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 1.0
"""After an error in one of a job's tasks that is a bug."""
MOST_SECONDS: Final = CLOSING_SECONDS + REMOVAL_SECONDS + 2 * OUTPUT_SECONDS + RELEASE_SECONDS + 1.0
"""How long a job may take to be closed, in all."""
GONE_ON: Final = "the server has handed the job over to the one that comes after it; ask again"
"""What is said of a job that was handed over."""
_FIRST_POLL: Final = 0.0005
_LAST_POLL: Final = 0.05


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the end of a job depends on.

    Attributes:
        grace_seconds: between SIGTERM and SIGKILL of a stop.
    """

    grace_seconds: float


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
        self._record = record
        self._recorder = recorder
        self._hands_over = hands_over
        self._on_end = on_end
        self.execution = execution
        self._pump = pump
        self._terms = terms
        self._stop_ordered = trio.Event()
        self._hurry = trio.Event()
        self._memory_changed = trio.Event()
        self._others_oom_kills = record.oom_kills
        self._lost_because: str | None = None
        self._is_lost = False
        self._is_given_up = False
        self._ends_with_server = False
        self._recording = trio.CancelScope()
        self._is_recorded = True
        self._is_end_written = True
        self._was_executed = not isinstance(record.state, Held)
        self._request_error: RequestError | None = None
        self._complaints: set[str] = set()
        self.output = log
        self.stdin = stdin
        self.executed = trio.Event()
        """Set when the command is executed, or never will be."""
        self.ended = trio.Event()
        self.is_told = False
        """Whether the caller of Start has been told that the command is executed."""
        self.is_handed_over = False
        """Whether another server is to go on with it; final when `ended` is set."""
        self.is_removed = False
        """Whether nothing of it is left on the host; false after the end where a process could not be killed."""

    def __repr__(self) -> str:
        return f"<job {self._record.id} of {self._record.owner}: {type(self._record.state).__name__}>"

    @property
    def record(self) -> JobRecord:
        """The job as of now."""
        if isinstance(self._record.state, Ended):
            return self._record
        return replace(self._record, output_bytes=self.output.size, output_bytes_lost=self.output.lost)

    async def wait_ended(self) -> None:
        """Waits until the job has ended and its record is final.

        Raises:
            HandedOver: this server does not see the job to its end; another one will.
        """
        await self.ended.wait()
        if self.is_handed_over:
            raise HandedOver(GONE_ON)

    def order_stop(self, by: str | None, reason: str = "") -> None:
        """Asks the job to end: SIGTERM, grace, SIGKILL. The first order counts; one that comes after the end, none.

        Args:
            by: the client who asks, or None for the server itself.
            reason: why, in the client's words.
        """
        if isinstance(self._record.state, Running) and not self._has_died():
            self._stop(StopOrder(by=by, requested_at=_now(), reason=reason))

    def _stop(self, order: StopOrder) -> None:
        with self._logged("noting the stop order"):
            self.execution.note_order(order)  # a server that dies now does not make the signal a stranger's
        self._apply(StopOrdered(order=order))
        self._signal_main_to_stop()

    def _signal_main_to_stop(self) -> None:
        with self._logged("signalling its main process"):
            # Whether it lived is asked before: it may handle the signal and end before anybody can look.
            if self.execution.signal_main(signal.SIGTERM):
                self._apply(StopSignalled())
        self._stop_ordered.set()

    def give_up(self) -> None:
        """Says that nobody was told of the job, nor will be."""
        self._is_given_up = True

    def end_with_server(self) -> None:
        """Asks the job to end because the server does; it is not handed over any more."""
        self._ends_with_server = True
        self._recording.deadline = trio.current_time() + RECORD_SECONDS
        self.order_stop(None)

    def hurry(self) -> None:
        """Ends the grace period of a stop now."""
        self._hurry.set()

    def memory_has_changed(self) -> None:
        """Says that the counters of memory.events are not what they were."""
        self._memory_changed.set()

    # --- the life -----------------------------------------------------------------------------------------------------

    async def run(
        self, launched: Launched, *, task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Records a held job, executes its command, says so, and lives until the job has ended or is handed over.

        Args:
            launched: its first event.
            task_status: told when its command is executed.

        Raises:
            JobError, RequestError, HostError: it was not executed; nothing of it is left.
        """
        self._is_recorded = False
        async with self._to_its_end():
            await self._recorder.record(self._record.id, launched)
            self._is_recorded = True
            await self._execute()
            self.is_told = True
            task_status.started(self)
            await self._live()

    async def resume(self, order: StopOrder | None = None, *, is_killed: bool = False) -> None:
        """Goes on with a job of an earlier server; returns when it has ended.

        Args:
            order: a stop order that was noted, and may not be in the record.
            is_killed: likewise, that its grace period was over.

        Raises:
            JobError, RequestError, HostError: it was never executed; nothing of it is left.
        """
        async with self._to_its_end():
            if isinstance(self._record.state, Held):
                await self._execute()
            self.executed.set()
            self._go_on_stopping(order, is_killed=is_killed)
            if not isinstance(self._record.state, Closing):
                await self._live()

    def _go_on_stopping(self, order: StopOrder | None, *, is_killed: bool) -> None:
        """Does what an earlier server was about to do when it died; what it had noted it did right after."""
        if isinstance(self._record.state, Running) and order is not None:
            self._apply(StopOrdered(order=order))
        if not isinstance(self._record.state, Stopping):
            return
        if order is not None and self._has_died():
            self._apply(StopSignalled())
        if is_killed:
            self._apply(KillSent())
            self._hurry.set()
        if not self._record.state.signalled:
            self._signal_main_to_stop()
        self._stop_ordered.set()

    @asynccontextmanager
    async def _to_its_end(self) -> AsyncIterator[None]:
        """Ends the job, or hands it over, after the block."""
        is_to_end = True
        not_executed = "the server gave it up"
        try:
            yield
        except ExecutionUnknown:
            self._was_executed = True  # for all that anybody knows
            raise
        except JobmasterError as error:
            not_executed = str(error)
            self._request_error = request_error_of(error)
            raise
        except Exception:
            self._is_lost, self._lost_because = True, "a bug in the server ended it"
            raise
        except BaseException:  # cancelled
            await trio.lowlevel.cancel_shielded_checkpoint()
            is_to_end = self._ends_with_server or not self._is_recorded or not self._hands_over()
            raise
        finally:
            if is_to_end:
                await self._close(not_executed)  # noqa: ASYNC102  # shields itself
            else:
                await self._hand_over()  # noqa: ASYNC102  # shields itself

    async def _execute(self) -> None:
        try:
            with trio.fail_after(EXECUTE_SECONDS):
                await self.execution.execute()
        except trio.TooSlowError:
            raise CommandNotRunnable(
                f"the host did not find and execute the command within {EXECUTE_SECONDS:.0f} s; "
                "is its file on a disk that does not answer?"
            ) from None
        self._was_executed = True
        self._apply(Executed())
        self.executed.set()

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._persist, "the output", self._pump.run)
            if self.stdin is not None:
                nursery.start_soon(self._persist, "the input", self.stdin.run)
            nursery.start_soon(self._persist, "the look at memory.events", self._watch_memory)
            nursery.start_soon(self._watch_losses)
            nursery.start_soon(self._carry_out_stop, nursery.cancel_scope)
            await self._see_main_process_die()
            if isinstance(self._record.state, Closing) and self._record.state.order is not None:
                await _poll(self._is_empty)  # its other processes have the rest of the grace period
            nursery.cancel_scope.cancel()

    async def _watch_losses(self) -> None:
        """Records that output is lost: a server that comes after this one must not write behind the gap."""
        await self.output.has_lost.wait()
        pause = LOSS_SECONDS
        while True:
            self._note_losses()
            await trio.sleep(pause)
            pause = min(2 * pause, MOST_LOSS_SECONDS)

    def _note_losses(self) -> None:
        if self.output.lost > self._record.output_bytes_lost:
            self._apply(OutputLost(count=self.output.lost))

    async def _persist(self, what: str, task: Callable[[], Awaitable[None]]) -> None:
        """Runs a task to its end; a bug in it does not end the job."""
        while True:
            try:
                return await task()
            except Exception:
                logger.exception("%r: a bug in %s", self, what)
            await trio.sleep(RETRY_SECONDS)

    async def _see_main_process_die(self) -> None:
        try:
            death = await self.execution.wait_death()
        except (HostError, OSError) as error:
            self._lost_because = str(error)
            self._was_executed |= self.execution.was_executed()
            return
        if not self._was_executed and self.execution.was_executed():
            self._note_late_execution(death)
        kills = self._oom_kills()
        self._apply(MainProcessDied(death=death, killed_for_memory=kills > self._others_oom_kills))
        self._note_oom_kills(kills)

    def _note_late_execution(self, death: Death) -> None:
        """The command was executed while its start was being given up."""
        self._was_executed = True
        self._apply(Executed())
        if death == Signalled(signal.SIGKILL):
            self._apply(StopOrdered(order=StopOrder(by=None, requested_at=_now())))
            self._apply(KillSent())

    async def _watch_memory(self) -> None:
        while True:
            await self._memory_changed.wait()
            self._memory_changed = trio.Event()
            kills = self._oom_kills()
            await trio.sleep(SETTLE_SECONDS)
            with self._logged("looking whether its main process is dying"):
                if kills > self._others_oom_kills and not self.execution.is_dying():
                    self._others_oom_kills = kills
                    self._note_oom_kills(kills)

    def _oom_kills(self) -> int:
        kills = 0
        with self._logged("reading memory.events"):
            kills = self.execution.oom_kills()
        return max(kills, self._record.oom_kills)

    def _note_oom_kills(self, count: int) -> None:
        if count > self._record.oom_kills:
            self._apply(OomKillsCounted(count=count))

    async def _carry_out_stop(self, life: trio.CancelScope) -> None:
        await self._stop_ordered.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signal_stop)
            with trio.move_on_after(self._terms.grace_seconds):
                await self._hurry.wait()
            nursery.cancel_scope.cancel()
        self._kill()
        life.cancel()

    async def _signal_stop(self) -> None:
        with self._logged("signalling its processes"):
            await self.execution.signal_others(signal.SIGTERM)
            self.execution.signal_main(signal.SIGCONT)  # a process that is stopped does not handle SIGTERM
            await self.execution.signal_others(signal.SIGCONT)

    def _kill(self) -> None:
        state = self._record.state
        if isinstance(state, Held | Stopping) and not self._has_died():
            if isinstance(state, Stopping) and not state.killed:
                with self._logged("noting that it is killed"):
                    self.execution.note_kill(state.order)
            self._apply(KillSent())
        with self._logged("killing its processes"):
            self.execution.kill()

    def _has_died(self) -> bool:
        has_died = False
        with self._logged("looking at its main process"):
            has_died = self.execution.has_died()
        return has_died  # noqa: RET504  # a failure that is logged leaves it as it was

    def _is_empty(self) -> bool:
        is_empty = False
        with self._logged("looking for its processes"):
            is_empty = not self.execution.is_populated()
        return is_empty  # noqa: RET504  # a failure that is logged leaves it False

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _close(self, not_executed: str) -> None:
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + MOST_SECONDS):
                await self._end_processes_and_output()
        finally:
            try:
                await self._finish(not_executed)  # noqa: ASYNC102  # to be cancelled: who waits for the disk hands over
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + MOST_SECONDS):
                    await self._step("closing its execution", self._release, RELEASE_SECONDS)
                    await self._step("closing its output", self._pump.close, OUTPUT_SECONDS)  # the last, as it says

    async def _hand_over(self) -> None:
        self.is_handed_over = True
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + MOST_SECONDS):
                await self._step("handing over its output", self._pump.hand_over, OUTPUT_SECONDS)
                self._note_losses()
                with self._logged("leaving its execution"):
                    self.execution.leave()
                await self._step("closing its output", self._pump.close, OUTPUT_SECONDS)
        finally:
            self.executed.set()
            self.ended.set()
            self._on_end()

    async def _end_processes_and_output(self) -> None:
        if not self._is_lost:
            self.order_stop(None)  # where it still runs, the server is what ends it
        self._kill()
        await self._step("waiting for its processes to die", self._see_all_die, CLOSING_SECONDS)
        await self._step("keeping the rest of its output", self._pump.finish, OUTPUT_SECONDS)
        self._note_losses()
        self._note_oom_kills(self._oom_kills())
        await self._step("removing its cgroup", self._remove, REMOVAL_SECONDS)

    async def _step(self, what: str, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        with self._logged(what):
            with trio.move_on_after(seconds) as scope:
                await step()
            if scope.cancelled_caught:
                raise HostError(f"it took longer than {seconds:.0f} s")

    async def _see_all_die(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill_again)
            if not isinstance(self._record.state, Closing):
                with self._logged("waiting for its main process to die"):
                    await self._see_main_process_die()
            await _poll(self._is_empty)
            nursery.cancel_scope.cancel()

    async def _kill_again(self) -> None:
        while True:
            await trio.sleep(KILL_AGAIN_SECONDS)
            self._kill()

    async def _remove(self) -> None:
        await _poll(self.execution.remove)
        self.is_removed = True

    async def _release(self) -> None:
        if self.is_handed_over or not self._is_end_written:
            self.execution.leave()  # a server that finds the job without its end is told of it
        elif self.is_removed:
            await self.execution.close()

    async def _finish(self, not_executed: str) -> None:
        """Has the end recorded, and then tells it; what cannot be recorded any more is left to another server."""
        self.is_handed_over = True
        try:
            end = self._end(None if self._was_executed else not_executed)
            await self._record_end(end, nobody_knows=not self._was_executed or self._is_given_up)
        finally:
            self.executed.set()
            self.ended.set()
            on_end, self._on_end = self._on_end, _nothing  # whose owner has this supervisor: no cycle is left
            on_end()  # before anybody who waited runs

    def _end(self, not_executed: str | None) -> Finished:
        log = self.output
        cause = cause_of(self._evidence(not_executed))
        return Finished(cause=cause, at=_now(), output_bytes=log.size, output_bytes_lost=log.lost)

    async def _record_end(self, end: Finished, *, nobody_knows: bool) -> None:
        """Records the end and applies it. That of a job that nobody was told of is recorded in its turn, or later."""
        if nobody_knows:
            self._post(end, self._request_error)
            if self._is_recorded:
                with trio.move_on_after(RECORD_SECONDS, shield=True) as waiting:
                    await self._recorder.settle()
                self._is_end_written = not waiting.cancelled_caught
            self._accept_end(end)
            return
        try:
            await self._record_durably(end)
        except BaseException:  # cancelled; the end was withdrawn from the journal
            await trio.lowlevel.cancel_shielded_checkpoint()
            if not self._hands_over():
                with trio.CancelScope(shield=True, deadline=trio.current_time() + RECORD_SECONDS):
                    await self._record_durably(end)
            raise

    async def _record_durably(self, end: Finished) -> None:
        why: object = "its disk does not answer"
        with self._new_recording():
            try:
                await self._recorder.record(self._record.id, end)
            except JournalUnavailable as error:
                why = error
            else:
                self._accept_end(end)
                return
        logger.error("%r: the journal has not recorded that it %s: %s", self, describe(end.cause), why)

    def _new_recording(self) -> trio.CancelScope:
        self._recording = trio.CancelScope()
        if self._ends_with_server:
            self._recording.deadline = trio.current_time() + RECORD_SECONDS
        return self._recording

    def _accept_end(self, end: Finished) -> None:
        self._record = apply(self._record, end)
        self.is_handed_over = False
        self.output.seal()

    def _evidence(self, not_executed: str | None) -> Evidence:
        state = self._record.state
        closing = state if isinstance(state, Closing) else None
        return Evidence(
            death=closing.death if closing and not self._is_lost else None,
            never_executed=not_executed,
            order=closing.order if closing else None,
            killed=closing is not None and closing.killed,
            killed_for_memory=closing is not None and closing.killed_for_memory,
            oom_kills=self._record.oom_kills,
            memory_max=self._record.memory_max,
            lost_because=self._lost_because or self._why_not_seen_to_die(),
        )

    def _why_not_seen_to_die(self) -> str:
        if self._has_died():
            return "its main process died, but nobody told how"
        return "its main process did not die when it was killed"

    def _apply(self, event: JobEvent) -> None:
        """Changes the record, and has the journal follow.

        Of a job that was never executed the journal is told nothing but that: a server that follows this one would take
        the death of the process that held it for the command's.
        """
        self._record = apply(self._record, event)
        if self._is_recorded and self._was_executed:
            self._post(event)

    def _post(self, event: JobEvent, request_error: RequestError | None = None) -> None:
        with self._logged("recording what happens"):
            self._recorder.post(self._record.id, event, request_error)

    @contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        """The job goes on to its end whatever this step meets; of each step, the first failure is logged."""
        try:
            yield
        except Exception as error:  # nothing may keep a job from its end
            if what not in self._complaints:
                self._complaints.add(what)
                is_a_bug = not isinstance(error, HostError | OSError | JobError)
                logger.error("%r: %s failed: %s", self, what, error, exc_info=is_a_bug)


async def _poll(condition: Callable[[], bool]) -> None:
    """Waits until a condition of the kernel holds that no event tells of."""
    pause = _FIRST_POLL
    while not condition():
        await trio.sleep(pause)
        pause = min(pause * 2, _LAST_POLL)


def _now() -> datetime:
    return datetime.now(UTC)
