"""Looks for OOM kills at the counters of all jobs together, so that a thousand idle jobs cost one look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import trio

from jobmaster.errors import HostError

if TYPE_CHECKING:
    from jobmaster.run.execution import ExecutionHost
    from jobmaster.run.live_jobs import LiveJobs

LOOK_SECONDS: Final = 0.2
"""Between two looks at the counters of OOM kills of all jobs together."""


class OomCounters:
    """memory.events counts hierarchically: a kill in one job shows above all jobs, and above those of its client."""

    def __init__(self, host: ExecutionHost, jobs: LiveJobs) -> None:
        self._host = host
        self._jobs = jobs
        self._seen: dict[str | None, bytes | None] = {}

    async def watch(self) -> NoReturn:
        """Tells the supervisors of a client's jobs when the client's counters have changed, until cancelled."""
        while True:
            if self._has_changed(None):
                self._look_at_clients()
            await trio.sleep(LOOK_SECONDS)

    def _look_at_clients(self) -> None:
        jobs = self._jobs.all()
        owners = {live.owner for live in jobs}
        changed = {owner for owner in owners if self._has_changed(owner)}
        for live in jobs:
            if live.owner in changed and live.supervisor is not None:
                live.supervisor.memory_has_changed()
        for gone in self._seen.keys() - owners - {None}:
            del self._seen[gone]

    def _has_changed(self, owner: str | None) -> bool:
        try:
            now = self._host.memory_events(owner)
        except (HostError, OSError):
            return True  # each job then looks at its own
        before = self._seen.get(owner)
        self._seen[owner] = now
        return now != before
