"""The open files of a running job's cgroup: what its end needs works without a new descriptor."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.interface import CgroupFileError
from jobmaster.host.cgroup.opened import DESCRIPTORS, OpenedCgroup
from jobmaster.host.cgroup.tree import CgroupTree
from tests.host.cgroup.fake import fake_tree
from tests.host.cgroup.kernel import family_in, join, sleeper, wait_until_empty

if TYPE_CHECKING:
    from pathlib import Path

    from jobmaster.host.cgroup.tree import JobCgroup

ID: Final = "0ujtsYcgvSTl8PAuAdqWYSMnLOv"


@pytest.fixture
def plain(plain_tree: CgroupTree) -> JobCgroup:
    """A cgroup of plain files, with those of all controllers."""
    return plain_tree.create("client1", ID, ())


@pytest.fixture
def real(kernel_tree: CgroupTree) -> JobCgroup:
    """A cgroup of the kernel's."""
    return kernel_tree.create("client1", ID, ())


def test_a_number_that_is_kept(real: JobCgroup) -> None:
    """It is there for whoever opens the cgroup later, until that is removed; where there is none, it is 0."""
    first = OpenedCgroup(real)
    assert first.kept("kills") == 0
    first.keep("kills", 12)
    first.keep("kills", 123)
    first.close()
    second = OpenedCgroup(real)
    assert second.kept("kills") == 123
    assert second.remove()
    assert second.kept("kills") == 0
    second.keep("kills", 1)
    second.close()


KEEP: Final = """
import sys
from pathlib import Path
from jobmaster.host.cgroup.opened import OpenedCgroup
from jobmaster.host.cgroup.tree import JobCgroup, KernelFolders
OpenedCgroup(JobCgroup(path=Path(sys.argv[1]), folders=KernelFolders())).keep("kills", 7)
"""


def test_a_number_that_is_kept_without_privileges(real: JobCgroup) -> None:
    """A server without CAP_SYS_ADMIN, as an ordinary user's is, keeps it as well."""
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    subprocess.run([*without, sys.executable, "-c", KEEP, str(real.path)], check=True)
    opened = OpenedCgroup(real)
    assert opened.kept("kills") == 7
    opened.keep("kills", 8)
    assert opened.kept("kills") == 8
    opened.close()


def descriptors() -> int:
    """How many are open, without that of the folder that lists them."""
    return len(os.listdir("/proc/self/fd")) - 1


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """In this block no file can be opened (EMFILE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_job_ends_without_a_descriptor(real: JobCgroup) -> None:
    """When the server is out of descriptors it still sees that a job lives, kills all of it, and sees it dead."""
    opened = OpenedCgroup(real)
    with family_in(real.path) as process:
        with no_descriptor_left():
            assert opened.populated()
            opened.kill()
        process.wait()
        wait_until_empty(real)
        with no_descriptor_left():
            assert not opened.populated()
            assert opened.memory_events() is None  # the controller is not enabled here
    assert opened.remove()
    opened.close()


def test_a_cgroup_that_is_gone(real: JobCgroup) -> None:
    """After its removal nothing lives in it, and a kill is no error."""
    opened = OpenedCgroup(real)
    assert opened.remove()
    opened.kill()
    assert not opened.populated()
    assert opened.memory_events() is None
    assert opened.remove()
    opened.close()


def test_its_descriptors(plain: JobCgroup) -> None:
    """It has as many as it says once the folder is closed, none is inherited, and closing closes them, once."""
    before = descriptors()
    opened = OpenedCgroup(plain)
    assert os.fstat(opened.folder).st_ino == plain.path.stat().st_ino
    assert descriptors() - before == DESCRIPTORS + 1
    assert not os.get_inheritable(opened.folder)
    opened.close_folder()
    opened.close_folder()
    assert descriptors() - before == DESCRIPTORS
    opened.close()
    opened.close()
    assert descriptors() == before


def test_closing_closes_the_folder_too(plain: JobCgroup) -> None:
    """One that is closed before its process is made keeps nothing."""
    before = descriptors()
    OpenedCgroup(plain).close()
    assert descriptors() == before


@pytest.mark.parametrize("missing", ["cgroup.events", ""])
def test_what_cannot_be_opened_leaves_nothing(plain: JobCgroup, missing: str) -> None:
    """Where a file that it needs is not there, the error names it and no descriptor is left."""
    if missing:
        (plain.path / missing).unlink()
    else:
        assert plain.remove()
    before = descriptors()
    with pytest.raises(CgroupFileError, match=r"cgroup\.events: No such file"):
        OpenedCgroup(plain)
    assert descriptors() == before


def test_what_is_a_link_is_refused(plain: JobCgroup, tmp_path: Path) -> None:
    """A link in a file's place is not followed."""
    (tmp_path / "elsewhere").write_text("populated 0\n")
    (plain.path / "cgroup.events").unlink()
    (plain.path / "cgroup.events").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CgroupFileError, match=os.strerror(errno.ELOOP)):
        OpenedCgroup(plain)


def test_it_reads_what_is_there_now(plain: JobCgroup) -> None:
    """Each read is of the moment, from the file's beginning."""
    opened = OpenedCgroup(plain)
    for populated, killed in ((True, 1), (False, 12), (True, 3)):
        (plain.path / "cgroup.events").write_text(f"populated {int(populated)}\nfrozen 0\n")
        (plain.path / "memory.events").write_text(f"low 0\nhigh 0\nmax 0\noom 0\noom_kill {killed}\noom_group_kill 0\n")
        assert opened.populated() == populated
        events = opened.memory_events()
        assert events is not None
        assert events.processes_killed == killed
    opened.close()


def test_it_writes_the_kill(plain: JobCgroup) -> None:
    """`1` is written to cgroup.kill, each time."""
    opened = OpenedCgroup(plain)
    for _ in range(2):
        opened.kill()
        assert (plain.path / "cgroup.kill").read_text() == "1"
        (plain.path / "cgroup.kill").write_text("")
    opened.close()


def test_a_kernel_without_the_memory_controller(tmp_path: Path) -> None:
    """Where there is no memory.events, there are no counters."""
    opened = OpenedCgroup(fake_tree(tmp_path / "bare").create("client1", ID, ()))
    assert opened.memory_events() is None
    opened.close()


def test_a_kernel_without_cgroup_kill(real: JobCgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.14 each process is killed by itself."""
    opened = OpenedCgroup(real)
    monkeypatch.setattr(opened, "_kill", None)
    with family_in(real.path) as process:
        opened.kill()
        process.wait()
        wait_until_empty(real)
    assert opened.remove()
    opened.close()


def test_what_makes_no_sense_is_an_error(plain: JobCgroup) -> None:
    """A file that is not as the kernel writes it does not pass for an empty cgroup."""
    opened = OpenedCgroup(plain)
    (plain.path / "cgroup.events").write_text("nonsense\n")
    with pytest.raises(CgroupError):
        opened.populated()
    opened.close()


def test_what_is_closed_writes_into_no_other_file(kernel_root: Path, tmp_path: Path) -> None:
    """After it is closed, a kill and a look go by path: its numbers may be those of another job's files."""
    tree = CgroupTree(root=kernel_root / "closed")
    tree.prepare()
    opened = OpenedCgroup(tree.create("client1", "a", ()))
    opened.close_folder()
    opened.close()
    other = tmp_path / "other"
    other.write_bytes(b"output")
    with ExitStack() as stack:
        for _ in range(20):
            stack.callback(os.close, os.open(other, os.O_RDWR))
        with sleeper() as process:
            join(opened.path, process)
            assert opened.populated()
            opened.memory_events()
            opened.kill()
            assert process.wait() == -9
    assert other.read_bytes() == b"output"
    while not opened.remove():
        pass
    tree.dispose()


def test_it_freezes(real: JobCgroup) -> None:
    """Its processes are frozen and go on, as the kernel tells; frozen, they can be killed."""
    opened = OpenedCgroup(real)
    events = real.path / "cgroup.events"
    with sleeper() as process:
        join(real.path, process)
        for is_frozen in (True, False, True):
            opened.freeze(is_frozen)
            for _ in range(1000):
                if f"frozen {is_frozen:d}" in events.read_text():
                    break
                process_yield()
            assert f"frozen {is_frozen:d}" in events.read_text()
            assert opened.frozen() == is_frozen
        opened.kill()
        assert process.wait(60) == -signal.SIGKILL
        wait_until_empty(real)
    opened.close()


def process_yield() -> None:
    """Gives the kernel time: of the freezing no event comes that is not of cgroup.events as a whole."""
    select.select([], [], [], 0.01)


def test_a_kernel_without_a_freezer(plain: JobCgroup) -> None:
    """Nothing can be frozen there, and nothing is."""
    (plain.path / "cgroup.freeze").unlink(missing_ok=True)
    opened = OpenedCgroup(plain)
    opened.freeze(is_frozen=False)
    with pytest.raises(CgroupFileError, match=r"cgroup\.freeze"):
        opened.freeze(is_frozen=True)
    opened.close()
