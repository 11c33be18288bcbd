"""How many jobs there may be, of one client and of all together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from jobmaster.errors import ServerBusy
from jobmaster.journal.stored import Retention

_SHARES: Final = 4
"""A client may have one of so many shares of each bound, so that none takes another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many jobs there may be.

    Attributes:
        running: jobs that have not ended, those that are being started and the leftovers of stuck ones included.
        ended: ended ones whose record and output are kept; of the client that has most, the oldest is forgotten first.
        age: how long after its end a job is kept; None: until others take its place.
    """

    running: int = 1_000
    ended: int = 10_000
    age: timedelta | None = None

    @property
    def running_of_client(self) -> int:
        """Of `running`, those of one client."""
        return max(1, self.running // _SHARES)

    @property
    def ended_of_client(self) -> int:
        """Of `ended`, those of one client."""
        return max(1, self.ended // _SHARES)

    @property
    def retention(self) -> Retention:
        """What is kept of the ended ones."""
        return Retention(ended=self.ended, ended_of_client=self.ended_of_client, age=self.age)

    def admit(self, owner: str, *, running: int, of_owner: int) -> None:
        """Returns where `owner` may start one more job.

        Args:
            owner: a client.
            running: how many jobs there are, counted as in the attribute.
            of_owner: how many of them are its own.

        Raises:
            ServerBusy: there are as many as may be.
        """
        if running >= self.running:
            raise ServerBusy(f"the server runs {self.running} jobs, as many as it may; try again when one has ended")
        if of_owner >= self.running_of_client:
            raise ServerBusy(f"{owner} runs {of_owner} jobs, as many as one client may; try again when one has ended")


DEFAULT_BOUNDS: Final = Bounds()
