"""The idle client: `python -m tests.scale.idle PLAN` opens connections and keeps them, calling nothing.

It says `Opened` as a line of JSON when the last one is open. For each line on stdin it sends a PING on every
connection and says `Alive`; it ends with stdin, or when it has lived for the plan's time.

One thread and one epoll hold all connections. The handshakes under way are bounded as the server bounds them, so that
none waits long for its turn there.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from jobmaster.certs.contexts import client_context
from tests.scale.frames import ACK, GOAWAY, OPENING, PING, SETTINGS, answer_to, connection_frame, take_frames

NAMES: Final = ("client1", "client2", "client3", "superuser")
ADDRESSES: Final = tuple(f"127.0.0.{number}" for number in range(1, 9))
HANDSHAKES: Final = 32
"""Under way at a time; half of what the server takes at a time."""
CHECK_SECONDS: Final = 20.0
"""How long all connections may take to answer a PING."""
TURN_SECONDS: Final = 0.5
READ_SIZE: Final = 16 * 1024
_STDIN: Final = 0
_CHECK_PING: Final = connection_frame(PING, payload=b"alive?!?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the program is told to do: keep `count` connections for `seconds` at most."""

    port: int
    certificates: Path
    count: int
    seconds: float

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps({**dataclasses.asdict(self), "certificates": str(self.certificates)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From the command line."""
        fields = json.loads(text)
        return cls(**{**fields, "certificates": Path(fields["certificates"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How many connections the server took, how many it did not, and how long that was."""

    opened: int
    failed: int
    seconds: float
    first_failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """How many connections answered a PING just now, and what has been since the start."""

    alive: int
    lost: int
    pings_answered: int


class Stage(enum.Enum):
    """How far a connection is."""

    CONNECTING = enum.auto()
    HANDSHAKING = enum.auto()
    GREETING = enum.auto()
    OPEN = enum.auto()


@dataclass(slots=True)
class Connection:
    """One connection; `held` is the beginning of a frame."""

    tls: ssl.SSLSocket
    stage: Stage = Stage.CONNECTING
    held: bytearray = field(default_factory=bytearray)


class Herd:
    """All connections, and the epoll that watches them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._contexts = [client_context(plan.certificates, name) for name in NAMES]
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._started = self._opened = self._failed = self._lost = 0
        self._pings_answered = self._acks = 0
        self._first_failure = ""
        self._stdin_ready = False
        self._ends = time.monotonic() + plan.seconds

    def open_all(self) -> Opened:
        """Opens the connections; returns when each one is open or has failed."""
        begun = time.monotonic()
        while self._opened + self._failed < self._plan.count and time.monotonic() < self._ends:
            while self._under_way < HANDSHAKES and self._started < self._plan.count:
                self._start()
            self._turn()
        return Opened(
            opened=self._opened,
            failed=self._failed,
            seconds=time.monotonic() - begun,
            first_failure=self._first_failure,
        )

    def check(self) -> Alive:
        """Sends a PING on every connection and counts the answers."""
        self._acks = 0
        ends = time.monotonic() + CHECK_SECONDS
        for connection in tuple(self._connections.values()):
            self._guarded(connection, lambda one: _send(one, _CHECK_PING))
            if len(self._connections) > self._acks:
                self._turn(0)
        while self._acks < len(self._connections) and time.monotonic() < ends:
            self._turn()
        return Alive(alive=self._acks, lost=self._lost, pings_answered=self._pings_answered)

    def wait_for_word(self) -> bool:
        """Keeps the connections until there is a line on stdin (True), or it has ended or the time is over (False)."""
        self._epoll.register(_STDIN, select.EPOLLIN)
        try:
            while time.monotonic() < self._ends:
                self._turn()
                if self._stdin_ready:
                    self._stdin_ready = False
                    return bool(os.read(_STDIN, 1024))
            return False
        finally:
            self._epoll.unregister(_STDIN)

    @property
    def _under_way(self) -> int:
        return self._started - self._opened - self._failed

    def _start(self) -> None:
        context = self._contexts[self._started % len(NAMES)]
        tcp = socket.socket()
        tcp.setblocking(False)
        tcp.bind((ADDRESSES[self._started % len(ADDRESSES)], 0))
        self._started += 1
        error = tcp.connect_ex(("127.0.0.1", self._plan.port))
        if error not in (0, errno.EINPROGRESS):
            tcp.close()
            self._fail(os.strerror(error))
            return
        connection = Connection(_wrapped(tcp, context))
        self._connections[connection.tls.fileno()] = connection
        self._epoll.register(connection.tls.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _turn(self, timeout: float = TURN_SECONDS) -> None:
        for descriptor, _events in self._epoll.poll(timeout):
            if descriptor == _STDIN:
                self._stdin_ready = True
            elif (connection := self._connections.get(descriptor)) is not None:
                self._guarded(connection, self._advance)

    def _guarded(self, connection: Connection, act: Callable[[Connection], None]) -> None:
        try:
            act(connection)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:  # of which ssl.SSLError is one
            self._drop(connection, str(error))

    def _drop(self, connection: Connection, reason: str) -> None:
        self._epoll.unregister(connection.tls.fileno())
        del self._connections[connection.tls.fileno()]
        connection.tls.close()
        if connection.stage is Stage.OPEN:
            self._lost += 1
        else:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        self._failed += 1
        self._first_failure = self._first_failure or reason

    def _advance(self, connection: Connection) -> None:
        if connection.stage is Stage.CONNECTING:
            _finish_connect(connection)
            self._epoll.modify(connection.tls.fileno(), select.EPOLLIN)  # all it has to send fits the socket's buffer
        if connection.stage is Stage.HANDSHAKING:
            connection.tls.do_handshake()
            _send(connection, OPENING)
            connection.stage = Stage.GREETING
        while True:  # until there is nothing more to read: SSLWantReadError
            data = connection.tls.recv(READ_SIZE)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "closed by the server")
            connection.held += data
            self._take_frames(connection)

    def _take_frames(self, connection: Connection) -> None:
        for frame in take_frames(connection.held):
            if frame.type == GOAWAY:
                raise ConnectionResetError(errno.ECONNRESET, "the server said GOAWAY")
            if answer := answer_to(frame):
                _send(connection, answer)
            self._pings_answered += frame.type == PING and not frame.flags & ACK
            self._acks += frame.type == PING and frame.flags & ACK
            if frame.type == SETTINGS and connection.stage is Stage.GREETING:
                connection.stage = Stage.OPEN
                self._opened += 1


def _wrapped(tcp: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(tcp, server_hostname="localhost", do_handshake_on_connect=False)


def _finish_connect(connection: Connection) -> None:
    error = connection.tls.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    connection.stage = Stage.HANDSHAKING


def _send(connection: Connection, data: bytes) -> None:
    if connection.tls.send(data) != len(data):
        raise ConnectionAbortedError(errno.ECONNABORTED, "the server took only a part of a frame")


def main() -> None:
    """Does the plan of the command line."""
    herd = Herd(Plan.from_json(sys.argv[1]))
    _say(herd.open_all())
    while herd.wait_for_word():
        _say(herd.check())


def _say(what: Opened | Alive) -> None:
    print(json.dumps(dataclasses.asdict(what)), flush=True)


if __name__ == "__main__":
    main()
