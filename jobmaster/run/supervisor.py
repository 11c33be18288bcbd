"""A job's nursery: one Trio nursery that owns the main process, the output pump and the look at memory.events.

Theory of operation
-------------------
A supervisor is made of an execution that is held, a log and a pump. `run` gives leave to execute the command, says that
the job runs, and lives until it has ended. Three tasks run beside it:

* the *pump* moves output from the pipe to the log;
* the *memory watch* reads memory.events when it is told that they have changed (by the registry, which looks at the
  counters of all jobs together), so that a child killed for memory is told while the job runs;
* the *stop* carries out a stop order: SIGTERM, the grace period, SIGKILL.

The body waits for the main process to die. Then, or when it is cancelled, the job is closed, shielded, step by step,
each step with a deadline and none depending on another's success: what is left is killed until the cgroup is empty, the
pipe is drained and what remains in it counted, the cgroup is removed, the cause is decided, the log sealed. Whatever
happens in there, `ended` is set at the end: whoever waits for a job is released, and finds everything in its final place.

OOM kills. memory.events counts kills, not whom they hit. A count that has risen is held against the main process only
until that is seen to live on: at the first look at which it neither has died nor is dying (by a SIGKILL of which it has
not died yet), the kill was another's.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import CommandNotRunnable, HostError, JobmasterError, ServerBusy
from jobmaster.job.cause import Evidence, StopOrder, cause_of
from jobmaster.job.record import JobRecord, OomKillsCounted, apply
from jobmaster.job.state import (
    Closing,
    Ended,
    Event,
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

logger = logging.getLogger(__name__)

EXECUTE_SECONDS: Final = 10.0
"""How long the kernel may take to look up and execute a command, as the job's user."""
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
KILL_AGAIN_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 1.0
"""After an error in one of a job's tasks that is a bug."""
MOST_SECONDS: Final = CLOSING_SECONDS + REMOVAL_SECONDS + 2 * OUTPUT_SECONDS + RELEASE_SECONDS + 1.0
"""How long a job may take to be closed, in all."""
_FIRST_POLL: Final = 0.0005
_LAST_POLL: Final = 0.05


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the end of a job depends on.

    Attributes:
        grace_seconds: between SIGTERM and SIGKILL of a stop.
        memory_max: the memory limit that is enforced, bytes.
    """

    grace_seconds: float
    memory_max: int | None = None


class Supervisor:
    """One job from its execution to its end. `run` it in a nursery; everything else may be called from any task."""

    def __init__(
        self,
        record: JobRecord,
        execution: Execution,
        log: OutputLog,
        pump: Pump,
        terms: Terms,
        *,
        on_end: Callable[[], None] = _nothing,
    ) -> None:
        """Takes over the execution and the pump; `on_end` is called when the record is final, before who waits is woken."""
        self._record = record
        self._on_end = on_end
        self.execution = execution
        self._pump = pump
        self._terms = terms
        self._stop_ordered = trio.Event()
        self._hurry = trio.Event()
        self._memory_changed = trio.Event()
        self._others_oom_kills = 0
        self._killed_for_memory = False
        self._lost_because: str | None = None
        self._is_lost = False
        self._complaints: set[str] = set()
        self.output = log
        self.ended = trio.Event()
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
        """Waits until the job has ended and its record is final."""
        await self.ended.wait()

    def order_stop(self, by: str | None) -> None:
        """Asks the job to end: SIGTERM, grace, SIGKILL. The first order counts; one that comes after the end, none.

        Args:
            by: the client who asks, or None for the server itself.
        """
        if not isinstance(self._record.state, Running) or self._has_died():
            return
        self._apply(StopOrdered(order=StopOrder(by=by, requested_at=_now())))
        with self._logged("signalling its main process"):
            self.execution.signal_main(signal.SIGTERM)
            if not self._has_died():
                self._apply(StopSignalled())
        self._stop_ordered.set()

    def hurry(self) -> None:
        """Ends the grace period of a stop now."""
        self._hurry.set()

    def memory_has_changed(self) -> None:
        """Says that the counters of memory.events are not what they were."""
        self._memory_changed.set()

    # --- the life -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED) -> None:
        """Executes the command, says so, and lives until the job has ended.

        Raises:
            JobError, RequestError, HostError: it was not executed; nothing of it is left.
        """
        not_executed: str | None = "the server gave it up"
        try:
            await self._execute()
            not_executed = None
            task_status.started(self)
            await self._live()
        except JobmasterError as error:
            not_executed = not_executed and str(error)
            raise
        except Exception:
            self._is_lost, self._lost_because = True, "a bug in the server ended it"
            raise
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + MOST_SECONDS):
                await self._close(not_executed)

    async def _execute(self) -> None:
        try:
            with trio.fail_after(EXECUTE_SECONDS):
                await self.execution.execute()
        except trio.TooSlowError:
            raise CommandNotRunnable(
                f"the host did not find and execute the command within {EXECUTE_SECONDS:.0f} s; "
                "is its file on a disk that does not answer?"
            ) from None
        self._apply(Executed())

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._persist, "the output", self._pump.run)
            nursery.start_soon(self._persist, "the look at memory.events", self._watch_memory)
            nursery.start_soon(self._carry_out_stop, nursery.cancel_scope)
            await self._see_main_process_die()
            if isinstance(self._record.state, Closing) and self._record.state.order is not None:
                await _poll(self._is_empty)  # its other processes have the rest of the grace period
            nursery.cancel_scope.cancel()

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
            return
        kills = self._count_oom_kills()
        self._killed_for_memory = kills > self._others_oom_kills
        self._apply(MainProcessDied(death=death))

    async def _watch_memory(self) -> None:
        while True:
            await self._memory_changed.wait()
            self._memory_changed = trio.Event()
            kills = self._count_oom_kills()
            await trio.sleep(SETTLE_SECONDS)
            with self._logged("looking whether its main process is dying"):
                if kills > self._others_oom_kills and not self.execution.is_dying():
                    self._others_oom_kills = kills

    def _count_oom_kills(self) -> int:
        with self._logged("reading memory.events"):
            self._apply(OomKillsCounted(count=self.execution.oom_kills()))
        return self._record.oom_kills

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
        if isinstance(self._record.state, Held | Stopping) and not self._has_died():
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

    async def _close(self, not_executed: str | None) -> None:
        try:
            await self._end_processes_and_output()
        finally:
            self._finish(not_executed)
        await self._step("closing its execution", self._release, RELEASE_SECONDS)
        await self._step("closing its output", self._pump.close, OUTPUT_SECONDS)  # the last, as it says

    async def _end_processes_and_output(self) -> None:
        if not self._is_lost:
            self.order_stop(None)  # where it still runs, the server is what ends it
        self._kill()
        await self._step("waiting for its processes to die", self._see_all_die, CLOSING_SECONDS)
        await self._step("keeping the rest of its output", self._pump.finish, OUTPUT_SECONDS)
        self._count_oom_kills()
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
        if self.is_removed:
            await self.execution.close()

    def _finish(self, not_executed: str | None) -> None:
        log = self.output
        try:
            cause = cause_of(self._evidence(not_executed))
            self._apply(Finished(cause=cause, at=_now(), output_bytes=log.size, output_bytes_lost=log.lost))
        finally:
            log.seal()
            self.ended.set()
            on_end, self._on_end = self._on_end, _nothing  # whose owner has this supervisor: no cycle is left
            on_end()  # before anybody who waited runs

    def _evidence(self, not_executed: str | None) -> Evidence:
        state = self._record.state
        closing = state if isinstance(state, Closing) else None
        return Evidence(
            death=closing.death if closing and not self._is_lost else None,
            never_executed=not_executed,
            order=closing.order if closing else None,
            killed=closing is not None and closing.killed,
            killed_for_memory=self._killed_for_memory,
            oom_kills=self._record.oom_kills,
            memory_max=self._terms.memory_max,
            lost_because=self._lost_because or self._why_not_seen_to_die(),
        )

    def _why_not_seen_to_die(self) -> str:
        if self._has_died():
            return "its main process died, but nobody told how"
        return "its main process did not die when it was killed"

    def _apply(self, event: Event | OomKillsCounted) -> None:
        self._record = apply(self._record, event)

    @contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        """The job goes on to its end whatever this step meets; of each step, the first failure is logged."""
        try:
            yield
        except Exception as error:  # nothing may keep a job from its end
            if what not in self._complaints:
                self._complaints.add(what)
                is_a_bug = not isinstance(error, HostError | OSError | ServerBusy)
                logger.error("%r: %s failed: %s", self, what, error, exc_info=is_a_bug)


async def _poll(condition: Callable[[], bool]) -> None:
    """Waits until a condition of the kernel holds that no event tells of."""
    pause = _FIRST_POLL
    while not condition():
        await trio.sleep(pause)
        pause = min(pause * 2, _LAST_POLL)


def _now() -> datetime:
    return datetime.now(UTC)
