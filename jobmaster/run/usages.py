"""What jobs have used, read in threads: of a job that ends, and of those of an earlier server that nobody adopts."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.usage import read_sample, read_usage
from jobmaster.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jobmaster.host.cgroup.tree import CgroupTree
    from jobmaster.job.identifier import JobId
    from jobmaster.job.record import JobRecord
    from jobmaster.job.usage import Sample, Usage
    from jobmaster.run.execution import Execution

READERS: Final = trio.CapacityLimiter(4)
"""Threads that read; nothing but the end of the job in question waits for them, and that not for long."""
SAMPLERS: Final = trio.CapacityLimiter(2)
"""Threads that read for those who follow what jobs use, who may be many and ask often: no end of a job comes after them."""
SHARED_SECONDS: Final = 0.05
"""How old a sample may be that several followers of a job share: half of the shortest interval."""
_PAUSE_SECONDS: Final = 0.002


async def usage_of(folder: Path) -> Usage | None:
    """What the processes of a cgroup have used until now; None where the kernel tells nothing.

    Raises:
        CgroupError: a file can't be read or makes no sense.
        NoThread: none can be started.
    """
    return await run_in_thread(READERS, read_usage, folder, abandon=True)


async def sample_of(folder: Path) -> Sample | None:
    """As `usage_of`, with what holds now alone."""
    return await run_in_thread(SAMPLERS, read_sample, folder, abandon=True)


class Sampling:
    """The samples of one job, for all who follow them: those who ask in one moment share one."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._reading: trio.Event | None = None
        self._latest: trio.Event | None = None
        """Of the reading that came to `_last`."""
        self._last: Sample | None = None
        self._last_at = -math.inf

    async def take(self) -> Sample | None:
        """A sample that is SHARED_SECONDS old at most; None where the kernel tells nothing.

        Raises:
            HostError, OSError: as `Execution.sample`.
        """
        while (reading := self._reading) is not None:
            await reading.wait()
            if self._latest is reading:  # however late this task has its turn: else of hundreds each would read anew
                return self._last
        if trio.current_time() - self._last_at <= SHARED_SECONDS:
            return self._last
        self._reading = reading = trio.Event()
        try:
            self._last, self._last_at = await self._execution.sample(), trio.current_time()
            self._latest = reading
        finally:
            reading.set()
            self._reading = None
        return self._last


def end_and_read(tree: CgroupTree, records: Sequence[JobRecord], seconds: float) -> dict[JobId, Usage]:
    """Kills jobs, and tells what they have used when the last of their processes is gone; in a thread.

    A job that cannot be looked at, or that is not dead after so many seconds in all, is left out.
    """
    cgroups = {}
    for record in records:
        with suppress(CgroupError):
            cgroup = tree.existing(record.owner, record.id)
            if cgroup.path.is_dir():
                cgroup.kill()
                cgroups[record.id] = cgroup
    deadline = time.monotonic() + seconds
    usages = {}
    for job_id, cgroup in cgroups.items():
        with suppress(CgroupError):
            while (is_alive := cgroup.populated()) and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
            usage = None if is_alive else read_usage(cgroup.path)
            if usage is not None:
                usages[job_id] = usage
    return usages
