"""What a job asks for: what is no request on any host, and what tells two requests apart."""

from __future__ import annotations

from itertools import combinations

import pytest

from jobmaster.errors import InvalidRequest
from jobmaster.job.limits import MOST_DEVICES, NO_LIMITS, IoRequest, LimitRequest
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import JobSpecification


@pytest.mark.parametrize("device", ["8", "8:0:1", "/dev/sda", "8:-1", " 8:0", "08:0", "٨:0", "99999999:0"])
def test_a_device_is_a_number(device: str) -> None:
    """A name or a path of a device is refused: nothing that a client names is looked up as root."""
    with pytest.raises(InvalidRequest, match="MAJ:MIN") as caught:
        IoRequest(device=device, read_bps=2**30)
    assert caught.value.field == "limits.io"


def test_an_io_limit_bounds_something() -> None:
    """One without a rate is refused rather than ignored."""
    with pytest.raises(InvalidRequest, match="bounds nothing"):
        IoRequest(device="8:0")


def test_devices_are_few() -> None:
    """So many have limits of their own, and no more."""
    disks = [IoRequest(device=f"8:{minor}", read_bps=2**30) for minor in range(MOST_DEVICES + 1)]
    LimitRequest(io=tuple(disks[1:]))
    with pytest.raises(InvalidRequest, match=f"more than {MOST_DEVICES} devices"):
        LimitRequest(io=tuple(disks))


REQUESTS = (
    NO_LIMITS,
    LimitRequest(cpu_millicores=10),
    LimitRequest(memory_max=10),
    LimitRequest(memory_high=10),
    LimitRequest(swap_max=10),
    LimitRequest(swap_max=0),
    LimitRequest(pids_max=10),
    LimitRequest(cpu_weight=10),
    LimitRequest(io_weight=10),
    LimitRequest(io=(IoRequest(read_bps=10),)),
    LimitRequest(io=(IoRequest(read_iops=10),)),
    LimitRequest(io=(IoRequest(device="8:0", read_bps=10),)),
    LimitRequest(io=(IoRequest(device="8:0", read_bps=10), IoRequest(read_bps=10))),
)


def digest(limits: LimitRequest) -> bytes:
    """Of a Start with these limits."""
    return RequestKey.of("id", JobSpecification(command="true", limits=limits)).digest


def test_other_limits_are_another_request() -> None:
    """A request id that comes with other limits is refused; one without any has the digest that it had before there were."""
    assert all(digest(one) != digest(other) for one, other in combinations(REQUESTS, 2))
    assert digest(NO_LIMITS) == RequestKey.of("id", JobSpecification(command="true")).digest
    assert [bool(each) for each in REQUESTS] == [False] + [True] * (len(REQUESTS) - 1)


def test_the_order_of_disks_says_nothing() -> None:
    """The same limits in another order are the same request."""
    one, other = IoRequest(device="8:0", read_bps=10), IoRequest(write_bps=10)
    assert digest(LimitRequest(io=(one, other))) == digest(LimitRequest(io=(other, one)))
