"""How many jobs and connections a limit on open files allows."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.server.descriptors import (
    FEWEST_CONNECTIONS,
    OF_CONNECTION,
    RESERVED,
    DescriptorPlan,
    plan_descriptors,
)


def test_what_fits_is_not_complained_of() -> None:
    """A limit that is exactly enough gives all that was wanted."""
    enough = RESERVED + 10 * 6 + 20 * OF_CONNECTION
    plan = plan_descriptors(enough, jobs=10, of_job=6, connections=20)
    assert plan == DescriptorPlan(jobs=10, connections=20)


@pytest.mark.parametrize(
    ("limit", "jobs", "connections"),
    [(423, 10, 99), (316, 10, 64), (315, 9, 65), (1, 1, 1), (0, 1, 1)],
)
def test_jobs_come_first(limit: int, jobs: int, connections: int) -> None:
    """Below that connections give way, down to a few, then jobs; one of each is always tried."""
    plan = plan_descriptors(limit, jobs=10, of_job=6, connections=100)
    assert (plan.jobs, plan.connections) == (jobs, connections)
    assert plan.warning is not None
    assert f"the limit of {limit} open files allows {jobs} jobs and {connections} connections" in plan.warning
    assert "10 and 100 need 424" in plan.warning
    assert "LimitNOFILE=" in plan.warning


@given(
    limit=st.integers(0, 2**20),
    jobs=st.integers(1, 5000),
    of_job=st.integers(1, 20),
    connections=st.integers(1, 50_000),
)
def test_a_plan_never_exceeds_the_limit(limit: int, jobs: int, of_job: int, connections: int) -> None:
    """What is planned fits below the limit, unless that is too small for anything, and is never more than wanted."""
    plan = plan_descriptors(limit, jobs=jobs, of_job=of_job, connections=connections)
    assert 1 <= plan.jobs <= jobs
    assert 1 <= plan.connections <= connections
    used = RESERVED + plan.jobs * of_job + plan.connections + 2 * plan.followers
    assert used <= limit or plan.jobs == 1
    if (plan.jobs, plan.connections) != (jobs, connections):
        assert plan.warning is not None
    if plan.jobs < jobs and plan.jobs > 1:
        assert plan.connections >= min(connections, FEWEST_CONNECTIONS)


def test_a_limit_that_is_too_low_for_anything() -> None:
    """A host that has no open files for a single job is told how many it takes, and what to change."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50));"
        "from jobmaster.server.descriptors import require_descriptors; require_descriptors(of_job=6)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"the limit of 50 open files is too low: a server needs {RESERVED + 6 + OF_CONNECTION}" in told.stderr
    assert "ulimit -n" in told.stderr


def test_the_limit_is_raised_as_far_as_the_host_allows() -> None:
    """The soft limit becomes the hard one; what it was is told, for the jobs."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200));"
        "from jobmaster.server.descriptors import raise_file_limit;"
        "found = raise_file_limit(); print(found.of_job, found.of_server, *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["100", "200", "200", "200"]
