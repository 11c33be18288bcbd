"""How a job is made to end: SIGTERM to all of its processes, the grace period, SIGKILL.

Word of an order, and of its grace period's end, is left with the execution before the signal is sent: a server that dies
in between does not make the signal a stranger's, and the next one goes on where this one was.
"""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from jobmaster.job.cause import StopOrder
from jobmaster.job.state import Held, KillSent, Running, StopOrdered, Stopping, StopSignalled

if TYPE_CHECKING:
    from jobmaster.run.death_watch import DeathWatch
    from jobmaster.run.execution import Execution
    from jobmaster.run.live_record import LiveRecord


class Termination:
    """The stop orders of one job, and the signals that carry them out."""

    def __init__(
        self, record: LiveRecord, execution: Execution, death_watch: DeathWatch, *, grace_seconds: float
    ) -> None:
        self._record = record
        self._execution = execution
        self._death_watch = death_watch
        self._grace_seconds = grace_seconds
        self._is_ordered = trio.Event()
        self._hurry = trio.Event()

    # --- orders -------------------------------------------------------------------------------------------------------

    def order(self, by: str | None, reason: str = "", *, for_output: bool = False) -> None:
        """As `Supervisor.order_stop`; `for_output` as of `StopOrder`."""
        if isinstance(self._record.state, Running) and not self._death_watch.has_died():
            order = StopOrder(by=by, requested_at=datetime.now(UTC), reason=reason, for_output=for_output)
            with self._record.failures_logged("noting the stop order"):
                self._execution.note_order(order)
            self._record.apply(StopOrdered(order=order))
            self._signal_main()

    def go_on(self, order: StopOrder | None, *, is_killed: bool) -> None:
        """Does what an earlier server was about to do when it died; what it had noted it did right after.

        Args:
            order: a stop order that was noted, and may not be in the record.
            is_killed: likewise, that its grace period was over.
        """
        if isinstance(self._record.state, Running) and order is not None:
            self._record.apply(StopOrdered(order=order))
        if not isinstance(self._record.state, Stopping):
            return
        if order is not None and self._death_watch.has_died():
            self._record.apply(StopSignalled())
        if is_killed:
            self._record.apply(KillSent())
            self._hurry.set()
        if not self._record.state.signalled:
            self._signal_main()
        self._is_ordered.set()

    def hurry(self) -> None:
        """Ends the grace period, now or when it begins."""
        self._hurry.set()

    # --- signals ------------------------------------------------------------------------------------------------------

    async def carry_out(self) -> None:
        """Waits for an order, and returns when its grace period is over and SIGKILL is sent."""
        await self._is_ordered.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signal_others)
            with trio.move_on_after(self._grace_seconds):
                await self._hurry.wait()
            nursery.cancel_scope.cancel()
        self.kill()

    def _signal_main(self) -> None:
        with self._record.failures_logged("signalling its main process"):
            # Whether it lived is asked before: it may handle the signal and end before anybody can look.
            if self._execution.signal_main(signal.SIGTERM):
                self._record.apply(StopSignalled())
        self._is_ordered.set()

    async def _signal_others(self) -> None:
        with self._record.failures_logged("signalling its processes"):
            await self._execution.signal_others(signal.SIGTERM)
            self._execution.signal_main(signal.SIGCONT)  # a process that is stopped does not handle SIGTERM
            await self._execution.signal_others(signal.SIGCONT)

    def kill(self) -> None:
        """Sends SIGKILL to every process, with or without an order."""
        state = self._record.state
        if isinstance(state, Held | Stopping) and not self._death_watch.has_died():
            if isinstance(state, Stopping) and not state.killed:
                with self._record.failures_logged("noting that it is killed"):
                    self._execution.note_kill(state.order)
            self._record.apply(KillSent())
        with self._record.failures_logged("killing its processes"):
            self._execution.kill()
