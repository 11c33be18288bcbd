"""As whom clients' jobs run."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import HostError, JobError, NoUserForJobs, OutputUnavailable, ServerBusy
from jobmaster.host.account import Account, account_of_client, look_up
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, UidRange
from jobmaster.host.user_ids import IdsInUse, ids_in_use
from jobmaster.run import accounts, uid_book
from jobmaster.run.accounts import LOOK_UP_SECONDS, AccountPolicy, Accounts, account_for
from jobmaster.run.uid_book import FILE_NAME
from tests.run.launching import DEADLINE

ROOT: Final = look_up("0")
WORKER: Final = Account(name="worker", uid=4_711, gid=4_711, groups=(4_711,), home="/home/worker")
ONE: Final = UidRange(first=2_140_000_000, last=2_140_000_000)
THREE: Final = UidRange(first=2_140_000_000, last=2_140_000_002)


@pytest.mark.parametrize(
    ("policy", "client", "chosen"),
    [
        (AccountPolicy(common=WORKER), "client1", WORKER),
        (AccountPolicy(common=THREE), "client1", THREE),
        (AccountPolicy(common=THREE, of_clients={"client1": ROOT}), "client1", ROOT),
        (AccountPolicy(common=THREE, of_clients={"client1": ROOT}), "client2", THREE),
    ],
)
def test_the_decision(policy: AccountPolicy, client: str, chosen: Account | UidRange) -> None:
    """What is said of a client counts for it, and for all others what is said of all."""
    assert account_for(client, policy) == chosen


async def test_an_account_of_the_host(tmp_path: Path) -> None:
    """It is told at once, and nothing is written."""
    assert await Accounts(AccountPolicy(common=WORKER), tmp_path).of("client1") == WORKER
    assert list(tmp_path.iterdir()) == []


async def test_a_user_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that a client is to have, and that this host does not have, costs that client's Starts alone, until it is there."""
    missing = AccountPolicy(common=WORKER, of_clients={"client1": "no-such-user", "client2": "0"})
    host = Accounts(missing, tmp_path)
    with pytest.raises(NoUserForJobs, match="the user that this client's jobs run as is not there"):
        await host.of("client1")
    assert "clients.client1.run_as no-such-user: no such user on this host" in caplog.text
    assert await host.of("client2") == ROOT
    assert await host.of("client3") == WORKER


async def test_users_of_clients(tmp_path: Path) -> None:
    """Clients that come at the same time get a user each, the same one again and after a restart."""
    policy = AccountPolicy(common=DEFAULT_UID_RANGE)
    names = [f"client{number}" for number in range(20)]
    given: dict[str, Account] = {}
    host = Accounts(policy, tmp_path)

    async def ask(name: str) -> None:
        given[name] = await host.of(name)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(ask, name)
    assert len({account.uid for account in given.values()}) == len(names)
    for again in (host, Accounts(policy, tmp_path)):
        assert {name: await again.of(name) for name in names} == given
    assert given["client3"] == account_of_client("client3", given["client3"].uid)


async def test_a_policy_that_is_replaced(tmp_path: Path) -> None:
    """It counts from then on, and back it is as it was."""
    host = Accounts(AccountPolicy(common=THREE), tmp_path)
    first = await host.of("client1")
    host.policy = AccountPolicy(common=THREE, of_clients={"client1": WORKER})
    assert await host.of("client1") == WORKER
    host.policy = AccountPolicy(common=THREE)
    assert await host.of("client1") == first


async def test_a_range_that_is_used_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told whose the remedy is, and the operator what; those who have a user go on."""
    host = Accounts(AccountPolicy(common=THREE), tmp_path)
    for name in ("a", "b", "c"):
        await host.of(name)
    with pytest.raises(NoUserForJobs, match="its operator has to give it a larger --uid-range") as raised:
        await host.of("d")
    assert str(tmp_path) not in str(raised.value)
    assert str(tmp_path / FILE_NAME) in caplog.text
    assert (await host.of("a")).uid in THREE


async def test_a_file_that_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No job is started, the log has the remedy; a file that is put back counts at once."""
    host = Accounts(AccountPolicy(common=THREE), tmp_path)
    (tmp_path / FILE_NAME).write_text("?")
    with pytest.raises(NoUserForJobs, match="log tells its operator"):
        await host.of("a")
    assert "put it back from a backup" in caplog.text
    (tmp_path / FILE_NAME).write_text('{"version": 1, "clients": {"a": [2140000001]}}')
    assert (await host.of("a")).uid == 2_140_000_001


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, ServerBusy), (errno.EROFS, OutputUnavailable), (errno.EACCES, HostError)],
)
async def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    """The client is told whether it may come again, as for every file of a job, and gets its user when the disk works."""
    host = Accounts(AccountPolicy(common=THREE), tmp_path)

    def fail(path: Path, _book: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as broken:
        broken.setattr(uid_book, "_write", fail)
        with pytest.raises(kind):
            await host.of("a")
    assert (await host.of("a")).uid in THREE


class SlowDirectory:
    """A directory of users that does not answer, or not for some numbers."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.answers = threading.Event()
        self.slow: Container[int] = DEFAULT_UID_RANGE

    def has_name(self, number: int) -> bool:
        """As `user_ids.has_name`."""
        if number in self.slow or number in THREE:
            self.is_asked.set()
            assert self.answers.wait(DEADLINE)
        return False


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDirectory]:
    """Such a directory, which answers at the end of the test."""
    slow = SlowDirectory()
    monkeypatch.setattr(accounts, "has_name", slow.has_name)
    yield slow
    slow.answers.set()


async def test_a_directory_that_does_not_answer(
    tmp_path: Path, directory: SlowDirectory, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A new client is told so in time, so is the next one; who has a user waits for nothing; and then all goes on."""
    host = Accounts(AccountPolicy(common=THREE), tmp_path)
    directory.answers.set()
    known = await host.of("known")
    directory.answers.clear()
    for name in ("new", "newer"):
        directory.is_asked.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, host, name)
            await trio.to_thread.run_sync(directory.is_asked.wait)
            assert await host.of("known") == known
            await wait_all_tasks_blocked()
            mock_clock.jump(LOOK_UP_SECONDS + 1)
    assert caplog.record_tuples[-1][1] == logging.ERROR
    assert "no user for jobs of newer within 10 s: most of the time the host waited for its directory" in caplog.text
    directory.answers.set()
    uids = {(await host.of(name)).uid for name in ("known", "new", "newer")}
    assert uids == set(range(THREE.first, THREE.last + 1))
    assert (await Accounts(AccountPolicy(common=THREE), tmp_path).of("new")).uid == (await host.of("new")).uid


async def test_a_directory_that_does_not_answer_after_a_restart(
    tmp_path: Path, directory: SlowDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has a user has it at once, also where a new client was the first to ask, before the file was read."""
    directory.answers.set()
    known = await Accounts(AccountPolicy(common=THREE), tmp_path).of("known")
    directory.answers.clear()
    is_read, read = threading.Event(), uid_book._read

    def read_late(path: Path) -> uid_book.Book:
        assert is_read.wait(DEADLINE)
        return read(path)

    monkeypatch.setattr(uid_book, "_read", read_late)
    host = Accounts(AccountPolicy(common=THREE), tmp_path)
    given: list[Account] = []

    async def ask() -> None:
        given.append(await host.of("known"))
        asking.cancel()

    async with trio.open_nursery() as nursery:
        asking = nursery.cancel_scope
        nursery.start_soon(host.of, "new")
        await wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        is_read.set()
    assert given == [known]


async def _refused(host: Accounts, name: str, why: str = "directory of users") -> None:
    with pytest.raises(ServerBusy, match=why):
        await host.of(name)


NAMES: Final = [f"client{number}" for number in range(100)]


class Burst:
    """What a hundred new clients are told that come at once."""

    def __init__(self, host: Accounts) -> None:
        self.host = host
        self.uids: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}

    async def ask(self, name: str) -> None:
        """As the client's Start does."""
        try:
            self.uids[name] = (await self.host.of(name)).uid
        except (JobError, HostError) as error:
            self.errors[name] = error

    async def ask_all(self) -> None:
        """Returns when each has been told."""
        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(self.ask, name)


async def test_a_burst_of_new_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share two looks at the host and few writes; each has a number of its own, which is in the file."""
    looks, writes, may_look, may_write = 0, 0, threading.Event(), threading.Event()
    write = uid_book._write

    def look() -> IdsInUse:
        nonlocal looks
        looks += 1
        assert may_look.wait(DEADLINE)
        return ids_in_use()

    def write_late(path: Path, book: uid_book.Book) -> None:
        nonlocal writes
        writes += 1
        assert may_write.wait(DEADLINE)
        write(path, book)

    burst = Burst(Accounts(AccountPolicy(common=DEFAULT_UID_RANGE), tmp_path))
    await burst.ask("the first of all")
    monkeypatch.setattr(accounts, "ids_in_use", look)
    monkeypatch.setattr(uid_book, "_write", write_late)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(burst.ask_all)
        await wait_all_tasks_blocked()
        may_look.set()
        await wait_until(lambda: len(burst.host._writes.items) == len(NAMES))
        may_write.set()
    assert burst.errors == {}
    assert (looks, writes) == (2, 2)
    assert len(set(burst.uids.values())) == len(NAMES) + 1
    assert written(tmp_path) == {name: [uid] for name, uid in burst.uids.items()}


async def test_a_directory_that_does_not_answer_for_some(
    tmp_path: Path, directory: SlowDirectory, mock_clock: MockClock
) -> None:
    """Of a burst, those whose numbers it hangs at are told that it is the directory; all others get theirs meanwhile."""
    book = uid_book.UidBook(tmp_path)
    places = [next(book.search(name, DEFAULT_UID_RANGE)) for name in NAMES]
    held = [name for name, place in zip(NAMES, places, strict=True) if places.count(place) == 1][:: len(NAMES) // 3][:3]
    directory.slow = {places[NAMES.index(name)] for name in held}
    burst = Burst(Accounts(AccountPolicy(common=DEFAULT_UID_RANGE), tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(burst.ask_all)
        await wait_until(lambda: len(burst.uids) == len(NAMES) - len(held))
        mock_clock.jump(LOOK_UP_SECONDS + 1)
    assert set(burst.errors) == set(held)
    assert all(isinstance(error, ServerBusy) for error in burst.errors.values())
    assert all("directory of users" in str(error) for error in burst.errors.values())
    directory.answers.set()
    await burst.ask_all()
    assert len(set(burst.uids.values())) == len(NAMES)
    assert written(tmp_path) == {name: [uid] for name, uid in burst.uids.items()}


async def test_a_user_of_the_host_meanwhile(tmp_path: Path, directory: SlowDirectory) -> None:
    """A client whose user has a name waits for no new client's number, however many the directory hangs at."""
    policy = AccountPolicy(common=DEFAULT_UID_RANGE, of_clients={"named": "0"})
    burst = Burst(Accounts(policy, tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(burst.ask_all)
        await trio.to_thread.run_sync(directory.is_asked.wait)
        await wait_all_tasks_blocked()
        assert await burst.host.of("named") == ROOT
        assert (burst.uids, burst.errors) == ({}, {})
        nursery.cancel_scope.cancel()


async def test_a_burst_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told that, none that there is no number; then the disk works, and each has one of its own."""
    range_of_all = UidRange(first=2_140_000_000, last=2_140_000_000 + len(NAMES) - 1)
    burst = Burst(Accounts(AccountPolicy(common=range_of_all), tmp_path))

    def fail(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(burst.ask_all)
            nursery.start_soon(burst.ask, "one more")
    assert burst.uids == {}
    assert len(burst.errors) == len(NAMES) + 1
    assert {type(error) for error in burst.errors.values()} == {ServerBusy}
    assert all("No space left" in str(error) for error in burst.errors.values())
    burst.errors.clear()
    await burst.ask_all()
    assert burst.errors == {}
    assert set(burst.uids.values()) == set(range(range_of_all.first, range_of_all.last + 1))
    await burst.ask("one more")
    assert isinstance(burst.errors["one more"], NoUserForJobs)


async def test_a_burst_and_a_damaged_file(tmp_path: Path) -> None:
    """Each is told that it is for the operator, and the file is as it was."""
    (tmp_path / FILE_NAME).write_text("?")
    burst = Burst(Accounts(AccountPolicy(common=DEFAULT_UID_RANGE), tmp_path))
    await burst.ask_all()
    assert burst.uids == {}
    assert [type(burst.errors[name]) for name in NAMES] == [NoUserForJobs] * len(NAMES)
    assert (tmp_path / FILE_NAME).read_text() == "?"


async def test_a_later_start_of_one_new_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looks for a number after the first one's was written has the same, also where there is no other."""
    may_look = [threading.Event(), threading.Event()]
    left = iter(may_look)

    def look() -> IdsInUse:
        assert next(left).wait(DEADLINE)
        return ids_in_use()

    monkeypatch.setattr(accounts, "ids_in_use", look)
    burst = Burst(Accounts(AccountPolicy(common=ONE), tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(burst.ask, "a")
        nursery.start_soon(burst.ask, "a")
        await wait_until(lambda: burst.host._looks._gathering.callers == 1)
        may_look[0].set()
        await wait_until(lambda: "a" in burst.uids)
        may_look[1].set()
    assert burst.errors == {}
    assert written(tmp_path) == {"a": [ONE.first]}


@pytest.mark.parametrize("uids", [ONE, THREE, DEFAULT_UID_RANGE], ids=str)
async def test_starts_of_one_new_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uids: UidRange) -> None:
    """They have the same number, that of the first one, before it is written."""
    may_write, write = threading.Event(), uid_book._write

    def write_late(path: Path, book: uid_book.Book) -> None:
        assert may_write.wait(DEADLINE)
        write(path, book)

    monkeypatch.setattr(uid_book, "_write", write_late)
    burst = Burst(Accounts(AccountPolicy(common=uids), tmp_path))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(burst.ask, "a")
        await wait_until(lambda: burst.host._writes._gathering.callers == 19)
        may_write.set()
    assert burst.errors == {}
    assert written(tmp_path) == {"a": [burst.uids["a"]]}


@pytest.mark.parametrize("is_full", [True, False])
async def test_the_last_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool) -> None:
    """Who finds that it waits to be written for another client waits too: it is free again where the disk does not take it."""
    is_called, may_write, write = threading.Event(), threading.Event(), uid_book._write

    def write_late(path: Path, book: uid_book.Book) -> None:
        is_first = not is_called.is_set()
        is_called.set()
        assert may_write.wait(DEADLINE)
        if is_first and is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, book)

    monkeypatch.setattr(uid_book, "_write", write_late)
    burst = Burst(Accounts(AccountPolicy(common=ONE), tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(burst.ask, "a")
        await trio.to_thread.run_sync(is_called.wait)
        nursery.start_soon(burst.ask, "b")
        await wait_until(lambda: burst.host._writes._gathering.callers == 1 or "b" in burst.errors)
        may_write.set()
    assert {name: type(error) for name, error in burst.errors.items()} == (
        {"a": ServerBusy} if is_full else {"b": NoUserForJobs}
    )
    assert written(tmp_path) == {"b" if is_full else "a": [ONE.first]}


@pytest.mark.parametrize(
    ("module", "name", "why"),
    [
        (uid_book, "_read", "its disk to answer"),
        (accounts, "ids_in_use", "a look at its processes to end"),
        (uid_book, "_write", "its disk to answer"),
    ],
)
async def test_a_host_that_does_not_answer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: MockClock,
    module: ModuleType,
    name: str,
    why: str,
) -> None:
    """A new client is told what was waited for, and has its number when that answers; meanwhile nobody is given it."""
    is_called, answers, function = threading.Event(), threading.Event(), getattr(module, name)

    def hang(*args: object) -> object:
        is_called.set()
        assert answers.wait(DEADLINE)
        return function(*args)

    monkeypatch.setattr(module, name, hang)
    host = Accounts(AccountPolicy(common=THREE), tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_refused, host, "a", why)
        await trio.to_thread.run_sync(is_called.wait)
        mock_clock.jump(LOOK_UP_SECONDS + 1)
    answers.set()
    assert len({(await host.of(client)).uid for client in ("b", "a", "c")}) == 3


KILLED: Final = """
import sys, trio
from pathlib import Path
from jobmaster.host.uid_range import DEFAULT_UID_RANGE
from jobmaster.run.accounts import AccountPolicy, Accounts

async def ask(host, name):
    uid = (await host.of(name)).uid
    print(name, uid, flush=True)

async def main():
    host = Accounts(AccountPolicy(common=DEFAULT_UID_RANGE), Path(sys.argv[1]))
    for burst in range(1000):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, host, f"{sys.argv[2]}-{burst}-{number}")

trio.run(main)
"""
"""New clients without end, each of which is printed with its number when it is told."""


def test_a_server_that_is_killed(tmp_path: Path) -> None:
    """Whatever the moment, each number that a client was told is in the file as its own, and no other client's, then and later."""
    told: dict[str, int] = {}
    for killed_after in (1, 7, 23, 40):
        argv = [sys.executable, "-c", KILLED, str(tmp_path), f"run{killed_after}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(killed_after)]
            process.kill()
            lines += [line for line in process.stdout if line.endswith("\n")]
        assert process.returncode == -signal.SIGKILL
        told |= {name: int(uid) for name, uid in map(str.split, lines)}
        in_file = written(tmp_path)
        assert {name: in_file.get(name) for name in told} == {name: [uid] for name, uid in told.items()}
    assert len(set(told.values())) == len(told) >= 71


def written(folder: Path) -> dict[str, list[int]]:
    """What a file tells; a server on it would have it so."""
    uid_book.UidBook(folder).read()
    clients: dict[str, list[int]] = json.loads((folder / FILE_NAME).read_text())["clients"]
    return clients


async def wait_until(holds: Callable[[], bool]) -> None:
    """Returns when something holds that threads bring about; of any clock."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        await trio.lowlevel.checkpoint()
