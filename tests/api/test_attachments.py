"""What Attach refuses, on a call that the test plays."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.api.attachments import MESSAGES_IN_A_ROW, attach
from jobmaster.api.followers import Followers
from jobmaster.errors import HandedOver, InputRefused, InvalidRequest
from jobmaster.grpc.server_call import ServerCall
from jobmaster.identity.policy import Identity, Role
from jobmaster.job.terminal import Window
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.index import GapReason
from jobmaster.output.reading import GapPiece
from jobmaster.run.registry import Registry
from jobmaster.run.stdin import Stdin, open_input_pipe, open_queue
from jobmaster.run.terminal import TerminalInput, open_terminal


class Call:
    """A call: the messages that come, and those that were sent.

    Attributes:
        takes_more: the client's flow-control window is open.
    """

    def __init__(self, messages: Sequence[pb.AttachRequest], *, takes_more: bool = True) -> None:
        self._messages = list(messages)
        self.receiver = SimpleNamespace(queued_messages=0)
        self.sent: list[pb.AttachResponse] = []
        self.takes_more = trio.Event()
        if takes_more:
            self.takes_more.set()

    async def receive_message(self, *, seconds: float = 10.0) -> pb.AttachRequest | None:
        """As `ServerCall.receive_message`."""
        del seconds
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._messages:
            await trio.lowlevel.checkpoint()
            return None
        return self._messages.pop(0)

    def ignore_requests(self) -> None:
        """As `ServerCall.ignore_requests`."""
        self._messages.clear()

    def window_apart(self) -> AbstractContextManager[None]:
        """As `ServerCall.window_apart`."""
        return nullcontext()

    def send_now(self, data: bytes) -> bool:
        """As `ServerCall.send_now`."""
        if self.takes_more.is_set():
            self.sent.append(pb.AttachResponse.FromString(data))
        return self.takes_more.is_set()

    async def send_message(self, message: pb.AttachResponse) -> None:
        """As `ServerCall.send_message`."""
        await self.takes_more.wait()
        self.sent.append(message)


class Output:
    """An output that consists of these pieces; by default, it ends when nothing more happens."""

    lost = 0

    def __init__(self, *pieces: GapPiece, wait_ended: Callable[[], Awaitable[None]] = wait_all_tasks_blocked) -> None:
        self._pieces = pieces
        self._wait_ended = wait_ended

    async def read(self, _selection: object) -> Any:
        """As `OutputLog.read`."""
        for piece in self._pieces:
            yield piece
        await self._wait_ended()


async def served(call: Call, stdin: Stdin | None, output: Output) -> None:
    """Serves a call to its end."""
    job = SimpleNamespace(stdin=stdin, output=output, wait_ended=trio.lowlevel.checkpoint)

    async def find(_caller: Identity, _job_id: str) -> Any:
        await trio.lowlevel.checkpoint()
        return job

    registry = cast(Registry, SimpleNamespace(find=find))
    await attach(cast(ServerCall, call), Identity(name="client1", role=Role.USER), registry, Followers())


async def attached(messages: Sequence[pb.AttachRequest], stdin: Stdin | None) -> Call:
    """Attaches to a job with this input, until all messages are taken and nothing more happens."""
    call = Call(messages)
    await served(call, stdin, Output())
    return call


def start(writer: str = "me", window: pb.WindowSize | None = None) -> pb.AttachRequest:
    """The first message."""
    return pb.AttachRequest(start=pb.AttachStart(job_id=pb.JobID(job_id="job"), writer=writer, window=window))


def size(rows: int, columns: int) -> pb.WindowSize:
    """The size of a terminal."""
    return pb.WindowSize(rows=rows, columns=columns)


def piece(offset: int, data: bytes, *, end: bool = False) -> pb.AttachRequest:
    """Input."""
    return pb.AttachRequest(input=pb.AttachInput(offset=offset, data=data, end=end))


@pytest.fixture
async def stdin() -> AsyncIterator[Stdin]:  # noqa: ASYNC124  # it needs Trio's loop
    """An input that nobody moves."""
    read_end, pipe = open_input_pipe()
    made = Stdin(open_queue(), pipe, close_kept=trio.lowlevel.checkpoint)
    yield made
    made.leave()
    os.close(read_end)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "start"),
        ([pb.AttachRequest()], "start"),
        ([piece(0, b"x")], "start"),
        ([start("x" * 65)], "start.writer"),
        ([start("", size(3, 4))], "start.window"),
        ([start("me", size(0, 4))], "window.rows"),
        ([start(), start()], "input"),
        ([start(), pb.AttachRequest()], "input"),
        ([start(), piece(1, b"x")], "offset"),
    ],
)
async def test_wrong_messages(stdin: Stdin, messages: list[pb.AttachRequest], field: str) -> None:
    """Each is refused with the field that is wrong, and nothing is taken."""
    with pytest.raises(InvalidRequest) as refused:
        await attached(messages, stdin)
    assert (refused.value.field, stdin.accepted) == (field, 0)


async def test_how_far_the_input_has_come(stdin: Stdin) -> None:
    """The first answer says where to begin; then what has come, and that it has ended."""
    await stdin.write(0, b"before")
    call = await attached([start(), piece(6, b"abc"), piece(9, b"", end=True), piece(9, b"more")], stdin)
    assert [(answer.input.offset, answer.input.status) for answer in call.sent] == [
        (6, pb.INPUTSTATUS_OPEN),
        (9, pb.INPUTSTATUS_OPEN),
        (9, pb.INPUTSTATUS_ENDED),
        (9, pb.INPUTSTATUS_ENDED),
    ]


TYPED: Final = [start(), *(piece(offset, b"x") for offset in range(20))]


@pytest.mark.parametrize("pieces", [[], [GapPiece(start=0, end=9, reason=GapReason.CAPPED)]], ids=["quiet", "flowing"])
async def test_a_client_that_takes_no_output(stdin: Stdin, pieces: list[GapPiece]) -> None:
    """Its input is accepted meanwhile, and when it takes more it is told of all that together."""
    call = Call(TYPED, takes_more=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served, call, stdin, Output(*pieces, wait_ended=trio.sleep_forever))
        await wait_all_tasks_blocked()
        assert (stdin.accepted, call.sent) == (20, [])
        call.takes_more.set()
        await wait_all_tasks_blocked()
        told = [answer.input.offset for answer in call.sent if answer.HasField("input")]
        assert (told[-1], len(told) <= 2, len(call.sent) - len(told)) == (20, True, len(pieces))
        nursery.cancel_scope.cancel()


async def test_very_many_messages(stdin: Stdin) -> None:
    """Other tasks run between them, though nothing has to be waited for."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while not stdin.accepted:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await attached([start(), *[piece(0, b"")] * 50 * MESSAGES_IN_A_ROW, piece(0, b"last")], stdin)
    assert turns >= 50


async def test_what_is_told_last(stdin: Stdin) -> None:
    """How far the input has come is told before the call ends with the output."""
    call = Call(TYPED, takes_more=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served, call, stdin, Output())
        await wait_all_tasks_blocked(0.01)
        call.takes_more.set()
    assert call.sent[-1].input.offset == 20


async def test_the_size_of_a_terminal() -> None:
    """It is what the start says, and then what comes; one that is none ends the call."""
    master, slave = open_terminal(Window())
    typed = TerminalInput(open_queue(), master)
    await attached([start(window=size(3, 4))], typed)
    assert tuple(os.get_terminal_size(slave)) == (4, 3)
    await attached([start(), pb.AttachRequest(window=size(5, 6)), pb.AttachRequest(window=size(7, 8))], typed)
    assert tuple(os.get_terminal_size(slave)) == (8, 7)
    with pytest.raises(InvalidRequest, match="65535"):
        await attached([start(), pb.AttachRequest(window=size(70_000, 8))], typed)
    with pytest.raises(InvalidRequest, match="Ctrl-D"):
        await attached([start(), piece(0, b"", end=True)], typed)
    assert tuple(os.get_terminal_size(slave)) == (8, 7)
    typed.leave()
    os.close(slave)


async def test_the_size_of_no_terminal(stdin: Stdin) -> None:
    """A job that has none is not given a size, by the start as little as later."""
    for messages in ([start(window=size(3, 4))], [start(), pb.AttachRequest(window=size(3, 4))]):
        with pytest.raises(InputRefused, match="no terminal"):
            await attached(messages, stdin)


async def test_no_stdin() -> None:
    """A job without one has no writer."""
    with pytest.raises(InputRefused, match="no stdin"):
        await attached([start()], None)
    assert (await attached([start(writer="")], None)).sent == []


async def test_input_that_nobody_takes() -> None:
    """What comes all the same is thrown away: it holds no flow-control window."""
    assert (await attached([start(writer=""), piece(0, b"x"), piece(1, b"y")], None))._messages == []


async def test_a_job_that_was_handed_over(stdin: Stdin) -> None:
    """Its writer is told to come again, and never that the job reads no more."""
    stdin.leave()
    with pytest.raises(HandedOver):
        await attached([start()], stdin)
