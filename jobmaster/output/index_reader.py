"""Reading the file of an index by a descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from jobmaster.output.index import ENTRY_SIZE, HEADER_SIZE, Header, decode_header
from jobmaster.output.index_search import IndexView

T = TypeVar("T")

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def entry_position(number: int) -> int:
    """Where in the file an entry is."""
    return HEADER_SIZE + number * ENTRY_SIZE


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads entries of an open file."""

    fd: int

    def __call__(self, number: int, count: int) -> bytes:
        """As `ReadEntries`; raises OSError where the disk fails."""
        return os.pread(self.fd, count * ENTRY_SIZE, entry_position(number))


def with_index(path: Path, function: Callable[[int], T]) -> T | None:
    """Calls a function with a descriptor of an index, to be read; None where there is none.

    Raises:
        OSError: it cannot be opened, or the function raises it.
    """
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return None
    try:
        return function(fd)
    finally:
        os.close(fd)


def stored_view(fd: int) -> IndexView | None:
    """The index of an output that does not grow any more; None where its header is unusable.

    Raises:
        OSError: the disk fails.
    """
    header = decode_header(os.pread(fd, HEADER_SIZE, 0))
    return None if header is None else view_of(fd, header, os.fstat(fd).st_size)


def view_of(fd: int, header: Header, size: int) -> IndexView:
    """All that a file of this size has room for."""
    return IndexView(header, max(0, size - HEADER_SIZE) // ENTRY_SIZE, Reader(fd))
