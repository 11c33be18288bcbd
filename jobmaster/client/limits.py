"""Whether a server has taken the limits that a job asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from jobmaster.errors import JobmasterError

if TYPE_CHECKING:
    from jobmaster.jobs.v1 import jobs_pb2 as pb

_FILES: Final = {
    "cpu_millicores": "cpu.max",
    "memory_max": "memory.max",
    "memory_high": "memory.high",
    "swap_max": "memory.swap.max",
    "pids_max": "pids.max",
    "cpu_weight": "cpu.weight",
    "io_weight": "io.weight",
    "io": "io.max",
}
"""What a record calls each limit."""


class LimitsIgnored(JobmasterError):
    """The server has started a job without limits that were asked for. The job is stopped.

    Attributes:
        job_id: of the job.
        names: the limits, as the request has them.
    """

    def __init__(self, job_id: str, names: Sequence[str]) -> None:
        self.job_id = job_id
        self.names = tuple(names)
        super().__init__(
            f"the server is of a version that knows nothing of {', '.join(names)}: it had started the job {job_id} without, "
            "which is stopped"
        )


def ignored_limits(limits: pb.JobLimits, record: pb.JobResponse) -> tuple[str, ...]:
    """The limits, by their names in the request, of which a job's record does not say that it was given them."""
    given = {limit.value.partition(" ")[0] for limit in record.limits if limit.requested}
    return tuple(field.name for field, _ in limits.ListFields() if _FILES.get(field.name) not in given)
