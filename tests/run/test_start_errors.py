"""What the caller of Start is told when its command was not executed, or the host has no room for a job."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import pytest

from jobmaster.errors import (
    CgroupsRemoved,
    CommandNotFound,
    CommandNotRunnable,
    CommandNotRunnableNow,
    HostError,
    InvalidRequest,
    LimitNotEnforceable,
    OutputUnavailable,
    ServerBusy,
)
from jobmaster.host.cgroup.interface import GONE, CgroupFileError
from jobmaster.host.cgroup.limits import Controller, LimitWrite
from jobmaster.host.cgroup.totals import TotalHeld
from jobmaster.host.cgroup.tree import LimitIgnored, LimitWriteError
from jobmaster.job.request import request_error_of
from jobmaster.run.child import ExecFailed, LaunchRefused
from jobmaster.run.start_errors import EXHAUSTED, Place, host_errors_translated, why_not_executed

FILE: Final = Path("/sys/fs/cgroup/jobs/pids.max")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, CommandNotRunnable) for number in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP)),
        *((number, CommandNotRunnableNow) for number in (errno.EIO, errno.ESTALE)),
        (errno.ENOMEM, ServerBusy),
    ],
)
def test_a_folder_that_cannot_be_entered(number: int, kind: type[Exception]) -> None:
    """One that the caller has named is the caller's, or the host's for now; it is named, with the user."""
    failure = ExecFailed(errno=number, stage="working_folder")
    error = why_not_executed(failure, "cmd", "client", Place(folder="/srv/x"))
    assert type(error) is kind
    assert os.strerror(number) in str(error)
    assert kind is ServerBusy or "the working folder '/srv/x' cannot be entered by the jobs' user" in str(error)


def test_a_path_of_its_own() -> None:
    """Where a command was looked for is not told as the jobs' PATH where its caller has given another, whose value is not shown."""
    error = why_not_executed(ExecFailed(errno=errno.ENOENT, stage="lookup"), "cmd", "client", Place.of("", ["PATH"]))
    assert str(error) == "command 'cmd' not found in the PATH that it was given"


def told(number: int, stage: str, command: str = "cmd") -> Exception:
    """What is told of a failure."""
    return why_not_executed(ExecFailed(errno=number, stage=stage), command, "nobody")


@pytest.mark.parametrize(
    ("number", "stage", "kind", "words"),
    [
        (errno.ENOENT, "lookup", CommandNotRunnable, "command 'cmd' not found in the jobs' PATH"),
        (errno.ENOTDIR, "lookup", CommandNotRunnable, "command 'cmd' not found in the jobs' PATH"),
        (errno.ENOENT, "exec", CommandNotRunnable, "names an interpreter"),
        (errno.ENOTDIR, "exec", CommandNotRunnable, os.strerror(errno.ENOTDIR)),
        (errno.EACCES, "lookup", CommandNotRunnable, "is not executable for the jobs' user"),
        (errno.EACCES, "exec", CommandNotRunnable, "is not executable for the jobs' user"),
        (errno.EISDIR, "exec", CommandNotRunnable, "is not executable for the jobs' user"),
        (errno.ENOEXEC, "exec", CommandNotRunnable, "is no program that this host can execute"),
        (errno.ELOOP, "lookup", CommandNotRunnable, os.strerror(errno.ELOOP)),
        *((number, "exec", ServerBusy, os.strerror(number)) for number in sorted(EXHAUSTED)),
        (errno.EACCES, "working_folder", HostError, rf"\(working_folder\): {os.strerror(errno.EACCES)}"),
        (errno.ENOENT, "cgroup", HostError, rf"\(cgroup\): {os.strerror(errno.ENOENT)}"),
    ],
)
def test_who_has_to_act(number: int, stage: str, kind: type[Exception], words: str) -> None:
    """Each of the kernel's errors is the caller's, the host's for now, or the host's for good, in words with its reason."""
    with pytest.raises(kind, match=words):
        raise told(number, stage)


def test_what_is_wrong_with_the_request() -> None:
    """What no host could execute names the field of the request."""
    error = told(errno.E2BIG, "exec")
    assert isinstance(error, InvalidRequest)
    assert error.field == "args"


def test_a_name_that_no_file_can_have() -> None:
    """A command of more characters than a file's name can have is not found, as a shell says."""
    error = told(errno.ENAMETOOLONG, "lookup", "x" * 300)
    assert isinstance(error, CommandNotFound)
    assert str(error) == f"command '{'x' * 255}…' not found: it is longer than the name of a file can be"


def test_a_command_with_a_slash_is_not_looked_up() -> None:
    """Where the command is a path, nothing is said of PATH."""
    assert str(told(errno.ENOENT, "lookup", "bin/cmd")) == "command 'bin/cmd' not found"


@pytest.mark.parametrize(("length", "shown"), [(255, "x" * 255), (256, f"{'x' * 255}…")])
def test_a_long_command_is_shortened(length: int, shown: str) -> None:
    """An error has a bounded part of the command, marked where it is not all."""
    assert str(told(errno.ENOENT, "exec", "x" * length)).startswith(f"command {shown!r} names")


def test_a_controller_that_is_gone() -> None:
    """A limit whose file is no longer offered names the controller to the client."""
    failure = CgroupFileError(FILE, OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
    with (
        pytest.raises(LimitNotEnforceable, match=r"does not offer pids\.max of the pids controller"),
        host_errors_translated(),
    ):
        raise LimitWriteError(Controller.PIDS, failure)


@pytest.mark.parametrize(("number", "kind"), [(errno.EAGAIN, ServerBusy), (errno.EPERM, HostError)])
def test_a_launch_that_is_refused(number: int, kind: type[Exception]) -> None:
    """The kernel's refusal of a process means "later" for want of something, and an error of the host otherwise."""
    with pytest.raises(kind, match=os.strerror(number)), host_errors_translated():
        raise LaunchRefused(number)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_of_outputs_that_fails(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """A job's file that cannot be made on it means "later", in words for the client; the operator reads which file it was."""
    with pytest.raises(OutputUnavailable, match=os.strerror(number)) as told, host_errors_translated():
        raise OSError(number, os.strerror(number), "/out/job.log")
    assert "job.log" not in str(told.value)
    assert "/out/job.log" in caplog.text


def test_a_cgroup_file_that_fails() -> None:
    """An error of the cgroup file system that is not for want of something stays what it is."""
    failure = CgroupFileError(FILE, OSError(errno.EPERM, os.strerror(errno.EPERM)))
    with pytest.raises(CgroupFileError), host_errors_translated():
        raise failure


@pytest.mark.parametrize("number", sorted(GONE), ids=errno.errorcode.get)
def test_a_cgroup_that_was_removed(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Where the cgroup of all jobs is gone, that is said, and who has to act; which one, to the operator alone."""
    failure = CgroupFileError(FILE, OSError(number, os.strerror(number)))
    with pytest.raises(CgroupsRemoved, match="operator has to restart the server") as told, host_errors_translated():
        raise failure
    assert "/" not in str(told.value)
    assert f"{FILE.parent}: {FILE.name}: {os.strerror(number)}: was the server's cgroup removed?" in caplog.text


@pytest.mark.parametrize("number", sorted(EXHAUSTED), ids=errno.errorcode.get)
def test_a_limit_that_cannot_be_written_now(number: int) -> None:
    """A limit's file that cannot be opened for want of descriptors or memory means "later", as any other file does."""
    failure = CgroupFileError(FILE, OSError(number, os.strerror(number)))
    for error in (failure, LimitWriteError(Controller.PIDS, failure)):
        with pytest.raises(ServerBusy, match=os.strerror(number)), host_errors_translated():
            raise error


def test_what_is_missing_is_named_to_the_operator() -> None:
    """Where the output folder was removed under the server, its log says which file could not be made."""
    path = "/var/lib/jobmaster/job.log"
    with pytest.raises(HostError, match=path), host_errors_translated():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


@pytest.mark.parametrize(
    ("number", "may_pass"),
    [(errno.ETXTBSY, True), (errno.EIO, True), (errno.ESTALE, True), (errno.ETIMEDOUT, True)]
    + [(number, False) for number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ELIBBAD, errno.ELOOP)],
)
def test_what_may_pass_is_not_repeated(number: int, may_pass: bool) -> None:
    """An error that a later try may not get is not kept for the request id."""
    error = told(number, "exec")
    assert isinstance(error, CommandNotRunnable)
    assert (request_error_of(error) is None) == may_pass


def test_a_limit_that_the_kernel_ignores() -> None:
    """The caller is told which limit, and the controller, and nothing of the host's folders."""
    write = LimitWrite(controller=Controller.PIDS, file="pids.max", text="7")
    words = r"ignored a limit of the pids controller, pids\.max 7"
    with pytest.raises(LimitNotEnforceable, match=words) as caught, host_errors_translated():
        raise LimitIgnored(FILE.parent, write, "max\n")
    assert str(FILE.parent) not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ERANGE])
def test_a_value_that_the_kernel_refuses(number: int) -> None:
    """The caller is told the limit and its value; it may be the first to ask for one that this kernel does not take."""
    error = CgroupFileError(FILE, OSError(number, os.strerror(number)), value="7")
    with pytest.raises(LimitNotEnforceable, match=r"refuses pids\.max 7: ") as caught, host_errors_translated():
        raise LimitWriteError(Controller.PIDS, error)
    assert str(FILE.parent) not in str(caught.value)


def test_a_client_whose_jobs_hold_too_much() -> None:
    """It is told to come again, by its name and without a path of the host."""
    with (
        pytest.raises(ServerBusy, match="the jobs of client1 hold more memory than they may have together") as told,
        host_errors_translated(),
    ):
        raise TotalHeld(Path("/sys/fs/cgroup/jobs/client1"), 2**20, 2**21)
    assert "/" not in str(told.value)


@pytest.mark.parametrize(
    ("most", "there", "number", "is_client"),
    [
        ("12", "12", errno.EAGAIN, True),
        ("12", "13", errno.EAGAIN, True),  # the limit was lowered
        ("12", "11", errno.EAGAIN, False),
        ("max", "12", errno.EAGAIN, False),
        ("12", "12", errno.ENOMEM, False),
        (None, None, errno.EAGAIN, False),
    ],
)
def test_processes_of_a_client(
    tmp_path: Path, most: str | None, there: str | None, number: int, *, is_client: bool
) -> None:
    """Who has all that a client's jobs may have together is told so; else it is the host that has no more."""
    for file, text in (("pids.max", most), ("pids.current", there)):
        if text is not None:
            (tmp_path / file).write_text(f"{text}\n")
    with pytest.raises(ServerBusy) as refused, host_errors_translated(tmp_path):
        raise LaunchRefused(number)
    assert ("have all 12 processes and threads" in str(refused.value)) is is_client
    assert ("host is out of resources" in str(refused.value)) is not is_client
