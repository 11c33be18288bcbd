"""The bounds on the number of jobs, as numbers."""

from __future__ import annotations

import pytest

from jobmaster.errors import ServerBusy
from jobmaster.run.bounds import Bounds


def test_bounds_leave_every_client_something() -> None:
    """However few jobs there may be, a client may have one."""
    for number in range(1, 10):
        bounds = Bounds(running=number, ended=number)
        assert 1 <= bounds.running_of_client <= number
        assert 1 <= bounds.ended_of_client <= number


@pytest.mark.parametrize(
    ("running", "of_owner", "refusal"),
    [
        (0, 0, None),
        (7, 1, None),
        (7, 2, "client1 runs 2 jobs, as many as one client may"),
        (8, 0, "the server runs 8 jobs, as many as it may"),
        (9, 0, "the server runs 8 jobs, as many as it may"),
    ],
)
def test_who_may_start_one_more(running: int, of_owner: int, refusal: str | None) -> None:
    """A client is refused when it, or all together, have as many as may be; never before."""
    bounds = Bounds(running=8)
    if refusal is None:
        bounds.admit("client1", running=running, of_owner=of_owner)
    else:
        with pytest.raises(ServerBusy, match=refusal):
            bounds.admit("client1", running=running, of_owner=of_owner)
