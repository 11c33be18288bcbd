"""As whom a client's jobs run: an account of the host, or a user id that is this client's alone.

What a client has once is told from memory, into which the first Start reads it from the disk. A client that is new needs the
host's tables of users, which may be a directory service's that does not answer: for that there are threads of their own, which
nobody else waits for, and a deadline. All clients that are new at the same time share one look at the host's processes and one
write of the file. A number is a client's from the moment at which it waits to be written, so that nobody else takes it; where
that fails it is nobody's again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import trio

from jobmaster.errors import ConfigurationError, NoUserForJobs, ServerBusy
from jobmaster.host.account import Account, account_of_client, look_up
from jobmaster.host.uid_range import UidRange
from jobmaster.host.user_ids import IdsInUse, has_name, ids_in_use
from jobmaster.run.batches import Batches
from jobmaster.run.start_errors import host_errors_translated
from jobmaster.run.uid_book import BookDamaged, RangeExhausted, UidBook
from jobmaster.threads import run_in_thread

logger = logging.getLogger(__name__)

LOOK_UP_SECONDS: Final = 10.0
"""How long a client's first Start waits for a user id."""
DIRECTORY_THREADS: Final = 4
"""For how many clients' numbers the directory of users is asked at the same time, and for how many users' names; a question
that it does not answer keeps its thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPolicy:
    """As whom jobs run.

    Attributes:
        common: of all clients that are not in `of_clients`: an account, or the range in which each gets a user id of its own.
        of_clients: by their names; a text is the name of a user that was not there when the server began, and may be now.
    """

    common: Account | UidRange
    of_clients: Mapping[str, Account | str] = field(default_factory=dict)


def account_for(client: str, policy: AccountPolicy) -> Account | UidRange | str:
    """As whom a client's jobs are to run; a range stands for a user id in it that is this client's alone. Pure."""
    return policy.of_clients.get(client, policy.common)


class _Awaited(Enum):
    """What a new client waits for, as its operator and its client are told."""

    DISK = "its disk to answer"
    PROCESSES = "a look at its processes to end"
    DIRECTORY = "its directory of users to answer"


class _Waits:
    """How long one client has waited for what."""

    def __init__(self) -> None:
        self._seconds: defaultdict[_Awaited, float] = defaultdict(float)

    @contextmanager
    def on(self, awaited: _Awaited) -> Iterator[None]:
        """Counts the time of the block."""
        begun = trio.current_time()
        try:
            yield
        finally:
            self._seconds[awaited] += trio.current_time() - begun

    @property
    def longest(self) -> _Awaited:
        """What it has waited for longest."""
        return max(self._seconds, key=self._seconds.__getitem__)


@contextmanager
def _told(client: str) -> Iterator[_Waits]:
    """Gives the block LOOK_UP_SECONDS; what its errors mean to the client, and in the log to the operator."""
    waits = _Waits()
    try:
        with host_errors_translated(), trio.fail_after(LOOK_UP_SECONDS):
            yield waits
    except trio.TooSlowError:
        why = f"within {LOOK_UP_SECONDS:.0f} s: most of the time the host waited for {waits.longest.value}"
        logger.error("no user for jobs of %s %s", client, why)
        raise ServerBusy(f"the server found no user for this client's jobs {why}; try again later") from None
    except ConfigurationError as error:
        logger.error("no job of %s can be started: %s", client, error)
        raise NoUserForJobs(
            "the user that this client's jobs run as is not there on the server's host; its operator has to add it, or to "
            "name another"
        ) from error
    except BookDamaged as error:
        logger.error("no job of %s can be started: %s", client, error)
        raise NoUserForJobs(
            "the server cannot tell which user id this client's jobs have; its log tells its operator what to do"
        ) from error
    except RangeExhausted as error:
        logger.error("no job of %s can be started: %s; give the server a larger --uid-range", client, error)
        raise NoUserForJobs(
            "the server has no user id left for a further client's jobs; its operator has to give it a larger --uid-range"
        ) from error


class Accounts:
    """The account of each client's jobs.

    Attributes:
        policy: may be replaced; jobs that run go on as whom they are.
    """

    def __init__(self, policy: AccountPolicy, folder: Path) -> None:
        """Keeps the user ids that were given in a file in `folder`; blocks on nothing."""
        self.policy = policy
        self._book = UidBook(folder)
        self._reads: Batches[None, None] = Batches(lambda _: self._book.read())
        self._looks: Batches[None, IdsInUse] = Batches(lambda _: ids_in_use())
        self._writes: Batches[tuple[str, int], None] = Batches(self._write)
        self._directory = trio.CapacityLimiter(DIRECTORY_THREADS)
        self._directory_of_names = trio.CapacityLimiter(DIRECTORY_THREADS)

    async def of(self, client: str) -> Account:
        """The account of a client's jobs.

        Raises:
            NoUserForJobs: there is no user, or user id, for it.
            ServerBusy: the host did not answer in time.
            JobError, HostError: its disk failed.
        """
        chosen = account_for(client, self.policy)
        match chosen:
            case Account():
                return chosen
            case str():
                with _told(client) as waits, waits.on(_Awaited.DIRECTORY):
                    look = partial(look_up, chosen, f"clients.{client}.run_as")
                    return await run_in_thread(self._directory_of_names, look, abandon=True)
            case UidRange() as uids:
                number = self._book.known(client, uids)
                if number is None:
                    with _told(client) as waits:
                        number = await self._number_of(client, uids, waits)
                return account_of_client(client, number)
            case unreachable:
                assert_never(unreachable)

    async def _number_of(self, client: str, uids: UidRange, waits: _Waits) -> int:
        if not self._book.is_read:
            with waits.on(_Awaited.DISK):
                await self._reads.call()
        number = self._own(client, uids)
        if number is None:
            with waits.on(_Awaited.PROCESSES):
                in_use = await self._looks.call()
            number = await self._free_number(client, uids, in_use, waits)
        if number != self._book.known(client, uids):
            with waits.on(_Awaited.DISK):
                await self._writes.call((client, number))
        return number

    def _own(self, client: str, uids: UidRange) -> int | None:
        """The number that is the client's, or waits to be written as such."""
        waiting = (number for owner, number in self._writes.items if owner == client and number in uids)
        return next(waiting, self._book.known(client, uids))

    async def _free_number(self, client: str, uids: UidRange, in_use: IdsInUse, waits: _Waits) -> int:
        """A number that is nobody's when this returns; or the client's, where another Start of it was faster."""

        def is_in_use(number: int) -> bool:
            return number in in_use or has_name(number)

        while True:
            numbers, passed = self._book.search(client, uids), False
            while (number := await self._next_free(numbers, is_in_use, waits)) is not None:
                if (own := self._own(client, uids)) is not None:
                    return own
                if all(number != others for _, others in self._writes.items) and not self._book.has(number):
                    return number
                passed = True
            if (own := self._own(client, uids)) is not None:
                return own
            if not passed:
                raise RangeExhausted(
                    f"no user id of {uids} is free: each is a client's ({self._book.path}) or in use on this host"
                )
            with waits.on(_Awaited.DISK):
                await self._writes.call()  # what others have not been given is free again

    async def _next_free(self, numbers: Iterator[int], is_in_use: Callable[[int], bool], waits: _Waits) -> int | None:
        find = partial(self._book.next_free, numbers, is_in_use, seconds=LOOK_UP_SECONDS)
        with waits.on(_Awaited.DIRECTORY):
            return await run_in_thread(self._directory, find, abandon=True)

    def _write(self, given: Collection[tuple[str, int]]) -> None:
        self._book.add(given)
        for client, number in given:
            logger.info("jobs of %s run as user id %d", client, number)
