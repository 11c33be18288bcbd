"""All that a launcher knows, for the program that replaces it in the same process.

The children stay this process's children, descriptors keep their numbers, and the rest is a JSON object in a memfd. Like
the protocol it only grows: unknown fields are ignored, so that a newer program reads what an older one wrote.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jobmaster.launcher import protocol
from jobmaster.launcher.kept import Kept
from jobmaster.launcher.origin import Origin
from jobmaster.launcher.protocol import Phase, ProtocolError
from jobmaster.launcher.succession import Succession
from jobmaster.launcher.table import Entry, Outcome, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 256 * 1024 * 1024
_SUCCESSION: Final = (  # "grace" is younger
    *("has_begun", "is_stopping", "gap_since", "max_gap", "max_crashes", "crashes", "pause", "ready_since"),
)


class Snapshot(NamedTuple):
    """The parts of a launcher that outlive its program.

    Attributes:
        servers: how many it has started.
        told: what the service manager was told last.
    """

    origin: Origin
    table: Table
    kept: Kept
    succession: Succession
    servers: int
    told: str

    def find_cgroups(self) -> None:
        """Finds those of children that an older program was told of, which did not keep where they are."""
        unknown = [entry for entry in self.table if not entry.cgroup]
        found = self.kept.find_cgroups() if unknown else {}
        for entry in unknown:
            entry.cgroup = found.get(entry.id, "")

    def descriptors(self) -> Iterator[int]:
        """Every descriptor that goes with it."""
        for entry in self.table:
            yield from entry.descriptors
        yield from self.kept.descriptors


def encode(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot."""
    origin, kept = snapshot.origin, snapshot.kept
    document = {
        "origin": {"ignored": origin.heritage.ignored, "oom_score": origin.oom_score, "open_files": origin.open_files},
        "entries": [_entry_values(entry) for entry in snapshot.table],
        "kept": {"kill": kept.kill, "locks": kept.locks, "listeners": kept.listeners},
        "succession": {name: getattr(snapshot.succession, name) for name in (*_SUCCESSION, "grace")},
        "servers": snapshot.servers,
        "told": snapshot.told,
    }
    return json.dumps(document).encode("ascii")


def decode(data: bytes) -> Snapshot:
    """The snapshot of these bytes; no descriptor is touched.

    Raises:
        ProtocolError: they are none, or of a program that knows less than this one needs.
    """
    try:
        return _snapshot(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"no snapshot: {type(error).__name__}: {error}") from error


def _snapshot(document: Any) -> Snapshot:
    origin, kept, table = document["origin"], Kept(), Table()
    for values in document["entries"]:
        table.add(_entry(values))
    kept.kill, kept.locks = document["kept"]["kill"], dict(document["kept"]["locks"])
    kept.listeners = [(name, fd) for name, fd in document["kept"]["listeners"]]
    succession = Succession()
    for name in _SUCCESSION:
        setattr(succession, name, document["succession"][name])
    succession.grace = document["succession"].get("grace", succession.grace)
    soft, hard = origin["open_files"]
    return Snapshot(
        origin=Origin(tuple(origin["ignored"]), oom_score=origin["oom_score"], open_files=(soft, hard)),
        table=table,
        kept=kept,
        succession=succession,
        servers=document["servers"],
        told=document["told"],
    )


def _entry_values(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "pid": entry.pid,
        "start_time": entry.start_time,
        "pidfd": entry.pidfd,
        "output": entry.output,
        "keeps": entry.keeps,
        "cgroup": entry.cgroup,
        "errors": entry.errors,
        "outcome": (entry.outcome.phase.value, entry.outcome.stage, entry.outcome.errno),
        "wait_status": entry.wait_status,
        "died_at": entry.died_at,
        "is_released": entry.is_released,
        "order": None if entry.order is None else entry.order._asdict(),
    }


def _entry(values: Any) -> Entry:
    entry = Entry(
        id=values["id"],
        pid=values["pid"],
        pidfd=values["pidfd"],
        output=values["output"],
        errors=values["errors"],
        keeps=values.get("keeps"),
        cgroup=values.get("cgroup", ""),
    )
    phase, stage, number = values["outcome"]
    order = values["order"]
    entry.start_time = values["start_time"]
    entry.outcome = Outcome(phase=Phase(phase), stage=stage, errno=number)
    entry.wait_status = values["wait_status"]
    entry.died_at = values.get("died_at")
    entry.is_released = values["is_released"]
    entry.is_known = False
    entry.order = None if order is None else protocol.Order(**{name: order[name] for name in protocol.Order._fields})
    return entry


def write(data: bytes) -> int:
    """A memfd with these bytes.

    Raises:
        OSError: there is none.
    """
    fd = os.memfd_create("jobmaster-launcher", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> Snapshot:
    """The snapshot in a memfd.

    Raises:
        ProtocolError: there is none.
        OSError: it cannot be read.
    """
    size = os.fstat(fd).st_size
    if size > MAX_BYTES:
        raise ProtocolError(f"a snapshot of {size} bytes")
    return decode(os.pread(fd, size, 0))
