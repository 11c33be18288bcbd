"""Whether a server has taken the limits and the other terms that a job asked for. Pure."""

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
_TERMS: Final = ("max_run_ms", "warn_before_ms", "stop_signal", "grace_ms", "working_folder")
"""Of the fields of a request, those without which a job is another one, and which a record has as they were asked for."""


class LimitsIgnored(JobmasterError):
    """The server has started a job without limits, or other terms, that were asked for. The job is stopped.

    Attributes:
        job_id: of the job.
        names: of the limits and terms, as the request has them.
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


def asks_for_terms(request: pb.JobCreateRequest) -> bool:
    """Whether a request has limits, or other terms that a server may know nothing of."""
    return request.HasField("limits") or not _terms(request).isdisjoint({*_TERMS, "environment"})


def ignored_terms(request: pb.JobCreateRequest, record: pb.JobResponse) -> tuple[str, ...]:
    """The limits and other terms, by their names in the request, of which a job's record does not say that it was given them.

    Name and labels are none of them: nothing of the job depends on them.
    """
    missing = _terms(request) - _terms(record.cmd)
    if set(request.environment) - set(record.cmd.environment):
        missing.add("environment")
    ignored = tuple(name for name in (*_TERMS, "environment") if name in missing)
    return (*ignored_limits(request.limits, record), *ignored)


def _terms(request: pb.JobCreateRequest) -> set[str]:
    return {field.name for field, _ in request.ListFields()}
