"""Bytes in and out of jobs, beside StreamOutput: input, output with its times and streams, and what these cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Final

from jobmaster.job.identifier import JobId
from jobmaster.output.files import index_path
from jobmaster.output.index import ENTRY_SIZE, HEADER_SIZE, Stream
from jobmaster.output.index_file import IndexFile
from jobmaster.run.job_files import output_path
from tests.bench.load import Client, Kind, Load, Outcome
from tests.bench.rounds import runs_of, take_turns
from tests.bench.servers import Place, Server
from tests.bench.size import Size
from tests.bench.table import Better, Row, Runs
from tests.two_streams import LENGTH, SCRIPT

MEGABYTE: Final = 1_000_000
PIECE: Final = 8 * 1024
DENSE: Final = """
import array, fcntl, os, sys, termios, time
piece, left = bytes(int(sys.argv[2])), array.array("i", [0])
for number in range(int(sys.argv[1])):
    fd = 1 + number % 2
    os.write(fd, piece)
    while fcntl.ioctl(fd, termios.FIONREAD, left) or left[0]:
        time.sleep(0.0001)
"""
"""Writes pieces of that size to both streams in turn, each when the one before is taken: the index has an entry for each."""
DENSE_SHARE: Final = 8
"""Of the output that is streamed otherwise, as much as can be written in that way in a minute."""
LINE: Final = b"%015d\n"
EACH_MILLISECOND: Final = """
import os, sys, time
for number in range(int(sys.argv[1])):
    os.write(1, b"%015d\\n" % number)
    time.sleep(0.001)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """Where, and how much."""

    own: Place
    server: Server
    size: Size

    def input(self) -> Iterator[Row]:
        """What a job reads, which it has to read whole."""
        count = self.size.output_bytes
        stream = self._stored(self._write(count))
        both = take_turns(self.own.clients, self.size.rounds, replace(stream, kind=Kind.STDIN, job_id=""), stream)
        yield self._speed(f"stdin of {count // 2**20} MiB to its SHA-256 beside StreamOutput", count, both)

    def following(self) -> Iterator[Row]:
        """Output with times and streams: of one pipe, and of two that take turns."""
        count = self.size.output_bytes
        pieces = max(1, count // DENSE_SHARE // PIECE)
        dense = self._python(DENSE, pieces, PIECE, count=pieces * PIECE, separate=True)
        for what, write in (("a plain index", self._write(count)), ("a dense index", dense)):
            stream = self._stored(write)
            entries = (self._index_bytes(stream.job_id) - HEADER_SIZE) / ENTRY_SIZE
            both = take_turns(self.own.clients, self.size.rounds, replace(stream, kind=Kind.FOLLOW_STORED), stream)
            yield self._speed(
                f"FollowOutput over {what}, {entries * MEGABYTE / write.count:.3g} entries/MB, beside StreamOutput",
                write.count,
                both,
            )

    def index(self) -> Iterator[Row]:
        """A job that writes a line each millisecond: all that the server does for a line, and what of it is the index."""
        lines = self.size.live_lines
        (outcomes,) = take_turns(
            self.own.clients, self.size.rounds, self._python(EACH_MILLISECOND, lines, count=lines * len(LINE % 0))
        )
        yield Row(
            name="a line each millisecond, server's CPU for each, beside that of an entry of the index",
            unit="us",
            better=Better.LOWER,
            jobmaster=Runs(values=tuple(1e6 * outcome.server_seconds / lines for outcome in outcomes)),
            peer=Runs(values=tuple(1e6 * _entry_seconds(lines) for _ in outcomes)),
        )
        yield self._overhead(
            "a line each millisecond, index for each byte of output", lines * len(LINE % 0), [outcomes]
        )

    def streams(self) -> Iterator[Row]:
        """Short lines from two threads, each to a stream of its own, beside both to one pipe."""
        lines = self.size.short_lines // 2
        apart = self._python(SCRIPT, 1, lines, count=2 * lines * LENGTH, separate=True)
        both = take_turns(self.own.clients, self.size.rounds, apart, replace(apart, separate=False))
        name = f"{2 * lines} short lines by two threads to two streams beside one pipe"
        yield self._speed(name, apart.count, both)
        yield self._overhead(f"{name}, index for each byte of output", apart.count, both)

    def _write(self, count: int) -> Load:
        return Load(
            kind=Kind.WRITE,
            client=Client.JOBMASTER,
            port=self.server.port,
            server=self.server.pid,
            certificates=self.own.certificates,
            count=count,
        )

    def _python(self, script: str, *arguments: int, count: int, separate: bool = False) -> Load:
        """A job that writes `count` bytes."""
        command = ("python3", "-S", "-c", script, *map(str, arguments))
        return replace(self._write(count), command=command, separate=separate)

    def _stored(self, write: Load) -> Load:
        """Runs a job, and reads its output once: that is in the page cache then."""
        job_id = self.own.clients.run(write)[0].job_id
        with output_path(self.own.output, JobId(job_id)).open("rb") as log:
            while log.read(MEGABYTE):
                pass
        return replace(write, kind=Kind.STREAM, job_id=job_id, command=(), separate=False)

    def _index_bytes(self, job_id: str) -> int:
        return index_path(output_path(self.own.output, JobId(job_id))).stat().st_size

    def _speed(self, name: str, count: int, both: Sequence[Sequence[Outcome]]) -> Row:
        ours, theirs = (
            runs_of(side, [count / MEGABYTE / outcome.seconds for outcome in side], count / MEGABYTE) for side in both
        )
        return Row(name=name, unit="MB/s", better=Better.HIGHER, jobmaster=ours, peer=theirs)

    def _overhead(self, name: str, count: int, sides: Sequence[Sequence[Outcome]]) -> Row:
        ours, *theirs = (
            Runs(values=tuple(self._index_bytes(outcome.job_id) / count for outcome in side)) for side in sides
        )
        return Row(name=name, unit="B", better=Better.LOWER, jobmaster=ours, peer=theirs[0] if theirs else None)


def _entry_seconds(count: int) -> float:
    """CPU time of an entry, by the code that writes them."""
    with tempfile.TemporaryDirectory() as folder:
        index = IndexFile(Path(folder) / "index", 0)
        try:
            begun = process_time()
            for number in range(count):
                index.note(number, (Stream.STDOUT, Stream.STDERR)[number % 2], number, 1)
            return (process_time() - begun) / count
        finally:
            index.close()
