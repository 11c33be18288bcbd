"""How a job is made to end: a signal to all of its processes, the grace period, SIGKILL.

Word of an order, and of its grace period's end, is left with the execution before the signal is sent: a server that dies
in between does not make the signal a stranger's, and the next one goes on where this one was. Of a signal that the host
failed to send the record says so: what had died by then had not got it.

An order counts from the moment it is given. One that comes while the job is held waits for its command to be executed,
and is carried out then; where that never happens, the start is given up, and that is the job's end.

Signal and grace period are the job's own where it has any, but at the server's end: then a grace period is as long as that
of the server, at most.
"""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from jobmaster.job.cause import StopOrder
from jobmaster.job.state import Closing, Held, KillSent, Running, StopOrdered, Stopping, StopSignalled
from jobmaster.run.death_watch import too_late
from jobmaster.run.execution import age_of

if TYPE_CHECKING:
    from jobmaster.run.death_watch import DeathWatch
    from jobmaster.run.execution import Execution
    from jobmaster.run.live_record import LiveRecord


class Termination:
    """The stop orders of one job, and the signals that carry them out."""

    def __init__(
        self,
        record: LiveRecord,
        execution: Execution,
        death_watch: DeathWatch,
        *,
        grace_seconds: float,
        last_grace_seconds: float,
    ) -> None:
        """`grace_seconds` are those of the job, `last_grace_seconds` those that the server leaves it where it ends itself."""
        self._record = record
        self._execution = execution
        self._death_watch = death_watch
        self._grace_seconds = grace_seconds
        self._last_grace_seconds = last_grace_seconds
        self._grace = trio.CancelScope()
        self._is_ordered = trio.Event()
        self._hurry = trio.Event()

    # --- orders -------------------------------------------------------------------------------------------------------

    def order(
        self,
        by: str | None,
        reason: str = "",
        *,
        for_output: bool = False,
        for_run_time: bool = False,
        force: bool = False,
    ) -> None:
        """As `Supervisor.order_stop`; `for_output` and `for_run_time` as of `StopOrder`."""
        order = StopOrder(
            by=by,
            requested_at=datetime.now(UTC),
            reason=reason,
            for_output=for_output,
            for_run_time=for_run_time,
            signal=self._record.stop_signal,
        )
        match self._record.state:
            case Held() if self._record.early_order is None:
                self._record.early_order = order
                self._note(order, is_early=True)
            case Running():
                self._begin(order)
        if force and not isinstance(self._record.state, Running):  # else it has died, and nobody stops it
            self._hurry.set()

    def note_executed(self) -> None:
        """Carries out an order that was given while the job was held."""
        if self._record.early_order is not None and isinstance(self._record.state, Running):
            self._begin(self._record.early_order)

    def _begin(self, order: StopOrder) -> None:
        if not self._death_watch.has_died():
            was_paused = self._record.now.paused
            self._note(order)
            lived = self._signal_main()
            self._record.apply(self._ordered(order, unsent=lived is None))
            self._note_signalled(lived)
            if was_paused:
                self._thaw()

    def _ordered(self, order: StopOrder, *, unsent: bool = False) -> StopOrdered:
        return StopOrdered(order=order, age=age_of(self._execution) if self._record.now.paused else None, unsent=unsent)

    def _note(self, order: StopOrder, *, is_early: bool = False) -> None:
        with self._record.failures_logged("noting the stop order"):
            self._execution.note_order(order, is_early=is_early)

    def go_on(self, order: StopOrder | None, *, is_killed: bool, is_early: bool = False) -> None:
        """Does what an earlier server was about to do when it died; what it had noted it did right after.

        Args:
            order: a stop order that was noted, and may not be in the record.
            is_killed: likewise, that its grace period was over.
            is_early: it was noted while the job was held, as the record has it still: whether it was carried out since is
                not known.
        """
        if isinstance(self._record.state, Running) and order is not None:
            self._record.apply(self._ordered(order))
        if is_killed:
            self._hurry.set()
        if not is_early and isinstance(self._record.state, Stopping | Closing) and self._record.state.order is not None:
            self._grace_seconds = rest_of_grace(self._record.state.order, datetime.now(UTC), self._grace_seconds)
        if self.has_others_to_end:
            self._is_ordered.set()
        if not isinstance(self._record.state, Stopping):
            return
        may_be_signalled = not (is_early or self._record.state.signalled or self._record.state.unsent)
        if order is not None and may_be_signalled and self._death_watch.has_died():
            self._record.apply(StopSignalled())
        if is_killed and not self._record.state.killed:
            self._record.apply(KillSent())
        if not self._record.state.signalled:
            self._note_signalled(self._signal_main())
        self._thaw()  # it may have been paused
        self._is_ordered.set()

    @property
    def has_others_to_end(self) -> bool:
        """Whether its main process has died of a stop, and its other processes have a grace period still."""
        state = self._record.state
        return isinstance(state, Closing) and state.order is not None and not state.killed

    def end_with_server(self) -> None:
        """Orders the end of the job because the server ends: no grace period lasts for longer than the server's from now on."""
        self.order(None)
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + self._last_grace_seconds)

    def hurry(self) -> None:
        """Ends the grace period, now or when it begins."""
        self._hurry.set()

    # --- signals ------------------------------------------------------------------------------------------------------

    async def carry_out(self) -> None:
        """Waits for an order, and returns when its grace period is over and SIGKILL is sent."""
        await self._is_ordered.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signal_others)
            self._grace.deadline = min(self._grace.deadline, trio.current_time() + self._grace_seconds)
            with self._grace:
                await self._hurry.wait()
            nursery.cancel_scope.cancel()
        self.kill()

    def _signal_main(self) -> bool | None:
        """Sends it the stop's signal; whether it lived, or None where that could not be sent."""
        lived: bool | None = None
        with self._record.failures_logged("signalling its main process"):
            # Whether it lived is told with that: it may handle the signal and end before anybody can look.
            lived = self._execution.signal_main(self._record.stop_signal)
        return lived  # noqa: RET504  # a failure that is logged leaves it as it was

    def _note_signalled(self, lived: bool | None) -> None:
        if lived:
            self._record.apply(StopSignalled())
        self._is_ordered.set()

    def _thaw(self) -> None:
        """Lets a job that is paused go on, when SIGTERM is sent: that is acted on before anything else."""
        with self._record.failures_logged("letting its processes go on"):
            self._execution.freeze(False)

    async def _signal_others(self) -> None:
        with self._record.failures_logged("signalling its processes"):
            await self._execution.signal_others(self._record.stop_signal, is_stop=True)
            self._execution.signal_main(signal.SIGCONT)  # a process that is stopped handles no signal
            await self._execution.signal_others(signal.SIGCONT, is_stop=True)

    def kill(self) -> None:
        """Sends SIGKILL to every process, with or without an order."""
        state = self._record.state
        if isinstance(state, Stopping) and not state.killed and not self._death_watch.has_died():
            with self._record.failures_logged("noting that it is killed"):
                self._execution.note_kill(state.order)
            self._record.apply(KillSent())
        with self._record.failures_logged("killing its processes"):
            self._execution.kill()

    def note_late_start(self) -> None:
        """Leaves word that the job is killed because its start took too long, if its command is executed at all."""
        with self._record.failures_logged("noting that its start took too long"):
            self._execution.note_kill(self._record.early_order or too_late())

    def give_up(self) -> None:
        """Kills every process of a job that nobody was told of; word of that is left to whoever goes on with it."""
        with self._record.failures_logged("noting that it is given up"):
            self._execution.note_given_up()
        with self._record.failures_logged("killing its processes"):
            self._execution.kill()


def rest_of_grace(order: StopOrder, now: datetime, seconds: float) -> float:
    """What is left of a grace period of so many seconds that began with an order, of an earlier server's too.

    A clock that was set gives no more than the whole of it.
    """
    return min(max(0.0, seconds - (now - order.requested_at).total_seconds()), seconds)
