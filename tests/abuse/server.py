"""The server under attack, a program: the real listener with mTLS, and a small service that costs what is asked of it.

It is a process of its own, so that its event loop is watched apart from the attacker's work. A ticker that sleeps
`TICK` seconds at a time records by how much it was late: that is how long the loop did not come round.

It is spoken to by lines. `mark` on its standard input begins a new period of measurement, `report` is answered on its
standard output by the state of now and the worst of the period, as JSON. At the end of its input it ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import ssl
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Final, TextIO

import trio
from google.protobuf.wrappers_pb2 import BytesValue
from purerpc import Cardinality, RPCSignature, Service, Status, StatusCode

from jobmaster.api.messages import output_messages
from jobmaster.certs.contexts import server_context
from jobmaster.grpc.lazy_messages import StoredMessages
from jobmaster.grpc.server import Dispatcher
from jobmaster.identity.policy import DEFAULT_POLICY
from jobmaster.output.log import OutputLog
from jobmaster.server import listener
from jobmaster.server.collector import collect_cycles
from jobmaster.server.listener import DEFAULT_LIMITS, Admission, ConnectionLimits, Listener, open_listeners
from jobmaster.wire.lifetime import SERVER_POLICY, LifetimePolicy

SERVICE: Final = "abuse.Service"
TICK: Final = 0.010
CHUNK: Final = bytes(8 * 1024)
LARGE: Final = 1_900_000
"""Bytes of a large answer, such as the status of a job with many arguments."""
_PAGE_KIB: Final = os.sysconf("SC_PAGE_SIZE") // 1024


async def echo(message: BytesValue) -> BytesValue:  # noqa: ASYNC124  # the shape of a handler
    """Answers what it is sent."""
    return message


async def hang(_message: BytesValue) -> BytesValue:
    """Answers never."""
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def flood(_message: BytesValue) -> AsyncIterator[BytesValue]:  # noqa: ASYNC124  # likewise
    """Sends without end."""
    while True:
        yield BytesValue(value=CHUNK)


async def output(_message: BytesValue) -> AsyncIterator[StoredMessages]:
    """Sends the output of a job that has ended, from its file, again and again."""
    with tempfile.TemporaryDirectory() as folder:
        log = OutputLog(Path(folder) / "log")
        log.advance(os.pwrite(log.fd, bytes(8 * 1024 * 1024), 0))
        log.seal()
        while True:
            async with aclosing(log.follow()) as stretches:
                async for stretch in stretches:
                    yield output_messages(stretch)  # noqa: ASYNC119  # purerpc closes the generator


def large(_message: BytesValue, request: object) -> BytesValue:  # as purerpc calls it
    """Answers at once, with much."""
    return BytesValue(value=bytes(LARGE))


def service() -> Service:
    """The five methods."""
    made = Service(SERVICE)
    unary = RPCSignature(Cardinality.UNARY_UNARY, BytesValue, BytesValue)
    made.add_method("Echo", echo, unary)
    made.add_method("Hang", hang, unary)
    made.add_method("Large", large, unary)
    stream = RPCSignature(Cardinality.UNARY_STREAM, BytesValue, BytesValue)
    made.add_method("Flood", flood, stream)
    made.add_method("Output", output, stream)
    return made


class CountingDispatcher(Dispatcher):
    """A dispatcher that keeps the highest number of handlers that ever ran at a time."""

    peak = 0

    def __setattr__(self, name: str, value: object) -> None:
        """Sets any attribute, and sees `running` rise."""
        super().__setattr__(name, value)
        if name == "running" and isinstance(value, int):
            self.peak = max(self.peak, value)


class BugCounter(logging.StreamHandler[TextIO]):
    """Counts what jobmaster logs as its own bugs, and shows it."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Counts one."""
        self.count += 1
        super().emit(record)


class Gauge:
    """What is measured: the state of now, and the worst since `mark`."""

    def __init__(self, served: Listener, dispatcher: CountingDispatcher, bugs: BugCounter) -> None:
        self._served = served
        self._dispatcher = dispatcher
        self._bugs = bugs
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # now: later there may be no descriptor
        self._worst_stall = self._worst_busy = 0.0
        self._peak_rss = 0

    async def watch(self) -> None:
        """Measures until it is cancelled."""
        while True:
            began, worked = trio.current_time(), time.thread_time()
            await trio.sleep(TICK)
            late = trio.current_time() - began - TICK
            self._worst_stall = max(self._worst_stall, late)
            self._worst_busy = max(self._worst_busy, min(late, time.thread_time() - worked))
            self._peak_rss = max(self._peak_rss, self._rss())

    def mark(self) -> None:
        """Begins a new period, with the garbage of the last one collected."""
        gc.collect()
        self._worst_stall = self._worst_busy = 0.0
        self._peak_rss = self._rss()
        self._dispatcher.peak = self._dispatcher.running

    def report(self) -> dict[str, float]:
        """The report, by the names of `program.Report`."""
        connections = [each.connection for each in self._served._serving]
        return {
            "worst_stall_ms": round(self._worst_stall * 1000, 1),
            "worst_busy_ms": round(self._worst_busy * 1000, 1),
            "rss_kib": self._rss(),
            "peak_rss_kib": max(self._peak_rss, self._rss()),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "open_fds": _open_descriptors(),
            "connections": self._served._open,
            "running_handlers": self._dispatcher.running,
            "peak_handlers": self._dispatcher.peak,
            "streams": sum(max(len(each._calls), each.connection._http2.open_streams) for each in connections),
            "bugs": self._bugs.count,
        }

    def _rss(self) -> int:
        return int(os.pread(self._statm, 200, 0).split()[1]) * _PAGE_KIB


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # none is left to look with
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def obey(gauge: Gauge) -> None:
    """Follows the lines on standard input to their end."""
    async with trio.lowlevel.FdStream(os.dup(0)) as lines:
        rest = b""
        while data := await lines.receive_some():
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                if line == b"mark":
                    gauge.mark()
                print(json.dumps(gauge.report()), flush=True)


async def serve(options: argparse.Namespace) -> None:
    """Serves on the loopback address; says its port when it is ready."""
    bugs = BugCounter()
    bugs.setLevel(logging.ERROR)
    logging.getLogger("jobmaster").addHandler(bugs)
    logging.getLogger("trio").addHandler(logging.NullHandler())  # what it says of EMFILE is asked for here
    dispatcher = CountingDispatcher({SERVICE: service()}, lambda _error: Status(StatusCode.INTERNAL, "internal error"))
    lifetime = LifetimePolicy(preface=options.preface, quiet=options.quiet, answer=options.answer, stall=options.stall)
    context: ssl.SSLContext = server_context(options.certificates)
    limits = ConnectionLimits(total=options.total, per_address=options.per_address, per_client=options.per_client)
    served = Listener(
        Admission(context=context, policy=DEFAULT_POLICY, dispatcher=dispatcher, lifetime=lifetime), limits
    )
    gauge = Gauge(served, dispatcher, bugs)
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners("127.0.0.1", 0)
        await nursery.start(served.serve, listeners, nursery)
        nursery.start_soon(gauge.watch)
        nursery.start_soon(collect_cycles)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await obey(gauge)
        nursery.cancel_scope.cancel()


def arguments() -> argparse.Namespace:
    """The command line: the bounds of the server, where they are not the usual ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.abuse.server", description=serve.__doc__)
    parser.add_argument("certificates", type=Path)
    parser.add_argument("--files", type=int, help="descriptors that the process may have")
    for name in ("total", "per_address", "per_client"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(DEFAULT_LIMITS, name))
    for name in ("preface", "quiet", "answer", "stall"):
        parser.add_argument(f"--{name}", type=float, default=getattr(SERVER_POLICY, name), help="seconds")
    parser.add_argument("--handshake", type=float, default=listener.HANDSHAKE_SECONDS, help="seconds")
    return parser.parse_args()


def main() -> None:
    """The program."""
    options = arguments()
    listener.HANDSHAKE_SECONDS = options.handshake  # type: ignore[misc]  # final but for tests, which cannot wait so long
    if options.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    trio.run(serve, options)


if __name__ == "__main__":
    main()
