"""Which client's jobs have which user id: a file in the state folder, for good.

Files that jobs have left belong to a number. So a number that a client once had is never another's, whether the client is
gone or the range is another one now; and the file is on the disk before a number is used. A client's number is looked for
from a place of its own in the range, which the state folder and the client's name give: so a client gets its number again where
the file is lost, and two servers that share a range rarely meet in it.

The file is `{"version": 1, "clients": {"client1": [2100012345]}}`: all that a client ever had, the newest last.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from jobmaster.errors import HostError, ServerBusy
from jobmaster.host.uid_range import UidRange

FILE_NAME: Final = "uids.json"
_VERSION: Final = 1
_PIECE: Final = 1024 * 1024

Book = Mapping[str, tuple[int, ...]]


class BookDamaged(HostError):
    """The file is there, and is none of ours or of a later version; it is left as it is."""


class RangeExhausted(HostError):
    """Every number of the range is some client's, or is in use on this host."""


class UidBook:
    """The file and what is in it, which is read once, first of all.

    Two threads must not call `read` at once, nor `add`; all else may be called at any time, from any thread. Two instances on one
    folder would not see each other's numbers: the folder is locked by its server.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._book: Book | None = None

    @property
    def is_read(self) -> bool:
        """Whether the file is in memory. Does not block."""
        return self._book is not None

    def known(self, client: str, uids: UidRange) -> int | None:
        """The client's number in the range, where that is in memory. Does not block."""
        return None if self._book is None else number_in(self._book, client, uids)

    def has(self, number: int) -> bool:
        """Whether it is some client's. Does not block."""
        return any(number in of_client for of_client in self._read_book.values())

    def read(self) -> None:
        """Has the file in memory from now on. Blocks.

        Raises:
            BookDamaged: it is none of ours.
            OSError: it cannot be read.
        """
        if self._book is None:
            self._book = _read(self.path)

    def search(self, client: str, uids: UidRange) -> Iterator[int]:
        """Every number of the range once, in the order in which one for this client is looked for."""
        return uids.beginning_at(place_of(self.path.parent, client))

    def next_free(self, numbers: Iterator[int], is_in_use: Callable[[int], bool], *, seconds: float) -> int | None:
        """The next number of a search that is no client's, nor in use on this host; None: there is none. May block.

        Args:
            numbers: the search, which can be gone on with.
            is_in_use: tells whether a number is somebody's on this host.
            seconds: how long it is looked for.

        Raises:
            ServerBusy: none was found in time.
        """
        deadline = time.monotonic() + seconds
        given = {number for of_client in self._read_book.values() for number in of_client}
        for number in numbers:
            if number in given:
                continue
            if not is_in_use(number):
                return number
            if time.monotonic() > deadline:
                raise ServerBusy("the server found no free user id for this client's jobs in time; try again later")
        return None

    def add(self, given: Collection[tuple[str, int]]) -> None:
        """Gives clients numbers that nobody has; all of them are on the disk when this returns, in one write. Blocks.

        Those that are in the book already make no difference.

        Raises:
            OSError: the file cannot be written; none of them was given.
        """
        book = dict(self._read_book)
        for client, number in given:
            if number not in (of_client := book.get(client, ())):
                book[client] = (*of_client, number)
        if book != self._read_book:
            _write(self.path, book)
            self._book = book

    @property
    def _read_book(self) -> Book:
        if self._book is None:
            raise AssertionError("the file is read first of all")
        return self._book


def number_in(book: Book, client: str, uids: UidRange) -> int | None:
    """The client's newest number that is in the range."""
    return next((number for number in reversed(book.get(client, ())) if number in uids), None)


def place_of(folder: Path, client: str) -> int:
    """Where in a range a client's number is looked for first."""
    return int.from_bytes(sha256(os.fsencode(folder) + b"\0" + client.encode()).digest()[:8])


def _read(path: Path) -> Book:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return {}
    try:
        return _decoded(b"".join(iter(lambda: os.read(fd, _PIECE), b"")), path)
    finally:
        os.close(fd)


def _decoded(text: bytes, path: Path) -> Book:
    try:
        document = json.loads(text)
        clients = {client: tuple(numbers) for client, numbers in document["clients"].items()}
        is_known = document["version"] == _VERSION
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        clients, is_known = {}, False
    numbers = [number for each in clients.values() for number in each]
    if not is_known or any(type(number) is not int for number in numbers) or len({*numbers}) != len(numbers):
        raise BookDamaged(
            f"{path} does not tell which client's jobs have which user id: put it back from a backup. Without one, remove it: "
            "then most clients get their numbers again, and none is sure to"
        )
    return clients


def _write(path: Path, book: Book) -> None:
    """Replaces the file; it is on the disk with this name when this returns, or it is as it was.

    Raises:
        OSError: it may be either.
    """
    new = path.with_name(f"{path.name}.new")
    text = json.dumps({"version": _VERSION, "clients": book}, indent=1).encode() + b"\n"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
