"""What is told of a job: a snapshot, safe to keep and to send."""

from __future__ import annotations

from dataclasses import dataclass

from jobmaster.job.identifier import JobId
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReport:
    """A limit set for a job and whether the host enforces it.

    Attributes:
        name: "cpu", "memory", "pids" or "io".
        value: as the kernel takes it, for example "memory.max 52428800".
        not_enforced_because: the reason, or None where it is enforced.
    """

    name: str
    value: str
    not_enforced_because: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as of one moment.

    Attributes:
        oom_kills: processes of the job that the kernel has killed for memory, also where the job went on.
        output_bytes: bytes of output kept.
        output_bytes_lost: bytes of output that could not be written.
    """

    id: JobId
    owner: str
    specification: JobSpecification
    state: State
    limits: tuple[LimitReport, ...]
    oom_kills: int
    output_bytes: int
    output_bytes_lost: int
