"""The file of user ids."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Final

import pytest

from jobmaster.errors import ServerBusy
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, UidRange
from jobmaster.run.uid_book import FILE_NAME, BookDamaged, UidBook, place_of

FOUR: Final = UidRange(first=5_000, last=5_003)
OTHER: Final = UidRange(first=7_000, last=7_003)


def given(book: UidBook, client: str, uids: UidRange = FOUR, *in_use: int) -> int:
    """The client's number on a host that uses some."""
    book.read()
    number = book.known(client, uids)
    if number is None:
        number = book.next_free(book.search(client, uids), in_use.__contains__, seconds=60)
        if number is None:
            raise NoneFree
        book.add([(client, number)])
    return number


class NoneFree(Exception):
    """Every number of a range is taken."""


def test_a_client_has_its_own_for_good(tmp_path: Path) -> None:
    """It is the same each time, in each server on this folder, and another client's is another."""
    book = UidBook(tmp_path)
    numbers = [given(book, client) for client in ("a", "b", "c", "d")]
    assert sorted(numbers) == [5_000, 5_001, 5_002, 5_003]
    for again in (book, UidBook(tmp_path)):
        assert [given(again, client) for client in ("a", "b", "c", "d")] == numbers


def test_it_is_on_the_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's content, then its name are synced before the number is told; its form is what files of earlier servers have."""
    synced: list[str] = []

    def note(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    monkeypatch.setattr(os, "fsync", note)
    number = given(UidBook(tmp_path), "client1")
    assert synced == [f"{FILE_NAME}.new", tmp_path.name]
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"version": 1, "clients": {"client1": [number]}}
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("is_first", [True, False])
def test_a_disk_that_does_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool) -> None:
    """No number is given, those that were are as they were, and with a disk that works there is one."""
    book = UidBook(tmp_path)
    if not is_first:
        given(book, "a")

    def fail(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            given(book, "b")
    assert book.known("b", FOUR) is None
    assert given(UidBook(tmp_path), "a") == given(book, "a")
    assert given(book, "b") != given(book, "a")


def test_what_the_host_uses_is_given_to_nobody(tmp_path: Path) -> None:
    """Numbers in use are passed over, and there may be no other left; what is a client's already is in use by its own jobs."""
    book = UidBook(tmp_path)
    assert given(book, "a", FOUR, 5_000, 5_001, 5_003) == 5_002
    with pytest.raises(NoneFree):
        given(book, "b", FOUR, 5_000, 5_001, 5_003)
    assert given(book, "a", FOUR, 5_000, 5_001, 5_002, 5_003) == 5_002, "it is in use by its own jobs"
    assert {given(book, client) for client in ("b", "c", "d")} == {5_000, 5_001, 5_003}
    with pytest.raises(NoneFree):
        given(book, "e")


def test_a_client_that_is_gone_keeps_its_own(tmp_path: Path) -> None:
    """Its number is no other client's, also in another range and back: there a client has the one that it had."""
    book = UidBook(tmp_path)
    first = given(book, "a")
    second = given(book, "a", OTHER)
    assert (first in FOUR, second in OTHER) == (True, True)
    both = UidRange(first=5_000, last=7_003)
    assert given(book, "a", both) == second, "the newest"
    others = {given(book, str(number)) for number in range(3)}
    assert others == set(range(5_000, 5_004)) - {first}
    assert given(UidBook(tmp_path), "a") == first


def test_a_lost_file(tmp_path: Path) -> None:
    """Clients get the numbers that they had, whoever comes first, unless two have the same place in the range."""
    clients = ("client1", "client2", "client3", "superuser")
    book = UidBook(tmp_path)
    numbers = {client: given(book, client, DEFAULT_UID_RANGE) for client in clients}
    (tmp_path / FILE_NAME).unlink()
    book = UidBook(tmp_path)
    assert {client: given(book, client, DEFAULT_UID_RANGE) for client in reversed(clients)} == numbers


def test_servers_that_share_a_range(tmp_path: Path) -> None:
    """A client of the same name has another place there."""
    assert place_of(tmp_path / "a", "client1") != place_of(tmp_path / "b", "client1")


def test_what_is_known_is_in_memory(tmp_path: Path) -> None:
    """Nothing is before the first look, and nothing of another range."""
    number = given(UidBook(tmp_path), "a")
    book = UidBook(tmp_path)
    assert book.known("a", FOUR) is None
    given(book, "b")
    assert (book.known("a", FOUR), book.known("a", OTHER), book.known("c", FOUR)) == (number, None, None)


def test_a_search_has_an_end(tmp_path: Path) -> None:
    """A host that answers for each number, but slowly, does not hold a Start for ever; nothing is written."""
    book = UidBook(tmp_path)
    book.read()
    with pytest.raises(ServerBusy, match="no free user id"):
        book.next_free(book.search("a", FOUR), FOUR.__contains__, seconds=-1)


def test_a_search_that_goes_on(tmp_path: Path) -> None:
    """It gives every number that is free once, from the client's own place on."""
    book = UidBook(tmp_path)
    book.read()
    search = book.search("a", FOUR)
    numbers = [book.next_free(search, {5_002}.__contains__, seconds=60) for _ in range(5)]
    assert numbers[0] == next(number for number in book.search("a", FOUR) if number != 5_002)
    assert {*numbers[:3]} == {5_000, 5_001, 5_003}
    assert numbers[3:] == [None, None]


def test_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of many clients are one write; those that are in the file already are none, and are not there twice."""
    book = UidBook(tmp_path)
    book.read()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    book.add([("a", 5_000), ("b", 5_001), ("a", 7_000)])
    assert len(synced) == 2
    book.add([("b", 5_001), ("a", 5_000)])
    assert len(synced) == 2
    for each in (book, UidBook(tmp_path)):
        each.read()
        assert [each.known("a", FOUR), each.known("a", OTHER), each.known("b", FOUR)] == [5_000, 7_000, 5_001]
        assert [each.has(number) for number in (5_000, 5_001, 7_000, 7_001)] == [True, True, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"version": 1}',
        '{"version": 2, "clients": {}}',
        '{"version": 1, "clients": []}',
        '{"version": 1, "clients": {"a": 5000}}',
        '{"version": 1, "clients": {"a": "5000"}}',
        '{"version": 1, "clients": {"a": ["5000"]}}',
        '{"version": 1, "clients": {"a": [true]}}',
        '{"version": 1, "clients": {"a": [[5000]]}}',
        '{"version": 1, "clients": {"a": [5000], "b": [5000]}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_damaged(tmp_path: Path, text: str) -> None:
    """It is never replaced, and nobody gets a number that might be another's; the remedy is said."""
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(BookDamaged, match=f"{FILE_NAME} .* backup"):
        given(UidBook(tmp_path), "a")
    assert (tmp_path / FILE_NAME).read_text() == text


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """A link or a FIFO in its place is not followed, nor waited for."""
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        given(UidBook(tmp_path), "a")
    (tmp_path / FILE_NAME).unlink()
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(BookDamaged):
        given(UidBook(tmp_path), "a")
