"""What the launcher knows of its children, from the fork to the server's `ack`. Pure: descriptors are numbers here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher.protocol import Executed, Exited, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator


class Outcome(NamedTuple):
    """How far a child got; `stage` and `errno` belong to FAILED."""

    phase: Phase
    stage: str = ""
    errno: int = 0


HELD: Final = Outcome(phase=Phase.HELD)


class Entry:
    """One child. It is the table's until it is dropped; its descriptors are closed by whoever drops it.

    Attributes:
        output: read end of the output pipe, for a server that takes over.
        errors: read end of the error pipe, None once the outcome is known.
        wait_status: as of wait(2), None while the child lives.
        is_released: the server asks for nothing more, so the entry goes when the child has died.
    """

    __slots__ = ("errors", "id", "is_released", "outcome", "output", "pid", "pidfd", "wait_status")

    def __init__(self, *, id: str, pid: int, pidfd: int, output: int, errors: int) -> None:  # noqa: A002  # its name
        self.id = id
        self.pid = pid
        self.pidfd = pidfd
        self.output = output
        self.errors: int | None = errors
        self.outcome = HELD
        self.wait_status: int | None = None
        self.is_released = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that is open for this child."""
        return (self.pidfd, self.output, *(() if self.errors is None else (self.errors,)))


class Table:
    """The entries by id, and those of living children by pid as well.

    A pid that was reaped can be used by the kernel again, so an entry with a status has none here.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Entry] = {}
        self._living: dict[int, Entry] = {}

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, entry: Entry) -> None:
        """Takes the entry of a child that was just forked."""
        self._by_id[entry.id] = entry
        self._living[entry.pid] = entry

    def living(self) -> Iterator[Entry]:
        """The entries without a status."""
        return iter(tuple(self._living.values()))

    def by_pid(self, pid: int) -> Entry | None:
        """The entry of a living child."""
        return self._living.get(pid)

    def settle(self, entry: Entry, outcome: Outcome) -> Executed | None:
        """Notes an outcome; returns what is to be told to the server at once."""
        entry.outcome = outcome
        return Executed(id=entry.id) if outcome.phase is Phase.EXECUTED and not entry.is_released else None

    def died(self, entry: Entry, wait_status: int) -> Exited | None:
        """Notes a death; returns what is to be told to the server, None when the entry was dropped."""
        entry.wait_status = wait_status
        self._living.pop(entry.pid, None)
        if entry.is_released:
            self._by_id.pop(entry.id, None)
            return None
        outcome = entry.outcome
        return Exited(
            id=entry.id, wait_status=wait_status, phase=outcome.phase, stage=outcome.stage, errno=outcome.errno
        )

    def release(self, entry_id: str) -> Entry | None:
        """Notes an `ack`; returns the entry. It was dropped if it has a status, else its child is to be killed."""
        entry = self._by_id.get(entry_id)
        if entry is not None:
            entry.is_released = True
            if entry.wait_status is not None:
                del self._by_id[entry_id]
        return entry
