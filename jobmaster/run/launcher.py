"""The server's side of the launcher, on Trio.

A child is asked for with `Launcher.start` and is *held* then: it is in its cgroup, has become the job's user, and waits
for the go byte, from the only descriptor that is this side's alone. What becomes of it is told by the launcher, in
messages that one task receives; death itself is told by the child's pidfd, which needs no launcher.

Sends never block: what the kernel does not take is queued, and a second task sends it.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from typing import Final, Protocol, assert_never, final

import trio

from jobmaster.errors import LauncherOutdated
from jobmaster.launcher import protocol
from jobmaster.launcher.packets import EndOfFile, Received, close_all, receive, send
from jobmaster.launcher.protocol import ProtocolError
from jobmaster.run.child import (
    Child,
    ChildAccount,
    ChildStatus,
    ExecFailed,
    ExecOutcome,
    Executed,
    Launch,
    LauncherLost,
    LaunchRefused,
    NeverExecuted,
    Order,
)
from jobmaster.run.inherited import Inherited, InheritedChild
from jobmaster.run.launcher_sockets import attached_launcher, inherited_launcher
from jobmaster.run.outbox import Outbox
from jobmaster.run.start_message import start_message

__all__ = [
    "Child",
    "ChildAccount",
    "ChildStatus",
    "ExecFailed",
    "ExecOutcome",
    "Executed",
    "Inherited",
    "InheritedChild",
    "Launch",
    "LaunchRefused",
    "Launcher",
    "LauncherLost",
    "NeverExecuted",
    "Order",
    "attached_launcher",
    "inherited_launcher",
    "use_launcher",
]

logger = logging.getLogger(__name__)

HELLO_SECONDS: Final = 30.0
"""How long the launcher may take to start and to answer, on a machine that is busy."""
FAREWELL_SECONDS: Final = 2.0
MAX_GAP_SECONDS: Final = 300
"""How long jobs may be without a server that is ready."""
JOBS_LOCK: Final = "jobs"
"""Names the lock of the jobs' folder."""
GRACE_SECONDS: Final = 10.0
"""Between SIGTERM and SIGKILL where the launcher ends them: what it takes where it is told nothing."""
MAX_CRASHES: Final = 5
"""How many deaths of servers that were ready, in five minutes, end the jobs."""
WITHDRAW_SECONDS: Final = 5.0
"""How long a start that was given up may take to end its child; then that is left to the launcher."""
_NONE: Final[Mapping[str, int]] = {}
_BATCH: Final = 64
"""Messages received before other tasks run again."""


class HasDescriptor(Protocol):
    """A socket, of Trio's or the standard library's."""

    def fileno(self) -> int:
        """Its descriptor."""


@final
class Launcher:
    """The launcher that `use_launcher` said hello to."""

    def __init__(self, sock: socket.socket) -> None:
        self.lost = trio.Event()
        """Set when the launcher is gone; every wait for a child has ended then."""
        self.inherited = Inherited()
        """What earlier servers have left; complete from the start."""
        self._socket = sock
        self._hands_over = False
        self._children: dict[str, Child] = {}
        self._released: dict[str, trio.Event] = {}
        self._closing: dict[str, trio.Event] = {}
        self._version = 1
        self._outbox = Outbox(sock)

    async def start(
        self,
        launch: Launch,
        *,
        cgroup: int,
        output_read: int,
        output_write: int,
        streams: Mapping[str, int] = _NONE,
        keeps: Mapping[str, int] = _NONE,
    ) -> Child:
        """Starts a child and returns it held. The caller keeps its descriptors; the child has its own.

        A caller that is cancelled leaves nothing: the child, if there is one by then, has ended before this returns.

        Args:
            launch: what to start.
            cgroup: the cgroup's folder, O_RDONLY or O_PATH.
            output_read: the output pipe; the launcher keeps a duplicate until the child is released.
            output_write: the output pipe; the child's stdout and stderr.
            streams: the child's ends of streams of its own, by the names of `protocol.STREAMS`.
            keeps: what the launcher keeps duplicates of for the next server, by name.

        Raises:
            LauncherOutdated: there are streams or keeps, of which the launcher does not know yet.
            LaunchRefused: by kernel or launcher; E2BIG for more strings than any kernel takes.
            LauncherLost: the launcher is gone.
        """
        if launch.id in self._children:
            raise ValueError(f"{launch.id} is in use")
        if self.lost.is_set():
            raise LauncherLost("the launcher has died")
        if (streams or keeps) and self._version < protocol.KEEPS_VERSION:
            raise LauncherOutdated(
                "the server's launcher is older than the server and cannot give a job a stdin or a terminal; "
                "it is replaced when the server hands over (SIGUSR2)"
            )
        borrowed: list[int] = []
        try:
            data = protocol.encode(start_message(launch, borrowed, streams=tuple(streams), keeps=tuple(keeps)))
            go_read, go_write = os.pipe2(os.O_CLOEXEC)
            child = Child(launch.id, go_write, lost=self.lost, forget=self._forget)
            own = (*streams.values(), *keeps.values())
            descriptors = (output_write, output_read, go_read, cgroup, *borrowed, *own)
            borrowed.append(go_read)
            self._children[launch.id] = child
            await self._deliver(data, descriptors, child)
        except OSError as error:
            raise LaunchRefused(error.errno or errno.EIO) from error
        finally:
            close_all(borrowed)
        return child

    async def _deliver(self, data: bytes, descriptors: tuple[int, ...], child: Child) -> None:
        """Sends a start and waits for the answer; without one that is wanted, nothing is left of it."""
        try:
            self._outbox.post(data, descriptors, of=child)
            await child._wait_answered()
        except BaseException:
            if not self._outbox.withdraw(child):
                with trio.CancelScope(shield=True, deadline=trio.current_time() + WITHDRAW_SECONDS):
                    await child._withdraw()
            child.release()
            raise

    def keep(self, *, kill_fd: int, locks: Mapping[str, int]) -> None:
        """Has the launcher hold duplicates of these, in place of what it held; the caller keeps its own.

        Args:
            kill_fd: cgroup.kill of the jobs' folder, O_WRONLY: everything in there is killed when the jobs are to end
                and no server does it.
            locks: descriptors by name; the next server gets them, and nobody else before the last job is gone.
        """
        self._say(protocol.Keep(locks=tuple(locks)), (kill_fd, *locks.values()))

    def say_ready(
        self,
        listeners: Sequence[tuple[str, HasDescriptor]] = (),
        *,
        max_gap: int = MAX_GAP_SECONDS,
        max_crashes: int = MAX_CRASHES,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """This server serves: from now on its children outlive it, unless the launcher is attached.

        Args:
            listeners: the listening sockets with their names; the launcher holds duplicates for the next server.
            max_gap: seconds without a server that is ready, after which the launcher ends the jobs.
            max_crashes: how many deaths of servers that were ready, in five minutes, have it end them.
            grace_seconds: between SIGTERM and SIGKILL, where it is to end them and no server does.
        """
        names = tuple(name for name, _ in listeners)
        message = protocol.Ready(
            listeners=names, max_gap=max_gap, max_crashes=max_crashes, grace=math.ceil(grace_seconds)
        )
        self._say(message, tuple(listener.fileno() for _, listener in listeners))

    def say_alive(self) -> None:
        """This server goes on."""
        self._say(protocol.Alive())

    def say_stopping(self) -> None:
        """This server accepts no more and ends its jobs: the launcher closes the listening sockets too."""
        self._say(protocol.Stopping())

    def order(self, child_id: str, order: Order) -> None:
        """Leaves an order for a child with the launcher, for the next server; to be called before its signal is sent.

        The first one is kept. Returns when it is sent or queued.
        """
        self._say(order.message(child_id))

    async def close_kept(self, child_id: str, *names: str) -> None:
        """Has the launcher close what it keeps of a child; returns when it has, or is lost."""
        if self.lost.is_set():
            return
        closed = self._closing.setdefault(child_id, trio.Event())
        self._outbox.post(protocol.encode(protocol.Close(id=child_id, keeps=names)))
        await closed.wait()

    async def hand_over(self) -> None:
        """Leaves the children to the next server: this one ends on purpose and says no farewell.

        Every child was left or released by then. Returns when the launcher has been told, after `FAREWELL_SECONDS` at
        most.
        """
        self._hands_over = True
        await self._say_last(protocol.HandOver())

    def _say(self, message: protocol.FromServer, descriptors: tuple[int, ...] = ()) -> None:
        if not self.lost.is_set():
            self._outbox.post(protocol.encode(message), descriptors)

    def _forget(self, child_id: str, is_recorded: bool) -> trio.Event:
        """Drops a child, and has the launcher forget one whose end is recorded: the event is set when it has."""
        del self._children[child_id]
        if self.lost.is_set() or not is_recorded:
            return _happened()
        self._released[child_id] = trio.Event()
        self._outbox.post(protocol.encode(protocol.Ack(id=child_id)))
        return self._released[child_id]

    async def _receive(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                self._receive_ready()
        except EndOfFile:
            self._lose("it has died")
        except ProtocolError as error:
            self._lose(f"it sent {error}")

    def _receive_ready(self) -> None:
        for _ in range(_BATCH):
            try:
                received = receive(self._socket)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # once, before messages that are there all the same
            self._on_message(received)

    def _on_message(self, received: Received) -> None:
        match received.message:
            case protocol.Started() | protocol.Refused() | protocol.Executed() | protocol.Exited() as message:
                child = self._children.get(message.id)
                if child is not None:
                    _tell(child, message, received.descriptors)
                    return  # else it was released meanwhile
            case protocol.Closed(id=child_id):
                if (closed := self._closing.pop(child_id, None)) is not None:
                    closed.set()
            case protocol.Forgotten(id=child_id):
                if (forgotten := self._released.pop(child_id, None)) is not None:
                    forgotten.set()
            case _:
                pass
        close_all(received.descriptors)

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            logger.error("the launcher is lost: %s", why)
        self._end()

    def _end(self) -> None:
        self.lost.set()
        self._outbox.close()
        for answered in (*self._released.values(), *self._closing.values()):
            answered.set()
        for child in self._children.values():
            child._on_lost()

    async def _greet(self) -> None:
        """Says hello and reads what earlier servers have left.

        Raises:
            LauncherLost: the launcher does not answer, or not so.
        """
        try:
            with trio.fail_after(HELLO_SECONDS):
                send(self._socket, protocol.encode(protocol.Hello()), ())
                answer = await self._next_received()
                close_all(answer.descriptors)
                if not isinstance(answer.message, protocol.Hello):
                    raise LauncherLost(
                        "the launcher does not speak this protocol; start the server with jobmaster.serve"
                    )
                self._version = answer.message.version
                while not self._inherit(await self._next_received()):
                    pass
        except (OSError, EndOfFile, ProtocolError, trio.TooSlowError) as error:
            raise LauncherLost("the launcher does not answer; see what it wrote to stderr") from error

    async def _next_received(self) -> Received:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            with suppress(BlockingIOError):
                return receive(self._socket)

    def _inherit(self, received: Received) -> bool:
        """Takes what an earlier server has left; whether that was all of it."""
        match received.message:
            case protocol.Table() as row:
                child = Child(row.id, lost=self.lost, forget=self._forget)
                self._children[row.id] = child
                self.inherited.add(row, received.descriptors, child)
            case protocol.Order() as order if order.id in self.inherited.children:
                self.inherited.children[order.id].order = Order.of(order)
            case protocol.TableEnd() as end:
                self.inherited.finish(end, received)
                return True
            case _:
                self._on_message(received)
        return False

    async def _say_last(self, message: protocol.HandOver | protocol.Farewell) -> None:
        with trio.move_on_after(FAREWELL_SECONDS):
            self._outbox.post(protocol.encode(message))
            await self._outbox.wait_empty()


def _tell(
    child: Child,
    message: protocol.Started | protocol.Refused | protocol.Executed | protocol.Exited,
    descriptors: tuple[int, ...],
) -> None:
    """Tells a child what the launcher has told of it."""
    match message:
        case protocol.Started():
            child._on_started(message, *descriptors[:1])
        case protocol.Refused():
            child._on_refused(message.errno)
        case protocol.Executed():
            child._on_executed()
        case protocol.Exited():
            child._on_exited(message)
        case unreachable:
            assert_never(unreachable)


def _happened() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


@asynccontextmanager
async def use_launcher(
    sock: socket.socket, *, kill_fd: int | None = None, lock_fd: int | None = None
) -> AsyncIterator[Launcher]:
    """The launcher at the other end of `sock`, for the block; closes the socket and what nobody took of `inherited`.

    After a block that ends by itself the launcher kills what was not released, and no more, unless the block has handed
    over. After one that ends by an exception, or with this process, it keeps everything for the next server if this one
    was ready, else it also kills all that is in the jobs' cgroup.

    Args:
        sock: from `inherited_launcher` or `attached_launcher`.
        kill_fd: as of `Launcher.keep`, where this server has it before it knows what it inherits.
        lock_fd: the lock of the jobs' folder, likewise.

    Raises:
        LauncherLost: it does not answer.
        HostError: what earlier servers have left cannot be taken over.
    """
    launcher = Launcher(sock)
    with sock, closing(launcher.inherited):
        await launcher._greet()
        if kill_fd is not None:
            launcher.keep(kill_fd=kill_fd, locks={} if lock_fd is None else {JOBS_LOCK: lock_fd})
        service = trio.CancelScope(shield=True)  # ends with the block, whose jobs need it to be told of their ends
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve_within, service, launcher)
                try:
                    yield launcher
                    if not launcher._hands_over:
                        await launcher._say_last(protocol.Farewell())
                finally:
                    service.cancel()
        finally:
            launcher._end()


async def _serve_within(scope: trio.CancelScope, launcher: Launcher) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher._receive)
            nursery.start_soon(launcher._outbox.run)
