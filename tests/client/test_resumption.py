"""One output over several calls, without a connection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.client.resumption import Extent, OutputIncomplete, Resumption
from jobmaster.jobs.v1 import jobs_pb2 as pb


def pieces(output: bytes, size: int) -> list[bytes]:
    """An output as a server might cut it into messages."""
    return [output[start : start + size] for start in range(0, len(output), size)]


@given(
    output=st.binary(max_size=200),
    calls=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 200)), max_size=8),
    last_size=st.integers(1, 50),
)
@settings(deadline=None)
def test_each_byte_comes_once(output: bytes, calls: list[tuple[int, int]], last_size: int) -> None:
    """However calls are cut into messages and wherever they break, what is given on is the output, byte for byte."""
    resumption = Resumption()
    received = b""
    for size, breaks_at in calls:
        resumption.call_begins()
        for chunk in pieces(output[:breaks_at], size):
            received += resumption.take(chunk)
    resumption.call_begins()
    for chunk in pieces(output, last_size):
        received += resumption.take(chunk)
    resumption.call_ends()
    assert received == output
    assert resumption.received == len(output)


def test_a_chunk_that_is_all_new_is_not_copied() -> None:
    """Where nothing is skipped a chunk is given on as it is."""
    resumption = Resumption()
    resumption.call_begins()
    chunk = b"x" * 100
    assert resumption.take(chunk) is chunk


def test_an_output_that_became_shorter() -> None:
    """A call that ends before it has come to where the last one was is an error, with the bytes that are missing."""
    resumption = Resumption()
    resumption.call_begins()
    resumption.take(b"0123456789")
    resumption.call_begins()
    resumption.take(b"0123456")
    with pytest.raises(OutputIncomplete, match="3 bytes shorter"):
        resumption.call_ends()


def test_the_second_call_is_a_resumption() -> None:
    """Only from the second call on the server is one that should know the job."""
    resumption = Resumption()
    resumption.call_begins()
    assert not resumption.is_resumed
    resumption.call_begins()
    assert resumption.is_resumed


@given(
    written=st.binary(max_size=200),
    calls=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 200), st.integers(0, 100)), max_size=8),
    last_size=st.integers(1, 50),
)
@settings(deadline=None)
def test_each_byte_comes_once_or_is_counted(written: bytes, calls: list[tuple[int, int, int]], last_size: int) -> None:
    """Whatever is dropped of an output from call to call, each of its bytes is given on once or counted, in order."""
    extent, got, dropped = Extent(), bytearray(), 0
    for size, most, more in [*calls, (last_size, len(written), 0)]:
        dropped = min(len(written), dropped + more)
        offset, end = extent.call_begins(), min(len(written), most)
        while offset < end:
            before, begun = extent.offset, offset
            if offset < dropped:
                offset = min(dropped, end)
                extent.take_gap(begun, offset - begun, pb.GAPREASON_CAPPED)
            else:
                offset = min(offset + size, end)
                fresh = extent.take(begun, written[begun:offset])
                assert fresh == written[before : extent.offset]
                got += fresh
    extent.call_ends()
    assert extent.offset == len(written)
    assert len(got) == extent.received == len(written) - extent.dropped
    assert extent.is_whole is (extent.dropped == 0)


def test_an_extent_asks_for_the_last_byte_again() -> None:
    """A call that is made anew begins one byte earlier, and a chunk that is all new is given on as it is."""
    extent, chunk = Extent(), b"x" * 100
    assert extent.call_begins() == 0
    assert extent.take(0, chunk) is chunk
    assert (extent.call_begins(), extent.is_resumed) == (99, True)
    with pytest.raises(OutputIncomplete, match="shorter than the 100 bytes"):
        extent.call_ends()
    assert extent.take(99, b"xyz") == b"yz"
    extent.call_ends()
