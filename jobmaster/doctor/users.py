"""The range of user ids for jobs: whether somebody has been given numbers of it in this host's own tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.host.user_ids import named_ids, subordinate_ids
from jobmaster.server.findings import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobmaster.host.uid_range import UidRange

_ETC: Final = Path("/etc")
_NAMES: Final = ("passwd", "group")
_SUBORDINATE: Final = ("subuid", "subgid")
_OTHER_RANGE: Final = "name a range that nobody has with --uid-range"


@dataclass(frozen=True, slots=True, kw_only=True)
class Takers:
    """Who has numbers of a range.

    Attributes:
        tables: the files that give some away, such as "/etc/subuid".
        taken: how many numbers that are.
    """

    tables: tuple[str, ...]
    taken: int


def look_at_takers(uids: UidRange, etc: Path = _ETC) -> Takers:
    """Looks at the files alone: a directory service may take as long as it likes, and a server asks it for each number.

    Raises:
        OSError: one that is there cannot be read.
    """
    given = {
        etc / name: list(_within(uids, ranges_of(table)))
        for names, ranges_of in ((_NAMES, _single), (_SUBORDINATE, subordinate_ids))
        for name in names
        if (table := _read_if_there(etc / name))
    }
    return Takers(
        tables=tuple(str(table) for table, ranges in given.items() if ranges),
        taken=_size(each for ranges in given.values() for each in ranges),
    )


def of_takers(uids: UidRange, takers: Takers) -> Finding:
    """Whether enough of the range is left; numbers that somebody has are given to no client."""
    topic = "user ids"
    if not takers.taken:
        text = f"{uids}, which no user, group or user namespace of this host's files has"
        return Finding(topic=topic, verdict=Verdict.OK, text=text)
    text = f"{takers.taken} of the {len(uids)} of {uids} are given away in {', '.join(takers.tables)}"
    if takers.taken >= len(uids):
        return Finding(topic=topic, verdict=Verdict.MISSING, text=text, remedy=_OTHER_RANGE)
    return Finding(topic=topic, verdict=Verdict.WARNING, text=f"{text}; clients get none of those", remedy=_OTHER_RANGE)


def _single(table: bytes) -> Iterator[range]:
    return (range(number, number + 1) for number in named_ids(table))


def _within(uids: UidRange, ranges: Iterable[range]) -> Iterator[range]:
    for each in ranges:
        part = range(max(each.start, uids.first), min(each.stop, uids.last + 1))
        if part:
            yield part


def _size(ranges: Iterable[range]) -> int:
    """How many numbers are in them, each counted once."""
    size = end = 0
    for each in sorted(ranges, key=lambda part: part.start):
        size += max(0, each.stop - max(each.start, end))
        end = max(end, each.stop)
    return size


def _read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
