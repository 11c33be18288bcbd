"""What a host that cannot start a job says, and what that means to the caller of Start."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
    ServerDraining,
)
from jobmaster.host.account import SEARCH_PATH
from jobmaster.host.cgroup.interface import GONE, CgroupFileError
from jobmaster.host.cgroup.totals import TotalHeld, most_processes_reached
from jobmaster.host.cgroup.tree import LimitIgnored, LimitWriteError
from jobmaster.run.child import ExecFailed, LauncherLost, LaunchRefused

logger = logging.getLogger(__name__)

EXHAUSTED: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
"""Errors of the kernel that mean "not now"."""
_OF_DISK: Final = frozenset({errno.EROFS, errno.EIO})
"""Errors of a disk that fails, or was made read-only: who mends it need not start the server anew."""
_LASTING: Final = frozenset({errno.EINVAL, errno.ELIBBAD, errno.ELOOP})
"""Of the rare errors of execve(2), those that a later try gets as well; a disk or a writer is behind the others."""
_OF_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG})
"""Of the errors of chdir(2), those that a later try gets as well."""
_BAD_VALUE: Final = frozenset({errno.EINVAL, errno.ERANGE})
_LONGEST_SHOWN: Final = 255
"""Characters of a command in an error's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a command is executed, as far as its caller says.

    Attributes:
        folder: its working folder; empty: the server's choice.
        has_own_path: its caller has given it a PATH.
    """

    folder: str = ""
    has_own_path: bool = False

    @classmethod
    def of(cls, folder: str, variables: Iterable[str]) -> Place:
        """That of a command with these variables."""
        return cls(folder=folder, has_own_path="PATH" in variables)


SERVERS_PLACE: Final = Place()


def why_not_executed(failure: ExecFailed, command: str, user: str, place: Place = SERVERS_PLACE) -> Exception:
    """What the kernel's answer to execve(2), or to a step before it, means to the caller of Start."""
    shown = _shown(command)
    if failure.stage == "working_folder" and place.folder:
        return _why_not_entered(failure.errno, place.folder, user)
    if failure.stage not in {"lookup", "exec"}:
        return HostError(f"a job could not be prepared ({failure.stage}): {os.strerror(failure.errno)}")
    match failure.errno:
        case errno.ENOENT | errno.ENOTDIR if failure.stage == "lookup":
            path = "the PATH that it was given" if place.has_own_path else f"the jobs' PATH ({SEARCH_PATH})"
            where = "" if "/" in command else f" in {path}"
            return CommandNotFound(f"command {shown!r} not found{where}")
        case errno.ENOENT:
            return CommandNotFound(
                f"command {shown!r} names an interpreter (after #! or in its ELF header) that is not found"
            )
        case errno.EACCES | errno.EPERM | errno.EISDIR:
            named = f" {user!r}" if user else ""  # an older server has not recorded it
            return CommandNotRunnable(f"command {shown!r} is not executable for the jobs' user{named}")
        case errno.ENOEXEC:
            return CommandNotRunnable(
                f"command {shown!r} is no program that this host can execute: it is for another machine, "
                "or a script without #! in its first line"
            )
        case errno.E2BIG:
            return InvalidRequest(
                "more arguments or environment than the kernel takes: one may have 128 KiB, all together about 2 MiB",
                field="args",
            )
        case errno.ENAMETOOLONG:
            return CommandNotFound(f"command {shown!r} not found: it is longer than the name of a file can be")
        case number if number in EXHAUSTED:
            return ServerBusy(f"the server's host is out of resources for a new job: {os.strerror(number)}")
        case number:
            error = CommandNotRunnable if number in _LASTING else CommandNotRunnableNow
            return error(f"command {shown!r} cannot be executed: {os.strerror(number)}")


def _why_not_entered(number: int, folder: str, user: str) -> Exception:
    if number in EXHAUSTED:
        return ServerBusy(f"the server's host is out of resources for a new job: {os.strerror(number)}")
    error = CommandNotRunnable if number in _OF_FOLDER else CommandNotRunnableNow
    named = f" {user!r}" if user else ""
    return error(
        f"the working folder {_shown(folder)!r} cannot be entered by the jobs' user{named}: {os.strerror(number)}"
    )


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


@contextmanager
def host_errors_translated(of_client: Path | None = None) -> Iterator[None]:
    """What a failing host means to the caller of Start; `of_client` is the cgroup of that client's jobs, where there is one."""
    try:
        yield
    except LimitWriteError as error:
        if error.errno in EXHAUSTED:
            raise _refusal(error.errno) from error
        if error.missing:
            raise LimitNotEnforceable(
                f"the server's host does not offer {error.path.name} of the {error.controller} controller, which the job's "
                "limits need"
            ) from error
        if error.errno not in _BAD_VALUE:
            raise
        logger.error("a limit cannot be set: %s", error)
        raise LimitNotEnforceable(
            f"the kernel of the server's host refuses {error.path.name} {error.value}: {os.strerror(error.errno or 0)}"
        ) from error
    except TotalHeld as error:
        raise ServerBusy(
            f"the jobs of {error.client} hold more memory than they may have together; try again when some have ended"
        ) from error
    except LimitIgnored as error:
        logger.error("the kernel has ignored a limit: %s", error)
        raise LimitNotEnforceable(
            f"the kernel of the server's host has ignored a limit of the {error.controller} controller, {error.limit}"
        ) from error
    except LauncherLost as error:
        raise ServerDraining("the server is shutting down") from error
    except LaunchRefused as error:
        most = None if error.errno != errno.EAGAIN or of_client is None else most_processes_reached(of_client)
        if of_client is None or most is None:
            raise _refusal(error.errno) from error
        raise ServerBusy(
            f"the jobs of {of_client.name} have all {most} processes and threads that they may have together; try again when "
            "some have ended"
        ) from error
    except CgroupFileError as error:
        if error.errno in EXHAUSTED:
            raise _refusal(error.errno) from error
        if error.errno in GONE:
            logger.error("%s: was the server's cgroup removed? Restart it", error)
            raise CgroupsRemoved(
                "the cgroup of the server's jobs was removed on its host; its operator has to restart the server"
            ) from error
        raise
    except OSError as error:
        raise _refusal(error.errno, error.filename) from error


def _refusal(number: int | None, path: str | Path | None = None) -> Exception:
    words = os.strerror(number or 0)
    if number in EXHAUSTED:
        return ServerBusy(f"the server's host is out of resources for a new job: {words}")
    if number in _OF_DISK and path:
        logger.error("cannot make a job: %s (%s)", words, path)
        return OutputUnavailable(
            f"the server's disk of outputs cannot be written: {words}, and so nothing is started; try again later"
        )
    return HostError(f"cannot make a job: {words}" + (f" ({path})" if path else ""))
