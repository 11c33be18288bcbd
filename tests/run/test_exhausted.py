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
from jobmaster.run.start_errors import EXHAUSTED, host_errors_translated


@pytest.mark.parametrize("number", sorted(EXHAUSTED), ids=errno.errorcode.get)
def test_a_limit_that_cannot_be_written_now(number: int) -> None:
    """A limit's file that cannot be opened for want of descriptors or memory means "later", as any other file does."""
    failure = CgroupFileError(Path("/sys/fs/cgroup/jobs/pids.max"), OSError(number, os.strerror(number)))
    for error in (failure, LimitWriteError(Controller.PIDS, failure)):
        with pytest.raises(ServerBusy, match=os.strerror(number)), host_errors_translated():
            raise error


def test_a_limit_that_the_kernel_refuses() -> None:
    """A value that the kernel does not take is an error of the host: trying again does not help."""
    failure = CgroupFileError(Path("/sys/fs/cgroup/jobs/pids.max"), OSError(errno.EINVAL, "Invalid argument"))
    with pytest.raises(HostError), host_errors_translated():
        raise LimitWriteError(Controller.PIDS, failure)


def test_what_is_missing_is_named_to_the_operator() -> None:
    """Where the output folder was removed under the server, its log says which file could not be made."""
    path = "/var/lib/jobmaster/job.log"
    with pytest.raises(HostError, match=path), host_errors_translated():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
