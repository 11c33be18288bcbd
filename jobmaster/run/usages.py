"""What jobs have used, read in threads: of a job that ends, and of those of an earlier server that nobody adopts."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.usage import read_usage
from jobmaster.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jobmaster.host.cgroup.tree import CgroupTree
    from jobmaster.job.identifier import JobId
    from jobmaster.job.record import JobRecord
    from jobmaster.job.usage import Usage

READERS: Final = trio.CapacityLimiter(4)
"""Threads that read; nothing but the end of the job in question waits for them, and that not for long."""
_PAUSE_SECONDS: Final = 0.002


async def usage_of(folder: Path) -> Usage | None:
    """What the processes of a cgroup have used until now; None where the kernel tells nothing.

    Raises:
        CgroupError: a file can't be read or makes no sense.
        NoThread: none can be started.
    """
    return await run_in_thread(READERS, read_usage, folder, abandon=True)


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
