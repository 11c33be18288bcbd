"""Coverage-guided fuzzing of the guard and of h2 behind it, with atheris (libFuzzer).

    python -m tests.fuzz.fuzz_guard [libFuzzer options] [corpus folders]

It ends after 60 seconds unless `-max_total_time` says otherwise. Three things are bugs: an exception that is neither
the guard's nor h2's, another outcome when the same bytes are cut differently, and a piece that is not a whole frame.

The first byte of an input says how the handler answers and whether frames are built from the rest or the rest is
taken as it is. Built frames are always whole, so that mutation changes what they say and not where they end.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["jobmaster.transport", "h2", "hpack", "hyperframe"]):
    from jobmaster.transport.guard import FrameGuard, GuardViolation
    from tests.fuzz.guarded_server import Answer, GuardedServer
    from tests.fuzz.hostile_bytes import OPENING, REQUEST, frame

SECONDS: Final = 60
KINDS: Final = (0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10, 0x40)
STREAMS: Final = (0, 1, 1, 1, 2, 3, 5, 2**31 - 1)


def built(provider: Any) -> bytes:
    """Whole frames with the fields that the fuzzer chose."""
    parts = [OPENING]
    while provider.remaining_bytes():
        kind = KINDS[provider.ConsumeIntInRange(0, len(KINDS) - 1)]
        flags = provider.ConsumeIntInRange(0, 255)
        stream_id = STREAMS[provider.ConsumeIntInRange(0, len(STREAMS) - 1)]
        payload = REQUEST if provider.ConsumeBool() else b""
        parts.append(frame(kind, flags, stream_id, payload + provider.ConsumeBytes(provider.ConsumeIntInRange(0, 63))))
    return b"".join(parts)


def outcome(pieces: list[bytes]) -> tuple[list[bytes], str]:
    """What a guard with one live stream makes of the pieces."""
    guard = FrameGuard(is_live=lambda stream_id: stream_id == 1, highest_stream_id=lambda: 3)
    handed_on: list[bytes] = []
    try:
        for piece in pieces:
            handed_on.extend(guard.receive(piece, 0.0))
    except GuardViolation as violation:
        return handed_on, violation.reason
    return handed_on, ""


def test_one_input(data: bytes) -> None:
    """Called by libFuzzer with each input."""
    provider = atheris.FuzzedDataProvider(data)
    answer = Answer(provider.ConsumeIntInRange(0, len(Answer) - 1))
    cut = provider.ConsumeIntInRange(0, 255)
    as_it_is = provider.ConsumeBool()
    stream = OPENING + provider.ConsumeBytes(len(data)) if as_it_is else built(provider)

    whole, reason = outcome([stream])
    if outcome([stream[:cut], stream[cut:]]) != (whole, reason):
        raise AssertionError("the outcome depends on the cutting")
    if any(len(piece) != 9 + int.from_bytes(piece[:3], "big") for piece in whole[1:]):
        raise AssertionError("a piece is not a whole frame")

    server = GuardedServer(streams=4)
    if server.receive_and_answer(stream[: len(stream) // 2], answer):
        for stream_id in sorted(server.calls):
            server.answer(stream_id, Answer.TRAILERS_AND_RESET)
        server.receive_and_answer(stream[len(stream) // 2 :], answer)


def main() -> None:
    """Fuzzes with the options of the command line."""
    options = sys.argv
    if not any(option.startswith("-max_total_time") for option in options):
        options = [*options, f"-max_total_time={SECONDS}"]
    atheris.Setup(options, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
