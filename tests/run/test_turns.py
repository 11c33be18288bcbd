"""Turns at what all clients share."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import ServerBusy
from jobmaster.run.turns import WAIT_SECONDS, Turns


async def test_a_client_waits_for_itself_alone() -> None:
    """Of one client's calls, so many have a turn; another's comes at once; who leaves the queue takes none."""
    turns = Turns(2)
    let_go = trio.Event()
    begun: list[str] = []

    async def take(client: str, name: str) -> None:
        async with turns.of(client):
            begun.append(name)
            await let_go.wait()

    async with trio.open_nursery() as nursery:
        for name in ("a1", "a2"):
            nursery.start_soon(take, "a", name)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as leaving:
            leaving.start_soon(take, "a", "a3")
            await wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        nursery.start_soon(take, "a", "a4")
        nursery.start_soon(take, "b", "b1")
        await wait_all_tasks_blocked()
        assert sorted(begun) == ["a1", "a2", "b1"]
        let_go.set()
    assert sorted(begun) == ["a1", "a2", "a4", "b1"]


async def test_the_wait_is_bounded(autojump_clock: MockClock) -> None:
    """A call whose turn does not come in time is told that its client asks too much, and leaves the queue."""
    turns = Turns(1)

    async def hold() -> None:
        async with turns.of("a"):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        with pytest.raises(ServerBusy, match=r"a has more calls under way than are answered in 10 s"):
            async with turns.of("a"):
                pass
        assert trio.current_time() - began == WAIT_SECONDS
        nursery.cancel_scope.cancel()
    assert turns.clients == set()


async def test_nothing_is_kept_of_a_client_without_calls() -> None:
    """When nobody has a turn or waits for one, nothing is left."""
    turns = Turns()
    async with turns.of("a"), turns.of("b"):
        assert turns.clients == {"a", "b"}
    assert turns.clients == set()
