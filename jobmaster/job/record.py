"""A job as a value, and the one way it changes: `apply` an event, in life and in replay."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobmaster.job.identifier import JobId
from jobmaster.job.specification import CommandLine
from jobmaster.job.state import Event, Finished, State, transition


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
class OomKillsCounted:
    """The kernel has killed so many processes of the job for memory, in its whole life so far."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as of one moment.

    Attributes:
        oom_kills: processes of the job that the kernel has killed for memory, also where the job went on.
        output_bytes: bytes of output kept.
        output_bytes_lost: bytes of output that are not kept.
    """

    id: JobId
    owner: str
    command: CommandLine
    state: State
    limits: tuple[LimitReport, ...] = ()
    oom_kills: int = 0
    output_bytes: int = 0
    output_bytes_lost: int = 0


def apply(record: JobRecord, event: Event | OomKillsCounted) -> JobRecord:
    """The record after `event`.

    Raises:
        InvalidTransition: the event cannot happen in this state.
    """
    match event:
        case OomKillsCounted(count=count):
            return replace(record, oom_kills=max(record.oom_kills, count))
        case Finished():
            return replace(
                record,
                state=transition(record.state, event),
                output_bytes=event.output_bytes,
                output_bytes_lost=event.output_bytes_lost,
            )
        case _:
            return replace(record, state=transition(record.state, event))
