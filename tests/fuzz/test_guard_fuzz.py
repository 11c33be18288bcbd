"""The guard before any bytes at all, and before h2."""

from __future__ import annotations

from itertools import pairwise

from h2.errors import ErrorCodes
from hypothesis import example, given
from hypothesis import strategies as st

from jobmaster.transport.guard import FrameGuard, GuardViolation
from tests.fuzz.guarded_server import Answer, GuardedServer
from tests.fuzz.hostile_bytes import OPENING, REQUEST, frame, frames, streams

Outcome = tuple[list[bytes], tuple[ErrorCodes, str] | None, bool]

answers = st.sampled_from(Answer)


def outcome(pieces: list[bytes]) -> Outcome:
    """What the guard hands on of pieces, why it ended, and whether the client said that it is leaving."""
    guard = FrameGuard(is_live=lambda stream_id: stream_id == 1, highest_stream_id=lambda: 3)
    handed_on: list[bytes] = []
    try:
        for piece in pieces:
            handed_on.extend(guard.receive(piece, 0.0))
    except GuardViolation as violation:
        return handed_on, (violation.error_code, violation.reason), guard.client_is_leaving
    return handed_on, None, guard.client_is_leaving


@given(streams, st.data())
def test_any_cutting_gives_the_same_outcome(stream: bytes, data: st.DataObject) -> None:
    """However the bytes are cut into reads, the same frames pass and the same violation ends them."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    assert outcome([stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]) == outcome([stream])


@given(streams.map(lambda stream: stream[:1000]))
def test_byte_by_byte(stream: bytes) -> None:
    """The finest cutting gives the same outcome too."""
    assert outcome([bytes([byte]) for byte in stream]) == outcome([stream])


@given(streams)
def test_a_piece_is_the_preface_or_one_whole_frame(stream: bytes) -> None:
    """h2 never has to wait for the rest of a frame, nor to cut several apart."""
    handed_on, _, _ = outcome([stream])
    for piece in handed_on[1:]:
        assert len(piece) == 9 + int.from_bytes(piece[:3], "big")


@given(streams, answers)
@example(OPENING + frame(9, 4, 1, b""), Answer.NOTHING)
@example(OPENING + frame(1, 4, 1, REQUEST + b"\x00\x00\x01v"), Answer.NOTHING)
@example(OPENING + frame(1, 4, 1, b"\xff" * 9000 + b"\0"), Answer.NOTHING)
def test_h2_never_raises_but_its_own(stream: bytes, answer: Answer) -> None:
    """What passes the guard ends in events or in a ProtocolError of h2, which has an answer to it, whatever came."""
    GuardedServer().receive_and_answer(stream, answer)


@given(st.lists(st.tuples(st.lists(frames, max_size=3).map(b"".join), answers), max_size=12))
def test_h2_never_raises_but_its_own_between_answers(turns: list[tuple[bytes, Answer]]) -> None:
    """The same for a client that goes on after each answer: on streams that are answered, reset or half closed."""
    server = GuardedServer()
    server.receive(OPENING)
    for received, answer in turns:
        if not server.receive_and_answer(received, answer):
            break
        server.answer(1, answer)
