"""A program that writes short lines by two threads, to stdout and to stderr, and what its output has to be. Pure.

Both threads write freely within a round, and then wait until both pipes are empty, which is when the server has taken all of
it. So the lines of a round arrive before those of the next one, and how they lie in the output is known as far as that.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from jobmaster.jobs.v1 import jobs_pb2 as pb

LENGTH: Final = 9
"""Bytes of a line."""
LETTERS: Final = {pb.OUTPUTSTREAM_STDOUT: "o", pb.OUTPUTSTREAM_STDERR: "e"}
SCRIPT: Final = """
import array, fcntl, os, sys, termios, threading, time
rounds, lines = map(int, sys.argv[1:])
left = array.array("i", [0])
def in_pipe(fd):
    fcntl.ioctl(fd, termios.FIONREAD, left)
    return left[0]
def wait():
    while in_pipe(1) or in_pipe(2):
        time.sleep(0.0001)
barrier = threading.Barrier(2, action=wait)
def write(fd, letter):
    for number in range(rounds * lines):
        os.write(fd, b"%c%07d\\n" % (letter, number))
        if (number + 1) % lines == 0:
            barrier.wait()
threads = [threading.Thread(target=write, args=args) for args in ((1, ord("o")), (2, ord("e")))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
"""Takes the number of rounds and the number of lines that each thread writes in a round."""


def expected(stream: pb.OutputStream, lines: int) -> bytes:
    """So many lines of a stream."""
    letter = LETTERS[stream]
    return "".join(f"{letter}{number:07}\n" for number in range(lines)).encode()


class Arrived:
    """What came of both streams, in its order."""

    def __init__(self) -> None:
        self.streams = {stream: bytearray() for stream in LETTERS}
        self._end = 0
        self._pieces: dict[pb.OutputStream, list[tuple[int, int]]] = {stream: [] for stream in LETTERS}
        """Of each stream its pieces: their offsets in the stream and in the output."""
        self.order: list[tuple[pb.OutputStream, int]] = []
        """Streams in turn, with the offset at which the other one begins."""

    def take(self, chunk: pb.OutputChunk) -> None:
        """The next chunk."""
        assert chunk.offset == self._end
        own = self.streams[chunk.stream]
        self._pieces[chunk.stream].append((len(own), chunk.offset))
        own += chunk.data
        self._end += len(chunk.data)
        if self.order and self.order[-1][0] == chunk.stream:
            self.order.pop()
        self.order.append((chunk.stream, self._end))

    def offset_of(self, stream: pb.OutputStream, at: int) -> int:
        """Where in the output a byte of a stream is."""
        pieces = self._pieces[stream]
        own, offset = pieces[bisect_right(pieces, at, key=lambda piece: piece[0]) - 1]
        return offset + at - own

    def rounds_in_order(self, rounds: int, lines: int) -> bool:
        """Whether all of each round is before all of the next one."""
        size = lines * LENGTH
        ends = [max(self.offset_of(stream, end * size - 1) for stream in LETTERS) for end in range(1, rounds)]
        begins = [min(self.offset_of(stream, begin * size) for stream in LETTERS) for begin in range(1, rounds)]
        return all(end + 1 == begin for end, begin in zip(ends, begins, strict=True))
