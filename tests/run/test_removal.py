"""Files are removed in a thread of their own; what can't be removed holds up nothing."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.run.removal import RETRY_SECONDS, TRIES, FileRemover
from tests.run.conftest import Machine
from tests.run.faults import Fault

CAPACITY: Final = 10


@pytest.fixture
async def remover(machine: Machine, nursery: trio.Nursery) -> AsyncIterator[FileRemover]:
    """One that runs."""
    running = FileRemover(CAPACITY)
    nursery.start_soon(running.run)
    yield running
    nursery.cancel_scope.cancel()


def files(folder: Path, count: int) -> list[Path]:
    """So many files."""
    made = [folder / f"{number}.log" for number in range(count)]
    for path in made:
        path.write_bytes(b"x")
    return made


async def test_files_are_removed(machine: Machine, remover: FileRemover, tmp_path: Path) -> None:
    """What is given to it is soon gone; what is gone already is no error."""
    for path in (*files(tmp_path, 3), tmp_path / "none"):
        remover.remove(path)
    await trio.sleep(1)
    assert list(tmp_path.iterdir()) == []
    remover.remove(*files(tmp_path, 1))
    await trio.sleep(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", ["unlink", "remover thread"])
async def test_what_fails_is_tried_again(machine: Machine, remover: FileRemover, tmp_path: Path, point: str) -> None:
    """A file that can't be removed now is tried again after a minute; the others, and later ones, are removed meanwhile."""
    machine.plan(Fault(point=point, call=1, number=errno.EROFS))
    first, second, later = files(tmp_path, 3)
    remover.remove(first)
    remover.remove(second)
    await trio.sleep(1)
    assert set(tmp_path.iterdir()) == {first, later}
    remover.remove(later)
    await trio.sleep(1)
    assert list(tmp_path.iterdir()) == [first]
    await trio.sleep(RETRY_SECONDS)
    assert list(tmp_path.iterdir()) == []


async def test_what_fails_for_good_is_named_and_left(
    machine: Machine, remover: FileRemover, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After TRIES tries a file is left, and an error names it for the operator."""
    machine.plan(Fault(point="unlink", call=1, times=10**9, number=errno.EROFS))
    (path,) = files(tmp_path, 1)
    remover.remove(path)
    await trio.sleep(2 * TRIES * RETRY_SECONDS)
    assert machine.host.faults.calls["unlink"] == TRIES
    assert f"{path} cannot be removed" in caplog.text
    assert caplog.records[-1].levelname == "ERROR"
    assert "it is left" in caplog.text


async def test_its_queue_is_bounded(machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the disk does not answer, no more than the capacity waits; the rest is named and left."""
    remover = FileRemover(CAPACITY)
    for path in files(tmp_path, CAPACITY + 1):
        remover.remove(path)
    assert f"{CAPACITY}.log is left" in caplog.text
    await remover.finish()
    assert [path.name for path in tmp_path.iterdir()] == [f"{CAPACITY}.log"]


async def test_the_last_try(machine: Machine, tmp_path: Path) -> None:
    """At the end what waits and what has failed is tried once more."""
    remover = FileRemover(CAPACITY)
    machine.plan(Fault(point="unlink", call=1, number=errno.EBUSY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(remover.run)
        for path in files(tmp_path, 2):
            remover.remove(path)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    late = tmp_path / "late.log"
    late.write_bytes(b"x")
    remover.remove(late)
    await remover.finish()
    assert list(tmp_path.iterdir()) == []
