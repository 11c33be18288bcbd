"""What the configuration says of one client, beside its role. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from jobmaster.host.cgroup.limits import IoLimits, Limits
from jobmaster.run.quotas import NO_QUOTA, Quota

NO_TOTAL: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTerms:
    """The terms of one client.

    Attributes:
        quota: how much of the server it may take.
        run_as: the user of its jobs; None: as of all clients.
        ceilings: the most that a job of it may ask for, in place of the server's, by the names of `Limits` and `IoLimits`;
            None: as much as the kernel takes.
        total: what its jobs may have together: cpu_max, memory_max and pids_max.
    """

    quota: Quota = NO_QUOTA
    run_as: str | None = None
    ceilings: Mapping[str, float | None] = field(default_factory=dict)
    total: Limits = NO_TOTAL

    @property
    def bounds_disk(self) -> bool:
        """Whether a ceiling is about a disk."""
        return any(self.ceilings.get(each.name) is not None for each in fields(IoLimits))


COMMON_TERMS: Final = ClientTerms()
"""Of a client of which nothing is said."""
