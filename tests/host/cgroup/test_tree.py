"""The tree of job cgroups on plain files: what is made, written, refused and removed."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.limits import Controller, IoLimits, Limits, LimitWrite, OomPolicy, limit_writes
from jobmaster.host.cgroup.statistics import CpuStatistics, IoStatistics, MemoryEvents, Pressure, PressureShare
from jobmaster.host.cgroup.tree import CgroupTree, KernelFolders, LimitIgnored, LimitWriteError
from tests.host.cgroup.fake import CONTROLLER_FILES, FakeFolders, fake_tree

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
MEMORY_WRITE = LimitWrite(controller=Controller.MEMORY, file="memory.max", text="4096")
SWAP_WRITE = LimitWrite(controller=Controller.MEMORY, file="memory.swap.max", text="0")


@dataclass(frozen=True, slots=True, kw_only=True)
class InterferingFolders:
    """Plain folders that somebody else changes just before some of the calls."""

    before_make: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    """By the name of the folder that is to be made: what happens first, one for each try."""
    subfolder: str | None = None
    """The name of a folder that appears in each new one, in the place of a file of that name."""
    plain: FakeFolders = field(default_factory=FakeFolders)

    def make(self, folder: Path) -> None:
        """Let the interference happen, then make the folder."""
        if pending := self.before_make.get(folder.name):
            pending.pop(0)()
        self.plain.make(folder)
        if self.subfolder is not None:
            (folder / self.subfolder).mkdir()

    def remove(self, folder: Path) -> None:
        """Remove the folder."""
        self.plain.remove(folder)


def test_a_job_has_a_folder_of_its_own(plain_tree: CgroupTree) -> None:
    """The folder is <root>/jobs/<client>/<job id>, and a process joins by its cgroup.procs."""
    job = plain_tree.create("client1", "2Yx-_9", ())
    assert job.path == plain_tree.root / "jobs" / "client1" / "2Yx-_9"
    assert job.procs_path == job.path / "cgroup.procs"
    assert job.procs_path.exists()


def test_every_limit_is_written(plain_tree: CgroupTree) -> None:
    """All limits of a request are in their files when create returns."""
    limits = Limits(cpu_max=1.5, memory_max=2**26, pids_max=32, io=IoLimits(read_bps=10_000_000))
    writes = limit_writes(limits, OomPolicy.JOB, available=plain_tree.controllers, io_device="254:0")
    job = plain_tree.create("client1", "job1", writes)
    assert {write.file: (job.path / write.file).read_text() for write in writes} == {
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "memory.max": "67108864",
        "pids.max": "32",
        "cpu.max": "150000 100000",
        "io.max": "254:0 rbps=10000000 wbps=max riops=max wiops=max",
    }


def test_controllers_are_enabled_in_the_client_folder(tmp_path: Path) -> None:
    """A job's folder has limit files only if the folder above it enables their controllers."""
    tree = fake_tree(tmp_path / "root", (Controller.PIDS,))
    job = tree.create("client1", "job1", ())
    assert (job.path.parent / "cgroup.subtree_control").read_text() == "+pids"


def test_a_missing_controller_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit without its file is never skipped: the controller is named and the folders are gone again."""
    tree = fake_tree(tmp_path / "root")
    with pytest.raises(LimitWriteError) as caught:
        tree.create("client1", "job1", (MEMORY_WRITE,))
    assert (caught.value.controller, caught.value.missing) == (Controller.MEMORY, True)
    folder = str(tree.jobs / "client1" / "job1")
    assert all(part in str(caught.value) for part in (folder, "memory.max", "'4096'"))
    assert [entry.name for entry in tree.jobs.iterdir() if entry.is_dir()] == []


def test_a_controller_that_vanished_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """When the client's folder can't enable a controller that start-up found, the job is refused."""
    tree = replace(fake_tree(tmp_path / "root"), folders=KernelFolders(), controllers=frozenset({Controller.CPU}))
    with pytest.raises(LimitWriteError) as caught:
        tree.create("client1", "job1", ())
    assert caught.value.controller is Controller.CPU
    assert not (tree.jobs / "client1").exists()


def test_a_refused_value_is_told_from_a_missing_file(plain_tree: CgroupTree) -> None:
    """Only what the kernel does not offer counts as missing; any other refusal is its word on the value."""
    tree = replace(plain_tree, folders=InterferingFolders(subfolder="cpu.max"))
    with pytest.raises(LimitWriteError) as caught:
        tree.create("client1", "job1", (LimitWrite(controller=Controller.CPU, file="cpu.max", text="1"),))
    assert (caught.value.errno, caught.value.missing) == (errno.EISDIR, False)


@pytest.mark.parametrize("kernel_has_swap", [True, False])
def test_a_missing_swap_limit_is_accepted_only_without_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kernel_has_swap: bool
) -> None:
    """A kernel built without swap has no memory.swap.max; one that only lacks its accounting lets a job evade."""
    swaps = tmp_path / "swaps"
    if kernel_has_swap:
        swaps.touch()
    monkeypatch.setattr("jobmaster.host.cgroup.tree._SWAPS", swaps)
    monkeypatch.delitem(CONTROLLER_FILES[Controller.MEMORY], "memory.swap.max")
    tree = fake_tree(tmp_path / "root", (Controller.MEMORY,))
    if kernel_has_swap:
        with pytest.raises(LimitWriteError, match=r"memory\.swap\.max"):
            tree.create("client1", "job1", (SWAP_WRITE, MEMORY_WRITE))
    else:
        job = tree.create("client1", "job1", (SWAP_WRITE, MEMORY_WRITE))
        assert (job.path / "memory.max").read_text() == "4096"


@given(st.text(max_size=300).filter(lambda name: NAME.fullmatch(name) is None))
def test_names_with_other_characters_are_refused(name: str) -> None:
    """No name can be a path, an interface file or a hidden folder, for a client as for a job."""
    tree = CgroupTree(root=Path("/nonexistent"))
    for client, job_id in ((name, "job1"), ("client1", name)):
        with pytest.raises(CgroupError, match="not a name for a cgroup"):
            tree.create(client, job_id, ())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "cgroup.procs", "a b", "a\n", "\u00e9", "a" * 256])
def test_dangerous_names_are_refused(name: str) -> None:
    """The names that matter most are among those refused."""
    with pytest.raises(CgroupError, match="not a name for a cgroup"):
        CgroupTree(root=Path("/nonexistent")).create(name, "job1", ())


def test_a_job_id_is_used_once(plain_tree: CgroupTree) -> None:
    """A second cgroup for the same job is an error, and the first one stays."""
    job = plain_tree.create("client1", "job1", ())
    with pytest.raises(CgroupError, match=r"job1.*File exists"):
        plain_tree.create("client1", "job1", ())
    assert job.path.exists()


def test_the_client_folder_vanishing_meanwhile_is_made_again(tmp_path: Path) -> None:
    """Another job of the client that ends takes the folder away just before this job's is made: try again."""
    folders = InterferingFolders()
    tree = CgroupTree(root=tmp_path / "root", folders=folders)
    tree.prepare()
    folders.before_make["job2"] = [lambda: folders.remove(tree.jobs / "client1")] * 3
    assert tree.create("client1", "job2", ()).path.exists()
    assert folders.before_make["job2"] == []


def test_making_again_is_bounded(tmp_path: Path) -> None:
    """If the client's folder always vanishes, create gives up with an error that says so."""
    folders = InterferingFolders()
    tree = CgroupTree(root=tmp_path / "root", folders=folders)
    tree.prepare()
    folders.before_make["job2"] = [lambda: folders.remove(tree.jobs / "client1")] * 10_000
    with pytest.raises(CgroupError, match="removed 100 times"):
        tree.create("client1", "job2", ())


def test_the_client_folder_goes_with_its_last_job(plain_tree: CgroupTree) -> None:
    """Removing one of two jobs keeps the client's folder, removing the other takes it away."""
    first, second = (plain_tree.create("client1", name, ()) for name in ("job1", "job2"))
    assert first.remove()
    assert second.path.exists()
    assert second.remove()
    assert not second.path.parent.exists()


def test_removing_twice_is_fine(plain_tree: CgroupTree) -> None:
    """A cgroup that is gone already counts as removed."""
    job = plain_tree.create("client1", "job1", ())
    assert job.remove()
    assert job.remove()


def test_sub_cgroups_are_removed_first(plain_tree: CgroupTree) -> None:
    """A job that ran as root may have made cgroups in its own, at any depth."""
    job = plain_tree.create("client1", "job1", ())
    folder = job.path
    for depth in range(50):
        folder = folder / f"sub{depth}"
        plain_tree.folders.make(folder)
    assert job.remove()
    assert not job.path.exists()


def test_a_cgroup_in_use_is_not_removed(plain_tree: CgroupTree) -> None:
    """One try answers False while a process lives in a sub-cgroup, and the job's own folder stays."""
    job = plain_tree.create("client1", "job1", ())
    plain_tree.folders.make(job.path / "sub")
    (job.path / "sub" / "cgroup.procs").write_text("1\n")
    assert not job.remove()
    assert job.path.exists()
    (job.path / "sub" / "cgroup.procs").write_text("")
    assert job.remove()


def test_a_gone_cgroup_is_an_answer_everywhere(plain_tree: CgroupTree) -> None:
    """After removal every question has an answer and no error."""
    job = plain_tree.create("client1", "job1", ())
    job.remove()
    job.kill()
    assert not job.populated()
    assert job.processes() == []
    assert job.signal(0) == 0
    answers = (job.memory_events(), job.cpu_statistics(), job.io_statistics(), job.memory_current())
    assert (*answers, job.memory_peak(), job.pids_current(), job.pressure(Controller.CPU)) == (None,) * 7


def test_statistics_are_read_from_their_files(plain_tree: CgroupTree) -> None:
    """Each statistic comes from the file of its name."""
    job = plain_tree.create("client1", "job1", ())
    files = {
        "cgroup.events": "populated 1\nfrozen 0\n",
        "memory.events": "oom_kill 2\n",
        "io.stat": "8:0 rbytes=5\n",
        "memory.current": "10\n",
        "memory.peak": "20\n",
        "pids.current": "3\n",
        "io.pressure": "some avg10=1.00 avg60=0.00 avg300=0.00 total=9\n",
    }
    for name, text in files.items():
        (job.path / name).write_text(text)
    assert job.populated()
    assert job.memory_events() == MemoryEvents(oom_kill=2)
    assert job.cpu_statistics() == CpuStatistics(usage_usec=30, user_usec=20, system_usec=10)
    assert job.io_statistics() == {"8:0": IoStatistics(rbytes=5)}
    assert (job.memory_current(), job.memory_peak(), job.pids_current()) == (10, 20, 3)
    assert job.pressure(Controller.IO) == Pressure(some=PressureShare(avg10=1.0, total_usec=9))


def test_a_host_without_controllers_has_no_statistics_of_them(tmp_path: Path) -> None:
    """Where the memory controller is not enabled there are no events to decide by, which is not "no kill"."""
    job = fake_tree(tmp_path / "root").create("client1", "job1", ())
    assert job.memory_events() is None
    assert job.memory_peak() is None


def test_kill_writes_one_to_the_kill_file(plain_tree: CgroupTree) -> None:
    """One write kills a job, and one kills all of them."""
    job = plain_tree.create("client1", "job1", ())
    job.kill()
    assert (job.path / "cgroup.kill").read_text() == "1"
    plain_tree.kill_all()
    assert plain_tree.kill_all_path.read_text() == "1"


def test_preparing_twice_is_fine(plain_tree: CgroupTree) -> None:
    """A server that starts again finds its folders and keeps what is in them."""
    job = plain_tree.create("client1", "job1", ())
    plain_tree.prepare()
    assert job.path.exists()


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The error of a root without a parent names the folder."""
    with pytest.raises(CgroupError, match=r"missing: root: No such file"):
        CgroupTree(root=tmp_path / "missing" / "root").prepare()


def test_what_is_made_anew_has_its_controllers_again(plain_tree: CgroupTree) -> None:
    """Folders that were removed meanwhile come back with the controllers enabled in them, so that limits hold."""
    plain_tree.dispose()
    plain_tree.prepare()
    for folder in (plain_tree.root, plain_tree.jobs):
        assert (folder / "cgroup.subtree_control").read_text().startswith("+")


def test_a_sweep_removes_leftovers_and_names_what_is_in_use(plain_tree: CgroupTree) -> None:
    """Empty jobs of an earlier server go, folders and all; those in use are returned, without their parents."""
    for client, name in (("client1", "job1"), ("client1", "job2"), ("client2", "job3")):
        plain_tree.create(client, name, ())
    busy = plain_tree.jobs / "client1" / "job2"
    (busy / "cgroup.procs").write_text("1\n")
    assert plain_tree.sweep() == (busy,)
    assert plain_tree.kill_all_path.read_text() == "1"
    assert sorted(entry.name for entry in plain_tree.jobs.iterdir() if entry.is_dir()) == ["client1"]
    (busy / "cgroup.procs").write_text("")
    assert plain_tree.sweep() == ()
    assert plain_tree.jobs.exists()


def test_a_sweep_before_the_first_start_finds_nothing(tmp_path: Path) -> None:
    """There need be no folder at all."""
    assert CgroupTree(root=tmp_path / "root").sweep() == ()


def test_a_sweep_does_not_follow_links(tmp_path: Path) -> None:
    """A link out of the tree leads nowhere: what it points to stays."""
    (tmp_path / "outside" / "precious").mkdir(parents=True)
    tree = CgroupTree(root=tmp_path / "root")
    tree.prepare()
    (tree.jobs / "link").symlink_to(tmp_path / "outside")
    assert tree.sweep() == ()
    assert (tmp_path / "outside" / "precious").exists()


def test_a_folder_that_refuses_removal_is_an_error(plain_tree: CgroupTree) -> None:
    """Only "in use" and "gone" are answers; anything else is the operator's to know."""
    job = plain_tree.create("client1", "job1", ())
    refusing = replace(job, folders=_RefusingFolders())
    with pytest.raises(CgroupError, match="job1: Operation not permitted"):
        refusing.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class _RefusingFolders(FakeFolders):
    refused: str | None = None
    """The name of the folder; None: any."""

    def remove(self, folder: Path) -> None:
        if self.refused in (None, folder.name):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(folder))
        FakeFolders.remove(self, folder)


def test_disposing_removes_an_empty_tree(plain_tree: CgroupTree) -> None:
    """The root goes with its jobs folder when nothing else is in it, and may be gone already."""
    plain_tree.prepare()
    plain_tree.dispose()
    assert not plain_tree.root.exists()
    plain_tree.dispose()


def test_disposing_leaves_a_root_that_another_user_made(plain_tree: CgroupTree) -> None:
    """One that is delegated cannot be removed by who has it; what was made in it goes, or that is an error."""
    plain_tree.prepare()
    replace(plain_tree, folders=_RefusingFolders(refused=plain_tree.root.name)).dispose()
    assert plain_tree.root.exists()
    assert not plain_tree.jobs.exists()
    plain_tree.prepare()
    with pytest.raises(CgroupError, match="jobs: Operation not permitted"):
        replace(plain_tree, folders=_RefusingFolders(refused=plain_tree.jobs.name)).dispose()


def test_disposing_spares_what_is_in_use(plain_tree: CgroupTree) -> None:
    """A root that holds something else, as a delegated one does, stays."""
    plain_tree.prepare()
    (plain_tree.root / "supervisor").mkdir()
    plain_tree.dispose()
    assert [path.name for path in plain_tree.root.iterdir() if path.is_dir()] == ["supervisor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoringFolders:
    """Folders in which a file takes what is written, and has none of it."""

    plain: FakeFolders
    file: str

    def make(self, folder: Path) -> None:
        """Make the folder; the file is one that keeps nothing."""
        self.plain.make(folder)
        (folder / self.file).unlink()
        os.mknod(folder / self.file, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # as /dev/null

    def remove(self, folder: Path) -> None:
        """Remove the folder."""
        self.plain.remove(folder)


def test_a_limit_that_the_kernel_ignores_is_an_error_and_leaves_nothing(plain_tree: CgroupTree) -> None:
    """What was written is read back: where it reads otherwise, the limit is named and the folders are gone again."""
    tree = replace(
        plain_tree, folders=IgnoringFolders(plain=FakeFolders(controllers=plain_tree.controllers), file="pids.max")
    )
    write = LimitWrite(controller=Controller.PIDS, file="pids.max", text="7")
    with pytest.raises(LimitIgnored, match=r"pids\.max \(writing '7'\): reads ''") as caught:
        tree.create("client1", "job1", (write,))
    assert (caught.value.controller, caught.value.limit) == (Controller.PIDS, "pids.max 7")
    assert not (tree.jobs / "client1" / "job1").exists()


IO_MAX: Final = "8:0 rbps=max wbps=9000000 riops=max wiops=max\n"
NO_IO_MAX: Final = "8:0 rbps=max wbps=max riops=max wiops=max"


def test_io_limits_are_lifted_before_a_removal(plain_tree: CgroupTree) -> None:
    """A cgroup that is still in use has no io limits any more when its removal was tried; the client's own are left."""
    job = plain_tree.create("client1", "job1", ())
    for folder in (job.path, job.path.parent):
        (folder / "io.max").write_text(IO_MAX)
    (job.procs_path).write_text("1\n")
    assert not job.remove(limits_disks=False)
    assert (job.path / "io.max").read_text() == NO_IO_MAX  # it was in use, and so looked at more closely
    (job.path / "io.max").write_text(IO_MAX)
    assert not job.remove()
    assert (job.path / "io.max").read_text() == NO_IO_MAX
    assert (job.path.parent / "io.max").read_text() == IO_MAX
    job.procs_path.write_text("")
    assert job.remove()


def test_a_sweep_lifts_io_limits(plain_tree: CgroupTree) -> None:
    """What an earlier server has left, and cannot be removed, is throttled no more."""
    job = plain_tree.create("client1", "job1", ())
    (job.path / "io.max").write_text(IO_MAX)
    job.procs_path.write_text("1\n")
    assert plain_tree.sweep() == (job.path,)
    assert (job.path / "io.max").read_text() == NO_IO_MAX


def test_lifting_all_that_holds_processes_up(plain_tree: CgroupTree, tmp_path: Path) -> None:
    """CPU and disks are free; a host without these files has nothing to lift."""
    job = plain_tree.create("client1", "job1", ())
    assert not job.limits_disks()
    (job.path / "io.max").write_text(IO_MAX)
    (job.path / "cpu.max").write_text("1000 100000\n")
    assert job.limits_disks()
    job.lift_limits()
    assert [(job.path / file).read_text() for file in ("cpu.max", "io.max")] == ["max", NO_IO_MAX]
    bare = fake_tree(tmp_path / "bare").create("client1", "job1", ())
    bare.lift_limits()
    assert not bare.limits_disks()
