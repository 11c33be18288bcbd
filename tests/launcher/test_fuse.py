"""Which connections of FUSE file systems are aborted; `tests.integration` has real ones."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from jobmaster.launcher import aside, fuse, kernel
from jobmaster.launcher.fuse import Aborter, Breadth, Request, devices
from jobmaster.launcher.poller import Poller
from jobmaster.launcher.proc import processes

JOB_USER: Final = 65534
STUCK: Final = 7
"""A thread that is left of the job that was killed."""
OTHER_JOB: Final = 8
HOST: Final = 9
"""A process that is no job's."""
OTHER_USER: Final = 1000
SHOWN: Final = {"self": (30, 31), STUCK: (31, 40), OTHER_JOB: (40, 41), HOST: (42, 47)}
"""The numbers of the mounts that each shows, by its mount namespace."""
OWNERS: Final = {
    **dict.fromkeys((31, 40, 41, 42, 43, 46), JOB_USER),
    **dict.fromkeys((45, 47, 48), OTHER_USER),
    44: 0,
}
"""Who has mounted what is at each connection; the thread that is left has mapped files of 44 to 47."""


class Host:
    """A host of files: /proc, the cgroups of jobs, connections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc, self.control, self.jobs = folder / "proc", folder / "control", folder / "jobs"
        for each in (self.proc, self.control):
            each.mkdir()
        for name, numbers in SHOWN.items():
            self.add_process(str(name), numbers)
        for name, pid in (("one/killed", STUCK), ("two/other", OTHER_JOB)):
            (self.jobs / name).mkdir(parents=True)
            (self.jobs / name / "cgroup.procs").write_text(f"{pid}\n")
            (self.jobs / name / "cgroup.threads").write_text(f"{pid}\n")
        for number in OWNERS:
            (self.control / str(number)).mkdir()
            (self.control / str(number) / "abort").touch()

    def add_process(self, name: str, numbers: tuple[int, ...]) -> None:
        """One that shows these mounts."""
        folder = self.proc / name
        (folder / "ns").mkdir(parents=True)
        (folder / "ns" / "mnt").symlink_to(f"mnt:[{name}]")
        (folder / "root").symlink_to("/")
        (folder / "mountinfo").write_text(
            "".join(f"6{number} 1 0:{number} / /a rw - fuse x rw\n" for number in numbers)
        )
        (folder / "status").write_text(f"Name:\tx\nUid:\t{JOB_USER}\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
        (folder / "wchan").write_text("request_wait_answer")
        (folder / "maps").write_text(
            "7f0-7f1 r--p 0 00:2e 2 /a (deleted)\n"
            "7f1-7f2 r--p 0 00:2d 2 /b\n7f2-7f3 r--p 0 00:2c 2 /c\n7f3-7f4 r--p 0 00:2f 2 /d\n7f"
        )
        (folder / "syscall").write_text("20 0x1 0x7f0 0x2\n")

    def request(self, breadth: Breadth) -> Request:
        """For the job that was killed."""
        return Request(breadth, (str(self.jobs / "one" / "killed"),), str(self.jobs), "killed")

    def aborted(self) -> set[int]:
        """The connections that are."""
        return {number for number in OWNERS if (self.control / str(number) / "abort").read_text() == "1"}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Such a host, in the place of this one."""
    made = Host(tmp_path)
    monkeypatch.setattr(fuse, "_PROC", str(made.proc))
    monkeypatch.setattr(fuse, "_control", lambda: str(made.control))
    monkeypatch.setattr(fuse, "_owners", lambda _control: iter(OWNERS.items()))
    return made


@pytest.mark.parametrize(
    ("breadth", "aborted"),
    [
        (Breadth.OWN, {40, 46}),
        (Breadth.HIDDEN, {40, 43, 46}),
        (Breadth.ALL, {40, 41, 43, 46}),
    ],
)
def test_whose_are_aborted(host: Host, breadth: Breadth, aborted: set[int]) -> None:
    """Never the host's, root's, those of another user, or what a process shows that is no job's."""
    assert fuse.abort(host.request(breadth)) == ", ".join(map(str, sorted(aborted)))
    assert host.aborted() == aborted


@pytest.mark.parametrize(
    ("breadth", "aborted"), [(Breadth.OWN, {46}), (Breadth.HIDDEN, {40, 41, 43, 46}), (Breadth.ALL, {40, 41, 43, 46})]
)
def test_jobs_with_too_many_mounts(
    host: Host, monkeypatch: pytest.MonkeyPatch, breadth: Breadth, aborted: set[int]
) -> None:
    """What jobs show counts as not shown where there is no time to look; never what the host shows."""
    monkeypatch.setattr(fuse, "LOOK_SECONDS", -1)
    fuse.abort(host.request(breadth))
    assert host.aborted() == aborted


def test_a_process_that_is_about_to_have_died(host: Host) -> None:
    """A thread that is left of it counts, where the kernel does not list the process any more."""
    (host.jobs / "one" / "killed" / "cgroup.procs").write_text("")
    fuse.abort(host.request(Breadth.OWN))
    assert host.aborted() == {40, 46}


def test_jobs_of_other_users(host: Host) -> None:
    """They show nothing of this user's, and no time is spent on them."""
    (host.proc / str(OTHER_JOB) / "status").write_text("Name:\tx\nUid:\t1000\t0\t0\t0\n")
    fuse.abort(host.request(Breadth.HIDDEN))
    assert host.aborted() == {40, 41, 43, 46}


def test_a_job_that_forks_meanwhile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its new process shows is not taken for shown by one that is no job's."""

    def list_then_fork(cgroup: str) -> list[int]:
        found = list(processes(cgroup))
        if cgroup == str(host.jobs):
            host.add_process("77", (43,))
        return found

    monkeypatch.setattr(fuse, "processes", list_then_fork)
    fuse.abort(host.request(Breadth.ALL))
    assert 43 in host.aborted()


@pytest.mark.parametrize("breadth", Breadth)
def test_a_job_that_waits_for_something_else(host: Host, breadth: Breadth) -> None:
    """As for a disk of the host: what is not its own is left alone."""
    (host.proc / str(STUCK) / "wchan").write_text("rpc_wait_bit_killable")
    fuse.abort(host.request(breadth))
    assert host.aborted() == {40}


@pytest.mark.parametrize(
    "function",
    ["fuse_set_nowrite", "folio_wait_bit", "folio_wait_bit_common", "__folio_lock", "inode_wait_for_writeback"],
)
@pytest.mark.parametrize(("breadth", "aborted"), [(Breadth.OWN, {40, 46}), (Breadth.HIDDEN, {40, 43, 46})])
def test_a_job_that_waits_for_a_page(host: Host, function: str, breadth: Breadth, aborted: set[int]) -> None:
    """As for its writing: nobody waits for the answer, and all for the page."""
    (host.proc / str(STUCK) / "wchan").write_text(function)
    fuse.abort(host.request(breadth))
    assert host.aborted() == aborted


@pytest.mark.parametrize(("state", "aborted"), [("D (disk sleep)", {40, 46}), ("S (sleeping)", {40})])
def test_a_job_that_waits_for_the_lock_of_another(host: Host, state: str, aborted: set[int]) -> None:
    """Whose thread waits for an answer: what the thread that is left uses, and no signal gets out of it, is aborted."""
    (host.proc / str(STUCK) / "wchan").write_text("fdget_pos")
    (host.proc / str(STUCK) / "status").write_text(f"Name:\tx\nState:\t{state}\nUid:\t{JOB_USER}\t0\t0\t0\n")
    fuse.abort(host.request(Breadth.OWN))
    assert host.aborted() == aborted


def test_the_last_thread_alone_waits(host: Host) -> None:
    """It is found behind all that wait for its lock of their file."""
    others = range(100_000, 100_000 + fuse.MOST_THREADS)
    for tid in others:
        (host.proc / str(tid)).mkdir()
        (host.proc / str(tid) / "wchan").write_text("fdget_pos")
    (host.proc / str(others[0]) / "status").write_text(f"Name:\tx\nUid:\t{JOB_USER}\t0\t0\t0\n")
    (host.jobs / "one" / "killed" / "cgroup.threads").write_text("\n".join(map(str, (*others, STUCK))))
    fuse.abort(host.request(Breadth.OWN))
    assert host.aborted() == {46}


def test_jobs_of_several_users(host: Host) -> None:
    """The threads of one, however many, do not keep another's jobs from being freed."""
    others = range(100_000, 100_000 + fuse.MOST_THREADS)
    for tid in others:
        (host.proc / str(tid)).mkdir()
        (host.proc / str(tid) / "status").write_text(f"Name:\tx\nUid:\t{OTHER_USER}\t0\t0\t0\n")
    (host.jobs / "one" / "killed" / "cgroup.threads").write_text("\n".join(map(str, (*others, STUCK))))
    fuse.abort(host.request(Breadth.ALL))
    assert host.aborted() == {40, 41, 43, 46, 45, 48}


@pytest.mark.parametrize(("breadth", "aborted"), [(Breadth.OWN, {40}), (Breadth.HIDDEN, {40, 43, 46})])
def test_more_threads_than_can_be_asked(
    host: Host, monkeypatch: pytest.MonkeyPatch, breadth: Breadth, aborted: set[int]
) -> None:
    """Some of them are taken to wait for an answer."""
    monkeypatch.setattr(fuse, "MOST_STATES", 1)
    (host.proc / str(STUCK) / "wchan").write_text("fdget_pos")
    (host.jobs / "one" / "killed" / "cgroup.threads").write_text(f"{STUCK}\n100000\n")
    fuse.abort(host.request(breadth))
    assert host.aborted() == aborted


def test_a_job_of_root(host: Host) -> None:
    """No connection counts as its own."""
    (host.proc / str(STUCK) / "status").write_text("Name:\tx\nUid:\t0\t0\t0\t0\n")
    assert fuse.abort(host.request(Breadth.ALL)) == ""
    assert host.aborted() == set()


def test_a_job_that_has_died(host: Host) -> None:
    """Nothing is aborted for one of which no process is left."""
    for name in ("cgroup.procs", "cgroup.threads"):
        (host.jobs / "one" / "killed" / name).write_text("")
    assert fuse.abort(host.request(Breadth.ALL)) == ""
    assert host.aborted() == set()


def test_a_host_that_lets_nobody_abort(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error where a job waits for an answer, and of no interest where it waits for something else."""

    def refuse(_kind: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.undo()
    monkeypatch.setattr(fuse, "_PROC", str(host.proc))
    monkeypatch.setattr(fuse, "_MOUNTED", str(host.folder / "none"))
    monkeypatch.setattr(kernel, "mount_detached", refuse)
    (host.proc / "filesystems").write_text("nodev\tfuse\nnodev\tfusectl\n")
    with pytest.raises(PermissionError):
        fuse.abort(host.request(Breadth.OWN))
    (host.proc / str(STUCK) / "wchan").write_text("rpc_wait_bit_killable")
    assert fuse.abort(host.request(Breadth.OWN)) == ""
    (host.proc / "filesystems").write_text("nodev\tproc\n")
    (host.proc / str(STUCK) / "wchan").write_text("request_wait_answer")
    assert fuse.abort(host.request(Breadth.OWN)) == "", "there are no such file systems"


def test_numbers_of_devices() -> None:
    """Also those of file systems on disks; names of mounts and sources count for nothing."""
    text = r"""22 27 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
63 43 0:1048575 / /a\0400:5 rw - fuse 0:6 rw,user_id=0
64 43 8:1 / /b rw - fuseblk /dev/sda1 rw
"""
    assert devices(text) == {21, 1048575, (8 << 20) | 1}


@pytest.mark.parametrize("separator", "\v\f\r\x1c\x1d\x1e\x85\u2028")
def test_names_with_separators_of_lines(separator: str) -> None:
    """The kernel escapes the newline alone; a name with another one hides no mount, its own or what comes after it."""
    text = f"63 43 0:40 / /a{separator}b rw - fuse x{separator}y rw\n64 43 0:41 / /b rw - fuse x rw\n"
    assert devices(text) == {40, 41}


def test_files_that_a_thread_uses(tmp_path: Path) -> None:
    """What it has mapped, and the descriptors of its system call; whatever else its arguments are."""
    (tmp_path / "maps").write_text("7f0-7f1 r--p 0 00:2e 2 /a\n7f1-7f2 rw-p 0 00:00 0\n7f1-7f2 r--p 0 08:")
    (tmp_path / "syscall").write_text("275 0x5 0x0 0x6 0x7f0000000000 0x5 0xffffffffffffffff 0x7f0 0x7f1\n")
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd" / "5").touch()
    number = tmp_path.stat().st_dev
    own = kernel.device_number(os.major(number), os.minor(number))
    assert fuse.used_by(str(tmp_path)) == {0x2E, 0, own}
    (tmp_path / "syscall").write_text("running\n")
    assert fuse.used_by(str(tmp_path)) == {0x2E, 0}
    (tmp_path / "maps").unlink()
    (tmp_path / "syscall").unlink()
    assert fuse.used_by(str(tmp_path)) == set()


class Talk:
    """What an aborter says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        monkeypatch.setattr(fuse, "say", self.said.append)


def carry_out(aborter: Aborter, poller: Poller, pids: Sequence[int]) -> None:
    """Waits until nothing is left to do, and every child of the aborter has ended."""
    while aborter.is_busy:
        poller.run_once()
    for pid in pids:
        os.waitpid(pid, 0)


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The children of an aborter."""
    started: list[int] = []
    start = aside.start

    def note(work: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
        pid, sock = start(work)
        started.append(pid)
        return pid, sock

    monkeypatch.setattr(aside, "start", note)
    return started


def answers(monkeypatch: pytest.MonkeyPatch, found: Mapping[str, str | OSError]) -> None:
    """Sets what comes of requests, by their names; who is not here never comes to an end."""

    def pretend(request: Request) -> str:
        if request.name not in found:
            select.select([], [], [])
        answer = found[request.name]
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(fuse, "abort", pretend)


def request(name: str) -> Request:
    """One of which only its name counts."""
    return Request(Breadth.OWN, (), "", name)


def test_requests_are_carried_out_in_turn(monkeypatch: pytest.MonkeyPatch, pids: list[int]) -> None:
    """What came of each is said, where there is something to say; one that takes too long is given up, and its process killed."""
    monkeypatch.setattr(fuse, "SECONDS", 0.2)
    talk, poller = Talk(monkeypatch), Poller()
    answers(monkeypatch, {"some": "40, 41", "none": "", "not root": PermissionError(1, "Operation not permitted")})
    aborter = Aborter(poller)
    for name in ("none", "never", "some", "not root", "some"):
        aborter.ask(request(name))
    carry_out(aborter, poller, pids)
    never, some, refused = talk.said
    assert "could not be aborted" in never
    assert "(never)" in never
    assert some.endswith("connections aborted: 40, 41 (some)")
    assert refused.endswith("cannot be aborted: Operation not permitted (not root)")


def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch, pids: list[int]) -> None:
    """More are dropped: who asks in vain asks again."""
    monkeypatch.setattr(fuse, "MOST_REQUESTS", 2)
    talk, poller = Talk(monkeypatch), Poller()
    answers(monkeypatch, {str(number): str(number) for number in range(10)})
    aborter = Aborter(poller)
    for number in range(10):
        aborter.ask(request(str(number)))
    carry_out(aborter, poller, pids)
    assert [text[-2] for text in talk.said] == ["0", "1", "2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_connections_of_this_host() -> None:
    """They can be read without a mount that anybody sees, where the kernel has FUSE."""
    before = Path("/proc/self/mountinfo").read_text()
    try:
        control = fuse._control()
    except OSError as error:
        pytest.skip(f"needs fsopen(2): {error.strerror}")
    if control is None:
        pytest.skip("needs a kernel with FUSE")
    dict(fuse._owners(control))
    assert Path("/proc/self/mountinfo").read_text() == before
    os.close(int(control.rpartition("/")[2]))
