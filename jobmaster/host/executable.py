"""Whether a command can be run by the job's account, decided before anything is made for the job.

`execvp(3)` as the job's user is the final judge; this is the same search with the same rules (POSIX: a name without
a slash is looked for along PATH, a denied entry is passed over but remembered), so that "not found" and "not
executable" are answers of Start and not an exit code. Permission bits are judged for the account; where an entry has
an access control list or cannot be looked at, the judgement is left to the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath

from jobmaster.errors import CommandNotRunnable, InvalidRequest
from jobmaster.host.account import Account

_MAX_NAME = 255  # NAME_MAX of Linux
_MAX_PATH = 4095  # PATH_MAX of Linux, without its NUL


def check_runnable(command: str, account: Account, search_path: str, working_folder: str) -> None:
    """Returns when `account` can execute `command`.

    Raises:
        CommandNotRunnable: it is not found, or not executable for the account; the text names it.
        InvalidRequest: the name is longer than a path can be.
    """
    if len(os.fsencode(command)) > _MAX_PATH:
        raise InvalidRequest("command is longer than a path can be", field="command")
    shown = command if len(command) <= _MAX_NAME else f"{command[:_MAX_NAME]}…"
    denied = False
    for candidate in _candidates(command, search_path, working_folder):
        match _judge(candidate, account):
            case None:
                return
            case errno.ENOENT | errno.ENOTDIR:
                continue
            case _:
                denied = True
    if denied:
        raise CommandNotRunnable(f"command {shown!r} is not executable for the jobs' user {account.name!r}")
    where = "" if "/" in command else f" in the jobs' PATH ({search_path})"
    raise CommandNotRunnable(f"command {shown!r} not found{where}")


def _candidates(command: str, search_path: str, working_folder: str) -> Iterator[str]:
    if "/" in command:
        yield os.path.join(working_folder, command)  # noqa: PTH118  # pathlib would drop a trailing slash or dot
        return
    for folder in search_path.split(":"):
        yield os.path.join(working_folder, folder, command)  # noqa: PTH118  # as above


def _judge(path: str, account: Account) -> int | None:
    """None when `account` may execute the file at `path`, else the errno that says why not."""
    try:
        details = os.stat(path)  # noqa: PTH116  # follows links, and knows a trailing slash, as execve(2) does
        if not stat.S_ISREG(details.st_mode):
            return errno.EACCES
        real = os.path.realpath(path, strict=True)
        folders = {*PurePosixPath(path).parents, *PurePosixPath(real).parents}
        if not _may_execute(real, details, account):
            return errno.EACCES
        if not all(_may_execute(str(folder), os.stat(folder), account) for folder in folders):  # noqa: PTH116  # as above
            return errno.EACCES
    except OSError as error:
        return error.errno
    return None


def _may_execute(path: str, details: os.stat_result, account: Account) -> bool:
    if account.is_root:
        return stat.S_ISDIR(details.st_mode) or bool(details.st_mode & 0o111)
    if details.st_uid == account.uid:
        granted = bool(details.st_mode & stat.S_IXUSR)
    elif details.st_gid == account.gid or details.st_gid in account.groups:
        granted = bool(details.st_mode & stat.S_IXGRP)
    else:
        granted = bool(details.st_mode & stat.S_IXOTH)
    return granted or _has_access_list(path)


def _has_access_list(path: str) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False
