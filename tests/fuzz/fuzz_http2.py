"""Coverage-guided fuzzing of the server's side of HTTP/2, with atheris (libFuzzer).

    python -m tests.fuzz.fuzz_http2 [libFuzzer options] [corpus folders]

It ends after 60 seconds unless `-max_total_time` says otherwise. Three things are bugs: an exception that is not a
ProtocolViolation, another outcome when the same bytes are cut differently, and more held than one frame and one block.

The first byte of an input says how the handler answers and whether frames are built from the rest or the rest is
taken as it is. Built frames are always whole, so that mutation changes what they say and not where they end.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["jobmaster.http2", "hpack"]):
    from tests.fuzz.answering_server import Answer, AnsweringServer
    from tests.fuzz.hostile_bytes import OPENING, REQUEST, frame
    from tests.fuzz.test_http2_fuzz import assert_little_is_held, outcome

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


def test_one_input(data: bytes) -> None:
    """Called by libFuzzer with each input."""
    provider = atheris.FuzzedDataProvider(data)
    answer = Answer(provider.ConsumeIntInRange(0, len(Answer) - 1))
    cut = provider.ConsumeIntInRange(0, 255)
    as_it_is = provider.ConsumeBool()
    stream = OPENING + provider.ConsumeBytes(len(data)) if as_it_is else built(provider)

    if outcome([stream[:cut], stream[cut:]])[1:] != outcome([stream])[1:]:
        raise AssertionError("the outcome depends on the cutting")
    server = AnsweringServer()
    if server.receive_and_answer(stream[: len(stream) // 2], answer):
        for stream_id in sorted(server.calls):
            server.answer(stream_id, Answer.TRAILERS_AND_RESET)
        server.receive_and_answer(stream[len(stream) // 2 :], answer)
    assert_little_is_held(server)


def main() -> None:
    """Fuzzes with the options of the command line."""
    options = sys.argv
    if not any(option.startswith("-max_total_time") for option in options):
        options = [*options, f"-max_total_time={SECONDS}"]
    atheris.Setup(options, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
