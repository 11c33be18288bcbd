"""Stats: what a job uses, at an interval until it has ended.

A sample is taken when the one before is on its way and its time has come: who reads slowly gets fewer, and none waits in a
queue.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.api.usage_messages import last_stats_of, stats_of
from jobmaster.errors import InvalidRequest
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.run.supervisor import Supervisor

if TYPE_CHECKING:
    from jobmaster.api.followers import Followers
    from jobmaster.identity.policy import Identity
    from jobmaster.job.usage import Sample
    from jobmaster.run.registry import Registry

LEAST_MS: Final = 100
MOST_MS: Final = 60_000
DEFAULT_MS: Final = 1_000
SAMPLE_SECONDS: Final = 2.0
"""How long the kernel may take for a sample; without one, the time alone is told."""


async def follow_stats(
    registry: Registry, followers: Followers, caller: Identity, message: pb.StatsRequest
) -> AsyncGenerator[pb.JobStats, None]:
    """Yields a message each time, and that of the job's end.

    Raises:
        InvalidRequest: the interval is none.
        JobNotFound, ServerBusy: the job cannot be followed.
        HandedOver: another server sees it to its end.
    """
    seconds = interval_of(message)
    job = await registry.find(caller, message.job_id.job_id)
    with followers.counted(caller.name):
        due = trio.current_time()
        while isinstance(job, Supervisor) and not job.ended.is_set():
            sample = await _sample_of(job)
            if job.ended.is_set():
                break
            yield stats_of(job.record, sample, datetime.now(UTC))  # noqa: ASYNC119  # its caller closes it, whatever happens
            due = max(due + seconds, trio.current_time())
            with trio.move_on_at(due):
                await job.ended.wait()
        await job.wait_ended()
    yield last_stats_of(job.record)  # noqa: ASYNC119  # as above


def interval_of(message: pb.StatsRequest) -> float:
    """Seconds between two samples.

    Raises:
        InvalidRequest: none that is possible.
    """
    milliseconds = message.interval_ms or DEFAULT_MS
    if not LEAST_MS <= milliseconds <= MOST_MS:
        raise InvalidRequest(f"interval_ms is from {LEAST_MS} to {MOST_MS}", field="interval_ms")
    return milliseconds / 1000


async def _sample_of(job: Supervisor) -> Sample | None:
    with trio.move_on_after(SAMPLE_SECONDS):
        return await job.sampling.take()
    return None
