"""The calls whose entries are not in a file yet, in memory that outlives the server.

A server that is killed takes its queue with it. So each entry of a call is written here first, which no disk can hold up:
into a memfd that the launcher has, too, and gives to the next server, which writes what is missing. A ring: a record is
overwritten when its entry is in the file and its room is needed. What does not fit is in the queue alone, and counted here.

    header: magic, head, tail, missing and since when; then records: size, state, kind of reference, number, reference, line

A record's place, which never comes again, is its distance from the ring's first byte over all rounds. Its `number` is the one
its entry is just being written with: with how far the file has come, a later server knows whether it is there. An end refers
to the place of a beginning that has no number yet, and nothing ever changes that: the beginning's own record has the number
and tells whether it is one of the file, and so it stays as long as the end waits.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

RING_BYTES: Final = 2 * 1024 * 1024
"""Some 4,000 entries: those of a second of the fastest clients; commands with 16 KiB each fill it with 120."""
LARGEST: Final = RING_BYTES // 16
"""Bytes of a record, at most."""
_MAGIC: Final = b"jmaudit1"
_HEADER: Final = struct.Struct("=8sQQ")
_HEAD, _TAIL = 8, 16
_MISSING: Final = struct.Struct("=Qd")
_MISSING_AT: Final = 24
"""0 in the spools of servers that do not count them."""
_RECORD: Final = struct.Struct("=IBBHQQ")
_NUMBER_OF: Final = struct.Struct("=Q")
_STATE_AT, _NUMBER_AT = 4, 8
"""Where in a record its state and its number are."""
_WAITS, _DONE, _PADDING = range(3)
_NO_REFERENCE, _NUMBER, _PLACE = range(3)
_START: Final = 64
"""Where the ring begins."""


class Missing(NamedTuple):
    """So many entries, and since when, in seconds since the epoch."""

    entries: int
    since: float


@dataclass(frozen=True, slots=True)
class Spooled:
    """A record that an earlier server has left.

    Attributes:
        number: that its entry was being written with; 0: none.
        begun, begun_at: of a call's end, the number or the place of its beginning.
        is_done: it was written, or was not to be.
    """

    place: int
    number: int
    begun: int | None
    begun_at: int | None
    is_done: bool
    line: bytes


class Spool:
    """The ring in a memfd. Records are added on the event loop; their numbers are set in the thread that writes."""

    def __init__(self, descriptor: int) -> None:
        """Takes what is in the memfd, or makes it empty where that is none of this program's."""
        self._map = mmap.mmap(descriptor, _START + RING_BYTES)
        self._head: int
        self._tail: int
        magic, self._head, self._tail = _HEADER.unpack_from(self._map)
        if magic != _MAGIC or not 0 <= self._tail - self._head <= RING_BYTES:
            self._head = self._tail = 0
            _HEADER.pack_into(self._map, 0, _MAGIC, 0, 0)
        self._wanted: set[int | None] = {record.begun_at for record in self.records() if not record.is_done}
        """The places of the beginnings to which ends refer that wait; None, too, which is no place."""

    @property
    def missing(self) -> Missing:
        """The entries that are neither in a file nor here."""
        return Missing(*_MISSING.unpack_from(self._map, _MISSING_AT))

    def count_missing(self, change: int) -> None:
        """So many more are missing, or fewer."""
        count, since = self.missing
        _MISSING.pack_into(self._map, _MISSING_AT, max(0, count + change), since if count else time.time())

    def add(self, line: bytes, *, begun: int | None = None, begun_at: int | None = None) -> int | None:
        """Keeps a line; returns its place, None where there is no room.

        Args:
            line: of the entry.
            begun: of a call's end, the number of its beginning.
            begun_at: or its place, where it has no number yet.
        """
        size = _RECORD.size + len(line) + -len(line) % 8
        self._wanted.add(begun_at)  # first: the thread that writes may be done with it by now
        if size > LARGEST or not self._make_room(size):
            self._wanted.discard(begun_at)
            return None
        kind, reference = _NO_REFERENCE, 0
        if begun is not None:
            kind, reference = _NUMBER, begun
        elif begun_at is not None:
            kind, reference = _PLACE, begun_at
        place = self._tail
        at = _START + place % RING_BYTES
        self._map[at + _RECORD.size : at + _RECORD.size + len(line)] = line
        _RECORD.pack_into(self._map, at, size, _WAITS, kind, -len(line) % 8, 0, reference)
        self._move_tail(place + size)  # last: a record is whole, or not there
        return place

    def being_written(self, place: int, number: int) -> None:
        """The entry is about to be written with this number; 0: it was not."""
        _NUMBER_OF.pack_into(self._map, _START + place % RING_BYTES + _NUMBER_AT, number)

    def done(self, place: int) -> None:
        """The entry is written, or is not to be; to be told once, since others then have its room."""
        at = _START + place % RING_BYTES
        _, _, kind, _, _, reference = _RECORD.unpack_from(self._map, at)
        self._map[at + _STATE_AT] = _DONE
        if kind == _PLACE:
            self._wanted.discard(reference)

    def records(self) -> list[Spooled]:
        """What is there, in the order in which it was added."""
        found = []
        for at, place in self._places():
            size, state, kind, pad, number, reference = _RECORD.unpack_from(self._map, at)
            if state != _PADDING:
                found.append(
                    Spooled(
                        place=place,
                        number=number,
                        begun=reference if kind == _NUMBER else None,
                        begun_at=reference if kind == _PLACE else None,
                        is_done=state == _DONE,
                        line=self._map[at + _RECORD.size : at + size - pad],
                    )
                )
        return found

    def close(self) -> None:
        """Leaves the memory to whoever else has it."""
        self._map.close()

    def _places(self) -> Iterator[tuple[int, int]]:
        place = self._head
        while place < self._tail:
            at = place % RING_BYTES
            if RING_BYTES - at < _RECORD.size:
                place += RING_BYTES - at
                continue
            yield _START + at, place
            (size,) = struct.unpack_from("=I", self._map, _START + at)
            if not _RECORD.size <= size <= RING_BYTES:
                return  # none of this program's
            place += size

    def _make_room(self, size: int) -> bool:
        """Whether a record of this size can be added behind the tail, in one piece."""
        rest = RING_BYTES - self._tail % RING_BYTES
        if not self._free(size if rest >= size else rest + size):
            return False
        if rest < size:
            if rest >= _RECORD.size:
                _RECORD.pack_into(self._map, _START + self._tail % RING_BYTES, rest, _PADDING, 0, 0, 0, 0)
            self._move_tail(self._tail + rest)
        return True

    def _free(self, size: int) -> bool:
        """Gives up records that are done and not wanted, the oldest first, until so many bytes are free; whether they are."""
        while self._tail + size - self._head > RING_BYTES:
            at = self._head % RING_BYTES
            if RING_BYTES - at < _RECORD.size:
                self._move_head(self._head + RING_BYTES - at)
                continue
            length, state = struct.unpack_from("=IB", self._map, _START + at)
            if state == _WAITS or self._head in self._wanted:
                return False
            self._move_head(self._head + length)
        return True

    def _move_head(self, place: int) -> None:
        self._head = place
        struct.pack_into("=Q", self._map, _HEAD, place)

    def _move_tail(self, place: int) -> None:
        self._tail = place
        struct.pack_into("=Q", self._map, _TAIL, place)


def is_spool(descriptor: int) -> bool:
    """Whether this is the memfd of a spool that this program can use."""
    return os.fstat(descriptor).st_size == _START + RING_BYTES


def new_spool() -> int:
    """A descriptor of a memfd for a spool."""
    descriptor = os.memfd_create("jobmaster-audit", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _START + RING_BYTES)
    return descriptor
