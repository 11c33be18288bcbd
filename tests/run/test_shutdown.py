"""What the jobs of a server that ends are told."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from jobmaster.run.shutdown import Shutdown


@pytest.mark.parametrize("may_hand_over", [True, False])
async def test_a_cancelled_server_hands_over_where_it_may(may_hand_over: bool) -> None:
    """Who is cancelled with the whole server learns it one round later, and takes no more jobs."""
    shutdown = Shutdown(may_hand_over=lambda: may_hand_over)
    learned = []

    async def learn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            await trio.lowlevel.cancel_shielded_checkpoint()
            learned.append((shutdown.has_begun, shutdown.hands_over()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(learn)
        nursery.start_soon(shutdown.notice_cancellation)
        await trio.testing.wait_all_tasks_blocked()
        assert (shutdown.has_begun, shutdown.hands_over()) == (False, False)
        nursery.cancel_scope.cancel()
    assert learned == [(True, may_hand_over)]


def test_a_drain_hands_nothing_over() -> None:
    """Where the jobs are to end with the server, a cancellation that follows leaves none."""
    shutdown = Shutdown(may_hand_over=lambda: True)
    shutdown.begin_drain()
    assert shutdown.has_begun
    shutdown.hand_over()
    assert not shutdown.hands_over()


def test_a_hand_over_lets_starts_come_to_their_end() -> None:
    """At first no more are taken; then who is cancelled hands over."""
    shutdown = Shutdown(may_hand_over=lambda: True)
    shutdown.begin_hand_over()
    assert (shutdown.has_begun, shutdown.hands_over()) == (True, False)
    shutdown.hand_over()
    assert (shutdown.has_begun, shutdown.hands_over()) == (True, True)
