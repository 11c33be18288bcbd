"""What /proc tells of a child."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import pytest

from jobmaster.launcher.kernel import ProcessStat, has_memory, parse_stat, read_stat

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


def test_the_dying_have_no_memory_when_their_files_are_closed() -> None:
    """Who lives has, and who is killed has none by the time at which the other end of its pipe sees the end of file."""
    for _ in range(20):
        with subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE) as child:
            assert has_memory(child.pid)
            child.kill()
            assert child.stdout is not None
            assert child.stdout.read() == b""
            assert not has_memory(child.pid)


MAIN_THREAD_ENDS: Final = """
import ctypes, platform, signal, threading
threading.Thread(target=signal.pause).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)  # exit(2), of one thread
"""


def test_a_process_whose_main_thread_has_ended_has_memory() -> None:
    """That of its other threads."""
    with subprocess.Popen([sys.executable, "-c", MAIN_THREAD_ENDS]) as child:
        while not read_stat(child.pid).is_zombie:
            pass
        assert has_memory(child.pid)
        child.kill()
