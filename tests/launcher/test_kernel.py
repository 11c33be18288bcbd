"""What /proc/PID/stat tells of a child."""

from __future__ import annotations

import os

import pytest

from jobmaster.launcher.kernel import ProcessStat, parse_stat, read_stat

TAIL = b" Z 1 100 100 0 -1 4227140 " + b"0 " * 12 + b"12345 " + b"0 " * 29 + b"10752\n"


@pytest.mark.parametrize("name", [b"sh", b"a) Z (b", b"\xff\n)"])
def test_fields_are_found_behind_any_name(name: bytes) -> None:
    """The program's name may contain spaces and parentheses; the fields are counted behind the last one."""
    assert parse_stat(b"100 (" + name + b")" + TAIL) == ProcessStat(
        is_zombie=True, is_dying=True, executed=False, start_time=12345, exit_code=42 << 8
    )


def test_this_process() -> None:
    """A living process that has executed a program."""
    found = read_stat(os.getpid())
    assert (found.is_zombie, found.executed, found.exit_code) == (False, True, 0)
    assert found.start_time > 0


def test_a_fork_that_executed_nothing() -> None:
    """A zombie says that it never executed, and how it ended, until it is reaped."""
    pid = os.fork()
    if pid == 0:
        os._exit(42)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found = read_stat(pid)
    os.waitpid(pid, 0)
    assert (found.is_zombie, found.executed, found.exit_code) == (True, False, 42 << 8)
