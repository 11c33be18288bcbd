"""A job's stdin over the wire: whole, once, and ended, also where the server is killed in the middle."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.client.unacknowledged import MOST_KEPT
from jobmaster.grpc.client import STREAM_WINDOW
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.run.stdin import PIPE_SIZE, WIDE_CAPACITY
from tests.harness import Server, output_of, run, serving, serving_program, until_output
from tests.integration.test_adoption import wait_for_successor

DEADLINE: Final = 60.0
BLOCK: Final = Random(3).randbytes(100_003)
BLOCKS: Final = 150


async def blocks(count: int, between: Callable[[int], Awaitable[None]] | None = None) -> AsyncIterator[bytes]:
    """A source of so many blocks."""
    for number in range(count):
        if between is not None:
            await between(number)
        yield BLOCK


def digest(data: bytes) -> str:
    """A SHA-256."""
    return hashlib.sha256(data).hexdigest()


async def fed(jobs: Jobs, job_id: str, source: AsyncIterator[bytes], *, ends: bool = True) -> tuple[bool, bytes]:
    """Feeds a job to its end: whether it took all, and its output."""
    taken = False

    async def send() -> None:
        nonlocal taken
        taken = await attachment.send(source, ends=ends)

    with trio.fail_after(DEADLINE):
        async with jobs.attach(job_id) as attachment, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            return_value = b"".join([chunk.data async for chunk in attachment])
    return taken, return_value


async def test_through_cat(server: Server) -> None:
    """What goes in comes out, and end-of-file ends the job."""
    async with server.connect() as jobs:
        job_id = await jobs.start("cat", stdin=True)
        taken, output = await fed(jobs, job_id, blocks(20))
        assert (taken, output == BLOCK * 20) == (True, True)
        record = await jobs.wait(job_id)
        assert (record.exit_code, record.output_bytes) == (0, len(output))


async def test_no_stdin(server: Server) -> None:
    """A job without one reads the end at once; it can be attached to, but takes no writer."""
    async with server.connect() as jobs:
        assert (await run(jobs, "cat"))[1] == b""
        job_id = await jobs.start("sleep", "1000")
        async with jobs.attach(job_id) as attachment:
            with pytest.raises(RpcFailedError, match="no stdin") as refused:
                await anext(attachment)
        assert refused.value.status.status_code is StatusCode.FAILED_PRECONDITION
        await jobs.stop(job_id, force=True)
        async with jobs.attach(job_id, with_input=False) as attachment:
            assert [chunk async for chunk in attachment] == []


async def test_a_job_that_reads_no_more(server: Server) -> None:
    """Its writer is told, and the output is whole."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "head -c 5; exec <&-; sleep 0.2; echo end", stdin=True)
        taken, output = await fed(jobs, job_id, blocks(100))
        assert (taken, output) == (False, BLOCK[:5] + b"end\n")


async def test_a_job_that_has_ended(server: Server) -> None:
    """Who attaches too late gets its output, and is told that it takes no input."""
    async with server.connect() as jobs:
        job_id = await jobs.start("echo", "gone", stdin=True)
        assert await output_of(jobs, job_id) == b"gone\n"
        await jobs.wait(job_id)
        assert await fed(jobs, job_id, blocks(3)) == (False, b"gone\n")


async def test_one_writer_and_many_readers(server: Server) -> None:
    """A second writer is refused as long as there is one; readers are not."""
    async with server.connect() as jobs, server.connect() as others:
        job_id = await jobs.start("cat", stdin=True)
        async with jobs.attach(job_id) as first, trio.open_nursery() as nursery:
            nursery.start_soon(first.send, blocks(1))
            assert (await anext(first)).data
            async with others.attach(job_id) as second:
                with pytest.raises(RpcFailedError, match="another client is attached") as refused:
                    await anext(second)
            assert refused.value.status.status_code is StatusCode.FAILED_PRECONDITION
            async with others.attach(job_id, with_input=False) as reader:
                assert (await anext(reader)).data
            nursery.cancel_scope.cancel()
        await jobs.stop(job_id, force=True)


async def test_attaching_again(server: Server) -> None:
    """Who leaves without an end leaves the input open; who comes then goes on behind it, with the output from its offset."""
    async with server.connect() as jobs:
        job_id = await jobs.start("cat", stdin=True)
        async with jobs.attach(job_id) as first, trio.open_nursery() as nursery:
            nursery.start_soon(lambda: first.send(blocks(1), ends=False))
            received = 0
            while received < len(BLOCK):
                received += len((await anext(first)).data)
        async with jobs.attach(job_id, output_offset=first.received) as second, trio.open_nursery() as nursery:
            nursery.start_soon(second.send, blocks(2))
            rest = b"".join([chunk.data async for chunk in second])
        assert (received, rest == BLOCK * 2) == (len(BLOCK), True)


TYPED: Final = 20
"""Lines of input that a job reads."""
MUCH: Final = 4 * STREAM_WINDOW
"""Bytes of output that a client does not take before it reads some."""


async def test_a_client_that_does_not_read(server: Server) -> None:
    """What it types arrives, though its flow control holds up the output."""
    read_all = f"i=0; while [ $i -lt {TYPED} ]; do read -r _; i=$((i + 1)); done"
    async with server.connect() as jobs, server.connect() as others:
        job_id = await jobs.start("sh", "-c", f"head -c {MUCH} /dev/zero & {read_all}; wait; exit 5", stdin=True)

        async def typed() -> AsyncIterator[bytes]:
            while (await others.status(job_id)).output_bytes < MUCH:
                await trio.sleep(0.01)
            for _ in range(TYPED):
                await others.status(job_id)
                yield b"x\n"
            await trio.sleep_forever()

        with trio.fail_after(DEADLINE):
            async with jobs.attach(job_id) as attachment, trio.open_nursery() as nursery:
                nursery.start_soon(attachment.send, typed())
                await anext(attachment)
                assert (await others.wait(job_id)).exit_code == 5
                nursery.cancel_scope.cancel()


WAITS: Final = "trap : USR1; echo ready; sleep 1000 & wait; sha256sum"
"""Reads its input when it gets SIGUSR1."""


async def test_a_job_that_does_not_read(server: Server) -> None:
    """Only what its pipe, the server and its client hold is taken for it; when it reads, it gets all."""
    sent = 0

    async def count(_number: int) -> None:
        nonlocal sent
        sent += 1
        await trio.lowlevel.checkpoint()

    async with server.connect() as jobs, trio.open_nursery() as nursery:
        job_id = await jobs.start("sh", "-c", WAITS, stdin=True)
        await until_output(jobs, job_id, b"ready")
        output: list[bytes] = []

        async def feed() -> None:
            output.append((await fed(jobs, job_id, blocks(50, count)))[1])

        nursery.start_soon(feed)
        for _ in range(50):
            await jobs.status(job_id)  # a message there and back
        assert sent <= (PIPE_SIZE + WIDE_CAPACITY + MOST_KEPT) // len(BLOCK) + 2 < 50
        os.kill((await jobs.status(job_id)).pid, signal.SIGUSR1)
    assert output[0].split()[1].decode() == digest(BLOCK * 50)


@pytest.mark.parametrize("kills", [1, 4])
async def test_a_server_that_is_killed(tmp_path: Path, certificates: Path, kills: int) -> None:
    """Its successor goes on at the byte where it was: the job reads all of its input once, and so does who reads it."""
    at = {(number + 1) * BLOCKS // (kills + 1) for number in range(kills)}
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:

        async def kill(number: int) -> None:
            if number in at:
                old = server.pid
                os.kill(old, signal.SIGKILL)
                await wait_for_successor(server, old)

        job_id = await jobs.start("cat", stdin=True)
        taken, output = await fed(jobs, job_id, blocks(BLOCKS, kill))
        assert (taken, len(output), digest(output)) == (True, BLOCKS * len(BLOCK), digest(BLOCK * BLOCKS))
        assert (await jobs.wait(job_id)).exit_code == 0


async def test_the_end_outlives_the_server(tmp_path: Path, certificates: Path) -> None:
    """Input that a client has ended, and left, is read to its end though the server that took it is killed."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", WAITS.replace("sha256sum", "wc -c"), stdin=True)
        await until_output(jobs, job_id, b"ready")
        async with jobs.attach(job_id) as attachment, trio.open_nursery() as nursery:

            async def send() -> None:
                assert await attachment.send(blocks(1))
                nursery.cancel_scope.cancel()

            nursery.start_soon(send)
            async for _ in attachment:
                pass
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await wait_for_successor(server, old)
        os.kill((await jobs.status(job_id)).pid, signal.SIGUSR1)
        assert await output_of(jobs, job_id) == b"ready\n%d\n" % len(BLOCK)


async def test_an_upgrade(tmp_path: Path, certificates: Path) -> None:
    """A server that hands over leaves the input to the next one in the middle of it."""
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:

        async def hand_over(number: int) -> None:
            if number == BLOCKS // 2:
                old = server.pid
                process.send_signal(signal.SIGUSR2)
                await wait_for_successor(server, old)

        job_id = await jobs.start("cat", stdin=True)
        taken, output = await fed(jobs, job_id, blocks(BLOCKS, hand_over))
        assert (taken, digest(output)) == (True, digest(BLOCK * BLOCKS))


ALTERNATING: Final = "i=0; while [ $i -lt 40 ]; do echo out $i; echo err $i >&2; i=$((i+1)); sleep 0.05; done"


async def streams_of(jobs: Jobs, job_id: str) -> dict[int, bytes]:
    """The output of a job by stream."""
    found: dict[int, bytes] = {}
    end = 0
    async with jobs.attach(job_id, with_input=False) as attachment:
        async for chunk in attachment:
            assert chunk.offset == end
            end += len(chunk.data)
            found[chunk.stream] = found.get(chunk.stream, b"") + chunk.data
    return found


@pytest.mark.parametrize("is_killed", [False, True])
async def test_streams_apart(tmp_path: Path, certificates: Path, *, is_killed: bool) -> None:
    """Each stream is exact and told apart, live and stored, also where a server goes on with the job of another."""
    if not is_killed:
        async with serving(tmp_path, certificates) as server, server.connect() as jobs:
            await are_apart(jobs, await jobs.start("sh", "-c", ALTERNATING, separate_streams=True))
        return
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", ALTERNATING, separate_streams=True)
        await until_output(jobs, job_id, b"err 5")
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await wait_for_successor(server, old)
        await are_apart(jobs, job_id)


async def are_apart(jobs: Jobs, job_id: str) -> None:
    """Follows the job, twice."""
    expected = {
        stream: "".join(f"{name} {number}\n" for number in range(40)).encode()
        for stream, name in ((pb.OUTPUTSTREAM_STDOUT, "out"), (pb.OUTPUTSTREAM_STDERR, "err"))
    }
    assert await streams_of(jobs, job_id) == expected
    assert await streams_of(jobs, job_id) == expected
    assert (await jobs.wait(job_id)).output_bytes == sum(map(len, expected.values()))


async def test_one_of_two_streams(server: Server) -> None:
    """Who follows one stream gets that alone, at the offsets that it has among both."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo out; sleep 0.1; echo err >&2", separate_streams=True)
        for stream, data in ((pb.OUTPUTSTREAM_STDOUT, b"out\n"), (pb.OUTPUTSTREAM_STDERR, b"err\n")):
            async with jobs.follow_output(job_id, pb.FollowOutputRequest(stream=stream)) as chunks:
                found = [(chunk.offset, chunk.stream, chunk.data) async for chunk in chunks]
            assert found == [(0 if data == b"out\n" else 4, stream, data)]


async def test_streams_together(server: Server) -> None:
    """By default both share one pipe, and are of no stream."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo out; echo err >&2")
        assert await streams_of(jobs, job_id) == {pb.OUTPUTSTREAM_UNSPECIFIED: b"out\nerr\n"}
