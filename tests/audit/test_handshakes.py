"""Refused connections: a few have entries, a flood is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from jobmaster.audit.entry import Caller, Entry, Handshake, RefusalsCounted
from jobmaster.audit.file import FileBounds
from jobmaster.audit.handshakes import ENTRIES_A_MINUTE, ENTRIES_OF_ADDRESS, MINUTE, MOST_NAMES, RefusedConnections
from jobmaster.audit.names import HANDSHAKES
from tests.audit.entries import entries_in
from tests.audit.opened import open_trail


@asynccontextmanager
async def refusing(folder: Path) -> AsyncIterator[RefusedConnections]:
    """The refusals of a server."""
    async with (
        open_trail(folder, HANDSHAKES, FileBounds(size=1 << 20, kept=2)) as trail,
        trio.open_nursery() as nursery,
    ):
        refusals = RefusedConnections(trail.put)
        nursery.start_soon(refusals.keep_counting)
        yield refusals
        refusals.finish()
        nursery.cancel_scope.cancel()


def refuse(refusals: RefusedConnections, host: str, why: str = "expired") -> None:
    """Refuses a connection."""
    refusals.refused(Caller(client=None, serial=None, fingerprint=None, peer=f"{host}:1"), host, why)


async def test_few_refusals_have_entries(tmp_path: Path) -> None:
    """Each with who and why."""
    async with refusing(tmp_path) as refusals:
        refuse(refusals, "192.0.2.1", "certificate: expired")
        refuse(refusals, "192.0.2.2", "no certificate")
    told = [(each["kind"], each.get("peer"), each.get("why")) for each in entries_in(tmp_path, HANDSHAKES)]
    assert told == [
        ("handshake", "192.0.2.1:1", "certificate: expired"),
        ("handshake", "192.0.2.2:1", "no certificate"),
        ("closed", None, None),
    ]


async def test_a_flood_is_counted(tmp_path: Path) -> None:
    """One address has few entries of its own and hides nobody else; all have no more than there may be; none is forgotten."""
    async with refusing(tmp_path) as refusals:
        for _ in range(1000):
            refuse(refusals, "192.0.2.1")
        refuse(refusals, "192.0.2.2")
        for number in range(100):
            refuse(refusals, f"198.51.100.{number}", f"reason {number}")
    found = entries_in(tmp_path, HANDSHAKES)
    own = [each["peer"] for each in found if each["kind"] == "handshake"]
    (counted,) = [each for each in found if each["kind"] == "counted"]
    assert own.count("192.0.2.1:1") == ENTRIES_OF_ADDRESS
    assert own.count("192.0.2.2:1") == 1
    assert len(own) == ENTRIES_A_MINUTE
    assert counted["count"] + len(own) == 1101
    for names in (counted["reasons"], counted["peers"]):
        assert sum(names.values()) == counted["count"]
        assert len(names) == MOST_NAMES + 1


async def test_each_minute_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    """The count of a minute is written when it is over, and the next one has entries again."""
    del autojump_clock
    put: list[Entry] = []
    refusals = RefusedConnections(put.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refusals.keep_counting)
        for _ in range(3):
            for _ in range(ENTRIES_OF_ADDRESS + 5):
                refuse(refusals, "192.0.2.1")
            await trio.sleep(MINUTE + 1)
        nursery.cancel_scope.cancel()
    assert [type(entry) for entry in put] == [*[Handshake] * ENTRIES_OF_ADDRESS, RefusalsCounted] * 3
