"""A server that feeds a job until it is killed: queue and pipe are inherited, as from a launcher."""

from __future__ import annotations

import itertools
import sys
from random import Random
from typing import Final

import trio

from jobmaster.run.stdin import Stdin

PATTERN: Final = Random(1).randbytes(65_521)
SIZES: Final = (1, 7, 4096, 10_000, 65_536, 200_000)


def input_at(offset: int, count: int) -> bytes:
    """Bytes of an input without an end, which repeats itself with a prime period."""
    start = offset % len(PATTERN)
    pieces = itertools.repeat(PATTERN, (start + count) // len(PATTERN) + 1)
    return b"".join(pieces)[start : start + count]


async def nothing() -> None:
    """There is no launcher."""


async def feed(queue: int, pipe: int) -> None:
    """Goes on with the input where the server before was killed."""
    stdin = Stdin(queue, pipe, close_kept=nothing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stdin.run)
        for size in itertools.cycle(SIZES):
            await stdin.write(stdin.accepted, input_at(stdin.accepted, size))


if __name__ == "__main__":
    trio.run(feed, int(sys.argv[1]), int(sys.argv[2]))
