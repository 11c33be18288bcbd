"""What a server learns of its predecessors' children, from a launcher that the test plays; and how it leaves its own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import HostError
from jobmaster.launcher import packets, protocol
from jobmaster.launcher.protocol import Phase, Table, TableEnd
from jobmaster.run.launcher import (
    ChildStatus,
    ExecFailed,
    ExecOutcome,
    Executed,
    Launcher,
    LauncherLost,
    NeverExecuted,
    Order,
    use_launcher,
)
from tests.run.launching import DEADLINE, Folder, Host

Said = Sequence[tuple[protocol.Message, Sequence[int]]]
AT = datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


@asynccontextmanager
async def inheriting(
    *said: tuple[protocol.Message, Sequence[int]], hello: bool = True
) -> AsyncIterator[tuple[Launcher, socket.socket]]:
    """A launcher that says these after its hello; and its end of the socket pair, after the server's."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        for message, descriptors in (*(((protocol.Hello(), ()),) if hello else ()), *said):
            packets.send(other, protocol.encode(message), descriptors)
        async with use_launcher(own) as launcher:
            assert packets.receive(other).message == protocol.Hello()
            yield launcher, other


def a_row(name: str, phase: Phase = Phase.EXECUTED, wait_status: int | None = None, stage: str = "") -> Table:
    """A child of an earlier server; for the test it is this process."""
    return Table(
        id=name,
        pid=os.getpid(),
        start_time=3,
        phase=phase,
        wait_status=wait_status,
        stage=stage,
        errno=8 if stage else 0,
    )


def descriptors() -> tuple[int, int]:
    """The read end of a pipe without a writer, and the pidfd of this process."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.close(write)
    return read, os.pidfd_open(os.getpid())


def is_same(one: int, other: int) -> bool:
    """Whether two descriptors are of one file."""
    return os.path.sameopenfile(one, other)


@pytest.mark.parametrize(
    ("row", "outcome", "status"),
    [
        (a_row("a", Phase.HELD), None, None),
        (a_row("a"), Executed(), None),
        (a_row("a", Phase.FAILED, stage="exec"), ExecFailed(errno=8, stage="exec"), None),
        (a_row("a", Phase.EXECUTED, 42 << 8), Executed(), ChildStatus(wait_status=42 << 8, executed=True)),
        (a_row("a", Phase.ABANDONED, 0), NeverExecuted(), ChildStatus(wait_status=0, executed=False)),
        (a_row("a", Phase.NEVER_RAN, 9), NeverExecuted(), ChildStatus(wait_status=9, executed=False)),
    ],
)
async def test_what_is_known_of_a_child(row: Table, outcome: ExecOutcome | None, status: ChildStatus | None) -> None:
    """Outcome and status are there from the start, and who waits for them does not wait."""
    read, pidfd = descriptors()
    given = (read,) if row.wait_status is not None else (read, pidfd)
    async with inheriting((row, given), (TableEnd(predecessors=4, is_followed=True), ())) as (launcher, _):
        assert (launcher.inherited.predecessors, launcher.inherited.is_followed) == (4, True)
        found = launcher.inherited.children["a"]
        child = found.child
        assert (child.pid, child.start_time, found.phase, found.order) == (os.getpid(), 3, row.phase, None)
        assert (child.outcome, child.status) == (outcome, status)
        assert child.has_died() == (status is not None)
        assert os.read(found.output_read, 1) == b""
        if outcome is not None:
            assert await child.wait_executed() == outcome
        if status is not None:
            assert await child.wait_status() == status
            await child.wait_died()
    packets.close_all((read, pidfd))


async def test_what_happens_to_an_inherited_child() -> None:
    """It is told as of any child, also between the rows of the table; released, it is acknowledged."""
    read, pidfd = descriptors()
    said: Said = (
        (a_row("a", Phase.HELD), (read, pidfd)),
        (protocol.Executed(id="a"), ()),
        (a_row("b"), (read, pidfd)),
        (TableEnd(), ()),
    )
    async with inheriting(*said) as (launcher, sock):
        child = launcher.inherited.children["a"].child
        assert child.outcome == Executed()
        sock.send(protocol.encode(protocol.Exited(id="a", wait_status=7 << 8, phase=Phase.EXECUTED)))
        with trio.fail_after(DEADLINE):
            assert (await child.wait_status()).wait_status == 7 << 8
        child.release()
        assert packets.receive(sock).message == protocol.Ack(id="a")
        sock.send(protocol.encode(protocol.Forgotten(id="a")))
        with trio.fail_after(DEADLINE):
            await child.wait_forgotten()
    packets.close_all((read, pidfd))


async def test_an_order_comes_back() -> None:
    """As it was given, with the time zone; a long reason is cut."""
    orders = [
        Order(kind="stop", at=AT, by=by, reason=reason) for by, reason in (("client1", "é\0"), (None, "x" * 5000))
    ]
    read, pidfd = descriptors()
    async with inheriting((TableEnd(), ())) as (launcher, sock):
        for order in orders:
            launcher.order("a", order)
        messages = [packets.receive(sock).message for _ in orders]
    for order, message in zip(orders, messages, strict=True):
        async with inheriting((a_row("a"), (read, pidfd)), (message, ()), (TableEnd(), ())) as (launcher, _):
            found = launcher.inherited.children["a"].order
            assert found is not None
            assert (found.kind, found.at, found.by) == (order.kind, order.at, order.by)
            assert found.reason == order.reason[: protocol.MAX_REASON]
    packets.close_all((read, pidfd))


async def test_what_is_not_taken_is_closed() -> None:
    """Who takes something out of what is inherited owns it; the rest is closed with the launcher."""
    read, pidfd = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = sorted(os.listdir("/proc/self/fd"))
        end = TableEnd(locks=("jobs", "state"), listeners=("a:1", "a:1"))
        said: Said = (
            (a_row("a"), (read, pidfd)),
            (a_row("b"), (read, pidfd)),
            (end, (read, read, *2 * (listener.fileno(),))),
        )
        async with inheriting(*said) as (launcher, _):
            taken = launcher.inherited.children.pop("a")
            lock = launcher.inherited.locks.pop("state")
            name, sock = launcher.inherited.listeners.pop()
        assert (name, sock.getsockname()) == ("a:1", listener.getsockname())
        assert is_same(taken.output_read, read)
        taken.child.leave()
        sock.close()
        packets.close_all((taken.output_read, lock))
        assert sorted(os.listdir("/proc/self/fd")) == before
    packets.close_all((read, pidfd))


@pytest.mark.parametrize("missing", ["child", "end"])
async def test_descriptors_that_could_not_be_received(missing: str) -> None:
    """A server whose limit is too low says so, and leaves everything to the next one."""
    read, pidfd = descriptors()
    before = sorted(os.listdir("/proc/self/fd"))
    said: Said = (
        (a_row("a"), (read, pidfd)),
        (a_row("b"), (read,) if missing == "child" else (read, pidfd)),
        (TableEnd(locks=("jobs", "state")), (read,)),
    )
    with pytest.raises(HostError, match="LimitNOFILE"):
        async with inheriting(*said):
            pytest.fail("the table is not complete")
    assert sorted(os.listdir("/proc/self/fd")) == before
    packets.close_all((read, pidfd))


@pytest.mark.parametrize("wrong", ["a listening socket", "a time"])
async def test_what_is_no_table(wrong: str) -> None:
    """A launcher that says what cannot be is none."""
    read, pidfd = descriptors()
    order = protocol.Order(id="a", kind="stop", at="soon" if wrong == "a time" else AT.isoformat())
    said: Said = ((a_row("a"), (read, pidfd)), (order, ()), (TableEnd(listeners=("a:1",)), (read,)))
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(LauncherLost):
        async with inheriting(*said):
            pytest.fail("the table is wrong")
    assert sorted(os.listdir("/proc/self/fd")) == before
    packets.close_all((read, pidfd))


# What a server says of itself.


async def test_what_a_server_says() -> None:
    """What is to be kept goes with its descriptors; a hand-over is the last word, in place of the farewell."""
    read, write = os.pipe2(os.O_CLOEXEC)
    said: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with inheriting((TableEnd(), ())) as (launcher, sock):
            launcher.keep(kill_fd=write, locks={"jobs": read, "state": read})
            launcher.say_ready([("a:1", listener), ("a:1", listener)], max_gap=7, max_crashes=8)
            launcher.say_stopping()
            await launcher.hand_over()
            kept, ready = packets.receive(sock), packets.receive(sock)
            assert kept.message == protocol.Keep(locks=("jobs", "state"))
            pairs = zip(kept.descriptors, (write, read, read), strict=True)
            assert all(is_same(*pair) for pair in pairs)
            assert ready.message == protocol.Ready(listeners=("a:1", "a:1"), max_gap=7, max_crashes=8)
            assert len(ready.descriptors) == 2
            packets.close_all((*kept.descriptors, *ready.descriptors))
            last = [type(packets.receive(sock).message) for _ in range(2)]
            assert last == [protocol.Stopping, protocol.HandOver]
            said.append(sock.dup())
        with said[0] as sock, pytest.raises(packets.EndOfFile):
            packets.receive(sock)
    os.close(read)
    os.close(write)


async def test_a_child_that_is_left(host: Host, folder: Folder) -> None:
    """It is neither killed nor forgotten by the launcher; one that was held is abandoned."""
    async with host.child("sleep", "1000") as (child, _):
        child.go()
        assert await child.wait_executed() == Executed()
        pid = child.pid
        child.leave()
        child.leave()
        await child.wait_forgotten()
        child.send_signal(signal.SIGKILL)
    async with host.child("touch", "/nonexistent/ran") as (held, _):
        pidfd = os.pidfd_open(held.pid)
        held.leave()
    with trio.fail_after(DEADLINE):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)
    await host.settle()
    assert folder.pids() == [pid]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_what_is_kept_is_closed_when_the_launcher_says_so(is_lost: bool) -> None:
    """Who has it closed waits for the answer, or for the end of the launcher: only then has nobody the other end open."""
    async with inheriting((TableEnd(), ())) as (launcher, other):
        has_returned = False

        async def close() -> None:
            nonlocal has_returned
            await launcher.close_kept("a", "stdin")
            has_returned = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            await wait_all_tasks_blocked()
            assert packets.receive(other).message == protocol.Close(id="a", keeps=("stdin",))
            assert not has_returned
            if is_lost:
                other.shutdown(socket.SHUT_RDWR)
            else:
                packets.send(other, protocol.encode(protocol.Closed(id="a", keeps=("stdin",))), ())
