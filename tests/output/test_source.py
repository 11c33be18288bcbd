"""A job's pipe, as its end is seen without a thread."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from jobmaster.output.index import Stream
from jobmaster.output.pump import open_pipe
from jobmaster.output.source import Source


@pytest.fixture
def ends() -> Iterator[tuple[Source, int]]:
    """A source and the write end of its pipe."""
    read_end, write_end = open_pipe()
    source = Source(read_end, Stream.STDOUT)
    try:
        yield source, write_end
    finally:
        os.close(read_end)


def test_a_pipe_is_spent_when_it_is_empty_and_closed(ends: tuple[Source, int]) -> None:
    """Neither an open writer nor bytes that are not read yet are the end."""
    source, write_end = ends
    assert not source.is_spent()
    os.write(write_end, b"x")
    assert not source.is_spent()
    os.close(write_end)
    assert not source.is_spent()
    os.read(source.pipe, 1)
    assert source.is_spent()


def test_bytes_that_come_during_the_look(ends: tuple[Source, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are written, and their pipe closed, between poll's look for bytes and that for writers are not missed."""
    source, write_end = ends
    os.close(write_end)
    looks = [select.POLLHUP, select.POLLIN | select.POLLHUP]

    class Poll:
        def register(self, fd: int, _events: int) -> None:
            assert fd == source.pipe

        def poll(self, _timeout: int) -> list[tuple[int, int]]:
            return [(source.pipe, looks.pop(0))]

    monkeypatch.setattr(select, "poll", Poll)
    assert not source.is_spent()
    assert looks == []
