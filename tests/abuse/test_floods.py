"""Ten thousand frames of one kind, or more: the server ends the connection, and nobody else notices."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.abuse.attack import MEMORY_KIB, WORST_STALL_MS, Outcome, attack, best_of
from tests.abuse.attacker import (
    CONTINUATION,
    DATA,
    EMPTY_MESSAGE,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_WINDOW,
    PING,
    PRIORITY,
    attacking,
    block,
    call,
    data,
    frame,
    headers,
    request_fields,
    reset,
    settings,
    window_update,
)
from tests.abuse.program import attacked, bystander

pytestmark = pytest.mark.abuse

STREAM_CLOSED, ENHANCE_YOUR_CALM = 5, 11
FRAMES: Final = int(os.environ.get("ABUSE_FRAMES", "10000"))
"""Of a flood; a hundred thousand in the nox session `abuse`."""
HANDLERS: Final = 100 + 2
"""That may run at a time: those of one connection, and of the other client one that was left and one that is new."""


@dataclass(frozen=True, slots=True)
class Flood:
    """What comes once, then what comes again and again; `unit` is given a stream that nobody has used."""

    opening: bytes
    unit: Callable[[int], bytes]

    def __bytes__(self) -> bytes:
        """All of it."""
        return self.opening + b"".join(self.unit(stream_id) for stream_id in range(3, 3 + 2 * FRAMES, 2))


RESETS, RESETS_ALLOWED = FRAMES // 4, 100

_HANG: Final = request_fields("Hang")
_OPEN: Final = headers(1, _HANG)
_LONG: Final = block(_HANG) + b"\x82" * 400
"""Few bytes that are a list of more than 16 KiB: an indexed field of 42 bytes again and again (RFC 7541, 4.1)."""

FLOODS: Final = {
    "PING": Flood(b"", lambda _: frame(PING, bytes(8))),
    "SETTINGS": Flood(b"", lambda _: settings()),
    "SETTINGS that say something": Flood(b"", lambda stream_id: settings((1, stream_id % 4096), (4, 65_535))),
    "empty DATA": Flood(_OPEN, lambda _: frame(DATA, stream_id=1)),
    "rapid reset": Flood(b"", lambda stream_id: headers(stream_id, _HANG) + reset(stream_id)),
    "CONTINUATION": Flood(frame(HEADERS, block(_HANG), stream_id=1), lambda _: frame(CONTINUATION, stream_id=1)),
    "PRIORITY": Flood(b"", lambda stream_id: frame(PRIORITY, bytes(5), stream_id=stream_id)),
    "WINDOW_UPDATE": Flood(_OPEN, lambda _: window_update(1, 1)),
    "WINDOW_UPDATE of the connection": Flood(b"", lambda _: window_update(0, 1)),
    "frames of no known kind": Flood(b"", lambda _: frame(0xBE, bytes(8))),
    "headers that are too long": Flood(
        b"", lambda stream_id: frame(HEADERS, _LONG, flags=END_STREAM | END_HEADERS, stream_id=stream_id)
    ),
    "DATA after the end": Flood(
        b"", lambda stream_id: headers(stream_id, _HANG, ends=True) + data(stream_id, EMPTY_MESSAGE)
    ),
    "overflow on each stream": Flood(
        b"", lambda stream_id: headers(stream_id, _HANG) + window_update(stream_id, LARGEST_WINDOW)
    ),
}

CANCELLED_NEXT: Final = 2 * RESETS_ALLOWED + 1
CANCELLED_CALLS: Final = b"".join(
    headers(stream_id, _HANG) + reset(stream_id) for stream_id in range(1, CANCELLED_NEXT, 2)
)

TOLERATED: Final = {
    "calls beyond the hundred": Flood(b"", lambda stream_id: headers(stream_id, _HANG)),
    "calls of no method": Flood(b"", lambda stream_id: call(stream_id, "Nope")),
    "good calls": Flood(b"", call),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_flood(certificates: Path, name: str) -> None:
    """A flood is ended, for being one or for what it breaks; others are served meanwhile, and nothing of it is left."""
    async with attacked(certificates) as program:
        outcome = await best_of(program, bytes(FLOODS[name]))
    print(f"{name}: {outcome}")
    assert outcome.goaway is not None
    codes = {ENHANCE_YOUR_CALM, STREAM_CLOSED} if name == "DATA after the end" else {ENHANCE_YOUR_CALM}
    assert outcome.goaway[0] in codes
    assert outcome.worst.worst_busy_ms < WORST_STALL_MS
    assert_bounded(outcome)


@pytest.mark.parametrize("name", TOLERATED)
async def test_tolerated_flood(certificates: Path, name: str) -> None:
    """A flood of calls, good or refused, costs others no pause and the server no memory, however long it lasts."""
    async with attacked(certificates) as program:
        outcome = await attack(program, bytes(TOLERATED[name]), is_closed=False)
    print(f"{name}: {outcome}")
    assert outcome.goaway is None
    assert outcome.worst.worst_busy_ms < WORST_STALL_MS
    assert_bounded(outcome)


def assert_bounded(outcome: Outcome) -> None:
    """Neither handlers nor memory go beyond their bounds, and the other client was served."""
    assert outcome.worst.peak_handlers <= HANDLERS
    assert outcome.growth_kib < MEMORY_KIB
    assert outcome.answered > 1


async def test_resets_within_the_allowance(certificates: Path) -> None:
    """Thousands of calls reset at once, as many to a connection as are allowed, are all taken and leave nothing."""
    async with attacked(certificates) as program, bystander(program) as other:
        before = await program.mark()
        async with other.calling():
            for _ in range(RESETS // RESETS_ALLOWED):
                async with attacking(program) as attacker:
                    await attacker.send(CANCELLED_CALLS + call(CANCELLED_NEXT))
                    last = await attacker.answer(CANCELLED_NEXT)
                    assert last is not None, attacker.goaway
        worst = await program.report()
        await program.until_nothing_is_left(before)
    print(f"resets: stall {worst.worst_stall_ms} ms, memory +{worst.peak_rss_kib - before.rss_kib} KiB")
    assert worst.peak_handlers <= HANDLERS
    assert worst.peak_rss_kib - before.rss_kib < MEMORY_KIB
