"""Which user and group ids this host uses: in its tables of users, of subordinate ids, and in processes.

All of it may block. A table of users may be a directory service's, which answers when it does (nsswitch.conf(5)).
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobmaster.host.uid_range import UidRange

_PROC: Final = Path("/proc")
_ETC: Final = Path("/etc")
_PIECE: Final = 8192
_ID_LINES: Final = (b"Uid:", b"Gid:", b"Groups:")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdsInUse:
    """What was in use at one moment.

    Attributes:
        of_processes: user and group ids of every process, supplementary groups too.
        subordinate: what user namespaces may be given (subuid(5), subgid(5)).
    """

    of_processes: frozenset[int]
    subordinate: Sequence[range]

    def __contains__(self, number: int) -> bool:
        return number in self.of_processes or any(number in each for each in self.subordinate)


def ids_in_use(*, proc: Path = _PROC, etc: Path = _ETC) -> IdsInUse:
    """Looks at every process and at the tables of subordinate ids; those of a directory service are not among them.

    Raises:
        OSError: a table that is there cannot be read.
    """
    return IdsInUse(
        of_processes=frozenset(number for folder in _processes(proc) for number in _ids_of(f"{folder}/status")),
        subordinate=[each for name in ("subuid", "subgid") for each in subordinate_ids(_read_if_there(etc / name))],
    )


def has_name(number: int) -> bool:
    """Whether a user or a group of this host has the number; waits for the directory service, where there is one."""
    for look_up in (pwd.getpwuid, grp.getgrgid):
        try:
            look_up(number)
        except KeyError:
            continue
        return True
    return False


def named_ids(table: bytes) -> list[int]:
    """The user or group ids of a table as /etc/passwd and /etc/group are, whose third field is the number."""
    rows = (line.split(b":") for line in table.splitlines())
    return [int(fields[2]) for fields in rows if len(fields) > 2 and fields[2].isdigit()]


def subordinate_ids(table: bytes) -> list[range]:
    """The ranges of such a table, whose lines are `user:first:count`; the kernel's tools pass over other lines too."""
    ranges = []
    for line in table.splitlines():
        fields = line.split(b":")
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            ranges.append(range(int(fields[1]), int(fields[1]) + int(fields[2])))
    return ranges


def are_mapped(uids: UidRange, *, proc: Path = _PROC) -> bool:
    """Whether this process can give all of the range to a child: in a user namespace only some ids are there.

    Raises:
        OSError: that cannot be read.
    """
    return all(_covers((proc / "self" / name).read_text(), uids) for name in ("uid_map", "gid_map"))


def _covers(id_map: str, uids: UidRange) -> bool:
    """By the lines of /proc/PID/uid_map: the first id inside, the first one outside, how many (user_namespaces(7))."""
    missing = uids.first
    for first, count in sorted((int(line.split()[0]), int(line.split()[2])) for line in id_map.splitlines()):
        if first <= missing < first + count:
            missing = first + count
    return missing > uids.last


def _processes(proc: Path) -> Iterator[str]:
    with os.scandir(proc) as entries:
        yield from (entry.path for entry in entries if entry.name.isdigit())


def _ids_of(status: str) -> Iterator[int]:
    """By three system calls: a busy event loop delays the thread at each, which gives up the interpreter's lock for it."""
    try:
        fd = os.open(status, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it has gone meanwhile
        return
    try:
        text = _until_groups(fd)
    except OSError:  # likewise
        return
    finally:
        os.close(fd)
    for line in text.splitlines():
        if line.startswith(_ID_LINES):
            yield from map(int, line.split()[1:])


def _until_groups(fd: int) -> bytes:
    """The file up to the last of the lines that are looked for; a process may have 65,536 groups, most have none or few."""
    text = b""
    while b"\n" not in text.partition(b"\nGroups:")[2]:
        piece = os.read(fd, _PIECE)
        if not piece:
            break
        text += piece
    return text


def _read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
