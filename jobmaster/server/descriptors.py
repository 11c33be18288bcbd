"""How many jobs and connections the limit on open files allows: jobs first, so that connections never end them."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

from jobmaster.errors import ConfigurationError

RESERVED: Final = 64
"""Descriptors of the server itself, and for moments in which a job or a call needs one more."""
OF_CONNECTION: Final = 3
"""Of a connection, and of the output that it follows and its index."""
FEWEST_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorPlan:
    """What fits.

    Attributes:
        warning: for the operator, where it is less than was wanted.
    """

    jobs: int
    connections: int
    warning: str | None = None

    @property
    def followers(self) -> int:
        """Outputs that are followed at a time, on however many of the connections."""
        return self.connections


def plan_descriptors(limit: int, *, jobs: int, of_job: int, connections: int) -> DescriptorPlan:
    """Divides `limit` descriptors between jobs, which need `of_job` each, and connections."""
    for_jobs = (limit - RESERVED - min(connections, FEWEST_CONNECTIONS) * OF_CONNECTION) // of_job
    fitting_jobs = max(1, min(jobs, for_jobs))
    left = limit - RESERVED - fitting_jobs * of_job
    fitting_connections = max(1, min(connections, left // OF_CONNECTION))
    if (fitting_jobs, fitting_connections) == (jobs, connections):
        return DescriptorPlan(jobs=jobs, connections=connections)
    needed = RESERVED + jobs * of_job + connections * OF_CONNECTION
    return DescriptorPlan(
        jobs=fitting_jobs,
        connections=fitting_connections,
        warning=f"warning: the limit of {limit} open files allows {fitting_jobs} jobs and {fitting_connections} "
        f"connections, with as many outputs that are followed, at a time; {jobs} and {connections} need {needed} (LimitNOFILE= of the unit, or ulimit -n)",
    )


def fewest_descriptors(*, of_job: int) -> int:
    """Those of a server with a single job and a single connection."""
    return RESERVED + of_job + OF_CONNECTION


def require_descriptors(*, of_job: int) -> None:
    """Refuses a host that allows too few open files for a single job and a single connection.

    Raises:
        ConfigurationError: it does.
    """
    _soft, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    fewest = fewest_descriptors(of_job=of_job)
    if limit < fewest:
        raise ConfigurationError(
            f"the limit of {limit} open files is too low: a server needs {fewest} at least "
            "(LimitNOFILE= of the unit, or ulimit -n)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """How many files may be open: in a job, which gets the soft limit that the server was started with, and in the server."""

    of_job: int
    of_server: int


def raise_file_limit() -> OpenFiles:
    """Gives the server as many open files as the host allows.

    Before anything else: what an earlier server has left comes at once, some descriptors for each job.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return OpenFiles(of_job=soft, of_server=hard)
