"""What the jobs of a client may have together, on folders of plain files; on a real kernel see tests/kernel/test_totals.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobmaster.host.cgroup.limits import Controller, Limits
from jobmaster.host.cgroup.totals import ClientTotals, TotalHeld, memory_held

M = 2**20
ALL = Limits(cpu_max=1.5, memory_max=64 * M, pids_max=100)
WRITTEN = {"cpu.max": "150000 100000", "memory.max": str(64 * M), "pids.max": "100"}
NOTHING = {"cpu.max": "max 100000", "memory.max": "max", "pids.max": "max"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The cgroup of client1, without limits."""
    path = tmp_path / "client1"
    path.mkdir()
    for file, text in NOTHING.items():
        (path / file).write_text(f"{text}\n")
    hold(path, 0)
    return path


def hold(folder: Path, anon: int) -> None:
    """Has its processes hold so much, beside what the kernel can get back."""
    stat = f"anon {anon}\nfile 900000000\nkernel 5000\nshmem 0\nslab_reclaimable 5000\n"
    (folder / "memory.stat").write_text(stat)


def texts(folder: Path) -> dict[str, str]:
    """What the files of limits say."""
    return {file: (folder / file).read_text().strip() for file in NOTHING}


def totals(limits: Limits | None, controllers: tuple[Controller, ...] = tuple(Controller)) -> ClientTotals:
    """Those of client1."""
    found = ClientTotals(controllers)
    found.take_up({} if limits is None else {"client1": limits})
    return found


def test_written_and_taken_away(folder: Path) -> None:
    """Each limit is written; one that is taken back is lifted; a client that never had any is left as it is."""
    found = totals(ALL)
    found.write(folder)
    assert texts(folder) == WRITTEN
    found.take_up({"client1": Limits(pids_max=50)})
    found.write(folder)
    assert texts(folder) == NOTHING | {"pids.max": "50"}
    found.take_up({})
    found.write(folder)
    assert texts(folder) == NOTHING


def test_what_an_earlier_server_has_written(folder: Path) -> None:
    """It is lifted by a server that looks for it, and by no job that starts."""
    totals(ALL).write(folder)
    later = totals(None)
    later.write(folder)
    assert texts(folder) == WRITTEN
    later.write(folder, is_new_here=True)
    assert texts(folder) == NOTHING


def test_controllers_that_are_not_there(folder: Path) -> None:
    """Nothing is written for them."""
    totals(ALL, (Controller.PIDS,)).write(folder)
    assert texts(folder) == NOTHING | {"pids.max": "100"}


def test_memory_that_is_held(folder: Path) -> None:
    """A limit below it is not written, all others are; when less is held it is. Page cache is none of it."""
    hold(folder, 64 * M + 1)
    assert memory_held(folder) == 64 * M + 1
    found = totals(ALL)
    with pytest.raises(TotalHeld, match=r"memory\.max 64M is not written") as no:
        found.write(folder)
    assert no.value.client == "client1"
    assert texts(folder) == WRITTEN | {"memory.max": "max"}
    hold(folder, 64 * M)
    found.write(folder)
    assert texts(folder) == WRITTEN
    hold(folder, 90 * M)
    found.write(folder)  # it is in force already


def test_a_change_while_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts at the end of a write is in force then."""
    found = totals(ALL)
    changes = [Limits(pids_max=3), Limits(pids_max=2)]

    def change(folder: Path) -> int:
        if changes:
            found.take_up({"client1": changes.pop()})
        return 0

    monkeypatch.setattr("jobmaster.host.cgroup.totals.memory_held", change)
    found.write(folder)
    assert texts(folder) == NOTHING | {"pids.max": "2"}
    assert len(changes) == 1
