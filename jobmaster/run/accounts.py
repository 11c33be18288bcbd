"""As whom a client's jobs run: an account of the host, or a user id that is this client's alone.

What a client has once is told from memory, into which the first Start reads it from the disk. A client that is new needs the
host's tables of users, which may be a directory service's that does not answer: for that there is a thread of its own, which
nobody else waits for, and a deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import NoUserForJobs, ServerBusy
from jobmaster.host.account import Account, account_of_client
from jobmaster.host.uid_range import UidRange
from jobmaster.host.user_ids import has_name, ids_in_use
from jobmaster.run.start_errors import host_errors_translated
from jobmaster.run.uid_book import BookDamaged, RangeExhausted, UidBook
from jobmaster.threads import run_in_thread

logger = logging.getLogger(__name__)

LOOK_UP_SECONDS: Final = 10.0
"""How long a client's first Start waits for a user id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPolicy:
    """As whom jobs run.

    Attributes:
        common: of all clients that are not in `of_clients`: an account, or the range in which each gets a user id of its own.
        of_clients: by their names.
    """

    common: Account | UidRange
    of_clients: Mapping[str, Account] = field(default_factory=dict)


def account_for(client: str, policy: AccountPolicy) -> Account | UidRange:
    """As whom a client's jobs are to run; a range stands for a user id in it that is this client's alone. Pure."""
    return policy.of_clients.get(client, policy.common)


class Accounts:
    """The account of each client's jobs.

    Attributes:
        policy: may be replaced; jobs that run go on as whom they are.
    """

    def __init__(self, policy: AccountPolicy, folder: Path) -> None:
        """Keeps the user ids that were given in a file in `folder`; blocks on nothing."""
        self.policy = policy
        self._book = UidBook(folder)
        # The book is for one thread; one that is left has its place until it comes out.
        self._readers, self._lookers = trio.CapacityLimiter(1), trio.CapacityLimiter(1)

    async def of(self, client: str) -> Account:
        """The account of a client's jobs.

        Raises:
            NoUserForJobs: there is no user id for it.
            ServerBusy: the host did not answer in time.
            JobError, HostError: its disk failed.
        """
        chosen = account_for(client, self.policy)
        if isinstance(chosen, Account):
            return chosen
        number = self._book.known(client, chosen)
        if number is None:
            number = await self._looked_up(client, chosen)
        return account_of_client(client, number)

    async def _looked_up(self, client: str, uids: UidRange) -> int:
        try:
            with host_errors_translated(), trio.fail_after(LOOK_UP_SECONDS):
                await run_in_thread(self._readers, self._book.read, abandon=True)
                number = self._book.known(
                    client, uids
                )  # who has one does not wait for a directory that others wait for
                if number is None:
                    number = await run_in_thread(self._lookers, self._number_of, client, uids, abandon=True)
                return number
        except trio.TooSlowError:
            logger.error(
                "no user id for jobs of %s within %.0f s: does the host's directory of users answer?",
                client,
                LOOK_UP_SECONDS,
            )
            raise ServerBusy(
                f"the server's host did not tell within {LOOK_UP_SECONDS:.0f} s which user id is free for this client's jobs "
                "(does its directory of users answer?); try again later"
            ) from None
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

    def _number_of(self, client: str, uids: UidRange) -> int:
        number = self._book.number_of(client, uids, _look_at_host, seconds=LOOK_UP_SECONDS)
        logger.info("jobs of %s run as user id %d", client, number)
        return number


def _look_at_host() -> Callable[[int], bool]:
    """Tells whether a number is in use on this host; asks the directory of users last."""
    in_use = ids_in_use()
    return lambda number: number in in_use or has_name(number)
