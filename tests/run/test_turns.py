"""Turns at what all clients share."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.run.turns import Turns


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


async def test_nothing_is_kept_of_a_client_without_calls() -> None:
    """When nobody has a turn or waits for one, nothing is left."""
    turns = Turns()
    async with turns.of("a"), turns.of("b"):
        assert turns.clients == {"a", "b"}
    assert turns.clients == set()
