"""How many jobs there may be, of one client and of all together, and how much of the disk their outputs may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ServerBusy
from jobmaster.journal.stored import Retention
from jobmaster.run.quotas import NO_QUOTA, Quota
from jobmaster.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

SLACK: Final = 64 * 1024 * 1024
"""Bytes of room, at most (a 64th of a small bound), that there have to be before outputs grow again that might not: what
comes for a moment is no room."""
_RESERVE_OF_MOST: Final = 8
"""So large a share of what all outputs may take is for those who take little, where it is taken by others' running jobs. Of a
disk it is half of what is free then."""
_AGAIN: Final = "try again when one has ended"
_SHARES: Final = 4
"""A client may have one of so many shares of each bound, so that none takes another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system of the outputs.

    Attributes:
        size: bytes.
        free: bytes that any user may have, as df(1) tells them.
    """

    size: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSpace:
    """How much of a file system is to be left free: the less of the two, where both are given.

    Attributes:
        size: bytes.
        percent: of the file system.
    """

    size: int | None = None
    percent: int | None = None

    def floor(self, disk: Disk) -> int:
        """In bytes."""
        given = [self.size, None if self.percent is None else disk.size * self.percent // 100]
        return min((each for each in given if each is not None), default=0)

    def text(self, disk: Disk) -> str:
        """The same for people."""
        floor = self.floor(disk)
        return size_text(floor) if self.percent is None or floor == self.size else f"{self.percent} %"


NOTHING_FREE: Final = FreeSpace()
"""A disk may be filled."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """How much too much outputs take.

    Attributes:
        excess: bytes of the disk; negative where there is room.
        slack: how much room there is to be before what was full is not.
        reserve: by how much more others may grow, where those who take most do not any more.
        reason: which bound is reached, for clients.
        is_of_disk: it is the disk that has less free than it has to.
    """

    excess: int
    slack: int
    reserve: int
    reason: str
    is_of_disk: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputBounds:
    """How much of the disk the outputs of all jobs may take.

    Attributes:
        most: bytes, of all outputs together; None: as much as there is.
        free: what they leave free.
    """

    most: int | None = None
    free: FreeSpace = FreeSpace()

    @property
    def are_any(self) -> bool:
        """Whether anything is bounded."""
        return self.most is not None or self.free != FreeSpace()

    def shortage(self, used: int, disk: Disk) -> Shortage | None:
        """By the bound that is exceeded by most, or that has least room; None where there is none."""
        found = []
        if self.most is not None:
            reason = f"the outputs of all jobs take as much as they may ({size_text(self.most)})"
            found.append(Shortage(used - self.most, _slack(self.most), self.most // _RESERVE_OF_MOST, reason))
        if (floor := self.free.floor(disk)) > 0:
            reason = f"the disk of the outputs has as little free as it may ({self.free.text(disk)})"
            found.append(Shortage(floor - disk.free, _slack(floor), disk.free // 2, reason, is_of_disk=True))
        return max(found, key=lambda each: each.excess + each.slack, default=None)


def _slack(bound: int) -> int:
    return min(SLACK, bound // 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many jobs there may be.

    Attributes:
        running: jobs that have not ended, those that are being started and those that have left something included.
        ended: ended ones whose record and output are kept; of the client that has most, the oldest is forgotten first.
        age: how long after its end a job is kept; None: until others take its place.
        output: how much of the disk outputs may take.
        quotas: of clients that have one of their own.
    """

    running: int = 1_000
    ended: int = 10_000
    age: timedelta | None = None
    output: OutputBounds = OutputBounds()
    quotas: Mapping[str, Quota] = field(default_factory=dict)

    @property
    def running_of_client(self) -> int:
        """Of `running`, those of one client that has no quota."""
        return max(1, self.running // _SHARES)

    def running_of(self, owner: str) -> int:
        """Of `running`, those that `owner` may have."""
        own = self.quotas.get(owner, NO_QUOTA).running
        return self.running_of_client if own is None else min(own, self.running)

    @property
    def ended_of_client(self) -> int:
        """Of `ended`, those of one client."""
        return max(1, self.ended // _SHARES)

    @property
    def retention(self) -> Retention:
        """What is kept of the ended ones."""
        return Retention(ended=self.ended, ended_of_client=self.ended_of_client, age=self.age)

    def admit(self, owner: str, *, running: int, of_owner: int, left: int = 0, left_of_owner: int = 0) -> None:
        """Returns where `owner` may start one more job.

        Args:
            owner: a client.
            running: how many jobs there are that have not ended.
            of_owner: how many of them are its own.
            left: how many have ended and left a process or a thread that is stuck.
            left_of_owner: how many of them are its own.

        Raises:
            ServerBusy: there are as many as may be.
        """
        if running + left >= self.running:
            raise ServerBusy(
                f"the server runs {_number(min(running, self.running), left)}, as many as it may; {_AGAIN}"
            )
        if of_owner + left_of_owner >= (most := self.running_of(owner)):
            whose = "one client" if most == self.running_of_client else "this client"
            raise ServerBusy(
                f"{owner} runs {_number(of_owner, left_of_owner)}, as many as {whose} may ({most}); {_AGAIN}"
            )


def _number(running: int, left: int) -> str:
    """How many jobs, for clients."""
    stuck = f" and has {left} that ended and left a stuck process or thread" if left else ""
    return f"{running} jobs{stuck}"


DEFAULT_BOUNDS: Final = Bounds()
