"""The accounts of streams and windows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.frames import DEFAULT_WINDOW, LARGEST_WINDOW, ErrorCode, window_update
from jobmaster.http2.streams import REMEMBERED_CLOSED, ClosedBy, StreamTable


def new_table(stream_window: int = 100, connection_window: int = 300) -> tuple[StreamTable, list[bytes]]:
    """A table, and what it sends."""
    sent: list[bytes] = []
    return StreamTable(stream_window=stream_window, connection_window=connection_window, send=sent.append), sent


@pytest.mark.parametrize("local_first", [True, False])
def test_a_stream_ends_when_both_sides_have(local_first: bool) -> None:
    """One side's end leaves it open, whichever comes first."""
    table, _ = new_table()
    stream = table.add(1)
    ends = [table.end_local, table.end_remote]
    first, second = ends if local_first else reversed(ends)
    first(1, stream)
    assert 1 in table.open
    second(1, stream)
    assert table.open == {}
    assert table.closed_by(1) is ClosedBy.BOTH_ENDS


def test_resets() -> None:
    """A reset ends an open stream once; a peer that resets what we have reset is known to have heard of it."""
    table, _ = new_table()
    table.add(1)
    assert table.reset(1, ClosedBy.OUR_RESET)
    assert table.closed_by(1) is ClosedBy.OUR_RESET
    assert not table.reset(1, ClosedBy.PEER_RESET)
    assert table.closed_by(1) is ClosedBy.PEER_RESET
    assert not table.reset(1, ClosedBy.OUR_RESET)
    assert table.closed_by(1) is ClosedBy.PEER_RESET


@pytest.mark.parametrize("stream_id", [0, 2, 7, 2**31 - 1])
def test_idle_streams(stream_id: int) -> None:
    """No frame but the first can be for a stream that is still to come, or that a server would have to open."""
    table, _ = new_table()
    table.add(5)
    with pytest.raises(ProtocolViolation) as caught:
        table.closed_by(stream_id)
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


def test_ends_are_forgotten_in_time() -> None:
    """Of any number of ended streams, the last ones are known."""
    table, _ = new_table()
    streams = range(1, 1 + 2 * (REMEMBERED_CLOSED + 10), 2)
    for stream_id in streams:
        table.add(stream_id)
        table.reset(stream_id, ClosedBy.OUR_RESET)
    assert table.closed_by(streams[9]) is None
    assert table.closed_by(streams[10]) is ClosedBy.OUR_RESET


def test_window_comes_back_in_halves() -> None:
    """What has been taken is given back once it is half of a window, to the stream and to the connection."""
    table, sent = new_table()
    table.add(1)
    table.acknowledge(1, 49)
    assert sent == []
    table.acknowledge(1, 1)
    assert sent == [window_update(1, 50)]
    table.acknowledge(0, 100)
    assert sent == [window_update(1, 50), window_update(0, 150)]


def test_no_window_for_a_stream_that_has_ended() -> None:
    """Who has sent its last byte on a stream needs no window there."""
    table, sent = new_table()
    table.end_remote(1, table.add(1))
    table.acknowledge(1, 149)
    assert sent == []
    table.acknowledge(7, 1)
    assert sent == [window_update(0, 150)]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=50))
def test_what_is_handed_back_can_be_received(turns: list[tuple[int, int]]) -> None:
    """The peer may always send what it was told of, and one byte more is a violation."""
    table, sent = new_table()
    told, untaken = 300, 0
    for received, taken in turns:
        if received > told:
            with pytest.raises(ProtocolViolation) as caught:
                table.count_received(received)
            assert caught.value.code is ErrorCode.FLOW_CONTROL_ERROR
            return
        table.count_received(received)
        told, untaken = told - received, untaken + received
        taken = min(taken, untaken)
        untaken -= taken
        table.acknowledge(0, taken)
        told += sum(int.from_bytes(update[9:], "big") for update in sent)
        sent.clear()
        assert told + untaken <= 300


def test_a_window_apart() -> None:
    """A stream's window grows, the connection's by all that it is then; later what has come is kept back from the latter."""
    table, sent = new_table()
    stream = table.add(1)
    assert table.set_window_apart(1, 1000) == 1100
    assert sent == [window_update(1, 1000), window_update(0, 1100)]
    sent.clear()
    table.count_received(1400)
    stream.receive_window -= 1100
    table.acknowledge(1, 549)
    assert sent == [window_update(0, 549)]
    table.acknowledge(1, 1)
    assert sent[1:] == [window_update(1, 550)]
    table.take_window_back(1100)
    sent.clear()
    table.acknowledge(1, 850)
    assert sent == [window_update(1, 850)]
    table.acknowledge(0, 250 + 149)
    assert sent[1:] == [window_update(0, 150)]


def test_a_window_apart_that_comes_and_goes() -> None:
    """However often without any data: the connection's window never becomes larger than once."""
    table, sent = new_table()
    for stream_id in range(1, 200, 2):
        table.add(stream_id)
        table.take_window_back(table.set_window_apart(stream_id, 0))
    assert sent == [window_update(0, 100)]
    table.add(201)
    table.set_window_apart(201, 30)
    assert sent[1:] == [window_update(201, 30), window_update(0, 30)]


def test_no_window_apart_for_a_stream_that_has_ended() -> None:
    """It takes nothing, and the connection's window stays as it is."""
    table, sent = new_table()
    table.end_remote(1, table.add(1))
    assert (table.set_window_apart(1, 1000), table.set_window_apart(3, 1000)) == (0, 0)
    assert sent == []


def test_send_window_is_the_smaller_one() -> None:
    """A stream and its connection both have to have room; a stream that is over has none."""
    table, _ = new_table()
    stream = table.add(1)
    assert table.send_window(1) == DEFAULT_WINDOW
    table.count_sent(1, DEFAULT_WINDOW - 10)
    assert table.send_window(1) == 10
    stream.send_window += 1000
    assert table.send_window(1) == 10
    table.increment_connection_window(2000)
    assert table.send_window(1) == 1010
    assert table.send_window(3) == 0


def test_a_window_may_become_negative() -> None:
    """A peer that shrinks what streams begin with takes window back (RFC 9113, 6.9.2), and gives it again."""
    table, _ = new_table()
    table.add(1)
    table.count_sent(1, 1000)
    table.set_initial_window(500)
    assert table.send_window(1) == 0
    table.set_initial_window(1500)
    assert table.send_window(1) == 500
    table.add(3)
    assert table.send_window(3) == 1500


def test_windows_have_a_largest_size() -> None:
    """2^31-1, whether it is exceeded by an update or by what streams begin with."""
    table, _ = new_table()
    table.increment_connection_window(LARGEST_WINDOW - DEFAULT_WINDOW)
    with pytest.raises(ProtocolViolation):
        table.increment_connection_window(1)
    table.add(1).send_window += 1
    with pytest.raises(ProtocolViolation):
        table.set_initial_window(LARGEST_WINDOW)
    with pytest.raises(ProtocolViolation):
        new_table()[0].set_initial_window(LARGEST_WINDOW + 1)
