"""What an attachment tells to whichever server there is: the size of a terminal, and input."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
import trio.testing

from jobmaster.client.attachment import Attachment
from jobmaster.client.unacknowledged import MOST_KEPT
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, OK, Call, Quiet, Script

OPEN = pb.AttachResponse(input=pb.InputState(status=pb.INPUTSTATUS_OPEN))


def size(rows: int) -> pb.WindowSize:
    """A size."""
    return pb.WindowSize(rows=rows, columns=80)


def told(call: Call) -> list[int]:
    """The rows that a call has told, with its start and later."""
    sizes = []
    for request in call.requests:
        assert isinstance(request, pb.AttachRequest)
        sizes.append(request.start.window if request.HasField("start") else request.window)
    return [each.rows for each in sizes]


async def no_keys() -> AsyncIterator[bytes]:
    """Nobody types, for ever."""
    await trio.Event().wait()
    yield b""


async def receive(attachment: Attachment) -> None:
    """Takes what comes, to its end."""
    async for _ in attachment:
        pass


async def test_sizes_over_connections(autojump_clock: trio.testing.MockClock) -> None:
    """A new call begins with the size as of then, and a size that comes while there is no call is not told twice."""
    first, second = Quiet(), Quiet()
    script = Script([[OPEN, first, LOST], [OPEN, second, OK]])
    async with (
        script.jobs().attach("job", window=size(1)) as attachment,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(attachment.send, no_keys())
        nursery.start_soon(receive, attachment)
        await attachment.admitted.wait()
        attachment.resize(size(2))
        await trio.testing.wait_all_tasks_blocked()
        first.until.set()
        await trio.testing.wait_all_tasks_blocked()
        attachment.resize(size(3))
        while len(script.calls) < 2:
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        attachment.resize(size(4))
        await trio.testing.wait_all_tasks_blocked()
        second.until.set()
    assert [told(call) for call in script.calls] == [[1, 2], [3, 4]]


class Endless(AsyncIterator[bytes]):
    """Blocks of input without an end, for which nothing is waited."""

    def __init__(self) -> None:
        self.blocks = 0

    async def __anext__(self) -> bytes:
        self.blocks += 1
        assert self.blocks < 1_000
        return bytes(64 * 1024)


async def test_input_without_an_end(autojump_clock: trio.testing.MockClock) -> None:
    """No more of it is asked for when the job reads no more."""
    closed = pb.AttachResponse(input=pb.InputState(status=pb.INPUTSTATUS_NOT_READ))
    source = Endless()
    async with (
        Script([[OPEN, Quiet(seconds=1), closed, OK]]).jobs().attach("job") as attachment,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive, attachment)
        assert not await attachment.send(source)
    assert 0 < source.blocks <= 2 + MOST_KEPT // (64 * 1024)
