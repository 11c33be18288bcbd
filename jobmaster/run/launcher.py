"""The server's side of the launcher, on Trio.

A child is asked for with `Launcher.start` and is *held* then: it is in its cgroup, has become the job's user, and waits
for the go byte, from the only descriptor that is this side's alone. What becomes of it is told by the launcher, in
messages that one task receives; death itself is told by the child's pidfd, which needs no launcher.

Sends never block: what the kernel does not take is queued (one message for each caller of `start` and one `ack` for
each child), and a second task sends it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never, final

import trio

from jobmaster.errors import HostError
from jobmaster.launcher import protocol
from jobmaster.launcher.packets import EndOfFile, Received, close_all, receive, send
from jobmaster.launcher.protocol import ENVIRONMENT_VARIABLE, ProtocolError
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
)

__all__ = [
    "Child",
    "ChildAccount",
    "ChildStatus",
    "ExecFailed",
    "ExecOutcome",
    "Executed",
    "Launch",
    "LaunchRefused",
    "Launcher",
    "LauncherLost",
    "NeverExecuted",
    "attached_launcher",
    "inherited_launcher",
    "use_launcher",
]

logger = logging.getLogger(__name__)

HELLO_SECONDS: Final = 5.0
FAREWELL_SECONDS: Final = 2.0
WITHDRAW_SECONDS: Final = 5.0
"""How long a start that was given up may take to end its child; then that is left to the launcher."""
ATTACHED_END_SECONDS: Final = 15.0
"""More than the launcher's own bound on ending its children."""
_BATCH: Final = 64
"""Messages received before other tasks run again."""
_RETRY_SECONDS: Final = 0.05
_PROGRAM: Final = Path(protocol.__file__).parent
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True, eq=False)
class _Outgoing:
    """A message that waits to be sent; the start of `child` if that is given."""

    data: bytes
    descriptors: tuple[int, ...] = ()
    child: Child | None = None


@final
class Launcher:
    """The launcher that `use_launcher` said hello to."""

    def __init__(self, sock: socket.socket) -> None:
        self.lost = trio.Event()
        """Set when the launcher is gone; every wait for a child has ended then."""
        self._socket = sock
        self._children: dict[str, Child] = {}
        self._released: dict[str, trio.Event] = {}
        self._outgoing: deque[_Outgoing] = deque()
        self._has_outgoing = trio.Event()
        self._is_flushed = trio.Event()
        self._is_short_of_memory = False

    async def start(self, launch: Launch, *, cgroup: int, output_read: int, output_write: int) -> Child:
        """Starts a child and returns it held. The caller keeps its descriptors; the child has its own.

        A caller that is cancelled leaves nothing: the child, if there is one by then, has ended before this returns.

        Args:
            launch: what to start.
            cgroup: the cgroup's folder, O_RDONLY or O_PATH.
            output_read: the output pipe; the launcher keeps a duplicate until the child is released.
            output_write: the output pipe; the child's stdout and stderr.

        Raises:
            LaunchRefused: by kernel or launcher; E2BIG for more strings than any kernel takes.
            LauncherLost: the launcher is gone.
        """
        if launch.id in self._children:
            raise ValueError(f"{launch.id} is in use")
        if self.lost.is_set():
            raise LauncherLost("the launcher has died")
        borrowed: list[int] = []
        try:
            data = protocol.encode(_start_message(launch, borrowed))
            go_read, go_write = os.pipe2(os.O_CLOEXEC)
            child = Child(launch.id, go_write, lost=self.lost, forget=self._forget)
            descriptors = (output_write, output_read, go_read, cgroup, *borrowed)
            borrowed.append(go_read)
            self._children[launch.id] = child
            await self._deliver(_Outgoing(data, descriptors, child), child)
        except OSError as error:
            raise LaunchRefused(error.errno or errno.EIO) from error
        finally:
            close_all(borrowed)
        return child

    async def _deliver(self, outgoing: _Outgoing, child: Child) -> None:
        """Sends a start and waits for the answer; without one that is wanted, nothing is left of it."""
        try:
            self._post(outgoing)
            await child._wait_answered()
        except BaseException:
            if outgoing in self._outgoing:
                self._outgoing.remove(outgoing)
            else:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + WITHDRAW_SECONDS):
                    await child._withdraw()
            child.release()
            raise

    def _forget(self, child_id: str) -> trio.Event:
        """Has the launcher forget a child; the event is set when it has, or is lost."""
        del self._children[child_id]
        if self.lost.is_set():
            return self.lost
        self._released[child_id] = trio.Event()
        self._post(_Outgoing(protocol.encode(protocol.Ack(id=child_id))))
        return self._released[child_id]

    def _post(self, outgoing: _Outgoing) -> None:
        """Sends a message now, or leaves it to the sending task."""
        if self._outgoing or not self._try_to_send(outgoing):
            self._outgoing.append(outgoing)
            self._has_outgoing.set()

    def _try_to_send(self, outgoing: _Outgoing) -> bool:
        """Whether the message is done with: taken by the kernel, refused by it, or nobody is left to read it."""
        try:
            send(self._socket, outgoing.data, outgoing.descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return True  # the receiving task sees the end, after what came before it
        except OSError as error:
            if outgoing.child is None or isinstance(error, BlockingIOError):
                self._is_short_of_memory = not isinstance(error, BlockingIOError)
                return False
            outgoing.child._on_refused(error.errno or errno.EIO)
        return True

    async def _send_queued(self) -> None:
        while True:
            await self._has_outgoing.wait()
            while self._outgoing and self._try_to_send(self._outgoing[0]):
                self._outgoing.popleft()
            if self._outgoing:
                if self._is_short_of_memory:
                    await trio.sleep(_RETRY_SECONDS)
                await trio.lowlevel.wait_writable(self._socket)
                continue
            self._has_outgoing = trio.Event()
            self._is_flushed.set()

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
            case protocol.Hello() | protocol.Start() | protocol.Ack() | protocol.Farewell():
                close_all(received.descriptors)
                return
            case protocol.Forgotten(id=child_id):
                if (forgotten := self._released.pop(child_id, None)) is not None:
                    forgotten.set()
                return
            case message:
                child = self._children.get(message.id)
        if child is None:  # released meanwhile
            close_all(received.descriptors)
            return
        match message:
            case protocol.Started():
                child._on_started(message, *received.descriptors[:1])
            case protocol.Refused():
                child._on_refused(message.errno)
            case protocol.Executed():
                child._on_executed()
            case protocol.Exited():
                child._on_exited(message)
            case unreachable:
                assert_never(unreachable)

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            logger.error("the launcher is lost: %s", why)
        self._end()

    def _end(self) -> None:
        self.lost.set()
        self._outgoing.clear()
        self._is_flushed.set()
        for forgotten in self._released.values():
            forgotten.set()
        for child in self._children.values():
            child._on_lost()

    async def _greet(self, kill_fd: int, lock_fd: int) -> None:
        try:
            with trio.fail_after(HELLO_SECONDS):
                send(self._socket, protocol.encode(protocol.Hello()), (kill_fd, lock_fd))
                await trio.lowlevel.wait_readable(self._socket)
                answer = receive(self._socket)
        except (OSError, EndOfFile, ProtocolError, trio.TooSlowError) as error:
            raise LauncherLost("the launcher does not answer; see what it wrote to stderr") from error
        close_all(answer.descriptors)
        if not isinstance(answer.message, protocol.Hello):
            raise LauncherLost("the launcher does not speak this protocol; start the server with jobmaster.serve")

    async def _say_farewell(self) -> None:
        with trio.move_on_after(FAREWELL_SECONDS):
            self._post(_Outgoing(protocol.encode(protocol.Farewell())))
            while self._outgoing:
                self._is_flushed = trio.Event()
                await self._is_flushed.wait()


def _start_message(launch: Launch, descriptors: list[int]) -> protocol.Start:
    """The message; long strings go into a memfd, which is appended to `descriptors`."""
    strings = protocol.pack_strings(launch.working_folder, launch.argv, launch.environment)
    if len(strings) > protocol.MAX_STRINGS_BYTES:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    if len(strings) > protocol.INLINE_BYTES:
        descriptors.append(_sealed(strings))
        strings = b""
    account = launch.account
    return protocol.Start(
        id=launch.id,
        uid=None if account is None else account.uid,
        gid=None if account is None else account.gid,
        groups=() if account is None else account.groups,
        keeps_capabilities=account is not None and account.keeps_capabilities,
        umask=launch.umask,
        open_files=launch.open_files,
        nice=launch.nice,
        oom_score_adj=launch.oom_score_adj,
        argument_count=len(launch.argv),
        strings=strings,
    )


def _sealed(data: bytes) -> int:
    """A memfd with this content that nobody can change."""
    fd = os.memfd_create("jobmaster-start", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


@asynccontextmanager
async def use_launcher(sock: socket.socket, *, kill_fd: int, lock_fd: int) -> AsyncIterator[Launcher]:
    """The launcher at the other end of `sock`, for the block; closes the socket.

    After a block that ends by itself the launcher kills what was not released, and no more. After one that ends by an
    exception it also kills all that is in the cgroup of `kill_fd`.

    Args:
        sock: from `inherited_launcher` or `attached_launcher`.
        kill_fd: cgroup.kill of the jobs' folder, O_WRONLY.
        lock_fd: holds the lock of that folder; the launcher's duplicate holds it until the last job is gone.

    Raises:
        LauncherLost: it does not answer.
    """
    launcher = Launcher(sock)
    with sock:
        await launcher._greet(kill_fd, lock_fd)
        service = trio.CancelScope(shield=True)  # ends with the block, whose jobs need it to be told of their ends
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve_within, service, launcher)
                try:
                    yield launcher
                    await launcher._say_farewell()
                finally:
                    service.cancel()
        finally:
            launcher._end()


async def _serve_within(scope: trio.CancelScope, launcher: Launcher) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher._receive)
            nursery.start_soon(launcher._send_queued)


def inherited_launcher() -> socket.socket | None:
    """The socket to the launcher that started this process; None for a process that has none. Ask once.

    Raises:
        HostError: the environment names a descriptor that is no such socket.
    """
    number = os.environ.pop(ENVIRONMENT_VARIABLE, None)
    if number is None:
        return None
    try:
        sock = socket.socket(fileno=int(number))
        sock.set_inheritable(False)
    except (OSError, ValueError) as error:
        raise HostError(f"{ENVIRONMENT_VARIABLE}={number} names no socket; unset it") from error
    return sock


@asynccontextmanager
async def attached_launcher() -> AsyncIterator[socket.socket]:
    """A launcher of this process's own, for the block: the socket for `use_launcher`.

    At the end it has killed and reaped its children.
    """
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own:
        with other:
            command = [sys.executable, "-I", "-S", str(_PROGRAM), "--attached", str(other.fileno())]
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, pass_fds=(other.fileno(),), start_new_session=True
            )
        try:
            yield own
        finally:
            own.close()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + ATTACHED_END_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
