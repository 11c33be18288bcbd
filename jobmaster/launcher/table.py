"""What the launcher knows of its children, from the fork to the server's `ack`. Pure: descriptors are numbers here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher import protocol
from jobmaster.launcher.protocol import Executed, Exited, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Outcome(NamedTuple):
    """How far a child got; `stage` and `errno` belong to FAILED."""

    phase: Phase
    stage: str = ""
    errno: int = 0


HELD: Final = Outcome(phase=Phase.HELD)


class Entry:
    """One child. It is the table's until it is dropped; its descriptors are closed by whoever drops it.

    Attributes:
        start_time: field 22 of /proc/PID/stat.
        output: read end of the output pipe, for a server that takes over.
        keeps: other descriptors for that server, by name.
        cgroup: path of its cgroup's folder; empty where that is not known.
        died_at: nanoseconds of CLOCK_BOOTTIME, which goes on over a new program of the launcher; None while the child lives,
            and where an older program has seen it die.
        closed_pipes: st_ino of what was closed here of `keeps`, which a server may still be about to close.
        errors: read end of the error pipe, None once the outcome is known.
        wait_status: as of wait(2), or `UNKNOWN_STATUS`; None while the child lives.
        is_blamed: it was ended for what it does to the server.
        is_released: a server asks for nothing more, so the entry goes when the child has died.
        is_known: the server that there is now has started it, or was told of it.
        order: the first that a server has given for it, or the last one to kill.
    """

    __slots__ = (
        *(
            "cgroup",
            "closed_pipes",
            "died_at",
            "errors",
            "id",
            "is_blamed",
            "is_known",
            "is_released",
            "keeps",
            "order",
            "outcome",
        ),
        *("output", "pid", "pidfd", "start_time", "wait_status"),
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002  # its name
        pid: int,
        pidfd: int,
        output: int,
        errors: int | None,
        keeps: Mapping[str, int] | None = None,
        cgroup: str = "",
    ) -> None:
        self.id = id
        self.pid = pid
        self.start_time = 0
        self.pidfd = pidfd
        self.output = output
        self.keeps = dict(keeps or {})
        self.cgroup = cgroup
        self.closed_pipes: tuple[int, ...] = ()
        self.is_blamed = False
        self.errors = errors
        self.outcome = HELD
        self.wait_status: int | None = None
        self.died_at: int | None = None
        self.is_released = False
        self.is_known = True
        self.order: protocol.Order | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that is open for this child."""
        return (self.pidfd, self.output, *self.keeps.values(), *(() if self.errors is None else (self.errors,)))

    def row(self, version: int) -> tuple[protocol.Table, tuple[int, ...]]:
        """What a new server of this version is told, and the descriptors that go with it."""
        outcome, keeps = self.outcome, self.keeps if version >= protocol.KEEPS_VERSION else {}
        message = protocol.Table(
            id=self.id,
            pid=self.pid,
            start_time=self.start_time,
            phase=outcome.phase,
            wait_status=self.wait_status,
            stage=outcome.stage,
            errno=outcome.errno,
            keeps=tuple(keeps),
            died_at=self.died_at,
        )
        return message, (self.output, *(() if self.wait_status is not None else (self.pidfd,)), *keeps.values())


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

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._by_id.values()))

    def add(self, entry: Entry) -> None:
        """Takes the entry of a child."""
        self._by_id[entry.id] = entry
        if entry.wait_status is None:
            self._living[entry.pid] = entry

    def living(self) -> Iterator[Entry]:
        """The entries without a status."""
        return iter(tuple(self._living.values()))

    def by_pid(self, pid: int) -> Entry | None:
        """The entry of a living child."""
        return self._living.get(pid)

    def forget_server(self) -> None:
        """Notes that there is another server, which knows of no child."""
        for entry in self._by_id.values():
            entry.is_known = False

    def rows(
        self, version: int = protocol.VERSION
    ) -> Iterator[tuple[protocol.Table | protocol.Order, tuple[int, ...]]]:
        """What a new server of this version is told of the children that are not released, each as it is in its turn."""
        for entry in tuple(self._by_id.values()):
            if entry.is_known or entry.is_released:
                continue
            entry.is_known = True
            yield entry.row(version)
            if entry.order is not None:
                yield entry.order, ()

    def order(self, order: protocol.Order) -> None:
        """Keeps an order with its child, if it is the first or one to kill."""
        entry = self._by_id.get(order.id)
        if entry is not None and (entry.order is None or order.kind == protocol.KILL):
            entry.order = order

    def order_by_launcher(self, entry: Entry, at: str, reason: str) -> None:
        """Notes that the launcher kills a child that lives; what somebody had ordered before stays the cause."""
        if entry.order is None:
            entry.order = protocol.Order(id=entry.id, kind=protocol.KILL, at=at, by="", reason=reason)
        else:
            entry.order = entry.order._replace(kind=protocol.KILL)

    def find(self, entry_id: str) -> Entry | None:
        """The entry of this id."""
        return self._by_id.get(entry_id)

    def take_kept(self, entry_id: str, names: tuple[str, ...]) -> tuple[int, ...]:
        """The descriptors of these names that are kept for a child: they are the caller's, to be closed."""
        entry = self._by_id.get(entry_id)
        if entry is None:
            return ()
        return tuple(entry.keeps.pop(name) for name in names if name in entry.keeps)

    def settle(self, entry: Entry, outcome: Outcome) -> Executed | None:
        """Notes an outcome; returns what is to be told to the server at once."""
        entry.outcome = outcome
        is_told = outcome.phase is Phase.EXECUTED and entry.is_known and not entry.is_released
        return Executed(id=entry.id) if is_told else None

    def died(self, entry: Entry, wait_status: int) -> Exited | None:
        """Notes a death, and drops an entry that is released; returns what is to be told to the server."""
        entry.wait_status = wait_status
        self._living.pop(entry.pid, None)
        if entry.is_released:
            self._by_id.pop(entry.id, None)
            return None
        if not entry.is_known:
            return None
        outcome = entry.outcome
        return Exited(
            id=entry.id,
            wait_status=wait_status,
            phase=outcome.phase,
            stage=outcome.stage,
            errno=outcome.errno,
            died_at=entry.died_at,
        )

    def release(self, entry_id: str) -> Entry | None:
        """Notes an `ack`; returns the entry. It was dropped if it has a status, else its child is to be killed."""
        entry = self._by_id.get(entry_id)
        if entry is not None:
            entry.is_released = True
            if entry.wait_status is not None:
                del self._by_id[entry_id]
        return entry
