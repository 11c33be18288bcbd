"""As whom clients' jobs run."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import HostError, NoUserForJobs, OutputUnavailable, ServerBusy
from jobmaster.host.account import Account, account_of_client, look_up
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, UidRange
from jobmaster.run import accounts, uid_book
from jobmaster.run.accounts import LOOK_UP_SECONDS, AccountPolicy, Accounts, account_for
from jobmaster.run.uid_book import FILE_NAME
from tests.run.launching import DEADLINE

ROOT: Final = look_up("0")
WORKER: Final = Account(name="worker", uid=4_711, gid=4_711, groups=(4_711,), home="/home/worker")
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
    """A directory of users that does not answer."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.answers = threading.Event()

    def has_name(self, _number: int) -> bool:
        """As `user_ids.has_name`."""
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
    directory.is_asked.clear()
    for name in ("new", "newer"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, host, name)
            await trio.to_thread.run_sync(directory.is_asked.wait)
            assert await host.of("known") == known
            await wait_all_tasks_blocked()
            mock_clock.jump(LOOK_UP_SECONDS + 1)
    assert caplog.record_tuples[-1][1] == logging.ERROR
    assert "no user id for jobs of newer within 10 s" in caplog.text
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


async def _refused(host: Accounts, name: str) -> None:
    with pytest.raises(ServerBusy, match="directory of users"):
        await host.of(name)
