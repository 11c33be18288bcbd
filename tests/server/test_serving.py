"""How long a server that ends waits for its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio

from jobmaster.server.serving import FOLLOWER_SECONDS, LAST_WORD_SECONDS, Ending, Serving, alive_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from jobmaster.api.services import Api
    from jobmaster.run.registry import Registry
    from jobmaster.server.listener import Listener
    from jobmaster.server.options import ServerOptions
    from jobmaster.server.succession import HeldLauncher


class UnreadConnection:
    """In the place of a listener, with one client that does not read, and so never ends its side."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def shut_down(self) -> None:
        """Notes it."""
        self.told.append("shut down")

    def give_up_calls(self) -> None:
        """Notes it."""
        self.told.append("given up")

    async def wait_empty(self) -> None:
        """Waits for ever."""
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("ending", "most"),
    [
        (Ending.HAND_OVER, 0.5),
        (Ending.STOP, FOLLOWER_SECONDS + LAST_WORD_SECONDS),
        (Ending.LAUNCHER_LOST, FOLLOWER_SECONDS + LAST_WORD_SECONDS),
    ],
)
async def test_a_client_that_does_not_read(autojump_clock: MockClock, ending: Ending, most: float) -> None:
    """It has time for what was sent last; less where others wait for the next server."""
    listener = UnreadConnection()
    serving = Serving(
        options=cast("ServerOptions", None),
        held=cast("HeldLauncher", None),
        signals=cast("AsyncIterator[int]", None),
        registry=cast("Registry", None),
        api=cast("Api", None),
        listeners=[],
        listener=cast("Listener", listener),
    )
    await serving._end_connections(ending)
    assert listener.told == ["shut down", "given up"]
    assert trio.current_time() == pytest.approx(most)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", None), ("10", 10.0), ("0.5", 0.5), ("0", None), ("-1", None), ("nan", None), ("inf", None), ("often", None)],
)
def test_how_often_a_server_is_to_speak(text: str, seconds: float | None) -> None:
    """As often as its launcher says; never where that says nothing that can be kept to."""
    assert alive_seconds(text) == seconds
