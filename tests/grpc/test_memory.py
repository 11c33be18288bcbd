"""What is held for calls, counted over the server and for each caller."""

from __future__ import annotations

import tracemalloc
from contextlib import ExitStack
from typing import Any, cast

import pytest

from jobmaster.grpc.call import MessageReceiver
from jobmaster.grpc.framing import prefix_for
from jobmaster.grpc.memory import MAX_HELD, MAX_HELD_OF_CALLER, MAX_WIDE, MAX_WIDE_OF_CALLER, CallAccount, ServerLoad
from jobmaster.grpc.methods import Method
from jobmaster.grpc.purerpc_adapter import Cardinality
from jobmaster.grpc.server_call import ServerCall
from jobmaster.http2.events import DataReceived
from jobmaster.jobs.v1 import jobs_pb2 as pb


def test_one_caller_has_its_share() -> None:
    """A call that would exceed it changes nothing; another caller's are counted by themselves."""
    server = ServerLoad()
    first, second = CallAccount(server, server.of("a")), CallAccount(server, server.of("a"))
    other = CallAccount(server, server.of("b"))
    assert first.set(MAX_HELD_OF_CALLER - 1)
    assert not second.set(2)
    assert second.set(1)
    assert other.set(2)
    assert first.set(0)
    assert second.set(2)
    assert (server.held, server.of("a").held, server.of("b").held) == (4, 2, 2)


def test_all_callers_have_a_bound() -> None:
    """However many there are; what is held may always become less."""
    server = ServerLoad()
    full = MAX_HELD // MAX_HELD_OF_CALLER
    accounts = [CallAccount(server, server.of(number)) for number in range(full)]
    assert all(account.set(MAX_HELD_OF_CALLER) for account in accounts)
    late = CallAccount(server, server.of(full))
    assert not late.set(1)
    assert accounts[0].set(1)
    assert late.set(1)


def test_a_caller_is_forgotten() -> None:
    """When none of its connections and calls is left."""
    server = ServerLoad()
    account = CallAccount(server, server.of("a"))
    assert len(server._of) == 1
    del account
    assert len(server._of) == 0


def test_few_calls_have_a_wide_window() -> None:
    """So many of one caller, and of all; a grant that is released, once or twice, leaves its place to the next."""
    server = ServerLoad()

    def accounts(caller: int) -> list[CallAccount]:
        return [CallAccount(server, server.of(caller)) for _ in range(MAX_WIDE_OF_CALLER + 1)]

    first = accounts(0)
    grants = [account.widen() for account in first]
    assert [grant is not None for grant in grants] == [True] * MAX_WIDE_OF_CALLER + [False]
    for _ in range(2):
        assert grants[0] is not None
        grants[0].release()
    assert [first[-1].widen() is not None for _ in range(2)] == [True, False]
    others = [account for caller in range(1, MAX_WIDE) for account in accounts(caller)]
    assert sum(account.widen() is not None for account in others) == MAX_WIDE - MAX_WIDE_OF_CALLER


class Acknowledging:
    """A connection that takes back all window."""

    def acknowledge(self, *_: Any) -> None:
        """Nothing is counted here."""

    def set_window_apart(self, *_: Any) -> int:
        """As that of `Connection`."""
        return 1

    def take_window_back(self, *_: Any) -> None:
        """As that of `Connection`."""


def test_input_that_waits_makes_no_call_fail() -> None:
    """As many writers of one client's as have a job, each with a message in hand and a window full of the next ones.

    What they hold beyond that counts, and all of it again when there is no writer any more.
    """
    server = ServerLoad()
    caller = server.of("a")
    method = Method(
        handler=lambda: None,
        cardinality=Cardinality.STREAM_STREAM,
        request_type=pb.AttachRequest,
        check=lambda data: 2 * len(data),
    )
    piece = pb.AttachRequest(input=pb.AttachInput(data=bytes(64 * 1024 - 256))).SerializeToString()
    framed = prefix_for(len(piece)) + piece
    calls = [
        ServerCall(cast(Any, Acknowledging()), 1, method=method, timeout=None, account=CallAccount(server, caller))
        for _ in range(250)
    ]
    with ExitStack() as writers:
        for call in calls:
            grant = writers.enter_context(call.window_apart())
            for _ in range(1 if grant is None else 10):
                call.on_data(DataReceived(1, framed, len(framed), ended=False))
            call.take_request()
            call.on_data(DataReceived(1, framed, len(framed), ended=False))
            assert call.receiver.failure is None
        assert caller.held < MAX_HELD_OF_CALLER / 100
        calls[-1].on_data(DataReceived(1, prefix_for(1024 * 1024) + bytes(1024 * 1024), 1024 * 1024, ended=False))
        assert caller.held > 1_000_000
    assert caller.held > MAX_HELD_OF_CALLER / 2
    assert caller.held <= MAX_HELD_OF_CALLER


class Noting(Acknowledging):
    """One that notes how much."""

    def __init__(self) -> None:
        self.noted: list[tuple[int, int]] = []

    def acknowledge(self, *stream_and_length: Any) -> None:
        """As `Connection.acknowledge`."""
        self.noted.append(stream_and_length)


def test_window_comes_back_with_each_message() -> None:
    """That of a message when it is taken, and of what came behind it; of all others when they are dropped, to the connection."""
    connection = Noting()
    receiver = MessageReceiver(cast(Any, connection), 1)
    message = b"\0\0\0\0\4data"
    receiver.on_data(message[:6], 6)
    receiver.on_data(message[6:], 3)
    receiver.on_data(2 * message + message[:2], 20)
    assert connection.noted == [(1, 6)]
    assert receiver.take() == b"data"
    assert connection.noted[1:] == [(1, 3)]
    receiver.take()
    receiver.take()
    assert connection.noted[2:] == [(1, 20)]
    receiver.on_data(message[2:] + message, 16)
    receiver.drop()
    assert connection.noted[3:] == [(0, 16)]


@pytest.mark.parametrize("begins", [b"", b"\0\0\x10\0\0"])
def test_small_pieces_count_as_what_they_cost(begins: bytes) -> None:
    """Messages of two bytes, and one that comes in pieces of that size, count as the memory that they take."""
    receiver = MessageReceiver(cast(Any, Acknowledging()), 1)
    receiver.on_data(begins, len(begins))
    pieces = 9_000
    tracemalloc.start()
    try:
        for number in range(pieces):
            piece = b"%04d" % number
            receiver.on_data(piece[:2] if begins else b"\0\0\0\0\4" + piece, 0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken > 30 * pieces
    assert taken < 1.1 * receiver.held
