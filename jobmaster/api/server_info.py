"""What a server tells of itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.identity.policy import Role
from jobmaster.jobs.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from jobmaster.identity.policy import Identity
    from jobmaster.run.draining import Drain

_NOT_OF_A_USER: Final = "the server's cgroup does not have the controller"
"""In place of a reason with a path of the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What changes in a running server only where it takes up another configuration.

    Attributes:
        version: of jobmaster.
        kernel: the release.
        enforcement: why each kind of limit is not enforced, by the controller's name; None where it is.
        max_jobs: running jobs, of all clients together.
        output_max: bytes that are kept of a job's output; None: all.
        grace_seconds: between SIGTERM and SIGKILL.
    """

    version: str = ""
    kernel: str = ""
    enforcement: tuple[tuple[str, str | None], ...] = ()
    max_jobs: int = 0
    output_max: int | None = None
    grace_seconds: float = 0.0


def server_info(
    facts: ServerFacts, caller: Identity, *, running: int, most_running: int, draining: Drain | None = None
) -> pb.ServerInfoResponse:
    """The answer for a caller who has so many running jobs, and may have so many. Paths of the host are told to admins alone."""
    return pb.ServerInfoResponse(
        version=facts.version,
        kernel=facts.kernel,
        enforcement=[_enforcement(name, reason, caller.role) for name, reason in facts.enforcement],
        client=caller.name,
        role=caller.role.value,
        running_jobs=running,
        max_jobs_of_client=most_running,
        max_jobs=facts.max_jobs,
        output_max=facts.output_max or 0,
        grace_seconds=facts.grace_seconds,
        draining=None if draining is None else draining_of(draining),
    )


def draining_of(drain: Drain) -> pb.Draining:
    """That no new jobs are taken, as the contract has it."""
    message = pb.Draining(note=drain.note, by=drain.by)
    message.since.FromDatetime(drain.at)
    if drain.until is not None:
        message.until.FromDatetime(drain.until)
    return message


def _enforcement(controller: str, reason: str | None, role: Role) -> pb.Enforcement:
    if reason is not None and role is not Role.ADMIN and "/" in reason:
        reason = _NOT_OF_A_USER
    return pb.Enforcement(controller=controller, enforced=reason is None, reason=reason or "")
