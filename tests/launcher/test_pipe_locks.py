"""Which jobs keep the threads of a dead server in the kernel, as /proc tells it; `tests.integration` asks a real one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from jobmaster.launcher import pipe_locks
from jobmaster.launcher import reader as reader_module
from jobmaster.launcher.child import Heritage
from jobmaster.launcher.children import Children
from jobmaster.launcher.pipe_locks import Job, Search, Waiting, held_by, waiting
from jobmaster.launcher.poller import Poller
from jobmaster.launcher.protocol import KILL, Close, Order
from jobmaster.launcher.reader import HeldUp
from jobmaster.launcher.table import Entry, Table

Thread = tuple[str, str]
"""Its wchan and its syscall."""
PIPES: Final = {"3": 30, "4": 40, "5": 50}
"""st_ino of the pipes that the processes have open, by descriptor."""
SPLICE_FROM_3_TO_4: Final = "275 0x3 0x0 0x4 0x0 0x100 0x5 0x7f00 0x7f01\n"
IOCTL_3: Final = "16 0x3 0x541b 0x5 0x0 0x0 0x0 0x7f00 0x7f01\n"
IOCTL_5: Final = "16 0x5 0x541b 0x3 0x0 0x0 0x0 0x7f00 0x7f01\n"


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, list[Thread]]], None]:
    """Sets the threads of each process, on a machine of a known kind."""

    def pretend(processes: Mapping[int, list[Thread]]) -> None:
        texts = {
            f"/{pid}/{number}/{name}": text
            for pid, threads in processes.items()
            for number, thread in enumerate(threads)
            for name, text in zip(("wchan", "syscall"), thread, strict=True)
        }
        monkeypatch.setattr(
            pipe_locks, "_tasks", lambda pid: [f"/{pid}/{number}" for number in range(len(processes.get(pid, ())))]
        )
        monkeypatch.setattr(pipe_locks, "_read", lambda path: texts.get(path, ""))
        monkeypatch.setattr(pipe_locks, "_read_patiently", lambda paths: [texts.get(path, "") for path in paths])
        monkeypatch.setattr(pipe_locks, "_inode_of", lambda link: PIPES.get(link.rpartition("/")[2]))
        monkeypatch.setitem(pipe_locks._DESCRIPTORS, os.uname().machine, pipe_locks._DESCRIPTORS["x86_64"])

    return pretend


@pytest.mark.parametrize(
    ("threads", "pipes", "is_closing"),
    [
        ([("pipe_ioctl", IOCTL_3)], {30}, False),
        ([("splice_file_to_pipe", SPLICE_FROM_3_TO_4)], {30, 40}, False),
        ([("0", "-1 0x0 0x0\n"), ("pipe_ioctl", IOCTL_3), ("anon_pipe_write", IOCTL_5)], {30, 50}, False),
        ([("pipe_release", "3 0x3 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n")], set(), True),
        ([("rpc_wait_bit_killable", SPLICE_FROM_3_TO_4)], set(), False),
        ([("rpc_wait_bit_killable", SPLICE_FROM_3_TO_4), ("pipe_ioctl", IOCTL_3)], set(), False),
        ([("", IOCTL_3), ("0", "running\n"), ("pipe_ioctl", "")], set(), False),
        ([], set(), False),
    ],
)
def test_what_a_dead_server_waits_for(
    proc: Callable[[Mapping[int, list[Thread]]], None],
    threads: list[Thread],
    pipes: set[int],
    is_closing: bool,
) -> None:
    """Locks of pipes that no thread of its own holds, while that waits for a disk; what cannot be read counts for nothing."""
    proc({7: threads})
    found = waiting(7)
    assert (set(found.pipes), found.is_closing) == (pipes, is_closing)


def test_who_holds_a_lock(proc: Callable[[Mapping[int, list[Thread]]], None]) -> None:
    """A thread that is in a system call with a pipe and waits for something else; one that waits for the lock does not."""
    proc({7: [("sk_wait_data", SPLICE_FROM_3_TO_4)], 8: [("anon_pipe_write", IOCTL_5)]})
    assert [all_held_by(pid) for pid in (7, 8, None)] == [{30, 40}, set(), set()]


def all_held_by(pid: int | None) -> set[int]:
    """The pipes whose locks a process may hold."""
    return {pipe for step in held_by("", pid) for pipe in step}


def crowd(monkeypatch: pytest.MonkeyPatch, threads: Mapping[str, int], holds: Mapping[str, int]) -> list[str]:
    """Jobs with so many threads, of which the last of some holds the lock of pipe 30; whose threads are looked at, in order."""
    seen = []

    def pretend(cgroup: str, _: int | None) -> Iterator[frozenset[int]]:
        for number in range(threads[cgroup]):
            seen.append(cgroup)
            yield frozenset({30} if holds.get(cgroup) == number else ())

    monkeypatch.setattr(pipe_locks, "held_by", pretend)
    return seen


def test_a_look_at_many_threads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after so many in all, and each job has its turn in it; the next look goes on, and finds who was not seen."""
    many = pipe_locks.MOST_STEPS
    seen = crowd(monkeypatch, {"many": many, "more": many, "few": 3}, {"more": many - 1, "few": 2})
    search = Search(Job(name, name, None) for name in ("many", "more", "few"))
    assert search.look(frozenset({30})) == {"few"}
    assert many <= len(seen) < many + pipe_locks.STEPS_OF_JOB
    assert abs(seen.count("many") - seen.count("more")) <= pipe_locks.STEPS_OF_JOB
    found = []
    while not search.is_over:
        found.append(search.look(frozenset({30})))
    assert set().union(*found) == {"more"}
    assert len(seen) == 2 * many + 3, "nobody is looked at twice"


def held_up_by(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Threads of `one` hold the lock of pipe 30, and that of `stuck` has files that keep their reader waiting."""
    for number, name in ((7, "one"), (8, "stuck")):
        (folder / name).mkdir()
        (folder / name / "cgroup.procs").write_text(f"{number}\n")
    (folder / "7").mkdir()
    (folder / "7" / "wchan").write_text("sk_wait_data")
    (folder / "7" / "syscall").write_text(SPLICE_FROM_3_TO_4)
    (folder / "8").mkdir()
    os.mkfifo(folder / "8" / "wchan")
    monkeypatch.setattr(reader_module, "SECONDS", 0.1)
    monkeypatch.setattr(pipe_locks, "_tasks", lambda pid: [f"{folder}/{pid}"])
    monkeypatch.setattr(pipe_locks, "_inode_of", lambda link: PIPES.get(link.rpartition("/")[2]))
    monkeypatch.setitem(pipe_locks._DESCRIPTORS, os.uname().machine, pipe_locks._DESCRIPTORS["x86_64"])


def test_a_job_that_holds_up_who_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is left out, and the others are looked at."""
    held_up_by(monkeypatch, tmp_path)
    search = Search(Job(name, str(tmp_path / name), None) for name in ("stuck", "one"))
    assert search.look(frozenset({30})) == {"one"}
    assert (search.is_over, search.unseen) == (True, {"stuck"})


def test_what_was_seen_before_a_job_held_up_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that was seen is one, though another thread of its job keeps who looks waiting; without one it is unseen."""

    def pretend(cgroup: str, _pid: int | None) -> Iterator[frozenset[int]]:
        yield frozenset({30} if cgroup == "holder" else ())
        raise HeldUp

    monkeypatch.setattr(pipe_locks, "held_by", pretend)
    search = Search(Job(name, name, None) for name in ("holder", "other"))
    assert search.look(frozenset({30})) == {"holder"}
    assert (search.is_over, search.unseen) == (True, {"other"})


def test_one_look_is_held_up_by_few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The next one goes on with the others."""
    held_up_by(monkeypatch, tmp_path)
    monkeypatch.setattr(pipe_locks, "MOST_HELD_UP", 1)
    search = Search(Job(name, str(tmp_path / name.rstrip("2")), None) for name in ("stuck", "stuck2", "one"))
    assert search.look(frozenset({30})) == set()
    assert (search.is_over, search.unseen) == (False, {"stuck"})
    assert search.look(frozenset({30})) == set()
    assert search.look(frozenset({30})) == {"one"}
    assert (search.is_over, search.unseen) == (True, {"stuck", "stuck2"})


def test_a_job_that_cannot_be_looked_at_is_the_last_to_be_guessed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    """Where the holder is not seen, and the owners of the pipes were ended in vain."""
    held_up_by(monkeypatch, tmp_path)
    table = Table()
    null, pidfd = os.open("/dev/null", os.O_RDONLY), os.pidfd_open(process.pid)
    for name, pipes in (("owner", (40,)), ("stuck", ())):
        entry = Entry(id=name, pid=process.pid, pidfd=pidfd, output=null, errors=None, cgroup=str(tmp_path / name))
        entry.wait_status = 0
        entry.closed_pipes = pipes
        table.add(entry)
    children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0), table)
    closing = Waiting(frozenset(), is_closing=True, where=("pipe_release",))
    assert children.end_lock_holders(closing, is_sure=False) == []
    assert [children.end_lock_holders(closing, is_sure=True) for _ in range(2)] == [["owner"], ["stuck"]]
    process.kill()
    process.wait()
    os.close(null)
    os.close(pidfd)


def test_a_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than there are in so many looks are not looked at."""
    seen = crowd(monkeypatch, {"job": 10 * pipe_locks.MOST_STEPS}, {})
    search = Search([Job("job", "job", None)])
    for _ in range(pipe_locks.MOST_LOOKS):
        assert not search.is_over
        assert search.look(frozenset({30})) == set()
    assert search.is_over
    assert len(seen) == pipe_locks.MOST_LOOKS * pipe_locks.MOST_STEPS


def test_nobody_is_guessed_while_some_were_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, process: subprocess.Popen[bytes]
) -> None:
    """The job whose pipe it is, which may do nothing, is ended in the place of nobody who is seen: after the whole search."""
    crowd(monkeypatch, {"/jobs/one/a": pipe_locks.MOST_STEPS + 1}, {})
    read, write = os.pipe()
    table = Table()
    pidfd = os.pidfd_open(process.pid)
    table.add(Entry(id="a", pid=process.pid, pidfd=pidfd, output=read, errors=None, cgroup="/jobs/one/a"))
    children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0), table)
    wanted = Waiting(frozenset({os.fstat(read).st_ino}), is_closing=False, where=("pipe_ioctl",))
    assert children.end_lock_holders(wanted, is_sure=True) == []
    assert children.end_lock_holders(wanted, is_sure=True) == ["a"]
    assert process.wait(60) == -9
    for fd in (read, write, pidfd):
        os.close(fd)


@pytest.mark.parametrize(
    "syscall", ["61 0x3 0x0 0x0 0x0\n", "230 0x4 0x0 0x7f00 0x7f00\n", "62 0x5 0xf\n", "232 0x3 0x7f00 0x10\n"]
)
def test_numbers_that_are_no_descriptors(proc: Callable[[Mapping[int, list[Thread]]], None], syscall: str) -> None:
    """Who waits for a child or a time, or kills, is in no system call with a pipe, whatever its first argument is."""
    proc({7: [("hrtimer_nanosleep", syscall)]})
    assert all_held_by(7) == set()


@pytest.fixture
def process() -> subprocess.Popen[bytes]:
    """A process that does nothing."""
    return subprocess.Popen(["sleep", "1000"])


def test_a_job_that_is_ended(process: subprocess.Popen[bytes]) -> None:
    """One whose pipe is waited for is ended when nobody else is found, and once; the order says that it was the server."""
    read, write = os.pipe()
    entry = Entry(id="a", pid=process.pid, pidfd=os.pidfd_open(process.pid), output=read, errors=None)
    table = Table()
    table.add(entry)
    children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0), table)
    wanted = Waiting(frozenset({os.fstat(read).st_ino}), is_closing=False, where=("pipe_ioctl",))
    assert children.end_lock_holders(wanted, is_sure=False) == []
    assert children.end_lock_holders(wanted._replace(pipes=frozenset({0})), is_sure=True) == []
    assert children.end_lock_holders(wanted, is_sure=True) == ["a"]
    assert children.end_lock_holders(wanted, is_sure=True) == []
    assert process.wait(60) == -9
    assert isinstance(entry.order, Order)
    assert (entry.order.kind, entry.order.by) == (KILL, "")
    for fd in (*entry.descriptors, write):
        os.close(fd)


def test_jobs_that_are_ended_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody is seen to hold a lock: the job whose pipe is being closed, then its client's others, and no others."""
    monkeypatch.setattr(pipe_locks, "held_by", lambda *_: iter(()))
    processes = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    table = Table()
    for process, cgroup in zip(processes, ("/jobs/one/a", "/jobs/one/b", "/jobs/two/c"), strict=True):
        fd = os.open("/dev/null", os.O_RDONLY)
        pidfd = os.pidfd_open(process.pid)
        table.add(Entry(id=cgroup[-1], pid=process.pid, pidfd=pidfd, output=fd, errors=None, cgroup=cgroup))
    children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0), table)
    closing = Waiting(frozenset(), is_closing=True, where=("pipe_release",))
    assert children.end_lock_holders(closing, is_sure=True) == []
    (entry,) = (each for each in table if each.id == "a")
    entry.closed_pipes = (40,)
    ended = [children.end_lock_holders(closing, is_sure=is_sure) for is_sure in (False, True, True, True)]
    assert ended == [[], ["a"], ["b"], []]
    processes[2].kill()
    assert [process.wait(60) for process in processes] == [-9, -9, -9]
    for each in table:
        os.close(each.pidfd)
        os.close(each.output)


def test_a_pipe_that_was_passed_on(monkeypatch: pytest.MonkeyPatch, process: subprocess.Popen[bytes]) -> None:
    """Who holds the lock of a pipe of a job that has ended and is forgotten is found, as long as the same server is left."""
    read, write = os.pipe()
    pipe = os.fstat(read).st_ino
    monkeypatch.setattr(
        pipe_locks, "held_by", lambda cgroup, _pid: iter([frozenset({pipe} if cgroup == "/jobs/one/b" else ())])
    )
    table = Table()
    gone = Entry(id="a", pid=100, pidfd=os.pidfd_open(os.getpid()), output=read, errors=None)
    table.add(gone)
    gone.wait_status = 0
    pidfd, null = os.pidfd_open(process.pid), os.open("/dev/null", os.O_RDONLY)
    table.add(Entry(id="b", pid=process.pid, pidfd=pidfd, output=null, errors=None, cgroup="/jobs/one/b"))
    children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0), table)
    children.acknowledge("a")
    closing = Waiting(frozenset(), is_closing=True, where=("pipe_release",))
    assert children.end_lock_holders(closing._replace(is_closing=False), is_sure=True) == []
    assert children.end_lock_holders(closing, is_sure=False) == ["b"]
    assert process.wait(60) == -9
    children.forget_server()
    assert children.end_lock_holders(closing, is_sure=False) == []
    for fd in (write, pidfd, null):
        os.close(fd)


def test_what_is_closed_for_good() -> None:
    """A pipe that was closed here may still be about to be closed by the server, until that asks for the same again."""
    read, write = os.pipe()
    pidfd = os.pidfd_open(os.getpid())
    entry = Entry(id="a", pid=100, pidfd=pidfd, output=pidfd, errors=None, keeps={"stdin": write})
    table = Table()
    table.add(entry)
    children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0), table)
    pipe = os.fstat(write).st_ino
    found = []
    for _ in range(2):
        children.close_kept(Close(id="a", keeps=("stdin",)))
        found.append(entry.closed_pipes)
    assert found == [(pipe,), ()]
    os.close(read)
    os.close(pidfd)


def test_what_a_client_has_ordered_stays_the_cause() -> None:
    """A job that somebody is stopping, and that the launcher has to kill, was stopped by them."""
    table = Table()
    table.add(Entry(id="a", pid=100, pidfd=5, output=6, errors=7))
    table.order(Order(id="a", kind="stop", at="then", by="me", reason="mine"))
    (entry,) = table.living()
    table.order_by_launcher(entry, "now", "its own")
    assert entry.order == Order(id="a", kind=KILL, at="then", by="me", reason="mine")
