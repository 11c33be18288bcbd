"""When jobs' folders are removed, and what becomes of those that cannot be."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing

from jobmaster.errors import ServerBusy
from jobmaster.host import work_folder
from jobmaster.host.account import own_account
from jobmaster.host.work_folder import NotInTime
from jobmaster.job.identifier import new_job_id
from jobmaster.run import work_folders
from jobmaster.run.bounds import FreeSpace
from jobmaster.run.work_folders import TRIES, WorkFolders
from tests.run.launching import DEADLINE

A, B, C = (new_job_id() for _ in range(3))
NAMES: Final = {A: "a", B: "b", C: "c"}


@dataclass(slots=True)
class Disk:
    """Notes what is to be removed, and fails as it is told to: by folder, once for each."""

    fails: dict[str, list[Exception]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    wanted: int = 0
    enough: trio.Event = field(default_factory=trio.Event)

    def remove(self, path: Path, *, goes_on: Callable[[], bool]) -> None:
        """As `work_folder.remove`; in a thread."""
        assert goes_on()
        name = NAMES[path.name]  # type: ignore[index]  # a JobId is a str
        self.asked.append(name)
        if len(self.asked) >= self.wanted:
            trio.from_thread.run_sync(self.enough.set, trio_token=self.token)
        if self.fails.get(name):
            raise self.fails[name].pop(0)

    token: trio.lowlevel.TrioToken = field(default_factory=trio.lowlevel.current_trio_token)


@pytest.fixture
async def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Such a disk."""
    disk = Disk()
    monkeypatch.setattr(work_folder, "remove", disk.remove)
    return disk


@asynccontextmanager
async def removing(folders: WorkFolders, disk: Disk, count: int) -> AsyncIterator[None]:
    """Removes for the block, and until the disk was asked so often."""
    disk.wanted = count
    async with trio.open_nursery() as nursery:
        nursery.start_soon(folders.keep_removing)
        yield
        with trio.fail_after(DEADLINE):
            await disk.enough.wait()
            while folders._waiting:  # the last one is still being seen to
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


async def test_a_large_one_lets_others_pass(tmp_path: Path, disk: Disk) -> None:
    """After each slice it comes behind those that wait."""
    folders = WorkFolders(tmp_path)
    disk.fails["a"] = [NotInTime(), NotInTime()]
    for job_id in (A, B, C):
        folders.remove(job_id)
    async with removing(folders, disk, 5):
        pass
    assert disk.asked == ["a", "b", "c", "a", "a"]


async def test_one_that_is_never_empty(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is given up after so many slices, and named."""
    monkeypatch.setattr(work_folders, "MOST_SLICES", 3)
    folders = WorkFolders(tmp_path)
    disk.fails["a"] = [NotInTime() for _ in range(3)]
    folders.remove(A)
    async with removing(folders, disk, 3):
        pass
    assert disk.asked == ["a"] * 3
    assert f"{tmp_path / A} is left to the next server" in caplog.text


async def test_one_that_cannot_be_removed(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again later, while others go on, and at last named as left."""
    monkeypatch.setattr(work_folders, "RETRY_SECONDS", 0.01)
    folders = WorkFolders(tmp_path)
    disk.fails["a"] = [OSError(errno.EBUSY, os.strerror(errno.EBUSY)) for _ in range(TRIES)]
    for job_id in (A, B):
        folders.remove(job_id)
    async with removing(folders, disk, TRIES + 1):
        pass
    assert disk.asked == ["a", "b", *["a"] * (TRIES - 1)]
    levels = [level for _, level, text in caplog.record_tuples if "cannot be removed" in text]
    assert levels == [logging.WARNING] * (TRIES - 1) + [logging.ERROR]


async def test_what_waits_at_the_end(tmp_path: Path, disk: Disk) -> None:
    """It is tried once more; what does not answer then keeps nobody."""
    folders = WorkFolders(tmp_path)
    for job_id in (A, B):
        folders.remove(job_id)
    with trio.fail_after(DEADLINE):
        await folders.finish()
    assert disk.asked == ["a", "b"]


async def test_what_earlier_servers_left(tmp_path: Path, disk: Disk) -> None:
    """Folders of jobs are removed by their names, but for those of jobs that are live; what has another name stays."""
    folders = WorkFolders(tmp_path)
    for name in (A, B, "lost+found"):
        (tmp_path / name).mkdir()
    await folders.find_left({B}.__contains__)
    await folders.finish()
    assert disk.asked == ["a"]


async def test_one_that_failed_is_not_forgotten(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again when its time has come, however often others come meanwhile."""
    monkeypatch.setattr(work_folders, "RETRY_SECONDS", 0.2)
    folders = WorkFolders(tmp_path)
    disk.fails["a"] = [OSError(errno.EBUSY, os.strerror(errno.EBUSY))]
    folders.remove(A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(folders.keep_removing)
        with trio.fail_after(DEADLINE):
            while disk.asked.count("a") < 2:
                folders.remove(B)
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_one_that_is_not_done_when_the_server_ends(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known at the end, also where the end comes in the pause after its slice."""
    monkeypatch.setattr(work_folders, "SLICE_SECONDS", 1000.0)  # so long is the pause
    folders = WorkFolders(tmp_path)
    disk.fails["a"] = [NotInTime()]
    folders.remove(A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(folders.keep_removing)
        with trio.fail_after(DEADLINE):
            while not folders._waiting or folders._waiting[0].slices == work_folders.MOST_SLICES:
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    await folders.finish()
    assert disk.asked == ["a", "a"]


async def test_a_disk_without_room(tmp_path: Path, disk: Disk) -> None:  # noqa: ASYNC124  # a fixture of it is
    """No folder is made where less than asked for is free, which is told; at the bound's value one is."""
    account = own_account()
    with pytest.raises(
        ServerBusy, match=r"the disk of the jobs' own folders has less than 8388608T free: try again when"
    ):
        WorkFolders(tmp_path, FreeSpace(size=2**63)).make(A, account)
    assert list(tmp_path.iterdir()) == []
    WorkFolders(tmp_path, FreeSpace(size=1)).make(A, account)
    assert (tmp_path / A).is_dir()


async def test_none_at_all(tmp_path: Path, disk: Disk) -> None:
    """Where jobs have no folders, nothing is made or removed."""
    folders = WorkFolders(None)
    folders.make(A, own_account())
    folders.unmake(A)
    folders.remove(A)
    await folders.find_left(lambda _job_id: False)
    await folders.finish()
    assert (folders.path_of(A), disk.asked, list(tmp_path.iterdir())) == (None, [], [])


async def test_a_folder_that_is_gone_is_left_to_the_next_server(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the folder of all cannot be read, that is told, and the server goes on."""
    await WorkFolders(tmp_path / "gone").find_left(lambda _job_id: False)
    assert "may be left" in caplog.text
