"""What clients order of a running job that is not its end: to pause, to go on, to be sent a signal.

That a job is paused is a fact of the kernel's (cgroup.freeze) and of the record's. The processes are frozen or let go on
first, the record follows at once, and the caller is answered when that is durable; a server that adopts the job makes the
first what the second says. A paused job is killed as any other is; a stop has it go on, with SIGTERM.

Who ordered a signal is durable before the signal is sent: the death that it brings is then never told as a stranger's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import (
    HandedOver,
    HostError,
    JobNotRunning,
    JournalUnavailable,
    NotFrozenYet,
    PauseUnavailable,
    ServerBusy,
)
from jobmaster.job.record import Paused, Resumed, SignalOrdered
from jobmaster.job.state import Ended, Running, Stopping
from jobmaster.run.execution import age_of

if TYPE_CHECKING:
    from jobmaster.run.execution import Execution
    from jobmaster.run.live_record import LiveRecord

SETTLE_SECONDS: Final = 5.0
"""How long the journal may take for an order."""
FREEZE_SECONDS: Final = 1.0
"""How long the caller of a pause waits for the kernel to freeze the processes, which takes it milliseconds."""
LOOK_SECONDS: Final = 0.001
"""Between the first two looks whether it has; each time after that is twice as long."""
MOST_PAUSES: Final = 1_000
"""How often a job may be paused: each is an event that the journal keeps with it, as each going on is."""
GONE_ON: Final = "the server has handed the job over to the one that comes after it; ask again"
"""What is said of a job that was handed over."""
_NOT_RUNNING: Final = "the job has ended, or is ending"
_STOPPING: Final = "the job is being stopped"


class Control:
    """Of one job. An order that comes while the command is being executed waits for that."""

    def __init__(self, record: LiveRecord, execution: Execution, *, executed: trio.Event, ended: trio.Event) -> None:
        """Works on the record and the execution of a supervisor, whose events these are."""
        self._record = record
        self._execution = execution
        self._executed = executed
        self._ended = ended

    async def pause(self, by: str) -> None:
        """Freezes every process of the job; returns when that is durable and the kernel has done so. Idempotent.

        Raises:
            JobNotRunning: it ends or has ended, or is being stopped.
            PauseUnavailable: the kernel does not freeze.
            NotFrozenYet: it is paused, and a process of it is in uninterruptible sleep still; ask again.
            ServerBusy: it was paused too often.
            HandedOver, JournalUnavailable: ask again.
        """
        await self._wait_executed()
        self._require_running()
        record = self._record.now
        if not record.paused:
            if record.pauses >= MOST_PAUSES:
                raise ServerBusy(f"the job has been paused {MOST_PAUSES} times, as often as may be")
            self._freeze(is_frozen=True)
            self._record.apply(Paused(by=by, at=datetime.now(UTC), age=age_of(self._execution)))
        await self._settle()
        await self._wait_frozen()

    async def resume(self, by: str) -> None:
        """Lets the processes of a paused job go on; returns when that is durable. Idempotent. Raises as `pause`."""
        await self._wait_executed()
        self._require_running()
        if self._record.now.paused:
            self._freeze(is_frozen=False)
            self._record.apply(Resumed(by=by, at=datetime.now(UTC), age=age_of(self._execution)))
        await self._settle()

    async def signal(self, by: str, number: int, *, to_all: bool) -> None:
        """Sends a signal to the main process, or to all; returns when it is sent. A paused job handles it later.

        Raises:
            JobNotRunning: it ends or has ended.
            HandedOver, JournalUnavailable: it was not sent; ask again.
            HostError: it was not sent to all.
        """
        await self._wait_executed()
        self._require(Running | Stopping, _NOT_RUNNING)
        order = SignalOrdered(signal=number, by=by, at=datetime.now(UTC), to_all=to_all)
        earlier = self._note_signal(order)
        try:
            await self._settle()
        except BaseException:  # it is not sent: a death by this signal is not of this order
            self._record.withdraw_signal(order, earlier)
            raise
        self._require(Running | Stopping, _NOT_RUNNING)
        self._note_signal(order)  # where it was another's, which was not sent
        if not self._execution.signal_main(number):
            raise JobNotRunning(_NOT_RUNNING)
        if to_all:
            await self._execution.signal_others(number)

    def _note_signal(self, order: SignalOrdered) -> SignalOrdered | None:
        """Records an order, unless its client's last one is the same; the order of this number that there was."""
        earlier = next((each for each in self._record.now.signals if each.signal == order.signal), None)
        if earlier is None or earlier.by != order.by:
            self._record.apply(order)
        return earlier

    def go_on(self) -> None:
        """Makes an adopted job as paused as its record is: an earlier server may have died in between."""
        record = self._record.now
        if isinstance(record.state, Running):
            with self._record.failures_logged("making it as paused as its record"):
                self._execution.freeze(record.paused)

    async def _wait_executed(self) -> None:
        await self._executed.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _require_running(self) -> None:
        self._require(Running | Stopping, _NOT_RUNNING)
        self._require(Running, _STOPPING)

    def _require(self, states: object, why_not: str) -> None:
        if self._ended.is_set() and not isinstance(self._record.state, Ended):
            raise HandedOver(GONE_ON)
        if not isinstance(self._record.state, states):  # type: ignore[arg-type]  # a union of states
            raise JobNotRunning(why_not)

    def _freeze(self, *, is_frozen: bool) -> None:
        try:
            self._execution.freeze(is_frozen)
        except (HostError, OSError) as error:
            what = "freeze" if is_frozen else "let go on"
            raise PauseUnavailable(f"the server's host could not {what} the job's processes") from error

    async def _wait_frozen(self) -> None:
        """Returns when the kernel has frozen all processes, or the job is not paused any more."""
        pause, deadline = LOOK_SECONDS, trio.current_time() + FREEZE_SECONDS
        while self._record.now.paused:
            has_frozen = True
            with self._record.failures_logged("looking whether its processes are frozen"):
                has_frozen = self._execution.has_frozen()
            if has_frozen:
                return
            if trio.current_time() >= deadline:
                raise NotFrozenYet(
                    "the job is paused, but not all of its processes have stopped yet: one may be waiting for a disk; "
                    "ask again"
                )
            await trio.sleep(pause)  # Trio does not wait for what poll(2) says of cgroup.events
            pause *= 2

    async def _settle(self) -> None:
        """Returns when what was recorded is durable.

        Raises:
            JournalUnavailable: it is not yet.
        """
        with trio.move_on_after(SETTLE_SECONDS) as settling:
            await self._record.settle()
        if settling.cancelled_caught:
            raise JournalUnavailable(
                "the server's journal cannot be written: its disk does not answer; try again later"
            )
