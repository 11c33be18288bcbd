"""One output over several calls, without a connection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.client.resumption import OutputIncomplete, Resumption


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
