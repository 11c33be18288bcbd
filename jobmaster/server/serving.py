"""A server from the moment at which it can accept connections to the end of the last one.

The nesting in `Serving.serve` is the inner part of the order of the shutdown: accepting ends; the jobs end, with
grace, or are left to the next server; the followers have their last bytes, and the connections end.
"""

from __future__ import annotations

import enum
import logging
import math
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import trio

from jobmaster.api.services import Api
from jobmaster.launcher.watchdog import ALIVE_VARIABLE
from jobmaster.run.registry import Registry
from jobmaster.server.listener import Listener
from jobmaster.server.log import say
from jobmaster.server.options import ServerOptions
from jobmaster.server.signals import UPGRADE_SIGNAL
from jobmaster.server.succession import HeldLauncher, listeners_to_keep

logger = logging.getLogger(__name__)

FOLLOWER_SECONDS: Final = 10.0
"""How long, at the server's end, followers may take for the bytes they have not received yet."""
LAST_WORD_SECONDS: Final = 2.0
"""How long a connection may take for the status of calls that were given up."""
HAND_OVER_SECONDS: Final = 0.5
"""The same where another server is to follow: nobody is served before it has begun, and of two clients the one that does not
read would keep the other waiting. It is time for a peer half a second away; one that is cut off connects again all the same."""


class Ending(enum.Enum):
    """How the server ends."""

    STOP = enum.auto()
    """With its jobs."""
    HAND_OVER = enum.auto()
    """Without them: the next server goes on."""
    LAUNCHER_LOST = enum.auto()
    """With them, and with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Everything that serves clients.

    Attributes:
        held: the launcher, which is told when the server is ready and when it stops.
        signals: END_SIGNALS and UPGRADE_SIGNAL, as they come.
        listeners: of the address that the options name; not accepted from yet. None for a server that follows another and is
            to end its jobs: the address may be another program's by now.
        listener: makes connections of what comes there.
    """

    options: ServerOptions
    held: HeldLauncher
    signals: AsyncIterator[int]
    registry: Registry
    api: Api
    listeners: list[trio.SocketListener]
    listener: Listener

    async def serve(self, task_status: trio.TaskStatus[int], *, is_wanted: bool) -> Ending:
        """Serves until a signal or the loss of the launcher ends it; returns when no job and no connection is left.

        Args:
            task_status: told the port when the server is ready.
            is_wanted: false where a signal came before: it ends before it is ready.
        """
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                if self.listeners:
                    await accepting.start(self.listener.serve, self.listeners, connections)
                ending = Ending.STOP
                if is_wanted:
                    self._say_ready(task_status)
                    accepting.start_soon(self._say_alive)
                    ending = await self._wait_for_end()
                accepting.cancel_scope.cancel()
            await self._end_jobs(ending)
            await self._end_connections(ending)
            connections.cancel_scope.cancel()
        return ending

    def _say_ready(self, task_status: trio.TaskStatus[int]) -> None:
        options = self.options
        port: int = self.listeners[0].socket.getsockname()[1]
        self.held.launcher.say_ready(
            listeners_to_keep(self.listeners, options.host, options.port),
            max_gap=options.max_gap_seconds,
            max_crashes=options.max_crashes,
            grace_seconds=options.grace_seconds,
        )
        say(f"ready on {_address(options.host, port)}")
        task_status.started(port)

    async def _say_alive(self) -> None:
        """Tells the launcher, where that asks for it: it ends a server that hangs."""
        seconds = alive_seconds(os.environ.get(ALIVE_VARIABLE, ""))
        while seconds is not None:
            self.held.launcher.say_alive()
            await trio.sleep(seconds)

    # --- what ends it -------------------------------------------------------------------------------------------------

    async def _wait_for_end(self) -> Ending:
        ending = Ending.LAUNCHER_LOST
        async with trio.open_nursery() as nursery:

            async def wait_for_signal() -> None:
                nonlocal ending
                ending = await self._next_ending()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for_signal)
            await self.held.launcher.lost.wait()
            nursery.cancel_scope.cancel()
        return ending

    async def _next_ending(self) -> Ending:
        async for number in self.signals:
            if number != UPGRADE_SIGNAL:
                return Ending.STOP
            if self.held.can_hand_over():
                return Ending.HAND_OVER
            logger.warning("this server cannot hand its jobs over: start it with `python -m jobmaster.serve`")
        raise AssertionError("signals end with their receiver")

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _end_jobs(self, ending: Ending) -> None:
        self.api.drain()
        if ending is Ending.HAND_OVER:
            await self.registry.hand_over()
        else:
            self.held.launcher.say_stopping()
            if ending is Ending.LAUNCHER_LOST:
                self.registry.hurry()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hurry_when_told_again)
                await self.registry.drain()
                nursery.cancel_scope.cancel()
        self.api.end_streams()

    async def _hurry_when_told_again(self) -> None:
        async for number in self.signals:
            if number != UPGRADE_SIGNAL:
                self.registry.hurry()

    async def _end_connections(self, ending: Ending) -> None:
        is_followed = ending is Ending.HAND_OVER
        self.listener.shut_down()
        with trio.move_on_after(0 if is_followed else FOLLOWER_SECONDS):
            await self.listener.wait_empty()
        self.listener.give_up_calls()
        with trio.move_on_after(HAND_OVER_SECONDS if is_followed else LAST_WORD_SECONDS):
            await self.listener.wait_empty()


def alive_seconds(text: str) -> float | None:
    """How often the launcher is to be told, by what it has written into the environment; None: never."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _address(host_name: str, port: int) -> str:
    return f"[{host_name}]:{port}" if ":" in host_name else f"{host_name}:{port}"
