"""How a job gives back what it has of the host, step by step.

What is left of its processes is killed until the cgroup is empty, the pipe is drained and what remains in it counted, the
cgroup is read a last time and removed, which no limit of the job may outlast; when the end is recorded, the descriptors are
closed. Or, where another server goes on with the job, all is left to that one as it is. Each step has a deadline and none
depends on another's success; everything here but the wait for the processes' death, before which nothing is changed, is
shielded from cancellation.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import HostError
from jobmaster.job.state import Closing, Ended

if TYPE_CHECKING:
    from datetime import datetime

    from jobmaster.output.pump import Pump
    from jobmaster.run.death_watch import DeathWatch
    from jobmaster.run.execution import Execution
    from jobmaster.run.live_record import LiveRecord
    from jobmaster.run.termination import Termination

CLOSING_SECONDS: Final = 20.0
"""How long killed processes may take to die; only uninterruptible sleep takes so long."""
REMOVAL_SECONDS: Final = 3.0
"""How long the kernel may take to lift the limits of an empty cgroup, and find it busy."""
OUTPUT_SECONDS: Final = 10.0
"""How long the pump may take for the rest of the output; it has shorter deadlines of its own."""
RECORD_SECONDS: Final = 10.0
"""How long the journal may take for what the cgroup tells, before that is removed."""
USAGE_SECONDS: Final = 2.0
"""How long the kernel may take to tell what the job has used; else nobody learns it."""
RELEASE_SECONDS: Final = 5.0
"""How long the execution may take to close what it holds of the output."""
KILL_AGAIN_SECONDS: Final = 0.5
_STUCK_AFTER: Final = (4, 8, 16)
"""After so many kills more, processes are taken to be stuck in the kernel."""
MOST_SECONDS: Final = (
    CLOSING_SECONDS + RECORD_SECONDS + REMOVAL_SECONDS + 2 * OUTPUT_SECONDS + USAGE_SECONDS + RELEASE_SECONDS + 1.0
)
"""How long a job may take to be closed, in all."""
_FIRST_POLL: Final = 0.0005
_LAST_POLL: Final = 0.05


class Teardown:
    """The end of one job's execution and output: `end_execution_and_output` and then `release`; or `hand_over`."""

    def __init__(
        self,
        record: LiveRecord,
        execution: Execution,
        pump: Pump,
        death_watch: DeathWatch,
        termination: Termination,
    ) -> None:
        self._record = record
        self._execution = execution
        self._pump = pump
        self._death_watch = death_watch
        self._termination = termination
        self._has_waited = False
        self._had_survivors = False
        """Whether processes were seen to outlive the main one."""
        self._is_removed = False
        """Whether nothing of it is left on the host."""
        self._leaves_nothing: bool | None = None

    async def see_all_die(self) -> None:
        """Kills what is left of the processes and waits for their death; who is cancelled meanwhile may still `hand_over`."""
        if not self._has_waited:
            if isinstance(self._record.state, Closing):
                self._is_empty()  # who outlived the main process is seen before it is killed
            self._termination.kill()
            await self._step("waiting for its processes to die", self._see_all_die, CLOSING_SECONDS)
            self._has_waited = True

    async def end_execution_and_output(self) -> None:
        """Has seen the processes die, takes the rest of the output, and removes the cgroup."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + MOST_SECONDS):
            await self.see_all_die()
            await self._step("keeping the rest of its output", self._pump.finish, OUTPUT_SECONDS)
            self._record.note_losses()
            self._death_watch.note_oom_kills()
            if self._record.oom_kills:  # the cgroup is their only witness
                await self._step("recording that it was killed for memory", self._record.settle, RECORD_SECONDS)
            await self._step("reading what it has used", self._read_usage, USAGE_SECONDS)
            await self._step("removing its cgroup", self._remove, REMOVAL_SECONDS)

    def ended_at(self) -> datetime | None:
        """When its last process died, where that is known: the main one, which no other was seen to outlive."""
        return None if self._had_survivors else self._execution.died_at()

    async def release(self) -> None:
        """Closes all descriptors, when the end is recorded or cannot be."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + MOST_SECONDS):
            await self._step("closing its execution", self._release_execution, RELEASE_SECONDS)
            await self._step("closing its output", self._pump.close, OUTPUT_SECONDS)  # the last, as it says

    async def hand_over(self) -> None:
        """Leaves the processes, the pipe and the log as they are, to another server."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + MOST_SECONDS):
            await self._step("handing over its output", self._pump.hand_over, OUTPUT_SECONDS)
            self._record.note_losses()
            self._record.note_oom_kills()
            with self._record.failures_logged("leaving its execution"):
                self._execution.leave()
            await self._step("closing its output", self._pump.close, OUTPUT_SECONDS)

    async def wait_empty(self) -> None:
        """Waits until no process is left."""
        await _poll(self._is_empty)

    async def _step(self, what: str, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        with self._record.failures_logged(what):
            with trio.move_on_after(seconds) as scope:
                await step()
            if scope.cancelled_caught:
                raise HostError(f"it took longer than {seconds:.0f} s")

    async def _see_all_die(self) -> None:
        if isinstance(self._record.state, Closing) and self._is_empty():
            return  # a job without other processes, as most are, costs no tasks here
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill_again)
            nursery.start_soon(self._lift_again)
            if not isinstance(self._record.state, Closing):
                with self._record.failures_logged("waiting for its main process to die"):
                    await self._death_watch.see_death()
            await self.wait_empty()
            nursery.cancel_scope.cancel()

    async def _kill_again(self) -> None:
        for times in itertools.count(1):
            await trio.sleep(KILL_AGAIN_SECONDS)
            self._termination.kill()
            if times in _STUCK_AFTER:
                with self._record.failures_logged("freeing its stuck processes"):
                    self._execution.free_stuck(1 + _STUCK_AFTER.index(times))

    async def _lift_again(self) -> None:
        """Apart from the kills, which are not to wait for a disk."""
        while True:
            await trio.sleep(KILL_AGAIN_SECONDS)
            with self._record.failures_logged("lifting its limits"):  # who is throttled does not die
                await self._execution.lift_limits()

    def _is_empty(self) -> bool:
        is_empty = False
        with self._record.failures_logged("looking for its processes"):
            is_empty = not self._execution.is_populated()
        self._had_survivors = self._had_survivors or not is_empty
        return is_empty

    async def _read_usage(self) -> None:
        self._record.usage = await self._execution.usage()

    async def _remove(self) -> None:
        await self._execution.lift_limits()
        await _poll(self._execution.remove)
        self._is_removed = True

    @property
    def leaves_nothing(self) -> bool:
        """Whether nothing of it is left on the host, and its end is settled; as of when this is asked first."""
        if self._leaves_nothing is None:
            self._leaves_nothing = self._is_removed and self._record.is_end_settled
        return self._leaves_nothing

    async def _release_execution(self) -> None:
        if not isinstance(self._record.state, Ended):
            self._execution.leave()  # a server that finds the job without its end is told of it
        elif self.leaves_nothing:
            await self._execution.close()


async def _poll(condition: Callable[[], bool]) -> None:
    """Waits until a condition of the kernel holds that no event tells of."""
    pause = _FIRST_POLL
    while not condition():
        await trio.sleep(pause)
        pause = min(pause * 2, _LAST_POLL)
