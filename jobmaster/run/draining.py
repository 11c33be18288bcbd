"""Whether new jobs are taken: an admin may say no, with a note for the clients, for a time or until it says yes again.

What was said holds at once, and for every server after this one: it is in a file of the output folder. It is known of by
name, who and why, and where the file cannot be read as such, no job is taken until an admin says so: that is what was asked
for, perhaps.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import InvalidRequest, NotRemembered, StartsRefused
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

FILE: Final = "drain.json"
MOST_NOTE: Final = 200
"""Characters of a note."""
MOST_MS: Final = 366 * 24 * 60 * 60 * 1000
"""Milliseconds: a year."""
WRITE_SECONDS: Final = 5.0
"""How long the disk may take."""
_VERSION: Final = 1
_MOST_BYTES: Final = 16 * 1024
_DAMAGED: Final = "the server cannot read what an admin has said of new jobs; an admin may have it take jobs by undrain"
_WRITER: Final = trio.CapacityLimiter(1)
"""The thread that writes: what was said last is what is written last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """No new jobs are taken.

    Attributes:
        note: for clients.
        by: which admin said so; empty where that is not known.
        at: when.
        until: when it ends by itself, by the clock on the wall; None: never.

    Raises:
        InvalidRequest: the note is too long, or has what a terminal obeys.
    """

    note: str
    by: str
    at: datetime
    until: datetime | None = None

    def __post_init__(self) -> None:
        if len(self.note) > MOST_NOTE or not (self.note.isprintable() or not self.note):
            raise InvalidRequest(f"a note is one line of {MOST_NOTE} printable characters at most", field="note")

    @classmethod
    def asked(cls, note: str, by: str, timeout_ms: int) -> Drain:
        """As an admin asks for it now; a time of 0: until it is ended.

        Raises:
            InvalidRequest: it can't be.
        """
        if timeout_ms > MOST_MS:
            raise InvalidRequest(f"timeout_ms is {MOST_MS} at most, which is a year", field="timeout_ms")
        now = datetime.now(UTC)
        return cls(note=note, by=by, at=now, until=now + timedelta(milliseconds=timeout_ms) if timeout_ms else None)

    def is_over(self, now: datetime) -> bool:
        """Whether its time is."""
        return self.until is not None and now >= self.until


class Draining:
    """What holds now."""

    def __init__(self, folder: Path) -> None:
        """Reads the file in the folder; for the server's start, when nobody is served yet."""
        self._path = folder / FILE
        self._drain = _read(self._path)
        if self._drain is not None and not self._drain.is_over(datetime.now(UTC)):
            logger.warning("no new jobs are taken: %s", _told(self._drain))

    @property
    def now(self) -> Drain | None:
        """None where jobs are taken."""
        if self._drain is not None and self._drain.is_over(datetime.now(UTC)):
            logger.warning("new jobs are taken again: the time of the drain is over")
            self._drain = None  # whoever reads the file finds the same
        return self._drain

    def require_none(self) -> None:
        """Returns where jobs are taken.

        Raises:
            StartsRefused: they are not; has the note.
        """
        drain = self.now
        if drain is None:
            return
        until = f" until {drain.until:%Y-%m-%d %H:%M:%S} UTC" if drain.until is not None else ""
        raise StartsRefused(f"the server takes no new jobs{until}{f': {drain.note}' if drain.note else ''}")

    async def say(self, drain: Drain | None, by: str) -> None:
        """Has that hold from now on; returns when it is durable.

        Raises:
            NotRemembered: it holds, and a server that follows may not know of it.
        """
        self._drain = drain
        if drain is None:
            logger.warning("new jobs are taken again, as %s asked", by)
        else:
            logger.warning("no new jobs are taken: %s", _told(drain))
        try:
            with trio.fail_after(WRITE_SECONDS):
                await run_in_thread(_WRITER, _write, self._path, drain, abandon=True)
        except (OSError, NoThread, trio.TooSlowError) as error:
            logger.error("%s cannot be written, and the next server would not know: %s", self._path, error)
            raise NotRemembered(
                "it holds from now on, but the server's disk does not take it: a server that follows may not know of it; ask again"
            ) from error


def _told(drain: Drain) -> str:
    until = f", until {drain.until.isoformat()}" if drain.until is not None else ""
    return f"as {drain.by or 'somebody'} asked{until}: {drain.note or 'no note'}"


def _read(path: Path) -> Drain | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _unknown(path, error)
    try:
        return _decoded(json.loads(os.read(fd, _MOST_BYTES)))
    except (
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
        RecursionError,
        InvalidRequest,
    ) as error:
        return _unknown(path, error)
    finally:
        os.close(fd)


def _unknown(path: Path, error: Exception) -> Drain:
    logger.error(
        "%s does not tell whether jobs are to be taken (%s): none are, until an admin says undrain", path, error
    )
    return Drain(note=_DAMAGED, by="", at=datetime.now(UTC))


def _decoded(document: dict[str, object]) -> Drain | None:
    if document["version"] != _VERSION:
        raise ValueError("its version is not known")
    if not document["drains"]:
        return None
    note, by, at, until = (document[name] for name in ("note", "by", "at", "until"))
    return Drain(note=str(note), by=str(by), at=_moment(at), until=None if until is None else _moment(until))


def _moment(text: object) -> datetime:
    return datetime.fromisoformat(str(text)).astimezone(UTC)


def _write(path: Path, drain: Drain | None) -> None:
    """Replaces the file; it is on the disk with this name when this returns, or it is as it was."""
    document: dict[str, object] = {"version": _VERSION, "drains": drain is not None}
    if drain is not None:
        until = None if drain.until is None else drain.until.isoformat()
        document |= {"note": drain.note, "by": drain.by, "at": drain.at.isoformat(), "until": until}
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(document).encode() + b"\n")
        file.flush()
        os.fsync(fd)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
