"""Lifts the limits of a job's cgroup in a thread, which the kernel holds up for as long as the queue of a disk stands still.

However often it is asked, there is one thread for a cgroup at most; and there are as many as there are jobs: those whose
disk stands still hold up nobody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from jobmaster.threads import LeftThreads, run_in_thread

if TYPE_CHECKING:
    from jobmaster.host.cgroup.opened import OpenedCgroup

LIFTERS: Final = trio.CapacityLimiter(1_000)
"""Threads that lift limits, one for each job at most."""
_LOOK_SECONDS: Final = 0.05


class Lifting:
    """That of one cgroup."""

    def __init__(self, cgroup: OpenedCgroup) -> None:
        self._cgroup = cgroup
        self._left = LeftThreads()

    async def lift(self) -> None:
        """Lifts the limits; a thread that an earlier caller has left at it is waited for first. Its caller has a deadline.

        Raises:
            CgroupError: the kernel refuses.
            NoThread: none can be started.
        """
        while self._left.count:  # noqa: ASYNC110  # rare, and no more than a few ask
            await trio.sleep(_LOOK_SECONDS)
        with self._left.counted(LIFTERS) as thread:
            await run_in_thread(LIFTERS, thread.run, self._cgroup.lift_limits, abandon=True)
