"""What a caller of Start is told when the host is out of something just then."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobmaster.errors import HostError, ServerBusy
from jobmaster.host.cgroup.interface import CgroupFileError
from jobmaster.host.cgroup.limits import Controller
from jobmaster.host.cgroup.tree import LimitWriteError
from jobmaster.run.local import EXHAUSTED, _host_errors_translated


@pytest.mark.parametrize("number", sorted(EXHAUSTED), ids=errno.errorcode.get)
def test_a_limit_that_cannot_be_written_now(number: int) -> None:
    """A limit's file that cannot be opened for want of descriptors or memory means "later", as any other file does."""
    failure = CgroupFileError(Path("/sys/fs/cgroup/jobs/pids.max"), OSError(number, os.strerror(number)))
    for error in (failure, LimitWriteError(Controller.PIDS, failure)):
        with pytest.raises(ServerBusy, match=os.strerror(number)), _host_errors_translated():
            raise error


def test_a_limit_that_the_kernel_refuses() -> None:
    """A value that the kernel does not take is an error of the host: trying again does not help."""
    failure = CgroupFileError(Path("/sys/fs/cgroup/jobs/pids.max"), OSError(errno.EINVAL, "Invalid argument"))
    with pytest.raises(HostError), _host_errors_translated():
        raise LimitWriteError(Controller.PIDS, failure)
