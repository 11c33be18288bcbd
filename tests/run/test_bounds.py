"""The bounds on the number of jobs, as numbers."""

from __future__ import annotations

import pytest

from jobmaster.errors import ServerBusy
from jobmaster.run.bounds import Bounds, Disk, FreeSpace, OutputBounds


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


DISK = Disk(size=1000 * 2**30, free=100 * 2**30)


@pytest.mark.parametrize(
    ("free", "floor", "text"),
    [
        (FreeSpace(), 0, "0"),
        (FreeSpace(size=2**30), 2**30, "1G"),
        (FreeSpace(percent=5), 50 * 2**30, "5 %"),
        (FreeSpace(size=2**30, percent=5), 2**30, "1G"),
        (FreeSpace(size=100 * 2**30, percent=5), 50 * 2**30, "5 %"),
    ],
)
def test_what_is_left_free(free: FreeSpace, floor: int, text: str) -> None:
    """The less of a size and a share, told as it was asked for."""
    assert (free.floor(DISK), free.text(DISK)) == (floor, text)


def test_the_bound_that_is_exceeded_by_most() -> None:
    """It is what outputs have to keep to, whether it is their own or the disk's; with none, there is no shortage."""
    both = OutputBounds(most=10 * 2**30, free=FreeSpace(size=101 * 2**30))
    assert OutputBounds().shortage(2**50, DISK) is None
    assert not OutputBounds().are_any
    of_disk = both.shortage(10 * 2**30, DISK)
    assert of_disk is not None
    assert (of_disk.excess, of_disk.is_of_disk) == (2**30, True)
    of_folder = both.shortage(12 * 2**30, DISK)
    assert of_folder is not None
    assert (of_folder.excess, of_folder.is_of_disk) == (2 * 2**30, False)
    assert "(10G)" in of_folder.reason
    some_room = OutputBounds(most=2**20).shortage(0, DISK)
    assert some_room is not None
    assert (some_room.excess, some_room.slack) == (-(2**20), 2**14)


def test_how_much_is_left_to_those_who_take_little() -> None:
    """An eighth of what all outputs may take, and of a disk half of what is free."""
    of_folder = OutputBounds(most=2**30).shortage(0, DISK)
    of_disk = OutputBounds(free=FreeSpace(size=1)).shortage(0, DISK)
    assert of_folder is not None
    assert of_disk is not None
    assert (of_folder.reserve, of_disk.reserve) == (2**27, DISK.free // 2)
    assert (of_folder.slack, of_disk.slack) == (2**24, 0)
