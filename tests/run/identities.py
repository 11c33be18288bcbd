"""Who calls a registry."""

from __future__ import annotations

from typing import Final

from jobmaster.identity.policy import Identity, Role
from jobmaster.job.cause import Cause
from jobmaster.job.record import JobRecord
from jobmaster.job.state import Ended
from jobmaster.run.registry import Registry

CLIENTS: Final = tuple(Identity(name=f"client{number}", role=Role.USER) for number in range(1, 7))
CLIENT1, CLIENT2, *_ = CLIENTS
ADMIN: Final = Identity(name="superuser", role=Role.ADMIN)


def record_of(registry: Registry, job_id: str) -> JobRecord:
    """A job's record, as an admin sees it."""
    job = registry.known(ADMIN, job_id)
    assert job is not None
    return job.record


async def ended(registry: Registry, job_id: str) -> Cause:
    """Why a job ends."""
    job = await registry.find(ADMIN, job_id)
    await job.wait_ended()
    state = job.record.state
    assert isinstance(state, Ended)
    return state.cause
