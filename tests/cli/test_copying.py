"""`backup` with a scripted server: the file is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.cli.copying import save_backup
from jobmaster.client import RpcFailedError
from jobmaster.errors import ConfigurationError, TransportError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, OK, Ends, Part, Quiet, Script

PIECES: Final[list[Part]] = [pb.BackupChunk(data=b"one"), pb.BackupChunk(data=b"two")]


async def test_a_whole_backup(tmp_path: Path) -> None:
    """The pieces are the file, which is for its owner alone; what had its name before is replaced."""
    file = tmp_path / "backup.db"
    file.write_bytes(b"an older one, which is longer")
    await save_backup(Script([[*PIECES, OK]]).jobs(), file)
    assert file.read_bytes() == b"onetwo"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


async def test_a_file_system_without_unnamed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the part has a name until the backup is whole or broken."""
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # which opens a folder for reading: EISDIR for writing
    file = tmp_path / "backup.db"
    await save_backup(Script([[*PIECES, OK]]).jobs(), file)
    assert file.read_bytes() == b"onetwo"
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RpcFailedError):
        await save_backup(Script([[*PIECES, Ends("PERMISSION_DENIED", "no")]]).jobs(), file)
    assert list(tmp_path.iterdir()) == [file]


async def test_nothing_is_left_of_a_program_that_is_killed(tmp_path: Path) -> None:
    """While a backup comes, there is no file that somebody would have to remove."""
    quiet = Quiet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(save_backup, Script([[*PIECES, quiet, OK]]).jobs(), tmp_path / "backup.db")
        await wait_all_tasks_blocked(0.05)
        assert list(tmp_path.iterdir()) == []
        quiet.until.set()
    assert (tmp_path / "backup.db").read_bytes() == b"onetwo"


@pytest.mark.parametrize("end", [LOST, Ends("UNAVAILABLE", "draining"), Ends("PERMISSION_DENIED", "no")], ids=str)
async def test_a_backup_that_breaks(tmp_path: Path, end: Part) -> None:
    """What is not whole is no file, and what had its name before stays."""
    file = tmp_path / "backup.db"
    file.write_bytes(b"older")
    with pytest.raises((TransportError, RpcFailedError)):
        await save_backup(Script([[*PIECES, end]]).jobs(), file)
    assert file.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [file]


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be written is told by its name, before the server is asked."""
    script = Script([])
    with pytest.raises(ConfigurationError, match=r"no/backup\.db: No such file"):
        await save_backup(script.jobs(), tmp_path / "no" / "backup.db")
    assert script.attempts == []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "FIFO"])
async def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """What is there and no regular file is not replaced, also by way of a link, and the server is not asked."""
    script = Script([])
    other, link = tmp_path / "other", tmp_path / "link"
    make(other)
    link.symlink_to(other)
    before = other.lstat()
    for name in (other, link):
        with pytest.raises(ConfigurationError, match=rf"{name.name}: it is there, and no regular file"):
            await save_backup(script.jobs(), name)
    assert other.lstat() == before
    assert sorted(tmp_path.iterdir()) == [link, other]


async def test_a_pipe() -> None:
    """Standard output that is a pipe has a name in procfs that leads nowhere; it is told as no file either."""
    read, write = os.pipe()
    with pytest.raises(ConfigurationError, match=rf"/fd/{write}: it is there, and no regular file"):
        await save_backup(Script([]).jobs(), Path(f"/proc/self/fd/{write}"))
    os.close(read)
    os.close(write)


async def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """A loop of links is told as any other file that cannot be written."""
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(ConfigurationError, match=r"link: it is there, and no regular file"):
        await save_backup(Script([]).jobs(), link)


async def test_a_link_to_a_file(tmp_path: Path) -> None:
    """The file is replaced, and the link stays."""
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "backup.db", tmp_path / "link"
    file.write_bytes(b"older")
    link.symlink_to(file)
    await save_backup(Script([[*PIECES, OK]]).jobs(), link)
    assert link.is_symlink()
    assert file.read_bytes() == b"onetwo"
